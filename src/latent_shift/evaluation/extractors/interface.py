"""What every extractor is: clips of bytes in, features (and, where it classifies, logits) out.

The evaluation knows this and no extractor by name. A new extractor is one new file and a line in `known.py`.

Shapes: B clips, F frames, H, W pixels; N rows (B, or B * F with the frames of a clip adjacent), D numbers a
row, C classes, S pixels a side.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from latent_shift.evaluation.extractors.resizing import View, resized

Per = Literal["frame", "clip"]
FRAMES_AT_ONCE_ON_CPU, FRAMES_AT_ONCE = 4, 64


class Extracted(NamedTuple):
    """features (N, D), logits (N, C) or None, both float32."""

    features: Tensor
    logits: Tensor | None


@dataclass(frozen=True)
class Facts:
    """What is told of an extractor in every result."""

    name: str
    layer: str  # which output, and how many numbers
    weights: str  # the first 12 hexadecimal digits of the SHA-256 of its weights
    per: Per
    width: int  # D
    frames: int | None = None  # that a clip must have, where the network has no choice


class Extractor(ABC):
    """A network in float32 on a device, the view it has of frames, and its facts."""

    def __init__(self, network: nn.Module, facts: Facts, view: View, device: torch.device | str) -> None:
        self.network = network.eval().requires_grad_(False).to(device, torch.float32)
        if facts.per == "frame" and not any(isinstance(part, nn.Conv3d) for part in network.modules()):
            # Convolutions of images are several times as fast so on a CPU, and no slower elsewhere.
            whole: Any = self.network  # whose stubs know no memory format
            self.network = whole.to(memory_format=torch.channels_last)
        self.facts, self.view, self.device = facts, view, torch.device(device)

    @abstractmethod
    def run(self, pixels: Tensor) -> Extracted:
        """Features of pixels (B, F, 3, S, S) float32, 0 to 255."""

    @torch.no_grad()
    def __call__(self, clips: Tensor) -> Extracted:
        """Features of clips uint8 (B, F, H, W, 3); the same clip always gives the same in the same batch.

        Raises ValueError for anything else, or a number of frames that the network cannot take.
        """
        check_clips(clips, self.facts)
        # TensorFloat-32 would change the third digit; a chosen-by-timing algorithm the last, from run to run.
        with torch.backends.cudnn.flags(benchmark=False, deterministic=True, allow_tf32=False):
            features, logits = self.run(resized(clips.to(self.device), self.view))
        return Extracted(features.float(), None if logits is None else logits.float())


class TextExtractor(Extractor):
    """An extractor that puts texts into the same space as frames or clips, as CLIP does."""

    @abstractmethod
    def texts(self, captions: Sequence[str]) -> Tensor:
        """(N, D) of N captions."""


def check_clips(clips: Tensor, facts: Facts) -> None:
    """ValueError where clips are not uint8 (B, F, H, W, 3), of the frames that the network takes."""
    if clips.dtype != torch.uint8 or clips.ndim != 5 or clips.shape[-1] != 3 or 0 in clips.shape:
        raise ValueError(f"clips are {clips.dtype} {tuple(clips.shape)}; expected uint8 (B, F, H, W, 3)")
    if facts.frames is not None and clips.shape[1] != facts.frames:
        raise ValueError(f"clips have {clips.shape[1]} frames; {facts.name} takes {facts.frames}")


def frames_in_parts(pixels: Tensor) -> tuple[Tensor, ...]:
    """The frames (B * F, 3, S, S) of pixels (B, F, 3, S, S), in parts that bound the memory.

    On a CPU the parts are small enough for its caches, which is faster than any larger.
    """
    at_once = FRAMES_AT_ONCE_ON_CPU if pixels.device.type == "cpu" else FRAMES_AT_ONCE
    return pixels.flatten(0, 1).contiguous(memory_format=torch.channels_last).split(at_once)
