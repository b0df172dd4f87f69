"""The task autoencoder: an image autoencoder that reconstructs single frames.

Trains diffusers' `AutoencoderKL` with absolute and squared error and a light pull of the latents toward a
unit Gaussian. Not adversarial: flat colours and clean edges do not need it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from diffusers import AutoencoderKL
from pydantic import Field, model_validator
from torch import Tensor
from torch.utils.data import Dataset

from latent_shift.autoencoder import ENCODER_PREFIXES, to_model_range, to_uint8
from latent_shift.data.sources import AnyGeneratedSource
from latent_shift.data.sources.base import GeneratedSource
from latent_shift.data.video_dataset import VideoDataset
from latent_shift.media import write_image
from latent_shift.rng import StepRNG
from latent_shift.training.compiling import ready_to_compile
from latent_shift.training.datasets import Clips, data_summary, refuse_keys
from latent_shift.training.logging import Report
from latent_shift.training.model_setup import check_clip_size, check_same_network, load_autoencoder
from latent_shift.training.recipe import Holds, Recipe, exactly_one, known_to, making_network
from latent_shift.training.task import Task

_SAMPLED, _MEASURED = 10**6, 2 * 10**6  # indices, far from what is trained on


class AutoencoderRecipe(Recipe):
    """An image autoencoder, trained on single frames."""

    task: Literal["autoencoder"]
    source: AnyGeneratedSource | None = Field(None, description="frames of a generated source; or clips")
    clips: Clips | None = Field(None, description="single frames of your own clips; or source")
    autoencoder: Annotated[dict[str, Any], known_to(AutoencoderKL)]
    kl_weight: float = Field(3e-3, ge=0.0, description="of the mean divergence per latent number, in nats")
    crop: int | None = Field(None, ge=8, description="train on windows of so many pixels around the objects")
    init_from: Annotated[Path | None, Holds(("vae",))] = None
    freeze_encoder: bool = Field(False, description="train only the decoder: latents of init_from stay valid")
    latent_noise: float = Field(
        0.0, ge=0.0, le=1.0,
        description="noise on latents, up to so many standard deviations: so the decoder repairs errors",
    )  # fmt: skip

    @property
    def _scale(self) -> int:
        """Pixels of a latent pixel's side."""
        return int(2 ** (len(self.autoencoder.get("block_out_channels", (64,))) - 1))

    def check(self) -> None:
        """See `Recipe.check`."""
        super().check()
        if self.clips is not None:
            self.clips.check(self.output, single_frames=True)

    def data_summary(self) -> list[str]:
        """See `Recipe.data_summary`."""
        return data_summary(self.source, self.clips)

    @model_validator(mode="after")
    def _has_an_encoder_to_freeze(self) -> AutoencoderRecipe:
        if self.freeze_encoder and self.init_from is None:
            raise ValueError(
                "freeze_encoder needs init_from: a new encoder has learned nothing worth keeping"
            )
        return self

    @model_validator(mode="after")
    def _noise_is_for_a_decoder(self) -> AutoencoderRecipe:
        if self.latent_noise and not self.freeze_encoder:
            raise ValueError("latent_noise: only with freeze_encoder: an encoder would outgrow the noise")
        return self

    @model_validator(mode="after")
    def _one_kind_of_data(self) -> AutoencoderRecipe:
        if self.crop is not None and self.clips is not None:
            raise ValueError("crop: only for source; the height and width of clips.frames say what is seen")
        exactly_one(self, "source", "clips")
        if self.clips is not None:
            refuse_keys(
                self.clips, "an autoencoder's frames",
                ("frames.buckets", "precomputed_latents", "append_fps_to_caption", "images"),
            )  # fmt: skip
            check_clip_size(self.clips.frames, self._scale)
        return self

    @model_validator(mode="after")
    def _crop_fits(self) -> AutoencoderRecipe:
        if self.crop is not None and self.source is not None and self.crop > min(self.source.shape[2:]):
            raise ValueError(
                f"crop {self.crop} is larger than the frames of source, {self.source.shape.height}"
            )
        if self.crop is not None and self.crop % self._scale:
            raise ValueError(f"crop {self.crop} is no multiple of the autoencoder's scale, {self._scale}")
        return self


