"""A report on standard output: a table drawn by rich on a terminal, the same as Markdown anywhere else."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from latent_shift.evaluation.report.model import Report


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
