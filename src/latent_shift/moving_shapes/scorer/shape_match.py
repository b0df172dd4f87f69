"""Which of the world's 17 shapes an object has: the shape network asked frame by frame, then a vote.

The shape must also last: an object that is missing, or clearly something else, in a quarter of the frames has
no shape here. In a clip that spins the frames are turned back first, so that a six stays a six.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from latent_shift.moving_shapes import constants
from latent_shift.moving_shapes.scorer.patches import cut_out, turned
from latent_shift.moving_shapes.scorer.shape_network import name_shapes
from latent_shift.moving_shapes.scorer.tracks import ObjectTrack

Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]

_FLOOR = -4.0  # of a log-probability, so that one spoilt frame cannot outvote the others
_DENIAL = np.log(0.1)  # a log-probability below which a frame speaks against a shape
_LASTING = 0.75  # share of the frames that may not speak against the shape
_READABLE = 0.11  # spread from which a frame counts fully: smaller ones are hard to read
_TRUSTED = 0.3


def match_shape(cover: Floats, hidden: Mask, track: ObjectTrack, turns: float) -> str | None:
    """The shape of an object by its coverage (F, H, W), turning `turns` over the clip; None if none."""
    frames = len(cover)
    if not track.present.any():
        return None
    upright = turned((turns * np.linspace(0, 1, frames)).astype(np.float32))
    votes = name_shapes(cut_out(cover, hidden, track, upright))  # (F, 17)
    readable = np.minimum(track.spread / _READABLE, 1.0) ** 2
    weight = track.trust * readable
    if weight.sum() == 0:
        return None
    winner = int(np.argmax(weight @ np.maximum(votes, _FLOOR)))
    clear = (track.trust > _TRUSTED) & (readable > 0.5)
    against = ~track.present | (clear & (votes[:, winner] < _DENIAL))
    return constants.SHAPES[winner] if against.mean() <= 1 - _LASTING else None
