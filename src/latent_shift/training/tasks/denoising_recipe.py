"""The keys of recipes that train by the denoising loss: data, loss, samples, and what was tried.

Text-to-image (`image.py`) and text-to-video (`video.py`) add their own.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import Field, ValidationError, model_validator

from latent_shift.data.sources.base import GeneratedSource
from latent_shift.documents import validation_error
from latent_shift.limits import MAX_GUIDANCE, MAX_STEPS
from latent_shift.training.datasets import Clips, Latents, data_summary
from latent_shift.training.recipe import Holds, Ratio, Recipe, Strict, exactly_one

# Options that are fields of a generated source, those of `latents`, and those of the noise of clips.
_OF_SOURCE = ("oversample_motions", "oversample_motions_ratio", "amplitude_range")
_OF_LATENTS = ("oversample_words", "oversample_ratio", *_OF_SOURCE)
_OF_NOISE = ("timestep_range", "noise_candidates", "progressive_noise_alpha")


class Diffusion(Strict):
    """The denoising loss."""

    min_snr_gamma: float | None = Field(
        None, gt=0.0, description="arXiv 2303.09556; a zero terminal SNR gets no weight"
    )
    caption_dropout: Ratio = Field(0.1, description="captions replaced by the empty one, for guidance")
    shared_noise_ratio: Ratio = Field(0.0, description="variance of the noise that a clip's frames share")


class Sampling(Strict):
    """Settings of samples, written into the model as its defaults."""

    guidance_scale: float = Field(4.0, ge=1.0, le=MAX_GUIDANCE)
    num_inference_steps: int = Field(25, ge=1, le=MAX_STEPS)
    eta: Ratio = Field(0.0, description="new noise in every step of clips (DDIM): mends disagreements")


class Experimental(Strict):
    """Options that were tried on Moving Shapes (docs/learned.md), with their effect there."""

    progressive_noise_alpha: Ratio = Field(
        0.0,
        description="correlation of the noise that is not shared between neighbouring frames (PYoCo). Chosen"
        " to be about that of the clips; helped once motion was learned",
    )
    noise_candidates: Annotated[int, Field(ge=1, le=4096)] = Field(
        1,
        description="shared noise is the one of so many that is closest to the clip's end. By itself"
        " little; with timestep_range and eta circles rose from 3 to 30 of 33",
    )
    timestep_range: tuple[Ratio, Ratio] = Field(
        (0.0, 1.0),
        description="part of the noise schedule that clips are trained on; 1 is all noise. Taught circles,"
        " and in a narrow band spins; with a GPU's 404,000 clips not needed for circles",
    )
    oversample_words: tuple[str, ...] = Field(
        (), description="words; clips with one come more often. Of 48 shapes on gray 32 were right, 29 before"
    )
    oversample_ratio: Ratio = Field(0.0, description="ratio of the clips that are drawn from those only")
    oversample_motions: tuple[str, ...] = Field(
        (),
        description="motions of a generated source that come more often. By itself little in minutes; spins"
        " were learned only among nearly nothing but spins",
    )
    oversample_motions_ratio: Ratio = Field(0.0, description="ratio of the clips that show one of them")
    amplitude_range: Ratio = Field(
        1.0,
        description="part of its range, about the middle, that the amplitude of such a motion is drawn from."
        " By itself it gave no spin of 20; part of the stage that did",
    )

    @model_validator(mode="after")
    def _consistent(self) -> Experimental:
        low, high = self.timestep_range
        if low >= high:
            raise ValueError(f"timestep_range [{low:g}, {high:g}]: the first has to be below the second")
        if bool(self.oversample_words) != (self.oversample_ratio > 0):
            raise ValueError("oversample_words and oversample_ratio go together: give both, or neither")
        return self


class DenoisingRecipe(Recipe):
    """The keys that text-to-image and text-to-video have in common."""

    single_frames: ClassVar[bool]  # whether the U-Net is trained on images only

    latents: Latents | None = Field(None, description="clips of a generated source; or clips")
    clips: Clips | None = Field(None, description="clips of your own; or latents")
    diffusion: Diffusion = Diffusion()
    sampling: Sampling = Sampling()
    init_from: Annotated[Path | None, Holds(("unet",))] = None
    experimental: Experimental = Experimental()

    @property
    def validates_several_shapes(self) -> bool:
        """See `Recipe.validates_several_shapes`."""
        return self.clips is not None and self.clips.frames.buckets is not None

    @property
    def source(self) -> GeneratedSource | None:
        """The source of `latents`, changed as `experimental` says. Raises ValueError where it cannot be."""
        if self.latents is None:
            return None
        source, defaults = self.latents.source, Experimental()
        changes = {name: getattr(self.experimental, name) for name in _OF_SOURCE}
        changes = {name: value for name, value in changes.items() if value != getattr(defaults, name)}
        for name in changes:
            if name not in type(source).model_fields:
                raise ValueError(f"experimental.{name}: sources of format {source.format} do not have it")
        try:
            return type(source).model_validate({**source.model_dump(), **changes})
        except ValidationError as error:
            raise ValueError(f"experimental: {validation_error(error)}") from error

    @property
    def has_own_images(self) -> bool:
        """Whether image batches come from a source of their own, not from frames of the clips."""
        data = self.clips if self.latents is None else self.latents
        return data is not None and data.images is not None

    def check(self) -> None:
        """See `Recipe.check`."""
        super().check()
        if self.clips is not None:
            self.clips.check(self.output, single_frames=self.single_frames)
        if self.latents is not None and self.latents.images is not None:
            stores = (self.latents, self.latents.images)
            if len({os.path.realpath(one.folder) for one in stores}) == 1 and (
                stores[0].source.latent_settings() != stores[1].source.latent_settings()
            ):
                raise ValueError(
                    f"latents.images.folder: {self.latents.images.folder} is the folder of the clips'"
                    " latents; name another"
                )
            self._check_validation_of(*(one.source for one in stores))
            shapes = [one.source.shape for one in stores]
            clips, images = (f"{one.width}x{one.height}" for one in shapes)
            if clips != images:
                raise ValueError(
                    f"latents.images: its frames are {images}, and those of the clips {clips}; take a source"
                    " of the same size"
                )

    def _check_validation_of(self, clips: GeneratedSource, images: GeneratedSource) -> None:
        """Raise ValueError where images are of the scenes that the validation of clips keeps out."""
        one, other = clips.latent_settings(), images.latent_settings()
        if self.validation is not None and one == other and images.clips > clips.clips:
            raise ValueError(
                f"latents.images.source: has the clips of latents.source and {images.clips - clips.clips}"
                " more, of which validation keeps some out; give it another seed"
            )

    def data_summary(self) -> list[str]:
        """See `Recipe.data_summary`."""
        lines = data_summary(self.source, self.clips)
        if self.latents is not None and self.latents.images is not None:
            lines.append(f"Image batches: the generated world {self.latents.images.source.description}.")
        return lines

    @model_validator(mode="after")
    def _consistent_data(self) -> DenoisingRecipe:
        exactly_one(self, "latents", "clips")
        if self.latents is None:
            reason = "it is for latents, of a generated source, and has no effect on clips"
            _refuse_set(self.experimental, "experimental", _OF_LATENTS, reason)
        if self.single_frames:
            reason = f"it is for clips, and task {self.task} trains on single frames"
            _refuse_set(self.experimental, "experimental", _OF_NOISE, reason)
            _refuse_set(self.diffusion, "diffusion", ("shared_noise_ratio",), reason)
            if self.latents is not None and self.latents.images is not None:
                raise ValueError(f"latents.images: {reason}; make them the source, and remove it")
        tried, _ = self.experimental, self.source  # which raises where it cannot be changed
        if tried.noise_candidates > 1 and self.diffusion.shared_noise_ratio == 0:
            raise ValueError(
                "experimental.noise_candidates selects shared noise: diffusion.shared_noise_ratio has to be"
                " above 0"
            )
        return self


def _refuse_set(section: Strict, key: str, names: Sequence[str], reason: str) -> None:
    """Raise ValueError where a section of a recipe, by its key, sets options that have no effect in it."""
    defaults = type(section)()
    for name in names:
        if (value := getattr(section, name)) != getattr(defaults, name):
            raise ValueError(f"{key}.{name} is {value}: {reason}; remove it")
