"""The denoising loss, shared by text-to-image (`image.py`) and text-to-video (`video.py`).

Latents of frames or clips are noised, and the U-Net predicts what the scheduler's configuration says (epsilon
or velocity), conditioned on the caption. For clips the temporal shift is on; in a ratio of the batches the
frames of clips are single images instead, so that this ability stays. Text encoders and autoencoder are
frozen.

Shapes: B clips, F frames, C latent channels, h x w latent pixels.
"""

from __future__ import annotations

from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Generator, Tensor, nn
from torch.utils.data import Dataset

from latent_shift.autoencoder import encode_frames
from latent_shift.conditioning import Conditioning, caption_embeds, repeat_per_frame, warn_if_truncated
from latent_shift.data.latent_dataset import LatentDataset
from latent_shift.data.precomputed import PrecomputedLatentDataset
from latent_shift.data.samplers import ImageVideoMix
from latent_shift.data.video_dataset import DEFAULT_FPS, VideoDataset
from latent_shift.noise import draw_noise
from latent_shift.prompts import append_fps
from latent_shift.rng import StepRNG
from latent_shift.shift import ShiftOptions
from latent_shift.training.compiling import ready_to_compile
from latent_shift.training.datasets import Clips, latent_dataset
from latent_shift.training.logging import Report
from latent_shift.training.model_setup import AnyPipeline, AttentionByLength
from latent_shift.training.precompute import model_hashes
from latent_shift.training.prediction import min_snr_weights, prediction_target
from latent_shift.training.samples import write_samples
from latent_shift.training.task import Task
from latent_shift.training.tasks.denoising_recipe import DenoisingRecipe
from latent_shift.training.text_encoder import trained_words
from latent_shift.training.text_states import TextStates
from latent_shift.unet import disable_temporal_shift, set_num_frames
from latent_shift.video_config import VideoConfig

_SAMPLES = 4  # clips on a sheet of samples, where the captions are the user's


