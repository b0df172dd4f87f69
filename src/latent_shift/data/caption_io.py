"""Captions, prompts and times as text: files in any encoding, their lines, and cells of tables.

One decoder for all rooms. Guesses are returned as notes, for they may be wrong.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from unicodedata import normalize

_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16",
}  # fmt: skip
MAX_CAPTION_BYTES = 1 << 20  # of a file beside a clip
_MANY_NULS = 0.25  # of the bytes
_NOTHING = re.compile("[\x00-\x1f\x7f-\x9f\ufeff\u200b]")
_NO_SENTENCES = {  # by how their files begin
    "JSON": re.compile(r'\s*[{\[]\s*["{]'),
    "a web page": re.compile(r"\s*<(!doctype|html|\?xml)\b", re.IGNORECASE),
    "subtitles": re.compile(r"\s*(WEBVTT\b|(\d+\s*\n)?\s*[\d:]+[,.]\d+ --> )"),
}
_CONTROLS = re.compile(rb"[\x01-\x08\x0e-\x1f]")


def decode(data: bytes, where: str) -> tuple[str, list[str]]:
    """The text of a file's bytes, and a note where its encoding was guessed.

    In this order: UTF-16 and UTF-32 by their byte order marks, UTF-16 without a mark by its NULs, UTF-8 (with
    or without mark), else Windows-1252, in which any bytes are text, for the lines that are not UTF-8.
    """
    for mark, encoding in _MARKS.items():
        if data.startswith(mark):
            try:
                return data.decode(encoding), [f"{where}: read as {encoding.upper()}, by its byte order mark"]
            except UnicodeDecodeError:
                pass  # the mark was chance
    utf16 = _decode_utf16(data)
    if utf16 is not None:
        return utf16, [f"{where}: has no byte order mark; read as UTF-16, a guess"]
    try:
        return data.decode("utf-8-sig"), []
    except UnicodeDecodeError:
        lines = data.removeprefix(codecs.BOM_UTF8).split(b"\n")
        text = "\n".join(map(_decode_line, lines))
        return text, [f"{where}: is not UTF-8; read as Windows-1252, a guess"]


def _decode_line(line: bytes) -> str:
    """A line in UTF-8, as tables have beside others when several people wrote them; else Windows-1252."""
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError:  # the five bytes that Windows-1252 leaves open become control characters
        return "".join(bytes([byte]).decode("cp1252", "ignore") or chr(byte) for byte in line)


def _decode_utf16(data: bytes) -> str | None:
    """The text of UTF-16 without a mark: bytes with NULs that make sense in pairs; None for others."""
    if 0 not in data or len(data) % 2:
        return None
    # Of ASCII the half is NULs; other letters make bytes that are no UTF-8, or other control characters.
    if data.count(0) < _MANY_NULS * len(data) and not _CONTROLS.search(data):
        try:
            data.decode("utf-8")
            return None
        except UnicodeDecodeError:
            pass
    texts = []
    for encoding in ("utf-16-le", "utf-16-be"):
        try:
            texts.append(data.decode(encoding))
        except UnicodeDecodeError:
            continue
    # Most texts have some ASCII, if only blanks and line ends; the wrong order of bytes makes none of them.
    sensible = [text for text in texts if text.isascii() or all(c.isprintable() or c.isspace() for c in text)]
    best = max(sensible, key=lambda text: sum(c.isascii() for c in text), default="")
    return best if any(c.isascii() for c in best) and "\0" not in best else None


def text_of(data: bytes, where: str) -> tuple[str, list[str]]:
    """The text of a file's bytes and notes (`decode`). Raises ValueError for what is no text: it has NULs."""
    text, notes = decode(data, where)
    if "\0" in text:
        raise ValueError(f"{where}: is no text: it holds bytes of 0; save it as UTF-8")
    return text, notes


def read_text(path: Path) -> tuple[str, list[str]]:
    """A file's text and notes (`decode`). Raises ValueError naming one that cannot be read or is no text."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror}") from error
    return text_of(data, str(path))


def read_captions(path: Path) -> tuple[tuple[str, ...], list[str]]:
    """The captions of a file beside a clip (`caption_lines`), and notes.

    Raises ValueError naming it, as `read_text` too, and where it is too large for captions.
    """
    try:
        check_caption_size(path.stat().st_size, str(path))
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror}") from error
    text, notes = read_text(path)
    return caption_lines(text, str(path)), notes


def check_caption_size(size: int, where: str) -> None:
    """Raise ValueError for a file of more bytes than captions have."""
    if size > MAX_CAPTION_BYTES:
        raise ValueError(f"{where} has {size} bytes, too many for a caption")


def text_lines(text: str) -> list[str]:
    r"""The lines of a text. They end at \n, \r\n or \r only: other separators of Unicode stay in them."""
    lines = re.split(r"\r\n|\r|\n", text)
    return lines if lines[-1] else lines[:-1]


def caption_lines(text: str, where: str = "a caption") -> tuple[str, ...]:
    """The captions of a file's text: its lines that are not empty, without repetitions.

    Raises ValueError naming `where` for a text that is no list of captions: JSON, a web page, subtitles.
    """
    check_sentences(text, where)
    return _without_blanks(text_lines(text))


def check_sentences(text: str, where: str) -> None:
    """Raise ValueError naming `where` for the text of another format than of one sentence a line."""
    for kind, form in _NO_SENTENCES.items():
        if form.match(text):
            raise ValueError(f"{where}: holds {kind}; write sentences only, one a line")


def is_caption_file(file: Path) -> bool:
    """Whether a file's suffix is that of captions beside a clip."""
    return file.suffix.lower() == ".txt"


class CaptionFiles:
    """The caption files among `files`, by the clips beside them."""

    def __init__(self, files: Iterable[Path]) -> None:
        texts = sorted(filter(is_caption_file, files), key=lambda file: file.suffix == ".txt")
        self._by_name = {file.with_name(file.stem): file for file in texts}  # a.txt before a.TXT
        self._by_letters = {_composed(file): file for file in texts}

    def of(self, clip: Path) -> Path | None:
        """The file of the clip's name; else of the same letters with accents composed in another way."""
        return self._by_name.get(clip.with_name(clip.stem)) or self._by_letters.get(_composed(clip))


def _composed(file: Path) -> Path:
    return file.with_name(normalize("NFC", file.stem))


def as_captions(value: Any) -> tuple[str, ...]:
    """The captions of a table's cell or a JSON value: a text, or a list of texts; none for anything else."""
    texts = value if isinstance(value, list) else [value]
    are_texts = all(isinstance(text, str) and "\0" not in text for text in texts)
    return _without_blanks(texts) if are_texts else ()


def _without_blanks(texts: Iterable[str]) -> tuple[str, ...]:
    """The texts that are not empty, once each, with single blanks between words."""
    words = map(single_blanks, texts)
    # JSON may hold halves of surrogates, which no other text can.
    whole = (text.encode("utf-16", "surrogatepass").decode("utf-16", "replace") for text in words if text)
    return tuple(dict.fromkeys(whole))


def single_blanks(text: str) -> str:
    """A text with single blanks between its words.

    What shows nothing counts as blank: control characters, marks of an encoding, blanks of no width.
    """
    return " ".join(_NOTHING.sub(" ", text).split())


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
    if isinstance(value, bool) or "_" in str(value) or not 0 <= seconds < 1e9 or len(parts) > 3:
        raise ValueError(f"{value!r} is no time; expected seconds, or hours:minutes:seconds")
    return seconds
