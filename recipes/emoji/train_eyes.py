"""The eyes of `latent-shift evaluate emoji`: a network that tells emoji and styles apart.

    python recipes/emoji/train_eyes.py [--steps 12000]

Trained on frames of all animations of runs/emoji/pack.safetensors, at all sizes of the protocol, a little
turned, on all grounds, some of them blurred, shrunk, noisy or compressed as JPEG: models' clips are never as
clean. Goes on where it was stopped. Writes runs/emoji/eyes.safetensors. About half an hour on one core.
"""

from __future__ import annotations

import argparse
import io
import json
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file, save_file
from scipy import ndimage
from torch.nn.functional import cross_entropy

from latent_shift.emoji.constants import ANIMATED_STYLES, GROUNDS
from latent_shift.emoji.eyes import EyesNetwork, border_colour, boxes, cover, crop
from latent_shift.emoji.pack import Pack
from latent_shift.emoji.render import place
from latent_shift.emoji.scene import Placement
from latent_shift.emoji.splits import Splits
from latent_shift.io import atomic_file
from latent_shift.rng import item_rng

SEED, BATCH, LEARNING_RATE = 90_002, 64, 3e-3
LABEL_SMOOTHING = 0.1
TONED, DEGRADED, CLIPS_A_BATCH = 0.15, 0.6, 32
SIZES = (0.3, 1.0)
KEEP_EVERY = 250


