"""Emoji characters as words: "🚀" is "rocket", for text encoders that know words only.

spell_emoji("a 👍🏽 on navy")       # "a thumbs up with medium skin tone on navy"
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable
from functools import cache
from importlib.resources import files

_FILE = "emoji_names.json"  # names by code points, made by recipes/emoji/names.py
_SELECTORS = "\ufe0e\ufe0f"
_TONES = dict(zip("🏻🏼🏽🏾🏿", ("light", "medium-light", "medium", "medium-dark", "dark"), strict=True))
_LONGEST = 12  # code points of a sequence, selectors among them


def spell_emoji(text: str, is_known: Callable[[str], bool] = lambda symbol: False) -> str:
    """The text with emoji as their names, as words of their own; all else unchanged.

    is_known: whether a symbol may stay as it is. A symbol without a listed name gets that of Unicode; one
    that is no emoji and has none stays.
    """
    parts: list[str] = []
    at = 0
    while at < len(text):
        if text[at].isascii() or unicodedata.category(text[at]) not in _SYMBOLS:
            length, name = _keycap(text, at)
        else:
            length, name = _longest_name(text, at)
        symbol = text[at : at + length]
        parts.append(symbol if name is None or is_known(symbol) else f" {name} ")
        at += length
    spelled = "".join(parts)
    return text if spelled == text else re.sub(r"\s+", " ", spelled).strip()


_SYMBOLS = ("So", "Sk", "Sm", "Cn", "Mn", "Cf", "Po")  # categories that emoji are of, and their parts


def _keycap(text: str, at: int) -> tuple[int, str | None]:
    """Length and name of a keycap, such as "5️⃣"; one character without a name for anything else."""
    found = re.compile("([0-9#*])\ufe0f?\u20e3").match(text, at)
    return (len(found[0]), f"keycap {found[1]}") if found else (1, None)


def _longest_name(text: str, at: int) -> tuple[int, str | None]:
    """Length and name of the longest emoji at a place; one character, and Unicode's name of a symbol."""
    for end in range(min(len(text), at + _LONGEST), at, -1):
        points = [point for point in text[at:end] if point not in _SELECTORS]
        tones = list(dict.fromkeys(_TONES[point] for point in points if point in _TONES))
        code = "-".join(f"{ord(point):x}" for point in points if point not in _TONES)
        if name := _names().get(code):
            while end < len(text) and text[end] in _SELECTORS:
                end += 1
            return end - at, f"{name} with {tones[0]} skin tone" if len(tones) == 1 else name
    if text[at] in _SELECTORS or text[at] == "\u200d":
        return 1, ""
    is_symbol = unicodedata.category(text[at]) == "So"
    return 1, unicodedata.name(text[at], "").lower() or None if is_symbol else None


def emoji_names() -> tuple[str, ...]:
    """The names of all emoji that have one, in lower case."""
    return tuple(_names().values())


@cache
def _names() -> dict[str, str]:
    found: dict[str, str] = json.loads(files("latent_shift").joinpath("assets", _FILE).read_text("utf-8"))
    return found
