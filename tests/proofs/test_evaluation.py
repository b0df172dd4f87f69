"""Proof of evaluation: the figures of folders of clips against real ones, and the counts of the scorer.

Of the files that `evaluate` writes only figures and counts are compared, found by the keys below wherever
they stand, not what else is written.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
from PIL import Image

from proofs.frozen import numbers_near
from proofs.program import succeed

VALUE, BOUNDS = "value", ("low", "high")  # keys of a figure in the report
RIGHT, OF = "right", "of"  # keys of a count in the scorer's results
DIGEST = re.compile(r" [0-9a-f]{8}$")  # of the settings, after a figure's name
SCORE = re.compile(r"motion right, | right( at once)?")  # around the name of a score in the report
NEAR = {"relative": 1e-3, "absolute": 1e-4}  # that a figure may be off on another machine


def found_in(tree: Any, key: str, name: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every mapping with a key, in order, by the name it stands under or gives itself."""
    if isinstance(tree, dict):
        if key in tree:
            yield DIGEST.sub("", tree.get("metric", name)), tree
        for step, branch in tree.items():
            yield from found_in(branch, key, step)
    elif isinstance(tree, list):
        for branch in tree:
            yield from found_in(branch, key, name)


def write_clips(folder, seed, *, count=6, noise=0, still=False):
    """Lossless clips of a square that moves, each its own way."""
    folder.mkdir()
    rng = np.random.default_rng(seed)
    for number in range(count):
        ground, colour = rng.integers(0, 256, (2, 3))
        x, y, right, down = rng.integers(5, 25, 2).tolist() + rng.integers(-1, 3, 2).tolist()
        frames = []
        for step in range(16):
            frame = np.full((64, 64, 3), ground)
            left, top = (x, y) if still else (x + right * step, y + down * step)
            frame[max(top, 0) : top + 14, max(left, 0) : left + 14] = colour
            frame = frame + rng.integers(-noise, noise + 1, frame.shape)
            frames.append(Image.fromarray(frame.clip(0, 255).astype(np.uint8)))
        frames[0].save(
            folder / f"{number}.webp", save_all=True, append_images=frames[1:], duration=125, lossless=True
        )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    here = tmp_path_factory.mktemp("evaluation")
    write_clips(here / "real", 1)
    write_clips(here / "noisy", 2, noise=20)
    write_clips(here / "still", 3, noise=1, still=True)
    return here


@pytest.mark.parametrize("generated", ["noisy", "still"])
def test_folders(folder, frozen, generated):
    options = ("--extractor", "moving-shapes-eyes", "--device", "cpu", "-o", f"{generated}.json")
    succeed(folder, "evaluate", "folders", "real", generated, *options)
    report = json.loads((folder / f"{generated}.json").read_text(encoding="utf-8"))
    figures = {name: [figure[key] for key in (VALUE, *BOUNDS)] for name, figure in found_in(report, VALUE)}
    assert len(figures) == 5
    frozen.expect("figures", generated, figures, partial(numbers_near, **NEAR))


def test_counts_of_real_clips(folder, frozen):
    options = ("--reference-only", "--prompts", 12, "-o", "counts.json")
    succeed(folder, "evaluate", "moving-shapes", *options)
    results = json.loads((folder / "counts.json").read_text(encoding="utf-8"))
    counts = [f"{SCORE.sub('', name)} {count[RIGHT]}/{count[OF]}" for name, count in found_in(results, RIGHT)]
    frozen.expect("counts", "real clips", counts)
