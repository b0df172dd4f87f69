"""Logs of a run: metrics in JSONL and TensorBoard, skipped steps, progress reports.

Metrics are averages over `log_every` steps and over the processes. A resumed run goes on after its
checkpoint: `remove_steps_after` has removed the lines of steps that are taken again, so that each file has
every step once.
"""

from __future__ import annotations

import json
import math
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from tensorboard.compat.proto.summary_pb2 import Summary
from torch import Tensor

from latent_shift.data.samplers import items_of
from latent_shift.data.workers import errors_of_workers
from latent_shift.io import one_line, warn, write_text
from latent_shift.training.recipe import Recipe

LOG, SKIPPED = "log.jsonl", "skipped.jsonl"  # in the run's folder


@dataclass(frozen=True)
class Progress:
    """Steps done of all steps, metrics by name, and what the steps are."""

    step: int
    steps: int
    metrics: dict[str, float] = field(default_factory=dict)
    stage: str = "training"


Report = Callable[[Progress], None]


class Diverged(ValueError):
    """The loss, or a weight, is no longer a finite number."""


class TrainingLog:
    """Metrics of a run that goes on after step `done`. The caller ends the accelerator's trackers."""

    def __init__(self, recipe: Recipe, done: int, accelerator: Accelerator, report: Report) -> None:
        self.recipe, self.accelerator, self.report = recipe, accelerator, report
        self.path = recipe.output / LOG
        begun = False
        with goes_on_without("the log for TensorBoard"):
            accelerator.init_trackers("tensorboard", init_kwargs={"tensorboard": {"purge_step": done + 1}})
            begun = True
        if not begun:
            accelerator.trackers = []
        self._begin_window()

    def timed(self, batches: Iterable[Any]) -> Iterator[Any]:
        """Yield the batches, counting the seconds waited for them."""
        source = iter(batches)
        while True:
            start = time.perf_counter()
            with errors_of_workers():
                batch = next(source, None)
            if batch is None:
                return
            self._waited += time.perf_counter() - start
            processes = self.accelerator.num_processes
            self._items += processes * items_of(batch, self.recipe.batch_size // processes)
            yield batch

    def step(self, step: int, metrics: dict[str, Tensor]) -> None:
        """Add a step's metrics, scalars; none of a step that was skipped."""
        for name, value in metrics.items():
            total, count = self._sums.get(name, (0.0, 0))
            self._sums[name] = (value.detach().float() + total, count + 1)
        if step % self.recipe.log_every == 0 or step == self.recipe.steps:
            self._write(step)

    def _begin_window(self) -> None:
        self._sums: dict[str, tuple[Tensor | float, int]] = {}
        self._items, self._waited, self._since = 0, 0.0, time.perf_counter()

    def _write(self, step: int) -> None:
        means = {name: self._mean(total / count) for name, (total, count) in self._sums.items()}
        seconds = time.perf_counter() - self._since
        means["items_per_second"] = self._items / seconds
        means["data_wait"] = self._waited / seconds
        self._begin_window()
        with goes_on_without("the log for TensorBoard"):
            self.accelerator.log(means, step=step)
        if self.accelerator.is_main_process:
            with goes_on_without(str(self.path)):
                _append(self.path, {"step": step, "time": round(time.time(), 1), **means})
            self.report(Progress(step, self.recipe.steps, means))

    def _mean(self, value: Tensor | float) -> float:
        """Mean over the processes, all of which must have the same metrics."""
        if self.accelerator.num_processes == 1:
            return float(value)
        value = torch.as_tensor(value, device=self.accelerator.device)
        return float(self.accelerator.reduce(value, "mean"))


class SkippedSteps:
    """Steps skipped because their gradient was not finite, in a run that goes on after step `done`."""

    def __init__(self, recipe: Recipe, done: int, *, writes: bool) -> None:
        self.recipe, self.path, self.writes = recipe, recipe.output / SKIPPED, writes
        lines = read_jsonl(self.path)
        self.count = sum(line["step"] <= done for line in lines)

    def add(self, step: int, batch: dict[str, Any]) -> None:
        """Count one more, and write down the items of its batch.

        Raises Diverged where that is one too many, or the run's last step: nothing shows then whether the
        weights are still good.
        """
        self.count += 1
        keys = [str(key) for key in batch.get("key", [])]
        if self.writes:
            with goes_on_without(str(self.path)):
                _append(self.path, {"step": step, "keys": keys})
        if self.count > self.recipe.optimizer.max_skipped_steps or step == self.recipe.steps:
            raise Diverged(
                f"the loss or its gradient was not finite in {self.count} steps, the last is step {step}"
                f" with {', '.join(keys) or 'its batch'} ({self.path} lists all): lower learning_rate,"
                " use fp32, or look at these clips"
            )


@contextmanager
def goes_on_without(written: str) -> Iterator[None]:
    """Make a failure to write what only watches a run, as on a full disk, a warning instead of its end."""
    try:
        with _no_traceback_of_writers():
            yield
    except (OSError, ValueError) as error:  # a clip that cannot be written is a ValueError
        if not isinstance(error, OSError) and not isinstance(error.__cause__, OSError):
            raise
        warn(f"{written}: could not be written, the run goes on without: {one_line(error)}")


@contextmanager
def _no_traceback_of_writers() -> Iterator[None]:
    """Within the `with` block threads that cannot write end silently: TensorBoard's keeps its error."""
    before = threading.excepthook

    def hook(ended: threading.ExceptHookArgs) -> None:
        if not issubclass(ended.exc_type, OSError):
            before(ended)

    threading.excepthook = hook
    try:
        yield
    finally:
        threading.excepthook = before


def show_samples(accelerator: Accelerator, folder: Path, step: int) -> None:
    """Show the samples of a step in TensorBoard: the animation where there is one, else the sheet."""
    for file in (folder / f"step-{step:08d}{suffix}" for suffix in (".gif", ".png")):
        if file.is_file() and accelerator.trackers:
            picture = Summary.Image(encoded_image_string=file.read_bytes(), colorspace=3)
            writer = accelerator.get_tracker("tensorboard", unwrap=True)
            writer.file_writer.add_summary(
                Summary(value=[Summary.Value(tag="samples", image=picture)]), global_step=step
            )
            return


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """The objects in a JSONL file, without damaged lines, as of a full disk; none where there is no file."""
    text = path.read_text("utf-8-sig", errors="replace") if path.exists() else ""
    return [found for line in text.splitlines() if (found := _object_of(line)) is not None]


def _object_of(line: str) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def begin_logs_after(done: int, recipe: Recipe) -> None:
    """Let the logs of a run end with step `done`, after which it goes on.

    Warns (UserWarning) where steps are taken again that a checkpoint had.
    """
    last = remove_steps_after(done, recipe.output / LOG)
    remove_steps_after(done, recipe.output / SKIPPED)
    if done == 0 and last >= recipe.checkpoint_every:
        warn(f"{recipe.output}: its log told of {last:g} steps, and there is no checkpoint: it begins anew")


def remove_steps_after(step: int, path: Path) -> float:
    """Remove a JSONL file's lines of later steps, and a last line that was cut off while it was written.

    Other lines that are damaged are removed with a warning (UserWarning). Returns the last step that was
    there, 0 for none.
    """
    steps: list[float] = []
    if path.exists():
        lines = path.read_text(encoding="utf-8-sig", errors="replace").splitlines()
        steps = [_step_of(line) for line in lines]
        if damaged := sum(map(math.isnan, steps[:-1])):
            warn(f"{path}: {damaged} damaged lines are removed")
        kept = (line for line, of in zip(lines, steps, strict=True) if of <= step)
        write_text(path, "".join(f"{line}\n" for line in kept))
    return max((of for of in steps if not math.isnan(of)), default=0.0)


def _step_of(line: str) -> float:
    """The step of a line; math.nan of a damaged one."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, TypeError, KeyError):
        return math.nan


def _append(path: Path, line: dict[str, Any]) -> None:
    """Append a line to a JSONL file, after one that was cut off, as by a full disk, as a line of its own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - 1))
        begin = "" if file.read() in (b"", b"\n") else "\n"
        file.write(f"{begin}{json.dumps(line)}\n".encode())
