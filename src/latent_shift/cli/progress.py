"""The progress bar on standard error: the only file that knows rich.

Silent where standard error is no terminal.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol


class Report(Protocol):
    """What a training tells: the step it is at, of how many, and figures by name."""

    @property
    def step(self) -> int: ...
    @property
    def steps(self) -> int: ...
    @property
    def figures(self) -> dict[str, float]: ...


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
    """Show a training's steps, loss, speed and time left; yields what takes its reports."""
    if not sys.stderr.isatty():
        yield _training_line
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    figures = TextColumn("loss {task.fields[loss]:.4f}  {task.fields[speed]:.1f}/s  wait {task.fields[wait]:.0%}")
    columns = (TextColumn(task), BarColumn(), MofNCompleteColumn(), figures, TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        row = bar.add_task(task, total=steps, loss=float("nan"), speed=0.0, wait=0.0)
        yield lambda report: bar.update(
            row,
            completed=report.step,
            loss=report.figures["loss"],
            speed=report.figures["items_per_second"],
            wait=report.figures["data_wait"],
        )


def _training_line(report: Report) -> None:
    named = "  ".join(f"{name} {value:.4g}" for name, value in report.figures.items())
    print(f"step {report.step}/{report.steps}  {named}", file=sys.stderr, flush=True)
