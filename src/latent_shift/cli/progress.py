"""Progress on standard error: bars on a terminal, else lines of training's metrics and nothing of sampling.

The libraries' own bars and log lines are switched off: `quiet_libraries` of `checkpoints.quiet`.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from latent_shift.cli.errors import say

if TYPE_CHECKING:
    from rich.progress import Progress

    from latent_shift.training.logging import Progress as TrainingProgress


def _bar(*texts: str, **options: Any) -> Progress:
    """A bar with the task's name, steps, further texts and the time left."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    name, *rest = (TextColumn(text, markup=False) for text in ("{task.description}", *texts))
    columns = (name, BarColumn(), MofNCompleteColumn(), *rest, TimeRemainingColumn())
    console = Console(stderr=True, soft_wrap=True)  # lines that pass above the bar are not broken
    return Progress(*columns, console=console, **options)


@contextmanager
def progress_bar(label: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show `total` steps with the time left; yield a function that sets how many are done."""
    if not sys.stderr.isatty():
        yield lambda done: None
        return
    # Lines for standard output must reach it: rich may lift them above the bar only on one terminal.
    together = sys.stdout.isatty()
    with _bar(transient=True, redirect_stdout=together) as bar:
        task = bar.add_task(label, total=total)
        yield lambda done: bar.update(task, completed=done)


@contextmanager
def training_bar(task: str, steps: int) -> Iterator[Callable[[TrainingProgress], None]]:
    """Show a training's steps, loss, speed and time left; yield a function that takes its progress."""
    if not sys.stderr.isatty():
        yield _Lines()
        return
    with _bar("{task.fields[metrics]}") as bar:
        rows = {"training": bar.add_task(f"training: {task}", total=steps, metrics="")}

        def show(report: TrainingProgress) -> None:
            if report.stage not in rows:
                rows[report.stage] = bar.add_task(report.stage, total=report.steps, metrics="")
            bar.update(rows[report.stage], completed=report.step, metrics=_main_metrics(report.metrics))

        yield show


def _main_metrics(metrics: dict[str, float]) -> str:
    if "loss" not in metrics:
        return ""
    speed, waiting = metrics["items_per_second"], metrics["data_wait"]
    return f"loss {metrics['loss']:.4f}  {speed:.1f}/s  waiting for data {waiting:.0%}"


class _Lines:
    """Print one line a report, with the time left by the time since the stage's first report."""

    def __init__(self) -> None:
        self.first: dict[str, tuple[int, float]] = {}  # step and time, by stage

    def __call__(self, report: TrainingProgress) -> None:
        now = time.monotonic()
        step, since = self.first.setdefault(report.stage, (report.step, now))
        named = "".join(f"  {name} {value:.4g}" for name, value in report.metrics.items())
        left = ""
        if report.step > step:
            seconds = (report.steps - report.step) * (now - since) / (report.step - step)
            left = f"  left {timedelta(seconds=round(seconds))}"
        say(f"{report.stage}  {report.step}/{report.steps}{named}{left}")


@contextmanager
def progress_of_sets() -> Iterator[Callable[[str, int, int], None]]:
    """Show a progress bar for each set of clips, one after the other; yield a function that updates them."""
    with ExitStack() as stack:
        bars: dict[str, Callable[[int], None]] = {}

        def show(name: str, done: int, total: int) -> None:
            if name not in bars:
                stack.close()
                bars[name] = stack.enter_context(progress_bar(name, total))
            bars[name](done)

        yield show
