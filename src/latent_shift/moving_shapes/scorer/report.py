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
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latent_shift.evaluation.clip_cache import ClipCache
from latent_shift.evaluation.clip_files import ClipReadOptions
from latent_shift.evaluation.clip_maker import ClipMaker
from latent_shift.evaluation.extractors.base import Extractor, TextExtractor
from latent_shift.evaluation.features import SourceFeatures
from latent_shift.evaluation.metrics.base import Measurement, Metric, MetricOptions
from latent_shift.evaluation.report import MetricInfo, MetricResult, Report
from latent_shift.evaluation.runner import evaluate
from latent_shift.evaluation.sources import ClipBatch, ClipSource, ReconstructedClips
from latent_shift.moving_shapes import constants
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
    store: ClipCache
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
    choices: MetricOptions
    reference: int = 1000
    examples: int = 0


class MovingShapesClips(ClipSource):
    """Clips of the cells' prompts: rendered, or a model's own. The origin of each is its scene."""

    def __init__(
        self,
        name: str,
        asked: Asked,
        model: Tested | None = None,
        *,
        cells: Sequence[Cell] | None = None,
        prompts: int | None = None,
    ) -> None:
        settings = {"clips": "real"} if model is None else {**model.settings, "clips": "made"}
        fps = constants.FPS * asked.frames / constants.FRAMES
        super().__init__(name, ClipReadOptions(asked.frames), settings=settings, fps=fps)
        self.asked, self.model, self.cells = asked, model, cells or asked.cells
        self.prompts = prompts or asked.prompts

    def __len__(self) -> int:
        """Number of clips."""
        return self.prompts * len(self.cells)

    def batches(self) -> Iterator[ClipBatch]:
        """Yield the clips, cell by cell; each cell is a subset."""
        source: Source = "rendered" if self.model is None else "model"
        maker, store = (None, None) if self.model is None else (self.model.maker, self.model.store)
        frames = self.asked.frames
        for cell in self.cells:
            done = 0
            made = batches_of(cell, source, self.prompts, frames, self.asked.batch, maker, store)
            for scenes, clips, seconds in made:
                names = [f"{cell.name}-{done + place:06d}" for place in range(len(scenes))]
                captions = [prompt_of(scene, frames) for scene in scenes]
                yield ClipBatch(names, clips, captions, scenes, cell.name, seconds=seconds)
                done += len(scenes)


class ExactScores(Metric):
    """The scorer's verdicts on clips that have scenes for origins, as shares over all cells."""

    def __init__(self, options: MetricOptions, extractor: str | None = None) -> None:
        super().__init__(options, extractor)
        self.cells: dict[str, CellResult] = {}

    def update(self, batch: ClipBatch) -> Sequence[str]:
        """Score a batch, and return the verdict on each clip."""
        result = self.cells.setdefault(batch.subset, CellResult(batch.subset, "rendered"))
        before = len(result.examples)
        count_in(result, batch.origins, batch.clips, batch.seconds, before + len(batch.clips))
        return [example.verdict() for example in result.examples[before:]]

    def compute(self, clips: SourceFeatures, reference: SourceFeatures | None) -> list[Measurement]:
        """See `Metric.compute`."""
        rows = [to_row(result) for result in self.cells.values()]
        settings = {
            "scorer": "Moving Shapes", "cells": ", ".join(self.cells),
            "prompts a cell": len(clips.names) // len(self.cells), "frames": clips.read_settings["frames"],
            "seed": SEED,
        }  # fmt: skip
        found = []
        for name in _SHARES:
            shares = [row.columns[name] for row in rows if name in row.columns]
            whole = Share(right=sum(one.right for one in shares), of=sum(one.of for one in shares))
            low, high = whole.interval()
            title = "all right at once" if name == "all" else f"{name} right"
            info = MetricInfo(name=title, better="higher", settings=settings, percent=True)
            found.append(Measurement(info, MetricResult(value=whole.value, low=low, high=high)))
        return found


class CaptionRetrieval(Metric):
    """How often an extractor finds a real clip's own caption among all: a note, what figures can rest on."""

    def compute(self, clips: SourceFeatures, reference: SourceFeatures | None) -> list[Measurement]:
        """See `Metric.compute`."""
        if clips.name != REAL:
            return []
        for name, texts in clips.text_features.items():
            if clips.features[name].settings.per != "clip":
                continue
            rows = clips.features[name].need_rows("this")
            cosines = rows.astype(np.float64) @ texts.astype(np.float64).T
            # Clips of one caption share it: finding an equal one is finding it.
            own = np.take_along_axis(cosines, np.arange(len(rows))[:, None], axis=1)[:, 0]
            right = float((cosines.max(axis=1) <= own + 1e-9).mean())
            self.notes.append(
                f"{name} finds a real clip's own caption among {len(rows)} in {100 * right:.1f} %: what it"
                " does not tell apart, its FVD and CLIPSIM do not see"
            )
        return []


def moving_shapes_report(
    models: Sequence[Tested],
    extractors: Sequence[Extractor],
    asked: Asked,
    show: Callable[[str, int, int], None] = lambda name, done, of: None,
) -> Report:
    """The report of real clips and models. ValueError for fewer than 2 frames."""
    if asked.frames < 2:
        raise ValueError(f"frames is {asked.frames}; a report on clips needs 2 or more")
    each = -(-asked.reference // len(asked.cells))
    others = [replace(cell, number=cell.number + REFERENCE_NUMBER) for cell in asked.cells]
    reference = MovingShapesClips("other real clips", asked, cells=others, prompts=each)
    real = MovingShapesClips(REAL, asked)
    sources: list[ClipSource] = [real]
    if models:
        told = {**models[0].settings, "clips": "real, restored"}
        sources.append(ReconstructedClips(RESTORED, models[0].maker, real, told))
    sources += [MovingShapesClips(model.name, asked, model) for model in models]
    of_clips = [
        f"clipsim@{one.info.name}"
        for one in extractors
        if isinstance(one, TextExtractor) and one.info.per == "clip"
    ]
    return evaluate(
        sources,
        [ExactScores, "fid", "kid", "fvd", "kvd", "is", *of_clips, "flicker", "motion", CaptionRetrieval],
        reference,
        asked.choices,
        extractors=extractors,
        title="Moving Shapes",
        examples=asked.examples,
        on_progress=show,
    )
