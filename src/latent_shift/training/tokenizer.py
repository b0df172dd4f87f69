"""A small tokenizer in CLIP's format, made from a list of words: each known word becomes one token.

Not for open text: a word outside the list is spelled out in pieces that no text tower was trained on.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from string import ascii_lowercase

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTokenizer

START, END, SUFFIX = "<|startoftext|>", "<|endoftext|>", "</w>"


def make_tokenizer(words: Iterable[str], length: int) -> CLIPTokenizer:
    """A `CLIPTokenizer` of `length` tokens a text at most, that knows lower-case `words` whole."""
    bpe = Tokenizer(models.BPE(end_of_word_suffix=SUFFIX))
    bpe.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.BpeTrainer(
        vocab_size=1_000_000, min_frequency=1, initial_alphabet=list(ascii_lowercase),
        end_of_word_suffix=SUFFIX, show_progress=False,
    )  # fmt: skip
    bpe.train_from_iterator(sorted(words), trainer)
    merges = [tuple(pair) for pair in json.loads(bpe.to_str())["model"]["merges"]]
    letters = [letter + suffix for suffix in ("", SUFFIX) for letter in ascii_lowercase]
    pieces = dict.fromkeys([*letters, *(first + second for first, second in merges), START, END])
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=length)
