"""The tensors of a TorchScript archive, without the program in it.

`torch.jit.load` runs what is in the file. Here the archive is opened as the zip it is; its `data.pkl` is read
by an unpickler that knows tensors, their storages and lists, and makes every class of the archive's own an
empty shell that only holds attributes. Anything else in it is an error. No line of the archive runs.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

_KINDS: dict[str, Any] = {
    "FloatStorage": np.float32, "DoubleStorage": np.float64, "HalfStorage": np.float16,
    "LongStorage": np.int64, "IntStorage": np.int32, "ShortStorage": np.int16, "CharStorage": np.int8,
    "ByteStorage": np.uint8, "BoolStorage": np.bool_,
}  # fmt: skip
_LISTS = ("build_intlist", "build_tensorlist", "build_doublelist", "build_boollist")


class _Shell:
    """Stands for an object of one of the archive's own classes: its attributes, none of its methods."""

    def __setstate__(self, state: Any) -> None:
        self.__dict__.update(state if isinstance(state, dict) else {"state": state})


def is_torchscript(file: Path) -> bool:
    """Whether a file is a TorchScript archive: a zip with constants beside its data."""
    if not zipfile.is_zipfile(file):
        return False
    with zipfile.ZipFile(file) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def read_torchscript(file: Path) -> dict[str, Tensor]:
    """All tensors of an archive by the path of attributes that leads to them, in their order.

    Raises ValueError for anything in it that is not a tensor, a number, a text, a list or such an object.
    """
    with zipfile.ZipFile(file) as archive:
        (root,) = {name.split("/")[0] for name in archive.namelist()}
        try:
            whole = _Reader(archive, root).load()
        except (pickle.UnpicklingError, AttributeError, TypeError, IndexError) as error:
            raise ValueError(f"{file}: holds more than tensors: {error}") from error
    found: dict[str, Tensor] = {}
    _collect(whole, "", found)
    return found


class _Reader(pickle.Unpickler):
    """Reads `data.pkl` of an archive."""

    def __init__(self, archive: zipfile.ZipFile, root: str) -> None:
        super().__init__(io.BytesIO(archive.read(f"{root}/data.pkl")))
        self._archive, self._root = archive, root

    def find_class(self, module: str, name: str) -> Any:
        if module.startswith("__torch__"):
            return type("Shell", (_Shell,), {})
        if module == "torch._utils" and name == "_rebuild_tensor_v2":
            return _tensor
        if module == "torch._utils" and name == "_rebuild_parameter":
            return _first
        if module == "torch" and name in _KINDS:
            return _KINDS[name]
        if module == "torch.jit._pickle" and name in _LISTS:
            return _first
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        raise pickle.UnpicklingError(f"{module}.{name}")

    def persistent_load(self, pid: Any) -> Tensor:
        kind, key, _, count = pid[1:5]
        values = np.frombuffer(self._archive.read(f"{self._root}/data/{key}"), kind)
        if len(values) < count:
            raise pickle.UnpicklingError(f"storage {key} is cut short")
        return torch.from_numpy(values.copy())


def _tensor(storage: Tensor, offset: int, size: Any, stride: Any, *_: Any) -> Tensor:
    return torch.as_strided(storage, tuple(size), tuple(stride), offset).clone()


def _first(value: Any, *_: Any) -> Any:
    return value


def _collect(value: Any, path: str, found: dict[str, Tensor]) -> None:
    if isinstance(value, Tensor):
        found[path] = value
        return
    items: Any = ()
    if isinstance(value, _Shell):
        items = vars(value).items()
    elif isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list | tuple):
        items = enumerate(value)
    for name, inside in items:
        _collect(inside, f"{path}.{name}" if path else str(name), found)
