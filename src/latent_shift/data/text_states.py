"""Captions as a model's text models read them: what the U-Net is told, computed as sampling computes it.

One text model gives states; the two of SDXL's layout give theirs side by side, and a pooled one. Not the
choice of a caption, and not the reading of its file (`text.py`).

Shapes: N captions, L tokens of width D, P the width of pooled states.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

_PAIRS = (("text_encoder", "tokenizer"), ("text_encoder_2", "tokenizer_2"))


@dataclass(frozen=True)
class TextStates:
    """What text models read in N captions: states (N, L, D); pooled (N, P) in SDXL's layout, else None.

    filled: which captions take the text model's whole length, and may be cut; None where that is not known.
    """

    states: Tensor
    pooled: Tensor | None = None
    filled: tuple[int, ...] | None = None


@torch.no_grad()
def encode_captions(model: Any, captions: Sequence[str]) -> TextStates:
    """The states of captions, padded to the text models' full length, as the pipeline `model` does."""
    if getattr(model, "text_encoder_2", None) is not None:
        device = model.text_encoder_2.device
        states, _, pooled, _ = model.encode_prompt(
            list(captions), device=device, do_classifier_free_guidance=False
        )
        return TextStates(states, pooled)
    tokens = model.tokenizer(list(captions), padding="max_length", truncation=True, return_tensors="pt")
    states = model.text_encoder(tokens.input_ids.to(model.text_encoder.device)).last_hidden_state
    return TextStates(states, filled=tuple(tokens.attention_mask.all(dim=1).nonzero().flatten().tolist()))


def encode_none(model: Any) -> TextStates:
    """What is told in place of one caption that is left out: what sampling guides away from.

    The states of the empty caption; in SDXL's layout zeros, where the model's folder says so.
    """
    empty = encode_captions(model, [""])
    if empty.pooled is None or not model.config.force_zeros_for_empty_prompt:
        return empty
    return TextStates(torch.zeros_like(empty.states), torch.zeros_like(empty.pooled))


def warn_of_cut(model: Any, captions: Sequence[str]) -> bool:
    """Warn (UserWarning) where captions are longer than the text models read. Returns whether some are."""
    given = (getattr(model, name, None) for _, name in _PAIRS)
    for tokenizer in (one for one in given if one is not None):
        limit = tokenizer.model_max_length
        encoded = tokenizer(list(captions), truncation=False, verbose=False).input_ids
        for caption, tokens in zip(captions, encoded, strict=True):
            if len(tokens) > limit:
                warnings.warn(
                    f"the text model reads {limit} tokens, and captions are longer, {caption!r} the first:"
                    " what lies beyond is cut off",
                    stacklevel=2,
                )
                return True
    return False


def text_fingerprint(model: Any) -> str:
    """A short hash of the text models' weights and of how their tokenizers split."""
    digest = hashlib.sha256()
    for encoder_name, tokenizer_name in _PAIRS:
        encoder = getattr(model, encoder_name, None)
        if encoder is None:
            continue
        for name, tensor in sorted(encoder.state_dict().items()):
            digest.update(name.encode() + tensor.detach().float().cpu().numpy().tobytes())
        vocabulary = sorted(getattr(model, tokenizer_name).get_vocab().items())
        digest.update(repr(vocabulary).encode())
    return digest.hexdigest()[:16]
