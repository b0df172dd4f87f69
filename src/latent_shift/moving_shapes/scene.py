"""What is in one clip: a background and one or two things, each with its look, its motion and its place.

A scene is a description, not pixels (`render.py` rng it) and not words (`captions.py` writes them).
`draw_scene(seed, index)` makes scene number `index` of an endless series: it depends on its arguments alone,
on every machine and in every process.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from latent_shift.moving_shapes import constants, glyphs, shapes
from latent_shift.moving_shapes.motion import frame_times, track
from latent_shift.rng import choice, item_rng, uniform

Split = Literal["seen", "held-out", "any"]
Scans = Literal["train", "test"]

_ALL_TIMES = frame_times(np.arange(constants.FRAMES))
_PLACEMENTS = 40  # placements tried for a pair of things before another pair is drawn
_DIGIT_SHARE = 1 / 3
_TWO_OBJECTS_SHARE = 0.5
_LEEWAY = 0.1  # how much the start of a travel that cannot stay inside may vary
_LARGEST_STEP = 0.42  # of a symmetric shape's repeat, turned from frame to frame; half would look still


@dataclass(frozen=True)
class Object:
    """One object. Names are those of `world.py`; "" where a size or speed is not said.

    radius: the plain radius (growing and shrinking scale it). x, y: the start of a travel, else the middle
    of the motion. amount: length of a travel on each axis it moves along, height of a bounce, radius of the
    circling, turns of a spin, half width of a swing, all before the speed word; else 0. phase: of a bounce,
    a circling or a swing, 0 to 1 of a cycle. scan: which handwritten digit, -1 for drawn shapes.
    """

    colour: str
    shape: str
    motion: str
    size_word: str
    speed_word: str
    radius: float
    x: float
    y: float
    amount: float
    phase: float
    bounces: int
    scan: int

    @property
    def held_out(self) -> bool:
        """Whether this combination of colour, shape and motion is never trained on."""
        return constants.names_held_out(self.colour, self.shape, self.motion)


@dataclass(frozen=True)
class Scene:
    """One clip's content: a background's name and one or two things, the later drawn over the earlier."""

    background: str
    things: tuple[Object, ...]

    @property
    def held_out(self) -> bool:
        """Whether any of its things is held out."""
        return any(thing.held_out for thing in self.things)


@dataclass(frozen=True)
class _Words:
    """What a caption would say of a thing, apart from its size."""

    colour: str
    shape: str
    motion: str
    speed_word: str


def reach(shape: str) -> float:
    """Distance of a shape's farthest point from its centre, in units of its radius."""
    return glyphs.REACH if constants.is_digit(shape) else shapes.REACH[shape]


def _draw_words(rng: np.random.Generator, level: int, motions: Sequence[str]) -> _Words:
    """Colour, shape, motion and speed word, evenly among those that go together."""
    kind = constants.DIGITS if level == 2 and rng.random() < _DIGIT_SHARE else constants.DRAWN_SHAPES
    while True:
        colour, shape, motion = choice(rng, tuple(constants.COLOURS)), choice(rng, kind), choice(rng, motions)
        if constants.can_move(shape, motion):
            break
    speed = choice(rng, ("", "", "slowly", "quickly")) if level == 2 and constants.takes_speed(motion) else ""
    return _Words(colour, shape, motion, speed)


def _draw_cast(
    rng: np.random.Generator, level: int, count: int, split: Split, motions: Sequence[str]
) -> tuple[str, list[_Words]]:
    """A background and the words of each thing that keep all rules on colours and on the split."""
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


def _travel_axis(rng: np.random.Generator, way: int, length: float, room: float) -> float:
    """Start on one axis of a travel: inside the frame, and the end inside too where that is possible."""
    if way == 0:
        return uniform(rng, -room, room)
    latest = room - length
    if latest < -room:
        latest = max(-room, min(-room + _LEEWAY, 1.0 - length))
    return way * uniform(rng, -room, latest)


def _draw_amount(rng: np.random.Generator, words: _Words, room: float, spread: float) -> float:
    """How far, how high, how wide or how often; 0 where the motion has no amount."""
    amounts = _amounts(words, room)
    if amounts is None:
        return 0.0
    low, high = amounts
    cut = (high - low) * (1 - spread) / 2
    return uniform(rng, low + cut, high - cut)


def _amounts(words: _Words, room: float) -> constants.Range | None:
    """The least and the most that a motion's amount may be, if it has one."""
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
            high = min(high, _LARGEST_STEP * steps)
        return low, high
    if motion == "bouncing":
        return constants.BOUNCE_HEIGHT
    if motion in constants.CIRCLING:
        return constants.CIRCLING_RADIUS
    return constants.SWING if motion == "swinging from side to side" else None


