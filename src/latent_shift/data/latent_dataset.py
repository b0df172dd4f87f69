"""Clips encoded once: a folder of latents, and the dataset that reads them.

The autoencoder is fixed while the denoiser trains, so each frame is encoded one time and kept in half
precision. `encode_clips` fills a folder shard by shard and goes on where it was stopped; `read_latents` reads
it whole; `LatentDataset` gives the latents with captions. Captions are not stored: the source still gives
them, so every epoch may word them differently. The encoder is the caller's; no model runs here.

Shapes: N clips of a shard, F frames, C latent channels, h x w latent pixels.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from latent_shift.data.samplers import BatchSampler, ShuffledSampler, WeightedSampler
from latent_shift.data.sources.base import CaptionedClips
from latent_shift.data.workers import errors_of_workers
from latent_shift.io import atomic_file, read_safetensors_header, warn, write_text, zeros_at_end

SHARD_CLIPS = 256  # clips in one file
_SHARDS = "latents-*.safetensors"
_LEAST_TAIL = 1 << 8  # bytes of zeros that no latents end with


def encode_clips(
    clips: CaptionedClips,
    encode_frames: Callable[[Tensor], Tensor],
    folder: Path,
    settings: dict[str, Any],
    *,
    workers: int = 0,
) -> Iterator[int]:
    """Encode all clips into `folder`, yielding the number of clips done after each shard that was not there.

    encode_frames: from frames uint8 (N*F, H, W, 3) to latents (N*F, C, h, w). settings: JSON values that the
    latents depend on, stored beside them. workers: processes that give the frames; 0, this one. Raises
    ValueError where the folder holds latents of other settings.
    """
    missing = missing_shards(folder, len(clips), settings)
    frames_of_shards = DataLoader(
        cast("Dataset[Tensor]", _Shards(clips, missing)), batch_size=None, num_workers=workers
    )
    batches = iter(frames_of_shards)
    for shard in missing:
        with errors_of_workers():
            frames = next(batches)
        latents = encode_frames(frames.flatten(0, 1)).cpu().unflatten(0, (len(shard), -1))
        write_shard(folder, shard.start, {"latents": latents.half()})
        yield shard.stop


def missing_shards(folder: Path, length: int, settings: dict[str, Any]) -> list[range]:
    """The shards of `length` clips that a folder does not hold, as the numbers of their clips.

    settings: as of `encode_clips`; written where the folder has none. Raises ValueError where it holds
    latents of others.
    """
    stored, text = folder / "settings.json", json.dumps(settings, sort_keys=True)
    if not stored.exists():
        if any(folder.glob(_SHARDS)):
            raise ValueError(
                f"{folder} holds latents without their settings.json: put it back, or remove them"
            )
        write_text(stored, text)
    elif stored.read_text(encoding="utf-8").strip() != text:
        raise ValueError(f"{folder} holds latents of other settings: name another folder, or remove it")
    shards = [range(start, min(start + SHARD_CLIPS, length)) for start in range(0, length, SHARD_CLIPS)]
    return [shard for shard in shards if _clips_in(_shard_path(folder, shard.start)) < len(shard)]


def write_shard(folder: Path, start: int, tensors: dict[str, Tensor]) -> None:
    """Write the shard that begins with clip `start`: "latents", (N, ...), and others of N rows."""
    with atomic_file(_shard_path(folder, start)) as partial:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, partial)


class _Shards:
    """A dataset of the frames of whole shards, uint8 (N, F, H, W, 3)."""

    def __init__(self, clips: CaptionedClips, shards: list[range]) -> None:
        self.clips, self.shards = clips, shards

    def __len__(self) -> int:
        return len(self.shards)

    def __getitem__(self, number: int) -> Tensor:
        return torch.from_numpy(self.clips.frames(self.shards[number]))


def read_latents(folder: Path, length: int, name: str = "latents") -> Tensor:
    """The first `length` stored clips, float16 (N, F, C, h, w). Raises ValueError where there are fewer.

    name: of the tensor in each shard.
    """
    shards = []
    for path in (_shard_path(folder, start) for start in range(0, length, SHARD_CLIPS)):
        if path.exists():
            with safe_open(path, framework="pt") as file:
                shards.append(file.get_tensor(name))
    clips = sum(map(len, shards))
    if clips < length:
        raise ValueError(f"{folder} holds {clips} clips, not {length}: encode it again")
    return torch.cat(shards)[:length]


def _shard_path(folder: Path, start: int) -> Path:
    return folder / _SHARDS.replace("*", f"{start:08d}")


def _clips_in(path: Path) -> int:
    """The number of clips in a shard; 0 where there is none, and with a warning where it is damaged."""
    if not path.exists():
        return 0
    try:
        clips = read_safetensors_header(path).shapes["latents"][0]
        with path.open("rb") as opened:
            if zeros_at_end(opened) < _LEAST_TAIL:
                return clips
    except (ValueError, KeyError):
        pass
    warn(f"{path}: is damaged or cut off; its clips are encoded anew")
    return 0


class LatentDataset(Dataset[dict[str, Any]]):
    """Items of encoded clips: {"latents": float16 (F, C, h, w), "caption", "image_caption", "key"}.

    Args:
        latents: (clips, F, C, h, w).
        captions: of the clips, and maybe of others before them.
        images: whether an item is one frame of a clip, (1, C, h, w); the items are then all frames.
        name: of what the numbers in the keys count.
        first: the clip of `captions` that the latents begin with.
        wordings: captions of a clip, at most; None for another one each time.
        oversample_words: words of clips to see more often.
        oversample_ratio: share of a batch that is taken among the clips with such a word in their captions.

    Raises:
        ValueError: no clip's caption has one of the words.
    """

    def __init__(
        self,
        latents: Tensor,
        captions: CaptionedClips,
        *,
        images: bool = False,
        name: str = "clip",
        first: int = 0,
        wordings: int | None = None,
        oversample_words: Sequence[str] = (),
        oversample_ratio: float = 0.0,
    ) -> None:
        self.latents, self.captions, self.images, self.first = latents, captions, images, first
        self.name = name
        self.frames, self.wordings = latents.shape[1] if images else 1, wordings
        self.oversampled, self.oversample_ratio = self._with_words(oversample_words), oversample_ratio

    def _with_words(self, words: Sequence[str]) -> list[int]:
        """The items of clips with one of the words in their canonical caption."""
        if not words:
            return []
        clips = range(len(self.latents))
        words_of = [set(self.captions.caption(self.first + clip).split()) for clip in clips]
        unknown = set(words).difference(*words_of)
        if unknown:
            raise ValueError(
                f"oversample_words: no clip's canonical caption has the word {', '.join(sorted(unknown))}"
            )
        return [
            clip * self.frames + frame
            for clip in clips
            if words_of[clip].intersection(words)
            for frame in range(self.frames)
        ]

    def all_wordings(self) -> Iterator[str]:
        """All captions of all items, clip by clip, where `wordings` bounds their number.

        Captions of single frames as well, which other words may be true of.
        """
        for clip in range(len(self.latents)):
            for turn in range(self.wordings or 0):
                for image in (True,) if self.images else (True, False):
                    yield self.captions.paraphrase(self._wording(clip, turn), image=image)

    def _wording(self, clip: int, turn: int) -> int:
        """The index of a caption in the series, of a clip that comes for the `turn`-th time."""
        if self.wordings is not None:
            turn %= self.wordings
        return turn * len(self.captions) + self.first + clip

    def batch_sampler(self, batch_size: int, seed: int) -> BatchSampler:
        """All items shuffled, some of them oversampled."""
        if not self.oversampled:
            return ShuffledSampler(len(self), batch_size, seed)
        return WeightedSampler(len(self), self.oversampled, self.oversample_ratio, batch_size, seed)

    def __len__(self) -> int:
        return len(self.latents) * self.frames

    def __getitem__(self, index: int) -> dict[str, Any]:
        epoch, item = divmod(index, len(self))
        clip, frame = divmod(item, self.frames)
        wording = self._wording(clip, epoch * self.frames + frame)
        return {
            "latents": self.latents[clip, frame : frame + 1] if self.images else self.latents[clip],
            "caption": self.captions.paraphrase(wording),
            "image_caption": self.captions.paraphrase(wording, image=True),
            "key": f"{self.name} {self.first + clip}",
        }
