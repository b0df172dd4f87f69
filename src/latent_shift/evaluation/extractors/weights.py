"""From a published weight file to tensors: found in a folder, checked by hash, read without running any code.

Files lie in the folder named by --weights or the environment variable LATENT_SHIFT_METRIC_WEIGHTS, or one
folder below. Read are `.npz` (no pickles in it), `.safetensors`, and torch's `.pt` and `.pth`: tensors alone.
"""

from __future__ import annotations

import os
import pickle
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from latent_shift.evaluation.extractors.published import Published, check_hash
from latent_shift.evaluation.extractors.torchscript import is_torchscript, read_torchscript

FOLDER_VARIABLE = "LATENT_SHIFT_METRIC_WEIGHTS"
Tensors = dict[str, Tensor]


def find(published: Sequence[Published], folder: Path | None, wanted_by: str) -> tuple[Path, str]:
    """The first of these files that is there, and its hash (12 digits), checked where known.

    Raises ValueError, with what to fetch from whom and where to put it, where none is; and as `check_hash`.
    """
    named = os.environ.get(FOLDER_VARIABLE)
    place = folder if folder is not None else Path(named) if named else None
    for one in published:
        for inside in _folders(place):
            if (inside / one.name).is_file():
                return inside / one.name, check_hash(inside / one.name, one)
    where = f"{place} has none" if place is not None else "no folder of weights is named"
    raise ValueError(
        f"{wanted_by} needs a weights file, and {where}: get {' or '.join(str(one) for one in published)};"
        f" put it into a folder and name that with --weights or {FOLDER_VARIABLE}"
    )


def read_tensors(file: Path) -> Tensors:
    """The tensors in a file, by name. Raises ValueError for a file that is damaged or holds anything else."""
    try:
        if file.suffix == ".npz":
            with np.load(file, allow_pickle=False) as arrays:
                return {name: torch.from_numpy(arrays[name]) for name in arrays.files}
        if file.suffix == ".safetensors":
            return load_file(file)
        if is_torchscript(file):
            return read_torchscript(file)
        found = torch.load(file, map_location="cpu", weights_only=True)
    except (OSError, ValueError, RuntimeError, EOFError, KeyError) as error:
        raise _unreadable(file, error) from error
    except (pickle.UnpicklingError, zipfile.BadZipFile, SafetensorError) as error:
        raise _unreadable(file, error) from error
    return _only_tensors(file, found)


def load_into(network: nn.Module, tensors: Tensors, file: Path) -> None:
    """Put tensors into a network. ValueError for one that is missing, too many, or of another shape."""
    wanted = {name: tensor.shape for name, tensor in network.state_dict().items()}
    # Old torch versions, and so the published files, do not count batches.
    given = {name: tensor for name, tensor in tensors.items() if not name.endswith("num_batches_tracked")}
    wanted = {name: shape for name, shape in wanted.items() if not name.endswith("num_batches_tracked")}
    for names, told in ((wanted.keys() - given, "lacks"), (given.keys() - wanted, "holds, unexpected,")):
        if names:
            raise ValueError(f"{file}: {told} {len(names)} tensors, the first {min(names)}")
    for name, shape in wanted.items():
        if given[name].shape != shape:
            raise ValueError(f"{file}: {name} is {tuple(given[name].shape)}; expected {tuple(shape)}")
    network.load_state_dict(given, strict=False)


def renamed(tensors: Mapping[str, Tensor], rename: Callable[[str], str]) -> Tensors:
    """The same tensors under other names."""
    return {rename(name): tensor for name, tensor in tensors.items()}


def _folders(place: Path | None) -> list[Path]:
    if place is None:
        return []
    if not place.is_dir():
        raise ValueError(f"{place}: there is no such folder of weights")
    return [place, *sorted(folder for folder in place.iterdir() if folder.is_dir())]


def _only_tensors(file: Path, found: object) -> Tensors:
    if isinstance(found, dict) and isinstance(found.get("state_dict"), dict):
        found = found["state_dict"]
    if not isinstance(found, dict) or not all(isinstance(value, Tensor) for value in found.values()):
        raise ValueError(f"{file}: holds {type(found).__name__}; expected tensors by name")
    return {str(name): tensor for name, tensor in found.items()}


def _unreadable(file: Path, error: Exception) -> ValueError:
    reason = " ".join(str(error).split())[:300]
    return ValueError(f"{file}: cannot be read as weights alone, without running code from it: {reason}")