class DenoisingTask(Task):
    """From B clips as latents (F, C, h, w) or frames uint8 (F, H, W, 3), and captions, to the loss."""

    recipe: DenoisingRecipe
    alphas: Tensor  # of each timestep, cumulated

    shift: ShiftOptions | None = None
    image_ratio = 1.0  # of the batches of clips, those whose frames count as images
    image_source_ratio = 0.5  # of all batches, those taken from a source of images, where one is given
    image_batch_size: int | None = None  # of these; None for as many as clips
    frame_positions = False  # whether the text embeddings of clips have the positions of their frames
    append_fps = False  # whether captions of clips have the frame rate appended

    def __init__(self, recipe: DenoisingRecipe, pipeline: AnyPipeline) -> None:
        super().__init__(recipe)
        self.pipeline = pipeline
        self.unet: UNet2DConditionModel = pipeline.unet.train()  # a loaded one has its dropout off
        self.vae: AutoencoderKL = pipeline.vae.requires_grad_(False)
        self.text_encoders = nn.ModuleList(pipeline.text_encoders()).requires_grad_(False)
        self.register_buffer("alphas", pipeline.scheduler.alphas_cumprod.clone(), persistent=False)
        if not torch.cuda.is_available():
            self.unet.set_attn_processor(AttentionByLength())
        disable_temporal_shift(self.unet)
        self._warned_of_truncation = False
        come_again = recipe.latents is not None and recipe.latents.wordings is not None
        self._text_states = TextStates(pipeline) if come_again else None

    def train(self, mode: bool = True) -> DenoisingTask:
        """Set the mode of the U-Net only: frozen parts have dropout, too, and would condition on noise."""
        super().train(mode)
        for frozen in (self.vae, self.text_encoders):
            frozen.eval()
        return self

    @cached_property  # which does not count as another module, as an attribute would
    def _compiled_unet(self) -> Any:
        return torch.compile(ready_to_compile(self.unet), dynamic=False)

    def dataset(self, report: Report) -> LatentDataset | VideoDataset | ImageVideoMix:
        """The user's clips; or stored latents, encoded now where the store is not complete."""
        if self.recipe.clips is not None:
            return self._own_clips(self.recipe.clips)
        clips, images = self._stored_latents(report), self._stored_images(report)
        if self._text_states is not None:
            stored = (clips,) if images is None else (clips, images)
            self._text_states.expect(chain.from_iterable(one.all_wordings() for one in stored))
        return clips if images is None else self._mixed(clips, images)

    def validation(self, report: Report) -> LatentDataset | VideoDataset | ImageVideoMix | None:
        """The clips that `dataset` keeps out."""
        recipe = self.recipe
        if recipe.validation is None:
            return None
        if recipe.clips is None:
            return self._stored_latents(report, last=recipe.validation.items)
        return self._own_clips(recipe.clips, validation=True)

    def _stored_latents(self, report: Report, last: int = 0) -> LatentDataset:
        recipe, tried = self.recipe, self.recipe.experimental
        assert recipe.latents is not None  # the recipe has latents or clips
        assert recipe.source is not None
        return latent_dataset(
            recipe.latents, recipe.source, self.vae, report,
            last=last, workers=recipe.num_workers, images=recipe.single_frames,
            stride=recipe.latents.frame_stride, wordings=recipe.latents.wordings,
            oversample_words=tried.oversample_words, oversample_ratio=tried.oversample_ratio,
        )  # fmt: skip

    def _stored_images(self, report: Report) -> LatentDataset | None:
        """The frames of `latents.images`, where the recipe has them."""
        latents = self.recipe.latents
        if latents is None or latents.images is None:
            return None
        return latent_dataset(
            latents.images, latents.images.source, self.vae, report,
            workers=self.recipe.num_workers, images=True, name="clip of latents.images",
            wordings=latents.wordings,
        )  # fmt: skip

    def _own_clips(self, clips: Clips, *, validation: bool = False) -> VideoDataset | ImageVideoMix:
        """The user's clips, or those kept out of them; images of another source mixed in."""
        recipe, frames = self.recipe, clips.frames
        options: dict[str, Any] = {"seed": recipe.seed, "bad_log": recipe.output / "bad-clips.jsonl"}
        if recipe.single_frames:
            frames = frames.model_copy(update={"num_frames": 1})
        manifest = clips.manifest.of_kind("clip")
        options["of"] = len(manifest.records)  # a few are kept out, and one bad among them is no large share
        if recipe.validation is not None:
            manifest = manifest.split(recipe.validation.items, recipe.seed)[validation]
        if clips.precomputed_latents:
            videos: VideoDataset = PrecomputedLatentDataset(
                manifest, frames, model_hashes(self.pipeline), **options
            )
        else:
            videos = VideoDataset(manifest, frames, **options)
        if clips.image_manifest is None or validation:
            return videos
        images = VideoDataset(clips.image_manifest, frames, kind="image", **{**options, "of": 0})
        return self._mixed(videos, images)

    def _mixed(self, clips: Dataset[Any], images: Dataset[Any]) -> ImageVideoMix:
        return ImageVideoMix(clips, images, self.image_source_ratio, self.image_batch_size)

    def forward(self, batch: dict[str, Any], rng: StepRNG) -> dict[str, Tensor]:
        """The loss of a batch, a scalar; `rng` decides timesteps, noise and which captions are dropped."""
        latents = batch["latents"].float() if "latents" in batch else self._encode(batch["frames"])
        step = rng.step_generator()
        as_images = latents.shape[1] == 1 or (self.training and _uniform(step) < self.image_ratio)
        conditioning = self._conditioning(batch, rng, latents, as_images=as_images)
        noise = self._noise(latents, rng.item_generators(latents.device), as_images=as_images)
        times = rng.stratified_uniforms(_uniform(step), latents.shape[1] if as_images else 1)  # (B, F or 1)
        if as_images:
            latents, noise = latents.flatten(0, 1)[:, None], noise.flatten(0, 1)[:, None]  # (B*F, 1, C, h, w)
        else:
            low, high = self.recipe.experimental.timestep_range
            times = low + (high - low) * times
        timesteps = (times.flatten() * len(self.alphas)).long().to(latents.device)
        loss = self._denoising_loss(latents, noise, timesteps, conditioning)
        return {"loss": loss, "image_loss" if as_images else "clip_loss": loss.detach()}

    def _encode(self, frames: Tensor) -> Tensor:
        """Latents (B, F, C, h, w) of frames uint8 (B, F, H, W, 3), a clip at a time."""
        flat = encode_frames(self.vae, frames.flatten(0, 1), chunk=frames.shape[1])
        return flat.unflatten(0, frames.shape[:2])

    def _conditioning(
        self, batch: dict[str, Any], rng: StepRNG, latents: Tensor, *, as_images: bool
    ) -> Conditioning:
        """Conditioning of the frames of latents (B, F, C, h, w); in training some captions are dropped."""
        captions: list[str] = batch["image_caption" if as_images else "caption"]
        if self.append_fps and not as_images:
            captions = [
                append_fps(text, fps) for text, fps in zip(captions, batch["fps"].tolist(), strict=True)
            ]
        ratio = self.recipe.diffusion.caption_dropout if self.training else 0.0
        dropped = (rng.uniforms() < ratio).tolist()
        embeds = caption_embeds(self.pipeline, batch, captions, dropped, self._text_states)
        if "text" not in batch and not self._warned_of_truncation:
            suspects = captions if embeds.filled is None else [captions[number] for number in embeds.filled]
            self._warned_of_truncation = bool(suspects) and warn_if_truncated(self.pipeline, suspects)
        height, width = (side * self.pipeline.vae_scale_factor for side in latents.shape[-2:])
        positions = self.frame_positions and not as_images
        return repeat_per_frame(embeds, latents.shape[1], (height, width), frame_positions=positions)

    def _noise(self, latents: Tensor, generators: list[Generator], *, as_images: bool) -> Tensor:
        """Noise for latents (B, F, C, h, w); the frames of clips share what the recipe says."""
        shape, tried = tuple(latents.shape), self.recipe.experimental
        if as_images:
            return draw_noise(shape, generators).view(shape)
        return draw_noise(
            shape, generators, self.recipe.diffusion.shared_noise_ratio, tried.progressive_noise_alpha,
            reference=end_of_clip_reference(latents), num_candidates=tried.noise_candidates,
        ).view(shape)  # fmt: skip

    def _denoising_loss(
        self, latents: Tensor, noise: Tensor, timesteps: Tensor, conditioning: Conditioning
    ) -> Tensor:
        """latents, noise (B, F, C, h, w); timesteps (B,), one a clip; conditioning of B*F frames."""
        frames, alpha = latents.shape[1], self.alphas[timesteps].view(-1, 1, 1, 1, 1)
        noisy = alpha.sqrt() * latents + (1 - alpha).sqrt() * noise
        if self.shift is not None:
            set_num_frames(self.unet, frames)
        # Each shape is compiled anew: not images among clips, and not samples.
        usual_shape = self.training and (frames > 1 or self.recipe.single_frames)
        denoiser = self._compiled_unet if self.recipe.compile and usual_shape else self.unet
        predicted = denoiser(
            noisy.flatten(0, 1), timesteps.repeat_interleave(frames), conditioning.text,
            added_cond_kwargs=conditioning.added,
        ).sample.float().view_as(latents)  # fmt: skip
        kind, gamma = self.pipeline.scheduler.config.prediction_type, self.recipe.diffusion.min_snr_gamma
        target = prediction_target(kind, latents, noise, alpha)
        error = (predicted - target).square().mean(dim=(1, 2, 3, 4))  # (B,)
        if gamma is not None:
            error = error * min_snr_weights(kind, self.alphas[timesteps], gamma)
        return error.mean()

    def samples(self, folder: Path, step: int) -> None:
        """Write a sheet of clips (or images) of fixed prompts, and the clips side by side in one .gif."""
        self.set_video_config()
        if self.recipe.source is not None:
            prompts = self.recipe.source.sample_prompts(images=self.recipe.single_frames)
        else:
            assert self.recipe.clips is not None  # the recipe has latents or clips
            records = self.recipe.clips.manifest.of_kind("clip").records[:_SAMPLES]
            prompts = [record.captions[0] for record in records]
        write_samples(self.pipeline, folder / f"step-{step:08d}.png", prompts)

    def export(self, folder: Path) -> None:
        """Write the model as a folder in the Stable Diffusion layout, with `latent_shift.json`."""
        self.set_video_config()
        self.pipeline.save_pretrained(folder)

    def set_video_config(self) -> None:
        """Describe in the pipeline how its U-Net was trained."""
        recipe = self.recipe
        shift = ShiftOptions() if recipe.single_frames else self.shift
        sources = [] if recipe.source is None else [recipe.source]
        if recipe.latents is not None and recipe.latents.images is not None:
            sources.append(recipe.latents.images.source)
        words = tuple(sorted({word for source in sources for word in source.vocabulary()}))
        lacked = [source.untrained_words() for source in sources] or [()]
        untrained = tuple(word for word in lacked[0] if all(word in other for other in lacked[1:]))
        self.pipeline.video_config = VideoConfig(
            video_tuned=not recipe.single_frames, **self._clip_shape(), shift=shift,
            shared_noise_ratio=recipe.diffusion.shared_noise_ratio,
            progressive_noise_alpha=recipe.experimental.progressive_noise_alpha,
            append_fps_to_caption=self.append_fps, frame_position_embedding=self.frame_positions,
            closed_vocabulary=trained_words(self.pipeline.tokenizer, words), untrained_words=untrained,
            **recipe.sampling.model_dump(),
        )  # fmt: skip

    def _clip_shape(self) -> dict[str, Any]:
        """Frames, height and width of the clips, and their frame rate where all have the same."""
        recipe = self.recipe
        if recipe.clips is not None:
            seen = recipe.clips.frames
            height, width = (seen.height, seen.width) if seen.buckets is None else seen.buckets.middle
            frames, fps = seen.num_frames, None if seen.stride else seen.fps or DEFAULT_FPS
        else:
            assert recipe.latents is not None  # the recipe has latents or clips
            native, stride = recipe.latents.source.shape, recipe.latents.frame_stride
            height, width, fps = native.height, native.width, native.fps / stride
            frames = len(range(0, native.num_frames, stride))
        size = {"height": height, "width": width}
        if recipe.single_frames:
            return {"num_frames": 1, **size}
        return {"num_frames": frames, **size, **({} if fps is None else {"fps": fps})}


def end_of_clip_reference(latents: Tensor) -> Tensor:
    """Reference frame (B, C, h, w) for noise selection: last frame minus half of an earlier one.

    latents: (B, F, C, h, w). The earlier one is a fifth of the clip before. What stands still is there by
    half, and what moves has its former place as a shadow, so that its direction is known as well.
    """
    frames = latents.shape[1]
    return latents[:, -1] - latents[:, -1 - frames // 5] / 2


def _uniform(generator: Generator) -> float:
    return float(torch.rand((), generator=generator))
