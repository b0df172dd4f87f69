"""Trajectories: a sampler's latents at some of its steps, from noise to the finished clip, stored once.

What distillation learns from (`tasks/distillation.py`). The pretrained model makes each clip of a generated
source by DDIM without fresh noise, so that what comes out follows from the noise that went in. A clip has a
single image beside it, of the same source, so that this ability is kept.

Shapes: N clips, K steps of the student, F frames, C latent channels, h x w latent pixels. A trajectory is
(K + 1, F, C, h, w): the noise first.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler
from pydantic import Field
from torch import Generator, Tensor
from torch.utils.data import Dataset

from latent_shift.autoencoder import decode_latents, to_uint8
from latent_shift.checkpoints import load, native_size, resolve, weights_hash
from latent_shift.data.latent_dataset import missing_shards, read_latents, write_shard
from latent_shift.data.sources.base import CaptionedClips
from latent_shift.documents import read_json_mapping
from latent_shift.noise import draw_noise
from latent_shift.rng import step_seed
from latent_shift.training.datasets import Store
from latent_shift.training.distributed import resolve_precision
from latent_shift.training.logging import Progress, Report
from latent_shift.training.model_setup import AnyPipeline
from latent_shift.training.recipe import Count
from latent_shift.video_config import FILE_NAME as VIDEO_CONFIG

_BATCH = 16  # clips made together


class Trajectories(Store):
    """Clips that the pretrained model makes of a source's captions, stored with the latents on their way."""

    num_inference_steps: Count = Field(20, description="of the pretrained model; a multiple of the student's")
    guidance_scale: float | None = Field(None, ge=1.0, description="by default the pretrained model's own")
    only_right: bool = Field(
        False, description="leave out clips that do not show their captions, as the source's scorer sees them"
    )


class TrajectoryDataset(Dataset[dict[str, Any]]):
    """Items of a clip: {"latents": float16 (K+1, F, C, h, w), "caption"}, and of an image beside it.

    Those are "image_latents" (K+1, 1, C, h, w) and "image_caption".

    numbers: of the clips in the store that are items.
    """

    def __init__(
        self, clips: Tensor, images: Tensor, captions: CaptionedClips, numbers: Sequence[int]
    ) -> None:
        self.clips, self.images, self.captions, self.numbers = clips, images, captions, numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> dict[str, Any]:
        number = self.numbers[index % len(self)]
        return {
            "latents": self.clips[number],
            "caption": self.captions.paraphrase(number),
            "image_latents": self.images[number],
            "image_caption": self.captions.paraphrase(number, image=True),
            "key": f"clip {number}",
        }


def student_schedule(scheduler: DDIMScheduler, steps: int, of: int) -> tuple[Tensor, Tensor]:
    """Timesteps (K,) of a student, and the cumulated alphas (K + 1,) before and after each of its steps.

    steps: K. of: steps of the trajectories. Raises ValueError where the student's steps are not among them.
    """
    if of % steps:
        raise ValueError(
            f"trajectories.num_inference_steps {of}: expected a multiple of num_inference_steps, {steps}"
        )
    scheduler.set_timesteps(of)
    made, back = scheduler.timesteps.tolist(), scheduler.config.num_train_timesteps // of
    scheduler.set_timesteps(steps)
    own, stride = scheduler.timesteps.tolist(), scheduler.config.num_train_timesteps // steps
    every = of // steps
    ends = [made[every * (step + 1) - 1] - back for step in range(steps)]
    if own != made[::every] or ends != [one - stride for one in own]:
        raise ValueError(
            f"trajectories.num_inference_steps {of}: {steps} steps of this noise schedule are not among them;"
            f" both have to divide its {scheduler.config.num_train_timesteps} timesteps"
        )
    alphas = scheduler.alphas_cumprod
    after = [alphas[one] if one >= 0 else scheduler.final_alpha_cumprod for one in ends]
    return torch.tensor(own), torch.stack([alphas[own[0]], *after])


