"""Clips encoded once: a store of latents on disk.

The autoencoder is fixed while the denoiser trains, so each frame is encoded one time and kept in half
precision. `encode` fills a store shard by shard and goes on where it was stopped; `read` gives it back whole.
Captions are not stored: the source still gives them, so every epoch may word them anew.

Shapes: N clips of a shard, F frames, C latent channels, h x w latent pixels.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import torch
from diffusers import AutoencoderKL
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from latent_shift.autoencoder import encode_frames

SHARD = 256  # clips in one file
_UNFINISHED = ".unfinished"


class ClipSource(Protocol):
    """What can be stored: clips by index, as frames uint8 (F, H, W, 3)."""

    def __len__(self) -> int: ...

    def frames(self, indices: Iterable[int]) -> np.ndarray:
        """uint8 (N, F, H, W, 3)."""
        ...


@torch.no_grad()
def encode(
    source: ClipSource,
    vae: AutoencoderKL,
    folder: Path,
    settings: dict[str, Any],
    *,
    chunk: int | None = None,
    workers: int = 0,
) -> Iterator[int]:
    """Encode all clips of a source into `folder`, yielding the number of clips done after each new shard.

    settings: what the latents depend on, kept beside them. chunk: frames encoded together; by default 256,
    which a CPU's cache holds, or 1024. workers: processes that give the frames; 0, this one.
    Raises ValueError where the folder holds latents of other settings. Shards that are there already, and
    full, are not made again.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _check_settings(folder, settings)
    chunk = chunk or (256 if vae.device.type == "cpu" else 1024)
    shards = [range(start, min(start + SHARD, len(source))) for start in range(0, len(source), SHARD)]
    missing = [shard for shard in shards if _clips_in(_shard(folder, shard.start)) < len(shard)]
    for shard, frames in zip(missing, _frames_of(source, missing, workers), strict=True):
        latents = encode_frames(vae, frames.flatten(0, 1), chunk).cpu().unflatten(0, (len(shard), -1))
        path = _shard(folder, shard.start)
        partial = path.with_suffix(_UNFINISHED)
        save_file({"latents": latents.half().contiguous()}, partial)
        os.replace(partial, path)
        yield shard.stop


def _frames_of(source: ClipSource, shards: list[range], workers: int) -> Iterable[Tensor]:
    """The frames of each shard, uint8 (N, F, H, W, 3), in order."""
    dataset = cast("Dataset[Tensor]", _Shards(source, shards))
    return DataLoader(dataset, batch_size=None, num_workers=workers)


class _Shards:
    """A dataset of whole shards, each drawn at once."""

    def __init__(self, source: ClipSource, shards: list[range]) -> None:
        self.source, self.shards = source, shards

    def __len__(self) -> int:
        return len(self.shards)

    def __getitem__(self, number: int) -> Tensor:
        return torch.from_numpy(self.source.frames(self.shards[number]))


def read(folder: Path, length: int) -> Tensor:
    """The first `length` stored clips, float16 (N, F, C, h, w). Raises ValueError where there are fewer."""
    shards = [_shard(folder, start) for start in range(0, length, SHARD)]
    found = [_load(path) for path in shards if path.exists()]
    clips = sum(map(len, found))
    if clips < length:
        raise ValueError(f"{folder} holds {clips} clips, not {length}: encode it again")
    return torch.cat(found)[:length]


def _shard(folder: Path, start: int) -> Path:
    return folder / f"latents-{start:08d}.safetensors"


def _clips_in(path: Path) -> int:
    """How many clips a shard holds; 0 where there is none."""
    if not path.exists():
        return 0
    with safe_open(path, framework="pt") as file:
        return int(file.get_slice("latents").get_shape()[0])


def _load(path: Path) -> Tensor:
    with safe_open(path, framework="pt") as file:
        tensor: Tensor = file.get_tensor("latents")
    return tensor


def _check_settings(folder: Path, settings: dict[str, Any]) -> None:
    path, text = folder / "settings.json", json.dumps(settings, sort_keys=True)
    if not path.exists():
        partial = path.with_suffix(_UNFINISHED)
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, path)
    elif path.read_text(encoding="utf-8") != text:
        raise ValueError(f"{folder} holds latents of other settings: name another folder, or remove it")
