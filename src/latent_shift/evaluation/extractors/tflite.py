"""The convolutions of a TFLite file, read from its bytes: no TFLite runtime, nothing run.

A TFLite file is a FlatBuffer: tables of fields found through offsets (the schema is TensorFlow's
`tensorflow/lite/schema/schema.fbs`). Read are the operations of its one graph in order, and of each
convolution the weight and bias, taken back from 8 bits to float32 by scale and zero point.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_MAGIC = b"TFL3"  # at byte 4
_CONV, _DEPTHWISE = 3, 4  # BuiltinOperator
_TYPES = {0: np.float32, 2: np.int32, 3: np.uint8, 9: np.int8}  # TensorType
# Numbers of fields in their tables.
_CODES, _GRAPHS, _BUFFERS = 1, 2, 4  # Model
_TENSORS, _OPERATIONS = 0, 3  # SubGraph
_SHAPE, _TYPE, _BUFFER, _QUANTISATION = 0, 1, 2, 4  # Tensor
_SCALE, _ZERO = 2, 3  # QuantizationParameters
_CODE, _INPUTS = 0, 1  # Operator


class TfliteFile:
    """A file's bytes and its tables. Raises ValueError for a file of another kind, or a damaged one."""

    def __init__(self, file: Path) -> None:
        self.file, self._data = file, file.read_bytes()
        if self._data[4:8] != _MAGIC:
            raise ValueError(f"{file}: is no TFLite file")

    def convolutions(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Weight (out, in, height, width) and bias (out,) of each convolution, in the order they are run."""
        try:
            yield from self._convolutions()
        except (struct.error, IndexError, KeyError, ValueError) as error:
            raise ValueError(f"{self.file}: is damaged, or of an unknown kind ({error})") from error

    def _convolutions(self) -> Iterator[tuple[Tensor, Tensor]]:
        model = self._unsigned(0)
        codes = self._tables(model, _CODES)
        (graph,) = self._tables(model, _GRAPHS)
        tensors, buffers = self._tables(graph, _TENSORS), self._tables(model, _BUFFERS)
        for operation in self._tables(graph, _OPERATIONS):
            code = codes[self._number(operation, _CODE, "<I")]
            kind = self._number(code, 0, "<b")
            if kind in (_CONV, _DEPTHWISE):
                _, weight, bias = self._vector(operation, _INPUTS, np.int32)
                values = self._values(tensors[weight], buffers)
                # TensorFlow keeps (out, height, width, in), depthwise (1, height, width, channels).
                order = (0, 3, 1, 2) if kind == _CONV else (3, 0, 1, 2)
                yield values.permute(*order), self._values(tensors[bias], buffers)

    def _values(self, tensor: int, buffers: list[int]) -> Tensor:
        """A constant as float32."""
        kind = _TYPES[self._number(tensor, _TYPE, "<b")]
        stored = self._vector(buffers[self._number(tensor, _BUFFER, "<I")], 0, np.uint8)
        shape = tuple(int(side) for side in self._vector(tensor, _SHAPE, np.int32))
        whole = stored.tobytes()
        values = np.frombuffer(whole, kind).astype(np.float64).reshape(shape)
        at = self._field(tensor, _QUANTISATION)
        if at is not None:
            told = at + self._unsigned(at)
            scale = self._vector(told, _SCALE, np.float32)
            zero = self._vector(told, _ZERO, np.int64)
            if len(scale) == 1:
                values = (values - (int(zero[0]) if len(zero) else 0)) * float(scale[0])
        return torch.from_numpy(values.astype(np.float32))

    def _field(self, table: int, number: int) -> int | None:
        """Where a table's field is; None where it is left out."""
        layout = table - self._read(table, "<i")
        entry = 4 + 2 * number
        if entry >= self._read(layout, "<H"):
            return None
        offset = self._read(layout + entry, "<H")
        return table + offset if offset else None

    def _number(self, table: int, number: int, kind: str) -> int:
        at = self._field(table, number)
        return 0 if at is None else self._read(at, kind)

    def _vector(self, table: int, number: int, kind: type[np.generic]) -> NDArray[np.generic]:
        at = self._field(table, number)
        if at is None:
            return np.empty(0, kind)
        start = at + self._unsigned(at)
        return np.frombuffer(self._data, kind, self._unsigned(start), start + 4)

    def _tables(self, table: int, number: int) -> list[int]:
        """Where the tables of a vector are."""
        at = self._field(table, number)
        if at is None:
            return []
        start = at + self._unsigned(at)
        places = range(start + 4, start + 4 + 4 * self._unsigned(start), 4)
        return [place + self._unsigned(place) for place in places]

    def _unsigned(self, at: int) -> int:
        return self._read(at, "<I")

    def _read(self, at: int, kind: str) -> int:
        (value,) = struct.unpack_from(kind, self._data, at)
        return int(value)