def _place(rng: np.random.Generator, words: _Words, scan: int, spread: float) -> Object:
    """Give a thing its size, its place and the rest that a caption does not say."""
    motion = words.motion
    sizes = ("", "large") if constants.is_digit(words.shape) else ("", "small", "large")
    size = choice(rng, sizes) if constants.takes_size(motion) else ""
    radius = uniform(rng, *constants.RADIUS[size])
    largest = radius if constants.takes_size(motion) else radius * constants.GROWTH[1]
    room = 1.0 - reach(words.shape) * largest
    amount = _draw_amount(rng, words, room, spread)
    way = constants.DIRECTIONS.get(motion, (0, 0))
    length = amount * constants.SPEED[words.speed_word]
    x, y = _travel_axis(rng, way[0], length, room), _travel_axis(rng, way[1], length, room)
    if motion in constants.CIRCLING:
        x, y = 0.0, 0.0
    elif motion == "swinging from side to side":
        x = 0.0
    return Object(
        words.colour, words.shape, motion, size, words.speed_word, radius, x, y, amount,
        phase=float(rng.random()), bounces=choice(rng, constants.BOUNCES), scan=scan,
    )  # fmt: skip


def _lens(d: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Area that two discs of radii a and b share, their centres d apart; all (F,)."""
    d = np.clip(d, np.abs(a - b) + 1e-9, a + b)
    first = (d * d + a * a - b * b) / (2.0 * d)
    second = d - first
    part_a = a * a * np.arccos(np.clip(first / a, -1.0, 1.0)) - first * np.sqrt(
        np.maximum(a * a - first**2, 0.0)
    )
    part_b = b * b * np.arccos(np.clip(second / b, -1.0, 1.0)) - second * np.sqrt(
        np.maximum(b * b - second**2, 0.0)
    )
    return part_a + part_b


def _hides_too_much(under: Object, over: Object) -> bool:
    """Whether the thing on top may hide over a fifth of the other in some frame, by their enclosing discs.

    Where the lower thing touches the frame's edge, part of it may be out of sight already: no overlap there.
    """
    low, top = track(under, _ALL_TIMES), track(over, _ALL_TIMES)
    a, b = low.radius * reach(under.shape), top.radius * reach(over.shape)
    hidden = _lens(np.sqrt((low.x - top.x) ** 2 + (low.y - top.y) ** 2), a, b)
    area = glyphs.AREA if constants.is_digit(under.shape) else shapes.AREA[under.shape]
    at_edge = np.maximum(np.abs(low.x), np.abs(low.y)) + a > 1.0
    allowed = np.where(at_edge, 1e-6, constants.HIDDEN_SHARE * area * low.radius**2)
    return bool((hidden > allowed).any())


def _draw_scan(rng: np.random.Generator, shape: str, scans: Scans) -> int:
    if not constants.is_digit(shape):
        return -1
    return choice(rng, glyphs.scan_indices()[constants.DIGITS.index(shape)][scans == "test"])


def _check(level: int, objects: int | None, split: str, scans: str) -> None:
    if level not in (1, 2):
        raise ValueError(f"level is {level!r}; Moving Shapes has the levels 1 and 2")
    allowed = (None, 1) if level == 1 else (None, 1, 2)
    if objects not in allowed:
        raise ValueError(f"objects is {objects!r}; level {level} has {' or '.join(map(str, allowed))}")
    if split not in ("seen", "held-out", "any"):
        raise ValueError(f'split is {split!r}; choose "seen", "held-out" or "any"')
    if scans not in ("train", "test"):
        raise ValueError(f'scans is {scans!r}; choose "train" or "test"')


def _check_motions(motions: Sequence[str]) -> None:
    unknown = [motion for motion in motions if motion not in constants.MOTIONS]
    if unknown or not motions:
        raise ValueError(
            f"motions are {list(motions)!r}; choose one or more of {', '.join(constants.MOTIONS)}"
        )


def draw_scene(
    seed: int,
    index: int,
    *,
    level: int = 1,
    objects: int | None = None,
    split: Split = "seen",
    scans: Scans = "train",
    motions: Sequence[str] = constants.MOTIONS,
    spread: float = 1.0,
) -> Scene:
    """Scene number `index` of the series that `seed` names.

    level 1: one object, drawn shapes, no speed words; level 2: digits, speed words, and one or two objects
    (`objects` fixes how many). split: "seen" never holds a held-out combination, "held-out" holds at least
    one, "any" ignores the rule. scans: which handwritten digits to use. motions: those to choose from.
    spread: the part of its range, about the middle, that a motion's amount is drawn from, 0 to 1. Raises
    ValueError for other values.
    """
    _check(level, objects, split, scans)
    _check_motions(motions)
    if not 0.0 <= spread <= 1.0:
        raise ValueError(f"spread is {spread!r}; it must be from 0 to 1, the whole range")
    rng = item_rng(seed, index)
    count = objects or (1 + (level == 2 and rng.random() < _TWO_OBJECTS_SHARE))
    while True:
        background, cast = _draw_cast(rng, level, count, split, motions)
        handwriting = [_draw_scan(rng, words.shape, scans) for words in cast]
        for _ in range(_PLACEMENTS):
            things = tuple(
                _place(rng, words, scan, spread) for words, scan in zip(cast, handwriting, strict=True)
            )
            if count == 1 or not _hides_too_much(*things):
                return Scene(background, things)


def draw_scenes(
    seed: int,
    indices: Iterable[int],
    *,
    level: int = 1,
    objects: int | None = None,
    split: Split = "seen",
    scans: Scans = "train",
) -> list[Scene]:
    """The scenes with the given indices; see `draw_scene`."""
    return [
        draw_scene(seed, index, level=level, objects=objects, split=split, scans=scans) for index in indices
    ]
