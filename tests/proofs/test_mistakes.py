"""Proof of what the program refuses: the exit status and the messages of wrong commands, over all commands.

They avoid messages that name what may be renamed, and compare the lines of errors alone: warnings may come,
and a list of what is known at the end of a message may grow.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from PIL import Image

from proofs.program import run

RED = "a red circle moving left on a black background"
FOLDERS = ("evaluate", "folders")
CLIPS = "{source: {format: folder, path: plain}, frames: {}}"
KNOWN = re.compile(r"(known are|expected one of) .*")  # and what there is
COMMANDS: dict[str, tuple[object, ...]] = {
    "no such command": ("render", RED),
    "generate: nothing": ("generate",),
    "generate: an empty prompt": ("generate", " "),
    "generate: no word that the model knows": ("generate", "zebras gallop"),
    "generate: unknown option": ("generate", RED, "--qqq", 3),
    "generate: no frames": ("generate", RED, "--frames", 0),
    "generate: too many steps": ("generate", RED, "--steps", 5000),
    "generate: a seed below zero": ("generate", RED, "--seed", -1),
    "generate: no number": ("generate", RED, "--guidance", "strong"),
    "generate: too many clips": ("generate", RED, "--count", 20_000),
    "generate: a height between": ("generate", RED, "--height", 60),
    "generate: unknown scheduler": ("generate", RED, "--scheduler", "best"),
    "generate: unknown dtype": ("generate", RED, "--dtype", "fp64"),
    "generate: unknown device": ("generate", RED, "--device", "tpu"),
    "generate: unknown model": ("generate", RED, "--model", "nowhere"),
    "generate: unknown suffix": ("generate", RED, "-o", "clip.avi"),
    "generate: two clips in one file": ("generate", RED, RED, "-o", "clip.mp4"),
    "generate: a file that exists": ("generate", RED, "-o", "plain.png", "--frames", 1),
    "generate: no file of prompts": ("generate", "--prompts", "none.txt"),
    "generate: a line that is not JSON": ("generate", "--prompts", "prompts.jsonl"),
    "info: no file": ("info", "none.mp4"),
    "info: not made by the program": ("info", "plain.png"),
    "train: no recipe": ("train", "none.yaml"),
    "train: not a mapping": ("train", "list.yaml"),
    "train: unknown key": ("train", "wording.yaml", "--set", "stepz=3"),
    "train: unknown key like no other": ("train", "wording.yaml", "--set", "xyzzy=3"),
    "train: missing key": ("train", "empty.yaml"),
    "train: not a setting": ("train", "wording.yaml", "--set", "steps"),
    "train: no steps": ("train", "wording.yaml", "--set", "steps=0"),
    "train: a word for a number": ("train", "wording.yaml", "--set", "optimizer.learning_rate=fast"),
    "train: a schedule longer than the run": ("train", "wording.yaml", "--set", "optimizer.warmup_steps=19"),
    "train: two kinds of data": ("train", "video.yaml", "--set", f"clips={CLIPS}"),
    "train: no kind of data": ("train", "video.yaml", "--set", "latents=null"),
    "train: two rates of frames": ("train", "video-clips.yaml", "--set", "clips.frames.stride=2"),
    "train: no base": ("train", "video.yaml", "--set", "base=nowhere"),
    "train: no preset": ("train", "wording.yaml", "--preset", "none.yaml"),
    "data: no command": ("data", "look", "clips"),
    "data: check what is drawn": ("data", "check", "moving-shapes"),
    "data: no source": ("data", "check", "nowhere"),
    "data: unknown setting": ("data", "check", "plain", "--set", "x=1"),
    "data: unknown format": ("data", "check", "plain", "--format", "tar"),
    "data: no clips on a sheet": ("data", "preview", "moving-shapes", "--count", 0),
    "data: unknown level": ("data", "preview", "moving-shapes", "--level", 3),
    "data: unknown split": ("data", "preview", "moving-shapes", "--split", "some"),
    "data: an option of the other source": ("data", "preview", "moving-shapes", "--fps", 4),
    "data: pack among other files": ("data", "pack", "plain", "-o", "plain"),
    "evaluate: no protocol": ("evaluate", "everything"),
    "evaluate: no folder": (*FOLDERS, "nowhere", "plain", "--extractor", "moving-shapes-eyes"),
    "evaluate: unknown extractor": (*FOLDERS, "plain", "plain", "--extractor", "vgg"),
    "evaluate: unknown fit": (*FOLDERS, "plain", "plain", "--fit", "pad"),
    "evaluate: no clips at a time": (*FOLDERS, "plain", "plain", "--batch", 0),
    "evaluate: unknown suffix": (*FOLDERS, "plain", "plain", "-o", "out.txt"),
    "evaluate: no frames": ("evaluate", "moving-shapes", "--reference-only", "--frames", 0),
    "evaluate: no result": ("evaluate", "report", "none.json"),
    "evaluate: no captions": ("evaluate", "msr-vtt", "--captions-file", "none.json"),
    "evaluate: unknown choice": ("evaluate", "msr-vtt", "--captions-file", "none.json", "--captions", "two"),
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Recipes, a plain picture, a folder of one, and files that are not what they should be."""
    here = tmp_path_factory.mktemp("mistakes")
    for recipe in Path(__file__).with_name("recipes").glob("*.yaml"):
        shutil.copy(recipe, here)
    (here / "plain").mkdir()
    for file in ("plain.png", "plain/plain.png"):
        Image.new("RGB", (64, 64), (30, 90, 60)).save(here / file)
    (here / "plain" / "plain.txt").write_text("a green square\n")
    (here / "prompts.jsonl").write_text('{"prompt": "a red circle"}\nred\n')
    (here / "list.yaml").write_text("- steps\n")
    (here / "empty.yaml").write_text("task: video\n")
    return here


@pytest.mark.parametrize("name", COMMANDS)
def test_mistakes(folder, frozen, name):
    before = sorted(folder.rglob("*"))
    result = run(folder, *COMMANDS[name])
    assert result.out == ""
    assert sorted(folder.rglob("*")) == before
    messages = [KNOWN.sub(r"\1 ...", message) for message in result.errors]
    frozen.expect("mistakes", name, {"status": result.status, "errors": messages})
