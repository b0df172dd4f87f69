"""Tiny random parts of CogVideo, made of the real classes.

transformer = tiny_transformer()                  # frames of 2 x 3 tokens out of 12 codes, text of 5 tokens
channel = opened(transformer.new_channel(IN_ORDER))
"""

from __future__ import annotations

import torch

from latent_shift.systems.cogvideo.temporal_attention import ChannelConfig
from latent_shift.systems.cogvideo.transformer import ImageTransformer, Text, TransformerConfig

CODES, GRID, TOKENS = 12, (2, 3), 6
TEXT_LENGTH, TEXT_SIZE = 5, 8
SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
IN_ORDER = ChannelConfig(num_frames=3, frame_rates=(2.0, 4.0))  # stage 1
BETWEEN = ChannelConfig(num_frames=4, frame_rates=(12.0,), known=(0, 3))  # stage 2
HALVING = ChannelConfig(num_frames=5, frame_rates=(2.0, 4.0, 8.0, 16.0), known=(0, 2, 4))  # the paper's


def tiny_transformer(seed: int = 0, text: str = "tower", grid: tuple[int, int] = GRID) -> ImageTransformer:
    """An image transformer of two layers, with weights large enough that every input matters."""
    torch.manual_seed(seed)
    config = TransformerConfig(**SIZES, text=text, text_length=TEXT_LENGTH)
    transformer = ImageTransformer.new(config, CODES, grid, TEXT_SIZE)
    with torch.no_grad():
        for parameter in transformer.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return transformer.eval()


def opened(channel, seed: int = 1):
    """The channel, moved far from its start: as if it was trained."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in channel.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return channel.eval()


def tiny_text(count: int = 2, seed: int = 2) -> Text:
    """Text states of captions of 5, 4, 3, 2 ... tokens."""
    torch.manual_seed(seed)
    visible = torch.arange(TEXT_LENGTH) >= torch.arange(count)[:, None] % TEXT_LENGTH
    return Text(torch.randn(count, TEXT_LENGTH, TEXT_SIZE), visible)


def tiny_tokens(count: int = 2, frames: int = 3, tokens: int = TOKENS, seed: int = 3) -> torch.Tensor:
    """Random tokens (B, F, n)."""
    torch.manual_seed(seed)
    return torch.randint(CODES, (count, frames, tokens))


def rows(count: int = 2, row: int = 0) -> torch.Tensor:
    """The same row of frame rates for each clip."""
    return torch.full((count,), row)
