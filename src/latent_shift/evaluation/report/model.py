"""What a result file holds: subjects (models, folders), columns (metrics with their settings), figures.

A column is a metric together with everything that decides its value but the subject: extractor, resize,
frames, rate, how many clips, against which reference. Two figures stand in one column only if all of that is
the same; `join` puts several files side by side on that rule alone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

Better = Literal["lower", "higher", "neither"]


class Column(BaseModel):
    """A metric and what it was made with."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    metric: str  # such as "FVD (i3d)"
    better: Better
    made_with: dict[str, Any]
    percent: bool = False

    @property
    def key(self) -> str:
        """The metric and a hash over its settings."""
        told = json.dumps(self.made_with, sort_keys=True)
        return f"{self.metric} {hashlib.sha256(told.encode()).hexdigest()[:8]}"


class Figure(BaseModel):
    """A value and, where there is one, its 95 % interval."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    value: float
    low: float | None = None
    high: float | None = None


class Subject(BaseModel):
    """What was measured: a model with the settings of its clips, or a folder."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    made_with: dict[str, Any] = {}
    figures: dict[str, Figure] = {}  # by the key of their column


class Report(BaseModel):
    """A result file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    title: str
    columns: list[Column]
    subjects: list[Subject]
    circumstances: dict[str, Any] = {}  # versions, machine, date: told, not compared
    notes: list[str] = []


def read_report(file: Path) -> Report:
    """A result file. Raises ValueError naming one that is missing or holds something else."""
    if not file.is_file():
        raise ValueError(f"{file}: there is no such result file")
    try:
        return Report.model_validate_json(file.read_text(encoding="utf-8"))
    except (ValidationError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{file}: is no result of latent-shift evaluate: {reason}") from error


def join(reports: Sequence[Report], title: str) -> Report:
    """Several results as one: equal columns become one, all others stand side by side.

    A subject of the same name and settings in two of them is one subject. Raises ValueError for no reports.
    """
    if not reports:
        raise ValueError("there are no results to join")
    columns = {column.key: column for report in reports for column in report.columns}
    subjects: list[Subject] = []
    for subject in (one for report in reports for one in report.subjects):
        _put(subjects, subject)
    circumstances = {
        f"{report.title}: {name}" if len(reports) > 1 else name: value
        for report in reports
        for name, value in report.circumstances.items()
    }
    notes = list(dict.fromkeys(note for report in reports for note in report.notes))
    return Report(
        title=title, columns=list(columns.values()), subjects=subjects, circumstances=circumstances,
        notes=notes,
    )  # fmt: skip


def settings_apart(columns: Iterable[Column]) -> dict[str, list[str]]:
    """For metrics with several columns, by key: in what each differs from the others of its metric."""
    groups: dict[str, list[Column]] = {}
    for column in columns:
        groups.setdefault(column.metric, []).append(column)
    told: dict[str, list[str]] = {}
    for group in groups.values():
        names = {name for column in group for name in column.made_with}
        differ = [
            name for name in sorted(names) if len({str(column.made_with.get(name)) for column in group}) > 1
        ]
        for column in group:
            told[column.key] = [f"{name} {column.made_with.get(name)}" for name in differ]
    return told


def _put(subjects: list[Subject], subject: Subject) -> None:
    for number, known in enumerate(subjects):
        if (known.name, known.made_with) == (subject.name, subject.made_with):
            figures = {**known.figures, **subject.figures}
            subjects[number] = known.model_copy(update={"figures": figures})
            return
    subjects.append(subject)
