"""Latents and text states computed once, and kept beside each clip in its shard.

`data pack --latents-of MODEL` writes them, for all frames of a clip at one rate and size; `AheadVideos` gives
windows of them to a training, which then neither decodes nor encodes. Each file says which models made it:
those of others are refused.

    0001.mp4   0001.json   0001.latents.safetensors (F, C, h, w)   0001.text.safetensors (captions, L, D)

The text of SDXL's layout has pooled states (captions, P) as well.
Shapes: F frames, C latent channels, h x w latent pixels, L tokens of width D; float16.
"""

from __future__ import annotations

import json
from functools import cached_property
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from latent_shift import checkpoints
from latent_shift.autoencoder import encode_frames, encoder_hash
from latent_shift.conditioning import encode_prompts, text_encoder_hash, warn_if_truncated
from latent_shift.data.manifest import ClipRecord, FileRef, Manifest
from latent_shift.data.resize import Size, center_crop_resize
from latent_shift.data.video_dataset import DEFAULT_FPS, MOST_PIXELS, ClipSettings, VideoDataset, clip_bounds
from latent_shift.media import open_clip
from latent_shift.rng import choice

LATENTS, TEXT = "latents.safetensors", "text.safetensors"
_CHUNK = 32  # frames decoded and encoded at once


class PrecomputeOptions(BaseModel):
    """What is computed of every clip."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str = Field(min_length=1, description="whose autoencoder and text model: as `--model` names it")
    fps: float = Field(DEFAULT_FPS, gt=0, le=1000, description="frames a second")
    height: int = Field(256, ge=8, le=MOST_PIXELS, description="pixels")
    width: int = Field(256, ge=8, le=MOST_PIXELS)


class Encoder:
    """Computes the two files of an entry. The model is loaded once in each process that uses it."""

    def __init__(self, settings: PrecomputeOptions) -> None:
        self.settings = settings
        self._warned_of_cut = False

    def __getstate__(self) -> dict[str, Any]:
        return {"settings": self.settings, "_warned_of_cut": False}  # another process loads the model anew

    @cached_property
    def _model(self) -> Any:
        model = checkpoints.load(self.settings.model, device="auto", dtype="fp32")
        multiple = model.vae_scale_factor
        for name in ("height", "width"):
            if getattr(self.settings, name) % multiple:
                raise ValueError(
                    f"--{name} {getattr(self.settings, name)}: this model takes multiples of {multiple}"
                )
        return model

    @cached_property
    def facts(self) -> dict[str, Any]:
        """What the files depend on, for the settings of a pack and the head of each file."""
        seen = {name: getattr(self.settings, name) for name in ("fps", "height", "width")}
        return {
            **seen, "autoencoder": encoder_hash(self._model.vae), "text_model": text_encoder_hash(self._model)
        }  # fmt: skip

    def files(self, entry: ClipRecord) -> dict[str, bytes]:
        """The files of an entry by their suffixes. Raises ValueError where its clip cannot be read."""
        facts = {"made": json.dumps(self.facts)}  # one entry: safetensors keeps no order of several
        self._warned_of_cut = self._warned_of_cut or warn_if_truncated(self._model, entry.captions)
        latents, told = self._latents(entry), encode_prompts(self._model, entry.captions)
        text = {"text": told.states, **({} if told.pooled is None else {"pooled": told.pooled})}
        return {
            LATENTS: save({"latents": latents}, metadata=facts),
            TEXT: save({name: part.half().contiguous().cpu() for name, part in text.items()}, metadata=facts),
        }

    def _latents(self, entry: ClipRecord) -> Tensor:
        """(F, C, h, w): all frames between the entry's start and end."""
        size = (self.settings.height, self.settings.width)
        with open_clip(entry.place.open()) as clip:
            times = [0.0] if entry.kind == "image" else all_times(clip.facts, entry, self.settings.fps)
            parts = []
            for start in range(0, len(times), _CHUNK):
                frames = center_crop_resize(
                    torch.from_numpy(clip.frames(times[start : start + _CHUNK])), size
                )
                parts.append(encode_frames(self._model.vae, frames, _CHUNK).half().cpu())
        return torch.cat(parts).contiguous()