def trajectory_dataset(
    wanted: Trajectories, pretrained_model: str, steps: int, precision: str, report: Report
) -> TrajectoryDataset:
    """The stored trajectories of a recipe, made now where the store is not complete.

    Args:
        wanted: the section of the recipe.
        pretrained_model: makes the clips; loaded only where some are missing.
        steps: K.
        precision: the recipe's `mixed_precision`.
        report: gets the number of clips after every shard.

    Raises:
        ValueError: for a store of another model or other settings, and where no clip is right.
    """
    source, folder, path = wanted.source, wanted.folder, resolve(pretrained_model)
    captions, precision = source.captioned_clips(cached=True), resolve_precision(precision)
    settings = {
        "world": source.latent_settings(), "paraphrases": getattr(source, "paraphrases", None),
        "default_style": getattr(source, "default_style", None),
        "model": weights_hash(path), "model settings": _settings(path), "precision": precision,
        "steps": steps,
        **wanted.model_dump(include={"num_inference_steps", "guidance_scale", "only_right"}),
    }  # fmt: skip
    missing = missing_shards(folder, source.clips, settings)
    model = load(pretrained_model, device="auto", dtype=precision) if missing else None
    for shard in missing:
        assert model is not None  # a shard is missing
        write_shard(folder, shard.start, _made(model, native_size(path), wanted, captions, shard, steps))
        report(Progress(shard.stop, source.clips, stage="making clips"))
    right = read_latents(folder, source.clips, "right").nonzero().flatten().tolist()
    if not right:
        raise ValueError(f"trajectories: none of the {source.clips} clips shows its caption; make more")
    clips, images = (read_latents(folder, source.clips, name) for name in ("latents", "image_latents"))
    return TrajectoryDataset(clips, images, captions, right)


def _settings(model: Path) -> dict[str, Any]:
    """Settings that decide the clips of a model beside its weights: of sampling, and the noise schedule."""
    return {
        name: read_json_mapping(model / name)
        for name in (VIDEO_CONFIG, "scheduler/scheduler_config.json") if (model / name).is_file()
    }  # fmt: skip


def _made(
    model: AnyPipeline,
    size: tuple[int, int],
    wanted: Trajectories,
    captions: CaptionedClips,
    numbers: range,
    steps: int,
) -> dict[str, Tensor]:
    """The tensors of a shard: "latents" and "image_latents", trajectories of each clip, and "right" (N,)."""
    clips, images, right = [], [], []
    options: dict[str, Any] = {
        "size": size, "steps": steps, "of": wanted.num_inference_steps,
        "guidance_scale": wanted.guidance_scale,
    }  # fmt: skip
    for first in range(numbers.start, numbers.stop, _BATCH):
        part = range(first, min(first + _BATCH, numbers.stop))
        seeds = [step_seed(wanted.source.seed, number) for number in part]
        texts = [captions.paraphrase(number) for number in part]
        made = sample_trajectories(model, texts, seeds, **options)
        clips.append(made.half())
        right += [
            not wanted.only_right or _is_right(model, wanted, *one) for one in zip(part, made, strict=True)
        ]
        texts = [captions.paraphrase(number, image=True) for number in part]
        images.append(sample_trajectories(model, texts, seeds, frames=1, **options).half())
    return {"latents": torch.cat(clips), "image_latents": torch.cat(images), "right": torch.tensor(right)}


def _is_right(model: AnyPipeline, wanted: Trajectories, number: int, trajectory: Tensor) -> bool:
    with torch.no_grad():
        images = decode_latents(model.vae, trajectory[-1].to(model.device), len(trajectory[-1]))
    return wanted.source.shows(number, to_uint8(images).cpu().numpy())


@torch.no_grad()
def sample_trajectories(
    model: AnyPipeline,
    captions: Sequence[str],
    seeds: Sequence[int],
    *,
    size: tuple[int, int],
    steps: int,
    of: int,
    guidance_scale: float | None = None,
    frames: int | None = None,
) -> Tensor:
    """Make clips by DDIM without fresh noise: their latents float32 (N, K+1, F, C, h, w), the noise first.

    Args:
        model: makes them; its scheduler is replaced.
        captions, seeds: of each clip, and of its noise.
        size: height and width in pixels.
        steps: K.
        of: steps that are taken, a multiple of K.
        guidance_scale, frames: None takes the model's own.
    """
    config, every = model.video_config, of // steps
    frames = config.num_frames if frames is None else frames
    model.set_progress_bar_config(disable=True)
    model.scheduler = DDIMScheduler.from_config(model.scheduler.config)
    height, width = (side // model.vae_scale_factor for side in size)
    shape = (len(captions), frames, model.unet.config.in_channels, height, width)
    shared = (config.shared_noise_ratio, config.progressive_noise_alpha) if frames > 1 else (0.0, 0.0)
    noise = draw_noise(shape, [Generator().manual_seed(seed) for seed in seeds], *shared)
    states = [noise]

    def keep(_: Any, step: int, timestep: Tensor, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        if (step + 1) % every == 0:
            states.append(tensors["latents"].float().cpu())
        return {}

    model(
        list(captions), num_frames=frames, num_inference_steps=of, eta=0.0, height=size[0], width=size[1],
        guidance_scale=guidance_scale, latents=noise, output_type="latent", callback_on_step_end=keep,
    )  # fmt: skip
    return torch.stack([state.unflatten(0, (len(captions), frames)) for state in states], dim=1)
