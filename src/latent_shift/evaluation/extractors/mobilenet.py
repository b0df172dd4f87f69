"""MobileNetV2 of ImageNet: real image features from a small, free file, where Inception is missing.

Sandler et al. (arXiv 1801.04381), width 1.0, 224 x 224. The published file was trained for 8-bit arithmetic;
its weights are taken back to float32 and run as such, their batch norms folded into biases. Figures on these
features are real and comparable with one another, not with any FID on Inception: say which.

Shapes: N frames; 224 x 224 pixels, -1 to 1; features (N, 1280), logits (N, 1001), class 0 the background.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from latent_shift.evaluation.extractors.interface import Extracted, Extractor, Facts, frames_in_parts
from latent_shift.evaluation.extractors.published import MOBILENET
from latent_shift.evaluation.extractors.resizing import View
from latent_shift.evaluation.extractors.same_padding import pad_same
from latent_shift.evaluation.extractors.tflite import TfliteFile
from latent_shift.evaluation.extractors.weights import find

NAME, SIDE, WIDTH, CLASSES = "mobilenet-v2", 224, 1280, 1001
VIEW = View(SIDE, "bilinear", antialias=True)
BLOCKS = (  # expansion, channels, repeats, stride of the first (table 2 of the paper)
    (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1),
)  # fmt: skip


class SameConv2d(nn.Conv2d):
    """A convolution padded as TensorFlow does; then, unless `linear`, cut to 0 to 6."""

    def __init__(
        self, channels: int, out: int, kernel: int, *, stride: int = 1, depthwise: bool = False, linear: bool
    ) -> None:
        super().__init__(channels, out, kernel, stride=stride, groups=channels if depthwise else 1)
        self.linear = linear

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, out, H', W')."""
        x = super().forward(pad_same(x, [*self.kernel_size], [int(step) for step in self.stride]))
        return x if self.linear else functional.relu6(x)


class Bottleneck(nn.Sequential):
    """Wider, filtered channel by channel, narrow again; added to its input where the shape stays."""

    def __init__(self, channels: int, out: int, expansion: int, stride: int) -> None:
        wide = channels * expansion
        expand = [SameConv2d(channels, wide, 1, linear=False)] if expansion > 1 else []
        depthwise = SameConv2d(wide, wide, 3, stride=stride, depthwise=True, linear=False)
        super().__init__(*expand, depthwise, SameConv2d(wide, out, 1, linear=True))
        self.adds = stride == 1 and channels == out

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, out, H', W')."""
        filtered: Tensor = super().forward(x)
        return x + filtered if self.adds else filtered


class MobileNetV2(nn.Module):
    """The whole network, batch norms folded."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = SameConv2d(3, 32, 3, stride=2, linear=False)
        blocks, channels = [], 32
        for expansion, out, repeats, stride in BLOCKS:
            for number in range(repeats):
                blocks.append(Bottleneck(channels, out, expansion, 1 if number else stride))
                channels = out
        self.blocks = nn.Sequential(*blocks)
        self.last = SameConv2d(channels, WIDTH, 1, linear=False)
        self.classifier = SameConv2d(WIDTH, CLASSES, 1, linear=True)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Frames (N, 3, 224, 224), -1 to 1: features (N, 1280), 0 to 6, and logits (N, 1001)."""
        pooled = self.last(self.blocks(self.stem(x))).mean(dim=(2, 3), keepdim=True)
        return pooled.flatten(1), self.classifier(pooled).flatten(1)

    def convolutions(self) -> list[SameConv2d]:
        """All of them, in the order they are run."""
        return [module for module in self.modules() if isinstance(module, SameConv2d)]


class MobileNet(Extractor):
    """Features and logits of every frame."""

    def __init__(self, folder: Path | None, view: View = VIEW, device: torch.device | str = "cpu") -> None:
        file, digest = find(MOBILENET, folder, NAME)
        network = MobileNetV2()
        fill(network, TfliteFile(file))
        facts = Facts(NAME, f"average pool, {WIDTH} numbers a frame", digest, "frame", WIDTH)
        super().__init__(network, facts, view, device)

    def run(self, pixels: Tensor) -> Extracted:
        """See `Extractor.run`."""
        parts = [self.network((part - 128) / 128) for part in frames_in_parts(pixels)]
        return Extracted(*(torch.cat(kind) for kind in zip(*parts, strict=True)))


def fill(network: MobileNetV2, file: TfliteFile) -> None:
    """Put a file's convolutions into a network. Raises ValueError where they are another network's."""
    found, wanted = list(file.convolutions()), network.convolutions()
    shapes = [(weight.shape, bias.shape) for weight, bias in found]
    if shapes != [(layer.weight.shape, layer.bias.shape) for layer in wanted if layer.bias is not None]:
        raise ValueError(f"{file.file}: its {len(found)} convolutions are not those of MobileNetV2 1.0 224")
    with torch.no_grad():
        for layer, (weight, bias) in zip(wanted, found, strict=True):
            layer.weight.copy_(weight)
            if layer.bias is not None:
                layer.bias.copy_(bias)
