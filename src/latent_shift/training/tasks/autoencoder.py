"""The image autoencoder's objective: a frame, encoded and decoded, should come back as it was.

Trains diffusers' `AutoencoderKL` on single frames with absolute and squared error and a light pull of the
latents toward a unit Gaussian. Not adversarial: the world's flat colours and clean edges do not need it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn
from torch.utils.data import Dataset

from latent_shift.autoencoder import ENCODER_PREFIXES, to_model_range
from latent_shift.data.sources.base import GeneratedSource
from latent_shift.data.video_dataset import VideoDataset
from latent_shift.media import write_image
from latent_shift.rng import StepRNG
from latent_shift.training.log import Progress
from latent_shift.training.recipe import AutoencoderRecipe
from latent_shift.training.sources import listing


class AutoencoderObjective(nn.Module):
    """Frames uint8 (B, 1, H, W, 3) in, the loss of their reconstruction out."""

    def __init__(self, recipe: AutoencoderRecipe) -> None:
        super().__init__()
        self.recipe = recipe
        if recipe.init is None:
            self.vae = AutoencoderKL(**recipe.autoencoder)
        else:
            self.vae = AutoencoderKL.from_pretrained(recipe.init / "vae", torch_dtype=torch.float32)
        if recipe.freeze_encoder:
            for name, parameter in self.vae.named_parameters():
                parameter.requires_grad_(not name.startswith(ENCODER_PREFIXES))
        if recipe.compile:
            self.vae.encoder.compile()
            self.vae.decoder.compile()

    def dataset(self, report: Callable[[Progress], None]) -> Dataset[dict[str, Any]]:
        """Single frames of the recipe's levels, or windows of them; or of the user's clips."""
        own = self._own_frames(kept_out=False)
        return own or self._world().dataset(images=True, crop=self.recipe.crop)

    def validation(self, report: Callable[[Progress], None]) -> Dataset[dict[str, Any]]:
        """Whole frames of another series of the same levels; or of clips that `dataset` keeps out."""
        own, recipe = self._own_frames(kept_out=True), self.recipe
        if own is not None:
            return own
        assert recipe.validation is not None
        return self._world().other_series(recipe.validation.items).dataset(images=True)

    def _world(self) -> GeneratedSource:
        assert self.recipe.world is not None  # the recipe has one of the two
        return self.recipe.world

    def _own_frames(self, *, kept_out: bool) -> VideoDataset | None:
        clips, kept = self.recipe.clips, self.recipe.validation
        if clips is None:
            return None
        found = listing(clips.source)
        if kept is not None:
            found = found.split(kept.items, self.recipe.seed)[kept_out]
        seen = clips.frames.model_copy(update={"num_frames": 1})
        return VideoDataset(
            found, seen, seed=self.recipe.seed, bad_log=self.recipe.output / "bad-clips.jsonl"
        )

    def _frames(self, first: int, count: int) -> Tensor:
        """Whole frames uint8 (N, H, W, 3), `count` of them from visit `first` on."""
        whole = self._own_frames(kept_out=False) or self._world().dataset(images=True)
        frames = torch.cat([whole[visit]["frames"] for visit in range(first, first + count)])
        return frames.to(self.vae.device)

    def forward(self, batch: dict[str, Any], rng: StepRNG) -> dict[str, Tensor]:
        """The loss and its parts, scalars; `rng` decide the latents' noise."""
        pixels = to_model_range(batch["frames"][:, 0])  # (B, 3, H, W) in [-1, 1]
        posterior = self.vae.encode(pixels).latent_dist
        shape = posterior.mean.shape[1:]
        own = rng.item_generators(pixels.device)
        noise = torch.stack([torch.randn(shape, generator=one, device=one.device) for one in own])
        latents = posterior.mean + posterior.std * noise.to(posterior.mean.dtype)
        error = self.vae.decode(latents).sample.float() - pixels
        squared, kl = error.square().mean(), posterior.kl().mean() / latents[0].numel()
        loss = error.abs().mean() + squared + self.recipe.kl_weight * kl
        return {"loss": loss, "psnr": 10 * torch.log10(4 / squared.detach()), "kl": kl.detach()}

    def samples(self, folder: Path, step: int) -> None:
        """Write a sheet of frames above their reconstructions."""
        frames = self._frames(10**6, 16)
        with torch.no_grad():
            decoded = self.vae(to_model_range(frames)).sample.float()
        restored = ((decoded + 1) * 127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1)
        rows = [torch.cat(list(part), dim=1) for part in (frames[:8], restored[:8], frames[8:], restored[8:])]
        write_image(folder / f"step-{step:08d}.png", torch.cat(rows).cpu().numpy(), overwrite=True)

    def export(self, folder: Path) -> None:
        """Write `vae/`, the scaling factor of a trained encoder set so that latents have unit variance."""
        if not self.recipe.freeze_encoder:
            self._set_scaling_factor()
        self.vae.save_pretrained(folder / "vae", safe_serialization=True)

    def _set_scaling_factor(self) -> None:
        frames = self._frames(2 * 10**6, 512)
        with torch.no_grad():
            parts = [self.vae.encode(to_model_range(part)).latent_dist.mode() for part in frames.split(32)]
        self.vae.register_to_config(scaling_factor=round(1 / torch.cat(parts).std().item(), 4))
