"""Validation of prompts, and warnings about text that the text encoder cannot read.

Text beyond the text encoder's length leaves no trace in a clip, and a word outside a closed vocabulary would
be spelled in pieces that no model was trained on: the first is truncated, the second left out, both with a
warning. A prompt of known words is never changed. Pure functions of a tokenizer and the prompts.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterable, Sequence
from itertools import islice, product
from typing import Any

from tokenizers.pre_tokenizers import ByteLevel
from torch import Tensor

from latent_shift.emoji_names import spell_emoji
from latent_shift.io import warn

Texts = str | Sequence[str] | None
_WORD_END = "</w>"  # of pieces in CLIP's format
_PARTS = re.compile(r"[^\W\d_]+|\d|[^\w\s]+|_+")  # words, single digits, punctuation


def validate_prompts(
    prompt: Texts, negative: Texts, embeds: Tensor | None
) -> tuple[int, list[str] | None, list[str] | None]:
    """Number of prompts, prompts and negative prompts; a single negative prompt counts for all.

    embeds: (prompts, L, D) in place of `prompt`; the returned prompts are None then.
    Raises ValueError for an empty prompt, none, both texts and embeds, or lists that differ in length.
    """
    for name, texts in (("prompt", prompt), ("negative_prompt", negative)):
        if texts is not None and not isinstance(texts, Iterable):
            raise ValueError(f"{name} is {texts!r}: expected a text, or a list of texts")
    if (prompt is None) == (embeds is None):
        raise ValueError("pass either prompt or prompt_embeds: a sentence that says what the clip shows")
    prompts = [prompt] if isinstance(prompt, str) else None if prompt is None else list(prompt)
    if prompts is not None and not prompts:
        raise ValueError("prompt is an empty list: pass at least one sentence")
    for number, text in enumerate(prompts or (), 1):
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"prompt {number} is empty ({text!r}): say what the clip shows")
    count = len(embeds) if embeds is not None else len(prompts or ())
    negatives = (
        [negative] * count if isinstance(negative, str) else None if negative is None else list(negative)
    )
    if negatives is not None and len(negatives) != count:
        raise ValueError(f"{len(negatives)} negative prompts for {count} prompts: pass one, or one for each")
    for number, text in enumerate(negatives or (), 1):
        if not isinstance(text, str):
            raise ValueError(f"negative prompt {number} is {text!r}: expected a text, which may be empty")
    return count, prompts, negatives


def preprocess_prompts(
    tokenizer: Any,
    vocabulary: Collection[str],
    prompts: list[str] | None,
    negatives: list[str] | None,
    fps: float | None = None,
) -> tuple[list[str] | None, list[str] | None]:
    """Texts for the text encoder; warns (UserWarning) about truncated and unknown words.

    tokenizer: of the text encoder; tokens that were added to it (textual inversion) are known words; None
    where there is no text. vocabulary: closed vocabulary in lower case; empty where it is open.
    prompts, negatives: one text per prompt; None where there are none. fps: frames per second, appended to
    the prompts; None for models that were not tuned so. Returns prompts and negative prompts without unknown
    words, and with the names of emoji that an open vocabulary lacks. Raises ValueError for a prompt without a
    known word; a negative prompt may lose all of its words.
    """
    if tokenizer is not None and not vocabulary:
        prompts = prompts and [_spell_unknown_emoji(tokenizer, prompt) for prompt in prompts]
        negatives = negatives and [_spell_unknown_emoji(tokenizer, negative) for negative in negatives]
    if fps is not None:
        prompts = prompts and [append_fps(prompt, fps) for prompt in prompts]
    if tokenizer is None and (prompts or negatives):
        raise ValueError("this pipeline has no text encoder: pass prompt_embeds in place of texts")
    if vocabulary:
        added = added_tokens(tokenizer)
        check_known(prompts or (), vocabulary, added)
        prompts = prompts and [_drop_unknown(prompt, vocabulary, added) for prompt in prompts]
        negatives = negatives and [_drop_unknown(negative, vocabulary, added) for negative in negatives]
    for text in dict.fromkeys([*(prompts or ()), *(negatives or ())]):
        if cut := truncated_text(tokenizer, text):
            warn(f"the text model reads {tokenizer.model_max_length} tokens: {cut!r} is cut off {text!r}")
        if unknown := unknown_words(tokenizer, text):
            warn(f"the text model does not know {', '.join(map(repr, unknown))} of {text!r}")
    return prompts, negatives


def append_fps(text: str, fps: float) -> str:
    """A caption or prompt with its frame rate appended, for models that were tuned so."""
    return f"{text}, {fps:g} frames a second"


def keep_known_words(
    prompt: str, vocabulary: Collection[str], added: Collection[str] = ()
) -> tuple[str, list[str]]:
    """A prompt without words outside a closed vocabulary (lower case), and those words in order, once each.

    Punctuation falls away unnamed; emoji and such symbols are named as words are. A prompt of known words is
    returned unchanged, letter by letter. added: tokens that are known besides, of any characters.
    """
    parts = _split(prompt, added)
    known = [part for part in parts if part in added or part.lower() in vocabulary]
    if len(known) == len(parts):
        return prompt, []
    unknown = [
        part
        for part in parts
        if part.lower() not in vocabulary and part not in added and (part[0].isalnum() or _is_symbol(part))
    ]
    return " ".join(known), list(dict.fromkeys(unknown))


def _is_symbol(part: str) -> bool:
    return any(not one.isascii() and unicodedata.category(one)[0] == "S" for one in part) or "\ufe0f" in part


def check_known(prompts: Iterable[str], vocabulary: Collection[str], added: Collection[str] = ()) -> None:
    """Raise ValueError for a prompt without any word of a closed vocabulary; an empty one is open."""
    for prompt in prompts:
        if vocabulary and not keep_known_words(prompt, vocabulary, added)[0]:
            raise ValueError(
                f"the model knows no word of {prompt!r}: its vocabulary is closed, and has {len(vocabulary)}"
                " words (closed_vocabulary in its latent_shift.json)"
            )


def untrained_parts(prompt: str, words: Collection[str]) -> list[str]:
    """Parts of a prompt, quoted, that no caption of the model's clips had in training; [] for none.

    words: entries of `VideoConfig.untrained_words`.
    """
    parts = _PARTS.findall(prompt.lower())
    found = dict.fromkeys(part for part in parts if part in words)
    named = [repr(word) for word in found]
    for entry in (word for word in words if "+" in word or "|" in word or " " in word):
        groups = [[tuple(text.split()) for text in group.split("|")] for group in entry.split("+")]
        phrases = _find_apart(parts, groups)
        if phrases:
            named.append(" and ".join(map(repr, phrases)) + (" together" if len(phrases) > 1 else ""))
    return list(dict.fromkeys(named))


def warn_of_untrained(prompt: str, words: Collection[str]) -> None:
    """Warn (UserWarning) about `untrained_parts` of a prompt."""
    if named := untrained_parts(prompt, words):
        warn(
            f"the model was trained on no clip with {', '.join(named)} in its caption;"
            f" it may not show all of {prompt!r}"
        )


def _find_apart(parts: list[str], groups: list[list[tuple[str, ...]]]) -> list[str]:
    """One phrase of each group in a prompt's parts, each at a place of its own; [] where there are none."""
    found: list[list[tuple[int, str]]] = []
    for group in groups:
        heads = {phrase[0] for phrase in group if phrase}
        starts = (place for place, part in enumerate(parts) if part in heads)
        matches = (
            (place, " ".join(phrase))
            for place in starts
            for phrase in group
            if phrase and tuple(parts[place : place + len(phrase)]) == phrase
        )
        found.append(list(islice(matches, len(groups))))  # more make no difference
    chosen = (one for one in product(*found) if len({place for place, _ in one}) == len(groups))
    return [phrase for _, phrase in next(chosen, ())]


