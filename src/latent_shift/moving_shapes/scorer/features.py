"""Extractors of Moving Shapes: features of clips and frames for distances and scores of whole sets.

Two kinds, for comparing models of this world with each other and with nothing else:

- `ScorerFeatures` ("moving-shapes-eyes"): the scorer's own measurements of one object, exact about geometry.
A
  Fréchet distance on these is an FVD based on measured positions instead of a learned embedding; logits are
  those of the scorer's shape network, for an Inception Score.
- `Encoders` ("moving-shapes", and "moving-shapes-frames" for frames repeated to whole clips): embeddings of
the
  video encoder, trained contrastively against the text encoder, and of captions, for FVD, FID and CLIPSIM.
  What the encoder has not learned it does not see; reports state how often it finds a real clip's own
  caption. The text encoder also conditions the model under test; the video encoder is no part of it.

Shape legend: B clips, F frames of 64 x 64, N rows, D = 128.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from transformers import VivitModel

from latent_shift.checkpoints import DEFAULT_MODEL, resolve
from latent_shift.evaluation.extractors.base import (
    Extractor,
    ExtractorInfo,
    ExtractorOutput,
    Per,
    Preprocessing,
    TextExtractor,
)
from latent_shift.evaluation.extractors.registry import ExtractorOptions
from latent_shift.evaluation.extractors.weights import combined_hash
from latent_shift.model_weights import load_whole
from latent_shift.moving_shapes import constants
from latent_shift.moving_shapes.scorer import shape_match
from latent_shift.moving_shapes.scorer.segment import segment
from latent_shift.moving_shapes.scorer.tracking import track_object
from latent_shift.training.text_encoder import embed_texts, load_text_encoder

PREPROCESSING = Preprocessing(constants.SIZE, "bilinear", antialias=True)
# Position (x, y), size and presence at each of 16 moments; probabilities of shapes; one-hot colour and
# background.
SCORER_WIDTH = (
    4 * constants.FRAMES + len(constants.SHAPES) + len(constants.COLOURS) + len(constants.BACKGROUNDS)
)
_CHUNK = 64  # clips, or texts, in one call of an encoder


class ScorerFeatures(Extractor):
    """The extractor "moving-shapes-eyes": features (B, SCORER_WIDTH) and logits (B, 17) of clips."""

    def __init__(self, options: ExtractorOptions) -> None:
        stored = files("latent_shift").joinpath("assets", shape_match.WEIGHTS_FILE).read_bytes()
        digest = hashlib.sha256(stored).hexdigest()[:12]
        layer = f"the scorer's measures, {SCORER_WIDTH} numbers a clip"
        info = ExtractorInfo("moving-shapes-eyes", layer, digest, "clip", SCORER_WIDTH, classifies=True)
        # The scorer runs on numpy arrays, so always on the CPU.
        super().__init__(shape_match.ShapeNetwork(), info, PREPROCESSING, replace(options, device="cpu"))

    def run(self, pixels: Tensor) -> ExtractorOutput:
        """See `Extractor.run`."""
        clips = pixels.round().byte().permute(0, 1, 3, 4, 2).numpy()
        features, logits = (np.stack(rows) for rows in zip(*map(extract, clips), strict=True))
        return ExtractorOutput(torch.from_numpy(features), torch.from_numpy(logits))


def extract(clip: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Features (SCORER_WIDTH,) and log-probabilities of shapes (17,) of one clip (F, 64, 64, 3).

    Position and size are 0 in frames without the object; in clips without any, all shapes are equally likely.
    """
    segments = segment(clip, 1)
    background = _one_hot(constants.BACKGROUNDS, segments.background)
    if not segments.colours:
        logits = np.full(len(constants.SHAPES), -np.log(len(constants.SHAPES)), np.float32)
        positions = np.zeros(4 * constants.FRAMES, np.float32)
        return np.concatenate(
            [positions, np.exp(logits), _one_hot(constants.COLOURS, None), background]
        ), logits
    cover = segments.cover[0]
    hidden = np.zeros(cover.shape, bool)
    track = track_object(cover, hidden)
    votes = shape_match.classify_frames(cover, hidden, track, np.zeros(len(clip), np.float32))  # (F, 17)
    weight = track.trust / max(float(track.trust.sum()), 1e-6)
    logits = (weight @ np.maximum(votes, shape_match.MIN_LOG_PROBABILITY)).astype(np.float32)
    present = track.present.astype(np.float32)
    moments = held_frames(len(clip), constants.FRAMES)
    measured = (track.x * present, track.y * present, track.size * present, present)
    positions = np.concatenate([values[moments] for values in measured])
    shapes = np.exp(logits - logits.max())
    colour = _one_hot(constants.COLOURS, segments.colours[0])
    features = np.concatenate([positions, shapes / shapes.sum(), colour, background])
    return features.astype(np.float32), logits


