"""The interface of extractors: clips of bytes in, features (and, where it classifies, logits) out.

The evaluation knows this and no extractor by name.

Shapes: B clips, F frames, H, W pixels; N rows (B, or B * F with the frames of a clip adjacent), D numbers a
row, C classes, S pixels a side.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from latent_shift.evaluation.extractors.registry import ExtractorOptions

Per = Literal["frame", "clip"]
CHUNK_ON_CPU, CHUNK = 4, 64  # frames


class ExtractorOutput(NamedTuple):
    """features (N, D), logits (N, C) or None, both float32."""

    features: Tensor
    logits: Tensor | None


@dataclass(frozen=True)
class ExtractorInfo:
    """The facts about an extractor that every result records."""

    name: str
    layer: str  # which output, and how many numbers
    weights: str  # the first 12 hexadecimal digits of the SHA-256 of its weights
    per: Per
    width: int  # D
    frames: int | None = None  # that a clip must have, where the network has no choice
    classifies: bool | None = None  # has logits; None: not known before it runs
    embeds_texts: bool = False  # set by `TextExtractor`


@dataclass(frozen=True)
class Preprocessing:
    """Resizing of frames to `side` pixels a side; part of every result.

    Bilinear without antialiasing skips pixels when it makes smaller: most published figures were made with
    it, and the difference moves an FID by several points (Parmar et al., arXiv 2104.11222). Pixel centres are
    half-pixel ones as in every current library, except for "bilinear-corners": the corners' centres stay put.
    """

    side: int
    resize: Literal["bilinear", "bilinear-corners", "bicubic"]
    antialias: bool


class Extractor(ABC):
    """A network in float32 on a device, its preprocessing, and its facts.

    options: of which the device and the antialiasing are taken here.
    """

    def __init__(
        self, network: nn.Module, info: ExtractorInfo, preprocessing: Preprocessing, options: ExtractorOptions
    ) -> None:
        self.device = torch.device(options.device)
        self.network = network.eval().requires_grad_(False).to(self.device, torch.float32)
        if info.per == "frame" and not any(isinstance(part, nn.Conv3d) for part in network.modules()):
            # Convolutions of images are several times as fast so on a CPU, and no slower elsewhere.
            whole: Any = self.network  # whose stubs know no memory format
            self.network = whole.to(memory_format=torch.channels_last)
        if options.antialias is not None:
            preprocessing = replace(preprocessing, antialias=options.antialias)
        self.info, self.preprocessing = info, preprocessing

    @abstractmethod
    def run(self, pixels: Tensor) -> ExtractorOutput:
        """Return the features of pixels (B, F, 3, S, S) float32, 0 to 255."""

    @torch.no_grad()
    def __call__(self, clips: Tensor) -> ExtractorOutput:
        """Return the features of clips uint8 (B, F, H, W, 3); always the same for the same batch.

        Raises ValueError for anything else, or a number of frames that the network cannot take.
        """
        if clips.dtype != torch.uint8 or clips.ndim != 5 or clips.shape[-1] != 3 or 0 in clips.shape:
            raise ValueError(f"clips are {clips.dtype} {tuple(clips.shape)}; expected uint8 (B, F, H, W, 3)")
        if self.info.frames not in (None, clips.shape[1]):
            raise ValueError(f"clips have {clips.shape[1]} frames; {self.info.name} takes {self.info.frames}")
        # TensorFloat-32 would change the third digit; a chosen-by-timing algorithm the last, from run to run.
        with torch.backends.cudnn.flags(benchmark=False, deterministic=True, allow_tf32=False):
            features, logits = self.run(preprocess(clips.to(self.device), self.preprocessing))
        return ExtractorOutput(features.float(), None if logits is None else logits.float())


class TextExtractor(Extractor):
    """An extractor that embeds texts in the same space as frames or clips, as CLIP does."""

    def __init__(
        self, network: nn.Module, info: ExtractorInfo, preprocessing: Preprocessing, options: ExtractorOptions
    ) -> None:
        super().__init__(network, replace(info, embeds_texts=True), preprocessing, options)

    @abstractmethod
    def texts(self, captions: Sequence[str]) -> Tensor:
        """Return the embeddings (N, D) of N captions."""


def preprocess(clips: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Resize clips uint8 (B, F, H, W, 3) to float32 (B, F, 3, S, S), 0 to 255; kept where the size fits."""
    side = preprocessing.side
    frames = clips.flatten(0, 1).permute(0, 3, 1, 2).float()  # (B * F, 3, H, W)
    if frames.shape[-2:] != (side, side):
        corners = preprocessing.resize == "bilinear-corners"
        frames = functional.interpolate(
            frames,
            size=(side, side),
            mode=preprocessing.resize.removesuffix("-corners"),
            align_corners=corners,
            antialias=preprocessing.antialias and not corners,
        ).clamp(0, 255)
    return frames.unflatten(0, clips.shape[:2]).contiguous()


def frame_chunks(pixels: Tensor) -> tuple[Tensor, ...]:
    """Split pixels (B, F, 3, S, S) into chunks of frames (N, 3, S, S), which bound the memory.

    On a CPU the chunks are small enough for its caches, which is faster than any larger.
    """
    size = CHUNK_ON_CPU if pixels.device.type == "cpu" else CHUNK
    return pixels.flatten(0, 1).contiguous(memory_format=torch.channels_last).split(size)


def run_chunks(network: nn.Module, chunks: Sequence[Tensor]) -> ExtractorOutput:
    """Run a network that returns features and logits on each chunk, and join what it returns."""
    outputs = [network(chunk) for chunk in chunks]
    return ExtractorOutput(*(torch.cat(kind) for kind in zip(*outputs, strict=True)))


def pad_same(x: Tensor, kernel: Sequence[int], stride: Sequence[int]) -> Tensor:
    """Pad the last dimensions of `x` with zeros as TensorFlow's "SAME", one for each entry of `kernel`.

    The output of a convolution is then of ceil(size / stride), the odd pixel of padding at the far end; torch
    pads both ends alike.
    """
    padding: list[int] = []
    sizes = x.shape[-len(kernel) :]
    for size, wide, step in zip(reversed(sizes), reversed(kernel), reversed(stride), strict=True):
        whole = max(wide - (size % step or step), 0)
        padding += [whole // 2, whole - whole // 2]
    return functional.pad(x, padding) if any(padding) else x
