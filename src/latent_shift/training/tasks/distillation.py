"""The task distillation: a model of few steps without guidance, from the trajectories of one of many with it.

Each step of the student is to end where the pretrained model's guided steps end that take the same way:
progressive distillation (arXiv 2202.00512, section 3) from many steps to few at once, on the pretrained
model's own ways from noise to clips in place of noised clips.

Shapes: B clips, K steps of the student, F frames, C latent channels, h x w latent pixels.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from pydantic import Field
from torch import Tensor, nn

from latent_shift import checkpoints
from latent_shift.conditioning import caption_embeds, repeat_per_frame
from latent_shift.documents import read_json_mapping
from latent_shift.model_files import SYSTEM_FILE
from latent_shift.prompts import append_fps
from latent_shift.rng import StepRNG
from latent_shift.training.compiling import ready_to_compile
from latent_shift.training.logging import Report
from latent_shift.training.model_setup import AttentionByLength
from latent_shift.training.prediction import prediction_target
from latent_shift.training.recipe import Count, Ratio, Recipe
from latent_shift.training.samples import write_samples
from latent_shift.training.task import Task
from latent_shift.training.trajectories import (
    Trajectories,
    TrajectoryDataset,
    student_schedule,
    trajectory_dataset,
)
from latent_shift.unet import set_num_frames


class DistillationRecipe(Recipe):
    """Few steps without guidance, from a text-to-video model."""

    task: Literal["distillation"]
    pretrained_model: str = Field(
        min_length=1, description="a name, a folder or a hub id; the student is one"
    )
    trajectories: Trajectories
    num_inference_steps: Count = Field(4, description="of the student: the new model's default")
    image_batch_ratio: Ratio = Field(0.1, description="batches of images, to keep that ability")

    def data_summary(self) -> list[str]:
        """See `Recipe.data_summary`."""
        return [
            f"Clips that {self.pretrained_model} made of captions of {self.trajectories.source.description}."
        ]


class DistillationTask(Task):
    """From trajectories (B, K+1, F, C, h, w) and captions to the loss of one step of each."""

    Config = DistillationRecipe
    summary = "a text-to-video model of few steps, distilled (arXiv 2202.00512)"
    pipeline_tag = "text-to-video"
    usage = ("```sh", 'latent-shift generate "..." --model THIS-FOLDER -o clip.mp4', "```")
    recipe: DistillationRecipe
    timesteps: Tensor  # (K,)
    alphas: Tensor  # (K + 1,), cumulated, before and after each step

    def __init__(self, recipe: DistillationRecipe) -> None:
        super().__init__(recipe)
        try:
            file = checkpoints.resolve(recipe.pretrained_model) / SYSTEM_FILE
            if file.is_file() and read_json_mapping(file).get("system") != "latent_shift":
                raise ValueError(f"{file}: names another system; only models of latent_shift are distilled")
            self.pipeline = checkpoints.load(recipe.pretrained_model, device="cpu", dtype="fp32")
        except ValueError as error:
            raise ValueError(f"pretrained_model: {error}") from error
        if not self.pipeline.video_config.video_tuned:
            raise ValueError(
                f"pretrained_model: {recipe.pretrained_model} was never tuned on clips; train it first"
            )
        scheduler = DDIMScheduler.from_config(self.pipeline.scheduler.config)
        timesteps, alphas = student_schedule(
            scheduler, recipe.num_inference_steps, recipe.trajectories.num_inference_steps
        )
        self.register_buffer("timesteps", timesteps, persistent=False)
        self.register_buffer("alphas", alphas, persistent=False)
        self.pipeline.register_modules(scheduler=scheduler)
        self.pipeline.video_config = self.pipeline.video_config.overlaid(
            num_inference_steps=recipe.num_inference_steps, guidance_scale=1.0, guidance_rescale=0.0, eta=0.0
        )
        self.unet: UNet2DConditionModel = self.pipeline.unet
        self.text_encoders = nn.ModuleList(self.pipeline.text_encoders()).requires_grad_(False)
        self.pipeline.vae.requires_grad_(False)
        if not torch.cuda.is_available():
            self.unet.set_attn_processor(AttentionByLength())

    def train(self, mode: bool = True) -> DistillationTask:
        """Set the mode of the U-Net only."""
        super().train(mode)
        self.text_encoders.eval()
        return self

    @cached_property
    def _compiled_unet(self) -> Any:
        return torch.compile(ready_to_compile(self.unet), dynamic=False)

    def dataset(self, report: Report) -> TrajectoryDataset:
        """The trajectories, made now where the store is not complete; without those of the validation."""
        whole = self._trajectories(report)
        kept_out = 0 if self.recipe.validation is None else self.recipe.validation.items
        if kept_out >= len(whole):
            raise ValueError(f"validation.items {kept_out}: there are {len(whole)} clips; keep out fewer")
        return self._part(whole, slice(len(whole) - kept_out))

    def validation(self, report: Report) -> TrajectoryDataset | None:
        """The last trajectories, which `dataset` leaves out."""
        if self.recipe.validation is None:
            return None
        whole = self._trajectories(report)
        return self._part(whole, slice(len(whole) - self.recipe.validation.items, None))

    def _trajectories(self, report: Report) -> TrajectoryDataset:
        recipe = self.recipe
        return trajectory_dataset(
            recipe.trajectories, recipe.pretrained_model, recipe.num_inference_steps, recipe.mixed_precision,
            report,
        )  # fmt: skip

    def _part(self, whole: TrajectoryDataset, part: slice) -> TrajectoryDataset:
        return TrajectoryDataset(whole.clips, whole.images, whole.captions, whole.numbers[part])

    def forward(self, batch: dict[str, Any], rng: StepRNG) -> dict[str, Tensor]:
        """The loss of a batch, a scalar; `rng` decides the step of each trajectory, and which are images."""
        draws = torch.rand(2, generator=rng.step_generator()).tolist()
        as_images = self.training and draws[0] < self.recipe.image_batch_ratio
        kind = "image_" if as_images else ""
        states = batch[f"{kind}latents"].float()  # (B, K+1, F, C, h, w)
        step = (rng.stratified_uniforms(draws[1])[:, 0] * len(self.timesteps)).long()  # (B,)
        rows = torch.arange(len(states))
        before, after = states[rows, step], states[rows, step + 1]
        loss = self._loss(before, after, step.to(before.device), batch[f"{kind}caption"], batch)
        return {"loss": loss, "image_loss" if as_images else "clip_loss": loss.detach()}

    def _loss(
        self, before: Tensor, after: Tensor, step: Tensor, captions: list[str], batch: dict[str, Any]
    ) -> Tensor:
        """before, after (B, F, C, h, w): the ends of each clip's step (B,)."""
        frames, scale = before.shape[1], self.pipeline.vae_scale_factor
        video = self.pipeline.video_config
        if video.append_fps_to_caption and frames > 1:  # as the teacher read them
            captions = [append_fps(text, video.fps) for text in captions]
        alpha, alpha_after = (self.alphas[one].view(-1, 1, 1, 1, 1) for one in (step, step + 1))
        clean = implied_clean(before, after, alpha, alpha_after)
        noise = (before - alpha.sqrt() * clean) / (1 - alpha).sqrt()
        target = prediction_target(self.pipeline.scheduler.config.prediction_type, clean, noise, alpha)
        conditioning = repeat_per_frame(
            caption_embeds(self.pipeline, batch, captions, [False] * len(captions)),
            frames,
            (before.shape[-2] * scale, before.shape[-1] * scale),
            frame_positions=frames > 1 and video.frame_position_embedding,
        )
        if video.shift is not None:
            set_num_frames(self.unet, frames)
        denoiser = self._compiled_unet if self.recipe.compile and frames > 1 and self.training else self.unet
        predicted = denoiser(
            before.flatten(0, 1), self.timesteps[step].repeat_interleave(frames), conditioning.text,
            added_cond_kwargs=conditioning.added,
        ).sample.float()  # fmt: skip
        return nn.functional.mse_loss(predicted.view_as(target), target)

    def samples(self, folder: Path, step: int) -> None:
        """See `Task.samples`: clips of the source's sample prompts."""
        self.pipeline.vae.to(self.unet.device)  # which is no part of the task, as nothing here decodes
        prompts = self.recipe.trajectories.source.sample_prompts(images=False)
        write_samples(self.pipeline, folder / f"step-{step:08d}.png", prompts)

    def export(self, folder: Path) -> None:
        """Write the model as a folder; it differs from the pretrained one in its U-Net and its defaults."""
        self.pipeline.save_pretrained(folder)


def implied_clean(before: Tensor, after: Tensor, alpha: Tensor, alpha_after: Tensor) -> Tensor:
    """The clean sample that a step of DDIM without fresh noise has to predict to get from one to the other.

    before, after: noisy samples of one shape. alpha, alpha_after: their cumulated alphas, which broadcast;
    alpha is below alpha_after. Equation of arXiv 2202.00512, algorithm 2, for any number of teacher's steps.
    """
    kept = ((1 - alpha_after) / (1 - alpha)).sqrt()
    return (after - kept * before) / (alpha_after.sqrt() - kept * alpha.sqrt())
