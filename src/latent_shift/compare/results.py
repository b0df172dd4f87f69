"""The results of a comparison so far, read from its folder: scores, budgets spent, costs, differences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latent_shift.compare.budget import SPENT, read_spent
from latent_shift.compare.contents import with_names_of_recipes
from latent_shift.compare.cost import Cost, Costs, read_costs
from latent_shift.compare.plan import Comparison
from latent_shift.compare.preset import RowConfig
from latent_shift.compare.run import Run, StageRun
from latent_shift.compare.scoring import (
    RECONSTRUCTION,
    Scores,
    made_by,
    read_scores,
    real_clips,
)
from latent_shift.compare.training import BEFORE, EIGHTHS, part_folder
from latent_shift.evaluation.metrics.base import proportion
from latent_shift.evaluation.metrics.intervals import bootstrap, normal_interval
from latent_shift.evaluation.report import Proportion
from latent_shift.moving_shapes.constants import CIRCLING, SPINNING
from latent_shift.systems import SYSTEMS

# Motions that a word and a place in the clip decide; all others take a phase.
_BY_PHASE = {"bouncing", *CIRCLING, *SPINNING, "swinging from side to side"}
BY_WORD, BY_PHASE, ALL = "motion by word and place", "motion by phase", "all at once"
SCORES = ("colour", "shape", BY_WORD, BY_PHASE, "background", ALL)
_RESAMPLES = 1000

Verdicts = NDArray[np.bool_]  # of the clips of a subset


def verdicts_of(scores: Scores, subset: str) -> dict[str, Verdicts]:
    """Verdicts of a subset's clips by the names of SCORES; of motions those of one group of prompts."""
    found = {name: np.array(each) for name, each in scores.verdicts.get(subset, {}).items()}
    named = {name: found.get(f"{name} right") for name in ("colour", "shape", "background")}
    if "motion right" in found:
        phase = np.array([motion in _BY_PHASE for motion in scores.motions[subset]])
        named |= {BY_WORD: found["motion right"][~phase], BY_PHASE: found["motion right"][phase]}
    named[ALL] = found.get("all right at once")
    return {name: named[name] for name in SCORES if named.get(name) is not None and len(named[name])}  # type: ignore[misc,arg-type]


def share(verdicts: Verdicts) -> Proportion:
    """The share of right ones, with Wilson's interval."""
    return proportion(int(verdicts.sum()), len(verdicts))


@dataclass(frozen=True)
class StageResult:
    """A trained stage: what it saw and what it took."""

    name: str
    trained_on: str
    budget: str
    steps: int
    items: int
    epochs: float | None
    seconds: float
    preparation: float
    wall_seconds: float
    recipe: dict[str, Any]


@dataclass(frozen=True)
class Point:
    """A part of a run: seconds and clips that its stages on clips had, and its scores."""

    seconds: float
    clips: int
    scores: Scores


@dataclass(frozen=True)
class RowResult:
    """All of a row that there is. runs: scores by seed. images: before and after, by these words."""

    name: str
    config: RowConfig
    runs: Mapping[int, Scores] = field(default_factory=dict)
    stages: Mapping[int, Sequence[StageResult]] = field(default_factory=dict)
    reconstruction: Scores | None = None
    images: Mapping[str, Scores] = field(default_factory=dict)
    cost: Cost | None = None
    points: Sequence[Point] = ()

    def shares(self, subset: str, score: str) -> list[Proportion]:
        """A score of each run."""
        found = (verdicts_of(scores, subset).get(score) for scores in self.runs.values())
        return [share(verdicts) for verdicts in found if verdicts is not None]

    def metric(self, name: str) -> list[float]:
        """A metric of each run. name: such as "FVD"; the first one that begins so."""
        found = (_metric(scores, name) for scores in self.runs.values())
        return [value for value in found if value is not None]

    def distance(self, seed: int) -> float | None:
        """FVD of a run, None where it was not measured."""
        return _metric(self.runs[seed], "FVD")

    @property
    def spent(self) -> dict[str, float]:
        """Means over the seeds, summed over the stages on clips: seconds, wall_seconds, clips."""
        runs = [[one for one in stages if one.trained_on == "clips"] for stages in self.stages.values()]
        runs = [run for run in runs if run]
        sums = {"seconds": 0.0, "wall_seconds": 0.0, "clips": 0.0}
        for run in runs:
            sums["seconds"] += sum(one.seconds for one in run) / len(runs)
            sums["wall_seconds"] += sum(one.wall_seconds for one in run) / len(runs)
            sums["clips"] += max(one.items for one in run) / len(runs)
        return sums


def _metric(scores: Scores, name: str) -> float | None:
    return next((one.value for key, one in scores.metrics.items() if key.startswith(name)), None)


@dataclass(frozen=True)
class Difference:
    """A difference between two rows: means over the seeds that both have.

    low, high: 95 % interval over prompts. seeds: the smallest and the largest of one seed each.
    """

    value: float
    low: float
    high: float
    seeds: tuple[float, float]

    @property
    def shown(self) -> bool:
        """Whether 0 lies outside the interval."""
        return not self.low <= 0 <= self.high


