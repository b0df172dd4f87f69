"""Progress on standard error; with `results.py`, all that knows rich.

Where standard error is no terminal, sampling is silent and training tells its figures in lines.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from typing import Protocol


class Report(Protocol):
    """What a training tells of itself."""

    @property
    def stage(self) -> str:
        """What the steps are: "training", or what must be done before it."""
        ...

    @property
    def step(self) -> int:
        """The steps that are done."""
        ...

    @property
    def steps(self) -> int:
        """All of them."""
        ...

    @property
    def figures(self) -> dict[str, float]:
        """Loss, speed and so on, by name."""
        ...


@contextmanager
def progress_bar(label: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show `total` steps with the time left; yields a function that sets how many are done."""
    if not sys.stderr.isatty():
        yield lambda done: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    # Lines for standard output must reach it: rich may lift them above the bar only on one terminal.
    together = sys.stdout.isatty()
    with Progress(*columns, console=Console(stderr=True), transient=True, redirect_stdout=together) as bar:
        task = bar.add_task(label, total=total)
        yield lambda done: bar.update(task, completed=done)


@contextmanager
def training_bar(task: str, steps: int) -> Iterator[Callable[[Report], None]]:
    """Show a training's steps, loss, speed and time left; yields what takes its reports.

    Where standard error is no terminal, a report is one line on it.
    """
    if not sys.stderr.isatty():
        yield _Lines()
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    figures = TextColumn("{task.fields[figures]}")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), figures)
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as bar:
        rows = {"training": bar.add_task(f"training: {task}", total=steps, figures="")}

        def show(report: Report) -> None:
            if report.stage not in rows:
                rows[report.stage] = bar.add_task(report.stage, total=report.steps, figures="")
            bar.update(rows[report.stage], completed=report.step, figures=_main_figures(report.figures))

        yield show


def _main_figures(figures: dict[str, float]) -> str:
    if "loss" not in figures:
        return ""
    speed, waiting = figures["items_per_second"], figures["data_wait"]
    return f"loss {figures['loss']:.4f}  {speed:.1f}/s  waiting for data {waiting:.0%}"


class _Lines:
    """A line a report, with the time left by how long the steps since the stage's first report took."""

    def __init__(self) -> None:
        self.first: dict[str, tuple[int, float]] = {}  # step and time, by stage

    def __call__(self, report: Report) -> None:
        now = time.monotonic()
        step, since = self.first.setdefault(report.stage, (report.step, now))
        named = "".join(f"  {name} {value:.4g}" for name, value in report.figures.items())
        left = ""
        if report.step > step:
            seconds = (report.steps - report.step) * (now - since) / (report.step - step)
            left = f"  left {timedelta(seconds=round(seconds))}"
        print(f"{report.stage}  {report.step}/{report.steps}{named}{left}", file=sys.stderr, flush=True)


@contextmanager
def progress_of_sets() -> Iterator[Callable[[str, int, int], None]]:
    """A progress bar for each set of clips, one after the other."""
    with ExitStack() as stack:
        bars: dict[str, Callable[[int], None]] = {}

        def show(name: str, done: int, total: int) -> None:
            if name not in bars:
                stack.close()
                bars[name] = stack.enter_context(progress_bar(name, total))
            bars[name](done)

        yield show
