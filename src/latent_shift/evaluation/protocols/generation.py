"""The clips of a list of prompts: made batch by batch, kept, and never made twice.

Batches are the same whoever makes them: `part` of `parts` takes every parts-th, so that processes or machines
with one folder share the work, and a stopped one goes on. A clip depends on its own prompt and seed; which
batch it is in can change its last bits on some devices, which is why batches are fixed.

Shapes: B videos, F frames, H, W pixels, uint8 (B, F, H, W, 3).
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from latent_shift.evaluation.clip_maker import ClipMaker
from latent_shift.evaluation.protocols.prompts import Prompt, PromptList
from latent_shift.evaluation.shards import ClipStore

Clips = NDArray[np.uint8]


@dataclass(frozen=True)
class Part:
    """Which share of the batches: number 0 to of - 1."""

    number: int = 0
    of: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.number < self.of:
            raise ValueError(f"part {self.number + 1} of {self.of}: give 1/{self.of} to {self.of}/{self.of}")


def read_part(text: str) -> Part:
    """A part written as 2/8: the second of eight. Raises ValueError for anything else."""
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if found is None or int(found[2]) < 1:
        raise ValueError(f"part {text!r}: expected NUMBER/OF, such as 2/8")
    return Part(int(found[1]) - 1, int(found[2]))


def batches(prompts: PromptList, batch: int) -> list[tuple[str, tuple[Prompt, ...]]]:
    """The list in batches, each with its name. Raises ValueError for a batch of none."""
    if batch < 1:
        raise ValueError(f"batch is {batch}; give at least 1")
    return [
        (f"{start:06d}-{start + len(some) - 1:06d}", some)
        for start in range(0, len(prompts.prompts), batch)
        for some in [prompts.prompts[start : start + batch]]
    ]


def make_batch(
    name: str, some: Sequence[Prompt], frames: int, maker: ClipMaker, store: ClipStore
) -> tuple[Clips, float]:
    """The clips of one batch and the seconds they took: as kept, else made now and kept."""

    def make() -> tuple[Clips, float]:
        began = time.perf_counter()
        clips = maker.sample([one.text for one in some], [one.seed for one in some], frames)
        return clips, time.perf_counter() - began

    return store.batch(name, make)


def generate(
    prompts: PromptList,
    maker: ClipMaker,
    store: ClipStore,
    *,
    frames: int,
    batch: int,
    part: Part = Part(),  # frozen
    show_done: Callable[[int], None] = lambda done: None,
) -> int:
    """Make what is missing of a part of the list, and return how many clips it has."""
    done = 0
    for name, some in batches(prompts, batch)[part.number :: part.of]:
        make_batch(name, some, frames, maker, store)
        done += len(some)
        show_done(done)
    return done


def made_clips(
    prompts: PromptList, maker: ClipMaker, store: ClipStore, *, frames: int, batch: int
) -> Iterator[tuple[Sequence[Prompt], Clips, float]]:
    """The whole list: each batch's prompts, clips and seconds, made where they are not kept."""
    for name, some in batches(prompts, batch):
        clips, seconds = make_batch(name, some, frames, maker, store)
        yield some, clips, seconds
