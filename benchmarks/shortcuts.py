"""Guidance in an interval and forecast steps on the built-in model: savings, and the scores that they cost.

    python benchmarks/shortcuts.py [--clips 48] [--settings "0,1 0" "0.2,1 0" "0,1 0.1"]

A setting is an interval of noise levels that are guided, and a threshold of forecasting. The scenes are drawn
with a seed of their own, so that none is among the reported prompts; every setting makes the same clips from
the same noise. Passes: images that went through the U-Net, as a part of those of the first setting.
"""

import argparse
import time

import numpy as np
import torch

from latent_shift.checkpoints import load
from latent_shift.moving_shapes import caption, draw_scene, parse_caption
from latent_shift.moving_shapes.scorer.score import score_clip

SEED = 5150
BATCH = 12
SETTINGS = [
    "0,1 0", "0,0.8 0", "0.2,1 0", "0.4,1 0", "0.2,0.8 0", "0,1 0.05", "0,1 0.1", "0,1 0.2", "0.4,1 0.1"
]  # fmt: skip


def main() -> None:
    """Print a line a setting."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--clips", type=int, default=48)
    parser.add_argument("--settings", nargs="+", default=SETTINGS)
    parser.add_argument("--dtype", default="bf16")
    given = parser.parse_args()
    scenes = [draw_scene(SEED, index) for index in range(given.clips)]
    pipeline = load("moving-shapes", device="cpu", dtype=given.dtype)
    pipeline.set_progress_bar_config(disable=True)
    images = [0]

    def count(unet, inputs, output) -> None:
        images[0] += len(inputs[0])

    pipeline.unet.register_forward_hook(count)
    print(f"| guided | forecast | passes | CPU s a clip | motion | shape | all | of {given.clips} |")
    print("|---|---|---|---|---|---|---|---|")
    whole = 0
    for setting in given.settings:
        interval, threshold = setting.split()
        images[0], began = 0, time.process_time()
        low, high = (float(level) for level in interval.split(","))
        call = {"guidance_interval": (low, high), "forecast_threshold": float(threshold)}
        clips = np.concatenate(list(made(pipeline, [caption(scene) for scene in scenes], call)))
        seconds, whole = (time.process_time() - began) / given.clips, whole or images[0]
        scores = [score(clip, scene) for clip, scene in zip(clips, scenes, strict=True)]
        motion, shape, every = (sum(kind) for kind in zip(*scores, strict=True))
        figures = f"{images[0] / whole:.3f} | {seconds:.2f} | {motion} | {shape} | {every}"
        print(f"| {interval} | {threshold} | {figures} | |", flush=True)


def made(pipeline, prompts, call):
    """Clips uint8 (N, F, H, W, 3) of prompts, in batches."""
    for start in range(0, len(prompts), BATCH):
        part = prompts[start : start + BATCH]
        seeds = [torch.Generator().manual_seed(start + number) for number in range(len(part))]
        frames = pipeline(part, generator=seeds, output_type="np", **call).frames
        yield (frames * 255).round().astype(np.uint8)


def score(clip, scene) -> tuple[bool, bool, bool]:
    """Whether the motion is right, the shape, and all."""
    found = score_clip(clip, *parse_caption(caption(scene)))
    return found.objects[0].motion, found.objects[0].shape, found.all_correct


if __name__ == "__main__":
    main()
