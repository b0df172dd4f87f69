"""Frames of any size at the size that a network sees; how is part of every result.

Bilinear without antialiasing skips pixels when it makes smaller: what most published figures were made with,
and what alone moves an FID by several points (Parmar et al., arXiv 2104.11222). Half-pixel centres, as in
every current library. Shapes: B clips, F frames, H, W pixels, S pixels a side.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Resize = Literal["bilinear", "bilinear-corners", "bicubic"]


@dataclass(frozen=True)
class View:
    """How frames are brought to `side` pixels a side. "bilinear-corners": the corners' centres stay put."""

    side: int
    resize: Resize
    antialias: bool


def resized(clips: Tensor, view: View) -> Tensor:
    """Clips uint8 (B, F, H, W, 3) as float32 (B, F, 3, S, S), 0 to 255; untouched where the size fits."""
    frames = clips.flatten(0, 1).permute(0, 3, 1, 2).float()  # (B * F, 3, H, W)
    if frames.shape[-2:] != (view.side, view.side):
        corners = view.resize == "bilinear-corners"
        frames = torch.nn.functional.interpolate(
            frames,
            size=(view.side, view.side),
            mode=view.resize.removesuffix("-corners"),
            align_corners=corners,
            antialias=view.antialias and not corners,
        ).clamp(0, 255)
    return frames.unflatten(0, clips.shape[:2]).contiguous()
