"""Text of the stages: the states of the text encoder, or embeddings of stills in their place.

By default the stages read the states by cross-attention, as the other systems do. As in the paper
(`text_conditioning: prior`), they read the embedding of a still and no text; in training that of a frame by
the video encoder (`StillEncoder`), in sampling one that the prior makes of the prompt.

Shapes: B clips, F frames, L text tokens of width D, E width of embeddings of stills.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import VivitModel

from latent_shift.conditioning import encode_prompts
from latent_shift.model_weights import load_whole
from latent_shift.systems.make_a_video.data import resize, to_pixels
from latent_shift.training.text_encoder import embed_texts, load_text_encoder


@dataclass(frozen=True)
class TextModel:
    """Tokenizer and text encoder of a model's folder."""

    tokenizer: Any
    text_encoder: Any

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Load `tokenizer/` and `text_encoder/`, in float32."""
        tokenizer, encoder = load_text_encoder(folder)
        return cls(tokenizer, encoder.requires_grad_(False).eval())

    def save(self, folder: Path) -> None:
        """Write `tokenizer/` and `text_encoder/`."""
        self.tokenizer.save_pretrained(folder / "tokenizer")
        self.text_encoder.save_pretrained(folder / "text_encoder")

    @torch.no_grad()
    def embed(self, captions: Sequence[str]) -> tuple[Tensor, Tensor, Tensor]:
        """States (B, L, D), unit vectors (B, D), and which tokens are text, bool (B, L), of captions."""
        tokens = self.tokenizer(
            list(captions), padding="max_length", truncation=True, return_tensors="pt"
        ).attention_mask.bool()
        states = encode_prompts(self, captions).states
        return (
            states,
            embed_texts(self.tokenizer, self.text_encoder, list(captions)),
            tokens.to(states.device),
        )


class StillEncoder(nn.Module):
    """The video encoder on stills, each as a clip that stands still."""

    def __init__(self, folder: Path) -> None:
        """Load the `clip_tower/` of a folder."""
        super().__init__()
        self.encoder = load_whole(
            VivitModel, folder / "clip_tower", add_pooling_layer=False, dtype=torch.float32
        )
        self.requires_grad_(False).eval()

    @property
    def width(self) -> int:
        """E."""
        return int(self.encoder.config.hidden_size)

    @torch.no_grad()
    def forward(self, frames: Tensor) -> Tensor:
        """Unit vectors (B, E) of stills uint8 (B, H, W, 3)."""
        config = self.encoder.config
        stills = resize(to_pixels(frames[:, None], frames.shape[1]), config.image_size, "area")
        clips = stills.expand(-1, config.num_frames, -1, -1, -1)
        return functional.normalize(self.encoder(clips).last_hidden_state[:, 0].float(), dim=-1)
