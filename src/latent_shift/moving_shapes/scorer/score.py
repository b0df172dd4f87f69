"""Scoring of a clip: recognise its contents from the pixels, and compare them with a caption.

`recognise` knows only how many objects to look for; `score_clip` compares its result with the words of a
caption. Two objects are matched to the caption's by colour. An image is a clip of one frame, without motion.

    score = score_clip(frames, *parse_caption("a red star moving left on a navy background"))
    score.objects[0].shape, score.background, score.all_correct
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
from latent_shift.moving_shapes.scorer.tracking import rotation_spectrum, track_object

Frames = NDArray[np.uint8]

_HIDING = 0.3  # coverage by the other object from which a pixel is hidden


@dataclass(frozen=True)
class DetectedObject:
    """One recognised object; shape and motion name are None if they are none of the world's."""

    colour: str
    shape: str | None
    motion: Motion


@dataclass(frozen=True)
class ObjectScore:
    """Whether an object has the caption's colour, shape, motion and speed word."""

    colour: bool
    shape: bool
    motion: bool
    speed: bool

    @property
    def correct(self) -> bool:
        """Whether colour, shape and motion (not speed) are right."""
        return self.colour and self.shape and self.motion


@dataclass(frozen=True)
class ClipScore:
    """The verdict on one clip; of an image, every `motion` and `speed` is true."""

    objects: tuple[ObjectScore, ...]
    background: bool

    @property
    def all_correct(self) -> bool:
        """Whether all objects and the background are right."""
        return self.background and all(obj.correct for obj in self.objects)


def recognise(frames: Frames, num_objects: int) -> tuple[list[DetectedObject], str]:
    """Recognise at most `num_objects` (1 or 2) objects of a clip, uint8 (F, 64, 64, 3), and its background.

    Raises ValueError for an array of another kind, or another number of objects.
    """
    side = constants.SIZE
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[1:] != (side, side, 3):
        raise ValueError(f"frames are {frames.dtype} {frames.shape}; expected uint8 (F, {side}, {side}, 3)")
    if len(frames) == 0 or num_objects not in (1, 2):
        raise ValueError(
            f"{len(frames)} frames, {num_objects} objects; give 1 or more frames, 1 or 2 objects"
        )
    segments = segment(frames, num_objects)
    objects = []
    for k, colour in enumerate(segments.colours):
        cover, others = segments.cover[k], np.delete(segments.cover, k, axis=0)
        hidden: NDArray[np.bool_] = np.any(others > _HIDING, axis=0)
        track = track_object(cover, hidden)
        spectrum = rotation_spectrum(cover, track)
        shape = match_shape(cover, hidden, track, spin(spectrum, None, len(frames)) or 0.0)
        motion = match_motion(track, spectrum, shape) if len(frames) > 1 else Motion(None)
        objects.append(DetectedObject(colour, shape, motion))
    return objects, segments.background


def score_clip(frames: Frames, objects: Sequence[ObjectWords], background: str) -> ClipScore:
    """Compare a clip, uint8 (F, 64, 64, 3), with the words of a caption; raises as `recognise` does."""
    detected, seen_background = recognise(frames, len(objects))
    matched = _match([words.colour for words in objects], detected)
    scores = [_compare(words, one, len(frames)) for words, one in zip(objects, matched, strict=True)]
    return ClipScore(tuple(scores), seen_background == background)


def _match(colours: list[str], detected: list[DetectedObject]) -> list[DetectedObject | None]:
    """The detected object of each named colour; colours without one get those left over, in order."""
    by_colour = {obj.colour: obj for obj in detected}
    rest = [obj for obj in detected if obj.colour not in colours]
    return [by_colour.get(colour) or (rest.pop(0) if rest else None) for colour in colours]


def _compare(words: ObjectWords, detected: DetectedObject | None, frames: int) -> ObjectScore:
    if detected is None:
        return ObjectScore(False, False, False, False)
    motion = frames == 1 or detected.motion.name == words.motion
    speed = frames == 1 or (motion and speed_fits(detected.motion, words.speed))
    return ObjectScore(detected.colour == words.colour, detected.shape == words.shape, motion, speed)
