"""Results of an evaluation: rows (models, folders), metrics with their settings, values with intervals.

A metric stands for itself together with everything that decides its value but the row: extractor, resize,
frames, rate, how many clips, against which reference. Two values stand in one column only if all of that is
the same; `join_reports` puts several reports side by side by that rule only. A report is written as JSON by
`model_dump_json`, as a Markdown table here, and as a page by `page.py`.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import AliasChoices, BaseModel, ConfigDict, Field, SkipValidation, ValidationError

from latent_shift.documents import validation_error
from latent_shift.io import one_line

# Kinds of clips in a report on a generated world: a row's setting "clips".
REAL, RECONSTRUCTED, GENERATED = "real clips", "real, through the autoencoder", "the model"
ARROWS = {"lower": " ↓", "higher": " ↑", "neither": ""}


def _or(name: str, old: str) -> AliasChoices:
    """Accept the key `old` of earlier reports, for one release."""
    return AliasChoices(name, old)


class MetricInfo(BaseModel):
    """A metric and its settings."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(validation_alias=_or("name", "metric"))  # such as "FVD (i3d)"
    better: Literal["lower", "higher", "neither"]
    settings: dict[str, Any] = Field(validation_alias=_or("settings", "made_with"))
    percent: bool = False

    @property
    def key(self) -> str:
        """The name and a hash over the settings."""
        text = json.dumps(self.settings, sort_keys=True)
        return f"{self.name} {hashlib.sha256(text.encode()).hexdigest()[:8]}"


class MetricResult(BaseModel):
    """A value and, where there is one, its 95 % interval."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    value: float
    low: float | None = None
    high: float | None = None


class Proportion(MetricResult):
    """`right` of `of` clips or objects, with the interval of `metrics.intervals.wilson_interval`."""

    right: int
    of: int


class Row(BaseModel):
    """A model with the settings of its clips, or a folder."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    settings: dict[str, Any] = Field(default={}, validation_alias=_or("settings", "made_with"))
    # by `MetricInfo.key`
    results: dict[str, Proportion | MetricResult] = Field(
        default={}, validation_alias=_or("results", "figures")
    )


@dataclass(frozen=True)
class Example:
    """A clip (F, H, W, 3) on the report's page.

    label: of the line of clips it stands in, its prompt. column: the row of the report that it belongs to.
    """

    label: str
    column: str
    clip: NDArray[np.uint8]
    note: str = ""
    fps: float = 8


