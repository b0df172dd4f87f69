"""The prompts of a call: checked, and what the text model cannot take from them said aloud.

A denoiser follows the text model's reading of a prompt; text beyond its length leaves no trace in the clip.
Nor should a word outside a closed vocabulary: it would be spelled in pieces that no model was trained on, and
is left out. A prompt of known words alone is never changed. Pure functions of a tokenizer and the prompts.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from tokenizers.pre_tokenizers import ByteLevel
from torch import Tensor

Texts = str | Sequence[str] | None
_PARTS = re.compile(r"[^\W\d_]+|\d|[^\w\s]+|_+")  # words, single digits, punctuation


def validate_prompts(
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


def preprocess_prompts(
    tokenizer: Any,
    words: Collection[str],
    prompts: list[str] | None,
    negatives: list[str] | None,
    fps: float | None = None,
) -> tuple[list[str] | None, list[str] | None]:
    """The texts as the text model is to read them; what it cannot read is warned about (UserWarning).

    words: a closed vocabulary in lower case; empty where it is open. fps: said by the prompts as well.
    Raises ValueError for a prompt without a known word; a negative prompt may lose all of its words.
    """
    if fps is not None:
        prompts = prompts and [append_fps(prompt, fps) for prompt in prompts]
    if words:
        check_known(prompts or (), words)
        prompts = prompts and [_known_part(prompt, words) for prompt in prompts]
        negatives = negatives and [_known_part(negative, words) for negative in negatives]
    _warn_of_losses(tokenizer, [*(prompts or ()), *(negatives or ())])
    return prompts, negatives


def append_fps(text: str, fps: float) -> str:
    """A caption or prompt that says the frame rate as well, for models that were tuned so."""
    return f"{text}, {fps:g} frames a second"


def keep_known_words(prompt: str, words: Collection[str]) -> tuple[str, list[str]]:
    """A prompt without what a closed vocabulary lacks, and the words it lacked, each once, in order.

    words: the vocabulary, in lower case. Punctuation falls away unnamed. A prompt of known words alone comes
    back as it is, letter by letter.
    """
    parts = _PARTS.findall(prompt)
    known = [part for part in parts if part.lower() in words]
    if len(known) == len(parts):
        return prompt, []
    unknown = [part for part in parts if part[0].isalnum() and part.lower() not in words]
    return " ".join(known), list(dict.fromkeys(unknown))


def check_known(prompts: Iterable[str], words: Collection[str]) -> None:
    """Raise ValueError for a prompt without a word of a closed vocabulary; an empty one is open."""
    for prompt in prompts:
        if words and not keep_known_words(prompt, words)[0]:
            raise ValueError(
                f"the model knows no word of {prompt!r}: its vocabulary is closed, and has {len(words)} words"
                " (closed_vocabulary in its latent_shift.json)"
            )


def _known_part(prompt: str, words: Collection[str]) -> str:
    kept, unknown = keep_known_words(prompt, words)
    if unknown:
        named = ", ".join(map(repr, unknown))
        warnings.warn(f"the model does not know {named} of {prompt!r}: ignored", stacklevel=6)
    return kept


def _warn_of_losses(tokenizer: Any, prompts: list[str]) -> None:
    """Warn (UserWarning) for every prompt of which the tokenizer cuts text or does not know a word."""
    for prompt in dict.fromkeys(prompts):
        cut = truncated_text(tokenizer, prompt)
        if cut:
            length = tokenizer.model_max_length
            warnings.warn(
                f"the text model reads {length} tokens: {cut!r} is cut off {prompt!r}", stacklevel=5
            )
        unknown = ", ".join(map(repr, unknown_words(tokenizer, prompt)))
        if unknown:
            warnings.warn(f"the text model does not know {unknown} of {prompt!r}", stacklevel=5)


def truncated_text(tokenizer: Any, prompt: str) -> str:
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
    """The words outside a closed vocabulary, each once, in order; none where the vocabulary is open.

    A closed one knows the words that are one token; others fall apart into pieces nothing was trained on.
    """
    if not has_closed_vocabulary(tokenizer):
        return []
    words = dict.fromkeys(_PARTS.findall(prompt))
    pieces = {word: tokenizer(word, add_special_tokens=False).input_ids for word in words}
    return [word for word, ids in pieces.items() if len(ids) != 1 or ids[0] in tokenizer.all_special_ids]


def has_closed_vocabulary(tokenizer: Any) -> bool:
    """Whether the tokenizer was made of words: it cannot spell every byte, as CLIP's own can."""
    vocabulary = tokenizer.get_vocab()
    return not all(byte in vocabulary for byte in ByteLevel.alphabet())
