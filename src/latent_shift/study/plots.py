"""Plots of a study's report as SVG text: shares with intervals, and how raters voted on prompts."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Sequence

import numpy as np
from matplotlib import style
from matplotlib.figure import Figure

from latent_shift.evaluation.plots import STYLE
from latent_shift.study.results import Results
from latent_shift.study.schema import Answer

_FIRST, _SECOND, _GRAY = "#2f5d62", "#c9825b", "#8a8f98"


def plots(results: Results, answers: Sequence[Answer]) -> list[str]:
    """Return a plot of the shares of votes, and one of the seconds that answers took."""
    seconds = [one.seconds for one in answers if one.kind == "pair" and one.live]
    with style.context(["default", STYLE]):
        found = [_shares(results)] if any(one.share for one in results.included.comparisons) else []
        if len(set(seconds)) > 1:
            found.append(_seconds(seconds))
    return found


def _shares(results: Results) -> str:
    """Shares of votes for the first of two sources, all raters who are not excluded, with 95 % intervals."""
    shown = [one for one in results.included.comparisons if one.share is not None]
    figure = Figure(figsize=(4.6, 1.1 + 0.45 * len(shown)), layout="constrained")
    axes = figure.subplots()
    axes.axvline(50, color=_GRAY, linewidth=0.8, linestyle=":")
    colours = {
        question: colour for question, colour in zip(results.questions, (_FIRST, _SECOND), strict=False)
    }
    for place, one in enumerate(shown):
        if one.share is None:
            continue
        value, colour = 100 * one.share.value, colours.get(one.question, _GRAY)
        if one.share.low is not None and one.share.high is not None:
            axes.plot([100 * one.share.low, 100 * one.share.high], [place, place], color=colour, linewidth=2)
        axes.plot([value], [place], "o", color=colour, markersize=6)
    labels = [f"{one.question}\n{one.first} : {one.second}" for one in shown]
    axes.set(
        yticks=range(len(shown)), yticklabels=labels, xlim=(0, 100), ylim=(len(shown) - 0.5, -0.5),
        xlabel="share of votes for the first, %", title="Preferences",
    )  # fmt: skip
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.tick_params(axis="y", length=0)
    return _svg(figure)


def _seconds(seconds: Sequence[float]) -> str:
    """Histogram of response times, those over the 98th percentile in the last bar."""
    most = max(float(np.percentile(seconds, 98)), 0.1)
    edges = np.linspace(0, most, 21)
    bars = Counter(min(int(20 * one / most), 19) for one in seconds)
    figure = Figure(figsize=(4.6, 2.4), layout="constrained")
    axes = figure.subplots()
    axes.bar(edges[:-1], [bars[bar] for bar in range(20)], width=edges[1], align="edge", color=_FIRST)
    axes.set(
        xlabel="seconds from the first whole play to the answer",
        ylabel="answers",
        title="Response times",
        xlim=(0, most),
    )
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return _svg(figure)


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :].strip()
