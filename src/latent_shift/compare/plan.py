"""From a preset to runs: which stages each row has, in which folders, by which recipes.

    DIR/compare.json                        what must not change while the comparison goes on
    DIR/stills/STAGE/                       stages before the first on clips, shared by rows and seeds
    DIR/rows/ROW/seed-S/STAGE/              stages on clips: recipe.yaml, spent.json, log, checkpoint, model/
    DIR/rows/ROW/seed-S/model/              all stages together: a model that `generate` opens
    DIR/rows/ROW/seed-S/made-of.json        hashes of the recipes of these stages

A row of another's models has only the last of these, with other steps, and its clips and scores beside it.

A recipe of a stage is that of the recipes' folder with changes laid over it. The folders of this comparison
take the place of those that the recipes name: see "Adding things" in docs/architecture.md.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from latent_shift.checkpoints import DTYPES
from latent_shift.compare.budget import Budget, schedule
from latent_shift.compare.contents import assets, flat, made_from, replaced, with_names_of_recipes
from latent_shift.compare.preset import Changes, Preset, RowConfig, laid_over
from latent_shift.compare.run import Run, StageRun
from latent_shift.documents import read_json_mapping, read_yaml_mapping
from latent_shift.io import one_line, write_json
from latent_shift.systems import SYSTEMS
from latent_shift.systems.base import Stage, TextToVideoSystem, TrainingPlan
from latent_shift.training.distributed import resolve_precision
from latent_shift.training.recipe import Recipe, load_recipe
from latent_shift.training.run_config import changes as changed_keys

ROOT = "runs/compare"  # in recipes, replaced by the comparison's folder
_SETTINGS = "compare.json"
_BEGUN = ("stills", "rows", "timings")  # folders of a comparison in which something was trained
PAGES = ("compare.md", "compare.html")  # in the folder of a comparison


@dataclass(frozen=True)
class Comparison:
    """A preset, the rows that are wanted, and the folder where all of it is kept.

    preset_name: for messages and the page. budget: of clips, in place of the preset's. stills_from: a folder
    of another comparison, that has the stages before the first on clips.
    """

    preset: Preset
    preset_name: str
    rows: Mapping[str, RowConfig]
    recipes: Path
    folder: Path
    seeds: int | None = None
    budget: Budget | None = None
    stills_from: Path | None = None

    @cached_property
    def runs(self) -> list[Run]:
        """All runs, row by row. Raises ValueError for a row that cannot be trained."""
        return [run for name, row in self.rows.items() for run in self._runs(name, row)]

    def first_runs(self) -> list[Run]:
        """The first run of each row."""
        return [run for run in self.runs if run.seed == 0]

    def _runs(self, name: str, row: RowConfig) -> Iterator[Run]:
        system: type[TextToVideoSystem] = SYSTEMS[row.system]
        stages = system.stages(TrainingPlan(self.recipes, self.preset.frames))
        if not stages:
            raise ValueError(
                f"row {name}: {row.system} has no stages in {self.recipes}, so it cannot be trained here;"
                " leave it out"
            )
        self._check_names(name, row.changes, stages)
        if row.steps is not None and not system.names_its_steps:
            raise ValueError(
                f"row {name}: steps {row.steps}: a model of {row.system} names no denoising steps that could"
                " be set; leave steps out"
            )
        count = self.seeds or self.preset.seeds
        if row.seeds is not None:
            count = min(count, row.seeds)
        if not any(stage.trained_on == "clips" for stage in stages):
            count = 1  # nothing depends on a seed
        trained, config = row.of or name, self.preset.rows[row.of] if row.of else row
        for seed in range(count):
            own, folder = (self.folder / "rows" / one / f"seed-{seed}" for one in (name, trained))
            found = tuple(self._stage_run(trained, config, stage, stages, folder, seed) for stage in stages)
            yield Run(name, seed, system, own, found, row.of, row.steps)

    def _stage_run(
        self, name: str, row: RowConfig, stage: Stage, stages: list[Stage], folder: Path, seed: int
    ) -> StageRun:
        on_clips = stage.trained_on == "clips"
        own = row.changes.get(stage.name, {})
        changes = laid_over(dict(stage.settings), self.preset.changes.get("all", {}))
        for more in (self.preset.changes.get(stage.name, {}), own, {"seed": seed} if on_clips else {}):
            changes = laid_over(changes, more)
        alike = [one for one in stages if (one.trained_on == "clips") == on_clips]
        share = self.preset.shares.get(stage.name, 1 / len(alike))
        if on_clips:
            budget = self.budget or self.preset.budget(clips=True)
            label = f"{name}: {stage.name}"
            return StageRun(stage, label, folder / stage.name, budget.of_stage(share), changes)
        budget = self.preset.budget(clips=False).of_stage(share)
        if own:  # a row with stages on stills of its own
            place = self.folder / "rows" / name / "stills" / stage.name
            return StageRun(stage, f"{name}: {stage.name}", place, budget, changes)
        place = (self.stills_from or self.folder) / "stills" / stage.name
        return StageRun(stage, stage.name, place, budget, changes, given=self.stills_from is not None)

    @staticmethod
    def _check_names(name: str, changes: Changes, stages: list[Stage]) -> None:
        names = [stage.name for stage in stages]
        for recipe in changes:
            if recipe not in names:
                raise ValueError(f"row {name}: changes of {recipe}: it has the stages {', '.join(names)}")

    def resolve(self, run: Run, one: StageRun, steps: int) -> Recipe:
        """The recipe of a stage with all changes, the folders of this comparison and a number of steps."""
        changes = laid_over(dict(one.changes), schedule(steps))
        settings = [f"{key}={json.dumps(value)}" for key, value in flat(changes)]
        recipe = load_recipe(one.stage.recipe, settings)
        folders = {_output(other.stage): str(other.folder) for other in run.stages}
        folders |= {ROOT: str(self.folder), **assets()}
        content = replaced(recipe.model_dump(mode="json"), folders)
        if content["mixed_precision"] == "auto":
            content["mixed_precision"] = self.preset.dtype
        return type(recipe).model_validate(content)

    def check_begun(self, run: Run, one: StageRun) -> Recipe | None:
        """The recipe by which a stage was begun, None before.

        Raises ValueError where it was begun with another budget or other settings, or its files are damaged.
        """
        try:
            before = one.recorded()
        except ValueError as error:
            raise ValueError(f"{one.folder}: {one_line(error)}; remove it to begin again") from error
        if before is None:
            return None
        where = f"{one.folder} was begun with"
        mend = "set them back, or compare in another folder (-o)"
        if one.recorded_budget != str(one.budget):
            raise ValueError(f"{where} {one.recorded_budget}, not with {one.budget}; {mend}")
        now = self.resolve(run, one, before.steps)
        contents = [with_names_of_recipes(recipe.model_dump(mode="json")) for recipe in (before, now)]
        different = changed_keys(*contents)
        # A run may change these while it trains, but models of two seeds have to be sampled in one way.
        sampling = [content.get("sampling") or {} for content in contents]
        different += [
            f"sampling.{key} was {value}"
            for key, value in sampling[0].items()
            if sampling[1].get(key) != value
        ]
        if different:
            raise ValueError(f"{where} other settings: {'; '.join(different)}; {mend}")
        return before

    def check(self) -> None:
        """Check everything that is begun, before any work.

        Raises ValueError for a folder that holds another comparison, or pages of somebody else, stages that
        were begun with other settings, models of other systems, steps or stages, a budget that does not do
        for a step, and stills that are to be there and are not, or had another budget.
        """
        wanted = json.loads(json.dumps(self._settings()))
        file = self.folder / _SETTINGS
        begun = file.is_file() and any((self.folder / name).is_dir() for name in _BEGUN)
        kept = read_json_mapping(file) if begun else wanted
        for page in PAGES:
            if not file.is_file() and (self.folder / page).exists():
                raise ValueError(
                    f"{self.folder}: has a {page}, and no comparison wrote it; name another folder with -o"
                )
        for name in wanted:
            if kept.get(name) != wanted[name]:
                raise ValueError(
                    f"{self.folder}: holds a comparison with {name} {kept.get(name)}, not {wanted[name]};"
                    " name another folder with -o"
                )
        for run in self.runs:
            run.check_model()
            for one in run.stages:
                if not one.given:
                    self._check_budget(run, one)
                elif not one.finished:
                    raise ValueError(f"--stills {self.stills_from}: has no trained {one.stage.name}")
                elif one.recorded_budget != str(one.budget):
                    raise ValueError(
                        f"--stills {self.stills_from}: its {one.stage.name} had {one.recorded_budget}, where"
                        f" this comparison gives it {one.budget}; name another folder"
                    )
                else:
                    self._check_given(run, one)

    def _check_given(self, run: Run, one: StageRun) -> None:
        """Check that a stage of another comparison is the network, on the data, that this one would train.

        How it was trained may differ, as on another machine.
        """
        before = one.recorded()
        if before is None:
            raise ValueError(f"--stills {self.stills_from}: its {one.stage.name} has no recipe.yaml")
        now = self.resolve(run, one, before.steps)
        different = changed_keys(*(made_from(recipe.model_dump(mode="json")) for recipe in (before, now)))
        if different:
            raise ValueError(
                f"--stills {self.stills_from}: its {one.stage.name} was trained with other settings:"
                f" {'; '.join(different)}; name another folder"
            )

    def _check_budget(self, run: Run, one: StageRun) -> None:
        """Check a stage that was begun, and whether the budget of another does for a step."""
        if self.check_begun(run, one) is None and one.budget.unit != "core-seconds":
            one.budget.steps(self.resolve(run, one, self.preset.timed_after + self.preset.timed_steps), 0.0)

    def record(self) -> None:
        """Write what must not change while the comparison goes on."""
        write_json(self.folder / _SETTINGS, self._settings())

    def _settings(self) -> dict[str, Any]:
        preset = self.preset
        names = ("frames", "prompts", "subsets", "images", "reference", "resamples", "dtype")
        return {
            "preset": self.preset_name,
            "budget of clips": str(self.budget or preset.budget(clips=True)),
            "budget of stills": preset.stills,
            **{name: getattr(preset, name) for name in names},
        }


def one_precision(wanted: str, folder: Path) -> str:
    """The precision of a comparison, on whatever machine it goes on: of "auto", what it was begun with.

    wanted: the preset's. folder: of the comparison; where none was begun there, this machine decides.
    """
    file = folder / _SETTINGS
    if wanted != "auto":
        return wanted
    kept = read_json_mapping(file).get("dtype") if file.is_file() else None
    return kept if kept in DTYPES else resolve_precision("auto")


def _output(stage: Stage) -> str:
    return str(read_yaml_mapping(stage.recipe, "recipe").get("output", stage.name))
