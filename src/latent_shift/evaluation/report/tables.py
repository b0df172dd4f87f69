"""A report as a table in Markdown: a line a subject, and below it what each column was made with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from latent_shift.evaluation.report.model import Column, Figure, Report, settings_apart

ARROWS = {"lower": " ↓", "higher": " ↑", "neither": ""}


def header(column: Column, number: int) -> str:
    """The metric, which way is better, and the number of its footnote."""
    return f"{column.metric}{ARROWS[column.better]} [{number}]"


def cell(column: Column, figure: Figure | None) -> str:
    """A figure with its interval, as printed."""
    if figure is None:
        return ""
    if column.percent:
        low, high = figure.low, figure.high
        told = "" if low is None or high is None else f" ({100 * low:.1f}-{100 * high:.1f})"
        return f"{100 * figure.value:.1f} %{told}"
    half = None if figure.high is None else figure.high - figure.value
    return f"{number(figure.value)}{'' if half is None else f' ± {number(half)}'}"


def number(value: float) -> str:
    """Three or four digits that say something."""
    size = abs(value)
    if 0 < size < 0.001:
        return f"{value:.1e}" if size > 1e-9 else "0.0000"
    places = 1 if size >= 100 else 2 if size >= 10 else 3 if size >= 1 else 4
    return f"{value:.{places}f}"


def footnote(column: Column) -> str:
    """What a column was made with, in a line."""
    return said(column.made_with)


def said(settings: dict[str, Any]) -> str:
    """Settings in a line."""
    return ", ".join(f"{name} {value}" for name, value in settings.items() if value is not None)


def rows(report: Report) -> list[list[str]]:
    """The cells of the table, a list a subject: its name, then a figure a column."""
    return [
        [
            subject.name,
            *(cell(column, subject.figures.get(column.key)) for column in report.columns),
        ]
        for subject in report.subjects
    ]


def headers(report: Report) -> list[str]:
    """The titles of the columns."""
    return ["clips", *(header(column, place) for place, column in enumerate(report.columns, 1))]


def footnotes(report: Report) -> list[str]:
    """A line for columns that were made alike, and what sets columns of one metric apart."""
    apart = settings_apart(report.columns)
    together: dict[str, list[int]] = {}
    for place, column in enumerate(report.columns, 1):
        together.setdefault(footnote(column), []).append(place)
    lines = [f"[{', '.join(map(str, places))}] {told}" for told, places in together.items()]
    for place, column in enumerate(report.columns, 1):
        if apart[column.key]:
            lines.append(f"[{place}] differs from its namesakes by {', '.join(apart[column.key])}")
    return lines


def markdown(report: Report) -> str:
    """The table, its footnotes and circumstances, as Markdown."""
    lines = [_line(headers(report)), "|" + "---|" * (len(report.columns) + 1)]
    lines += [_line(cells) for cells in rows(report)]
    lines += ["", "± and brackets: 95 % intervals.", "", *(f"- {line}" for line in footnotes(report))]
    lines += [f"- {note}" for note in report.notes]
    if report.circumstances:
        told = said(_flat(report.circumstances))
        lines += ["", f"{told[:1].upper()}{told[1:]}."]
    return "\n".join([*lines, ""])


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(text.replace('|', '/') for text in cells)} |"


def _flat(settings: dict[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat |= value if isinstance(value, dict) else {name: value}
    return flat
