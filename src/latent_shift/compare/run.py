"""A run of a comparison, a row with a seed, and its stages: what is begun, trained and put together."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from latent_shift.compare.budget import Budget
from latent_shift.documents import read_json_mapping
from latent_shift.io import write_json, write_text
from latent_shift.systems.base import Stage, TextToVideoSystem
from latent_shift.training.recipe import Recipe, load_recipe
from latent_shift.video_config import FILE_NAME, read_video_config

_MADE_OF = "made-of.json"  # of a run: by label, the hash of the recipe of each stage that its model is of


@dataclass(frozen=True)
class StageRun:
    """A stage where this comparison trains it.

    label: of the stage for all seeds. changes: laid over its recipe. given: whether another comparison has
    trained it.
    """

    stage: Stage
    label: str
    folder: Path
    budget: Budget
    changes: Mapping[str, Any] = field(default_factory=dict)
    given: bool = False

    @property
    def model(self) -> Path:
        """The folder of the trained model."""
        return self.folder / "model"

    @property
    def on_clips(self) -> bool:
        """Whether the stage is trained for each seed."""
        return self.stage.trained_on == "clips"

    @property
    def finished(self) -> bool:
        """Whether the stage is trained."""
        return self.model.is_dir()

    def recorded(self) -> Recipe | None:
        """The resolved recipe by which the stage was begun, None before."""
        file = self.folder / "recipe.yaml"
        return load_recipe(file) if file.is_file() else None

    @cached_property
    def recorded_budget(self) -> str | None:
        """The budget with which the stage was begun, None before."""
        file = self.folder / "budget.json"
        return str(read_json_mapping(file)["budget"]) if file.is_file() else None

    def record(self, recipe: Recipe) -> None:
        """Write the resolved recipe and the budget, before the first step."""
        text = yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
        write_json(self.folder / "budget.json", {"budget": str(self.budget)})
        head = "# The resolved recipe of a stage; `latent-shift train` repeats it.\n"
        write_text(self.folder / "recipe.yaml", head + text)


@dataclass(frozen=True)
class Run:
    """A row with one seed: its stages in the order of training.

    of: another row that has trained them; "" for a row that is trained itself. steps: denoising steps of its
    clips; None: the recipe's.
    """

    row: str
    seed: int
    system: type[TextToVideoSystem]
    folder: Path
    stages: tuple[StageRun, ...]
    of: str = ""
    steps: int | None = None

    @property
    def name(self) -> str:
        """Row and seed."""
        return f"{self.row}, seed {self.seed}"

    @property
    def model(self) -> Path:
        """The folder of the whole system."""
        return self.folder / "model"

    @property
    def on_clips(self) -> tuple[StageRun, ...]:
        """The stages on clips."""
        return tuple(one for one in self.stages if one.on_clips)

    @property
    def stills(self) -> tuple[StageRun, ...]:
        """The stages before the first on clips."""
        return tuple(one for one in self.stages if not one.on_clips)

    def record_stages(self) -> None:
        """Write of which stages the model is made."""
        write_json(self.folder / _MADE_OF, self._stage_hashes())

    def model_hash(self) -> str:
        """A hash of what the model was made of, and of its settings; that of nothing where there is none."""
        files = (self.folder / _MADE_OF, self.model / FILE_NAME)
        return hashlib.sha256(b"".join(one.read_bytes() for one in files if one.is_file())).hexdigest()

    def check_stages(self) -> None:
        """Raise ValueError where the model is there and stages that it was made of are not."""
        gone = [one.label for one in self.stages if not one.finished]
        if self.model.is_dir() and gone:
            raise ValueError(
                f"{self.model}: was made of {', '.join(gone)}, not trained any more; remove {self.folder}"
                " to begin this run again"
            )

    def _stage_hashes(self) -> dict[str, str]:
        files = {one.label: one.folder / "recipe.yaml" for one in self.stages}
        return {
            label: hashlib.sha256(file.read_bytes()).hexdigest()
            for label, file in files.items()
            if file.is_file()
        }

    def check_model(self) -> None:
        """Raise ValueError for a model of another system, of other steps or other stages in the folder."""
        from latent_shift import systems

        if not self.model.is_dir():
            return
        if systems.find(self.model) is not self.system:
            found = systems.find(self.model).name
            raise ValueError(
                f"{self.model}: is a model of {found}, not of {self.system.name}; remove it, or name another"
                " folder with -o"
            )
        own, trained = _steps_of(self.model), _steps_of(self.stages[-1].model)
        wanted = self.steps or (own and trained)
        if wanted and own != wanted:
            raise ValueError(
                f"{self.model}: makes clips in {own or 'no'} denoising steps, not in {wanted}; set the steps"
                f" of row {self.row} back, or give the row another name"
            )
        if (self.folder / _MADE_OF).is_file():
            made_of, now = read_json_mapping(self.folder / _MADE_OF), self._stage_hashes()
            if other := [label for label in now if made_of.get(label) != now[label]]:
                raise ValueError(
                    f"{self.model}: was made before {', '.join(other)} was trained; remove {self.folder} to"
                    " begin this run again"
                )


def _steps_of(model: Path) -> int | None:
    """The denoising steps that a model's settings name, None where there are no such settings."""
    file = model / FILE_NAME
    return read_video_config(file).num_inference_steps if file.is_file() else None
