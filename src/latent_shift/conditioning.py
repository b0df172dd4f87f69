"""Conditioning of the denoiser: prompt embeddings, frame positions, SDXL's pooled embeddings and sizes.

Training and sampling use the same functions. One text encoder gives embeddings; the two of SDXL's layout give
theirs side by side, and a pooled one. Not the validation of prompts (`prompts.py`), and no loss.

Frame position embedding (ours, an option beside the paper's method): the temporal shift lets a frame know its
neighbours, and how near a clip's ends are only within its reach. Each frame then reads the text twice: with
sinusoids of its position added to it and scaling it, and rotated by its position. Where an object is follows
from the word *and* the position, and a product of both is what a network of few layers finds hard to learn.
A single frame gets none, so that images stay those of the image model.

Shapes: N captions, B clips, F frames, L tokens of width D, P the width of pooled embeddings.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.models.embeddings import get_timestep_embedding
from torch import Tensor

from latent_shift.io import warn

LOOP_POSITION = 0.4  # of all frames of a loop, on the way through a clip: that of frame 6 of 0 to 15
NUM_FREQS = 5  # turns of the fastest sinusoid over a clip: a star that turns once looks the same five times
MAX_PERIOD = 64.0  # of the slowest sinusoid, over the fastest's
_TEXT_PARTS = (("text_encoder", "tokenizer"), ("text_encoder_2", "tokenizer_2"))


@dataclass(frozen=True)
class PromptEmbeds:
    """Embeddings of N captions: states (N, L, D); pooled (N, P) in SDXL's layout, else None.

    filled: indices of captions that take the text encoder's whole length, and may be truncated; None where
    unknown.
    """

    states: Tensor
    pooled: Tensor | None = None
    filled: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Conditioning:
    """text (B*F, L, D); added: in SDXL's layout text_embeds (B*F, P) and time_ids (B*F, 6), else None."""

    text: Tensor
    added: dict[str, Tensor] | None = None


@torch.no_grad()
def encode_prompts(model: Any, captions: Sequence[str]) -> PromptEmbeds:
    """Embed captions, padded to the text encoders' full length, as the pipeline `model` does."""
    if getattr(model, "text_encoder_2", None) is not None:
        device = model.text_encoder_2.device
        states, _, pooled, _ = model.encode_prompt(
            list(captions), device=device, do_classifier_free_guidance=False
        )
        return PromptEmbeds(states, pooled)
    encoder, tokenizer = model.text_encoder, model.tokenizer
    tokens = tokenizer(list(captions), padding="max_length", truncation=True, return_tensors="pt")
    # As stock pipelines do: a mask where the configuration says so, which CLIP's does not.
    masked = getattr(encoder.config, "use_attention_mask", False)
    mask = tokens.attention_mask.to(encoder.device) if masked else None
    states = encoder(tokens.input_ids.to(encoder.device), attention_mask=mask).last_hidden_state
    return PromptEmbeds(states, filled=tuple(tokens.attention_mask.all(dim=1).nonzero().flatten().tolist()))


def encode_empty_prompt(model: Any) -> PromptEmbeds:
    """The unconditional embedding, which replaces dropped captions and which guidance moves away from.

    That of the empty caption; in SDXL's layout zeros, where the model's configuration says so.
    """
    empty = encode_prompts(model, [""])
    if empty.pooled is None or not model.config.force_zeros_for_empty_prompt:
        return empty
    return PromptEmbeds(torch.zeros_like(empty.states), torch.zeros_like(empty.pooled))


def caption_embeds(
    model: Any,
    batch: dict[str, Any],
    captions: Sequence[str],
    dropped: Sequence[bool],
    encode: Callable[[Sequence[str]], PromptEmbeds] | None = None,
) -> PromptEmbeds:
    """Embeddings of B captions by the pipeline `model`, unconditional where `dropped` (B flags).

    Args:
        model: the pipeline.
        batch: may hold precomputed embeddings, "text" (B, L, D) and in SDXL's layout "pooled" (B, P), which
            are taken then in place of those of `captions`.
        captions: of the batch.
        dropped: flags.
        encode: gives the embeddings of captions; None: `encode_prompts`.
    """
    if "text" in batch:
        pooled = batch["pooled"].float() if "pooled" in batch else None
        embeds = PromptEmbeds(batch["text"].float(), pooled)
    else:
        kept = ["" if drop else text for drop, text in zip(dropped, captions, strict=True)]
        embeds = encode_prompts(model, kept) if encode is None else encode(kept)
        if embeds.pooled is None:
            return embeds
    return _replace_dropped(model, embeds, dropped) if any(dropped) else embeds


def stack_embeds(*parts: PromptEmbeds) -> PromptEmbeds:
    """Embeddings of all captions one after the other; guidance takes those of negative prompts first.

    Raises ValueError for parts of other shapes.
    """
    pooled = [part.pooled for part in parts if part.pooled is not None]
    for rows in ([part.states for part in parts], pooled):
        if len(shapes := {tuple(one.shape[1:]) for one in rows}) > 1:
            raise ValueError(
                f"embeddings have the shapes {' and '.join(map(str, sorted(shapes)))}: those of prompts and"
                " of negative prompts must have as many tokens, and one width"
            )
    return PromptEmbeds(torch.cat([part.states for part in parts]), torch.cat(pooled) if pooled else None)