def all_times(facts: Any, entry: ClipRecord, fps: float) -> list[float]:
    """The times (seconds) of all frames of an entry at a rate.

    Raises ValueError for an empty piece, or a slower clip.
    """
    first, last, slack = clip_bounds(facts, entry, fps)
    if last < first - slack:
        raise ValueError(f"{entry.place}: its piece holds no frame")
    count = int((last - first + slack) * fps) + 1
    return [min(first + place / fps, max(last, first)) for place in range(count)]


class PrecomputedLatentDataset(VideoDataset):
    """Windows of latents computed ahead: items {"latents", "text", "caption", "image_caption", "fps", "key"}.

    In SDXL's layout also "pooled", beside "text".
    model: the pipeline that they must be of. Raises ValueError for a listing without them, or of another
    model, rate or size, naming both.
    """

    def __init__(self, listing: Manifest, settings: ClipSettings, model: Any, **more: Any) -> None:
        if settings.buckets is not None or settings.stride is not None:
            raise ValueError("clips.ahead: has one rate and one size; set fps, height and width")
        self.wanted = {
            "fps": settings.fps or DEFAULT_FPS,
            "height": settings.height,
            "width": settings.width,
            "autoencoder": encoder_hash(model.vae),
            "text_model": text_encoder_hash(model),
        }
        super().__init__(listing, settings, **more)
        self._window(self.entries[0], np.random.default_rng(0))  # told before any work

    def _item(self, entry: ClipRecord, rng: np.random.Generator, size: Size | None) -> dict[str, Any]:
        latents = self._window(entry, rng)
        number = choice(rng, range(len(entry.captions)))
        caption, text = entry.captions[number], self._read(entry, entry.text, "text")
        return {
            "latents": latents, **{name: part[number] for name, part in text.items()}, "caption": caption,
            "image_caption": caption, "fps": self.wanted["fps"], "key": entry.key,
        }  # fmt: skip

    def _window(self, entry: ClipRecord, rng: np.random.Generator) -> Tensor:
        """(F, C, h, w): as many frames as asked for, from anywhere in the entry."""
        whole = self._read(entry, entry.latents, "latents")["latents"]
        frames = 1 if entry.kind == "image" else self.settings.num_frames
        room = len(whole) - frames
        if room < 0:
            raise ValueError(f"{entry.place}: is too short: {len(whole)} frames of the {frames} asked for")
        start = int(rng.random() * (room + 1))
        return whole[start : start + frames]

    def _read(self, entry: ClipRecord, place: FileRef | None, name: str) -> dict[str, Tensor]:
        """The tensors of a file, `name` among them."""
        if place is None:
            raise ValueError(f"{entry.place}: has no {name} beside it: pack it with --latents-of")
        file = place.open()
        data = getattr(file, "data", None)
        assert isinstance(data, bytes)  # a member of a tar
        try:
            tensors: dict[str, Tensor] = load(data)
        except SafetensorError as error:
            raise ValueError(f"{place}: cannot be read: {error}") from error
        if name not in tensors:
            raise ValueError(f"{place}: cannot be read: it holds no {name}")
        made = _metadata(data)
        for key, value in self.wanted.items():
            if made.get(key) != value:
                raise ValueError(f"{place}: is of {key} {made.get(key)}, not {value}: pack it anew")
        return tensors


def _metadata(data: bytes) -> dict[str, Any]:
    """What a file of ours says it was made by."""
    length = int.from_bytes(data[:8], "little")
    head: dict[str, Any] = json.loads(data[8 : 8 + length])
    told: dict[str, Any] = json.loads(head.get("__metadata__", {}).get("made", "{}"))
    return told
