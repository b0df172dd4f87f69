"""Each frame told its place in the clip, without a parameter: ours, an option beside the paper's method.

The temporal shift lets a frame know its neighbours, and how near a clip's ends are only within its reach. A
model may be tuned to hear the place as well, as a transformer hears a word's. The frame reads the text twice:
with sinusoids of its place added to it and scaling it, and turned by its place. Where a thing is, and how far
turned, follows from the word *and* the place, and a product of both is what a net of few layers finds hard to
make. One frame alone is told nothing, so that images stay those of the image model.
Shapes: B clips, F frames, L tokens of width D.
"""

from __future__ import annotations

import math

import torch
from diffusers.models.embeddings import get_timestep_embedding
from torch import Tensor

_ROUNDS = 5  # of what changes fastest, first frame to last: a star turned once looks the same five times
_SLOWEST = 64.0  # times slower is the slowest sinusoid


def add_places(text: Tensor, frames: int) -> Tensor:
    """Text states (B*F, 2L, D) of text states (B*F, L, D), a clip's frames adjacent: waved, then turned.

    The first frame of a clip is at 0, the last at 1, whatever lies between: a clip of fewer or more frames
    tells the same in coarser or finer steps. A clip of one frame stays as it is, (B, L, D).
    """
    if frames == 1:
        return text
    clips = text.unflatten(0, (-1, frames))
    places = torch.linspace(0, 2 * math.pi, frames, device=text.device)
    return torch.cat([_waved(clips, places), _turned(clips, places)], dim=2).flatten(0, 1)


def _waved(text: Tensor, places: Tensor) -> Tensor:
    """(B, F, L, D): sinusoids of places (F,), 5 rounds to 5/64, added, and by their half scaling it."""
    waves = get_timestep_embedding(places * _ROUNDS, text.shape[-1], max_period=_SLOWEST)  # (F, D)
    waves = waves[:, None].to(text.dtype)
    return text * (1 + waves / 2) + waves


def _turned(text: Tensor, places: Tensor) -> Tensor:
    """(B, F, L, D): channels in pairs turned by places (F,), the pairs 1, 2, ... 5, 1, 2 ... times round.

    As rotary embeddings turn queries and keys (arXiv 2104.09864). Whole rounds, as a clip is one turn or one
    circle; a channel without a partner stays.
    """
    half = text.shape[-1] // 2
    rounds = 1 + torch.arange(half, device=text.device) % _ROUNDS
    angles = places[:, None, None] * rounds  # (F, 1, D/2)
    cos, sin = angles.cos().to(text.dtype), angles.sin().to(text.dtype)
    one, other, rest = text.split([half, half, text.shape[-1] - 2 * half], dim=-1)
    return torch.cat([one * cos - other * sin, one * sin + other * cos, rest], dim=-1)
