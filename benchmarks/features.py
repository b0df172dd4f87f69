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

from latent_shift.evaluation.extractors import EXTRACTORS, Given, make_extractor
from latent_shift.evaluation.extractors.c3d import VIEW as C3D_VIEW
from latent_shift.evaluation.extractors.c3d import C3dClasses, C3DNetwork
from latent_shift.evaluation.extractors.i3d import VIEW as I3D_VIEW
from latent_shift.evaluation.extractors.i3d import I3dLogits, InceptionI3d
from latent_shift.evaluation.extractors.inception import VIEW as INCEPTION_VIEW
from latent_shift.evaluation.extractors.inception import Inception, InceptionV3
from latent_shift.evaluation.extractors.interface import Extractor, Facts
from latent_shift.evaluation.features.passing import measure_clips, named_batches
from latent_shift.evaluation.features.reading import Reading, survey

RANDOM: dict[str, tuple[Any, Callable[[], torch.nn.Module], Any, Facts]] = {
    "inception-v3": (
        Inception, InceptionV3, INCEPTION_VIEW, Facts("inception-v3", "pool3", "random", "frame", 2048),
    ),
    "i3d": (I3dLogits, InceptionI3d, I3D_VIEW, Facts("i3d", "logits", "random", "clip", 400, 16)),
    "c3d": (C3dClasses, C3DNetwork, C3D_VIEW, Facts("c3d", "fc7", "random", "clip", 4096, 16)),
}  # fmt: skip
Batch = tuple[list[str], Any]


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
        plain, whole = compare(extractor, lambda: batches_of(given), given.frames)
        print(
            f"{name + note:>32}: features {plain:7.2f} clips/s, with statistics {whole:7.2f},"
            f" {plain / whole - 1:+.1%} time"
        )


def make(name: str, weights: Path | None, device: str) -> tuple[Extractor, str]:
    """An extractor, and a note where its weights are random."""
    try:
        return make_extractor(name, Given(weights=weights, device=device)), ""
    except ValueError:
        if name not in RANDOM:
            raise
    kind, network, view, facts = RANDOM[name]
    extractor = kind.__new__(kind)
    Extractor.__init__(extractor, network(), facts, view, device)
    extractor.mean = torch.zeros(3, 16, 112, 112, device=device)
    return extractor, " (random weights)"


def batches_of(given: argparse.Namespace) -> Iterator[Batch]:
    """Names and clips (B, F, H, W, 3)."""
    if given.folder is not None:
        reading = Reading(given.frames, None, "crop")
        files = survey(given.folder, reading, allow_short=True, allow_unreadable=True).clips[: given.clips]
        yield from named_batches(files, given.folder, reading, given.batch)
        return
    chance = np.random.default_rng(0)
    for start in range(0, given.clips, given.batch):
        count = min(given.batch, given.clips - start)
        clips = chance.integers(0, 256, (count, given.frames, given.side, given.side, 3), dtype=np.uint8)
        yield [f"{start + place}" for place in range(count)], clips


def compare(extractor: Extractor, batches: Callable[[], Iterator[Batch]], frames: int) -> tuple[float, float]:
    """Clips a second of the network alone and of the whole pass, taken in turns after a warm-up; the best."""
    first = next(batches())[1]
    extractor(torch.from_numpy(first))
    plain, whole = [], []
    for _ in range(2):
        began, count = time.perf_counter(), 0
        for _, clips in batches():
            extractor(torch.from_numpy(clips)).features.cpu()
            count += len(clips)
        plain.append(count / (time.perf_counter() - began))
        began = time.perf_counter()
        measure_clips(batches(), [extractor], Reading(frames), source="benchmark")
        whole.append(count / (time.perf_counter() - began))
    return max(plain), max(whole)


if __name__ == "__main__":
    main()
