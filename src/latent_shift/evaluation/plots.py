"""Plots as SVG text, drawn by matplotlib: lines over a number, and the curves of a report.

The same lines give the same bytes: identifiers are hashed with a fixed salt, and no date is written.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from matplotlib import style
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from latent_shift.evaluation.report import MetricInfo, Report

OVER = ("guidance", "steps", "frames")  # settings of rows over which curves are drawn
_INSIDE = 6  # names of lines that fit between them; more stand beside the plot
_COLOURS, _MARKERS = 10, "osDv"  # another marker where matplotlib's colours begin again
STYLE: Any = {  # on matplotlib's own, whatever a user has set for other plots
    "svg.hashsalt": "latent-shift",
    "svg.fonttype": "none",  # text stays text
    "text.parse_math": False,  # a name may have two $
    "font.size": 9,
    "axes.autolimit_mode": "round_numbers",
    "axes.xmargin": 0,
    "axes.ymargin": 0,
}


@dataclass
class Line:
    """A named line through points (x, y)."""

    name: str
    points: list[tuple[float, float]] = field(default_factory=list)


def line_plot(title: str, x_name: str, y_name: str, lines: Sequence[Line]) -> str:
    """Return an SVG of lines as `line_figure` draws them. Raises ValueError for no points.

    title, x_name, y_name: of the plot and its axes.
    """
    if not any(line.points for line in lines):
        raise ValueError(f"plot {title!r} has no points")
    with style.context(["default", STYLE]):
        figure = line_figure(title, x_name, y_name, lines)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :].strip()


def line_figure(title: str, x_name: str, y_name: str, lines: Sequence[Line]) -> Figure:
    """Draw lines with a legend under a title; axes, called x_name and y_name, end at round numbers."""
    beside = len(lines) > _INSIDE
    figure = Figure(figsize=(6.6 if beside else 4.6, 3.2), layout="constrained")
    axes = figure.subplots()
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    for number, line in enumerate(lines):
        x, y = zip(*sorted(line.points), strict=True)
        marker = _MARKERS[number // _COLOURS % len(_MARKERS)]
        axes.plot(x, y, marker=marker, markersize=3, label=f"line {number}", gid=f"line-{line.name}")
    axes.set(title=title, xlabel=x_name, ylabel=y_name)
    axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    if beside:
        legend = axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    else:
        legend = axes.legend(frameon=False)
    for text, line in zip(legend.get_texts(), lines, strict=True):
        text.set_text(line.name)  # not as labels, of which matplotlib leaves out those that begin with _
    return figure


def curves(report: Report) -> list[str]:
    """Return an SVG for each metric over each of OVER in which the rows differ, a line a model."""
    found = []
    for over in OVER:
        groups: dict[str, tuple[MetricInfo, dict[str, Line]]] = {}
        for metric in report.metrics:
            others = {name: value for name, value in metric.settings.items() if name != over}
            _, lines = groups.setdefault(f"{metric.name} {others}", (metric, {}))
            for row in report.rows:
                x, result = row.settings.get(over), row.results.get(metric.key)
                if isinstance(x, int | float) and result is not None:
                    model = str(row.settings.get("model", row.name))
                    lines.setdefault(model, Line(model)).points.append((float(x), result.value))
        for metric, lines in groups.values():
            drawn = [line for line in lines.values() if len({x for x, _ in line.points}) > 1]
            if drawn:
                found.append(line_plot(f"{metric.name} over {over}", over, metric.name, drawn))
    return found
