"""Eyes of the emoji protocol: the ground of a clip, where its picture is, which emoji and which style.

The ground is the colour of the border. The picture, what is not ground, is cropped and classified by a small
network, trained by recipes/emoji/train_eyes.py on real clips of all emoji in both animated styles, with
blurred and compressed copies among them. It knows what is held out from the models under test, and is no
part of them.

    eyes = Eyes.load(Path("runs/emoji/eyes.safetensors"))
    sight = eyes.look(clip)          # of uint8 (F, 64, 64, 3)
    sight.ranked[:5], sight.style, sight.ground

Shape legend: F frames, H, W pixels, N crops, E emoji, P side of a crop.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn import functional

from latent_shift.emoji.constants import ANIMATED_STYLES, GROUNDS
from latent_shift.hashes import short_hash

Frames = NDArray[np.uint8]
Floats = NDArray[np.float32]

PATCH = 40
_RIM = 2  # pixels of the border that tell the ground
_NEAR = 60.0  # from the ground, in colour levels: a pixel this far is all picture
_SEEN = 0.25  # coverage from which a pixel is part of the picture
_MIN_PIXELS = 12
_MARGIN = 1.06  # of a crop, beyond the picture
_MAX_GROUND_DISTANCE = 45.0  # of a border from its ground's colour
WIDTHS = (32, 64, 128, 256)


def border_colour(frames: Frames) -> Floats:
    """Median colour (3,) of the border over all frames (F, H, W, 3)."""
    rim = np.concatenate(
        [
            frames[:, :_RIM].reshape(-1, 3), frames[:, -_RIM:].reshape(-1, 3),
            frames[:, :, :_RIM].reshape(-1, 3), frames[:, :, -_RIM:].reshape(-1, 3),
        ]
    )  # fmt: skip
    return np.median(rim, axis=0).astype(np.float32)


def name_ground(colour: Floats) -> str | None:
    """The ground nearest to a colour; None where none is near."""
    names, colours = list(GROUNDS), np.array(list(GROUNDS.values()), np.float32)
    distances = np.linalg.norm(colours - colour, axis=1)
    nearest = int(distances.argmin())
    return names[nearest] if distances[nearest] <= _MAX_GROUND_DISTANCE else None


def cover(frames: Frames, ground: Floats) -> Floats:
    """Share of each pixel that is picture, (F, H, W) from 0 to 1: by its distance from the ground."""
    distance = np.linalg.norm(frames.astype(np.float32) - ground, axis=-1)
    return np.clip((distance - 12) / (_NEAR - 12), 0, 1).astype(np.float32)


def boxes(covered: Floats) -> Floats:
    """Square boxes (F, 3) around the picture of each frame: centre x, y and half side, from -1 to 1.

    A frame without a picture has the whole frame.
    """
    side = covered.shape[-1]
    found = []
    for frame in covered > _SEEN:
        rows, columns = np.nonzero(frame)
        if len(rows) < _MIN_PIXELS:
            found.append((0.0, 0.0, 1.0))
            continue
        top, bottom, left, right = rows.min(), rows.max() + 1, columns.min(), columns.max() + 1
        half = max(bottom - top, right - left) / side * _MARGIN
        found.append(((left + right) / side - 1, (top + bottom) / side - 1, half))
    return np.array(found, np.float32)


def crop(frames: Frames, ground: Floats, where: Floats, side: int = PATCH) -> Tensor:
    """Crops (N, 3, P, P) of frames (N, H, W, 3), as differences from the ground, about -1 to 1.

    ground: colour (3,). where: boxes (N, 3), one a frame. side: P.
    """
    images = torch.from_numpy((frames.astype(np.float32) - ground) / 128).permute(0, 3, 1, 2)
    x, y, half = torch.from_numpy(where).unbind(1)
    zero = torch.zeros_like(x)
    matrix = torch.stack([torch.stack([half, zero, x], 1), torch.stack([zero, half, y], 1)], 1)
    grid = functional.affine_grid(matrix, [len(images), 3, side, side], align_corners=False)
    return functional.grid_sample(images, grid, "bilinear", "zeros", align_corners=False)


class EyesNetwork(nn.Module):
    """From crops (N, 3, P, P) to logits of emoji (N, E) and of styles (N, 2)."""

    def __init__(self, emoji: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 3
        for width in WIDTHS:
            layers += [
                nn.Conv2d(before, width, 3, padding=1, stride=1 if before == 3 else 2, bias=False),
                nn.BatchNorm2d(width), nn.ReLU(inplace=True),
            ]  # fmt: skip
            if before == 3:
                layers.append(nn.MaxPool2d(2))
            before = width
        self.features = nn.Sequential(*layers)
        self.emoji = nn.Linear(before * 4, emoji)
        self.style = nn.Linear(before * 4, len(ANIMATED_STYLES))

    def forward(self, crops: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of emoji and styles."""
        found = functional.adaptive_avg_pool2d(self.features(crops), 2).flatten(1)
        return self.emoji(found), self.style(found)


@dataclass(frozen=True)
class Sight:
    """Things seen in a clip. ranked: codes of emoji, the likeliest first. ground: None for no known one."""

    ranked: tuple[str, ...]
    style: str
    ground: str | None


class Eyes:
    """A trained network with the codes of its emoji. digest: of its file."""

    def __init__(self, network: EyesNetwork, codes: Sequence[str], digest: str) -> None:
        self.network, self.codes, self.digest = network.eval(), tuple(codes), digest

    @classmethod
    def load(cls, path: Path) -> Eyes:
        """Load a file of train_eyes.py. Raises ValueError for one that is missing or another thing."""
        if not path.is_file():
            raise ValueError(f"eyes {path}: no such file; make it: python recipes/emoji/train_eyes.py")
        try:
            with safe_open(path, framework="pt") as file:
                codes = json.loads((file.metadata() or {})["codes"])
                weights = {key: file.get_tensor(key).float() for key in file.keys()}  # noqa: SIM118
            network = EyesNetwork(len(codes))
            network.load_state_dict(weights, strict=False)
            if missing := set(dict(network.named_parameters())) - set(weights):
                raise KeyError(min(missing))
        except (SafetensorError, KeyError, RuntimeError, ValueError) as error:
            raise ValueError(f"eyes {path}: are damaged ({error}); make them anew") from error
        return cls(network, codes, short_hash(path))

    @cached_property
    def _order(self) -> NDArray[np.str_]:
        return np.array(self.codes)

    @torch.no_grad()
    def look(self, clip: Frames, frames: Sequence[int] | None = None) -> Sight:
        """See a clip (F, H, W, 3). frames: those that tell the emoji; None: every second."""
        colour = border_colour(clip)
        shown = clip[list(frames)] if frames is not None else clip[::2]
        where = boxes(cover(shown, colour))
        emoji, style = self.network(crop(shown, colour, where))
        ranked = emoji.log_softmax(1).mean(0).argsort(descending=True)
        best = int(style.log_softmax(1).mean(0).argmax())
        return Sight(tuple(self._order[ranked.numpy()].tolist()), ANIMATED_STYLES[best], name_ground(colour))
