"""Everything about models of Moving Shapes in one report: distances, CLIPSIM, IS, and the exact scores.

The reference are real clips of a series of scenes that no model and no table has seen. Beside the models
stand real clips of the protocol's own scenes, the floor of every distance and the ceiling of every score, and
the same through the first model's autoencoder. The exact scores are those of `moving_shapes/protocol.py`, of
the same clips. Distances and CLIPSIM rest on the package's own encoders and on the scorer's measurements: see
`features.py`.

Shapes: B videos, F frames, H, W pixels, uint8 (B, F, H, W, 3).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latent_shift.evaluation.clip_maker import ClipMaker
from latent_shift.evaluation.extractors.interface import Extractor, TextExtractor
from latent_shift.evaluation.features.passing import Measured, measure_clips
from latent_shift.evaluation.features.reading import Reading
from latent_shift.evaluation.report.figures import Choices, all_figures
from latent_shift.evaluation.report.model import Column, Figure, Report, Subject
from latent_shift.evaluation.report.page import Shown
from latent_shift.evaluation.shards import ClipStore
from latent_shift.moving_shapes import Scene
from latent_shift.moving_shapes.scorer.protocol import (
    SEED,
    Cell,
    CellResult,
    Source,
    batches_of,
    count_in,
    prompt_of,
)
from latent_shift.moving_shapes.scorer.results import COLUMNS, Share, to_row

Clips = NDArray[np.uint8]
REFERENCE_NUMBER = 500_000  # added to a cell's number: the reference's scenes, far from every cell's own
REAL, RESTORED = "real clips (the floor)", "real, through the autoencoder"
_SHARES = tuple(name for name in COLUMNS if name != "speed")


@dataclass(frozen=True)
class Tested:
    """A model in the report. settings: that decide its clips."""

    name: str
    maker: ClipMaker
    store: ClipStore
    settings: dict[str, Any]


@dataclass(frozen=True)
class Asked:
    """What is measured. prompts: a cell; frames: a clip; examples: clips a cell on the page.

    reference: real clips in all, drawn from the cells evenly; many cost little and steady every distance.
    """

    cells: Sequence[Cell]
    prompts: int
    frames: int
    batch: int
    choices: Choices
    reference: int = 1000
    examples: int = 0


@dataclass
class _Line:
    """One subject while it is measured."""

    name: str
    source: Source
    model: Tested | None
    results: dict[str, CellResult] = field(default_factory=dict)


def moving_shapes_report(
    models: Sequence[Tested],
    extractors: Sequence[Extractor],
    asked: Asked,
    show: Callable[[str, int, int], None] = lambda name, done, of: None,
) -> tuple[Report, list[Shown]]:
    """The report of real clips and models, and clips to look at. ValueError for fewer than 2 frames."""
    if asked.frames < 2:
        raise ValueError(f"frames is {asked.frames}; a report on clips needs 2 or more")
    reference = _reference(extractors, asked, show)
    lines = [_Line(REAL, "rendered", None)]
    if models:
        lines.append(_Line(RESTORED, "autoencoder", models[0]))
    lines += [_Line(model.name, "model", model) for model in models]
    columns: dict[str, Column] = {}
    subjects: list[Subject] = []
    notes: list[str] = []
    for line in lines:
        measured, captions = _measure(line, extractors, asked, show)
        texts = {
            one.facts.name: one.texts(captions).cpu().numpy()
            for one in extractors
            if isinstance(one, TextExtractor) and one.facts.per == "clip"
        }
        figures = all_figures(measured, reference, texts, asked.choices)
        exact = _exact(line, asked)
        columns |= {key: column for key, (column, _) in (figures | exact).items()}
        found = {key: figure for key, (_, figure) in (figures | exact).items()}
        subjects.append(Subject(name=line.name, made_with=_told(line), figures=found))
        if line.source == "rendered":
            notes = [_how_sharp(name, measured, rows) for name, rows in texts.items()]
    ordered = sorted(columns.values(), key=lambda column: not column.percent)
    report = Report(title="Moving Shapes", columns=ordered, subjects=subjects, notes=notes)
    return report, _examples(lines)


def _reference(
    extractors: Sequence[Extractor], asked: Asked, show: Callable[[str, int, int], None]
) -> Measured:
    """Real clips of other scenes of the same cells."""
    each = -(-asked.reference // len(asked.cells))
    total = each * len(asked.cells)
    cells = [replace(cell, number=cell.number + REFERENCE_NUMBER) for cell in asked.cells]

    def stream() -> Iterator[tuple[list[str], Clips]]:
        for cell in cells:
            done = 0
            for scenes, clips, _ in batches_of(cell, "rendered", each, asked.frames, asked.batch):
                yield _names(cell, done, scenes), clips
                done += len(scenes)

    return measure_clips(
        stream(), extractors, Reading(asked.frames), source="other real clips", seed=SEED,
        show_done=lambda done: show("reference", done, total),
    )  # fmt: skip


def _measure(
    line: _Line, extractors: Sequence[Extractor], asked: Asked, show: Callable[[str, int, int], None]
) -> tuple[Measured, list[str]]:
    """The clips of a line through the extractors and the scorer; and their captions."""
    total, captions = asked.prompts * len(asked.cells), []  # type: ignore[var-annotated]
    model = line.model

    def stream() -> Iterator[tuple[list[str], Clips]]:
        for cell in asked.cells:
            result = line.results.setdefault(cell.name, CellResult(cell.name, line.source))
            made = batches_of(
                cell, line.source, asked.prompts, asked.frames, asked.batch,
                model.maker if model else None, model.store if model else None,
            )  # fmt: skip
            done = 0
            for scenes, clips, seconds in made:
                count_in(result, scenes, clips, seconds, asked.examples)
                captions.extend(prompt_of(scene, asked.frames) for scene in scenes)
                yield _names(cell, done, scenes), clips
                done += len(scenes)

    measured = measure_clips(
        stream(), extractors, Reading(asked.frames), source=line.name, seed=SEED,
        show_done=lambda done: show(line.name, done, total),
    )  # fmt: skip
    return measured, captions


def _names(cell: Cell, first: int, scenes: Sequence[Scene]) -> list[str]:
    return [f"{cell.name}-{first + place:06d}" for place in range(len(scenes))]


def _exact(line: _Line, asked: Asked) -> dict[str, tuple[Column, Figure]]:
    """The scorer's shares over all cells, as columns."""
    rows = [to_row(result) for result in line.results.values()]
    cells = ", ".join(cell.name for cell in asked.cells)
    made_with = {
        "scorer": "Moving Shapes", "cells": cells, "prompts a cell": asked.prompts, "frames": asked.frames,
        "seed": SEED,
    }  # fmt: skip
    found = {}
    for name in _SHARES:
        shares = [row.columns[name] for row in rows if name in row.columns]
        whole = Share(right=sum(one.right for one in shares), of=sum(one.of for one in shares))
        low, high = whole.interval()
        title = "all right at once" if name == "all" else f"{name} right"
        column = Column(metric=title, better="higher", made_with=made_with, percent=True)
        found[column.key] = column, Figure(value=whole.value, low=low, high=high)
    return found


def _told(line: _Line) -> dict[str, Any]:
    if line.model is None:
        return {"clips": "real"}
    return {**line.model.settings, "clips": "real, restored" if line.source == "autoencoder" else "made"}


def _how_sharp(name: str, measured: Measured, texts: NDArray[np.floating]) -> str:
    """How often an extractor finds a real clip's own caption among all: what its figures can rest on."""
    rows = measured.features[name].need_rows("this")
    cosines = rows.astype(np.float64) @ texts.astype(np.float64).T
    # Clips of one caption share it: finding an equal one is finding it.
    own = np.take_along_axis(cosines, np.arange(len(rows))[:, None], axis=1)[:, 0]
    right = float((cosines.max(axis=1) <= own + 1e-9).mean())
    return (
        f"{name} finds a real clip's own caption among {len(rows)} in {100 * right:.1f} %: what it does not"
        " tell apart, its FVD and CLIPSIM do not see"
    )


def _examples(lines: Sequence[_Line]) -> list[Shown]:
    return [
        Shown(example.prompt, line.name, example.clip, example.verdict())
        for line in lines
        for result in line.results.values()
        for example in result.examples
    ]
