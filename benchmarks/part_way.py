"""From which noise on a model of Moving Shapes ends well: real clips, noised, and sampled from there.

    python benchmarks/part_way.py [--model MODEL ...] [--motion "spinning clockwise" ...] [--clips 24]

A model that fails from pure noise but not from a little less knows how things look and not what course they
take; one that fails from the last steps cannot paint them. Prints how many motions and shapes are right by
the noise that sampling begins with: pure noise first, then real clips under the noise of later steps.

Shapes: N clips, F frames, C latent channels, h x w latent pixels.
"""

import argparse
import math

import numpy as np
import torch
from diffusers import DDIMScheduler
from torch import Generator, Tensor

from latent_shift.autoencoder import encode_frames
from latent_shift.checkpoints import load
from latent_shift.moving_shapes import Scene, caption, constants, draw_scene, parse_caption, render
from latent_shift.moving_shapes.scorer.score import score_clip
from latent_shift.noise import draw_noise

SPINS = ["spinning clockwise", "spinning counterclockwise"]
BATCH = 12


class Late(DDIMScheduler):
    """Leaves out the first so many of its steps."""

    left_out = 0

    def set_timesteps(self, num_inference_steps: int, device=None) -> None:
        """As DDIM's, without the steps that are left out."""
        super().set_timesteps(num_inference_steps, device)
        self.timesteps = self.timesteps[self.left_out :]


def main() -> None:
    """Print a table a model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", nargs="+", default=["moving-shapes"])
    parser.add_argument("--motion", nargs="+", default=SPINS, choices=constants.MOTIONS)
    parser.add_argument("--clips", type=int, default=24)
    arguments = parser.parse_args()
    scenes = [draw_scene(909, index, motions=arguments.motion) for index in range(arguments.clips)]
    for name in arguments.model:
        pipeline = load(name, device="cpu", dtype="bf16")
        pipeline.set_progress_bar_config(disable=True)
        pipeline.scheduler = Late.from_config(pipeline.scheduler.config)
        latents = encode_frames(
            pipeline.vae, torch.from_numpy(render(scenes)).flatten(0, 1), constants.FRAMES
        )
        print(f"\n{name}\nlog SNR  motion  shape  of {len(scenes)}")
        for left_out in range(0, pipeline.video_config.num_inference_steps, 2):
            level, clips = finished(pipeline, latents.float(), [caption(scene) for scene in scenes], left_out)
            scores = [score(clip, scene) for clip, scene in zip(clips, scenes, strict=True)]
            motions, shapes = (sum(kind) for kind in zip(*scores, strict=True))
            print(f"{level:7.1f}  {motions:6}  {shapes:5}", flush=True)


@torch.no_grad()
def finished(pipeline, latents: Tensor, prompts: list[str], left_out: int) -> tuple[float, np.ndarray]:
    """The log SNR before that step; clips uint8 (N, F, H, W, 3) of latents (N*F, C, h, w) noised so far."""
    settings, count, scheduler = pipeline.video_config, len(prompts), pipeline.scheduler
    shape = (count, constants.FRAMES, *latents.shape[1:])
    scheduler.left_out = left_out
    scheduler.set_timesteps(settings.num_inference_steps)
    alpha = float(scheduler.alphas_cumprod[scheduler.timesteps[0]]) if left_out else 0.0
    seeds = [Generator().manual_seed(seed) for seed in range(count)]
    noise = draw_noise(shape, seeds, settings.shared_noise_ratio, settings.progressive_noise_alpha)
    noisy = (math.sqrt(alpha) * latents + math.sqrt(1 - alpha) * noise).view(shape)
    clips = []
    for start in range(0, count, BATCH):
        part = slice(start, start + BATCH)
        made = pipeline(prompts[part], latents=noisy[part], generator=seeds[part], output_type="np").frames
        clips.append((np.asarray(made) * 255).round().astype(np.uint8))
    return math.log(alpha / (1 - alpha)) if alpha else -math.inf, np.concatenate(clips)


def score(clip: np.ndarray, scene: Scene) -> tuple[bool, bool]:
    """Whether the motion is right, and the shape."""
    score = score_clip(clip, *parse_caption(caption(scene))).objects[0]
    return score.motion, score.shape


if __name__ == "__main__":
    main()
