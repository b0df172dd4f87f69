"""Clips through extractors, once: features, their statistics, and what pixels tell, in bounded memory.

A clip is decoded once however many extractors look at it. What is kept is one row of numbers a clip or frame,
or, without rows, the statistics alone. Batches are the same in every run, and so is every digit.

Shapes: B clips, F frames, H, W pixels; N rows, D numbers.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from latent_shift import __version__
from latent_shift.evaluation.extractors.interface import Extractor
from latent_shift.evaluation.features.files import Features, Rows
from latent_shift.evaluation.features.moments import Moments
from latent_shift.evaluation.features.reading import Reading, in_batches
from latent_shift.evaluation.features.settings import FeatureSettings, Provenance
from latent_shift.evaluation.metrics.pixels import flicker, motion

Clips = NDArray[np.uint8]
BATCH = 8


@dataclass
class Pixels:
    """What pixels alone tell of clips, (clips,) each, 0 to 255: see `metrics/pixels.py`."""

    flicker: list[float] = field(default_factory=list)
    motion: list[float] = field(default_factory=list)

    def add(self, clips: Clips) -> None:
        """Count clips (B, F, H, W, 3) in."""
        self.flicker += [flicker(clip) for clip in clips]
        self.motion += [motion(clip) for clip in clips]


class Collector:
    """The features of one extractor, as batches come."""

    def __init__(self, extractor: Extractor, reading: Reading, *, keep_rows: bool = True) -> None:
        self.extractor, self.reading, self.keep_rows = extractor, reading, keep_rows
        self.names: list[str] = []
        self._moments = Moments(extractor.facts.width)
        self._rows: list[Rows] = []
        self._logits: list[Rows] = []

    def add(self, names: Sequence[str], clips: Clips) -> None:
        """Count clips (B, F, H, W, 3) in. Raises ValueError for features that are not finite."""
        found = self.extractor(torch.from_numpy(clips))
        rows = found.features.cpu().numpy()
        self._moments.add(rows)
        self.names += names
        if self.keep_rows:
            self._rows.append(rows)
        if found.logits is not None:  # few numbers, and an Inception Score takes nothing else
            self._logits.append(found.logits.cpu().numpy())

    def features(self, source: str, seed: int | None = None, stamp: str = "") -> Features:
        """All so far. source: where the clips are from, in a word. stamp: as in `Provenance`."""
        provenance = Provenance(
            source=source, clips=len(self.names), stamp=stamp, seed=seed, device=self.extractor.device.type,
            versions=versions(),
        )  # fmt: skip
        return Features(
            settings=settings_of(self.extractor, self.reading),
            provenance=provenance,
            clips=tuple(self.names),
            moments=self._moments,
            rows=np.concatenate(self._rows) if self._rows else None,
            logits=np.concatenate(self._logits) if self._logits else None,
        )


@dataclass
class Measured:
    """One set of clips, measured: features by the extractor's name, what pixels tell, the clips' names."""

    source: str
    features: dict[str, Features]
    pixels: Pixels
    names: list[str]


def measure_clips(
    batches: Iterable[tuple[Sequence[str], Clips]],
    extractors: Sequence[Extractor],
    reading: Reading,
    *,
    source: str,
    seed: int | None = None,
    stamp: str = "",
    keep_rows: bool = True,
    show_done: Callable[[int], None] = lambda done: None,
) -> Measured:
    """Names and clips (B, F, H, W, 3), batch by batch, through every extractor.

    show_done: told how many clips are finished. Raises ValueError where there is no clip at all.
    """
    collectors = [Collector(extractor, reading, keep_rows=keep_rows) for extractor in extractors]
    pixels = Pixels()
    names: list[str] = []
    for some, clips in batches:
        for collector in collectors:
            collector.add(some, clips)
        pixels.add(clips)
        names += some
        show_done(len(names))
    if not names:
        raise ValueError(f"{source}: there are no clips to measure")
    features = {one.extractor.facts.name: one.features(source, seed, stamp) for one in collectors}
    return Measured(source, features, pixels, names)


def named_batches(
    files: Sequence[Path], folder: Path, reading: Reading, batch: int = BATCH
) -> Iterator[tuple[list[str], Clips]]:
    """The files of a folder decoded, each batch of one size, with their names below the folder."""
    for some, clips in in_batches(files, reading, batch):
        yield [file.relative_to(folder).as_posix() for file in some], clips


def settings_of(extractor: Extractor, reading: Reading) -> FeatureSettings:
    """Everything that decides the features' values."""
    facts, view = extractor.facts, extractor.view
    return FeatureSettings(
        extractor=facts.name, layer=facts.layer, weights=facts.weights, per=facts.per, side=view.side,
        resize=view.resize, antialias=view.antialias, fit=reading.fit, frames=reading.frames,
        fps=reading.says_fps(),
    )  # fmt: skip


def versions() -> dict[str, str]:
    """Of what computes features."""
    return {
        "latent-shift": __version__, "torch": torch.__version__, "numpy": np.__version__,
        "python": platform.python_version(),
    }  # fmt: skip
