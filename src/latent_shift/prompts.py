"""The prompts of a call: checked, and what the text model cannot take from them said aloud.

A denoiser follows the text model's reading of a prompt; a word it does not know, or text beyond its length,
leaves no trace in the clip. Pure functions of a tokenizer and the prompts; nothing here changes a prompt.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from typing import Any

from tokenizers.pre_tokenizers import ByteLevel
from torch import Tensor

Texts = str | Sequence[str] | None


def check_texts(
    prompt: Texts, negative: Texts, embeds: Tensor | None
) -> tuple[int, list[str] | None, list[str] | None]:
    """How many prompts there are, the prompts and the negative prompts; a single negative one holds for all.

    embeds: (prompts, L, D) where the text comes encoded; the prompts are None then.
    Raises ValueError for an empty prompt, none, both texts and embeds, or lists that differ in length.
    """
    if (prompt is None) == (embeds is None):
        raise ValueError("pass either prompt or prompt_embeds: a sentence that says what the clip shows")
    prompts = [prompt] if isinstance(prompt, str) else None if prompt is None else list(prompt)
    if prompts is not None and not prompts:
        raise ValueError("prompt is an empty list: pass at least one sentence")
    for place, text in enumerate(prompts or ()):
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"prompt {place + 1} is empty ({text!r}): say what the clip shows")
    count = len(embeds) if embeds is not None else len(prompts or ())
    negatives = (
        [negative] * count if isinstance(negative, str) else None if negative is None else list(negative)
    )
    if negatives is not None and len(negatives) != count:
        raise ValueError(f"{len(negatives)} negative prompts for {count} prompts: pass one, or one for each")
    return count, prompts, negatives


def warn_of_losses(tokenizer: Any, prompts: list[str]) -> None:
    """Warn (UserWarning) for every prompt of which the tokenizer cuts text or does not know a word."""
    for prompt in dict.fromkeys(prompts):
        cut = cut_text(tokenizer, prompt)
        if cut:
            length = tokenizer.model_max_length
            warnings.warn(
                f"the text model reads {length} tokens: {cut!r} is cut off {prompt!r}", stacklevel=4
            )
        unknown = ", ".join(map(repr, unknown_words(tokenizer, prompt)))
        if unknown:
            warnings.warn(f"the text model does not know {unknown} of {prompt!r}", stacklevel=4)


def cut_text(tokenizer: Any, prompt: str) -> str:
    """The end of the prompt that lies beyond the tokenizer's length; empty where everything fits."""
    encoded = tokenizer(prompt, truncation=False, verbose=False, return_offsets_mapping=tokenizer.is_fast)
    closing = 1 if encoded.input_ids[-1] == tokenizer.eos_token_id else 0
    lost = slice(tokenizer.model_max_length - closing, len(encoded.input_ids) - closing)
    if not encoded.input_ids[lost]:
        return ""
    if tokenizer.is_fast:
        return prompt[encoded.offset_mapping[lost][0][0] :].strip()
    return tokenizer.decode(encoded.input_ids[lost]).strip()


def unknown_words(tokenizer: Any, prompt: str) -> list[str]:
    """The words outside a closed vocabulary, each once, in order.

    A vocabulary that cannot spell every byte is closed: made of words, it knows those that are one token.
    Others fall apart into pieces that no model was trained on. CLIP's own vocabulary is open: it has no such.
    """
    vocabulary = tokenizer.get_vocab()
    if all(byte in vocabulary for byte in ByteLevel.alphabet()):
        return []
    words = dict.fromkeys(re.findall(r"[^\W\d_]+|\d|[^\w\s]+|_+", prompt))
    pieces = {word: tokenizer(word, add_special_tokens=False).input_ids for word in words}
    return [word for word, ids in pieces.items() if len(ids) != 1 or ids[0] in tokenizer.all_special_ids]
