"""Measure four routes through the code: the files and functions of each, and its turns between files.

    python benchmarks/routes.py            # a line a route: files, functions, turns

A turn is a pair of files of this package between which calls or returns pass, counted once however often they
do: the number of turns says how often a reader has to change to another file. Not a timing: calls are seen by
a profiler hook, in this process. The commands and the recipe keys are those of the first release, so that the
script runs on older commits, too (docs/architecture.md compares).
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np

import latent_shift
from latent_shift import media
from latent_shift.cli import errors
from latent_shift.cli.main import app

PACKAGE = str(Path(latent_shift.__file__).parent) + os.sep
RECIPE = """
task: video
output: {folder}/run
base: moving-shapes
clips:
  source: {{format: folder, path: {folder}/clips}}
  frames: {{num_frames: 4, fps: 8, height: 64, width: 64}}
diffusion: {{noise_correlation: 0.5}}
steps: {steps}
batch_size: 2
image_steps: 0.0
optimizer: {{learning_rate: 0.0001, warmup_steps: 0}}
checkpoint_every: 1000
"""


class Route:
    """The calls of one command: how often each function was called, and how often files were changed."""

    def __init__(self, *arguments: str) -> None:
        self.calls: Counter[tuple[str, str]] = Counter()
        self.turns: Counter[tuple[str, str]] = Counter()
        self._file = ""
        sys.setprofile(self._note)
        try:
            status = errors.run(app, list(arguments))
        finally:
            sys.setprofile(None)
        if status:
            raise SystemExit(f"{' '.join(arguments)} ended with status {status}")

    def _note(self, frame, event, _) -> None:
        if event != "call" or not frame.f_code.co_filename.startswith(PACKAGE):
            return
        name = frame.f_code.co_qualname
        if "<" in name.replace("<locals>", ""):  # a module's body, a comprehension, a lambda
            return
        file = frame.f_code.co_filename.removeprefix(PACKAGE)
        self.calls[file, name] += 1
        if file != self._file:
            self.turns[self._file, file] += 1
            self._file = file


def line(route: str, calls: set[tuple[str, str]], turns: set[tuple[str, str]]) -> str:
    """The figures of a route as a row of a Markdown table."""
    return f"| {route} | {len({file for file, _ in calls})} | {len(calls)} | {len(turns)} |"


def more_often(first: Counter[tuple[str, str]], second: Counter[tuple[str, str]]) -> set[tuple[str, str]]:
    """What the second run did more often than the first."""
    return {one for one, times in second.items() if times > first[one]}


def main() -> None:
    """Print the four routes."""
    print("| route | files | functions | turns |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        generate = Route(
            "generate", "a red circle moving left", "--seed", "1", "--steps", "1", "-o", f"{name}/clip.webp"
        )
        print(line("a prompt to its file", set(generate.calls), set(generate.turns)))
        (folder / "clips").mkdir()
        for number in range(3):
            frames = np.random.default_rng(number).integers(0, 256, (12, 64, 64, 3), np.uint8)
            media.write_clip(folder / "clips" / f"{number}.webp", frames, 8)
            media.write_clip(folder / "clips" / f"{number}.mp4", frames, 8)
            (folder / "clips" / f"{number}.txt").write_text("a red circle\n")
        trained = {}
        for steps in (2, 4):
            (folder / "recipe.yaml").write_text(RECIPE.format(folder=f"{name}/{steps}", steps=steps))
            (folder / str(steps)).mkdir()
            (folder / str(steps) / "clips").symlink_to(folder / "clips")
            trained[steps] = Route("train", str(folder / "recipe.yaml"))
        calls = more_often(trained[2].calls, trained[4].calls)
        turns = more_often(trained[2].turns, trained[4].turns)
        print(line("a clip to its loss (one step)", calls, turns))
        rest = set(trained[2].calls) - calls, set(trained[2].turns) - turns
        print(line("a recipe to its first step and model", *rest))
        (folder / "clips-again").symlink_to(folder / "clips")
        folders = (
            f"{name}/clips",
            f"{name}/clips-again",
            "--extractor",
            "moving-shapes-eyes",
            "--frames",
            "12",
        )
        fid = Route("evaluate", "folders", *folders, "-o", f"{name}/result.json")
        print(line("clips to a Frechet distance", set(fid.calls), set(fid.turns)))


if __name__ == "__main__":
    main()
