"""The contrast objective: a text tower and a clip tower that bring a caption and its clip close together.

The loss is CLIP's (arXiv 2103.00020), clips in place of images: in a batch, each clip should be most like its
own caption and each caption most like its own clip. The text tower (transformers' `CLIPTextModel`) conditions
the denoiser; the clip tower (`VivitModel`) serves evaluation. Both embeddings are the towers' own outputs, at
the end token and at the class token; there are no projections.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPTextConfig, CLIPTextModel, VivitConfig, VivitModel

from latent_shift.data.moving_shapes import MovingShapes, vocabulary
from latent_shift.training.log import Progress
from latent_shift.training.recipe import ContrastRecipe
from latent_shift.training.tokenizer import make_tokenizer

LARGEST_SCALE = 100.0  # of the cosines before the softmax, as in CLIP


class ContrastObjective(nn.Module):
    """Clips uint8 (B, F, H, W, 3) and B captions in, the loss of telling them apart out."""

    def __init__(self, recipe: ContrastRecipe) -> None:
        super().__init__()
        self.recipe = recipe
        length = CLIPTextConfig(**recipe.text_tower).max_position_embeddings
        self.tokenizer = make_tokenizer(vocabulary(), length)
        self.text_tower = CLIPTextModel(
            CLIPTextConfig(
                **recipe.text_tower, vocab_size=len(self.tokenizer), bos_token_id=self.tokenizer.bos_token_id,
                eos_token_id=self.tokenizer.eos_token_id, pad_token_id=self.tokenizer.pad_token_id,
            )
        )  # fmt: skip
        self.clip_tower = VivitModel(VivitConfig(**recipe.clip_tower), add_pooling_layer=False)
        self.log_scale = nn.Parameter(torch.tensor(math.log(10.0)))

    def dataset(self, report: Callable[[Progress], None]) -> MovingShapes:
        """Captioned clips of the recipe's levels."""
        return MovingShapes(self.recipe.world)

    def forward(self, batch: dict[str, Any], seed: int) -> dict[str, Tensor]:
        """The loss, and how often the caption of a clip is found among the batch's, scalars."""
        texts, clips = self.embed_texts(batch["caption"]), self.embed_clips(batch["frames"])
        scale = self.log_scale.exp().clamp(max=LARGEST_SCALE)
        logits = scale * clips.float() @ texts.float().T  # (B, B): clip, caption
        own = torch.arange(len(logits), device=logits.device)
        loss = (functional.cross_entropy(logits, own) + functional.cross_entropy(logits.T, own)) / 2
        return {"loss": loss, "found": (logits.argmax(dim=1) == own).float().mean(), "scale": scale.detach()}

    def embed_texts(self, captions: list[str]) -> Tensor:
        """Unit vectors (B, D) of B captions."""
        ids = self.tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt").input_ids
        pooled = self.text_tower(ids.to(self.log_scale.device)).pooler_output
        return functional.normalize(pooled, dim=-1)

    def embed_clips(self, frames: Tensor) -> Tensor:
        """Unit vectors (B, D) of clips uint8 (B, F, H, W, 3)."""
        pixels = frames.permute(0, 1, 4, 2, 3).float().div(127.5).sub(1)
        return functional.normalize(self.clip_tower(pixels).last_hidden_state[:, 0], dim=-1)

    def samples(self, folder: Path, step: int) -> None:
        """Nothing to look at."""

    def export(self, folder: Path) -> None:
        """Write `text_encoder/`, `tokenizer/` and `clip_tower/`."""
        self.tokenizer.save_pretrained(folder / "tokenizer")
        self.text_tower.save_pretrained(folder / "text_encoder")
        self.clip_tower.save_pretrained(folder / "clip_tower")
