"""Inception-v3 as FID uses it: TensorFlow's network of 2015-12-05, with its own pooling and 1,008 classes.

The network of Szegedy et al. (arXiv 1512.00567) as ported for FID: average pools inside the blocks do not
count the padding, the last block pools by maximum instead, and the classifier has 1,008 outputs of which the
last eight mean nothing. Module names are those of the published weights file, so that it loads as it is.

Shapes: N frames; 299 x 299 pixels, -1 to 1; pool3 (N, 2048), logits (N, 1008).
"""

from __future__ import annotations

import re
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from latent_shift.evaluation.extractors import base, weights
from latent_shift.evaluation.extractors.registry import ExtractorOptions

NAME, SIDE, WIDTH, CLASSES = "inception-v3", 299, 2048, 1008
PREPROCESSING = base.Preprocessing(SIDE, "bilinear", antialias=False)
Pool = Literal["none", "average", "maximum", "reduce"]
Kernel = int | tuple[int, int]
Step = tuple[str, int, Kernel]  # a convolution's name, its channels, its kernel


class BasicConv2d(nn.Module):
    """Convolution without bias, batch norm, ReLU."""

    def __init__(
        self, channels: int, out: int, kernel: Kernel, *, stride: int = 1, same: bool = True
    ) -> None:
        super().__init__()
        high, wide = kernel if isinstance(kernel, tuple) else (kernel, kernel)
        padding = (high // 2, wide // 2) if same else 0
        self.conv = nn.Conv2d(channels, out, (high, wide), stride=stride, padding=padding, bias=False)
        self.bn = nn.BatchNorm2d(out, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, out, H', W')."""
        return functional.relu(self.bn(self.conv(x)))


class Mixed(nn.Module):
    """Branches side by side, their channels joined.

    branches: each its convolutions in order; two at the end with names that end in a digit with a and b
    are a fork: both read the same, and both are joined. pool: the beginning of the last branch; "reduce" is
    a branch of its own. reduces: whether the last convolution of each branch halves the size, unpadded.
    """

    def __init__(
        self, channels: int, branches: list[list[Step]], pool: Pool, *, reduces: bool = False
    ) -> None:
        super().__init__()
        self.pool, self.branches = pool, [[step[0] for step in branch] for branch in branches]
        for branch, names in zip(branches, self.branches, strict=True):
            width, trunk = channels, _trunk(names)
            for name, out, kernel in branch:
                last = reduces and name == names[-1]
                self.add_module(name, BasicConv2d(width, out, kernel, stride=1 + last, same=not last))
                width = out if name in trunk else width

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C', H', W')."""
        outputs: list[Tensor] = []
        for names in self.branches:
            pools = names is self.branches[-1] and self.pool in ("average", "maximum")
            outputs += self._branch(_pooled(x, self.pool) if pools else x, names)
        if self.pool == "reduce":
            outputs.append(_pooled(x, "reduce"))
        return torch.cat(outputs, dim=1)

    def _branch(self, x: Tensor, names: list[str]) -> list[Tensor]:
        trunk = _trunk(names)
        for name in trunk:
            x = self.get_submodule(name)(x)
        return [self.get_submodule(name)(x) for name in names[len(trunk) :]] or [x]


class InceptionV3(nn.Module):
    """The whole network."""

    def __init__(self, classes: int = CLASSES) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = BasicConv2d(3, 32, 3, stride=2, same=False)
        self.Conv2d_2a_3x3 = BasicConv2d(32, 32, 3, same=False)
        self.Conv2d_2b_3x3 = BasicConv2d(32, 64, 3)
        self.Conv2d_3b_1x1 = BasicConv2d(64, 80, 1)
        self.Conv2d_4a_3x3 = BasicConv2d(80, 192, 3, same=False)
        self.Mixed_5b = _block_35(192, 32)
        self.Mixed_5c = _block_35(256, 64)
        self.Mixed_5d = _block_35(288, 64)
        self.Mixed_6a = _reduction_17(288)
        self.Mixed_6b = _block_17(768, 128)
        self.Mixed_6c = _block_17(768, 160)
        self.Mixed_6d = _block_17(768, 160)
        self.Mixed_6e = _block_17(768, 192)
        self.Mixed_7a = _reduction_8(768)
        self.Mixed_7b = _block_8(1280, "average")
        self.Mixed_7c = _block_8(2048, "maximum")
        self.fc = nn.Linear(WIDTH, classes)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Frames (N, 3, 299, 299), -1 to 1: pool3 (N, 2048) and logits (N, 1008), without bias.

        The first Inception Scores left the bias of the last layer out, and so do all that are compared with
        them ("logits_unbiased").
        """
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = functional.max_pool2d(x, 3, stride=2)
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(x))
        x = functional.max_pool2d(x, 3, stride=2)
        for name, block in self.named_children():
            if name.startswith("Mixed"):
                x = block(x)
        pooled = x.mean(dim=(2, 3))
        return pooled, functional.linear(pooled, self.fc.weight)


class Inception(base.Extractor):
    """pool3 and logits of every frame."""

    def __init__(self, options: ExtractorOptions) -> None:
        file, digest = weights.find_weights(weights.INCEPTION, options.weights, NAME)
        network = InceptionV3()
        weights.load_into(network, weights.read_tensors(file), file)
        layer = f"pool3, {WIDTH} numbers a frame"
        info = base.ExtractorInfo(NAME, layer, digest, "frame", WIDTH, classifies=True)
        super().__init__(network, info, PREPROCESSING, options)

    def run(self, pixels: Tensor) -> base.ExtractorOutput:
        """See `Extractor.run`."""
        return base.run_chunks(self.network, [chunk / 127.5 - 1 for chunk in base.frame_chunks(pixels)])


def _block_35(channels: int, pooled: int) -> Mixed:
    """The blocks at 35 x 35 (figure 5 of the paper)."""
    branches: list[list[Step]] = [
        [("branch1x1", 64, 1)],
        [("branch5x5_1", 48, 1), ("branch5x5_2", 64, 5)],
        [("branch3x3dbl_1", 64, 1), ("branch3x3dbl_2", 96, 3), ("branch3x3dbl_3", 96, 3)],
        [("branch_pool", pooled, 1)],
    ]
    return Mixed(channels, branches, "average")


def _reduction_17(channels: int) -> Mixed:
    """From 35 x 35 to 17 x 17."""
    double: list[Step] = [("branch3x3dbl_1", 64, 1), ("branch3x3dbl_2", 96, 3), ("branch3x3dbl_3", 96, 3)]
    return Mixed(channels, [[("branch3x3", 384, 3)], double], "reduce", reduces=True)


def _block_17(channels: int, narrow: int) -> Mixed:
    """The blocks at 17 x 17, of kernels 1 x 7 and 7 x 1 (figure 6)."""
    wide, high = (1, 7), (7, 1)
    branches: list[list[Step]] = [
        [("branch1x1", 192, 1)],
        [("branch7x7_1", narrow, 1), ("branch7x7_2", narrow, wide), ("branch7x7_3", 192, high)],
        [("branch7x7dbl_1", narrow, 1), ("branch7x7dbl_2", narrow, high), ("branch7x7dbl_3", narrow, wide),
         ("branch7x7dbl_4", narrow, high), ("branch7x7dbl_5", 192, wide)],
        [("branch_pool", 192, 1)],
    ]  # fmt: skip
    return Mixed(channels, branches, "average")


def _reduction_8(channels: int) -> Mixed:
    """From 17 x 17 to 8 x 8."""
    branches: list[list[Step]] = [
        [("branch3x3_1", 192, 1), ("branch3x3_2", 320, 3)],
        [("branch7x7x3_1", 192, 1), ("branch7x7x3_2", 192, (1, 7)), ("branch7x7x3_3", 192, (7, 1)),
         ("branch7x7x3_4", 192, 3)],
    ]  # fmt: skip
    return Mixed(channels, branches, "reduce", reduces=True)


def _block_8(channels: int, pool: Pool) -> Mixed:
    """The blocks at 8 x 8, with branches that fork at the end (figure 7)."""
    branches: list[list[Step]] = [
        [("branch1x1", 320, 1)],
        [("branch3x3_1", 384, 1), ("branch3x3_2a", 384, (1, 3)), ("branch3x3_2b", 384, (3, 1))],
        [("branch3x3dbl_1", 448, 1), ("branch3x3dbl_2", 384, 3), ("branch3x3dbl_3a", 384, (1, 3)),
         ("branch3x3dbl_3b", 384, (3, 1))],
        [("branch_pool", 192, 1)],
    ]  # fmt: skip
    return Mixed(channels, branches, pool)


def _trunk(names: list[str]) -> list[str]:
    """The convolutions of a branch that follow one another: all but a fork at its end."""
    return names[:-2] if re.search(r"\da$", names[-2] if len(names) > 1 else "") else names


def _pooled(x: Tensor, pool: Pool) -> Tensor:
    """3 x 3 pooling: of the same size by average (padding not counted) or maximum, or to half the size."""
    if pool == "average":
        return functional.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)
    if pool == "maximum":
        return functional.max_pool2d(x, 3, stride=1, padding=1)
    return functional.max_pool2d(x, 3, stride=2)
