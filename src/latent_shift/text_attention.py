"""Attention to the text of a clip: its keys and values once a clip, and not once a frame and step.

All frames of a clip read the same text at every step. So its keys and values are computed for one row a clip,
and kept over the steps; the queries of all frames of a clip meet them as one long sequence. That is the same
sum for every query, in fewer and larger products. Text with frame positions differs from frame to frame:
there keys and values are only kept over the steps, and no bit of the result changes.

    use_clip_attention(unet)                       # once; stock processors only, of others nothing changes
    text = ClipText(embeddings, num_frames)        # (B*F, L, D), rows of a clip's frames the same
    with attending_to(text): unet(...)             # as often as wanted

Shapes: B clips (both halves of guidance count), F frames, N latent pixels, L tokens of width D, C channels.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention


class ClipText:
    """The text of a call, and what was computed of it.

    source: what the U-Net is called with, whole or in parts of whole clips, (B*F, L, D). repeats: adjacent
    rows of the source that are one and the same text, such as those of a clip's frames; 1: none are known to
    be.
    """

    def __init__(self, source: Tensor, repeats: int) -> None:
        self.source, self.repeats = source, repeats
        self._version = _version(source)
        # By layer and place in the source: the state of LoRA layers, and keys and values
        self._kept: dict[tuple[Any, ...], tuple[Any, tuple[Tensor, Tensor]]] = {}

    def may_be_written(self) -> bool:
        """Whether the source was written to, or may have been: in `torch.inference_mode` nobody counts."""
        return self.source.is_inference() or _version(self.source) != self._version

    def keys_and_values(self, attn: Attention, text: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values (rows, L, C) of text, (rows * repeats, L, D); kept where it lies in the source."""
        state = (_lora_state(attn.to_k), _lora_state(attn.to_v))
        place = (id(attn), text.storage_offset(), text.shape, text.stride())
        is_source = text.untyped_storage().data_ptr() == self.source.untyped_storage().data_ptr()
        before, kept = self._kept.get(place, (None, None))
        if kept is not None and is_source and _version(self.source) == self._version and before == state:
            return kept
        rows = text[:: self.repeats]
        found = attn.to_k(rows), attn.to_v(rows)
        if is_source:
            self._kept[place] = (state, found)
        return found


def _version(tensor: Tensor) -> int | None:
    """Number of writes to a tensor; None within `torch.inference_mode`, where they are not counted."""
    return None if tensor.is_inference() else tensor._version


def _lora_state(layer: Any) -> tuple[Any, ...]:
    """State of a projection's LoRA layers, active ones and their scales, which a callback may change."""
    scaling = getattr(layer, "scaling", {})
    active = tuple(getattr(layer, "active_adapters", ()))
    return id(layer), active, getattr(layer, "disable_adapters", False), tuple(sorted(scaling.items()))


_TEXT: ContextVar[ClipText | None] = ContextVar("text of clips", default=None)


@contextmanager
def attending_to(text: ClipText) -> Iterator[None]:
    """Within the `with` block, in this thread, keys and values of a text are computed once."""
    token = _TEXT.set(text)
    try:
        yield
    finally:
        _TEXT.reset(token)


class ClipAttention(AttnProcessor2_0):
    """diffusers' fused attention, which within `attending_to` attends to the text of a clip once."""

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        """The stock class: diffusers refuses to replace processors of classes that it does not list."""
        return AttnProcessor2_0

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> Tensor:
        """Attend as diffusers does; within `attending_to`, hidden_states are (B*F, N, C).

        attn, encoder_hidden_states, attention_mask, temb: as in diffusers.
        """
        text = None if torch.compiler.is_compiling() else _TEXT.get()  # which a compiler cannot look into
        if (
            text is None or encoder_hidden_states is None or not attn.is_cross_attention
            or attention_mask is not None or hidden_states.ndim != 3 or torch.is_grad_enabled()
            or len(encoder_hidden_states) != len(hidden_states) or len(hidden_states) % text.repeats
            or attn.norm_cross or attn.group_norm is not None or attn.spatial_norm is not None
            or attn.norm_q is not None or attn.norm_k is not None
        ):  # fmt: skip
            stock: Tensor = super().__call__(
                attn, hidden_states, encoder_hidden_states, attention_mask, temb, *args, **kwargs
            )
            return stock
        key, value = text.keys_and_values(attn, encoder_hidden_states)
        query = attn.to_q(hidden_states)
        rows, width = len(key), key.shape[-1] // attn.heads
        query, key, value = (
            each.view(rows, -1, attn.heads, width).transpose(1, 2) for each in (query, key, value)
        )
        out = scaled_dot_product_attention(query, key, value)
        out = out.transpose(1, 2).reshape(*hidden_states.shape[:2], attn.heads * width).to(query.dtype)
        out = attn.to_out[1](attn.to_out[0](out))
        if attn.residual_connection:
            out = out + hidden_states
        result: Tensor = out / attn.rescale_output_factor
        return result


def use_clip_attention(unet: Any) -> None:
    """Let a U-Net attend by `ClipAttention` where all its processors are stock; else it stays as it is."""
    if all(type(one) is AttnProcessor2_0 for one in unet.attn_processors.values()):
        unet.set_attn_processor(ClipAttention())
