"""Training of the scorer's shape network; run once, and its result is part of the package.

Clips are rendered with training glyphs only, blurred, made noisy and off in colour as generated clips are,
cropped to patches by the scorer's own code, and jittered. Takes about ten minutes on one core:

    python recipes/moving-shapes/train_scorer.py src/latent_shift/assets/moving-shapes-scorer.safetensors
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from scipy import ndimage
from torch.nn.functional import cross_entropy

from latent_shift.io import atomic_file
from latent_shift.moving_shapes import Scene, constants, draw_scene, render
from latent_shift.moving_shapes.scene import frame_times, trajectory
from latent_shift.moving_shapes.scorer.segment import coverage
from latent_shift.moving_shapes.scorer.shape_match import ShapeNetwork
from latent_shift.moving_shapes.scorer.tracking import crop_patches, rotation_matrices, track_object
from latent_shift.rng import item_rng

SEED = 90_001
SCENES, EPOCHS, BATCH, LEARNING_RATE = 25_000, 10, 128, 2e-3
FRAMES_PER_SCENE = 3
DRAWN_SHAPES_KEPT = 0.5  # so that digits, a third of the objects, are half of the patches
ROTATED = 0.5  # share of the drawn shapes shown at any rotation, as in images; digits stay upright
LABEL_SMOOTHING = 0.05

Floats = NDArray[np.float32]


def make_patches(scenes: int) -> tuple[Floats, NDArray[np.int64]]:
    """Patches (N, 2, P, P) and shape indices (N,), a few of each of `scenes` scenes."""
    patches, labels = [], []
    for index in range(scenes):
        rng = item_rng(SEED, index, stream=2)
        scene = draw_scene(SEED, index, level=2, split="any", glyphs="train")
        frames = np.sort(rng.permutation(constants.FRAMES)[:FRAMES_PER_SCENE])
        count = len(frames)
        clip, tints, backgrounds = degrade(render([scene], frames.tolist())[0], scene, rng)
        cover = coverage(clip, backgrounds, tints)
        for k, obj in enumerate(scene.objects):
            drawn = not constants.is_digit(obj.shape)
            if drawn and rng.random() > DRAWN_SHAPES_KEPT:
                continue
            hidden = np.delete(cover, k, axis=0).sum(axis=0) > 0.3
            track = track_object(cover[k], hidden)
            if not track.present.all():
                continue
            path = trajectory(obj, frame_times(frames))
            turns = np.arctan2(path.sin, path.cos) / (2 * np.pi)
            jittered = replace(
                track,
                x=track.x + track.spread * jitter(rng, 0.12, count),
                y=track.y + track.spread * jitter(rng, 0.12, count),
                spread=track.spread * (1 + jitter(rng, 0.12, count)),
            )
            if drawn and rng.random() < ROTATED:
                turns = turns + jitter(rng, 0.5, count)
            axes = rotation_matrices((turns + jitter(rng, 0.04, count)).astype(np.float32))
            axes = axes @ (np.eye(2, dtype=np.float32) + jitter(rng, 0.15, (count, 2, 2)))
            patches.append(crop_patches(cover[k], hidden, jittered, axes.astype(np.float32)))
            labels += [constants.SHAPES.index(obj.shape)] * count
    return np.concatenate(patches), np.array(labels, dtype=np.int64)


def jitter(rng: np.random.Generator, width: float, shape: int | tuple[int, ...]) -> Floats:
    """Random numbers between -width and width."""
    return ((2 * rng.random(shape) - 1) * width).astype(np.float32)


def degrade(clip: NDArray[np.uint8], scene: Scene, rng: np.random.Generator) -> tuple[Floats, Floats, Floats]:
    """Blurred and noisy clip, 0 to 255; colours of its objects (K, 3) and background (F, 3), a little off."""
    blur, noise = 1.3 * rng.random(), 10 * rng.random()
    pixels = ndimage.gaussian_filter(clip.astype(np.float32), (0, blur, blur, 0))
    pixels += noise * rng.standard_normal(pixels.shape, dtype=np.float32)
    tints = np.array([constants.COLOURS[obj.colour] for obj in scene.objects], dtype=np.float32)
    tints += jitter(rng, 18, tints.shape)
    background = np.array(constants.BACKGROUNDS[scene.background], dtype=np.float32) + jitter(rng, 6, 3)
    return np.clip(pixels, 0, 255), tints, np.repeat(background[None], len(clip), axis=0)


def train(patches: Floats, labels: NDArray[np.int64], epochs: int) -> ShapeNetwork:
    """Fit the network to patches (N, 2, P, P) and labels (N,)."""
    torch.manual_seed(SEED)
    network = ShapeNetwork().train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=0.02)
    steps = epochs * (len(labels) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=LEARNING_RATE, total_steps=max(steps, 2))
    inputs, targets = torch.from_numpy(patches), torch.from_numpy(labels)
    for _ in range(epochs):
        for batch in torch.randperm(len(labels))[: len(labels) // BATCH * BATCH].split(BATCH):
            loss = cross_entropy(network(inputs[batch]), targets[batch], label_smoothing=LABEL_SMOOTHING)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return network.eval()


def main(file: Path, scenes: int = SCENES, epochs: int = EPOCHS) -> None:
    """Train the network and write it, in half precision, to a safetensors file."""
    network = train(*make_patches(scenes), epochs)
    with atomic_file(file) as partial:
        save_file(
            {name: tensor.half().contiguous() for name, tensor in network.state_dict().items()}, partial
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Train the scorer's shape network.")
    parser.add_argument("file", type=Path, help="safetensors file to write")
    parser.add_argument("--scenes", type=int, default=SCENES)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    main(**vars(parser.parse_args()))
