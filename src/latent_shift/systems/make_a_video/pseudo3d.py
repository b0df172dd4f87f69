"""Pseudo-3D layers: the temporal half of Make-A-Video's convolutions and attentions (arXiv 2209.14792, 3.2).

After every 2-D convolution with a kernel above 1, the first, the last and those that resize included, comes a
1-D one over the frames, the identity at the start. After every spatial attention comes one over the frames of
each pixel, with zero output at the start and a learned bias for each head and distance; a level without
spatial attention has it behind its last ResNet block. So a U-Net computes at first what it did without them,
frame by frame, whatever the frames.

Shapes: B clips, F frames, C channels, H x W pixels of the U-Net.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from latent_shift.systems.temporal_layers import FrameConv, TemporalAttention, add_temporal_layers

MAX_DISTANCE = 31  # frames; those further apart have the bias of this distance


class RelativeTemporalAttention(TemporalAttention):
    """Attention over the frames of each pixel, with a bias for each head and distance, zero at the start."""

    def __init__(self, channels: int, head_width: int) -> None:
        super().__init__(channels, head_width, positions=False)
        self.distance_bias = nn.Parameter(torch.zeros(channels // head_width, 2 * MAX_DISTANCE + 1))

    def bias(self, num_frames: int, query: Tensor) -> Tensor:
        """See `TemporalAttention.bias`."""
        frames = torch.arange(num_frames, device=query.device)
        distances = (frames - frames[:, None]).clamp(-MAX_DISTANCE, MAX_DISTANCE)  # of key from query
        return self.distance_bias[:, distances + MAX_DISTANCE].to(query.dtype)


def dirac_convolution(channels: int) -> FrameConv:
    """A convolution over the frames that is the identity."""
    layer = FrameConv(channels)
    nn.init.dirac_(layer.weight)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer


def add_pseudo_3d_layers(unet: nn.Module, head_width: int) -> None:
    """Put pseudo-3D layers into a stock U-Net, in place.

    head_width: channels of a head of the temporal attention. Raises ValueError where a level's channels are
    no multiple of it.
    """
    sites = attention_sites(unet)

    def make(path: str, block: Any) -> nn.Module | None:
        if path in sites:
            return RelativeTemporalAttention(sites[path], head_width)
        if isinstance(block, nn.Conv2d) and max(block.kernel_size) > 1:
            return dirac_convolution(block.out_channels)
        return None

    add_temporal_layers(unet, make)


def attention_sites(unet: Any) -> dict[str, int]:
    """Paths of the blocks that a temporal attention follows, with their channels.

    Of each level, down, in the middle and up: its spatial attentions, or its last ResNet block.
    """
    levels = [
        *((f"down_blocks.{number}", block) for number, block in enumerate(unet.down_blocks)),
        *([] if unet.mid_block is None else [("mid_block", unet.mid_block)]),
        *((f"up_blocks.{number}", block) for number, block in enumerate(unet.up_blocks)),
    ]
    sites: dict[str, int] = {}
    for path, level in levels:
        channels = level.resnets[-1].out_channels
        attentions = enumerate(getattr(level, "attentions", ()))
        found = {f"{path}.attentions.{number}": channels for number, one in attentions if one is not None}
        sites.update(found or {f"{path}.resnets.{len(level.resnets) - 1}": channels})
    return sites
