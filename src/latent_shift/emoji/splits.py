"""Rules of what is held out: composed pairs, words and styles that no caption of a training has.

Emoji without skin tones are numbered by their code as a string, motions as in Moving Shapes. Rules:

- composed pairs of emoji e and motion m with (e + 7 m) % 10 == 0;
- of each emoji with four keywords or more that are not in its name, the alphabetically last such keyword, in
  whatever letters and with whatever hyphens it is written;
- of the emoji in both animated styles every fifth: in "noto" where its place among those is even, in "fluent"
  where it is odd, as animation and as still.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from latent_shift.emoji.constants import ANIMATED_STYLES
from latent_shift.emoji.pack import EmojiClip
from latent_shift.moving_shapes.constants import MOTIONS as ALL_MOTIONS

MIN_KEYWORDS = 4  # beside the name, for one of them to be held out
STYLE_STEP = 5


@dataclass(frozen=True)
class Emoji:
    """One emoji of the animations. keywords: that are not in its name, and may be trained on.

    number: in the held-out rule. held_out_word: a keyword, None where it has too few. left_out: the style
    that it is never trained in, None where any may be. every_word: names and keywords, in small letters.
    """

    code: str
    name: str
    number: int
    keywords: tuple[str, ...]
    held_out_word: str | None
    left_out: str | None
    every_word: frozenset[str]

    def trained_name(self, name: str) -> str:
        """A name of a clip of this emoji, or its first name where that one is the word held out."""
        return self.name if self.held_out_word and _words(name) == _words(self.held_out_word) else name


class Splits:
    """The rules applied to the animations of a pack: `Pack.clips` and `Pack.listed`."""

    def __init__(self, clips: Sequence[EmojiClip], listed: Mapping[str, Sequence[str]]) -> None:
        self._listed, self._rows = listed, dict[str, list[EmojiClip]]()
        for clip in clips:
            if not clip.still and not clip.tone:
                self._rows.setdefault(clip.code, []).append(clip)

    @cached_property
    def emoji(self) -> dict[str, Emoji]:
        """All emoji of the animations by their code, in the order that numbers them."""
        codes = sorted(self._listed)
        in_both = [code for code in codes if set(self._listed[code]) >= set(ANIMATED_STYLES)]
        left_out = {
            code: "fluent" if place % 2 else "noto" for place, code in enumerate(in_both[::STYLE_STEP])
        }
        found = {}
        for number, code in enumerate(codes):
            rows = sorted(self._rows.get(code, ()), key=lambda row: row.style)
            if not rows:
                continue
            name = rows[0].name
            words = dict.fromkeys(word for row in rows for word in (*row.keywords, row.name))
            others = sorted((word for word in words if not _is_in(word, name)), key=str.casefold)
            held_out = others[-1] if len(others) >= MIN_KEYWORDS else None
            trained = tuple(word for word in others if not held_out or _words(word) != _words(held_out))
            every = frozenset(word.casefold() for word in words)
            found[code] = Emoji(code, name, number, trained, held_out, left_out.get(code), every)
        return found

    def pair_held_out(self, code: str, motion: str) -> bool:
        """Whether a composed clip of an emoji (its code without skin tones) and a motion is held out.

        So is every pair of an emoji that has no number.
        """
        one = self.emoji.get(code)
        return one is None or (one.number + 7 * ALL_MOTIONS.index(motion)) % 10 == 0

    def style_held_out(self, code: str, style: str) -> bool:
        """Whether an emoji (its code without skin tones) is never trained on in a style."""
        one = self.emoji.get(code)
        return one is not None and one.left_out == style


def _is_in(phrase: str, name: str) -> bool:
    """Whether each word of a phrase is a word of a name."""
    return set(_words(phrase)) <= set(_words(name))


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())
