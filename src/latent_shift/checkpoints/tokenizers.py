"""CLIP's tokenizer for models that come without one: from a folder, or from the vocabulary file of CLIP.

The vocabulary is not part of this package. Any Stable Diffusion folder has it (`tokenizer/`), and any package
of CLIP as `bpe_simple_vocab_16e6.txt.gz`.
"""

from __future__ import annotations

import gzip
import zlib
from itertools import islice
from pathlib import Path
from typing import Any

VOCABULARY_FILE = "bpe_simple_vocab_16e6.txt.gz"
_MERGES = 49152 - 256 - 2  # of the file's lines; CLIP uses these and no more
_START, _END = "<|startoftext|>", "<|endoftext|>"
_NAMES = ("tokenizer.json", "vocab.json")
MEND = (
    "name one with --tokenizer: the tokenizer/ of any Stable Diffusion folder, "
    f"or the {VOCABULARY_FILE} of any package of CLIP"
)


def check_tokenizer(place: Path | None, file: Path) -> None:
    """Raise ValueError where there is no tokenizer at a place, or none is named for a checkpoint `file`."""
    if place is None:
        raise ValueError(f"{file}: a single file has no tokenizer; {MEND}")
    if place.is_dir():
        _folder(place)
    elif not place.is_file():
        raise ValueError(f"{place}: there is no such tokenizer; {MEND}")
    else:
        read_merges(place)


def load_tokenizer(place: Path | None, *, padding: str, length: int) -> Any:
    """A `CLIPTokenizer` that pads with `padding` up to `length` tokens; errors as in `check_tokenizer`.

    As in the published folders, a text model that is padded with "!" reads one in a prompt as padding, too.
    """
    from transformers import CLIPTokenizer

    if place is None:
        raise ValueError(f"a single file has no tokenizer; {MEND}")
    if place.is_dir():
        return CLIPTokenizer.from_pretrained(
            _folder(place), pad_token=padding, model_max_length=length, local_files_only=True
        )
    merges = read_merges(place)
    letters = list(_byte_letters())
    pieces = [*letters, *(f"{letter}</w>" for letter in letters), *map("".join, merges), _START, _END]
    numbers = {piece: number for number, piece in enumerate(pieces)}
    return CLIPTokenizer(vocab=numbers, merges=merges, pad_token=padding, model_max_length=length)


def read_merges(file: Path) -> list[tuple[str, str]]:
    """The merges of CLIP's vocabulary file, in order. Raises ValueError for any other file."""
    try:
        with gzip.open(file, "rt", encoding="utf-8") as lines:
            merges = [tuple(line.split()) for line in islice(lines, 1, 1 + _MERGES)]
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise ValueError(f"{file}: is not CLIP's {VOCABULARY_FILE} ({error}); {MEND}") from error
    if len(merges) != _MERGES or any(len(merge) != 2 for merge in merges):
        raise ValueError(f"{file}: is not CLIP's {VOCABULARY_FILE}: expected {_MERGES} lines of two pieces")
    return [(first, second) for first, second in merges]


def _folder(place: Path) -> Path:
    """The folder itself, or the `tokenizer/` in it."""
    for folder in (place, place / "tokenizer"):
        if any((folder / name).is_file() for name in _NAMES):
            return folder
    raise ValueError(f"{place}: holds no tokenizer ({' or '.join(_NAMES)}); {MEND}")


def _byte_letters() -> dict[str, int]:
    """A printable letter for each byte, in the order of CLIP's vocabulary: the printable bytes come first."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [byte for byte in range(256) if byte not in printable]
    named = {chr(byte): byte for byte in printable}
    return named | {chr(256 + number): byte for number, byte in enumerate(rest)}
