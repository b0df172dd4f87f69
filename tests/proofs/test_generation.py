"""Proof of generation: the pixels of clips and images of the built-in model, and what `info` says of them.

Each is made by a call of its own, from a prompt, a seed and a few steps, into a lossless file.
"""

from __future__ import annotations

import json

import pytest

from proofs import pixels
from proofs.program import succeed

QUICK = ("--steps", 4)
CLIPS = {
    "left": ("a large red circle moving left on a black background", 1, QUICK),
    "up right": ("a small yellow star moving up and to the right on a teal background", 2, QUICK),
    "bouncing": ("a green square bouncing on a navy background", 3, QUICK),
    "circling": ("a white heart circling counterclockwise on a maroon background", 4, QUICK),
    "spinning": ("a cyan cross spinning clockwise on a gray background", 5, (*QUICK, "--guidance", 4)),
    "growing": ("a pink ring growing on a brown background", 6, (*QUICK, "--negative", "a red square")),
    "swinging": (
        "an orange triangle swinging from side to side on a black background", 7, (*QUICK, "--frames", 8)
    ),
    "two things": (
        "a blue digit seven slowly moving down and a red square standing still on a gray background", 8,
        (*QUICK, "--scheduler", "dpm++"),
    ),
    "own settings": ("a purple star shrinking on a teal background", 9, ()),
}  # fmt: skip
IMAGES = {
    "star": ("a yellow star on a navy background", 10, QUICK),
    "digit": ("a large white digit three on a maroon background", 11, QUICK),
}
MADE_BY = ("version",)  # what info says of the program, not of the clip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("generation")


def make(folder, name, wanted, file, *options):
    """The file of a clip or image, made where it is not yet."""
    prompt, seed, own = wanted
    if not (folder / file).exists():
        where = ("--seed", seed, "-o", file, "--dtype", "fp32", "--device", "cpu")
        assert succeed(folder, "generate", prompt, *where, *own, *options) == f"{file}\n"
    return folder / file


def clip(folder, name):
    return make(folder, name, CLIPS[name], f"{name.replace(' ', '-')}.webp")


@pytest.mark.parametrize(
    "name", [pytest.param(one, marks=[pytest.mark.slow] if one == "own settings" else []) for one in CLIPS]
)
def test_clips(folder, frozen, name):
    frozen.expect("clips", name, pixels.facts(pixels.read(clip(folder, name))), pixels.near)


@pytest.mark.parametrize("name", IMAGES)
def test_images(folder, frozen, name):
    file = make(folder, name, IMAGES[name], f"{name}.png", "--frames", 1)
    frozen.expect("images", name, pixels.facts(pixels.read(file)), pixels.near)


def said(frozen, name, found):
    """Freeze what info says; later it may say more, but nothing of this otherwise."""
    kept = frozen.sections.get("info", {}).get(name, found)
    frozen.expect("info", name, {key: found.get(key) for key in kept if key not in MADE_BY})


def test_info_as_text(folder, frozen):
    lines = succeed(folder, "info", clip(folder, "growing").name).splitlines()
    said(frozen, "text", dict(line.split(maxsplit=1) for line in lines))


def test_info_as_json(folder, frozen):
    (line,) = succeed(folder, "info", clip(folder, "growing").name, "--json").splitlines()
    said(frozen, "json", json.loads(line))
