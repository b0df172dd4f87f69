"""MobileNetV2 of ImageNet: real image features from a small, free file, where Inception is missing.

Sandler et al. (arXiv 1801.04381), width 1.0, 224 x 224. The published TFLite file was trained for 8-bit
arithmetic; its weights are taken back to float32 and run as such, their batch norms folded into biases.
Values on these features are real and comparable with one another, not with any FID on Inception: say which.

Shapes: N frames; 224 x 224 pixels, -1 to 1; features (N, 1280), logits (N, 1001), class 0 the background.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from latent_shift.evaluation.extractors import base, weights
from latent_shift.evaluation.extractors.registry import ExtractorOptions

NAME, SIDE, WIDTH, CLASSES = "mobilenet-v2", 224, 1280, 1001
PREPROCESSING = base.Preprocessing(SIDE, "bilinear", antialias=True)
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
        x = super().forward(base.pad_same(x, [*self.kernel_size], [int(step) for step in self.stride]))
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


class MobileNet(base.Extractor):
    """Features and logits of every frame."""

    def __init__(self, options: ExtractorOptions) -> None:
        file, digest = weights.find_weights(weights.MOBILENET, options.weights, NAME)
        network = MobileNetV2()
        load_convolutions(network, file)
        layer = f"average pool, {WIDTH} numbers a frame"
        info = base.ExtractorInfo(NAME, layer, digest, "frame", WIDTH, classifies=True)
        super().__init__(network, info, PREPROCESSING, options)

    def run(self, pixels: Tensor) -> base.ExtractorOutput:
        """See `Extractor.run`."""
        return base.run_chunks(self.network, [(chunk - 128) / 128 for chunk in base.frame_chunks(pixels)])


def load_convolutions(network: MobileNetV2, file: Path) -> None:
    """Load a file's convolutions into a network. Raises ValueError where they are another network's."""
    found, layers = list(TfliteFile(file).convolutions()), network.convolutions()
    shapes = [(weight.shape, bias.shape) for weight, bias in found]
    if shapes != [(layer.weight.shape, layer.bias.shape) for layer in layers if layer.bias is not None]:
        raise ValueError(f"{file}: its {len(found)} convolutions are not those of MobileNetV2 1.0 224")
    for layer, (weight, bias) in zip(layers, found, strict=True):
        layer.load_state_dict({"weight": weight, "bias": bias})


_CONV, _DEPTHWISE = 3, 4  # TFLite's BuiltinOperator
_TYPES = {0: np.float32, 2: np.int32, 3: np.uint8, 9: np.int8}  # TFLite's TensorType


class TfliteFile:
    """The convolutions of a TFLite file, read from its bytes: no TFLite runtime, nothing run.

    A TFLite file is a FlatBuffer: tables of fields found through offsets. Positions here are of tables in the
    file, numbers of fields those of TensorFlow's `tensorflow/lite/schema/schema.fbs`. Raises ValueError for a
    file of another kind.
    """

    def __init__(self, file: Path) -> None:
        self.file, self._data = file, file.read_bytes()
        if self._data[4:8] != b"TFL3":
            raise ValueError(f"{file}: is no TFLite file")

    def convolutions(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield weight (out, in, height, width) and bias (out,) of each convolution in graph order.

        Raises ValueError for a damaged file.
        """
        try:
            model = self._read(0, "I")
            codes, (graph,), buffers = (self._tables(model, field) for field in (1, 2, 4))
            tensors = self._tables(graph, 0)
            for operation in self._tables(graph, 3):
                kind = self._number(codes[self._number(operation, 0, "I")], 0, "b")
                if kind in (_CONV, _DEPTHWISE):
                    _, weight, bias = (tensors[index] for index in self._vector(operation, 1, np.int32))
                    # TensorFlow keeps (out, height, width, in), depthwise (1, height, width, channels).
                    order = (0, 3, 1, 2) if kind == _CONV else (3, 0, 1, 2)
                    yield self._constant(weight, buffers).permute(*order), self._constant(bias, buffers)
        except (struct.error, IndexError, KeyError, ValueError) as error:
            raise ValueError(f"{self.file}: is damaged, or of an unknown kind ({error})") from error

    def _constant(self, tensor: int, buffers: list[int]) -> Tensor:
        """A constant tensor as float32, taken back from 8 bits by scale and zero point."""
        stored = self._vector(buffers[self._number(tensor, 2, "I")], 0, np.uint8).tobytes()
        values = np.frombuffer(stored, _TYPES[self._number(tensor, 1, "b")]).astype(np.float64)
        quantization = self._field(tensor, 4)
        if quantization is not None:
            table = quantization + self._read(quantization, "I")
            scale, zero = self._vector(table, 2, np.float32), self._vector(table, 3, np.int64)
            if len(scale) == 1:
                values = (values - (int(zero[0]) if len(zero) else 0)) * float(scale[0])
        shape = [int(side) for side in self._vector(tensor, 0, np.int32)]
        return torch.from_numpy(values.astype(np.float32).reshape(shape))

    def _field(self, table: int, number: int) -> int | None:
        """Position of a table's field; None where it is left out."""
        layout = table - self._read(table, "i")
        entry = 4 + 2 * number
        offset = self._read(layout + entry, "H") if entry < self._read(layout, "H") else 0
        return table + offset if offset else None

    def _number(self, table: int, number: int, kind: str) -> int:
        field = self._field(table, number)
        return 0 if field is None else self._read(field, kind)

    def _vector(self, table: int, number: int, kind: Any) -> NDArray[Any]:
        field = self._field(table, number)
        if field is None:
            return np.empty(0, kind)
        start = field + self._read(field, "I")
        return np.frombuffer(self._data, kind, self._read(start, "I"), start + 4)

    def _tables(self, table: int, number: int) -> list[int]:
        """Positions of the tables in a vector."""
        offsets = self._vector(table, number, np.uint32)
        field = self._field(table, number)
        start = 0 if field is None else field + self._read(field, "I") + 4
        return [start + 4 * index + int(offset) for index, offset in enumerate(offsets)]

    def _read(self, position: int, kind: str) -> int:
        (value,) = struct.unpack_from(f"<{kind}", self._data, position)
        return int(value)
