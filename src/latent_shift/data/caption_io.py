"""Captions and times as text: files in other encodings than UTF-8, and cells of tables.

Guesses are returned as notes, for they may be wrong.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def decode(data: bytes, where: str) -> tuple[str, list[str]]:
    """The text of a file's bytes, and a note where its encoding was guessed.

    In this order: UTF-8 (with or without byte order mark), UTF-16 by its mark, else Windows-1252, in which
    any bytes are text.
    """
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        try:
            return data.decode("utf-16"), [f"{where}: read as UTF-16, by its byte order mark"]
        except UnicodeDecodeError:
            pass  # the mark was chance
    try:
        return data.decode("utf-8-sig"), []
    except UnicodeDecodeError:
        # The five bytes that Windows-1252 leaves open become the control characters of the same number.
        text = "".join(bytes([byte]).decode("cp1252", "ignore") or chr(byte) for byte in data)
        return text, [f"{where}: is not UTF-8; read as Windows-1252, a guess"]


def read_text(path: Path) -> tuple[str, list[str]]:
    """A file's text and notes (`decode`). Raises ValueError naming a file that cannot be read."""
    try:
        return decode(path.read_bytes(), str(path))
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror}") from error


def caption_lines(text: str) -> tuple[str, ...]:
    """The captions of a text file: its lines that are not empty, without repetitions."""
    return _without_blanks(text.splitlines())


def as_captions(value: Any) -> tuple[str, ...]:
    """The captions of a table's cell or a JSON value: a text, or a list of texts; none for anything else."""
    texts = value if isinstance(value, list) else [value]
    return _without_blanks(texts) if all(isinstance(text, str) for text in texts) else ()


def _without_blanks(texts: Iterable[str]) -> tuple[str, ...]:
    """The texts that are not empty, once each, with single blanks between words."""
    return tuple(dict.fromkeys(single for text in texts if (single := " ".join(text.split()))))


def as_seconds(value: Any) -> float | None:
    """Seconds of a number, or of a text such as 12.5, 1:02 or 00:01:02.500; None for an empty cell.

    Raises ValueError for anything else, for negative numbers too.
    """
    if value is None or value == "":
        return None
    parts = str(value).split(":")
    try:
        seconds = sum(float(part) * 60**power for power, part in enumerate(reversed(parts)))
    except ValueError:
        seconds = -1.0
    if isinstance(value, bool) or not 0 <= seconds < 1e9 or len(parts) > 3:
        raise ValueError(f"{value!r} is no time; expected seconds, or hours:minutes:seconds")
    return seconds
