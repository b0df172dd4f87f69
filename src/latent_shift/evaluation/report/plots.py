"""Plots as SVG text, with nothing to install: lines over a number, and the curves of a report.

curves(report)       # figures over guidance, steps or frames, where subjects differ in them
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

from latent_shift.evaluation.report.model import Column, Report

OVER = ("guidance", "steps", "frames")
_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP, _RIGHT = 440, 280, 56, 40, 28, 12
_COLOURS = ("#2563a8", "#c2410c", "#15803d", "#7e22ce", "#b91c1c", "#0f766e", "#a16207", "#475569")
_TICKS = 5  # spaces between them, about


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
    across_at, down_at = (ticks([point[axis] for point in points]) for axis in (0, 1))
    (left, right), (low, high) = (across_at[0], across_at[-1]), (down_at[0], down_at[-1])

    def place(x: float, y: float) -> tuple[float, float]:
        across = _LEFT + (x - left) / (right - left) * (_WIDTH - _LEFT - _RIGHT)
        return across, _HEIGHT - _BOTTOM - (y - low) / (high - low) * (_HEIGHT - _BOTTOM - _TOP)

    parts = [f'<text x="{_LEFT}" y="16" font-weight="bold">{escape(title)}</text>']
    for x in across_at:
        parts.append(_text(place(x, low)[0], _HEIGHT - _BOTTOM + 16, f"{x:g}", "middle"))
    for y in down_at:
        down = place(left, y)[1]
        parts.append(_text(_LEFT - 6, down + 4, f"{y:g}", "end"))
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


def ticks(values: Sequence[float]) -> list[float]:
    """Round numbers around all values, evenly apart by 1, 2 or 5 times a power of ten: two or more, few."""
    low, high = min(values), max(values)
    rough = (high - low or abs(high) or 1.0) / _TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    apart = next(power * times for times in (1, 2, 5, 10) if power * times >= rough * (1 - 1e-9))
    first, last = math.floor(low / apart + 1e-9), math.ceil(high / apart - 1e-9)
    return [float(f"{apart * count:.12g}") for count in range(first, max(last, first + 1) + 1)]


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _stroke(points: Sequence[tuple[float, float]], colour: str, width: int) -> str:
    at = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline points="{at}" fill="none" stroke="{colour}" stroke-width="{width}"/>'
