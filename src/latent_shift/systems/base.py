"""Interface of text-to-video systems: all that generation, evaluation, comparison and serving know of one.

A system may be one network or a cascade of several; from outside it takes requests and returns clips. Needs
neither torch nor numpy to be imported, so that commands can check requests before they load a model.

Shapes: B clips, F frames, H x W pixels.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from latent_shift.documents import parse_yaml, read_yaml_mapping
from latent_shift.io import write_json
from latent_shift.limits import (
    MAX_FPS,
    MAX_FRAMES,
    MAX_GUIDANCE,
    MAX_SEED,
    MAX_SIDE,
    MAX_STEPS,
    MIN_FPS,
)
from latent_shift.model_files import SYSTEM_FILE

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Clips = NDArray[np.uint8]

TrainedOn = Literal["captions", "images", "clips"]
TEMPORAL_FILE = "temporal.safetensors"  # beside it, of systems with layers of their own in the U-Net
_DRAWN_SEEDS = 2**31

Seed = Annotated[int, Field(ge=0, le=MAX_SEED, description="seed of the clip's noise")]
Frames = Annotated[int, Field(ge=1, le=MAX_FRAMES, description="frames; 1 gives an image")]
Fps = Annotated[float, Field(ge=MIN_FPS, le=MAX_FPS, allow_inf_nan=False, description="frames a second")]
Steps = Annotated[int, Field(ge=1, le=MAX_STEPS, description="denoising steps")]
Guidance = Annotated[
    float, Field(ge=0, le=MAX_GUIDANCE, allow_inf_nan=False, description="classifier-free guidance scale")
]
Side = Annotated[int, Field(ge=1, le=MAX_SIDE, description="pixels")]


class GenerationRequest(BaseModel):
    """One clip to make. None is the model's own value; a seed of None is drawn."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    prompt: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
    seed: Seed | None = None
    frames: Frames | None = None
    fps: Fps | None = None
    steps: Steps | None = None
    guidance: Guidance | None = None
    # With a constraint, whatever it is, a text is refused that UTF-8 cannot hold.
    negative: Annotated[str, StringConstraints(min_length=0)] | None = Field(
        None, description="negative prompt"
    )
    height: Side | None = None
    width: Side | None = None
    loop: Annotated[bool, Field(description="whether the last frame precedes the first one")] = False

    @property
    def shape(self) -> tuple[Any, ...]:
        """All that the clips of one network batch have in common."""
        negative = self.negative is not None
        return self.frames, self.fps, self.steps, self.guidance, self.height, self.width, self.loop, negative


class SettledRequest(GenerationRequest):
    """A request with every value settled; only `negative` may be None."""

    seed: Seed
    frames: Frames
    fps: Fps
    steps: Steps
    guidance: Guidance
    height: Side
    width: Side