class AutoencoderTask(Task):
    """From frames uint8 (B, 1, H, W, 3) to the loss of their reconstruction."""

    Config = AutoencoderRecipe
    summary = "an image autoencoder"
    recipe: AutoencoderRecipe

    def __init__(self, recipe: AutoencoderRecipe) -> None:
        super().__init__(recipe)
        if recipe.init_from is None:
            with making_network("autoencoder"):
                self.vae = AutoencoderKL(**recipe.autoencoder)
        else:
            self.vae = load_autoencoder(recipe.init_from)
            measured = set() if recipe.freeze_encoder else {"scaling_factor"}  # anew, by `export`
            given = {key: value for key, value in recipe.autoencoder.items() if key not in measured}
            check_same_network(self.vae, given, "autoencoder", recipe.init_from)
        if recipe.freeze_encoder:
            for name, parameter in self.vae.named_parameters():
                parameter.requires_grad_(not name.startswith(ENCODER_PREFIXES))
        if recipe.compile:
            ready_to_compile(self.vae.encoder).compile()
            ready_to_compile(self.vae.decoder).compile()

    def dataset(self, report: Report) -> Dataset[dict[str, Any]]:
        """Single frames of the source, or windows of them; or of the user's clips."""
        return self._clips_of(validation=False) or self._source.dataset(images=True, crop=self.recipe.crop)

    def validation(self, report: Report) -> Dataset[dict[str, Any]] | None:
        """Whole frames of another series of the same source; or of clips that `dataset` keeps out."""
        if self.recipe.validation is None:
            return None
        own = self._clips_of(validation=True)
        return own or self._source.other_series(self.recipe.validation.items).dataset(images=True)

    @property
    def _source(self) -> GeneratedSource:
        assert self.recipe.source is not None  # the recipe has one of the two
        return self.recipe.source

    def _clips_of(self, *, validation: bool) -> VideoDataset | None:
        """The clips that are trained on, or those kept out; None where the frames are of a source."""
        recipe = self.recipe
        if recipe.clips is None:
            return None
        manifest = recipe.clips.manifest.of_kind("clip")
        if recipe.validation is not None:
            manifest = manifest.split(recipe.validation.items, recipe.seed)[validation]
        frames = recipe.clips.frames.model_copy(update={"num_frames": 1})
        return VideoDataset(manifest, frames, seed=recipe.seed, bad_log=recipe.output / "bad-clips.jsonl")

    def _whole_frames(self, first: int, count: int) -> Tensor:
        """Whole frames uint8 (N, H, W, 3), `count` of them from index `first` on."""
        whole = self._clips_of(validation=False) or self._source.dataset(images=True)
        frames = torch.cat([whole[index]["frames"] for index in range(first, first + count)])
        return frames.to(self.vae.device)

    def forward(self, batch: dict[str, Any], rng: StepRNG) -> dict[str, Tensor]:
        """The loss and its parts, scalars; `rng` decides the latents' noise."""
        pixels = to_model_range(batch["frames"][:, 0])  # (B, 3, H, W) in [-1, 1]
        posterior = self.vae.encode(pixels).latent_dist
        shape = posterior.mean.shape[1:]
        generators = rng.item_generators(pixels.device)
        noise = torch.stack([torch.randn(shape, generator=one, device=one.device) for one in generators])
        latents = posterior.mean + posterior.std * noise.to(posterior.mean.dtype)
        if self.recipe.latent_noise:
            latents = latents + self._errors_of_a_unet(latents, generators)
        error = self.vae.decode(latents).sample.float() - pixels
        squared, kl = error.square().mean(), posterior.kl().mean() / latents[0].numel()
        loss = error.abs().mean() + squared + self.recipe.kl_weight * kl
        return {"loss": loss, "psnr": 10 * torch.log10(4 / squared.detach()), "kl": kl.detach()}

    def _errors_of_a_unet(self, latents: Tensor, generators: list[torch.Generator]) -> Tensor:
        """Noise like latents (B, C, H, W), of each image from 0 to `latent_noise` standard deviations."""
        unit = self.recipe.latent_noise / self.vae.config.scaling_factor
        parts = [
            torch.rand((), generator=one, device=one.device)
            * torch.randn(latents.shape[1:], generator=one, device=one.device)
            for one in generators
        ]
        return unit * torch.stack(parts).to(latents.dtype)

    @torch.no_grad()
    def samples(self, folder: Path, step: int) -> None:
        """Write a sheet of frames above their reconstructions."""
        frames = self._whole_frames(_SAMPLED, 16)
        restored = to_uint8(self.vae(to_model_range(frames)).sample)
        rows = [torch.cat(list(part), dim=1) for part in (frames[:8], restored[:8], frames[8:], restored[8:])]
        write_image(folder / f"step-{step:08d}.png", torch.cat(rows).cpu().numpy(), overwrite=True)

    @torch.no_grad()
    def export(self, folder: Path) -> None:
        """Write `vae/`, the scaling factor of a trained encoder set so that latents have unit variance."""
        if not self.recipe.freeze_encoder:
            frames = self._whole_frames(_MEASURED, 512)
            parts = [self.vae.encode(to_model_range(part)).latent_dist.mode() for part in frames.split(32)]
            self.vae.register_to_config(scaling_factor=round(1 / torch.cat(parts).std().item(), 4))
        self.vae.save_pretrained(folder / "vae", safe_serialization=True)
