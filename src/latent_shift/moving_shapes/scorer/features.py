"""What the Moving Shapes scorer sees in a clip, as numbers: features that know shape and motion exactly.

The scorer's own first steps (`evaluation/moving_shapes/`): where the object is in each frame and how large,
which shape it has, its colour and its background's. A Fréchet distance on these is an FVD of that world that
rests on measured geometry in place of a learned embedding; the logits, of the 17 shapes by the scorer's shape
network, are behind the Inception Score there. One object is looked for.

Shapes: B clips; F frames of 64 x 64; features (B, 4 x 16 + 17 + 9 + 6); logits (B, 17).
"""

from __future__ import annotations

import hashlib
from importlib.resources import files

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from latent_shift.evaluation.extractors.interface import Extracted, Extractor, Facts
from latent_shift.evaluation.extractors.known import Given, view_of
from latent_shift.evaluation.extractors.resizing import View
from latent_shift.moving_shapes import constants
from latent_shift.moving_shapes.scorer import shape_network
from latent_shift.moving_shapes.scorer.patches import cut_out, turned
from latent_shift.moving_shapes.scorer.segment import segment
from latent_shift.moving_shapes.scorer.towers import held_frames
from latent_shift.moving_shapes.scorer.tracks import follow

NAME = "moving-shapes-eyes"
VIEW = View(constants.SIZE, "bilinear", antialias=True)
FLOOR = -4.0  # of a frame's log-probability of a shape, as in the scorer
WIDTH = 4 * constants.FRAMES + len(constants.SHAPES) + len(constants.COLOURS) + len(constants.BACKGROUNDS)
Frames = NDArray[np.uint8]


class Eyes(Extractor):
    """Place, size, shape, colour and background of every clip."""

    def __init__(self, view: View = VIEW) -> None:
        stored = files("latent_shift").joinpath("assets", shape_network.WEIGHTS_FILE).read_bytes()
        digest = hashlib.sha256(stored).hexdigest()[:12]
        layer = f"the scorer's measures, {WIDTH} numbers a clip"
        facts = Facts(NAME, layer, digest, "clip", WIDTH)
        super().__init__(shape_network.ShapeNetwork(), facts, view, "cpu")

    def run(self, pixels: Tensor) -> Extracted:
        """See `Extractor.run`."""
        clips = pixels.round().byte().permute(0, 1, 3, 4, 2).numpy()
        seen = [look(clip) for clip in clips]
        features, logits = (np.stack(kind) for kind in zip(*seen, strict=True))
        return Extracted(torch.from_numpy(features), torch.from_numpy(logits))


def scorer_features(given: Given) -> Eyes:
    """The extractor "moving-shapes-eyes"."""
    return Eyes(view_of(VIEW, given))


def look(clip: Frames) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Features (WIDTH,) and log-probabilities of shapes (17,) of one clip (F, 64, 64, 3).

    A frame without the object has place and size 0; a clip without any, every shape alike.
    """
    parts = segment(clip, 1)
    ground = _one_of(constants.BACKGROUNDS, parts.background)
    if not parts.colours:
        logits = np.full(len(constants.SHAPES), -np.log(len(constants.SHAPES)), np.float32)
        places = np.zeros(4 * constants.FRAMES, np.float32)
        return np.concatenate([places, np.exp(logits), _one_of(constants.COLOURS, None), ground]), logits
    cover = parts.cover[0]
    hidden = np.zeros(cover.shape, bool)
    track = follow(cover, hidden)
    upright = turned(np.zeros(len(clip), np.float32))
    votes = shape_network.name_shapes(cut_out(cover, hidden, track, upright))  # (F, 17)
    weight = track.trust / max(float(track.trust.sum()), 1e-6)
    logits = (weight @ np.maximum(votes, FLOOR)).astype(np.float32)
    there = track.present.astype(np.float32)
    moments = held_frames(len(clip), constants.FRAMES)
    seen = (track.x * there, track.y * there, track.size * there, there)
    places = np.concatenate([values[moments] for values in seen])
    shares = np.exp(logits - logits.max())
    told = [places, shares / shares.sum(), _one_of(constants.COLOURS, parts.colours[0]), ground]
    return np.concatenate(told).astype(np.float32), logits


def _one_of(names: dict[str, constants.RGB], name: str | None) -> NDArray[np.float32]:
    return np.array([known == name for known in names], np.float32)
