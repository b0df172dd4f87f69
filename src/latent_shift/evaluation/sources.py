"""Sources of clips to evaluate: a folder, a model with a prompt set, a model's reconstruction of another.

Every source yields its clips batch by batch with their names and captions; the runner knows nothing else of
it. Another source is a subclass of `ClipSource` with `__len__` and `batches`.

Shapes: B videos, F frames, H, W pixels, uint8 (B, F, H, W, 3).
"""

from __future__ import annotations

import re
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latent_shift.evaluation.clip_files import (
    ClipReadOptions,
    TooShortError,
    choose_clips,
    read_batches,
    scan_folder,
)
from latent_shift.evaluation.evaluated_model import EvaluatedModel
from latent_shift.evaluation.prompt_sets import Prompt, PromptSet
from latent_shift.hashes import files_hash
from latent_shift.io import printable

Clips = NDArray[np.uint8]
BATCH_SIZE = 8
MAX_REMARKS = 5  # on clips of a folder, in a report
_SAME_SHAPE = 0.01  # sides of a shape are rounded to pixels
DEFAULT_FPS = 8.0  # at which clips without a rate of their own are shown


@dataclass(frozen=True)
class ClipBatch:
    """Some clips of a source, (B, F, H, W, 3) of one size.

    names: one a clip, unique in the source. captions: None for a clip without. origins: of each clip that
    from which it was made, known to the source and to metrics that belong to it: a prompt, a scene. subset:
    of the source, where it has parts. notes: a line about each clip for the report's page. seconds: spent
    generating the batch.
    """

    names: Sequence[str]
    clips: Clips
    captions: Sequence[str | None]
    origins: Sequence[Any] = ()
    subset: str = ""
    notes: Sequence[str] = ()
    seconds: float = 0.0


class ClipSource(ABC):
    """Clips under one name: a row of the report, or its reference.

    read: how the clips are read, recorded with every metric; generated clips have its frames and rate.
    settings: of the row, such as model and steps. metric_settings: on which every figure of these clips
    depends, such as the prompt set: figures of other settings stand in another column. stamp: a hash over
    the clips where they are files, so that saved features of them can be used again. fps: frames a second at
    which the report's page shows the clips.
    """

    def __init__(
        self,
        name: str,
        read: ClipReadOptions,
        *,
        settings: dict[str, Any] | None = None,
        metric_settings: dict[str, Any] | None = None,
        fps: float | None = None,
    ) -> None:
        self.name, self.read, self.fps = name, read, fps or read.fps or DEFAULT_FPS
        self.settings, self.metric_settings = settings or {}, metric_settings or {}
        self.stamp = ""

    @property
    def notes(self) -> list[str]:
        """Sentences for the report, complete when all clips are read."""
        return []

    @abstractmethod
    def __len__(self) -> int:
        """Number of clips."""

    @abstractmethod
    def batches(self) -> Iterator[ClipBatch]:
        """Yield all clips; the same ones in the same order and batches in every run."""


class FolderClips(ClipSource):
    """The clips of a folder and of the folders below, with the captions in .txt files beside them.

    count: clips drawn by `seed`; None for all. allow_unreadable, allow_short: leave such files out, and say
    so in the notes, instead of raising ValueError (see `scan_folder`).
    """

    def __init__(
        self,
        folder: Path,
        read: ClipReadOptions,
        *,
        count: int | None = None,
        seed: int = 0,
        batch_size: int = BATCH_SIZE,
        allow_unreadable: bool = False,
        allow_short: bool = False,
    ) -> None:
        super().__init__(printable(folder.resolve().name), read)
        self.scan = scan_folder(folder, read, allow_unreadable=allow_unreadable, allow_short=allow_short)
        self.batch_size, self.allow_unreadable, self.allow_short = batch_size, allow_unreadable, allow_short
        self._set_files(choose_clips(self.scan.clips, count, seed))

    @property
    def notes(self) -> list[str]:
        """Sentences for the report: clips left out so far, and remarks on those that are read."""
        folder = printable(self.scan.folder.name)
        left_out = sorted({**self.scan.unreadable, **self.scan.short})
        notes = [f"{len(left_out)} of {folder} left out: {', '.join(left_out)}"] if left_out else []
        notes += [f"{folder}: {printable(remark)}" for remark in self.scan.remarks[:MAX_REMARKS]]
        more = len(self.scan.remarks) - MAX_REMARKS
        return [*notes, f"{folder}: and {more} more remarks"] if more > 0 else notes

    def _set_files(self, files: list[Path]) -> None:
        self.files, self.settings = files, {"clips": len(files)}
        self.stamp = files_hash({self.scan.name(file): file for file in files})[:12]

    def hold_out(self, count: int, name: str, seed: int = 0) -> FolderClips:
        """Take `count` clips, drawn by `seed`, out of this source and return them as a source called `name`.

        Raises ValueError where fewer than two would be left.
        """
        if count >= len(self.files) - 1:
            raise ValueError(
                f"{count} clips cannot be held out of the {len(self.files)} in {self.scan.folder};"
                " leave two or more"
            )
        held_out = set(choose_clips(self.files, count, seed))
        apart = copy(self)
        apart.name = name
        apart._set_files([file for file in self.files if file in held_out])
        self._set_files([file for file in self.files if file not in held_out])
        return apart

    def __len__(self) -> int:
        """Number of clips."""
        return len(self.files)

    def batches(self) -> Iterator[ClipBatch]:
        """Yield the clips, decoded, each batch of one size."""
        read: list[Path] = []
        for files, clips in read_batches(self.files, self.read, self.batch_size, self._leave_out):
            names = [self.scan.name(file) for file in files]
            read += files
            yield ClipBatch(names, clips, [self.scan.captions.get(file) for file in files], notes=names)
        if len(read) < len(self.files):
            self._set_files(read)

    def _leave_out(self, file: Path, error: ValueError) -> None:
        """Note a clip that turned out bad when it was read. Raises ValueError unless that is allowed."""
        short = isinstance(error, TooShortError)
        if not (self.allow_short if short else self.allow_unreadable):
            raise ValueError(
                f"{error}; leave it out with --allow-{'short' if short else 'unreadable'}"
            ) from error
        (self.scan.short if short else self.scan.unreadable)[self.scan.name(file)] = str(error)


