"""Frames of any size to the size of training: cropped in the middle to its shape, then resized.

One size for all clips, or aspect-ratio buckets: a set of sizes with about the same number of pixels, of which
each clip takes the one nearest to its own shape, so that little is cropped.
Resizing is bicubic with antialiasing. Shapes: F frames, H, W pixels, uint8 (F, H, W, 3).
"""

from __future__ import annotations

from functools import cached_property
from math import log

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

Size = tuple[int, int]  # height, width
AREA_TOLERANCE = 0.15  # a bucket may have this part more or fewer pixels than requested


class Buckets(BaseModel):
    """Sizes with about `pixels` pixels, sides multiples of `multiple`, up to `max_aspect` long or wide."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    pixels: int = Field(256 * 256, ge=64, description="height times width")
    multiple: int = Field(64, ge=1, description="both sides are multiples of this")
    max_aspect: float = Field(2.0, ge=1.0, description="longest ratio of the sides")

    @cached_property
    def sizes(self) -> tuple[Size, ...]:
        """All buckets, from tall to wide. Raises ValueError where no size fits the numbers."""
        step = self.multiple
        found: set[Size] = set()
        for width in range(step, int((self.pixels * self.max_aspect) ** 0.5 * 1.2) + step, step):
            height = max(round(self.pixels / width / step), 1) * step
            near = abs(height * width / self.pixels - 1) <= AREA_TOLERANCE
            if near and max(height / width, width / height) <= self.max_aspect:
                found |= {(height, width), (width, height)}
        if not found:
            raise ValueError(
                f"buckets: no size of about {self.pixels} pixels has sides that are multiples of {step};"
                " set multiple lower or pixels higher"
            )
        return tuple(sorted(found, key=lambda size: size[1] / size[0]))

    @property
    def middle(self) -> Size:
        """The size nearest to a square."""
        return self.sizes[self.nearest(1, 1)]

    def nearest(self, height: int, width: int) -> int:
        """The number of the bucket nearest in shape to a frame."""
        shape = log(width / height)
        return min(
            range(len(self.sizes)), key=lambda b: abs(log(self.sizes[b][1] / self.sizes[b][0]) - shape)
        )


def crop_box(height: int, width: int, size: Size) -> tuple[int, int, int, int]:
    """(top, left, height, width) of the largest middle part that has the shape of `size`."""
    target_height, target_width = size
    if height * target_width > width * target_height:  # too tall
        kept_height, kept_width = max(round(width * target_height / target_width), 1), width
    else:
        kept_height, kept_width = height, max(round(height * target_width / target_height), 1)
    return (height - kept_height) // 2, (width - kept_width) // 2, kept_height, kept_width


def center_crop_resize(frames: Tensor, size: Size) -> Tensor:
    """Crop frames uint8 (F, H, W, 3) in the middle to the shape of `size` and resize them to it."""
    top, left, height, width = crop_box(frames.shape[1], frames.shape[2], size)
    cut = frames[:, top : top + height, left : left + width]
    if (height, width) == size:
        return cut.contiguous()
    # A view of channels-last memory, for which torch resizes bytes directly.
    pixels = cut.permute(0, 3, 1, 2)
    resized = torch.nn.functional.interpolate(pixels, size, mode="bicubic", antialias=True)
    return resized.permute(0, 2, 3, 1).contiguous()
