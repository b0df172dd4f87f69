"""Random scenes: `draw_scene(seed, index)` returns scene number `index` of an endless series.

A scene depends on the arguments only, so all machines and processes get the same one. Words are sampled first
(colour, shape, motion, speed) and rejected until they keep the rules on colours and on the split; then sizes
and positions, rejected until the upper object hides little of the lower one.

Shape legend: F frames.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from latent_shift.moving_shapes import constants
from latent_shift.moving_shapes.scene import Object, Scene, frame_times, trajectory
from latent_shift.moving_shapes.shapes import area, glyph_indices, reach
from latent_shift.rng import choice, item_rng, uniform

Split = Literal["seen", "held-out", "any"]
Glyphs = Literal["train", "test"]

_ALL_TIMES = frame_times(np.arange(constants.FRAMES))
_PLACEMENTS = 40  # placements tried for one pair of objects before another pair is sampled
_DIGIT_SHARE = 1 / 3
_TWO_OBJECTS_SHARE = 0.5
_LEEWAY = 0.1  # range of the start of a travel that cannot stay inside the frame
_MAX_STEP = 0.42  # of a symmetric shape's period, rotated from frame to frame; half would look still


@dataclass(frozen=True)
class _Words:
    """The words of an object's caption, except its size."""

    colour: str
    shape: str
    motion: str
    speed_word: str


def draw_scene(
    seed: int,
    index: int,
    *,
    level: int = 1,
    num_objects: int | None = None,
    split: Split = "seen",
    glyphs: Glyphs = "train",
    motions: Sequence[str] = constants.MOTIONS,
    amplitude_range: float = 1.0,
    sized_growth: bool = False,
) -> Scene:
    """Return scene number `index` of the series of `seed`.

    Args:
        seed: number of the series, from 0.
        index: from 0, without end.
        level: 1 for one object, drawn shapes and no speed words; 2 for digits, speed words, one or two
            objects.
        num_objects: 1 or 2 (2 for level 2 only); by default as the level has it.
        split: "seen" has no held-out combination, "held-out" at least one, "any" ignores the rule.
        glyphs: handwritten digits of the training or of the test part.
        motions: the motions to choose from.
        amplitude_range: part of its range, about the middle, that a motion's amplitude is sampled from, 0 to
            1.
        sized_growth: whether what grows or shrinks may be small or large as well. All other scenes of the
            series are the same without.

    Raises:
        ValueError: for a value out of range.
    """
    _check(level, num_objects, split, glyphs, motions, amplitude_range)
    rng = item_rng(seed, index)
    count = num_objects or (1 + (level == 2 and rng.random() < _TWO_OBJECTS_SHARE))
    while True:
        background, cast = _draw_all_words(rng, level, count, split, motions)
        indices = [_draw_glyph(rng, words.shape, glyphs) for words in cast]
        for _ in range(_PLACEMENTS):
            objects = tuple(
                _place(rng, words, glyph, amplitude_range, sized_growth=sized_growth)
                for words, glyph in zip(cast, indices, strict=True)
            )
            if count == 1 or not _hides_too_much(*objects):
                return Scene(background, objects)


def draw_scenes(
    seed: int,
    indices: Iterable[int],
    *,
    level: int = 1,
    num_objects: int | None = None,
    split: Split = "seen",
    glyphs: Glyphs = "train",
) -> list[Scene]:
    """Return the scenes of `indices`; seed, level, num_objects, split and glyphs as in `draw_scene`."""
    return [
        draw_scene(seed, index, level=level, num_objects=num_objects, split=split, glyphs=glyphs)
        for index in indices
    ]


def hard_negatives(scene: Scene, count: int, rng: np.random.Generator) -> list[Scene]:
    """Return `count` scenes that differ from `scene` in one motion or one shape, in turn; for captions only.

    Captions that are false in one word teach an encoder to attend to shapes and motions, not colours only
    (hard negative texts, arXiv 2210.01936). No result is held out: no training has such captions.
    """
    return [_changed(scene, number % 2 == 0, rng) for number in range(count)]


