"""A report given to the user: a table on standard output, JSON and a page in files, and when it was made.

The table is drawn by rich on a terminal, and is the same as Markdown anywhere else.
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latent_shift.io import write_text

if TYPE_CHECKING:
    from latent_shift.evaluation.report.model import Report
    from latent_shift.evaluation.report.page import Shown


def give(
    report: Report,
    output: Path | None,
    html: Path | None,
    as_json: bool,
    *,
    shown: Sequence[Shown] = (),
    fps: float = 8,
) -> None:
    """Print a report, and write it where it was asked."""
    text = report.model_dump_json(indent=2)
    if as_json:
        print(text)
    else:
        print_report(report)
    if output is not None:
        write_text(output, text + "\n")
    if html is not None:
        from latent_shift.evaluation.report.page import page

        write_text(html, page(report, shown, fps=fps))


def print_report(report: Report) -> None:
    """Print the table, what its columns were made with, and its notes."""
    from latent_shift.evaluation.report import tables

    if not sys.stdout.isatty():
        print(tables.markdown(report))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(*tables.headers(report), title=report.title)
    for cells in tables.rows(report):
        table.add_row(*cells)
    console = Console(highlight=False)
    console.print(table)
    for line in (*tables.footnotes(report), *report.notes):
        console.print(line, style="dim", markup=False)


def with_circumstances(report: Report, **more: Any) -> Report:
    """The report with versions, machine and date."""
    return report.model_copy(update={"circumstances": {**more, **circumstances()}})


def circumstances() -> dict[str, Any]:
    """What figures depend on beside their settings: "versions", "machine" (a GPU, else the CPU), "date"."""
    import diffusers
    import torch

    from latent_shift.evaluation.features.passing import versions

    machine = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine()
    return {
        "versions": {**versions(), "diffusers": diffusers.__version__},
        "machine": f"{machine}, {os.cpu_count()} cores",
        "date": datetime.now(UTC).date().isoformat(),
    }
