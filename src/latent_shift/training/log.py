"""What a training says of itself: means over `log_every` steps, to JSONL, TensorBoard and the caller.

A resumed run's log goes on after its checkpoint: lines of steps that are taken again are removed first, so
`log.jsonl` tells every step once. The figures are means over the processes as well.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from tensorboard.compat.proto.summary_pb2 import Summary
from torch import Tensor

from latent_shift.training.recipe import Run

FILE_NAME = "log.jsonl"


@dataclass(frozen=True)
class Progress:
    """One report: the step that is done, of how many, and figures by name. `stage`: what the steps are."""

    step: int
    steps: int
    figures: dict[str, float] = field(default_factory=dict)
    stage: str = "training"


class Log:
    """The log of a run that goes on after step `done`; the caller ends the accelerator's trackers."""

    def __init__(
        self, recipe: Run, done: int, accelerator: Accelerator, report: Callable[[Progress], None]
    ) -> None:
        self.recipe, self.accelerator, self.report = recipe, accelerator, report
        self.path = recipe.output / FILE_NAME
        if accelerator.is_main_process:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            forget_after(done, self.path)
        accelerator.init_trackers("tensorboard", init_kwargs={"tensorboard": {"purge_step": done + 1}})
        self._begin_window()

    def timed(self, batches: Iterable[Any]) -> Iterator[Any]:
        """The batches, the seconds waited for them counted."""
        source = iter(batches)
        while True:
            start = time.perf_counter()
            batch = next(source, None)
            if batch is None:
                return
            self._waited += time.perf_counter() - start
            yield batch

    def step(self, step: int, figures: dict[str, Tensor]) -> None:
        """Take the figures of a step, scalars; none of a step that was skipped."""
        for name, value in figures.items():
            total, count = self._sums.get(name, (0.0, 0))
            self._sums[name] = (value.detach().float() + total, count + 1)
        self._count += 1
        if step % self.recipe.log_every == 0 or step == self.recipe.steps:
            self._write(step)

    def _begin_window(self) -> None:
        self._sums: dict[str, tuple[Tensor | float, int]] = {}
        self._count, self._waited, self._since = 0, 0.0, time.perf_counter()

    def _write(self, step: int) -> None:
        means = {name: self._mean(total / count) for name, (total, count) in self._sums.items()}
        seconds = time.perf_counter() - self._since
        means["items_per_second"] = self._count * self.recipe.batch_size / seconds
        means["data_wait"] = self._waited / seconds
        self._begin_window()
        self.accelerator.log(means, step=step)
        if self.accelerator.is_main_process:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": step, "time": round(time.time(), 1), **means}) + "\n")
            self.report(Progress(step, self.recipe.steps, means))

    def _mean(self, value: Tensor | float) -> float:
        """Over the processes; which all have the same figures."""
        if self.accelerator.num_processes == 1:
            return float(value)
        value = torch.as_tensor(value, device=self.accelerator.device)
        return float(self.accelerator.reduce(value, "mean"))


def show_samples(accelerator: Accelerator, folder: Path, step: int) -> None:
    """Show the samples of a step in TensorBoard as well: the film where there is one, else the sheet."""
    for file in (folder / f"step-{step:08d}{suffix}" for suffix in (".gif", ".png")):
        if file.is_file():
            picture = Summary.Image(encoded_image_string=file.read_bytes(), colorspace=3)
            writer = accelerator.get_tracker("tensorboard", unwrap=True)
            writer.file_writer.add_summary(
                Summary(value=[Summary.Value(tag="samples", image=picture)]), global_step=step
            )
            return


def forget_after(step: int, path: Path) -> None:
    """Remove a JSONL file's lines of later steps, and a last line that was cut off while it was written."""
    if not path.exists():
        return
    kept = [line for line in path.read_text(encoding="utf-8").splitlines() if _step_of(line) <= step]
    partial = path.with_suffix(".unfinished")
    partial.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
    os.replace(partial, path)


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except json.JSONDecodeError:
        return math.inf
