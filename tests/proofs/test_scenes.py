"""Proof of the Moving Shapes world: scenes of both levels and all splits, with their captions.

The pixels hold on every machine: the renderer gives the same bytes anywhere, and so does the pinned Pillow,
which draws the captions.
"""

from __future__ import annotations

import pytest

from proofs import pixels
from proofs.program import succeed

SHEETS = {
    f"level {level} {split}": ("--level", level, "--split", split)
    for level in (1, 2)
    for split in ("seen", "held-out", "any")
} | {"level 2 two objects": ("--level", 2, "--objects", 2)}


@pytest.mark.parametrize("name", SHEETS)
def test_scenes(tmp_path, frozen, name):
    options = ("--seed", 5, "--count", 12, "-o", "sheet.png")
    assert succeed(tmp_path, "data", "preview", "moving-shapes", *SHEETS[name], *options) == "sheet.png\n"
    (sheet,) = pixels.read(tmp_path / "sheet.png")
    frozen.expect("scenes", name, {"shape": list(sheet.shape), "sha256": pixels.sha256(sheet)})
