"""An image model with temporal layers in its U-Net in place of the shift: the part that such systems share.

Folders, loading and sampling (`TemporalUNet`), and the training stage (`TemporalUNetTask`): the video task
with another U-Net. A system adds a name and the settings of its layers, which a folder's `system.json` keeps
beside the name; the weights of the layers lie in `temporal.safetensors`, all else is an image model in the
layout of Stable Diffusion.

Shapes: B clips, F frames, H x W pixels.
"""

from __future__ import annotations

import hashlib
import shutil
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from torch import Tensor, nn

from latent_shift.conditioning import Conditioning
from latent_shift.documents import read_json_mapping, validation_error
from latent_shift.hashes import short_hash
from latent_shift.io import read_safetensors_header, write_json
from latent_shift.model_files import SYSTEM_FILE
from latent_shift.systems.base import (
    TEMPORAL_FILE,
    GenerationRequest,
    Parameters,
    RequestDefaults,
    Stage,
    TrainingPlan,
    recipe_stages,
)
from latent_shift.systems.latent_shift import TRAINED_ON, LatentShift
from latent_shift.systems.temporal_layers import (
    Make,
    add_temporal_layers,
    load_temporal_layers,
    override_num_frames,
    save_temporal_layers,
    set_num_frames,
    temporal_parameters,
    without_temporal_layers,
)
from latent_shift.training.tasks.video import VideoRecipe, VideoTask, train_modules

TEMPORAL = "temporal"  # in the names of all temporal parameters, and of no other


class LayerSettings(BaseModel):
    """Settings of temporal layers: a recipe's `temporal`, and the rest of a folder's `system.json`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @abstractmethod
    def layers(self, unet: nn.Module) -> Make:
        """The layers of a U-Net, as `add_temporal_layers` takes them."""


class TemporalUNet(LatentShift):
    """A loaded image model with temporal layers; a subclass sets `name` and `Layers`.

    The task of its stage on clips has the system's name.
    """

    Layers: ClassVar[type[LayerSettings]]
    loops: ClassVar[bool] = False
    base_is_trained: ClassVar[bool] = True  # on clips, with the layers

    def __init__(self, pipeline: Any, path: Path, **loaded_with: Any) -> None:
        """Wrap a pipeline loaded from `path`, and add the layers of that folder to its U-Net.

        loaded_with: as of `LatentShift`.
        """
        super().__init__(pipeline, path, **loaded_with)
        self.layers = self.read_layers(path)
        add_temporal_layers(pipeline.unet, self.layers.layers(pipeline.unet))
        load_temporal_layers(pipeline.unet, path / TEMPORAL_FILE)

    @classmethod
    def read_layers(cls, folder: Path) -> LayerSettings:
        """The settings of the layers in a model's folder. Raises ValueError for one of another system."""
        file = folder / SYSTEM_FILE
        content = read_json_mapping(file)
        if (named := content.pop("system", None)) != cls.name:
            raise ValueError(f"{file}: is of the system {named}, not of {cls.name}")
        try:
            return cls.Layers.model_validate(content)
        except ValidationError as error:
            raise ValueError(f"{file}: {validation_error(error)}") from error

    @classmethod
    def write(cls, folder: Path, pipeline: Any, layers: LayerSettings) -> None:
        """Write a pipeline with temporal layers of these settings as a folder of this system."""
        with without_temporal_layers(pipeline.unet):
            pipeline.save_pretrained(folder)
        save_temporal_layers(pipeline.unet, folder / TEMPORAL_FILE)
        write_json(folder / SYSTEM_FILE, {"system": cls.name, **layers.model_dump()})

    @classmethod
    def inspect(
        cls,
        path: str | Path,
        *,
        loras: Sequence[str] = (),
        tokenizer: str | Path | None = None,
        prediction_type: str | None = None,
        scheduler: str | None = None,
    ) -> RequestDefaults:
        """See `LatentShift.inspect`; checks the settings and the file of the layers, too.

        path, loras, tokenizer, prediction_type, scheduler: as of `LatentShift.load`.
        """
        cls.read_layers(Path(path))
        read_safetensors_header(Path(path) / TEMPORAL_FILE)
        return super().inspect(
            path, loras=loras, tokenizer=tokenizer, prediction_type=prediction_type, scheduler=scheduler
        )

    @classmethod
    def stages(cls, plan: TrainingPlan) -> list[Stage]:
        """See `LatentShift.stages`."""
        return recipe_stages(plan, f"{cls.name}-*", {**TRAINED_ON, cls.name: "clips"})

    @classmethod
    def assemble(cls, models: Mapping[str, Path], folder: Path) -> None:
        """See `TextToVideoSystem.assemble`; before the stage on clips it is the image model."""
        *_, last = models.values()
        shutil.copytree(last, folder)

    def save(self, folder: Path) -> None:
        """See `LatentShift.save`; the temporal layers have a file of their own in the folder."""
        self.write(Path(folder), self.pipeline, self.layers)

    def _sample(self, requests: Sequence[GenerationRequest], **call: Any) -> Any:
        frames = requests[0].frames or self._defaults.frames
        with override_num_frames(self.pipeline.unet, frames):
            return super()._sample(requests, **call)

    def parameters(self) -> Parameters:
        """Count the parameters; trained: by this package's recipes, with or without the image model's."""
        counted = super().parameters()
        temporal = sum(one.numel() for one in temporal_parameters(self.pipeline.unet).values())
        return Parameters(counted.parts, counted.trained if self.base_is_trained else temporal, temporal)

    @cached_property
    def _weights(self) -> str:
        text = super()._weights + short_hash(self._path / TEMPORAL_FILE)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @cached_property
    def _config(self) -> str:
        text = super()._config + self.layers.model_dump_json()
        return hashlib.sha256(text.encode()).hexdigest()[:12]


