"""Plots as SVG text, with nothing to install: lines over a number, and the curves of a report.

curves(report)       # figures over guidance, steps or frames, where subjects differ in them
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

from latent_shift.evaluation.report.model import Column, Report
from latent_shift.evaluation.report.tables import number

OVER = ("guidance", "steps", "frames")
_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP, _RIGHT = 440, 280, 56, 40, 28, 12
_COLOURS = ("#2563a8", "#c2410c", "#15803d", "#7e22ce", "#b91c1c", "#0f766e", "#a16207", "#475569")
_TICKS = 4


@dataclass
class Line:
    """A named line through points (x, y)."""

    name: str
    points: list[tuple[float, float]] = field(default_factory=list)


def line_plot(title: str, x_name: str, y_name: str, lines: Sequence[Line]) -> str:
    """An SVG of lines with axes and a legend. Raises ValueError for no points."""
    points = [point for line in lines for point in line.points]
    if not points:
        raise ValueError(f"plot {title!r} has no points")
    (left, right), (low, high) = (_range([point[axis] for point in points]) for axis in (0, 1))

    def place(x: float, y: float) -> tuple[float, float]:
        across = _LEFT + (x - left) / (right - left) * (_WIDTH - _LEFT - _RIGHT)
        return across, _HEIGHT - _BOTTOM - (y - low) / (high - low) * (_HEIGHT - _BOTTOM - _TOP)

    parts = [f'<text x="{_LEFT}" y="16" font-weight="bold">{escape(title)}</text>']
    for tick in range(_TICKS + 1):
        x, y = left + (right - left) * tick / _TICKS, low + (high - low) * tick / _TICKS
        across, down = place(x, y)
        parts.append(_text(_LEFT - 6, down + 4, number(y), "end"))
        parts.append(
            _text(across, _HEIGHT - _BOTTOM + 16, f"{x:g}" if x == round(x) else f"{x:.2f}", "middle")
        )
        parts.append(_stroke([(_LEFT, down), (_WIDTH - _RIGHT, down)], "#ddd", 1))
    for count, line in enumerate(lines):
        colour = _COLOURS[count % len(_COLOURS)]
        at = [place(*point) for point in sorted(line.points)]
        parts.append(_stroke(at, colour, 2))
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in at]
        parts.append(
            f'<text x="{_LEFT + 8}" y="{_TOP + 14 + 15 * count}" fill="{colour}">{escape(line.name)}</text>'
        )
    parts.append(_text((_LEFT + _WIDTH) / 2, _HEIGHT - 6, x_name, "middle"))
    parts.append(f'<text x="{_WIDTH - _RIGHT}" y="16" text-anchor="end">{escape(y_name)}</text>')
    style = 'font-family="sans-serif" font-size="12" fill="currentColor"'
    inside = "".join(parts)
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" {style}>{inside}</svg>'


def curves(report: Report) -> list[str]:
    """An SVG for each metric over each of OVER in which the subjects differ, a line a model."""
    found = []
    for over in OVER:
        groups: dict[str, tuple[Column, dict[str, Line]]] = {}
        for column in report.columns:
            told = {name: value for name, value in column.made_with.items() if name != over}
            _, lines = groups.setdefault(f"{column.metric} {told}", (column, {}))
            for subject in report.subjects:
                x, figure = subject.made_with.get(over), subject.figures.get(column.key)
                if isinstance(x, int | float) and figure is not None:
                    model = str(subject.made_with.get("model", subject.name))
                    lines.setdefault(model, Line(model)).points.append((float(x), figure.value))
        for column, lines in groups.values():
            drawn = [line for line in lines.values() if len({x for x, _ in line.points}) > 1]
            if drawn:
                found.append(line_plot(f"{column.metric} over {over}", over, column.metric, drawn))
    return found


def _range(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    room = (high - low) * 0.06 or max(abs(high), 1.0) * 0.1
    return low - room, high + room


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _stroke(points: Sequence[tuple[float, float]], colour: str, width: int) -> str:
    at = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline points="{at}" fill="none" stroke="{colour}" stroke-width="{width}"/>'
