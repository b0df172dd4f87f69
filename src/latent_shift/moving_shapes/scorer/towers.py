"""The package's own towers for Moving Shapes: clip and text embeddings of a small closed world, offline.

The clip tower was trained against the text tower to tell captions apart (`training/contrast.py`). Distances
on its embeddings are an FVD and an FID of that world, and their cosines with captions a CLIPSIM: for
comparing models of that world with one another and with nothing else. What a tower has not learned it does
not see; every result tells how often it finds a real clip's own caption among the others. The text tower also
conditions the model under test; the clip tower, which judges, is no part of it.

Clips of fewer frames are the same movement seen less often: each frame is held until the next is due.
A frame's embedding ("moving-shapes-frames") is that of the frame standing still for a whole clip.

Shapes: B clips of F frames of 64 x 64; N rows; embeddings of unit length (N, 128).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import VivitModel

from latent_shift.checkpoints import DEFAULT_MODEL, resolve
from latent_shift.evaluation.extractors.interface import Extracted, Facts, Per, TextExtractor
from latent_shift.evaluation.extractors.known import Given, view_of
from latent_shift.evaluation.extractors.published import joined_digest
from latent_shift.evaluation.extractors.resizing import View
from latent_shift.moving_shapes import constants
from latent_shift.training.text_tower import embed_texts, read_text_tower

NAME, FRAMES_NAME = "moving-shapes", "moving-shapes-frames"
VIEW = View(constants.SIZE, "bilinear", antialias=True)
_AT_ONCE = 64  # clips, or texts


class Towers(TextExtractor):
    """Embeddings of whole clips, or (per "frame") of each frame standing still, and of captions."""

    def __init__(
        self, folder: Path, per: Per = "clip", view: View = VIEW, device: torch.device | str = "cpu"
    ) -> None:
        tower, digest = _read_clip_tower(folder)
        config: Any = tower.config
        self.tokenizer, self.text_tower = read_text_tower(folder)
        self.text_tower.requires_grad_(False).eval().to(device)
        self.frames = int(config.num_frames)
        name = NAME if per == "clip" else FRAMES_NAME
        width = int(config.hidden_size)
        layer = f"clip tower, {width} numbers a {per}"
        facts = Facts(name, layer, digest, per, width)
        super().__init__(tower, facts, view, device)

    def run(self, pixels: Tensor) -> Extracted:
        """See `Extractor.run`."""
        clips = pixels / 127.5 - 1
        if self.facts.per == "clip":
            clips = clips[:, held_frames(clips.shape[1], self.frames)]
            return Extracted(torch.cat([self._embed(part) for part in clips.split(_AT_ONCE)]), None)
        frames = clips.flatten(0, 1)[:, None]  # (B * F, 1, 3, S, S)
        still = [self._embed(part.expand(-1, self.frames, -1, -1, -1)) for part in frames.split(_AT_ONCE)]
        return Extracted(torch.cat(still), None)

    @torch.no_grad()
    def texts(self, captions: Sequence[str]) -> Tensor:
        """Unit vectors (N, D)."""
        given = list(captions)
        parts = [
            embed_texts(self.tokenizer, self.text_tower, given[start : start + _AT_ONCE])
            for start in range(0, len(given), _AT_ONCE)
        ]
        return torch.cat(parts)

    def _embed(self, clips: Tensor) -> Tensor:
        network: Any = self.network
        return functional.normalize(network(clips).last_hidden_state[:, 0].float(), dim=-1)


def clip_features(given: Given) -> Towers:
    """The extractor "moving-shapes"."""
    return Towers(_folder(given), "clip", view_of(VIEW, given), given.device)


def frame_features(given: Given) -> Towers:
    """The extractor "moving-shapes-frames"."""
    return Towers(_folder(given), "frame", view_of(VIEW, given), given.device)


def _folder(given: Given) -> Path:
    return given.model or resolve(DEFAULT_MODEL)


def held_frames(frames: int, wanted: int) -> list[int]:
    """Which of `frames` frames is shown at each of `wanted` moments of the same clip."""
    return [moment * frames // wanted for moment in range(wanted)]


def _read_clip_tower(folder: Path) -> tuple[nn.Module, str]:
    """The tower in float32, and the hash over it and the text tower. ValueError for a folder without."""
    files = [folder / part / "model.safetensors" for part in ("clip_tower", "text_encoder")]
    for file in files:
        if not file.is_file():
            raise ValueError(
                f"{file.parent}: the towers of Moving Shapes are not there; name a model that has clip_tower/"
                " and text_encoder/, such as the built-in one"
            )
    tower = VivitModel.from_pretrained(folder / "clip_tower", dtype=torch.float32, add_pooling_layer=False)
    return tower, joined_digest(files)
