"""The denoising objective: text-to-image and text-to-video are one loss on one U-Net.

Latents of frames or clips are noised and the U-Net predicts what the scheduler's configuration asks for
(epsilon or velocity), steered by the caption. For clips the temporal shift is on; in a share of the steps the
clip's frames are single images instead, so that this ability stays. Text towers and autoencoder are fixed.

Shapes: B clips, F frames, C latent channels, h x w latent pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Generator, Tensor, nn

from latent_shift.autoencoder import encode_frames
from latent_shift.conditioning import Conditioning, caption_embeds, repeat_per_frame, warn_if_truncated
from latent_shift.noise import draw_noise
from latent_shift.prompts import append_fps
from latent_shift.rng import StepRNG
from latent_shift.shift import ShiftOptions
from latent_shift.training.log import Progress
from latent_shift.training.model_setup import image_model, video_model
from latent_shift.training.recipe import ImageRecipe, VideoRecipe
from latent_shift.training.samples import write_samples
from latent_shift.training.tasks.denoising_data import (
    Items,
    clip_size,
    denoising_items,
    sample_prompts,
    trained_words,
)
from latent_shift.training.trainable import FOLDER, add_lora, has_lora, merged, train_layers, write_lora
from latent_shift.unet import disable_temporal_shift, enable_temporal_shift, set_num_frames
from latent_shift.video_config import VideoConfig


class DenoisingObjective(nn.Module):
    """B clips as latents (F, C, h, w) or frames uint8 (F, H, W, 3), and their captions in, the error out."""

    alphas: Tensor  # of each timestep, cumulated

    def __init__(self, recipe: ImageRecipe | VideoRecipe) -> None:
        super().__init__()
        self.recipe = recipe
        self.parts = image_model(recipe) if isinstance(recipe, ImageRecipe) else video_model(recipe)
        self.unet: UNet2DConditionModel = self.parts.unet
        self.vae: AutoencoderKL = self.parts.vae.requires_grad_(False)
        self.text_encoders = nn.ModuleList(self.parts.text_encoders()).requires_grad_(False)
        self.register_buffer("alphas", self.parts.scheduler.alphas_cumprod.clone(), persistent=False)
        if not torch.cuda.is_available():
            # On a CPU and on tiny sequences the plain form is twice as fast as the fused one.
            self.unet.set_attn_processor(AttnProcessor())
        shift = _shift_options(recipe) if isinstance(recipe, VideoRecipe) else None
        if shift is not None:
            enable_temporal_shift(self.unet, 1, shift)
        else:
            disable_temporal_shift(self.unet)
        if isinstance(recipe, VideoRecipe):
            _choose_trained(self.unet, recipe)
        self._warned_of_cut = False
        # Apart from self.unet, which samples with other shapes and takes the images among clips: each shape
        # is compiled anew. In a tuple, so that it does not count as another module.
        self._denoiser = (torch.compile(self.unet, dynamic=False) if recipe.compile else self.unet,)

    def dataset(self, report: Callable[[Progress], None]) -> Items:
        """The user's clips; or the stored latents, encoded now where the store is not full."""
        return denoising_items(self.recipe, self.parts, report)

    def validation(self, report: Callable[[Progress], None]) -> Items:
        """The clips that `dataset` keeps out."""
        return denoising_items(self.recipe, self.parts, report, kept_out=True)

    def forward(self, batch: dict[str, Any], rng: StepRNG) -> dict[str, Tensor]:
        """The loss of one batch, a scalar; `rng` decide timesteps, noise and which captions are dropped."""
        latents = batch["latents"].float() if "latents" in batch else self._latents(batch["frames"])
        step = rng.step_generator()
        as_images = latents.shape[1] == 1 or (self.training and _chance(step) < self._image_share())
        captions = batch["image_caption"] if as_images else self._clip_captions(batch)
        told = self._told(batch, captions, rng, latents, as_images=as_images)
        noise = self._noise(latents, rng.item_generators(latents.device), as_images=as_images)
        places = rng.stratified_uniforms(_chance(step), latents.shape[1] if as_images else 1)  # (B, F or 1)
        if not as_images:
            least, most = self.recipe.diffusion.timesteps
            places = least + (most - least) * places
        if as_images:
            latents, noise = latents.flatten(0, 1)[:, None], noise.flatten(0, 1)[:, None]  # (B*F, 1, C, h, w)
        timesteps = (places.flatten() * len(self.alphas)).long().to(latents.device)
        loss = self._denoise(latents, noise, timesteps, told)
        return {"loss": loss, "image_loss" if as_images else "clip_loss": loss.detach()}

    def _noise(self, latents: Tensor, items: list[Generator], *, as_images: bool) -> Tensor:
        """Noise for latents (B, F, C, h, w); the frames of clips share what the recipe says."""
        shape, chosen = tuple(latents.shape), self.recipe.diffusion
        if as_images:
            return draw_noise(shape, items).view(shape)
        return draw_noise(
            shape, items, chosen.noise_correlation, chosen.noise_persistence,
            reference=ending(latents), num_candidates=chosen.noise_choices,
        ).view(shape)  # fmt: skip

    def _denoise(self, latents: Tensor, noise: Tensor, timesteps: Tensor, told: Conditioning) -> Tensor:
        """latents, noise (B, F, C, h, w); timesteps (B,), one a clip; told of B*F frames."""
        frames, alpha = latents.shape[1], self.alphas[timesteps].view(-1, 1, 1, 1, 1)
        noisy = alpha.sqrt() * latents + (1 - alpha).sqrt() * noise
        if isinstance(self.recipe, VideoRecipe) and self.recipe.shift.enabled:
            set_num_frames(self.unet, frames)
        each = timesteps.repeat_interleave(frames)
        usual = self.training and (frames > 1 or isinstance(self.recipe, ImageRecipe))
        denoiser = self._denoiser[0] if usual else self.unet
        predicted = denoiser(noisy.flatten(0, 1), each, told.text, added_cond_kwargs=told.added).sample
        predicted = predicted.float().view_as(latents)
        target = alpha.sqrt() * noise - (1 - alpha).sqrt() * latents if self._predicts_velocity() else noise
        error = (predicted - target).square().mean(dim=(1, 2, 3, 4))  # (B,)
        return (error * self._weights(self.alphas[timesteps])).mean()

    def _weights(self, alpha: Tensor) -> Tensor:
        """Min-SNR weights (arXiv 2303.09556, section 3.4) of the squared error, (B,)."""
        gamma = self.recipe.diffusion.min_snr_gamma
        if gamma is None:
            return torch.ones_like(alpha)
        ratio = alpha / (1 - alpha)
        return ratio.clamp(max=gamma) / (ratio + 1 if self._predicts_velocity() else ratio.clamp(min=1e-8))

    def _predicts_velocity(self) -> bool:
        return bool(self.parts.scheduler.config.prediction_type == "v_prediction")

    def _image_share(self) -> float:
        """Of the batches of clips, those that count as images."""
        if not isinstance(self.recipe, VideoRecipe):
            return 1.0
        clips = self.recipe.clips
        return 0.0 if clips is not None and clips.images is not None else self.recipe.image_steps

    def _clip_captions(self, batch: dict[str, Any]) -> list[str]:
        captions: list[str] = batch["caption"]
        if not self._tells_fps():
            return captions
        return [append_fps(text, fps) for text, fps in zip(captions, batch["fps"].tolist(), strict=True)]

    def _tells_fps(self) -> bool:
        clips = self.recipe.clips
        return isinstance(self.recipe, VideoRecipe) and clips is not None and clips.tell_fps

    def _tells_places(self) -> bool:
        return isinstance(self.recipe, VideoRecipe) and self.recipe.tell_places

    def _told(
        self,
        batch: dict[str, Any],
        captions: list[str],
        rng: StepRNG,
        latents: Tensor,
        *,
        as_images: bool,
    ) -> Conditioning:
        """What the frames of latents (B, F, C, h, w) are told; in training some of no caption."""
        share = self.recipe.diffusion.caption_dropout if self.training else 0.0
        told = caption_embeds(self.parts, batch, captions, (rng.uniforms() < share).tolist())
        if "text" not in batch and not self._warned_of_cut:
            suspects = captions if told.filled is None else [captions[number] for number in told.filled]
            self._warned_of_cut = bool(suspects) and warn_if_truncated(self.parts, suspects)
        height, width = (side * self.parts.vae_scale_factor for side in latents.shape[-2:])
        places = self._tells_places() and not as_images
        return repeat_per_frame(told, latents.shape[1], (height, width), frame_positions=places)

    def _latents(self, frames: Tensor) -> Tensor:
        """(B, F, C, h, w) of frames uint8 (B, F, H, W, 3), a clip at a time."""
        flat = encode_frames(self.vae, frames.flatten(0, 1), chunk=frames.shape[1])
        return flat.unflatten(0, frames.shape[:2])

    def samples(self, folder: Path, step: int) -> None:
        """Write a sheet of clips (or images) of fixed prompts."""
        self._settle()
        write_samples(self.parts, folder / f"step-{step:08d}.png", sample_prompts(self.recipe))

    def export(self, folder: Path) -> None:
        """Write the model as a folder in the Stable Diffusion layout, with `latent_shift.json`."""
        self._settle()
        if not has_lora(self.unet):
            self.parts.save_pretrained(folder)
            return
        write_lora(self.unet, folder / FOLDER)
        self.parts.register_modules(unet=merged(self.unet))
        try:
            self._settle()
            self.parts.save_pretrained(folder)
        finally:
            self.parts.register_modules(unet=self.unet)

    def _settle(self) -> None:
        """Tell the pipeline how its U-Net was trained."""
        recipe = self.recipe
        known = () if recipe.latents is None else recipe.latents.world.vocabulary()
        video = isinstance(recipe, VideoRecipe)
        shift = _shift_options(recipe) if isinstance(recipe, VideoRecipe) else ShiftOptions()
        self.parts.video_config = VideoConfig(
            video_tuned=video, **clip_size(recipe), shift=shift,
            shared_noise_ratio=recipe.diffusion.noise_correlation,
            progressive_noise_alpha=recipe.diffusion.noise_persistence,
            append_fps_to_caption=self._tells_fps(), frame_position_embedding=self._tells_places(),
            closed_vocabulary=trained_words(self.parts.tokenizer, known),
            **recipe.sampling.model_dump(),
        )  # fmt: skip


def ending(latents: Tensor) -> Tensor:
    """Where things are at the end of clips (B, F, C, h, w), and whence they came, as one frame (B, C, h, w).

    The last frame, less half of the one a fifth of the clip before it: what stands still is there, by half,
    and what moves has its former place as a shadow, so that the way it goes is told as well.
    """
    frames = latents.shape[1]
    return latents[:, -1] - latents[:, -1 - frames // 5] / 2


def _choose_trained(unet: UNet2DConditionModel, recipe: VideoRecipe) -> None:
    if recipe.lora is not None:
        add_lora(unet, recipe.lora)
    elif recipe.layers:
        train_layers(unet, recipe.layers)
    if recipe.gradient_checkpointing:
        unet.enable_gradient_checkpointing()


def _shift_options(recipe: VideoRecipe) -> ShiftOptions | None:
    """The recipe's shift; None for the ablation without it."""
    options = recipe.shift.model_dump(exclude={"enabled", "distances"})
    return ShiftOptions(**options, strides=recipe.shift.distances) if recipe.shift.enabled else None


def _chance(generator: Generator) -> float:
    return float(torch.rand((), generator=generator))