def _drop_unknown(prompt: str, vocabulary: Collection[str], added: Collection[str]) -> str:
    kept, unknown = keep_known_words(prompt, vocabulary, added)
    if unknown:
        warn(f"the model does not know {', '.join(map(repr, unknown))} of {prompt!r}: ignored")
    return kept


def truncated_text(tokenizer: Any, prompt: str) -> str:
    """The end of a prompt beyond the tokenizer's length; empty where everything fits."""
    encoded = tokenizer(prompt, truncation=False, verbose=False, return_offsets_mapping=tokenizer.is_fast)
    closing = 1 if encoded.input_ids[-1] in (tokenizer.eos_token_id, tokenizer.sep_token_id) else 0
    lost = slice(tokenizer.model_max_length - closing, len(encoded.input_ids) - closing)
    if not encoded.input_ids[lost]:
        return ""
    if tokenizer.is_fast:
        return prompt[encoded.offset_mapping[lost][0][0] :].strip()
    return tokenizer.decode(encoded.input_ids[lost]).strip()


def unknown_words(tokenizer: Any, prompt: str) -> list[str]:
    """Words that a tokenizer does not know, in order, once each.

    A closed vocabulary knows the words that are one token; others fall apart into pieces nothing was trained
    on. An open one can spell words in pieces, but may lack characters.
    """
    added = added_tokens(tokenizer)
    words = dict.fromkeys(part for part in _split(prompt, added) if part not in added)
    if not has_closed_vocabulary(tokenizer):
        return [word for word in words if _is_unknown(tokenizer, word)]
    pieces = {word: tokenizer(word, add_special_tokens=False).input_ids for word in words}
    return [word for word, ids in pieces.items() if len(ids) != 1 or ids[0] in tokenizer.all_special_ids]


def _is_unknown(tokenizer: Any, text: str) -> bool:
    """Whether a text has characters that an open vocabulary lacks."""
    ids = tokenizer(text, add_special_tokens=False).input_ids
    return tokenizer.unk_token_id is not None and tokenizer.unk_token_id in ids


def _spell_unknown_emoji(tokenizer: Any, text: str) -> str:
    if text.isascii():
        return text
    return spell_emoji(text, lambda symbol: not _is_unknown(tokenizer, symbol))


def added_tokens(tokenizer: Any) -> set[str]:
    """Tokens that were added to a tokenizer, as textual inversion does; none of its special ones."""
    return set(tokenizer.get_added_vocab()) - set(tokenizer.all_special_tokens) if tokenizer else set()


def _split(prompt: str, added: Collection[str]) -> list[str]:
    """Words, digits and punctuation of a prompt; added tokens are one part each, the longest first."""
    whole = [re.escape(token) for token in sorted(added, key=len, reverse=True)]
    return re.findall("|".join([*whole, _PARTS.pattern]), prompt)


def has_closed_vocabulary(tokenizer: Any) -> bool:
    """Whether a tokenizer knows words only: one in CLIP's format that cannot spell every byte.

    Those of other text models (WordPiece, SentencePiece) fall back to pieces that were trained on.
    """
    vocabulary = tokenizer.get_vocab()
    in_clip_format = any(piece.endswith(_WORD_END) for piece in vocabulary)
    return in_clip_format and not all(byte in vocabulary for byte in ByteLevel.alphabet())
