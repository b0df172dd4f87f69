"""Naming of shapes: a small network reads each frame, then the frames vote.

The network, about 100,000 parameters, is trained by `recipes/moving-shapes/train_scorer.py` on rendered clips
with training glyphs only, and is part of the scorer, not of any model under test.

A shape must also last: an object that is missing, or clearly another shape, in more than a quarter of the
frames has none. Frames of a spin are rotated back first, so that a six stays a six.

Shape legend: F frames, H, W pixels, N patches.
"""

from __future__ import annotations

from functools import lru_cache
from importlib.resources import files

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load
from torch import Tensor, nn

from latent_shift.moving_shapes import constants
from latent_shift.moving_shapes.scorer.tracking import ObjectTrack, crop_patches, rotation_matrices

Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]

WEIGHTS_FILE = "moving-shapes-scorer.safetensors"
MIN_LOG_PROBABILITY = -4.0  # of a frame's vote, so that one bad frame cannot outvote the others
_CONTRADICTION = np.log(0.1)  # log-probability below which a frame contradicts a shape
_LASTING = 0.75  # share of the frames that must not contradict the shape
_READABLE = 0.11  # spread from which a frame counts fully: smaller ones are hard to read
_TRUSTED = 0.3


class ShapeNetwork(nn.Module):
    """Convolutional classifier: patches (N, 2, 24, 24) to logits (N, 17)."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(2, 16, 3, padding=1), nn.ReLU(),
            nn.Conv2d(16, 24, 3, stride=2, padding=1), nn.ReLU(),
            nn.Conv2d(24, 32, 3, padding=1), nn.ReLU(),
            nn.Conv2d(32, 32, 3, stride=2, padding=1), nn.ReLU(),
            nn.Flatten(), nn.Dropout(0.3),
            nn.Linear(32 * 6 * 6, 64), nn.ReLU(), nn.Dropout(0.3),
            nn.Linear(64, len(constants.SHAPES)),
        )  # fmt: skip

    def forward(self, patches: Tensor) -> Tensor:
        """Logits (N, 17) of patches (N, 2, 24, 24)."""
        return self.layers(patches)


@lru_cache(maxsize=1)
def _network() -> ShapeNetwork:
    network = ShapeNetwork()
    stored = load(files("latent_shift").joinpath("assets", WEIGHTS_FILE).read_bytes())
    network.load_state_dict({name: tensor.float() for name, tensor in stored.items()})
    return network.eval()


@torch.no_grad()
def classify_frames(cover: Floats, hidden: Mask, track: ObjectTrack, turns: Floats) -> Floats:
    """Log-probabilities (F, 17) of the shape of an object in each frame.

    cover: (F, H, W), by the object. hidden: pixels (F, H, W) behind the other object. track: of the object.
    turns: (F,), by which each frame is rotated back.
    """
    patches = crop_patches(cover, hidden, track, rotation_matrices(turns))
    return _network()(torch.from_numpy(patches)).log_softmax(dim=1).numpy()


def match_shape(cover: Floats, hidden: Mask, track: ObjectTrack, turns: float) -> str | None:
    """Name the shape of an object; None if it has none of the world's.

    cover, hidden, track: as in `classify_frames`. turns: of the object over the clip, clockwise positive.
    """
    if not track.present.any():
        return None
    votes = classify_frames(cover, hidden, track, (turns * np.linspace(0, 1, len(cover))).astype(np.float32))
    readable = np.minimum(track.spread / _READABLE, 1.0) ** 2
    weight = track.trust * readable
    if weight.sum() == 0:
        return None
    winner = int(np.argmax(weight @ np.maximum(votes, MIN_LOG_PROBABILITY)))
    clear = (track.trust > _TRUSTED) & (readable > 0.5)
    against = ~track.present | (clear & (votes[:, winner] < _CONTRADICTION))
    return constants.SHAPES[winner] if against.mean() <= 1 - _LASTING else None
