"""Latents and text embeddings computed once and kept beside each clip in its shard: file layout and dataset.

`data pack --latents-of MODEL` writes them, for all frames of a clip at one rate and size;
`PrecomputedLatentDataset` gives windows of them, so that a training neither decodes nor encodes. Each file
records which models made it: files of other models are refused.

    0001.mp4   0001.json   0001.latents.safetensors (F, C, h, w)   0001.text.safetensors (captions, L, D)

The text of SDXL's layout has pooled embeddings (captions, P) as well. The models are the caller's
(`training/precompute.py`); none runs here.
Shapes: F frames, C latent channels, h x w latent pixels, L tokens of width D; float16.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, from_numpy

from latent_shift.data.manifest import ClipRecord, FileRef, Manifest
from latent_shift.data.resize import Size, center_crop_resize
from latent_shift.data.video_dataset import DEFAULT_FPS, ClipSettings, VideoDataset, clip_bounds
from latent_shift.media import open_clip
from latent_shift.rng import choice

_TRIED = 4  # files that are opened before any work
LATENTS, TEXT = "latents.safetensors", "text.safetensors"  # suffixes


def precomputed_files(
    latents: Tensor, text: Mapping[str, Tensor], settings_record: Mapping[str, Any]
) -> dict[str, bytes]:
    """The files beside a clip, by their suffixes: latents (F, C, h, w) of all its frames, and texts.

    text: embeddings of the captions, "text" (captions, L, D) and in SDXL's layout "pooled" (captions, P).
    settings_record: rate, size and models that they depend on, which a dataset compares with its own.
    """
    made = {"made": json.dumps(settings_record)}  # one key: safetensors keeps no order of several
    halves = {name: tensor.half().contiguous().cpu() for name, tensor in text.items()}
    return {
        LATENTS: save({"latents": latents.half().contiguous().cpu()}, metadata=made),
        TEXT: save(halves, metadata=made),
    }


def read_all_frames(record: ClipRecord, fps: float, size: Size, chunk: int) -> Iterator[Tensor]:
    """Yield all frames of a record at a rate and size, uint8 (F, height, width, 3), `chunk` at a time.

    Raises ValueError for a file that cannot be read, an empty piece, or a clip slower than `fps`.
    """
    with open_clip(record.file.open()) as clip:
        times = [0.0]
        if record.kind == "clip":
            first, last, slack = clip_bounds(clip.facts, record, fps)
            if last < first - slack:
                raise ValueError(f"{record.file}: its piece holds no frame")
            count = int((last - first + slack) * fps) + 1
            times = [min(first + number / fps, max(last, first)) for number in range(count)]
        for start in range(0, len(times), chunk):
            yield center_crop_resize(from_numpy(clip.frames(times[start : start + chunk])), size)


class PrecomputedLatentDataset(VideoDataset):
    """Windows of precomputed latents: items {"latents", "text", "caption", "image_caption", "fps", "key"}.

    In SDXL's layout also "pooled", beside "text". models: hashes of the models that the files must be of, as
    their `settings_record` names them. Raises ValueError for a manifest without latents, or with those of
    another model, rate or size, naming both.
    """

    def __init__(
        self, manifest: Manifest, settings: ClipSettings, models: Mapping[str, str], **options: Any
    ) -> None:
        if settings.buckets is not None or settings.stride is not None:
            raise ValueError(
                "clips.precomputed_latents: has one rate and one size; set fps, height and width"
            )
        size = {"height": settings.height, "width": settings.width}
        self.expected: dict[str, Any] = {"fps": settings.fps or DEFAULT_FPS, **size, **models}
        super().__init__(manifest, settings, **options)
        self._check_first()

    def _check_first(self) -> None:
        """Raise ValueError before any work where no window can be taken from the first files.

        One damaged file, or one short clip, is not reason enough.
        """
        problems = []
        for record in self.records[:_TRIED]:
            try:
                self._window(record, np.random.default_rng(0))
                return
            except ValueError as error:
                problems.append(error)
        raise problems[0]

    def _item(self, record: ClipRecord, rng: np.random.Generator, size: Size | None) -> dict[str, Any]:
        latents = self._window(record, rng)
        number = choice(rng, range(len(record.captions)))
        caption, text = record.captions[number], self._read(record, record.text, "text")
        return {
            "latents": latents, **{name: tensor[number] for name, tensor in text.items()}, "caption": caption,
            "image_caption": caption, "fps": self.expected["fps"], "key": record.key,
        }  # fmt: skip

    def _window(self, record: ClipRecord, rng: np.random.Generator) -> Tensor:
        """Latents (F, C, h, w) of as many frames as the settings ask for, from anywhere in the record."""
        latents = self._read(record, record.latents, "latents")["latents"]
        frames = 1 if record.kind == "image" else self.settings.num_frames
        room = len(latents) - frames
        if room < 0:
            raise ValueError(f"{record.file}: is too short: {len(latents)} frames of the {frames} requested")
        start = int(rng.random() * (room + 1))
        return latents[start : start + frames]

    def _read(self, record: ClipRecord, file: FileRef | None, name: str) -> dict[str, Tensor]:
        """The tensors of a precomputed file, `name` among them."""
        if file is None:
            raise ValueError(f"{record.file}: has no {name} beside it: pack it with --latents-of")
        data = getattr(file.open(), "data", None)
        assert isinstance(data, bytes)  # a member of a tar
        try:
            tensors: dict[str, Tensor] = load(data)
        except SafetensorError as error:
            raise ValueError(f"{file}: cannot be read: {error}") from error
        if name not in tensors:
            raise ValueError(f"{file}: cannot be read: it holds no {name}")
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        made = json.loads(header.get("__metadata__", {}).get("made", "{}"))
        for key, value in self.expected.items():
            if made.get(key) != value:
                raise ValueError(f"{file}: is of {key} {made.get(key)}, not {value}: pack it anew")
        return tensors
