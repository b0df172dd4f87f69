"""Text encoders of trainings: those of transformers, and a small one over a closed vocabulary.

`load_text_encoder` opens any that gives a state per token. `new_text_encoder` makes the small one: tokenizer
in CLIP's format, transformers' CLIPTextModel. Each known word is one token. Not for open text: a word
outside the list is spelled in pieces that no encoder was trained on. The same words always give the same
tokens, so that a resumed training goes on with them; that is why the merges are counted here (the trainer of
`tokenizers` breaks ties at random).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import torch
import transformers
from torch import Tensor
from torch.nn import functional
from transformers import AutoTokenizer, CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from latent_shift.checkpoints import check_weights
from latent_shift.documents import read_json_mapping
from latent_shift.io import one_line
from latent_shift.model_files import check_words, tokenizer_errors
from latent_shift.prompts import has_closed_vocabulary, unknown_words
from latent_shift.training.recipe import making_network

WORDS = "trained_words"  # an entry of the tokenizer's configuration, which stock tools keep
START, END, SUFFIX = "<|startoftext|>", "<|endoftext|>", "</w>"
_MAX_LENGTH = 512  # tokens; prompts are padded to the tokenizer's length, and each is attended to


def new_text_encoder(config: dict[str, Any], words: Iterable[str]) -> tuple[CLIPTokenizer, CLIPTextModel]:
    """Build a tokenizer of these words and an untrained encoder. config: arguments of `CLIPTextConfig`."""
    with making_network("text_encoder"):
        length = CLIPTextConfig(**config).max_position_embeddings
    tokenizer = make_tokenizer(words, length)
    with making_network("text_encoder"):
        complete = CLIPTextConfig(
            **config, vocab_size=len(tokenizer), bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
        )  # fmt: skip
        return tokenizer, CLIPTextModel(complete)


def load_text_encoder(folder: Path) -> tuple[Any, Any]:
    """Load the `tokenizer/` and `text_encoder/` of a folder, in float32: CLIP's, or any of transformers.

    Another model than CLIP's has to give a state per token, and its tokenizer a finite length.
    Raises ValueError for missing weights, and for a model or tokenizer that cannot be used so.
    """
    part = folder / "text_encoder"
    config = read_json_mapping(part / "config.json")
    kind = (config.get("architectures") or ["CLIPTextModel"])[0]
    check_weights(part, "transformers", kind)
    check_words(folder / "tokenizer", config if kind == "CLIPTextModel" else None)
    if kind == "CLIPTextModel":
        with tokenizer_errors(folder):
            tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
        return tokenizer, CLIPTextModel.from_pretrained(part, torch_dtype="float32")
    with tokenizer_errors(folder):
        tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
    encoder = getattr(transformers, kind).from_pretrained(part, torch_dtype="float32")
    check_state_per_token(tokenizer, encoder, part)
    return tokenizer, encoder


@torch.no_grad()
def check_state_per_token(tokenizer: Any, encoder: Any, part: Path) -> None:
    """Raise ValueError, naming the folder `part`, where an encoder does not give a state per token."""
    longest = getattr(encoder.config, "max_position_embeddings", None) or _MAX_LENGTH
    if tokenizer.pad_token is None or not 1 < tokenizer.model_max_length <= min(longest, _MAX_LENGTH):
        raise ValueError(
            f"{part.parent / 'tokenizer'}: pads to {tokenizer.model_max_length} tokens with"
            f" {tokenizer.pad_token}; set model_max_length in its tokenizer_config.json, 2 to"
            f" {min(longest, _MAX_LENGTH)}, and a pad_token"
        )
    tokens = tokenizer([""], padding="max_length", truncation=True, return_tensors="pt")
    try:
        states = getattr(encoder(tokens.input_ids), "last_hidden_state", None)
    except (ValueError, TypeError, RuntimeError, IndexError) as error:
        raise ValueError(f"{part}: cannot read a text: {one_line(error)}") from error
    if states is None or states.shape[:2] != tokens.input_ids.shape:
        raise ValueError(f"{part}: a {type(encoder).__name__} gives no state per token; take its encoder")


def embed_texts(tokenizer: CLIPTokenizer, encoder: CLIPTextModel, captions: list[str]) -> Tensor:
    """Unit vectors (B, D) of B captions: the encoder's state at each end token.

    The encoder is causal, so padding to the longest of the captions changes none of them.
    """
    ids = tokenizer(captions, padding=True, truncation=True, return_tensors="pt").input_ids
    return functional.normalize(encoder(ids.to(encoder.device)).pooler_output.float(), dim=-1)


def make_tokenizer(words: Iterable[str], length: int) -> CLIPTokenizer:
    """Build a `CLIPTokenizer` with one token for each lower-case word, and up to `length` tokens a text.

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


def trained_words(tokenizer: Any, otherwise: Sequence[str] = ()) -> tuple[str, ...]:
    """The words that a closed tokenizer's text encoder was trained on; none for an open one like CLIP's.

    otherwise: those of a tokenizer that does not list its own.
    """
    if not has_closed_vocabulary(tokenizer):
        return ()
    words = tokenizer.init_kwargs.get(WORDS, otherwise)
    unknown = set(unknown_words(tokenizer, " ".join(words)))
    return tuple(word for word in words if word not in unknown)


def _merges(words: list[str]) -> list[tuple[str, str]]:
    """Byte pair encoding (arXiv 1508.07909): merge the most frequent pair until all words are whole."""
    spelled = [[*word[:-1], word[-1] + SUFFIX] for word in words]
    merges = []
    while pairs := Counter(pair for pieces in spelled for pair in pairwise(pieces)):
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        spelled = [_merge_pair(pieces, best) for pieces in spelled]
    return merges


def _merge_pair(pieces: list[str], pair: tuple[str, str]) -> list[str]:
    """Merge each occurrence of a pair in the pieces of a word."""
    merged: list[str] = []
    for piece in pieces:
        if merged and (merged[-1], piece) == pair:
            merged[-1] += piece
        else:
            merged.append(piece)
    return merged
