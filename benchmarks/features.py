"""How many clips a second go through an extractor, and what the statistics add.

    python benchmarks/features.py [--extractor NAME ...] [--clips 64] [--frames 16] [--side 64] [--batch 8]
        [--weights DIR] [--device cpu] [--folder CLIPS]

Random clips in memory, the same for each; with --folder, clips of that folder, decoding counted in. An
extractor whose weights are not there runs on random ones: the same work. "features" is the network alone,
"with statistics" the pass that evaluation makes: mean, covariance, rows, flicker and motion.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from latent_shift.evaluation.clip_files import ClipReadOptions
from latent_shift.evaluation.extractors import (
    EXTRACTORS,
    ExtractorOptions,
    c3d,
    i3d,
    inception,
    make_extractor,
)
from latent_shift.evaluation.extractors.base import Extractor, ExtractorInfo
from latent_shift.evaluation.metrics.base import MetricOptions
from latent_shift.evaluation.runner import evaluate
from latent_shift.evaluation.sources import ClipBatch, ClipSource, FolderClips

RANDOM: dict[str, tuple[Any, Callable[[], torch.nn.Module], Any, ExtractorInfo]] = {
    "inception-v3": (
        inception.Inception, inception.InceptionV3, inception.PREPROCESSING,
        ExtractorInfo("inception-v3", "pool3", "random", "frame", 2048),
    ),
    "i3d": (
        i3d.I3D, i3d.InceptionI3d, i3d.PREPROCESSING,
        ExtractorInfo("i3d", "logits", "random", "clip", 400, 16),
    ),
    "c3d": (
        c3d.C3D, c3d.C3DNetwork, c3d.PREPROCESSING, ExtractorInfo("c3d", "fc7", "random", "clip", 4096, 16),
    ),
}  # fmt: skip


class RandomClips(ClipSource):
    """Random clips in memory."""

    def __init__(self, given: argparse.Namespace) -> None:
        super().__init__("random clips", ClipReadOptions(given.frames))
        self.given = given

    def __len__(self) -> int:
        return self.given.clips

    def batches(self) -> Iterator[ClipBatch]:
        given, rng = self.given, np.random.default_rng(0)
        for start in range(0, given.clips, given.batch):
            shape = (min(given.batch, given.clips - start), given.frames, given.side, given.side, 3)
            names = [f"{start + place}" for place in range(shape[0])]
            yield ClipBatch(names, rng.integers(0, 256, shape, dtype=np.uint8), [None] * shape[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--extractor", nargs="+", choices=EXTRACTORS.names(), default=["moving-shapes"])
    parser.add_argument("--clips", type=int, default=64)
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    versions = f"torch {torch.__version__}, numpy {np.__version__}"
    print(f"{platform.machine()}, {torch.get_num_threads()} threads, {given.device}, {versions}")
    where = given.folder or f"random clips of {given.side} pixels"
    print(f"{given.clips} clips of {given.frames} frames, {where}; batches of {given.batch}")
    for name in given.extractor:
        extractor, note = make(name, given.weights, given.device)
        plain, whole = compare(extractor, source_of(given))
        print(
            f"{name + note:>32}: features {plain:7.2f} clips/s, with statistics {whole:7.2f},"
            f" {plain / whole - 1:+.1%} time"
        )


def make(name: str, weights: Path | None, device: str) -> tuple[Extractor, str]:
    """An extractor, and a note where its weights are random."""
    try:
        return make_extractor(name, ExtractorOptions(weights=weights, device=device)), ""
    except ValueError:
        if name not in RANDOM:
            raise
    kind, network, preprocessing, info = RANDOM[name]
    extractor = kind.__new__(kind)
    Extractor.__init__(extractor, network(), info, preprocessing, ExtractorOptions(device=device))
    extractor.mean = torch.zeros(3, 16, 112, 112, device=device)
    return extractor, " (random weights)"


def source_of(given: argparse.Namespace) -> ClipSource:
    """The clips to measure on."""
    if given.folder is None:
        return RandomClips(given)
    read = ClipReadOptions(given.frames, None, "crop")
    source = FolderClips(given.folder, read, batch_size=given.batch, allow_short=True, allow_unreadable=True)
    source.files = source.files[: given.clips]
    return source


def compare(extractor: Extractor, source: ClipSource) -> tuple[float, float]:
    """Clips a second of the network alone and of the whole pass, taken in turns after a warm-up; the best."""
    extractor(torch.from_numpy(next(source.batches()).clips))
    plain, whole = [], []
    for _ in range(2):
        began = time.perf_counter()
        for batch in source.batches():
            extractor(torch.from_numpy(batch.clips)).features.cpu()
        plain.append(len(source) / (time.perf_counter() - began))
        began = time.perf_counter()
        evaluate([source], ["flicker", "motion"], options=MetricOptions(resamples=0), extractors=[extractor])
        whole.append(len(source) / (time.perf_counter() - began))
    return max(plain), max(whole)


if __name__ == "__main__":
    main()
