"""Sentences for scenes: the canonical caption, many other ways to say the same, and the way back.

`caption` writes the one canonical form that prompts and scores use, `paraphrase` any of a dozen sentence
patterns with synonyms, for training a text model that understands more than one form. Captions of images
leave the motion out. Everything said is true of the scene; only the background is sometimes not said.
Captions hold at most 36 words.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from latent_shift.moving_shapes import constants
from latent_shift.moving_shapes.scene import Object, Scene
from latent_shift.rng import choice

MAX_WORDS = 36

_SIZES = {"small": ("small", "small", "little", "tiny"), "large": ("large", "large", "big", "huge")}
_COLOURS = {
    "red": ("red", "red", "crimson"),
    "green": ("green", "green", "emerald"),
    "purple": ("purple", "purple", "violet"),
    "cyan": ("cyan", "cyan", "turquoise"),
    "pink": ("pink", "pink", "rose"),
}
_GROUNDS = {"gray": ("gray", "grey"), "maroon": ("maroon", "maroon", "burgundy")}
_SHAPES = {
    "circle": ("circle", "circle", "ball", "disc"),
    "square": ("square", "square", "box"),
    "star": ("star", "star", "five pointed star"),
    "ring": ("ring", "ring", "hoop"),
    "cross": ("cross", "cross", "plus sign"),
} | {
    f"digit {word}": (f"digit {word}", f"digit {word}", f"number {word}", word)
    for word in constants.NUMBER_WORDS
}
_SPEEDS = {"slowly": ("slowly", "slowly", "gently"), "quickly": ("quickly", "quickly", "fast", "rapidly")}

# Each motion in words: "ing" forms as (verb, rest), the speed word going before the verb or after the rest.
_WAYS = {
    "moving left": ("left", "leftwards", "to the left"),
    "moving right": ("right", "rightwards", "to the right"),
    "moving up": ("up", "upwards", "to the top"),
    "moving down": ("down", "downwards", "to the bottom"),
    "moving up and to the left": ("up and to the left", "diagonally up and left", "to the upper left"),
    "moving up and to the right": ("up and to the right", "diagonally up and right", "to the upper right"),
    "moving down and to the left": ("down and to the left", "diagonally down and left", "to the lower left"),
    "moving down and to the right": (
        "down and to the right",
        "diagonally down and right",
        "to the lower right",
    ),
}
_TURNS = {1: ("clockwise",), -1: ("counterclockwise", "anticlockwise")}
_VERBS = {
    "travel": (
        ("moving", "moves"),
        ("moving", "moves"),
        ("going", "goes"),
        ("travelling", "travels"),
        ("traveling", "travels"),
    ),
    "bounce": (("bouncing", "bounces"), ("bouncing up and down", "bounces up and down")),
    "circle": (("circling", "circles"), ("going around in a circle", "goes around in a circle")),
    "spin": (("spinning", "spins"), ("rotating", "rotates"), ("turning", "turns")),
    "grow": (("growing", "grows"), ("getting bigger", "gets bigger"), ("becoming larger", "becomes larger")),
    "shrink": (
        ("shrinking", "shrinks"),
        ("getting smaller", "gets smaller"),
        ("becoming smaller", "becomes smaller"),
    ),
    "swing": (
        ("swinging from side to side", "swings from side to side"),
        ("swinging left and right", "swings left and right"),
        ("moving from side to side", "moves from side to side"),
    ),
    "stand": (
        ("standing still", "stands still"),
        ("staying in place", "stays in place"),
        ("not moving", "does not move"),
    ),
}
_PLAIN_KINDS = {
    "bouncing": "bounce",
    "growing": "grow",
    "shrinking": "shrink",
    "swinging from side to side": "swing",
    "standing still": "stand",
}

# Sentence patterns: {things} is all that is seen, {ground} the background's name.
_PATTERNS_ING = (
    "{things} on a {ground} background",
    "{things} on {ground}",
    "on a {ground} background, {things}",
    "{ground} background, {things}",
    "a video of {things} against a {ground} backdrop",
    "there is {things} in front of a {ground} background",
)
_PATTERNS_ING_BARE = ("{things}", "a video of {things}", "there is {things}")
_PATTERNS_FINITE = (
    "{things} on a {ground} background",
    "{things} in front of a {ground} background",
    "the background is {ground} and {things}",
    "against a {ground} backdrop, {things}",
)
_PATTERNS_FINITE_BARE = ("{things}", "in this video {things}")
_PATTERNS_IMAGE = (
    "{things} on a {ground} background",
    "{things} on {ground}",
    "on a {ground} background, {things}",
    "{ground} background, {things}",
    "a picture of {things} against a {ground} backdrop",
    "there is {things} in front of a {ground} background",
)
_PATTERNS_IMAGE_BARE = ("{things}", "a picture of {things}", "there is {things}")
_JOINS_ING = (" and ", " and ", ", ", " with ")
_JOINS_FINITE = (" and ", " while ", ", ")
_ARTICLES = ("a", "a", "the", "")
_GROUND_UNSAID = 0.2
_ARTICLE_WORDS = ("a", "an")


class ObjectWords(NamedTuple):
    """What a canonical caption says of one object; size and speed are "" where nothing is said."""

    size: str
    colour: str
    shape: str
    speed: str
    motion: str


def caption(scene: Scene) -> str:
    """The canonical caption, for example "a small red star slowly moving left on a navy background"."""
    things = " and ".join(
        _join(_noun_canonical(thing), thing.speed_word, thing.motion) for thing in scene.things
    )
    return f"{things} on a {scene.background} background"


def image_caption(scene: Scene) -> str:
    """The canonical caption of a single frame: the same without the motions."""
    things = " and ".join(_noun_canonical(thing) for thing in scene.things)
    return f"{things} on a {scene.background} background"


def paraphrase(scene: Scene, rng: np.random.Generator) -> str:
    """The scene in other words: another sentence pattern, word order, articles and synonyms."""
    finite = rng.random() < 0.4
    things = choice(rng, _JOINS_FINITE if finite else _JOINS_ING).join(
        _clause(thing, finite, rng) for thing in scene.things
    )
    said, bare = (_PATTERNS_FINITE, _PATTERNS_FINITE_BARE) if finite else (_PATTERNS_ING, _PATTERNS_ING_BARE)
    return _sentence(scene, things, said, bare, rng)


def image_paraphrase(scene: Scene, rng: np.random.Generator) -> str:
    """A single frame of the scene in other words, the motion left out."""
    things = choice(rng, _JOINS_ING).join(_noun(thing, rng) for thing in scene.things)
    return _sentence(scene, things, _PATTERNS_IMAGE, _PATTERNS_IMAGE_BARE, rng)


def _sentence(
    scene: Scene, things: str, said: tuple[str, ...], bare: tuple[str, ...], rng: np.random.Generator
) -> str:
    if rng.random() < _GROUND_UNSAID:
        return choice(rng, bare).format(things=things)
    ground = choice(rng, _GROUNDS.get(scene.background, (scene.background,)))
    return choice(rng, said).format(things=things, ground=ground)


def _join(*words: str) -> str:
    return " ".join(word for word in words if word)


def _with_article(article: str, noun: str) -> str:
    if article == "a" and noun[0] in "aeiou":
        article = "an"
    return _join(article, noun)


def _noun_canonical(thing: Object) -> str:
    return _with_article("a", _join(thing.size_word, thing.colour, thing.shape))


def _noun(thing: Object, rng: np.random.Generator) -> str:
    size = choice(rng, _SIZES.get(thing.size_word, ("",)))
    colour = choice(rng, _COLOURS.get(thing.colour, (thing.colour,)))
    shape = choice(rng, _SHAPES.get(thing.shape, (thing.shape,)))
    return _with_article(choice(rng, _ARTICLES), _join(size, colour, shape))


def _clause(thing: Object, finite: bool, rng: np.random.Generator) -> str:
    """One object and its motion: "a red box quickly going up", "the red box moves upwards fast"."""
    noun, motion = _noun(thing, rng), thing.motion
    verb, rest = _verb(motion, finite, rng)
    speed = choice(rng, _SPEEDS.get(thing.speed_word, ("",)))
    words = _join(verb, rest, speed) if speed == "fast" or rng.random() < 0.4 else _join(speed, verb, rest)
    if not finite:
        return _join(noun, words)
    return _join(noun, "that" if rng.random() < 0.15 else "", words)


def _verb(motion: str, finite: bool, rng: np.random.Generator) -> tuple[str, str]:
    """The verb of a motion ("moving", "moves"), and the words after it ("to the left", "clockwise")."""
    if motion in constants.DIRECTIONS:
        kind, rest = "travel", choice(rng, _WAYS[motion])
    elif motion in constants.CIRCLING:
        kind, rest = "circle", choice(rng, _TURNS[constants.CIRCLING[motion]])
    elif motion in constants.SPINNING:
        kind, rest = "spin", choice(rng, _TURNS[constants.SPINNING[motion]])
    else:
        kind, rest = _PLAIN_KINDS[motion], ""
    return choice(rng, _VERBS[kind])[finite], rest


def _alternatives(words: Iterable[str]) -> str:
    return "|".join(sorted(words, key=len, reverse=True))


_THING = re.compile(
    rf"an? (?:(?P<size>small|large) )?(?P<colour>{_alternatives(constants.COLOURS)})"
    rf" (?P<shape>{_alternatives(constants.SHAPES)})"
    rf" (?:(?P<speed>slowly|quickly) )?(?P<motion>{_alternatives(constants.MOTIONS)})"
)
_GROUND = re.compile(rf" on an? (?P<ground>{_alternatives(constants.BACKGROUNDS)}) background")


def parse_caption(text: str) -> tuple[list[ObjectWords], str]:
    """What a canonical caption says: its objects in order, and the background.

    Capitals, outer spaces and a full stop do not matter, nor "a" or "an". Raises ValueError naming the
    caption where it is not of the canonical form, or says a speed of a motion that takes none.
    """
    line = text.strip().rstrip(".").lower()
    things: list[ObjectWords] = []
    position = 0
    while found := _THING.match(line, position):
        things.append(ObjectWords(*(found[name] or "" for name in ObjectWords._fields)))
        position = found.end()
        if not line.startswith(" and ", position):
            break
        position += len(" and ")
    ground = _GROUND.fullmatch(line, position)
    if not 1 <= len(things) <= 2 or ground is None:
        raise ValueError(
            f"{text!r} is not a canonical Moving Shapes caption; write for example "
            '"a small red star moving left on a navy background", with one or two objects'
        )
    for thing in things:
        if thing.speed and not constants.takes_speed(thing.motion):
            raise ValueError(f"{text!r} says {thing.speed!r} of {thing.motion!r}, which takes no speed word")
    return things, ground["ground"]


def vocabulary() -> tuple[str, ...]:
    """Every word that captions and paraphrases can use, sorted."""
    said: list[str] = [
        *constants.COLOURS,
        *constants.BACKGROUNDS,
        *constants.SHAPES,
        *constants.MOTIONS,
        *constants.SPEED,
    ]
    for table in (_SIZES, _COLOURS, _GROUNDS, _SHAPES, _SPEEDS, _WAYS, _TURNS):
        said += [word for words in table.values() for word in words]
    said += [form for forms in _VERBS.values() for pair in forms for form in pair]
    for patterns in (_PATTERNS_ING, _PATTERNS_FINITE, _PATTERNS_IMAGE):
        said += [pattern.format(things="", ground="") for pattern in patterns]
    for bare in (_PATTERNS_ING_BARE, _PATTERNS_FINITE_BARE, _PATTERNS_IMAGE_BARE):
        said += [pattern.format(things="") for pattern in bare]
    said += [*_JOINS_ING, *_JOINS_FINITE, *_ARTICLES, *_ARTICLE_WORDS, "that"]
    return tuple(sorted({word for text in said for word in re.findall(r"[a-z0-9]+", text)}))