@dataclass(frozen=True)
class Results:
    """Everything that a comparison's folder holds."""

    comparison: Comparison
    rows: Sequence[RowResult]
    real: Scores | None
    costs: Costs | None

    @cached_property
    def by_name(self) -> dict[str, RowResult]:
        """The rows by name."""
        return {row.name: row for row in self.rows}

    def common_seeds(self, row: str, other: str) -> list[int]:
        """The seeds with which two rows are both scored; row, other: their names."""
        if not {row, other} <= set(self.by_name):
            return []
        return sorted(set(self.by_name[row].runs) & set(self.by_name[other].runs))

    def difference(self, row: str, other: str, subset: str, score: str) -> Difference | None:
        """The difference of a score between two rows; None where one of them is not scored.

        row, other: names of rows. subset, score: as in `verdicts_of`.
        """
        pairs = [
            [verdicts_of(self.by_name[name].runs[seed], subset).get(score) for name in (row, other)]
            for seed in self.common_seeds(row, other)
        ]
        apart = np.array([one.astype(int) - two for one, two in pairs if one is not None and two is not None])
        return None if apart.size == 0 else paired_difference(apart)


def paired_difference(apart: NDArray[np.int64]) -> Difference:
    """The mean of differences (seeds, prompts), its interval by redrawing prompts, the same for all seeds."""

    def mean(prompts: NDArray[np.int64]) -> float:
        return float(apart[:, prompts].mean())

    value, seeds = float(apart.mean()), apart.mean(axis=1)
    low, high = normal_interval(value, bootstrap(mean, [apart.shape[1]], resamples=_RESAMPLES))
    return Difference(value, low, high, (float(seeds.min()), float(seeds.max())))


def with_rows_of_folder(comparison: Comparison) -> Comparison:
    """The comparison with all rows and seeds that its folder has scores of.

    Several commands, each with other systems, may work in one folder; its page is of all of them.
    """
    preset, folder = comparison.preset, comparison.folder / "rows"
    scored = [file.parent for file in sorted(folder.glob("*/seed-*/scores.json"))]
    names = {place.parent.name for place in scored} | {*comparison.rows}
    seeds = [int(number) for place in scored if (number := place.name.removeprefix("seed-")).isdecimal()]
    known = {name: RowConfig(system=name) for name in SYSTEMS.names()}  # which may have no row in the preset
    known = preset.rows | {name: row for name, row in known.items() if name not in preset.rows}
    return replace(
        comparison,
        rows={name: comparison.rows.get(name) or row for name, row in known.items() if name in names},
        seeds=max([comparison.seeds or 0, preset.seeds, *(seed + 1 for seed in seeds)]),
    )


def read_results(comparison: Comparison) -> Results:
    """Read what there is; pieces that are not there yet are left out."""
    costs, runs = read_costs(comparison.folder), comparison.runs
    rows = [
        _read_row(comparison, name, config, [run for run in runs if run.row == name], costs)
        for name, config in comparison.rows.items()
    ]
    return Results(comparison, rows, read_scores(real_clips(comparison).scores), costs)


def _read_row(
    comparison: Comparison, name: str, config: RowConfig, runs: Sequence[Run], costs: Costs | None
) -> RowResult:
    first = runs[0]
    scored = {run.seed: scores for run in runs if (scores := read_scores(run.folder / "scores.json"))}
    images = {
        kind: scores
        for one in made_by(comparison, first)
        if one.images and (scores := read_scores(one.scores))
        for kind in [BEFORE if one.name.endswith(BEFORE) else "after"]
    }
    return RowResult(
        name, config, scored, {run.seed: [*_stages(run)] for run in runs},
        read_scores(first.folder / RECONSTRUCTION), images,
        None if costs is None else costs.of(first), [*_points(comparison, first)],
    )  # fmt: skip


def _stages(run: Run) -> Iterator[StageResult]:
    for one in run.stages:
        recipe = one.recorded()
        if recipe is None or not one.finished:
            continue
        content, items = recipe.model_dump(mode="json"), recipe.steps * recipe.batch_size
        length = _number_of_clips(content)
        spent = read_spent(one.folder / SPENT)
        shown = with_names_of_recipes(recipe.model_dump(mode="json", exclude_defaults=True))
        yield StageResult(
            one.stage.name, one.stage.trained_on, one.recorded_budget or "", recipe.steps, items,
            items / length if length else None, spent["seconds"], spent["preparation"],
            spent["wall_seconds"], shown,
        )  # fmt: skip


def _number_of_clips(content: Any) -> int | None:
    """The clips of the source in a recipe, wherever it stands."""
    if not isinstance(content, dict):
        return None
    source = content.get("source")
    if isinstance(source, dict) and isinstance(source.get("clips"), int):
        return int(source["clips"])
    return next((found for one in content.values() if (found := _number_of_clips(one))), None)


def _points(comparison: Comparison, run: Run) -> Iterator[Point]:
    """The parts of a run, and its end."""
    stages = {one.name: one for one in _stages(run) if one.trained_on == "clips" and not run.of}
    if len(stages) < len(run.on_clips) or not stages:
        return
    for eighths in (*comparison.preset.curve, EIGHTHS):
        end = eighths == EIGHTHS
        scores = read_scores((run.folder if end else part_folder(run, eighths)) / "scores.json")
        if scores is None:
            continue
        parts = {
            name: 1.0 if end else max(1, one.steps // EIGHTHS) * eighths / one.steps
            for name, one in stages.items()
        }
        seconds = sum(one.seconds * parts[name] for name, one in stages.items())
        yield Point(seconds, round(max(one.items * parts[name] for name, one in stages.items())), scores)


def state_of(one: StageRun) -> str:
    """The state of a stage: trained, begun, or to do."""
    return "trained" if one.finished else "begun" if one.recorded() is not None else "to do"
