"""Equal budgets: seconds of a core (or of a GPU), clips or steps, turned into the steps of a stage.

Seconds are CPU time of the process and its children (getrusage), which other work on the machine changes
least; on a GPU, seconds of the device. The schedule has to be known before a run, so some steps are timed and
the budget becomes a number of steps, which the resolved recipe keeps.
"""

from __future__ import annotations

import math
import resource
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from latent_shift.documents import read_json_mapping
from latent_shift.io import write_json
from latent_shift.training.logging import Progress, Report
from latent_shift.training.recipe import Recipe
from latent_shift.training.task import build_task
from latent_shift.training.trainer import train

SPENT = "spent.json"  # of a stage: seconds so far
UNITS = ("core-seconds", "clips", "steps")
_EMA_HORIZON, _WARMUP, _COOLDOWN = 0.05, 0.03, 1 / 3  # parts of the steps
_NEVER = 10**9
_MOST = 10**9  # of a budget


@dataclass(frozen=True)
class Budget:
    """An amount of training. Clips are those of batches, the frames of image batches among them."""

    unit: str
    amount: float

    def __str__(self) -> str:
        return f"{self.unit}={self.amount:g}"

    def of_stage(self, share: float) -> Budget:
        """The budget of a stage with this share of the seconds; clips and steps count for every stage."""
        return Budget(self.unit, self.amount * share) if self.unit == "core-seconds" else self

    def steps(self, recipe: Recipe, seconds_a_step: float) -> int:
        """The steps of a stage; of seconds or clips a multiple of eight, for checkpoints of its parts.

        Raises ValueError where the budget does not do for one step, and for image batches of another size.
        """
        if (images := getattr(recipe, "image_batch_size", None)) is not None:
            raise ValueError(
                f"image_batch_size {images}: a comparison counts image batches as large as those of clips;"
                " remove it"
            )
        if self.unit == "steps":
            return int(self.amount)
        cost = seconds_a_step if self.unit == "core-seconds" else recipe.batch_size
        steps = math.floor(self.amount / cost)
        if steps < 1:
            raise ValueError(f"budget {self}: a step of {recipe.output.name} takes {cost:.3g}; give more")
        return steps // 8 * 8 or steps


def parse_budget(text: str) -> Budget:
    """Parse a budget such as core-seconds=2400. Raises ValueError for another unit or an amount of 0."""
    unit, _, number = text.partition("=")
    try:
        amount = float(number)
    except ValueError:
        amount = 0.0
    if unit not in UNITS or not 0 < amount <= _MOST or (unit != "core-seconds" and amount != int(amount)):
        units = ", ".join(f"{one}=N" for one in UNITS)
        raise ValueError(f"budget {text!r}: expected {units} with N above 0, at most {_MOST:,}")
    return Budget(unit, amount)


def schedule(steps: int) -> dict[str, Any]:
    """Settings of a recipe that follow from its steps: average over 5 %, warm-up 3 %, cool-down a third."""
    return {
        "steps": steps,
        "ema_decay": min(round(max(0.0, 1 - 1 / max(1.0, _EMA_HORIZON * steps)), 6), 0.999999),
        "optimizer": {
            "warmup_steps": round(_WARMUP * steps), "cooldown_steps": math.floor(_COOLDOWN * steps),
        },
    }  # fmt: skip


def clock() -> float:
    """CPU seconds of this process and its ended children; where there is a GPU, seconds."""
    if torch.cuda.is_available():
        return time.perf_counter()
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


@dataclass(frozen=True)
class Timing:
    """Seconds of a step, and of the preparation of data before the first."""

    step: float
    preparation: float


class _TimedError(Exception):
    """Raised by the report of the last timed step, which ends the run."""


def time_steps(recipe: Recipe, after: int, count: int) -> Timing:
    """Time `count` steps of a recipe after `after` others, in a run of its own that leaves nothing behind.

    What the recipe prepares once, as a store of latents, stays.
    """
    recipe.output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=recipe.output.parent) as folder:
        content = recipe.model_dump(mode="json")
        changes = {
            "output": folder, "steps": after + count, "log_every": math.gcd(after, count), "validation": None,
            "checkpoint_every": _NEVER, "sample_every": 0,
            "optimizer": {**content["optimizer"], "warmup_steps": 0, "cooldown_steps": 0},
        }  # fmt: skip
        trial, seen = type(recipe).model_validate({**content, **changes}), {0: clock()}
        began = prepared = clock()

        def report(progress: Progress) -> None:
            nonlocal prepared
            if progress.stage != "training":
                prepared = clock()
                return
            seen[progress.step] = clock()
            if progress.step == after + count:
                raise _TimedError

        with suppress(_TimedError):
            train(build_task(trial), report)
    return Timing((seen[after + count] - seen[after]) / count, prepared - began)


class Meter:
    """A report of a training that adds up its seconds in a file, over all sessions of the run."""

    def __init__(self, file: Path, report: Report, wall: Callable[[], float] = time.perf_counter) -> None:
        self.file, self.report, self.wall = file, report, wall
        self.before = read_spent(file)
        self.began, self.wall_began, self.prepared = clock(), wall(), 0.0

    def __call__(self, progress: Progress) -> None:
        """Take note of the seconds so far, and pass the progress on."""
        seconds = clock() - self.began
        if progress.stage != "training":
            self.prepared = seconds
        now = {
            "seconds": seconds - self.prepared, "preparation": self.prepared,
            "wall_seconds": self.wall() - self.wall_began,
        }  # fmt: skip
        write_json(self.file, {name: self.before[name] + value for name, value in now.items()})
        self.report(progress)


def read_spent(file: Path) -> dict[str, float]:
    """Seconds of a run so far: "seconds" of its steps, of its "preparation", and "wall_seconds"."""
    nothing = {"seconds": 0.0, "preparation": 0.0, "wall_seconds": 0.0}
    return read_json_mapping(file) if file.is_file() else nothing