def _changed(scene: Scene, in_motion: bool, rng: np.random.Generator) -> Scene:
    position = int(rng.random() * len(scene.objects))
    obj = scene.objects[position]
    shapes = constants.DIGITS if constants.is_digit(obj.shape) else constants.DRAWN_SHAPES
    while True:
        if in_motion:
            motion = choice(rng, constants.MOTIONS)
            speed_word = obj.speed_word if constants.takes_speed(motion) else ""
            other = replace(obj, motion=motion, speed_word=speed_word)
        else:
            other = replace(obj, shape=choice(rng, shapes))
        if other != obj and constants.can_move(other.shape, other.motion) and not other.held_out:
            return replace(scene, objects=(*scene.objects[:position], other, *scene.objects[position + 1 :]))


def _draw_all_words(
    rng: np.random.Generator, level: int, count: int, split: Split, motions: Sequence[str]
) -> tuple[str, list[_Words]]:
    """A background, and the words of each object, that keep all rules on colours and on the split."""
    while True:
        background = choice(rng, tuple(constants.BACKGROUNDS))
        cast = [_draw_words(rng, level, motions) for _ in range(count)]
        if len({words.colour for words in cast}) < count:
            continue
        if not all(constants.stands_out(words.colour, background) for words in cast):
            continue
        held_out = any(constants.names_held_out(words.colour, words.shape, words.motion) for words in cast)
        if split == "any" or held_out == (split == "held-out"):
            return background, cast


def _draw_words(rng: np.random.Generator, level: int, motions: Sequence[str]) -> _Words:
    """Colour, shape, motion and speed word, uniform over the possible combinations."""
    shapes = constants.DIGITS if level == 2 and rng.random() < _DIGIT_SHARE else constants.DRAWN_SHAPES
    while True:
        colour, shape = choice(rng, tuple(constants.COLOURS)), choice(rng, shapes)
        motion = choice(rng, motions)
        if constants.can_move(shape, motion):
            break
    speed = choice(rng, ("", "", "slowly", "quickly")) if level == 2 and constants.takes_speed(motion) else ""
    return _Words(colour, shape, motion, speed)


def _draw_glyph(rng: np.random.Generator, shape: str, glyphs: Glyphs) -> int:
    if not constants.is_digit(shape):
        return -1
    return choice(rng, glyph_indices()[constants.DIGITS.index(shape)][glyphs == "test"])


def _place(
    rng: np.random.Generator, words: _Words, glyph: int, amplitude_range: float, *, sized_growth: bool
) -> Object:
    """Sample size, position, amplitude and phase of an object."""
    motion = words.motion
    sizes = ("", "large") if constants.is_digit(words.shape) else ("", "small", "large")
    changes_size = motion in constants.CHANGES_OF_SIZE
    size = choice(rng, sizes) if sized_growth or not changes_size else ""
    radius = uniform(rng, *constants.RADIUS[size])
    largest = radius * constants.GROWTH[size][1] if changes_size else radius
    room = 1.0 - reach(words.shape) * largest  # of the centre, from the middle of the frame
    amplitude = 0.0
    bounds = _amplitude_bounds(words, room)
    if bounds is not None:
        low, high = bounds
        cut = (high - low) * (1 - amplitude_range) / 2
        amplitude = uniform(rng, low + cut, high - cut)
    direction = constants.DIRECTIONS.get(motion, (0, 0))
    length = amplitude * constants.SPEED[words.speed_word]
    x, y = _draw_start(rng, direction[0], length, room), _draw_start(rng, direction[1], length, room)
    if motion in constants.CIRCLING:
        x, y = 0.0, 0.0
    elif motion == "swinging from side to side":
        x = 0.0
    return Object(
        words.colour, words.shape, motion, size, words.speed_word, radius, x, y, amplitude,
        phase=float(rng.random()), bounces=choice(rng, constants.BOUNCES), glyph=glyph,
    )  # fmt: skip


