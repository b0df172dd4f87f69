"""Each frame told its place in the clip, without a parameter: ours, an option beside the paper's method.

The temporal shift lets a frame know its neighbours, and how near a clip's ends are only within its reach. A
model may be tuned to hear the place as well, as a transformer hears a word's: by sinusoids in what the frame
reads of the text. They are added, and they scale it: where a thing is follows from the word *and* the place,
and a product of both is what a net of few layers finds hard to make. One frame alone is told nothing, so that
images stay those of the image model.
Shapes: B clips, F frames, L tokens of width D.
"""

from __future__ import annotations

import math

import torch
from diffusers.models.embeddings import get_timestep_embedding
from torch import Tensor

_SPAN = 10 * math.pi  # of the fastest sinusoid, first frame to last: a star turned once repeats five times
_SLOWEST = 64.0  # times slower than the fastest


def add_places(text: Tensor, frames: int) -> Tensor:
    """Text states (B*F, L, D), a clip's frames adjacent, with each frame's place in all of its tokens.

    The first frame of a clip is at 0, the last at 1, whatever lies between: a clip of fewer or more frames
    tells the same in coarser or finer steps. A clip of one frame stays as it is.
    """
    if frames == 1:
        return text
    places = torch.linspace(0, _SPAN, frames, device=text.device)
    waves = get_timestep_embedding(places, text.shape[-1], max_period=_SLOWEST)  # (F, D)
    waves = waves[:, None].to(text.dtype)
    return (text.unflatten(0, (-1, frames)) * (1 + waves / 2) + waves).flatten(0, 1)
