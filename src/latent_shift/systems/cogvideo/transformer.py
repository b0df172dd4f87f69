"""The image transformer: transformers' `Glm4ForCausalLM` over the tokens of a frame, after its text.

Its layers have norms before and after attention and MLP: CogView's sandwich norm. A sequence is a prefix,
[frame rate][text], and frames of [start][tokens in rows]; text attends to text in both directions and never
to a frame; padding, on the left of the text, is masked. Text enters as states of a frozen text encoder
through one linear layer, or as pieces of its tokenizer in the vocabulary, which is the paper's way.

The vocabulary is the codes, then the start token, then the pieces of text, if any. The softmax runs over the
codes only, so that nothing else can be drawn.

Shapes: B clips, F frames, n tokens of a frame, L tokens of text, P = 1 + L positions of the prefix, d width,
K codes, Q positions at hand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPTextModel, CLIPTokenizer, Glm4Config, Glm4ForCausalLM

from latent_shift.systems.cogvideo.temporal_attention import (
    Layout,
    TemporalChannel,
    TemporalPass,
    add_second_channel,
    additive,
    base_mask,
)
from latent_shift.training.recipe import Count, Strict

_INITIAL_STD = 0.02


class TransformerConfig(Strict):
    """Sizes of the image transformer."""

    hidden_size: Count = 192
    num_hidden_layers: Count = 12
    num_attention_heads: Count = 6
    intermediate_size: Count = 512
    text: Literal["tower", "tokens"] = Field(
        "tower", description="text as states of the text encoder, or as pieces in the vocabulary"
    )
    text_length: Count = Field(23, description="tokens of a caption, start and end included")

    @model_validator(mode="after")
    def _heads_share_the_width(self) -> Self:
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size}: is no multiple of num_attention_heads"
                f" {self.num_attention_heads}"
            )
        return self


@dataclass(frozen=True)
class Text:
    """B captions, padded on the left: states (B, L, D) or pieces, long (B, L); visible: bool (B, L)."""

    content: Tensor
    visible: Tensor

    def repeat_interleave(self, count: int) -> Text:
        """Each caption `count` times."""
        return Text(self.content.repeat_interleave(count, 0), self.visible.repeat_interleave(count, 0))

    @staticmethod
    def cat(*parts: Text) -> Text:
        """All captions one after the other."""
        return Text(torch.cat([one.content for one in parts]), torch.cat([one.visible for one in parts]))


class CaptionEncoder(nn.Module):
    """Captions to `Text`, by a frozen text encoder or, without one, by its tokenizer only."""

    def __init__(self, tokenizer: CLIPTokenizer, encoder: CLIPTextModel | None, length: int) -> None:
        super().__init__()
        self.tokenizer, self.encoder, self.length = tokenizer, encoder, length
        # Read where prompts are checked: what lies beyond is truncated with a warning.
        self.tokenizer.model_max_length = min(length, tokenizer.model_max_length)
        self.requires_grad_(False)

    @property
    def size(self) -> int:
        """Width of states, or number of pieces."""
        return len(self.tokenizer) if self.encoder is None else int(self.encoder.config.hidden_size)

    @torch.no_grad()
    def forward(self, captions: Sequence[str], device: torch.device) -> Text:
        """Encode B captions; those that are too long are truncated."""
        encoded = self.tokenizer(
            list(captions), padding="max_length", truncation=True, max_length=self.length, return_tensors="pt"
        )
        ids, lengths = encoded.input_ids.to(device), encoded.attention_mask.sum(dim=1).to(device)
        content = ids if self.encoder is None else self.encoder(ids).last_hidden_state
        places = torch.arange(self.length, device=device)
        padding = self.length - lengths[:, None]
        moved = (places - padding) % self.length  # the padding from the right to the left
        if content.ndim == 3:
            moved = moved[:, :, None].expand_as(content)
        return Text(content.gather(1, moved), places >= padding)


class ImageTransformer(nn.Module):
    """Tokens of frames to logits of their next tokens, after text."""

    def __init__(
        self, glm: Glm4ForCausalLM, config: TransformerConfig, grid: tuple[int, int], text_size: int
    ) -> None:
        """Wrap a transformer; the layers around it are new.

        Args:
            glm: as `new` makes it.
            config: its sizes.
            grid: rows and columns of a frame's tokens.
            text_size: width of text states, or number of pieces.
        """
        super().__init__()
        self.config, self.grid, self.text_size = config, grid, text_size
        self.glm = glm
        add_second_channel(glm)
        self.text_projection = nn.Linear(text_size, config.hidden_size) if config.text == "tower" else None
        self.places = nn.Embedding(self.length, config.hidden_size)
        self.stills_rate = nn.Parameter(torch.empty(config.hidden_size))
        with torch.no_grad():
            for weight in (self.places.weight, self.stills_rate):
                weight.normal_(std=_INITIAL_STD)
            if self.text_projection is not None:
                self.text_projection.weight.normal_(std=_INITIAL_STD)
                self.text_projection.bias.zero_()

    @classmethod
    def new(cls, config: TransformerConfig, codes: int, grid: tuple[int, int], text_size: int) -> Self:
        """Build one with random weights. codes: K; config, grid, text_size: as of the constructor."""
        vocabulary = codes + 1 + (text_size if config.text == "tokens" else 0)
        glm = Glm4Config(
            vocab_size=vocabulary, hidden_size=config.hidden_size, intermediate_size=config.intermediate_size,
            num_hidden_layers=config.num_hidden_layers, num_attention_heads=config.num_attention_heads,
            num_key_value_heads=config.num_attention_heads,
            head_dim=config.hidden_size // config.num_attention_heads,
            attention_bias=False, tie_word_embeddings=True, use_cache=False,
            pad_token_id=None, bos_token_id=codes, eos_token_id=codes,
        )  # fmt: skip
        return cls(Glm4ForCausalLM(glm), config, grid, text_size)

    @property
    def tokens(self) -> int:
        """Tokens of a frame, n."""
        return self.grid[0] * self.grid[1]

    @property
    def length(self) -> int:
        """Positions of a frame: the start token and its tokens."""
        return 1 + self.tokens

    @property
    def prefix(self) -> int:
        """Positions of the prefix, P."""
        return 1 + self.config.text_length

    @property
    def start(self) -> int:
        """The start token, which is also the number of codes."""
        return int(self.glm.config.bos_token_id)

    def forward(
        self,
        text: Text,
        tokens: Tensor,
        channel: TemporalChannel | None = None,
        rates: Tensor | None = None,
    ) -> Tensor:
        """Logits (B, F, n, K) of each token, given the text and what comes before it.

        Args:
            text: B captions.
            tokens: of all frames in order, (B, F, n); F = 1 without a channel.
            channel: of the stage; without one frames are stills.
            rates: row of each clip's frame rate in the channel, (B,).
        """
        frames, known = range(tokens.shape[1]), () if channel is None else channel.config.known
        visible = self.visible(text)
        layout = Layout.of(visible, frames, self.length, known)
        inputs = [
            self.embed_prefix(text, channel, rates),
            self.embed_frames(self.with_start(tokens), layout.take(slice(self.prefix, None)), channel),
        ]
        hidden = self.hidden(torch.cat(inputs, dim=1), layout, channel=channel)
        in_frames = hidden[:, self.prefix :].unflatten(1, (-1, self.length))
        return self.logits(in_frames[:, :, :-1])  # the last token of a frame has no next one

    def visible(self, text: Text) -> Tensor:
        """False for padding of the prefix, (B, P)."""
        return functional.pad(text.visible, (1, 0), value=True)

    def embed_prefix(
        self, text: Text, channel: TemporalChannel | None = None, rates: Tensor | None = None
    ) -> Tensor:
        """Inputs (B, P, d) of the prefix; arguments as of `forward`."""
        if self.text_projection is None:
            words = self.glm.model.embed_tokens(text.content + self.start + 1)
        else:
            words = self.text_projection(text.content.to(self.text_projection.weight.dtype))
        rate = self.stills_rate.expand(len(words), -1) if channel is None else channel.rates(rates)
        return torch.cat([rate[:, None].to(words.dtype), words], dim=1)

    def with_start(self, tokens: Tensor) -> Tensor:
        """Inputs (B, F*(1+n)) of tokens (B, F, n): each frame after a start token."""
        return functional.pad(tokens, (1, 0), value=self.start).flatten(1)

    def embed_frames(self, ids: Tensor, layout: Layout, channel: TemporalChannel | None = None) -> Tensor:
        """Inputs (B, Q, d) of start tokens and tokens (B, Q) of frames, at the positions of `layout`."""
        inputs: Tensor = self.glm.model.embed_tokens(ids) + self.places(layout.place)
        return inputs if channel is None else inputs + channel.frames(layout.frame)

    def hidden(
        self,
        inputs: Tensor,
        query: Layout,
        *,
        key: Layout | None = None,
        base_key: Layout | None = None,
        channel: TemporalChannel | None = None,
        cache: Any = None,
    ) -> Tensor:
        """States (B, Q, d) after the last norm.

        Args:
            inputs: (B, Q, d).
            query: positions of the inputs.
            key: all positions with the cached ones; None: whole sequences, without a cache.
            base_key: those of base, where its cache was cropped; None: as key.
            channel: of the stage.
            cache: a `DynamicCache()` made without a configuration, so that it grows to two channels.
        """
        temporal, base_query = None, query
        if channel is not None:
            rotary = self.glm.model.rotary_emb(inputs, query.plus_positions[None])
            temporal = TemporalPass.of(channel, self.grid, rotary, query, key, inputs)
            if key is None:
                base_query = query.take(slice(query.prefix))  # base sees frames one by one
        mask = base_mask(base_query, base_key or key or base_query)
        hidden: Tensor = self.glm.model(
            inputs_embeds=inputs, attention_mask=additive(mask, inputs), use_cache=cache is not None,
            position_ids=query.base_positions[None], past_key_values=cache, temporal=temporal,
        ).last_hidden_state  # fmt: skip
        return hidden

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits (..., K) of the codes, from states (..., d)."""
        return functional.linear(hidden, self.glm.lm_head.weight[: self.start])

    def new_channel(self, config: Any) -> TemporalChannel:
        """A second channel that starts as this transformer's attention. config: a `ChannelConfig`."""
        return TemporalChannel(self.glm, self.stills_rate, config)