def _amplitude_bounds(words: _Words, room: float) -> constants.Range | None:
    """Least and greatest amplitude of a motion; None for a motion without one."""
    motion = words.motion
    if motion in constants.DIRECTIONS:
        straight = 0 in constants.DIRECTIONS[motion]
        low, high = constants.STRAIGHT_TRAVEL if straight else constants.DIAGONAL_TRAVEL
        return low, min(high, 2.0 * room)
    if motion in constants.SPINNING:
        low, high = constants.SPIN_TURNS
        if words.shape in constants.SYMMETRY:
            steps = (constants.FRAMES - 1) / (
                constants.SYMMETRY[words.shape] * constants.SPEED[words.speed_word]
            )
            high = min(high, _MAX_STEP * steps)
        return low, high
    if motion == "bouncing":
        return constants.BOUNCE_HEIGHT
    if motion in constants.CIRCLING:
        return constants.CIRCLING_RADIUS
    return constants.SWING if motion == "swinging from side to side" else None


def _draw_start(rng: np.random.Generator, sign: int, length: float, room: float) -> float:
    """Start of a travel on one axis: inside the frame, and the end inside too where that is possible."""
    if sign == 0:
        return uniform(rng, -room, room)
    latest = room - length
    if latest < -room:
        latest = max(-room, min(-room + _LEEWAY, 1.0 - length))
    return sign * uniform(rng, -room, latest)


def _hides_too_much(lower: Object, upper: Object) -> bool:
    """Whether the upper object may hide over a fifth of the lower one in any frame, by enclosing discs.

    Where the lower object touches the frame's edge, part of it may be outside already: no overlap there.
    """
    low, top = trajectory(lower, _ALL_TIMES), trajectory(upper, _ALL_TIMES)
    a, b = low.radius * reach(lower.shape), top.radius * reach(upper.shape)
    hidden = _intersection_area(np.sqrt((low.x - top.x) ** 2 + (low.y - top.y) ** 2), a, b)
    at_edge = np.maximum(np.abs(low.x), np.abs(low.y)) + a > 1.0
    allowed = np.where(at_edge, 1e-6, constants.MAX_OCCLUSION * area(lower.shape) * low.radius**2)
    return bool((hidden > allowed).any())


def _intersection_area(distance: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Area of the intersection of two discs of radii a and b by the distance of their centres; all (F,)."""
    d = np.clip(distance, np.abs(a - b) + 1e-9, a + b)
    first = (d * d + a * a - b * b) / (2.0 * d)
    second = d - first
    part_a = a * a * np.arccos(np.clip(first / a, -1.0, 1.0)) - first * np.sqrt(
        np.maximum(a * a - first**2, 0.0)
    )
    part_b = b * b * np.arccos(np.clip(second / b, -1.0, 1.0)) - second * np.sqrt(
        np.maximum(b * b - second**2, 0.0)
    )
    return part_a + part_b


def _check(
    level: int,
    num_objects: int | None,
    split: str,
    glyphs: str,
    motions: Sequence[str],
    amplitude_range: float,
) -> None:
    if level not in (1, 2):
        raise ValueError(f"level is {level!r}; Moving Shapes has the levels 1 and 2")
    allowed = (None, 1) if level == 1 else (None, 1, 2)
    if num_objects not in allowed:
        raise ValueError(
            f"num_objects is {num_objects!r}; level {level} has {' or '.join(map(str, allowed))}"
        )
    if split not in ("seen", "held-out", "any"):
        raise ValueError(f'split is {split!r}; choose "seen", "held-out" or "any"')
    if glyphs not in ("train", "test"):
        raise ValueError(f'glyphs is {glyphs!r}; choose "train" or "test"')
    unknown = [motion for motion in motions if motion not in constants.MOTIONS]
    if unknown or not motions:
        raise ValueError(
            f"motions are {list(motions)!r}; choose one or more of {', '.join(constants.MOTIONS)}"
        )
    if not 0.0 <= amplitude_range <= 1.0:
        raise ValueError(f"amplitude_range is {amplitude_range!r}; it must be from 0 to 1, the whole range")
