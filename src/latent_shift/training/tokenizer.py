"""A small tokenizer in CLIP's format, made from a list of words: each known word becomes one token.

Not for open text: a word outside the list is spelled out in pieces that no text tower was trained on. The
same words always give the same tokens, so that a resumed training goes on with them; that is why the pieces
are counted here (the trainer of `tokenizers` breaks ties by chance).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from string import ascii_lowercase

from transformers import CLIPTokenizer

WORDS = "trained_words"  # an entry of the tokenizer's configuration, which stock tools carry along
START, END, SUFFIX = "<|startoftext|>", "<|endoftext|>", "</w>"


def make_tokenizer(words: Iterable[str], length: int) -> CLIPTokenizer:
    """A `CLIPTokenizer` of `length` tokens a text at most, that knows lower-case `words` whole.

    Raises ValueError for a word of other characters than a to z.
    """
    words = sorted(set(words))
    for word in words:
        if not word or set(word) - set(ascii_lowercase):
            raise ValueError(f"word {word!r} must be made of the letters a to z")
    merges = _merges(words)
    letters = [letter + suffix for suffix in ("", SUFFIX) for letter in ascii_lowercase]
    pieces = dict.fromkeys([*letters, *(first + second for first, second in merges), START, END])
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=length, **{WORDS: words})


def _merges(words: list[str]) -> list[tuple[str, str]]:
    """Byte pair encoding (arXiv 1508.07909): the most frequent pair is merged, until all words are whole."""
    spelled = [[*word[:-1], word[-1] + SUFFIX] for word in words]
    merges = []
    while pairs := Counter(pair for pieces in spelled for pair in pairwise(pieces)):
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        spelled = [_joined(pieces, best) for pieces in spelled]
    return merges


def _joined(pieces: list[str], pair: tuple[str, str]) -> list[str]:
    """The pieces of a word with every such pair made one."""
    joined: list[str] = []
    for piece in pieces:
        if joined and (joined[-1], piece) == pair:
            joined[-1] += piece
        else:
            joined.append(piece)
    return joined