def repeat_per_frame(
    embeds: PromptEmbeds,
    num_frames: int,
    size: tuple[int, int],
    *,
    frame_positions: bool,
    loop: bool = False,
    size_ids: Sequence[Sequence[int]] | None = None,
) -> Conditioning:
    """Conditioning of each frame of B clips, in training and in sampling.

    Args:
        embeds: of the B captions; under guidance twice as many, those of negative prompts first.
        num_frames: frames of a clip.
        size: height and width in pixels; SDXL's size ids are those of an uncropped original of that size
            (arXiv 2307.01952, section 2.2).
        frame_positions: whether the position of each frame is embedded in its text.
        loop: whether the clips have no first frame.
        size_ids: other size ids, six for all, or six for each half of guidance.
    """
    text = embeds.states.repeat_interleave(num_frames, dim=0)
    if frame_positions:
        text = add_frame_positions(text, num_frames, loop=loop)
    if embeds.pooled is None:
        return Conditioning(text)
    pooled = embeds.pooled.repeat_interleave(num_frames, dim=0)
    ids = torch.tensor(size_ids or [[*size, 0, 0, *size]], device=text.device, dtype=text.dtype)
    ids = ids.repeat_interleave(len(pooled) // len(ids), dim=0)
    return Conditioning(text, {"text_embeds": pooled, "time_ids": ids})


def add_frame_positions(
    text: Tensor, num_frames: int, frames: Sequence[int] | None = None, *, loop: bool = False
) -> Tensor:
    """Embed frame positions in text (B*F, L, D), a clip's frames adjacent: (B*F, 2L, D).

    The first half is sinusoidal, the second rotary. The first frame of a clip is at 0, the last at 1,
    whatever lies between: a clip of fewer or more frames has the same positions in coarser or finer
    steps. Text of clips of one frame is returned unchanged, (B, L, D). frames: the numbers of those that the
    text is of, where it is not of all `num_frames` of each clip. loop: all frames are at one
    position, as a loop has no ends, and the number of a frame must not matter: one that clips of sixteen
    frames have, and of every third of them, since no model was trained halfway between two frames.
    """
    if num_frames == 1:
        return text
    positions = torch.linspace(0, 2 * math.pi, num_frames, device=text.device)
    if loop:
        positions = torch.full_like(positions, LOOP_POSITION * 2 * math.pi)
    if frames is not None:
        positions = positions[list(frames)]
    clips = text.unflatten(0, (-1, len(positions)))
    return torch.cat([sinusoidal(clips, positions), rotary(clips, positions)], dim=2).flatten(0, 1)


def sinusoidal(text: Tensor, positions: Tensor) -> Tensor:
    """(B, F, L, D): sinusoids of positions (F,), 5 turns to 5/64, added, and scaling it by half."""
    waves = get_timestep_embedding(positions * NUM_FREQS, text.shape[-1], max_period=MAX_PERIOD)  # (F, D)
    waves = waves[:, None].to(text.dtype)
    return text * (1 + waves / 2) + waves


def rotary(text: Tensor, positions: Tensor) -> Tensor:
    """(B, F, L, D): channels in pairs rotated by positions (F,), the pairs by 1, 2, ... 5, 1, 2 ... turns.

    As rotary embeddings rotate queries and keys (arXiv 2104.09864). Whole turns, as a clip is one turn or one
    circle; a channel without a partner stays.
    """
    half = text.shape[-1] // 2
    turns = 1 + torch.arange(half, device=text.device) % NUM_FREQS
    angles = positions[:, None, None] * turns  # (F, 1, D/2)
    cos, sin = angles.cos().to(text.dtype), angles.sin().to(text.dtype)
    one, other, rest = text.split([half, half, text.shape[-1] - 2 * half], dim=-1)
    return torch.cat([one * cos - other * sin, one * sin + other * cos, rest], dim=-1)


def warn_if_truncated(model: Any, captions: Sequence[str]) -> bool:
    """Warn (UserWarning) where captions exceed the text encoders' length. Returns whether some do."""
    tokenizers = (getattr(model, name, None) for _, name in _TEXT_PARTS)
    for tokenizer in (one for one in tokenizers if one is not None):
        limit = tokenizer.model_max_length
        encoded = tokenizer(list(captions), truncation=False, verbose=False).input_ids
        for caption, tokens in zip(captions, encoded, strict=True):
            if len(tokens) > limit:
                warn(
                    f"the text model reads {limit} tokens, and captions are longer, {caption!r} the first:"
                    " what lies beyond is cut off"
                )
                return True
    return False


def text_encoder_hash(model: Any) -> str:
    """A short hash of the text encoders' weights and of their tokenizers' vocabularies."""
    digest = hashlib.sha256()
    for encoder_name, tokenizer_name in _TEXT_PARTS:
        encoder = getattr(model, encoder_name, None)
        if encoder is None:
            continue
        for name, tensor in sorted(encoder.state_dict().items()):
            digest.update(name.encode() + tensor.detach().float().cpu().numpy().tobytes())
        vocabulary = sorted(getattr(model, tokenizer_name).get_vocab().items())
        digest.update(repr(vocabulary).encode())
    return digest.hexdigest()[:16]


def _replace_dropped(model: Any, embeds: PromptEmbeds, dropped: Sequence[bool]) -> PromptEmbeds:
    empty, mask = encode_empty_prompt(model), torch.tensor(dropped, device=embeds.states.device)
    states = torch.where(mask[:, None, None], empty.states, embeds.states)
    if embeds.pooled is None or empty.pooled is None:
        return PromptEmbeds(states)
    return PromptEmbeds(states, torch.where(mask[:, None], empty.pooled, embeds.pooled))