def check_shapes(sources: Sequence[FolderClips]) -> None:
    """Raise ValueError where clips of several folders, with fit exact, are of other shapes.

    Extractors see squares, so one folder's clips would be squeezed and another's not. sources: of a report,
    the reference among them.
    """
    sizes = {source.name: next(iter(source.scan.sizes)) for source in sources if source.read.fit == "exact"}
    for name, (high, wide) in sizes.items():
        first, (height, width) = next(iter(sizes.items()))
        if abs(width * high - wide * height) > _SAME_SHAPE * width * high:
            raise ValueError(
                f"{first}: its clips are of {width} x {height} pixels, those of {name} of {wide} x {high},"
                " and both become squares: say --fit crop (the middle square of each) or --fit stretch"
            )


@dataclass(frozen=True)
class Shard:
    """Every `of`-th batch, beginning with batch `number`, 0 to of - 1."""

    number: int = 0
    of: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.number < self.of:
            raise ValueError(f"shard {self.number + 1} of {self.of}: give 1/{self.of} to {self.of}/{self.of}")


def parse_shard(text: str) -> Shard:
    """Parse a shard written as 2/8: the second of eight. Raises ValueError for anything else."""
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if found is None or int(found[2]) < 1:
        raise ValueError(f"shard {text!r}: expected NUMBER/OF, such as 2/8")
    return Shard(int(found[1]) - 1, int(found[2]))


class GeneratedClips(ClipSource):
    """A model's clips of a prompt set, made batch by batch, kept in a cache and never made twice.

    Batches are the same whoever makes them, so that processes or machines with one cache folder share the
    work, and a stopped one goes on. A clip depends on its own prompt and seed; which batch it is in can
    change its last bits on some devices, which is why batches are fixed.
    """

    def __init__(
        self,
        model: EvaluatedModel,
        prompts: PromptSet,
        read: ClipReadOptions,
        *,
        batch_size: int = BATCH_SIZE,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch is {batch_size}; give at least 1")
        digest = {"prompt list": prompts.digest()}
        settings, metric_settings = {**model.settings, **digest}, {**prompts.settings, **digest}
        super().__init__(model.name, read, settings=settings, metric_settings=metric_settings)
        self.model, self.prompts, self.batch_size = model, prompts, batch_size

    def __len__(self) -> int:
        """Number of clips."""
        return len(self.prompts.prompts)

    def batches(self) -> Iterator[ClipBatch]:
        """Yield all clips, made where they are not in the cache."""
        for name, prompts in self.named_batches():
            clips, seconds = self._generate(name, prompts)
            yield ClipBatch(
                names=[prompt.name for prompt in prompts],
                clips=clips,
                captions=[prompt.text for prompt in prompts],
                origins=prompts,
                notes=[f"seed {prompt.seed}" for prompt in prompts],
                seconds=seconds,
            )

    def generate_shard(
        self, shard: Shard, on_progress: Callable[[int, int], None] = lambda done, total: None
    ) -> int:
        """Make the missing clips of a shard, and return how many it has. on_progress: clips done, in all."""
        mine = self.named_batches()[shard.number :: shard.of]
        total, done = sum(len(prompts) for _, prompts in mine), 0
        for name, prompts in mine:
            self._generate(name, prompts)
            done += len(prompts)
            on_progress(done, total)
        return total

    def named_batches(self) -> list[tuple[str, Sequence[Prompt]]]:
        """Return the prompts in batches, each with the name that it has in the cache."""
        whole = self.prompts.prompts
        starts = range(0, len(whole), self.batch_size)
        parts = [(start, whole[start : start + self.batch_size]) for start in starts]
        return [(f"{start:06d}-{start + len(some) - 1:06d}", some) for start, some in parts]

    def _generate(self, name: str, prompts: Sequence[Prompt]) -> tuple[Clips, float]:
        texts, seeds = [prompt.text for prompt in prompts], [prompt.seed for prompt in prompts]
        return self.model.generate(name, texts, seeds, self.read.frames)


class ReconstructedClips(ClipSource):
    """Another source's clips, encoded and decoded by a model: the ceiling of that model's scores."""

    def __init__(
        self, name: str, model: EvaluatedModel, clips: ClipSource, settings: dict[str, Any] | None = None
    ) -> None:
        """Wrap the source `clips`; name, settings: of the row."""
        super().__init__(
            name, clips.read, settings=settings, metric_settings=clips.metric_settings, fps=clips.fps
        )
        self.model, self.clips = model, clips

    def __len__(self) -> int:
        """Number of clips."""
        return len(self.clips)

    def batches(self) -> Iterator[ClipBatch]:
        """Yield the other source's batches, encoded and decoded again."""
        for batch in self.clips.batches():
            began = time.perf_counter()
            clips = self.model.reconstruct(batch.clips)
            seconds = batch.seconds + time.perf_counter() - began
            yield replace(batch, clips=clips, seconds=seconds)
