"""What a clip shows, and whether that is what was asked: the Moving Shapes scorer.

`recognise` looks at pixels and says what is there, told only how many objects to look for; `score_clip`
compares that with what a caption names. Two objects are matched to the named ones by colour. Single images
have no motion: pass one frame.

    score = score_clip(frames, *parse_caption("a red star moving left on a navy background"))
    score.things[0].shape, score.background, score.everything
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from latent_shift.moving_shapes import ObjectWords, constants
from latent_shift.moving_shapes.scorer.motion_match import Motion, match_motion, speed_fits, spin
from latent_shift.moving_shapes.scorer.segment import segment
from latent_shift.moving_shapes.scorer.shape_match import match_shape
from latent_shift.moving_shapes.scorer.tracks import follow
from latent_shift.moving_shapes.scorer.turning import measure_turning

Frames = NDArray[np.uint8]

_HIDING = 0.3  # coverage by the other object from which a pixel is out of sight


@dataclass(frozen=True)
class SeenThing:
    """One object as recognised; shape and motion are None where they are none of the world's."""

    colour: str
    shape: str | None
    motion: Motion


@dataclass(frozen=True)
class ThingScore:
    """Whether a named object has its colour, shape and motion; speed: whether the speed word fits, too."""

    colour: bool
    shape: bool
    motion: bool
    speed: bool

    @property
    def right(self) -> bool:
        """Colour, shape and motion (not speed) are right."""
        return self.colour and self.shape and self.motion


@dataclass(frozen=True)
class ClipScore:
    """The verdict on one clip; of a single image every `motion` and `speed` is true."""

    things: tuple[ThingScore, ...]
    background: bool

    @property
    def everything(self) -> bool:
        """All objects and the background are right."""
        return self.background and all(thing.right for thing in self.things)


def recognise(frames: Frames, objects: int) -> tuple[list[SeenThing], str]:
    """What a clip (F, 64, 64, 3) uint8 shows: at most `objects` (1 or 2) objects, and its background's name.

    Raises ValueError for an array of another kind, or another number of objects.
    """
    if (
        frames.dtype != np.uint8
        or frames.ndim != 4
        or frames.shape[1:] != (constants.SIZE, constants.SIZE, 3)
    ):
        side = constants.SIZE
        raise ValueError(f"frames are {frames.dtype} {frames.shape}; expected uint8 (F, {side}, {side}, 3)")
    if len(frames) == 0 or objects not in (1, 2):
        raise ValueError(f"{len(frames)} frames, {objects} objects; give 1 or more frames, 1 or 2 objects")
    parts = segment(frames, objects)
    things = []
    for k, colour in enumerate(parts.colours):
        cover, others = parts.cover[k], np.delete(parts.cover, k, axis=0)
        hidden: NDArray[np.bool_] = np.any(others > _HIDING, axis=0)
        track = follow(cover, hidden)
        turning = measure_turning(cover, track)
        shape = match_shape(cover, hidden, track, spin(turning, None, len(frames)) or 0.0)
        motion = match_motion(track, turning, shape) if len(frames) > 1 else Motion(None)
        things.append(SeenThing(colour, shape, motion))
    return things, parts.background


def score_clip(frames: Frames, things: Sequence[ObjectWords], background: str) -> ClipScore:
    """Compare a clip (F, 64, 64, 3) uint8 with what a caption says; raises as `recognise` does."""
    seen, ground = recognise(frames, len(things))
    matched = _match([thing.colour for thing in things], seen)
    scores = [_compare(named, thing, len(frames)) for named, thing in zip(things, matched, strict=True)]
    return ClipScore(tuple(scores), ground == background)


def _match(colours: list[str], seen: list[SeenThing]) -> list[SeenThing | None]:
    """For each named colour the object seen in it; colours that none has get those left over, in order."""
    by_colour = {thing.colour: thing for thing in seen}
    rest = [thing for thing in seen if thing.colour not in colours]
    return [by_colour.get(colour) or (rest.pop(0) if rest else None) for colour in colours]


def _compare(named: ObjectWords, seen: SeenThing | None, frames: int) -> ThingScore:
    if seen is None:
        return ThingScore(False, False, False, False)
    motion = frames == 1 or seen.motion.name == named.motion
    speed = frames == 1 or (motion and speed_fits(seen.motion, named.speed))
    return ThingScore(seen.colour == named.colour, seen.shape == named.shape, motion, speed)