class TemporalUNetRecipe(VideoRecipe):
    """The keys that all temporal layers have in common; a subclass adds `temporal`, their settings."""

    shift: None = Field(None, description="there is none: the temporal layers take its place")
    lora: None = None
    temporal: LayerSettings

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        frozen = bool(self.trainable_modules) and all(TEMPORAL in part for part in self.trainable_modules)
        if frozen and self.image_batch_ratio > 0:
            raise ValueError(
                "image_batch_ratio: images skip the temporal layers, and nothing else is trained; set it to 0"
            )
        if self.experimental.interpolate_with is not None:
            raise ValueError("experimental.interpolate_with: temporal layers are not interpolated; remove it")
        return self


class TemporalUNetTask(VideoTask):
    """The denoising loss of a U-Net with temporal layers, on clips and images; they are new or `init_from`'s.

    A subclass sets `Config` and `system`, the class of its folders.
    """

    system: ClassVar[type[TemporalUNet]]
    recipe: TemporalUNetRecipe

    def __init__(self, recipe: TemporalUNetRecipe) -> None:
        super().__init__(recipe.model_copy(update={"trainable_modules": ()}))  # some are not there yet
        self.recipe = recipe
        add_temporal_layers(self.unet, recipe.temporal.layers(self.unet))
        if recipe.init_from is not None and (recipe.init_from / TEMPORAL_FILE).is_file():
            load_temporal_layers(self.unet, recipe.init_from / TEMPORAL_FILE)
        if recipe.trainable_modules:
            train_modules(self.unet, recipe.trainable_modules)

    def _denoising_loss(
        self, latents: Tensor, noise: Tensor, timesteps: Tensor, conditioning: Conditioning
    ) -> Tensor:
        set_num_frames(self.unet, latents.shape[1])
        loss = super()._denoising_loss(latents, noise, timesteps, conditioning)
        if latents.shape[1] > 1:
            return loss
        # Images skip the layers, but several processes (DDP) wait for a gradient of every parameter: a zero.
        return loss + 0 * sum(one.sum() for one in temporal_parameters(self.unet).values())

    def samples(self, folder: Path, step: int) -> None:
        """See `DenoisingTask.samples`."""
        with override_num_frames(self.unet, self._clip_shape()["num_frames"]):
            super().samples(folder, step)

    def export(self, folder: Path) -> None:
        """Write a folder of the system; see `TemporalUNet`."""
        self.set_video_config()
        self.system.write(folder, self.pipeline, self.recipe.temporal)
