"""Presets of a comparison: rows, budgets and sizes, one YAML file each beside the recipes.

A preset may extend another: its keys are laid over that one's, and a row of null is left out. Everything that
names a system stands in these files, not in the code.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from latent_shift.compare.budget import Budget, parse_budget
from latent_shift.documents import read_yaml_mapping, validation_error
from latent_shift.moving_shapes.protocol import FRAME_STEPS, MAX_PROMPTS, SUBSETS
from latent_shift.systems import SYSTEMS
from latent_shift.training.recipe import Count, Ratio, Strict

Changes = dict[str, dict[str, Any]]  # of recipes, by their names; those of "all" come first


class PaperResult(Strict):
    """Figures that the paper prints for a system, on MSR-VTT."""

    fid: float | None = None
    clipsim: float | None = None
    parameters: str | None = None


class RowConfig(Strict):
    """A row of the table: a system, trained as its recipes say with these changes, or another's models."""

    system: str = Field("", description="its name; by default the row's")
    of: str = Field("", description="another row: its trained models are taken, none is trained")
    steps: Count | None = Field(None, description="denoising steps of its clips; by default its recipe's")
    seeds: Count | None = Field(None, description="runs of the stages on clips; by default the preset's")
    changes: Changes = Field({}, description="of recipes, by name")
    paper: PaperResult | None = None

    @model_validator(mode="after")
    def _takes_models_as_they_are(self) -> RowConfig:
        if self.of and self.changes:
            raise ValueError(f"of: {self.of}: its models are trained already; leave changes out")
        return self


class Question(Strict):
    """A question that the table answers by differences between rows."""

    text: str
    row: str
    against: list[str] = Field(min_length=1)


class Preset(Strict):
    """A comparison: what is trained, on how much, and how it is scored."""

    frames: int = Field(description="frames of the clips that are scored: 16, 8 or 6")
    needs_gpu: bool = False
    threads: Count | None = Field(None, description="threads of the CPU; none: torch's own number")
    seeds: Count = 3
    stills: str = Field(description="budget of the stages before the first on clips, once a system")
    clips: str = Field(description="budget of the stages on clips, for each seed")
    shares: dict[str, Ratio] = Field({}, description="of the seconds, by recipe; by default equal parts")
    timed_after: Count = Field(20, description="steps before the timed ones")
    timed_steps: Count = 30
    curve: tuple[int, ...] = Field(
        (1, 2, 4), description="eighths of a run at which the first seed is scored, too"
    )
    prompts: int = Field(300, ge=1, le=MAX_PROMPTS, description="of each subset, one clip each")
    subsets: tuple[str, ...] = ("level-1-seen", "level-1-held-out")
    images: Count = Field(300, description="single frames, made before and after the stages on clips")
    reference: Count = Field(1000, description="other real clips, that distances are from")
    resamples: Count = 100
    batch: Count = Field(32, description="clips made together")
    dtype: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto", description="precision of sampling, and of training where a recipe leaves it to the machine"
    )
    examples: Count = Field(16, description="prompts on the page")
    repeats: Count = Field(7, description="times that a clip is made to find the median of its seconds")
    unmeasured: int = Field(2, ge=0, description="times before these")
    cost_batch: Count = 32
    changes: Changes = Field({}, description="of recipes, by name or for all")
    rows: dict[str, RowConfig]
    questions: tuple[Question, ...] = ()
    notes: tuple[str, ...] = Field((), description="sentences for the page")
    comparable: dict[str, float] = Field(
        {"points": 7.0, "distance": 0.1},
        description="differences within which rows count as comparable, written down before the runs:"
        " points of motion, and a share of a distance",
    )

    @field_validator("frames")
    @classmethod
    def _frames_of_the_world(cls, frames: int) -> int:
        if frames not in FRAME_STEPS:
            raise ValueError(f"frames {frames}: clips have {', '.join(map(str, FRAME_STEPS))} frames")
        return frames

    @field_validator("subsets")
    @classmethod
    def _subsets_of_one_object(cls, subsets: tuple[str, ...]) -> tuple[str, ...]:
        known = [name for name, subset in SUBSETS.items() if subset.num_objects == 1]
        for name in subsets:
            if name not in known:
                raise ValueError(f"subset {name}: expected some of {', '.join(known)}")
        if not subsets:
            raise ValueError(f"no subsets: expected some of {', '.join(known)}")
        return subsets

    @field_validator("rows", mode="before")
    @classmethod
    def _rows_that_stay(cls, rows: Any) -> Any:
        if not isinstance(rows, dict):
            return rows
        kept = {name: row for name, row in rows.items() if row is not None}
        for name, row in kept.items():
            if not isinstance(row, dict):
                raise ValueError(f"row {name}: {row!r}: expected a mapping, such as {{steps: 20}}, or null")
        for name, row in kept.items():
            other = row.get("of", "")
            if not isinstance(other, str) or (other and (other not in kept or kept[other].get("of"))):
                raise ValueError(f"row {name}: of: {other}: expected a row that is trained here")
        return {
            name: {"system": kept.get(row.get("of"), {}).get("system", row.get("of") or name), **row}
            for name, row in kept.items()
        }

    @field_validator("stills", "clips")
    @classmethod
    def _is_budget(cls, text: str) -> str:
        parse_budget(text)
        return text

    def budget(self, *, clips: bool) -> Budget:
        """The budget of all stages on clips of a run, or of all before them."""
        return parse_budget(self.clips if clips else self.stills)

    def choose_rows(self, names: list[str]) -> dict[str, RowConfig]:
        """The rows of these names, or of systems of these names; all for none.

        A system that has no row gets one. Raises ValueError for a name that is neither row nor system, and
        for a row of an unknown system.
        """
        chosen: dict[str, RowConfig] = {}
        for name in names or self.rows:
            found = {row: config for row, config in self.rows.items() if name in (row, config.system)}
            if not found and name not in SYSTEMS:
                known = ", ".join(dict.fromkeys([*self.rows, *SYSTEMS.names()]))
                raise ValueError(f"--systems {name}: is no row and no system; known are {known}")
            chosen |= (
                {name: self.rows[name]} if name in self.rows else found or {name: RowConfig(system=name)}
            )
        for config in chosen.values():
            SYSTEMS.check(config.system)
        return chosen


