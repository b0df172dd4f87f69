"""How the scorer's shape network is made, once; the scorer itself never trains, it reads the file this wrote.

Clips are rendered with training scans alone, blurred, made noisy and off in colour as a model's clips are,
cut into patches by the scorer's own code, and shaken a little. Takes some ten minutes on one core:

    python -m latent_shift.moving_shapes.scorer.shape_training FILE.safetensors
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from scipy import ndimage
from torch.nn.functional import cross_entropy

from latent_shift.moving_shapes import constants
from latent_shift.moving_shapes.motion import frame_times, track
from latent_shift.moving_shapes.render import render
from latent_shift.moving_shapes.scene import Scene, draw_scene
from latent_shift.moving_shapes.scorer.patches import cut_out, turned
from latent_shift.moving_shapes.scorer.segment import coverage
from latent_shift.moving_shapes.scorer.shape_network import ShapeNetwork
from latent_shift.moving_shapes.scorer.tracks import follow
from latent_shift.rng import item_rng

SEED = 90_001
SCENES, EPOCHS, BATCH, RATE = 25_000, 10, 128, 2e-3
_FRAMES_A_SCENE = 3
_DRAWN_KEPT = 0.5  # so that digits, a third of the objects, are half of the patches
_TURNED = (
    0.5  # share of the drawn shapes learnt in any turn, as single pictures show them; a digit has its way up
)
_SMOOTHING = 0.05

Floats = NDArray[np.float32]


def make_patches(scenes: int) -> tuple[Floats, NDArray[np.int64]]:
    """Patches (N, 2, P, P) and the numbers of their shapes (N,), a few of each of `scenes` scenes."""
    patches, labels = [], []
    for index in range(scenes):
        rng = item_rng(SEED, index, stream=2)
        scene = draw_scene(SEED, index, level=2, split="any", scans="train")
        chosen = np.sort(rng.permutation(constants.FRAMES)[:_FRAMES_A_SCENE])
        clip, tints, grounds = _spoilt(render([scene], chosen.tolist())[0], scene, rng)
        cover = coverage(clip, grounds, tints)
        for k, thing in enumerate(scene.things):
            if not constants.is_digit(thing.shape) and rng.random() > _DRAWN_KEPT:
                continue
            hidden = np.delete(cover, k, axis=0).sum(axis=0) > 0.3
            found = follow(cover[k], hidden)
            if not found.present.all():
                continue
            path = track(thing, frame_times(chosen))
            turn = np.arctan2(path.sin, path.cos) / (2 * np.pi)
            shaken = replace(
                found,
                x=found.x + found.spread * _about(rng, 0.12, len(chosen)),
                y=found.y + found.spread * _about(rng, 0.12, len(chosen)),
                spread=found.spread * (1 + _about(rng, 0.12, len(chosen))),
            )
            if not constants.is_digit(thing.shape) and rng.random() < _TURNED:
                turn = turn + _about(rng, 0.5, len(chosen))
            frame = turned((turn + _about(rng, 0.04, len(chosen))).astype(np.float32))
            frame = frame @ (np.eye(2, dtype=np.float32) + _about(rng, 0.15, (len(chosen), 2, 2)))
            patches.append(cut_out(cover[k], hidden, shaken, frame.astype(np.float32)))
            labels += [constants.SHAPES.index(thing.shape)] * len(chosen)
    return np.concatenate(patches), np.array(labels, dtype=np.int64)


def _about(rng: np.random.Generator, width: float, shape: int | tuple[int, ...]) -> Floats:
    """Numbers between -width and width."""
    return ((2 * rng.random(shape) - 1) * width).astype(np.float32)


def _spoilt(clip: NDArray[np.uint8], scene: Scene, rng: np.random.Generator) -> tuple[Floats, Floats, Floats]:
    """The clip blurred and noisy, as floats; the colours of its things (K, 3) and its background (F, 3)."""
    blur, noise = 1.3 * rng.random(), 10 * rng.random()
    pixels = ndimage.gaussian_filter(clip.astype(np.float32), (0, blur, blur, 0))
    pixels += noise * rng.standard_normal(pixels.shape, dtype=np.float32)
    tints = np.array([constants.COLOURS[thing.colour] for thing in scene.things], dtype=np.float32)
    tints += _about(rng, 18, tints.shape)
    ground = np.array(constants.BACKGROUNDS[scene.background], dtype=np.float32) + _about(rng, 6, 3)
    return np.clip(pixels, 0, 255), tints, np.repeat(ground[None], len(clip), axis=0)


def train(patches: Floats, labels: NDArray[np.int64], epochs: int) -> ShapeNetwork:
    """Fit the network to patches (N, 2, P, P) and labels (N,)."""
    torch.manual_seed(SEED)
    network = ShapeNetwork().train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=0.02)
    rounds = epochs * (len(labels) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=RATE, total_steps=max(rounds, 2))
    inputs, targets = torch.from_numpy(patches), torch.from_numpy(labels)
    for _ in range(epochs):
        for chosen in torch.randperm(len(labels))[: len(labels) // BATCH * BATCH].split(BATCH):
            loss = cross_entropy(network(inputs[chosen]), targets[chosen], label_smoothing=_SMOOTHING)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return network.eval()


def main(file: Path, scenes: int = SCENES, epochs: int = EPOCHS) -> None:
    """Make the network and write it, in half precision, to a safetensors file."""
    network = train(*make_patches(scenes), epochs)
    save_file({name: tensor.half().contiguous() for name, tensor in network.state_dict().items()}, file)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
