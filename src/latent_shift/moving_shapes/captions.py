"""Captions of scenes: the canonical caption, paraphrases, and a parser of canonical captions.

`caption` returns the one canonical form that prompts and scores use, `paraphrase` any of a dozen sentence
patterns with synonyms, to train text encoders that understand more than one form. Captions of images leave
the motion out. Paraphrases are always true of the scene, and some leave the background out. At most 36 words.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
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
_BACKGROUNDS = {"gray": ("gray", "grey"), "maroon": ("maroon", "maroon", "burgundy")}
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

# Motions in words: a verb in two forms (participle, finite), then the rest; a speed word stands before the
# verb or after the rest.
_DIRECTIONS = {
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
_VERBS_BY_MOTION = {
    "bouncing": "bounce",
    "growing": "grow",
    "shrinking": "shrink",
    "swinging from side to side": "swing",
    "standing still": "stand",
}

# Sentence patterns with the placeholders {objects} and {background}; those of *_BARE leave the background
# out.
_PATTERNS_ING = (
    "{objects} on a {background} background",
    "{objects} on {background}",
    "on a {background} background, {objects}",
    "{background} background, {objects}",
    "a video of {objects} against a {background} backdrop",
    "there is {objects} in front of a {background} background",
)
_PATTERNS_ING_BARE = ("{objects}", "a video of {objects}", "there is {objects}")
_PATTERNS_FINITE = (
    "{objects} on a {background} background",
    "{objects} in front of a {background} background",
    "the background is {background} and {objects}",
    "against a {background} backdrop, {objects}",
)
_PATTERNS_FINITE_BARE = ("{objects}", "in this video {objects}")
_PATTERNS_IMAGE = (
    "{objects} on a {background} background",
    "{objects} on {background}",
    "on a {background} background, {objects}",
    "{background} background, {objects}",
    "a picture of {objects} against a {background} backdrop",
    "there is {objects} in front of a {background} background",
)
_PATTERNS_IMAGE_BARE = ("{objects}", "a picture of {objects}", "there is {objects}")
_JOINS_ING = (" and ", " and ", ", ", " with ")
_JOINS_FINITE = (" and ", " while ", ", ")
_ARTICLES = ("a", "a", "the", "")
_OMIT_BACKGROUND = 0.2
_ARTICLE_WORDS = ("a", "an")


class ObjectWords(NamedTuple):
    """One object of a canonical caption; size, speed and motion are "" where the caption has none."""

    size: str
    colour: str
    shape: str
    speed: str
    motion: str


def caption(scene: Scene) -> str:
    """Return the canonical caption, such as "a small red star slowly moving left on a navy background"."""
    objects = " and ".join(_join(_noun_canonical(obj), obj.speed_word, obj.motion) for obj in scene.objects)
    return f"{objects} on a {scene.background} background"


def image_caption(scene: Scene) -> str:
    """Return the canonical caption of a single frame, without motions."""
    objects = " and ".join(_noun_canonical(obj) for obj in scene.objects)
    return f"{objects} on a {scene.background} background"


def paraphrase(scene: Scene, rng: np.random.Generator) -> str:
    """Return a random caption: sentence pattern, word order, articles and synonyms vary."""
    finite = rng.random() < 0.4
    objects = choice(rng, _JOINS_FINITE if finite else _JOINS_ING).join(
        _clause(obj, finite, rng) for obj in scene.objects
    )
    full, bare = (_PATTERNS_FINITE, _PATTERNS_FINITE_BARE) if finite else (_PATTERNS_ING, _PATTERNS_ING_BARE)
    return _sentence(scene, objects, full, bare, rng)


def image_paraphrase(scene: Scene, rng: np.random.Generator) -> str:
    """Return a random caption of a single frame, without motions."""
    objects = choice(rng, _JOINS_ING).join(_noun(obj, rng) for obj in scene.objects)
    return _sentence(scene, objects, _PATTERNS_IMAGE, _PATTERNS_IMAGE_BARE, rng)


def _sentence(
    scene: Scene, objects: str, full: tuple[str, ...], bare: tuple[str, ...], rng: np.random.Generator
) -> str:
    if rng.random() < _OMIT_BACKGROUND:
        return choice(rng, bare).format(objects=objects)
    background = choice(rng, _BACKGROUNDS.get(scene.background, (scene.background,)))
    return choice(rng, full).format(objects=objects, background=background)


def _join(*words: str) -> str:
    return " ".join(word for word in words if word)


def _with_article(article: str, noun: str) -> str:
    if article == "a" and noun[0] in "aeiou":
        article = "an"
    return _join(article, noun)


def _noun_canonical(obj: Object) -> str:
    return _with_article("a", _join(obj.size_word, obj.colour, obj.shape))


def _noun(obj: Object, rng: np.random.Generator) -> str:
    size = choice(rng, _SIZES.get(obj.size_word, ("",)))
    colour = choice(rng, _COLOURS.get(obj.colour, (obj.colour,)))
    shape = choice(rng, _SHAPES.get(obj.shape, (obj.shape,)))
    return _with_article(choice(rng, _ARTICLES), _join(size, colour, shape))


def _clause(obj: Object, finite: bool, rng: np.random.Generator) -> str:
    """One object and its motion: "a red box quickly going up", "the red box moves upwards fast"."""
    noun, motion = _noun(obj, rng), obj.motion
    verb, rest = _verb(motion, finite, rng)
    speed = choice(rng, _SPEEDS.get(obj.speed_word, ("",)))
    words = _join(verb, rest, speed) if speed == "fast" or rng.random() < 0.4 else _join(speed, verb, rest)
    if not finite:
        return _join(noun, words)
    return _join(noun, "that" if rng.random() < 0.15 else "", words)


def _verb(motion: str, finite: bool, rng: np.random.Generator) -> tuple[str, str]:
    """Verb of a motion ("moving", "moves") and the words after it ("to the left", "clockwise")."""
    kind, rest = _kind(motion), ""
    if kind == "travel":
        rest = choice(rng, _DIRECTIONS[motion])
    elif kind in ("circle", "spin"):
        rest = choice(rng, _TURNS[(constants.CIRCLING | constants.SPINNING)[motion]])
    return choice(rng, _VERBS[kind])[finite], rest


def _kind(motion: str) -> str:
    """The verbs of a motion, a key of `_VERBS`."""
    if motion in constants.DIRECTIONS:
        return "travel"
    if motion in constants.CIRCLING:
        return "circle"
    return "spin" if motion in constants.SPINNING else _VERBS_BY_MOTION[motion]


def motion_phrase(motion: str, rng: np.random.Generator) -> str:
    """Return a motion in words, as a participle: "going to the left", "turning clockwise"."""
    return _join(*_verb(motion, False, rng))


def motion_words(motions: Iterable[str]) -> set[str]:
    """First words of all verbs that say these motions: "moving", "goes"."""
    kinds = {_kind(motion) for motion in motions}
    return {form.split()[0] for kind in kinds for verb in _VERBS[kind] for form in verb}


def _alternatives(words: Iterable[str]) -> str:
    return "|".join(sorted(words, key=len, reverse=True))


_NOUN = (
    rf"an? (?:(?P<size>small|large) )?(?P<colour>{_alternatives(constants.COLOURS)})"
    rf" (?P<shape>{_alternatives(constants.SHAPES)})"
)
_OBJECT_OF_IMAGE = re.compile(rf"{_NOUN}(?P<speed>)(?P<motion>)")
_OBJECT = re.compile(
    rf"{_NOUN} (?:(?P<speed>slowly|quickly) )?(?P<motion>{_alternatives(constants.MOTIONS)})"
)
_BACKGROUND = re.compile(rf" on an? (?P<background>{_alternatives(constants.BACKGROUNDS)}) background")


def parse_caption(text: str, *, image: bool = False) -> tuple[list[ObjectWords], str]:
    """Parse a canonical caption into its objects, in order, and the background.

    image: the caption is one of an image, without motions. Case, outer spaces, a full stop and "a" or "an"
    make no difference. Raises ValueError naming the caption if it is not of the canonical form, or has a
    speed word for a motion without one.
    """
    line = text.strip().rstrip(".").lower()
    objects: list[ObjectWords] = []
    position = 0
    pattern = _OBJECT_OF_IMAGE if image else _OBJECT
    while found := pattern.match(line, position):
        objects.append(ObjectWords(*(found[name] or "" for name in ObjectWords._fields)))
        position = found.end()
        if not line.startswith(" and ", position):
            break
        position += len(" and ")
    background = _BACKGROUND.fullmatch(line, position)
    if not 1 <= len(objects) <= 2 or background is None:
        raise ValueError(
            f"{text!r} is not a canonical Moving Shapes caption; write for example "
            f'"a small red star{"" if image else " moving left"} on a navy background", with one or two'
            " objects"
        )
    for obj in objects:
        if obj.speed and not constants.takes_speed(obj.motion):
            raise ValueError(f"{text!r} has {obj.speed!r} for {obj.motion!r}, which takes no speed word")
    return objects, background["background"]


def beyond_level_1(*, sized_growth: bool = False) -> tuple[str, ...]:
    """Return what captions of level 1 never have: words, sorted, then words together (`VideoConfig`).

    Digits, speeds, a second object or motion, spins and colours that cannot be seen; and a size with growth,
    in a world without it.
    """
    digits = {name: words for name, words in _SHAPES.items() if name in constants.DIGITS}
    drawn = {name: words for name, words in _SHAPES.items() if name not in digits}
    words = _words(digits, _SPEEDS) | set(re.findall("[a-z]+", "".join((*_JOINS_ING, *_JOINS_FINITE))))
    forms = {kind: [form for pair in pairs for form in pair] for kind, pairs in _VERBS.items()}
    verbs = sorted(
        {re.sub("^(not|does not) ", "", form).split()[0] for each in forms.values() for form in each}
    )
    shapes = {
        name: [text.split()[-1] for text in _SHAPES.get(name, (name,))] for name in constants.DRAWN_SHAPES
    }
    nouns = sorted({noun for each in shapes.values() for noun in each})
    colours = sorted(_words(_COLOURS) | set(constants.COLOURS))
    growth = [form for motion in constants.CHANGES_OF_SIZE for form in forms[_VERBS_BY_MOTION[motion]]]
    groups = [
        (colours, colours),
        [[f"{noun} and" for noun in nouns]],
        [[noun for noun in nouns if noun != "circle"]] * 2,  # a ball may be going around in a circle
        [[f"five {word}" for word in (*verbs, "on", "in", "against")]],  # a digit; stars are five pointed
        (verbs, verbs),
        (
            [noun for name in constants.ROTATION_INVARIANT for noun in shapes[name]],
            [form for form in forms["spin"]],
        ),
        *(
            (_COLOURS.get(colour, (colour,)), _BACKGROUNDS.get(background, (background,)))
            for colour in constants.COLOURS
            for background in constants.BACKGROUNDS
            if not constants.stands_out(colour, background)
        ),
    ]
    if not sized_growth:
        groups.append((sorted(_words(_SIZES)), growth))
    together = [" + ".join("|".join(dict.fromkeys(group)) for group in each) for each in groups]
    return *sorted(words - _words(drawn, _DIRECTIONS)), *together


def _words(*tables: Mapping[str, tuple[str, ...]]) -> set[str]:
    texts = (text for table in tables for texts in table.values() for text in texts)
    return {word for text in texts for word in re.findall("[a-z]+", text)}


def vocabulary() -> tuple[str, ...]:
    """Return all words of captions and paraphrases, sorted."""
    texts: list[str] = [
        *constants.COLOURS,
        *constants.BACKGROUNDS,
        *constants.SHAPES,
        *constants.MOTIONS,
        *constants.SPEED,
    ]
    for table in (_SIZES, _COLOURS, _BACKGROUNDS, _SHAPES, _SPEEDS, _DIRECTIONS, _TURNS):
        texts += [word for words in table.values() for word in words]
    texts += [form for forms in _VERBS.values() for pair in forms for form in pair]
    for patterns in (_PATTERNS_ING, _PATTERNS_FINITE, _PATTERNS_IMAGE):
        texts += [pattern.format(objects="", background="") for pattern in patterns]
    for bare in (_PATTERNS_ING_BARE, _PATTERNS_FINITE_BARE, _PATTERNS_IMAGE_BARE):
        texts += [pattern.format(objects="") for pattern in bare]
    texts += [*_JOINS_ING, *_JOINS_FINITE, *_ARTICLES, *_ARTICLE_WORDS, "that"]
    return tuple(sorted({word for text in texts for word in re.findall(r"[a-z0-9]+", text)}))
