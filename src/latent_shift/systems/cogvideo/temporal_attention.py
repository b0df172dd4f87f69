"""The second channel of attention, over all frames, beside the frozen one of the image transformer.

In every layer, on the normed input x, with a learned gate a per channel (arXiv 2205.15868, section 3.2):

    frame tokens:  sigmoid(a) * base(x) + (1 - sigmoid(a)) * plus(x)
    text:          base(x)

base is the image transformer's attention, frozen: a frame token sees the text and its own frame up to itself.
plus is a trained copy, which sees the text and all frames up to itself. Images are made by base only, so that
this ability stays, bit for bit. Stage 1 writes frames in order. In stage 2 some frames are known: they see
the text and the known frames in both directions, and every unknown token sees all of them.

A sequence is a prefix (frame rate, text) and frames, each a start token and its tokens in rows.

Shapes: B clips, F frames, S positions of a sequence, P of them in the prefix, Q as queries, K as keys; d
width of the transformer, H heads.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional
from transformers import Glm4ForCausalLM
from transformers.models.glm4.modeling_glm4 import Glm4Attention, apply_rotary_pos_emb

from latent_shift.training.recipe import Count, Strict

_PREFIX = -1  # frame number of the prefix
RATE_TOLERANCE = 0.01  # relative


@dataclass(frozen=True)
class Layout:
    """Positions of sequences, all of one order of frames.

    prefix: positions of the prefix; length: of a frame. order: place in the sequence (S,). frame: number of
    the frame (S,), -1 in the prefix. place: within the prefix or the frame (S,). known: whether its frame is
    known (S,). visible: false for padding (B, S).
    """

    prefix: int
    length: int
    order: Tensor
    frame: Tensor
    place: Tensor
    known: Tensor
    visible: Tensor

    @classmethod
    def of(cls, visible: Tensor, frames: Sequence[int], length: int, known: Sequence[int] = ()) -> Layout:
        """Sequences of a prefix and frames.

        Args:
            visible: false for padding of the prefix, (B, P).
            frames: numbers of the frames, in the order in which they follow.
            length: positions of a frame.
            known: numbers of known frames.
        """
        device, prefix = visible.device, visible.shape[1]
        numbers = torch.tensor(list(frames), dtype=torch.long, device=device).repeat_interleave(length)
        places = torch.arange(length, device=device).repeat(len(frames))
        frame = torch.cat([torch.full((prefix,), _PREFIX, device=device), numbers])
        return cls(
            prefix, length, torch.arange(len(frame), device=device), frame,
            torch.cat([torch.arange(prefix, device=device), places]),
            torch.isin(frame, torch.tensor(list(known), dtype=torch.long, device=device)),
            torch.cat([visible, visible.new_ones(len(visible), len(numbers))], dim=1),
        )  # fmt: skip

    def take(self, positions: slice | Tensor) -> Layout:
        """Some positions of the sequences."""
        parts = {name: getattr(self, name)[positions] for name in ("order", "frame", "place", "known")}
        return replace(self, **parts, visible=self.visible[:, positions])

    @property
    def base_positions(self) -> Tensor:
        """Rotary positions of base (S,): every frame follows the prefix."""
        return torch.where(self.frame == _PREFIX, self.place, self.prefix + self.place)

    @property
    def plus_positions(self) -> Tensor:
        """Rotary positions of plus (S,): frame after frame, wherever they stand in the sequence."""
        return torch.where(
            self.frame == _PREFIX, self.place, self.prefix + self.length * self.frame + self.place
        )

    @property
    def is_frame(self) -> Tensor:
        """Whether a position belongs to a frame, (S,)."""
        return self.frame != _PREFIX


def base_mask(query: Layout, key: Layout) -> Tensor:
    """Keys that base sees: bool (B, 1, Q, K), the prefix and the query's own frame up to itself.

    A query of a known frame sees all of its frame; one of the prefix sees the prefix.
    """
    own = key.is_frame & (query.frame[:, None] == key.frame)
    seen = ~key.is_frame | own & (_is_earlier(query, key) | query.known[:, None])
    return (seen & key.visible[:, None])[:, None]


def plus_mask(query: Layout, key: Layout, squares: Squares | None = None) -> Tensor:
    """Keys that plus sees: bool (B, 1, Q, K), the prefix and frames.

    A query of a known frame sees the known frames; one of an unknown frame those, and unknown frames up to
    itself. squares: restrict frames to the query's square.
    """
    in_frames = key.known | ~query.known[:, None] & _is_earlier(query, key)
    if squares is not None:
        in_frames = in_frames & (squares.of(query.place)[:, None] == squares.of(key.place))
    seen = ~key.is_frame | query.is_frame[:, None] & key.is_frame & in_frames
    return (seen & key.visible[:, None])[:, None]


def frame_mask(layout: Layout) -> Tensor:
    """`base_mask` of each frame of whole sequences, bool (B*F, 1, Q/F, P + Q/F): keys in prefix and frame."""
    prefix, length = layout.prefix, layout.length
    everywhere = torch.arange(len(layout.order), device=layout.order.device)
    masks = [
        base_mask(layout.take(own), layout.take(torch.cat([everywhere[:prefix], own])))
        for own in everywhere[prefix:].split(length)
    ]
    return torch.stack(masks, dim=1).flatten(0, 1)


def _is_earlier(query: Layout, key: Layout) -> Tensor:
    return key.order <= query.order[:, None]


@dataclass(frozen=True)
class Squares:
    """Squares of a frame for windowed attention (section 3.3).

    columns: tokens in a row of a frame. side: of a square, in tokens. shift: added to rows and columns, so
    that the squares of every other layer reach over the edges of the ones before; those at an edge of the
    frame are smaller.
    """

    columns: int
    side: int
    shift: int = 0

    def of(self, place: Tensor) -> Tensor:
        """A number of the square of each place in a frame; the start token counts to the first token."""
        token = (place - 1).clamp(min=0)
        row, column = token // self.columns + self.shift, token % self.columns + self.shift
        return row // self.side * (self.columns + self.shift) + column // self.side


class ChannelConfig(Strict):
    """The second channel of one stage."""

    num_frames: Count = Field(description="frames of a clip at most; of a window, in stage 2")
    frame_rates: tuple[float, ...] = Field(min_length=1, description="frames a second that it has learned")
    known: tuple[int, ...] = Field((), description="frames of a window that are known; none: frames in order")
    attention_window: Count | None = Field(
        None, description="side of the squares that plus sees, in tokens; None: whole frames"
    )
    first_frame: bool = Field(True, description="whether it makes the first frame; else the image model does")

    @model_validator(mode="after")
    def _evenly_spaced(self) -> ChannelConfig:
        if not self.known:
            return self
        step = self.spacing
        spaced = self.known == tuple(range(0, self.num_frames, step))
        if not spaced or step < 2 or self.known[-1] != self.num_frames - 1:
            raise ValueError(
                f"known {list(self.known)}: expected evenly spaced frames from 0 to the last of"
                f" {self.num_frames}, with others between, as [0, 3] of 4"
            )
        if not self.first_frame:
            raise ValueError("first_frame: a window of known frames begins with one; leave first_frame out")
        return self

    @property
    def spacing(self) -> int:
        """Frames from one known frame to the next."""
        return max(self.known[1] - self.known[0], 1) if len(self.known) > 1 else 1

    @property
    def unknown(self) -> tuple[int, ...]:
        """Frames to be made."""
        return tuple(frame for frame in range(self.num_frames) if frame not in self.known)

    def rate_index(self, fps: float) -> int:
        """The row of a frame rate. Raises ValueError for one that was not learned."""
        for index, rate in enumerate(self.frame_rates):
            if abs(rate - fps) <= RATE_TOLERANCE * rate:
                return index
        known = ", ".join(f"{rate:.4g}" for rate in self.frame_rates)
        raise ValueError(f"fps {fps:g}: this model has learned {known}")


class PlusAttention(nn.Module):
    """plus and the gate of one layer."""

    def __init__(self, base: Glm4Attention, layers: int) -> None:
        super().__init__()
        self.attention = deepcopy(base)
        self.attention.layer_idx = layers + base.layer_idx  # a cache of its own beside base's
        self.attention.requires_grad_(True)
        self.gate = nn.Parameter(base.o_proj.weight.new_zeros(base.o_proj.out_features))


class TemporalChannel(nn.Module):
    """The trained part of a stage: plus and gates, embeddings of frame numbers and of frame rates.

    Starts as a copy of the image transformer's attention, with the stills' frame rate for every rate, so that
    a single frame is the image transformer's.
    """

    def __init__(self, base: Glm4ForCausalLM, stills_rate: Tensor, config: ChannelConfig) -> None:
        """base: the image transformer, unchanged. stills_rate: embedding (d,) of the stills' frame rate."""
        super().__init__()
        self.config = config
        blocks = [layer.self_attn for layer in base.model.layers]
        self.layers = nn.ModuleList([PlusAttention(block, len(blocks)) for block in blocks])
        rates = stills_rate.detach().expand(len(config.frame_rates), -1).clone()
        self.rates = nn.Embedding.from_pretrained(rates, freeze=False)
        self.frames = nn.Embedding.from_pretrained(
            rates.new_zeros(config.num_frames, rates.shape[1]), freeze=False
        )

    def squares(self, grid: tuple[int, int]) -> tuple[Squares | None, ...]:
        """Squares of even and odd layers, of frames of these rows and columns; one None without windows."""
        side = self.config.attention_window
        if side is None or side >= max(grid):
            return (None,)
        return Squares(grid[1], side), Squares(grid[1], side, side // 2)


@dataclass(frozen=True)
class TemporalPass:
    """The second channel in one forward pass, as `DualChannelAttention` takes it.

    prefix: positions of the prefix among the queries; they come first. rotary: cos and sin of plus's
    positions. masks: plus's in even and odd layers, (B, 1, Q - prefix, K). frame_mask: as of
    `frame_mask`, where base sees frames one by one, else None.
    """

    channel: TemporalChannel
    prefix: int
    rotary: tuple[Tensor, Tensor]
    masks: tuple[Tensor, ...]
    frame_mask: Tensor | None = None

    @classmethod
    def of(
        cls,
        channel: TemporalChannel,
        grid: tuple[int, int],
        rotary: tuple[Tensor, Tensor],
        query: Layout,
        key: Layout | None,
        inputs: Tensor,
    ) -> TemporalPass:
        """Prepare a forward pass.

        Args:
            channel: of the stage.
            grid: rows and columns of a frame's tokens.
            rotary: cos and sin of plus's positions.
            query: positions of the queries.
            key: all positions with the cached ones; None: whole sequences, without a cache.
            inputs: of the transformer, (B, Q, d).
        """
        prefix = int((~query.is_frame).sum())
        in_frames = query.take(slice(prefix, None))
        masks = [plus_mask(in_frames, key or query, squares) for squares in channel.squares(grid)]
        by_frame = None if key is not None else additive(frame_mask(query), inputs)
        return cls(channel, prefix, rotary, tuple(additive(mask, inputs) for mask in masks), by_frame)

    def mixed(self, layer: int, hidden: Tensor, base: Tensor, cache: Any) -> Tensor:
        """Base's output (B, Q, d), mixed with plus's in frames.

        Args:
            layer: number of the layer.
            hidden: its normed input, (B, Q, d).
            base: base's output, (B, Q, d).
            cache: of keys and values, or None.
        """
        plus: PlusAttention = self.channel.layers[layer]  # type: ignore[assignment]
        query, key, value = projections(plus.attention, hidden, self.rotary)
        if cache is not None:
            key, value = cache.update(key, value, plus.attention.layer_idx)
        if query.shape[2] == self.prefix:
            return base
        attended = attend(query[:, :, self.prefix :], key, value, self.masks[layer % len(self.masks)])
        out, gate = output(plus.attention, attended), plus.gate.sigmoid()
        in_text, in_frames = base[:, : self.prefix], base[:, self.prefix :]
        return torch.cat([in_text, gate * in_frames + (1 - gate) * out], dim=1)

    def by_frame(self, query: Tensor, key: Tensor, value: Tensor, text_mask: Tensor) -> Tensor:
        """Base's attention frame by frame, (B, H, Q, d / H): the same as on whole sequences, with less work.

        query, key, value: (B, H, Q, d / H), without a cache. text_mask: of the prefix, (B, 1, P, P).
        """
        assert self.frame_mask is not None  # else base sees its sequence as a whole
        prefix, length = self.prefix, self.frame_mask.shape[2]
        text, *before = (part[:, :, :prefix] for part in (query, key, value))
        frames = [
            part[:, :, prefix:].unflatten(2, (-1, length)).transpose(1, 2).flatten(0, 1)
            for part in (query, key, value)
        ]  # (B*F, H, length, d / H)
        count = len(frames[0]) // len(query)
        repeated = [part.repeat_interleave(count, dim=0) for part in before]
        keys, values = (torch.cat(pair, dim=2) for pair in zip(repeated, frames[1:], strict=True))
        in_frames = attend(frames[0], keys, values, self.frame_mask)
        in_frames = in_frames.unflatten(0, (-1, count)).transpose(1, 2).flatten(2, 3)
        return torch.cat([attend(text, before[0], before[1], text_mask), in_frames], dim=2)


class DualChannelAttention(Glm4Attention):
    """The attention of a layer, mixed with a second channel where a pass has one."""

    def forward(  # type: ignore[override]
        self,
        hidden_states: Tensor,
        position_embeddings: tuple[Tensor, Tensor],
        attention_mask: Tensor,
        past_key_values: Any = None,
        temporal: TemporalPass | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, None]:
        """See `Glm4Attention.forward`.

        Args:
            hidden_states: normed input (B, Q, d).
            position_embeddings: cos and sin of base's positions.
            attention_mask: base's, (B, 1, Q, K); of the prefix only where `temporal` has one for frames.
            past_key_values: cache of keys and values, or None.
            temporal: the second channel; without it the output is base's.
            kwargs: more that the layer hands on, not used.
        """
        query, key, value = projections(self, hidden_states, position_embeddings)
        if past_key_values is not None:
            key, value = past_key_values.update(key, value, self.layer_idx)
        if temporal is None or temporal.frame_mask is None:
            attended = attend(query, key, value, attention_mask)
        else:
            attended = temporal.by_frame(query, key, value, attention_mask)
        base = output(self, attended)
        if temporal is None:
            return base, None
        return temporal.mixed(self.layer_idx, hidden_states, base, past_key_values), None


def add_second_channel(transformer: Glm4ForCausalLM) -> None:
    """Let the layers of a transformer take a second channel; its weights and their names stay."""
    for layer in transformer.model.layers:
        layer.self_attn.__class__ = DualChannelAttention


def projections(
    attention: Glm4Attention, hidden: Tensor, rotary: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values (B, H, Q, d / H) of hidden (B, Q, d), turned by cos and sin of positions."""
    query, key, value = (
        project(hidden).unflatten(-1, (-1, attention.head_dim)).transpose(1, 2)
        for project in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    return *apply_rotary_pos_emb(query, key, *rotary), value


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
    """Attention (B, H, Q, d / H) of query, key, value. mask: added to scores, in the dtype to compute in."""
    if mask.device.type != "cpu" or mask.dtype != torch.bfloat16:
        return functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    # On a CPU and in bfloat16 the plain form is twice as fast as the fused one.
    with torch.autocast("cpu", enabled=False):
        query, key, value = (part.to(mask.dtype) for part in (query * query.shape[-1] ** -0.5, key, value))
        return (query @ key.transpose(2, 3) + mask).softmax(dim=-1) @ value


def output(attention: Glm4Attention, attended: Tensor) -> Tensor:
    """The last projection, (B, Q, d), of attended values (B, H, Q, d / H)."""
    out: Tensor = attention.o_proj(attended.transpose(1, 2).flatten(2))
    return out


def additive(mask: Tensor, like: Tensor) -> Tensor:
    """A bool mask as numbers added to scores: 0 or -inf, in the dtype that products of `like` have."""
    kind = like.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else like.dtype
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(~mask, float("-inf"))
