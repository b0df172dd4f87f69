"""I3D on RGB, of Kinetics-400: the features of FVD.

Carreira and Zisserman, "Quo Vadis" (arXiv 1705.07750): Inception-v1 with every kernel grown into time. FVD
(Unterthiner et al., arXiv 1812.01717) takes its 400 logits, averaged over what is left of time, of 16 frames
of 224 x 224. Convolutions and pools pad as TensorFlow does ("SAME"), with zeros, also where the maximum is
taken: what is pooled is never negative. Module names are those of piergiaj's weights; hassony2's are renamed.

Shapes: B clips, F frames, 224 x 224 pixels, -1 to 1; logits (B, 400).
"""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from latent_shift.evaluation.extractors import base, weights
from latent_shift.evaluation.extractors.registry import ExtractorOptions

NAME, SIDE, CLASSES, FRAMES = "i3d", 224, 400, 16
PREPROCESSING = base.Preprocessing(SIDE, "bilinear", antialias=False)
Sizes = tuple[int, int, int]

# Channels of the branches: 1x1; 1x1, 3x3; 1x1, 3x3; after the pool (GoogLeNet, arXiv 1409.4842, table 1).
MIXED = {
    "Mixed_3b": (64, 96, 128, 16, 32, 32),
    "Mixed_3c": (128, 128, 192, 32, 96, 64),
    "Mixed_4b": (192, 96, 208, 16, 48, 64),
    "Mixed_4c": (160, 112, 224, 24, 64, 64),
    "Mixed_4d": (128, 128, 256, 24, 64, 64),
    "Mixed_4e": (112, 144, 288, 32, 64, 64),
    "Mixed_4f": (256, 160, 320, 32, 128, 128),
    "Mixed_5b": (256, 160, 320, 32, 128, 128),
    "Mixed_5c": (384, 192, 384, 48, 128, 128),
}
# The pools that stand before a block: (kernel, stride), each (time, height, width).
POOLS: dict[str, tuple[Sizes, Sizes]] = {
    "Conv3d_2b_1x1": ((1, 3, 3), (1, 2, 2)),
    "Mixed_3b": ((1, 3, 3), (1, 2, 2)),
    "Mixed_4b": ((3, 3, 3), (2, 2, 2)),
    "Mixed_5b": ((2, 2, 2), (2, 2, 2)),
}


class Unit3D(nn.Module):
    """Convolution padded "SAME"; then batch norm and ReLU, or, for the logits, a bias only."""

    def __init__(self, channels: int, out: int, kernel: int, stride: int = 1, *, plain: bool = False) -> None:
        super().__init__()
        self.kernel, self.stride = (kernel,) * 3, (stride,) * 3
        self.conv3d = nn.Conv3d(channels, out, kernel, stride=stride, bias=plain)
        self.bn = None if plain else nn.BatchNorm3d(out, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, F, H, W) to (B, out, F', H', W')."""
        x = self.conv3d(base.pad_same(x, self.kernel, self.stride))
        return x if self.bn is None else functional.relu(self.bn(x))


class Mixed3D(nn.Module):
    """An Inception block: four branches side by side, their channels joined."""

    def __init__(self, channels: int, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.b0 = Unit3D(channels, widths[0], 1)
        self.b1a, self.b1b = Unit3D(channels, widths[1], 1), Unit3D(widths[1], widths[2], 3)
        self.b2a, self.b2b = Unit3D(channels, widths[3], 1), Unit3D(widths[3], widths[4], 3)
        self.b3b = Unit3D(channels, widths[5], 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, F, H, W) to (B, C', F, H, W)."""
        pooled = pool_same(x, (3, 3, 3), (1, 1, 1))
        branches = (self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(pooled))
        return torch.cat(branches, dim=1)


class InceptionI3d(nn.Module):
    """The whole network."""

    def __init__(self, classes: int = CLASSES) -> None:
        super().__init__()
        self.Conv3d_1a_7x7 = Unit3D(3, 64, 7, stride=2)
        self.Conv3d_2b_1x1 = Unit3D(64, 64, 1)
        self.Conv3d_2c_3x3 = Unit3D(64, 192, 3)
        channels = 192
        for name, widths in MIXED.items():
            self.add_module(name, Mixed3D(channels, widths))
            channels = widths[0] + widths[2] + widths[4] + widths[5]
        self.logits = Unit3D(channels, classes, 1, plain=True)

    def forward(self, x: Tensor) -> Tensor:
        """Clips (B, 3, F, 224, 224), -1 to 1, of 9 frames or more: logits (B, classes)."""
        for name, block in self.named_children():
            if name == "logits":
                break
            if name in POOLS:
                x = pool_same(x, *POOLS[name])
            x = block(x)
        x = functional.avg_pool3d(x, (2, 7, 7), stride=1)
        return self.logits(x).mean(dim=(2, 3, 4))


class I3D(base.Extractor):
    """The logits of every clip, as features and as logits."""

    def __init__(self, options: ExtractorOptions) -> None:
        file, digest = weights.find_weights(weights.I3D, options.weights, NAME)
        network = InceptionI3d()
        weights.load_into(network, own_names(weights.read_tensors(file), file), file)
        layer = f"logits, {CLASSES} numbers a clip"
        info = base.ExtractorInfo(NAME, layer, digest, "clip", CLASSES, FRAMES, classifies=True)
        super().__init__(network, info, PREPROCESSING, options)

    def run(self, pixels: Tensor) -> base.ExtractorOutput:
        """See `Extractor.run`."""
        clips = (pixels / 127.5 - 1).transpose(1, 2)  # (B, 3, F, S, S)
        logits = torch.cat([self.network(clip) for clip in clips.split(1)])
        return base.ExtractorOutput(logits, logits)


def pool_same(x: Tensor, kernel: Sizes, stride: Sizes) -> Tensor:
    """The maximum over blocks, padded "SAME" with zeros."""
    return functional.max_pool3d(base.pad_same(x, kernel, stride), kernel, stride=stride)


def own_names(tensors: weights.Tensors, file: Path) -> weights.Tensors:
    """Return the tensors under this network's names. Raises ValueError for a file of no known layout."""
    if "Conv3d_1a_7x7.conv3d.weight" in tensors:
        return tensors
    if "conv3d_1a_7x7.conv3d.weight" in tensors:
        return {_of_hassony2(name): tensor for name, tensor in tensors.items()}
    raise ValueError(
        f"{file}: holds I3D under names that are not known here ({', '.join(list(tensors)[:3])}, ...);"
        f" get {' or '.join(one.name for one in weights.I3D)} instead"
    )


_BRANCHES = {"0": "b0", "1.0": "b1a", "1.1": "b1b", "2.0": "b2a", "2.1": "b2b", "3.1": "b3b"}


def _of_hassony2(name: str) -> str:
    name = name.replace("batch3d", "bn").replace("conv3d_0c_1x1", "logits")
    name = re.sub(r"branch_([\d.]+)\.(conv3d|bn)", lambda m: f"{_BRANCHES[m[1]]}.{m[2]}", name)
    return re.sub(r"^(mixed|conv3d)_", lambda m: f"{m[1].capitalize()}_", name)