@dataclass(frozen=True, kw_only=True)
class RequestDefaults:
    """A model's own values for a request, and the limits of the requests that it can meet.

    height, width: pixels, multiples of `size_multiple`. max_steps: room in the noise schedule. loops: whether
    it makes clips that begin again where they end. vocabulary:
    all words that the model knows, in lower case; empty where it is open. untrained_words: as in
    `VideoConfig`: words that no caption of a clip had in its training, single or combined.
    """

    frames: int
    fps: float
    steps: int
    guidance: float
    height: int
    width: int
    size_multiple: int
    max_steps: int = MAX_STEPS
    loops: bool = False
    vocabulary: tuple[str, ...] = ()
    untrained_words: tuple[str, ...] = ()

    def settle(self, request: GenerationRequest, *, option: str = "") -> SettledRequest:
        """Fill in what a request leaves open; a settled one comes back unchanged and unchecked.

        option: stands before names in messages ("--"). Raises ValueError for a size that is no multiple, more
        steps than the schedule has, a loop that cannot be, and a prompt without a word that the model knows.
        """
        if isinstance(request, SettledRequest):
            return request
        from latent_shift.prompts import check_known

        for name, side in (("height", request.height), ("width", request.width)):
            if side is not None and side % self.size_multiple:
                raise ValueError(f"{option}{name} {side}: {self._sizes_near(side)}")
        if (steps := request.steps or self.steps) > self.max_steps:
            raise ValueError(
                f"{option}steps {steps}: this model's noise schedule has room for {self.max_steps}; use fewer"
            )
        if request.loop and not self.loops:
            raise ValueError(f"{option}loop: this model makes no loops; a latent_shift model does")
        if request.loop and (request.frames or self.frames) == 1:
            raise ValueError(f"{option}loop: one frame is no loop; ask for 2 frames or more")
        check_known([request.prompt], self.vocabulary)
        names = set(SettledRequest.model_fields)
        own = {name: value for name, value in vars(self).items() if name in names}
        given = request.model_dump(include=names, exclude_none=True)
        return SettledRequest(**{"seed": secrets.randbelow(_DRAWN_SEEDS), **own, **given})

    def _sizes_near(self, side: int) -> str:
        multiple = self.size_multiple
        lower = min(max(side // multiple, 1) * multiple, MAX_SIDE - multiple)
        mend = f"for example {lower} or {lower + multiple}"
        return f"this model makes multiples of {multiple} up to {MAX_SIDE}, {mend}"


@dataclass(frozen=True, kw_only=True)
class SystemInfo:
    """Facts of a loaded system: with a request and the program's version, all that decides a clip.

    weights: 12 hexadecimal digits of the SHA-256 of its weight files. config: the same of its other settings.
    settings: more that clips are made with, by name (scheduler, LoRA files), as JSON can hold it. licence:
    of the weights, None where unknown. fewest_frames: of a clip that a network sees at once, None: all.
    """

    system: str
    defaults: RequestDefaults
    dtype: str
    device: str
    weights: str
    config: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    licence: str | None = None
    fewest_frames: int | None = None


@dataclass(frozen=True)
class Parameters:
    """Numbers of parameters, the text encoder's and the decoder's included.

    parts: by network. trained: those that training on clips changes. temporal: those that the image model
    does not have.
    """

    parts: Mapping[str, int]
    trained: int
    temporal: int

    @property
    def all(self) -> int:
        """The sum over all parts."""
        return sum(self.parts.values())


@dataclass(frozen=True)
class TrainingPlan:
    """A plan of training, the same for all systems of a comparison.

    recipes: folder of the stages' recipes, one YAML file each (see `recipe_stages`). frames: of the clips
    that the trained systems are to make; None: those of the recipes.
    """

    recipes: Path
    frames: int | None = None


@dataclass(frozen=True)
class Stage:
    """One training run of a system, which `latent-shift train RECIPE --set ...` starts.

    task: of the recipe. starts_from: the model that gives the initial weights, None: random ones.
    settings: values that replace the recipe's, by key.
    """

    name: str
    recipe: Path
    task: str
    trained_on: TrainedOn
    starts_from: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)


def recipe_stages(plan: TrainingPlan, names: str, trained_on: Mapping[str, TrainedOn]) -> list[Stage]:
    """Stages of recipes in the plan's folder, in the order of their names.

    A recipe of the folder that has its `output` named in one of them is a stage before it: systems share
    stages so.

    Args:
        plan: its `recipes` are read.
        names: pattern of the recipes' names without suffix, such as "latent_shift-*".
        trained_on: by task.

    Raises:
        ValueError: for a recipe that cannot be read, or of a task that is not in `trained_on`.
    """
    contents = {path: read_yaml_mapping(path, "recipe") for path in sorted(plan.recipes.glob("*.yaml"))}
    outputs = {path: str(content.get("output", path)) for path, content in contents.items()}
    stages: dict[Path, Stage] = {}

    def add(path: Path) -> None:
        named = _strings(contents[path])
        for other, output in outputs.items():
            if other not in (path, *stages) and any(text.startswith(f"{output}/") for text in named):
                add(other)
        content = contents[path]
        task = str(content.get("task"))
        if task not in trained_on:
            raise ValueError(f"{path}: task {task!r}: expected one of {', '.join(trained_on)}")
        start = content.get("init_from") or content.get("pretrained_model")
        stages.setdefault(path, Stage(path.stem, path, task, trained_on[task], start))

    for path in contents:
        if path.match(f"{names}.yaml"):
            add(path)
    return list(stages.values())


def model_card_licence(card: Path) -> str | None:
    """The `license` in the YAML head of a model card, as the Hugging Face hub defines it."""
    text = card.read_text("utf-8", errors="replace") if card.is_file() else ""
    head = re.match(r"---\n(.*?)\n---", text, re.DOTALL)
    content = parse_yaml(head[1], str(card)) if head else None
    return str(content["license"]) if isinstance(content, dict) and "license" in content else None


def link_or_copy(source: str, target: str) -> None:
    """Make a hard link to a file that is never changed in place, or where that cannot be, a copy."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _strings(value: Any) -> list[str]:
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list):
        return [text for one in value for text in _strings(one)]
    return [value] if isinstance(value, str) else []


class TextToVideoSystem(ABC):
    """A text-to-video system: one file in this folder, and an entry in `systems.SYSTEMS`."""

    name: ClassVar[str]
    names_its_steps: ClassVar[bool] = False  # of denoising, in its folder's latent_shift.json

    @classmethod
    @abstractmethod
    def inspect(cls, path: str | Path, *, loras: Sequence[str] = ()) -> RequestDefaults:
        """Check a model's files and read its defaults, without reading weights.

        path, loras: as of `load`. Raises ValueError for what `load` would refuse because of the files.
        """

    @classmethod
    @abstractmethod
    def load(
        cls, path: str | Path, *, device: str = "auto", dtype: str = "auto", loras: Sequence[str] = ()
    ) -> Self:
        """Load a model, ready to generate.

        Args:
            path: a folder, a file, or a name that the system knows.
            device: one of `checkpoints.DEVICES`.
            dtype: one of `checkpoints.DTYPES`.
            loras: LoRA files of the base model, "FILE" or "FILE:WEIGHT" each.

        Raises:
            ValueError: for files that are missing, damaged or of another kind, and a device that is not
                there.
        """

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Save to a folder that `systems.load` opens: safetensors and JSON, with `system.json`."""

    @classmethod
    @abstractmethod
    def stages(cls, plan: TrainingPlan) -> list[Stage]:
        """The training runs of the system, in order; empty where it cannot be trained here."""

    @classmethod
    def assemble(cls, models: Mapping[str, Path], folder: Path) -> None:
        """Put trained stages together into a new folder that `systems.load` opens as this system.

        By default the last stage's model is taken, its files linked where the file system can, and
        `system.json` written beside them.

        models: the folders that the stages exported, by the name of the stage, in the order of the stages.
        Those of the stages before the first on clips have to do for a system that makes images (frames = 1).
        """
        *_, last = models.values()
        shutil.copytree(last, folder, copy_function=link_or_copy)
        write_json(folder / SYSTEM_FILE, {"system": cls.name})

    @abstractmethod
    def generate(
        self, requests: Sequence[GenerationRequest], on_step: Callable[[int, int], None] | None = None
    ) -> Clips:
        """Make one clip a request, in one network batch: uint8 (B, F, H, W, 3); F = 1 gives images.

        A clip depends on its own request: its noise comes from its own seed, drawn on the CPU. Other clips of
        the batch can change its rounding: on a CPU not at all where the network sees 16 images or more of
        each clip, else by one level on fewer than 0.1 % of the values; on a GPU by what its kernels do.

        Args:
            requests: at least one, all of one `shape`.
            on_step: called after each denoising step with the steps done and all steps of the call; an
                exception that it raises ends the call.

        Raises:
            ValueError: for requests of several shapes or that the model cannot meet, values that are not
                finite, and too little memory.
        """

    def preview(self) -> Clips | None:
        """One frame of each clip under way, as far as it is denoised: uint8 (B, H, W, 3).

        To be called from `on_step`. None where the system has no picture of unfinished clips.
        """
        return None

    def stream(
        self, request: GenerationRequest, on_step: Callable[[int, int], None] | None = None
    ) -> Iterator[Clips]:
        """Make one clip and yield its frames in parts (n, H, W, 3), in order, each as soon as it is decoded.

        By default all frames are one part. request, on_step and errors as in `generate`.
        """
        yield self.generate([request], on_step)[0]

    @abstractmethod
    def reconstruct(self, clips: Clips) -> Clips | None:
        """Encode and decode clips (B, F, H, W, 3) by the last stage; None where it cannot.

        The scores of reconstructed real clips are the ceiling of those of generated ones.
        """

    @abstractmethod
    def parameters(self) -> Parameters:
        """Count the parameters."""

    @abstractmethod
    def info(self) -> SystemInfo:
        """Facts of the loaded system; the weight files are hashed once."""