def batch_of(
    pack: Pack, styles: dict[str, dict[str, list[int]]], codes: list[str], step: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Crops (N, 3, P, P), emoji (N,) and styles (N,) of a step: two frames of each of some clips."""
    rng = item_rng(SEED, step)
    pictures, emoji, style = [], [], []
    for _ in range(CLIPS_A_BATCH):
        code = codes[int(rng.random() * len(codes))]
        name = list(styles[code])[int(rng.random() * len(styles[code]))]
        plain, *toned = styles[code][name]
        number = toned[int(rng.random() * len(toned))] if toned and rng.random() < TONED else plain
        frames = pack.frames(number)
        for _ in range(BATCH // CLIPS_A_BATCH):
            pictures.append(frames[int(rng.random() * len(frames))])
            emoji.append(codes.index(code))
            style.append(ANIMATED_STYLES.index(name))
    size = SIZES[0] + (SIZES[1] - SIZES[0]) * rng.random(BATCH)
    room = np.maximum(1 - size, 0.1)
    x, y = ((2 * rng.random(BATCH) - 1) * room for _ in "xy")
    turns = np.where(rng.random(BATCH) < 0.3, (rng.random(BATCH) - 0.5) * 0.12, 0.0)
    placed = place(np.stack(pictures).astype(np.float32), Placement(x, y, size, turns))
    grounds = np.array(list(GROUNDS.values()), np.float32)
    crops = []
    for image in placed:
        ground = grounds[int(rng.random() * len(grounds))]
        pixels = image[..., :3] + ground * (1 - image[..., 3:] / 255)
        frame = degraded(pixels, rng)[None]
        colour = border_colour(frame)
        where = boxes(cover(frame, colour))
        where[:, :2] += (rng.random(2) - 0.5) * 0.1 * where[:, 2]
        where[:, 2] *= 0.94 + 0.14 * rng.random()
        crops.append(crop(frame, colour, where.astype(np.float32)))
    return torch.cat(crops), torch.tensor(emoji), torch.tensor(style)


def degraded(pixels: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.uint8]:
    """A frame (H, W, 3) as a model might make it: blurred, noisy or compressed; or as it is."""
    kind = rng.random() / DEGRADED
    if kind < 0.4:
        sigma = 1.1 * rng.random()
        pixels = ndimage.gaussian_filter(pixels, (sigma, sigma, 0))
    elif kind < 0.6:
        pixels = pixels + (rng.random(pixels.shape).astype(np.float32) - 0.5) * 40 * rng.random()
    frame = np.clip(np.rint(pixels), 0, 255).astype(np.uint8)
    if 0.6 <= kind < 1:
        buffer = io.BytesIO()
        Image.fromarray(frame).save(buffer, "JPEG", quality=15 + int(60 * rng.random()))
        frame = np.asarray(Image.open(buffer))
    return frame


def train(pack: Pack, output: Path, steps: int) -> None:
    """Train, from a kept state where there is one, and write the weights in half precision."""
    splits = Splits(pack.clips, pack.listed)
    codes = list(splits.emoji)
    styles: dict[str, dict[str, list[int]]] = {code: {} for code in codes}
    for number in sorted(range(len(pack)), key=lambda number: bool(pack.clips[number].tone)):
        clip = pack.clips[number]
        if not clip.still and clip.emoji in styles:
            styles[clip.emoji].setdefault(clip.style, []).append(number)
    torch.manual_seed(SEED)
    network = EyesNetwork(len(codes)).train()
    optimizer = torch.optim.AdamW(network.parameters(), LEARNING_RATE, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps, pct_start=0.1)
    kept, first = output.with_suffix(".state.safetensors"), 0
    of = {"steps": str(steps), "pack": pack.digest}
    if kept.exists():
        first = restore(kept, network, optimizer, of)
        for _ in range(first):
            schedule.step()
    right = seen = 0
    for step in range(first, steps):
        crops, emoji, style = batch_of(pack, styles, codes, step)
        logits, guess = network(crops)
        loss = cross_entropy(logits, emoji, label_smoothing=LABEL_SMOOTHING) + 0.3 * cross_entropy(
            guess, style
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        right, seen = right + int((logits.argmax(1) == emoji).sum()), seen + len(emoji)
        if (step + 1) % KEEP_EVERY == 0 or step + 1 == steps:
            print(
                f"step {step + 1}/{steps}  loss {loss.item():.3f}  right {100 * right / seen:.1f} %",
                flush=True,
            )
            right = seen = 0
            keep(kept, network, optimizer, {**of, "step": str(step + 1)})
            write(output, network, codes)
    kept.unlink(missing_ok=True)


def write(output: Path, network: EyesNetwork, codes: list[str]) -> None:
    """Write the weights so far, which `Eyes.load` reads."""
    weights = {
        key: value.half().contiguous()
        for key, value in network.state_dict().items()
        if value.is_floating_point()
    }
    with atomic_file(output) as partial:
        save_file(weights, partial, {"codes": json.dumps(codes)})


def keep(path: Path, network: EyesNetwork, optimizer: torch.optim.Optimizer, facts: dict[str, str]) -> None:
    """Write all that the next step needs."""
    tensors = {f"network.{key}": value.contiguous() for key, value in network.state_dict().items()}
    for number, state in optimizer.state_dict()["state"].items():
        tensors |= {
            f"optimizer.{number}.{key}": torch.as_tensor(value).contiguous() for key, value in state.items()
        }
    with atomic_file(path) as partial:
        save_file(tensors, partial, facts)


def restore(path: Path, network: EyesNetwork, optimizer: torch.optim.Optimizer, of: dict[str, str]) -> int:
    """Read what `keep` wrote; return the number of steps done. of: facts that have to be the same."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        facts = file.metadata() or {}
    for name, value in of.items():
        if facts.get(name) != value:
            raise ValueError(
                f"{path}: is of a training with {name} {facts.get(name)}, not {value}; remove it"
            )
    tensors = load_file(path)
    network.load_state_dict(
        {key.removeprefix("network."): value for key, value in tensors.items() if key.startswith("network.")}
    )
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            _, number, name = key.split(".")
            state.setdefault(int(number), {})[name] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    return int(facts["step"])


def main() -> None:
    """Train the eyes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--pack", type=Path, default=Path("runs/emoji/pack.safetensors"))
    parser.add_argument("-o", "--output", type=Path, default=Path("runs/emoji/eyes.safetensors"))
    parser.add_argument("--steps", type=int, default=12_000)
    given = parser.parse_args()
    try:
        train(Pack.open(given.pack), given.output, given.steps)
    except ValueError as error:
        raise SystemExit(f"train_eyes.py: error: {error}") from error
    print(given.output)


if __name__ == "__main__":
    main()