class Report(BaseModel):
    """A result file. examples: in memory only."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)

    title: str
    metrics: list[MetricInfo] = Field(validation_alias=_or("metrics", "columns"))
    rows: list[Row] = Field(validation_alias=_or("rows", "subjects"))
    # versions, machine, date: recorded, not compared
    environment: dict[str, Any] = Field(default={}, validation_alias=_or("environment", "circumstances"))
    notes: list[str] = []
    examples: SkipValidation[list[Example]] = Field(default=[], exclude=True, repr=False)


def read_report(file: Path) -> Report:
    """Read a result file. Raises ValueError naming one that is missing or holds something else."""
    if not file.is_file():
        raise ValueError(f"{file}: there is no such result file")
    try:
        return Report.model_validate_json(file.read_text(encoding="utf-8"))
    except (ValidationError, UnicodeDecodeError) as error:
        reason = validation_error(error) if isinstance(error, ValidationError) else one_line(error)
        raise ValueError(f"{file}: is no result of latent-shift evaluate: {reason}") from error


def join_reports(reports: Sequence[Report], title: str) -> Report:
    """Join reports: equal metrics become one column, all others stand side by side.

    Rows of the same name and settings become one row. Raises ValueError for no reports, and where two rows
    that would become one differ in a metric's value, as those of two folders of one name.
    """
    if not reports:
        raise ValueError("there are no results to join")
    rows: dict[str, Row] = {}
    for row in (row for report in reports for row in report.rows):
        key = json.dumps([row.name, row.settings], sort_keys=True)
        known = rows.get(key, row)
        for metric in known.results.keys() & row.results.keys():
            one, other = known.results[metric].value, row.results[metric].value
            if one != other and not (math.isnan(one) and math.isnan(other)):
                raise ValueError(
                    f"{row.name}: has {one:.4g} in one report and {other:.4g} in another, both as"
                    f" {metric.rpartition(' ')[0]}: two folders of one name? Rename one and measure it again"
                )
        rows[key] = known.model_copy(update={"results": {**known.results, **row.results}})
    titles = [report.title for report in reports]
    numbered = [  # of the second report of a title on, so that none takes another's place
        title if (before := titles[:place].count(title)) == 0 else f"{title} ({before + 1})"
        for place, title in enumerate(titles)
    ]
    environment = {
        f"{title}: {name}" if len(reports) > 1 else name: value
        for title, report in zip(numbered, reports, strict=True)
        for name, value in report.environment.items()
    }
    return Report(
        title=title,
        metrics=list({metric.key: metric for report in reports for metric in report.metrics}.values()),
        rows=list(rows.values()),
        environment=environment,
        notes=list(dict.fromkeys(note for report in reports for note in report.notes)),
    )


def differing_settings(metrics: Iterable[MetricInfo]) -> dict[str, list[str]]:
    """For metrics with several columns, by key: the settings in which each differs from its namesakes."""
    groups: dict[str, list[MetricInfo]] = {}
    for metric in metrics:
        groups.setdefault(metric.name, []).append(metric)
    found: dict[str, list[str]] = {}
    for group in groups.values():
        names = sorted({name for metric in group for name in metric.settings})
        differ = [name for name in names if len({str(metric.settings.get(name)) for metric in group}) > 1]
        for metric in group:
            found[metric.key] = [f"{name} {metric.settings.get(name)}" for name in differ]
    return found


# ---- the table --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Table:
    """A table as text. tooltips: one a row, shown on a page. notes: lines below."""

    headers: Sequence[str]
    rows: Sequence[Sequence[str]]
    title: str = ""
    tooltips: Sequence[str] = ()
    notes: Sequence[str] = ()

    def markdown(self) -> str:
        """Headers and rows as Markdown."""
        lines = [_line(self.headers), "|" + "---|" * len(self.headers), *map(_line, self.rows)]
        return "\n".join(lines)


def markdown(report: Report) -> str:
    """The table, its footnotes and environment, as Markdown."""
    lines = [Table(table_headers(report), table_rows(report)).markdown()]
    lines += ["", "± and brackets: 95 % intervals.", ""]
    lines += [f"- {escape_markdown(line)}" for line in (*footnotes(report), *report.notes)]
    if report.environment:
        text = format_settings(report.environment)
        lines += ["", escape_markdown(f"{text[:1].upper()}{text[1:]}.")]
    return "\n".join([*lines, ""])


def table_headers(report: Report) -> list[str]:
    """Titles of the columns: the metric, which way is better, and the number of its footnote."""
    numbered = enumerate(report.metrics, 1)
    return ["clips", *(f"{metric.name}{ARROWS[metric.better]} [{number}]" for number, metric in numbered)]


def table_rows(report: Report) -> list[list[str]]:
    """Cells of the table, a list a row: its name, then a value a metric."""
    return [
        [row.name, *(format_result(metric, row.results.get(metric.key)) for metric in report.metrics)]
        for row in report.rows
    ]


def footnotes(report: Report) -> list[str]:
    """A line for metrics of the same settings, and the settings in which columns of one metric differ."""
    groups: dict[str, list[str]] = {}
    for number, metric in enumerate(report.metrics, 1):
        groups.setdefault(format_settings(metric.settings), []).append(str(number))
    lines = [f"[{', '.join(numbers)}] {text}" for text, numbers in groups.items()]
    differing = differing_settings(report.metrics)
    for number, metric in enumerate(report.metrics, 1):
        if differing[metric.key]:
            lines.append(f"[{number}] differs from its namesakes by {', '.join(differing[metric.key])}")
    return lines


def format_result(metric: MetricInfo, result: MetricResult | None) -> str:
    """A result with its interval, as printed."""
    if result is None:
        return ""
    low, high = result.low, result.high
    if metric.percent:
        interval = "" if low is None or high is None else f" ({100 * low:.1f}-{100 * high:.1f})"
        return f"{100 * result.value:.1f} %{interval}"
    half = "" if high is None else f" ± {format_number(high - result.value)}"
    return f"{format_number(result.value)}{half}"


def format_number(value: float) -> str:
    """A number with three or four significant digits."""
    size = abs(value)
    if 0 < size < 0.001:
        return f"{value:.1e}" if size > 1e-9 else "0.0000"
    places = 1 if size >= 100 else 2 if size >= 10 else 3 if size >= 1 else 4
    return f"{value:.{places}f}"


def format_settings(settings: dict[str, Any]) -> str:
    """Settings in a line, those of a setting that is a mapping in its place."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat |= value if isinstance(value, dict) else {name: value}
    return ", ".join(f"{name} {value}" for name, value in flat.items() if value is not None)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(map(escape_markdown, cells))} |"


def escape_markdown(text: str) -> str:
    """A text in which no < begins a tag of HTML and no | a cell of a table."""
    return re.sub(r"(<(?=[A-Za-z/!?])|[|])", r"\\\1", text)