def default_recipes() -> Path:
    """The folder of the comparison's recipes: in the package where it is installed, else in the checkout."""
    packaged = Path(str(files("latent_shift"))) / "assets" / "compare"
    return packaged if packaged.is_dir() else Path(__file__).parents[3] / "recipes" / "compare"


def load_preset(name: str, recipes: Path) -> Preset:
    """Read a preset of a folder of recipes. Raises ValueError naming what is wrong in which file."""
    folder = recipes / "presets"
    known = sorted(file.stem for file in folder.glob("*.yaml"))
    if not known:
        raise ValueError(f"{recipes}: has no presets/*.yaml; name the folder of the recipes with --recipes")
    if name not in known:
        raise ValueError(f"--preset {name}: expected one of {', '.join(known)}")
    try:
        preset = Preset.model_validate(_read(folder, name))
    except ValidationError as error:
        raise ValueError(f"{folder / name}.yaml: {validation_error(error)}") from error
    for recipe in ({*preset.changes} - {"all"}) | {*preset.shares}:
        if not (recipes / f"{recipe}.yaml").is_file():
            raise ValueError(f"{folder / name}.yaml: names {recipe}, but {recipes} has no such recipe")
    return preset


def _read(folder: Path, name: str, extended_by: tuple[str, ...] = ()) -> dict[str, Any]:
    file = folder / f"{name}.yaml"
    content = read_yaml_mapping(file, "preset")
    base = content.pop("extends", None)
    if base is None:
        return content
    if not isinstance(base, str):
        raise ValueError(f"{file}: extends is {base!r}; put it in quotation marks if it is a preset's name")
    if base in (names := (name, *extended_by)):
        raise ValueError(f"{file}: extends {base}, and so itself; name the preset that it begins with")
    return laid_over(_read(folder, base, names), content)


def laid_over(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """A mapping with changes laid over it, section by section."""
    result = dict(base)
    for key, value in changes.items():
        old = result.get(key)
        result[key] = laid_over(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return result
