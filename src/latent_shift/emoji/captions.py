"""Captions of scenes: canonical ones, and paraphrases in other words and orders.

`[a|an|the] NAME [STYLE] [MOTION] [on a COLOUR background]`. Paraphrases name an emoji by one to three of its
keywords as well, and are always true of the scene; none has a word that is held out (`splits.py`). A ground
other than white is always named, since a caption without one means white.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from latent_shift.emoji.constants import DEFAULT_GROUND, STYLES
from latent_shift.moving_shapes.captions import motion_phrase
from latent_shift.rng import choice

_BY_KEYWORDS = 0.4  # of paraphrases
_NAMES_WHITE = 0.2  # of paraphrases of clips on white
_ARTICLES = ("a", "a", "the", "")
_FRAMES = ("{emoji}", "{emoji}", "{emoji}", "an emoji of {emoji}", "an animated emoji of {emoji}")
_CALLED_EMOJI = 0.15  # of paraphrases: "a rocket emoji"
_ON_GROUND = (
    "{emoji} on a {ground} background", "{emoji} on a {ground} background", "{emoji} on {ground}",
    "on a {ground} background, {emoji}", "{ground} background, {emoji}",
    "{emoji} in front of a {ground} background", "{emoji} against a {ground} backdrop",
)  # fmt: skip
_STYLED = (
    "{emoji} in {style} style",
    "{emoji} in {style} style",
    "{emoji}, {style} style",
    "{style} {emoji}",
)
_TONED = ("{emoji} with {tone} skin tone", "{emoji} with {tone} skin tone", "{emoji} with {tone} skin")
_JOINS = (" ", ", ", " and ")
_VOWEL = re.compile(r"(?!(uni|use|ewe|eu|one\b|utensil))(hour|hono|[aeiou])", re.IGNORECASE)  # as they sound


@dataclass(frozen=True)
class Words:
    """Contents of a caption. style: of `STYLES`, "" where it is left out; tone, motion: "" for none."""

    name: str
    keywords: tuple[str, ...] = ()
    tone: str = ""
    style: str = ""
    motion: str = ""
    ground: str = DEFAULT_GROUND


def with_article(article: str, noun: str) -> str:
    """A noun after its article, "an" in place of "a" before a vowel; "" for none."""
    if article == "a" and _VOWEL.match(noun):
        article = "an"
    return f"{article} {noun}" if article else noun


def caption(words: Words) -> str:
    """The canonical caption, such as "a rocket in 3D style moving left on a navy background"."""
    text = with_article("a", words.name)
    if words.tone:
        text += f" with {words.tone} skin tone"
    if words.style:
        text += f" in {STYLES[words.style]} style"
    return f"{text}{' ' * bool(words.motion)}{words.motion} on a {words.ground} background"


def keyword_caption(keywords: tuple[str, ...], ground: str) -> str:
    """A prompt of keywords in place of a name, such as "space, ship on a navy background"."""
    return f"{', '.join(keywords)} on a {ground} background"


def paraphrase(words: Words, rng: np.random.Generator) -> str:
    """A caption in other words: name or keywords, articles, order and templates vary."""
    if words.keywords and rng.random() < _BY_KEYWORDS:
        count = 1 + int(rng.random() * min(3, len(words.keywords)))
        left = list(words.keywords)
        chosen = [left.pop(int(rng.random() * len(left))) for _ in range(count)]
        text = choice(rng, _JOINS).join(chosen)
    else:
        text = words.name
    if rng.random() < _CALLED_EMOJI:
        text += " emoji"
    styled_first = False
    template = choice(rng, _STYLED) if words.style else "{emoji}"
    if template.startswith("{style}"):
        text, styled_first = template.format(emoji=text, style=STYLES[words.style]), True
    text = with_article(choice(rng, _ARTICLES), text)
    if words.tone:
        text = choice(rng, _TONED).format(emoji=text, tone=words.tone)
    rest = [] if styled_first or not words.style else [template.format(emoji="", style=STYLES[words.style])]
    if words.motion:
        rest.insert(int(rng.random() * (len(rest) + 1)), f" {motion_phrase(words.motion, rng)}")
    text = choice(rng, _FRAMES).format(emoji=text + "".join(rest))
    if words.ground == DEFAULT_GROUND and rng.random() >= _NAMES_WHITE:
        return text
    return choice(rng, _ON_GROUND).format(emoji=text, ground=words.ground)
