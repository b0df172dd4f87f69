"""The little network that names a shape: a patch of an object in, log-probabilities of the 17 shapes out.

A convolutional network of some 100,000 numbers, trained by `shape_training.py` on rendered clips of training
scans alone, and kept beside this file, so that every machine scores with the same eyes. It is part of the
ruler, not of any model that is measured.
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

WEIGHTS_FILE = "moving-shapes-scorer.safetensors"


class ShapeNetwork(nn.Module):
    """Patches (N, 2, 24, 24) in, logits (N, 17) out."""

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
def name_shapes(patches: NDArray[np.float32]) -> NDArray[np.float32]:
    """Log-probabilities (N, 17) of patches (N, 2, P, P)."""
    return _network()(torch.from_numpy(patches)).log_softmax(dim=1).numpy()