class Encoders(TextExtractor):
    """The extractor "moving-shapes": embeddings (N, D) of unit length, of clips and captions.

    per: "frame" gives those of every frame, repeated to a clip.
    """

    def __init__(self, options: ExtractorOptions, per: Per = "clip") -> None:
        folder = options.model or resolve(DEFAULT_MODEL)
        network, digest = _read_video_encoder(folder)
        config: Any = network.config
        self.tokenizer, self.text_encoder = load_text_encoder(folder)
        self.text_encoder.requires_grad_(False).eval().to(options.device)
        self.num_frames, width = int(config.num_frames), int(config.hidden_size)
        name = "moving-shapes" if per == "clip" else "moving-shapes-frames"
        layer = f"video encoder, {width} numbers a {per}"
        info = ExtractorInfo(name, layer, digest, per, width, classifies=False)
        super().__init__(network, info, PREPROCESSING, options)

    def run(self, pixels: Tensor) -> ExtractorOutput:
        """See `Extractor.run`."""
        clips = pixels / 127.5 - 1
        if self.info.per == "clip":
            clips = clips[:, held_frames(clips.shape[1], self.num_frames)]
            return ExtractorOutput(torch.cat([self._embed(part) for part in clips.split(_CHUNK)]), None)
        frames = clips.flatten(0, 1)[:, None]  # (B * F, 1, 3, S, S)
        parts = [self._embed(part.expand(-1, self.num_frames, -1, -1, -1)) for part in frames.split(_CHUNK)]
        return ExtractorOutput(torch.cat(parts), None)

    @torch.no_grad()
    def texts(self, captions: Sequence[str]) -> Tensor:
        """Embeddings (N, D) of captions, of unit length."""
        texts = list(captions)
        parts = (texts[start : start + _CHUNK] for start in range(0, len(texts), _CHUNK))
        return torch.cat([embed_texts(self.tokenizer, self.text_encoder, part) for part in parts])

    def _embed(self, clips: Tensor) -> Tensor:
        network: Any = self.network
        return functional.normalize(network(clips).last_hidden_state[:, 0].float(), dim=-1)


frame_encoders = partial(Encoders, per="frame")  # the extractor "moving-shapes-frames"


def held_frames(frames: int, wanted: int) -> list[int]:
    """Indices that stretch a clip of `frames` frames to `wanted`: frames are held until the next is due."""
    return [moment * frames // wanted for moment in range(wanted)]


def _read_video_encoder(folder: Path) -> tuple[nn.Module, str]:
    """The video encoder in float32, and the digest of both encoders. Raises ValueError if one is missing."""
    weights = [folder / part / "model.safetensors" for part in ("clip_tower", "text_encoder")]
    for file in weights:
        if not file.is_file():
            raise ValueError(
                f"{file.parent}: the encoders of Moving Shapes are not there; name a model that has"
                " clip_tower/ and text_encoder/, such as the built-in one"
            )
    network = load_whole(VivitModel, folder / "clip_tower", dtype=torch.float32, add_pooling_layer=False)
    return network, combined_hash(weights)


def _one_hot(names: dict[str, constants.RGB], name: str | None) -> NDArray[np.float32]:
    return np.array([known == name for known in names], np.float32)
