"""Latents and text embeddings computed ahead of a training, for `data pack --latents-of MODEL`.

The file layout and the dataset that reads it are `data/precomputed.py`; here the models run.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field

from latent_shift import checkpoints
from latent_shift.autoencoder import encode_frames, encoder_hash
from latent_shift.conditioning import encode_prompts, text_encoder_hash, warn_if_truncated
from latent_shift.data.manifest import ClipRecord
from latent_shift.data.precomputed import precomputed_files, read_all_frames
from latent_shift.data.video_dataset import DEFAULT_FPS
from latent_shift.limits import MAX_FPS, MAX_SIDE

CHUNK = 32  # frames decoded and encoded together


class PrecomputeOptions(BaseModel):
    """Settings of what is computed of every clip."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str = Field(min_length=1, description="model of the autoencoder and the text encoders")
    fps: float = Field(DEFAULT_FPS, gt=0, le=MAX_FPS, description="frames a second")
    height: int = Field(256, ge=8, le=MAX_SIDE, description="pixels")
    width: int = Field(256, ge=8, le=MAX_SIDE, description="pixels")


def model_hashes(model: Any) -> dict[str, str]:
    """Hashes of the parts of a pipeline that precomputed files depend on."""
    return {"autoencoder": encoder_hash(model.vae), "text_model": text_encoder_hash(model)}


class LatentEncoder:
    """Encoder of `data.pack.pack`: the two files of each record.

    The model is loaded once in each process that uses the encoder.
    """

    def __init__(self, settings: PrecomputeOptions) -> None:
        self.settings = settings
        self._warned = False  # that a caption is truncated

    def __getstate__(self) -> dict[str, Any]:
        return {"settings": self.settings, "_warned": False}  # another process loads the model anew

    @cached_property
    def _model(self) -> Any:
        model = checkpoints.load(self.settings.model, device="auto", dtype="fp32")
        multiple = model.vae_scale_factor
        for name in ("height", "width"):
            pixels = getattr(self.settings, name)
            if pixels % multiple:
                raise ValueError(f"--{name} {pixels}: this model takes multiples of {multiple}")
        return model

    @cached_property
    def settings_record(self) -> dict[str, Any]:
        """The settings and models that the files depend on."""
        return {**self.settings.model_dump(exclude={"model"}), **model_hashes(self._model)}

    def files(self, record: ClipRecord) -> dict[str, bytes]:
        """The files of a record by their suffixes. Raises ValueError where its clip cannot be read."""
        self._warned = self._warned or warn_if_truncated(self._model, record.captions)
        size = (self.settings.height, self.settings.width)
        frames = read_all_frames(record, self.settings.fps, size, CHUNK)
        latents = torch.cat([encode_frames(self._model.vae, part, CHUNK).half().cpu() for part in frames])
        embeds = encode_prompts(self._model, record.captions)
        text = {"text": embeds.states, **({} if embeds.pooled is None else {"pooled": embeds.pooled})}
        return precomputed_files(latents, text, self.settings_record)
