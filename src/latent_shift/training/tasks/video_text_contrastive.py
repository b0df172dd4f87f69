"""The contrast objective: a clip tower that brings a clip close to its caption.

The loss is CLIP's (arXiv 2103.00020), clips in place of images: in a batch, each clip should be most like
its own caption and each caption most like its own clip; and each clip more like its caption than like
sentences that are false of it in one shape or motion (hard negative texts, arXiv 2210.01936). The text tower
is trained already (`wording.py`) and stays as it is (locked-image tuning, arXiv 2111.07991, the other way
round); it conditions the denoiser, while the clip tower (`VivitModel`) serves evaluation. Both embeddings are
the towers' own outputs, at the end token and at the class token; there are no projections.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import Dataset
from transformers import VivitConfig, VivitModel

from latent_shift.rng import StepRNG
from latent_shift.training.log import Progress
from latent_shift.training.recipe import ContrastRecipe
from latent_shift.training.text_tower import embed_texts, read_text_tower

LARGEST_SCALE = 100.0  # of the cosines before the softmax, as in CLIP


class Scale(nn.Module):
    """The learned factor of the cosines before the softmax, a scalar."""

    def __init__(self) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(math.log(10.0)))

    def forward(self) -> Tensor:
        """From 0 to LARGEST_SCALE."""
        return self.log_scale.exp().clamp(max=LARGEST_SCALE)


def contrast_loss(
    first: Tensor, second: Tensor, scale: Tensor, misses: Tensor | None = None
) -> dict[str, Tensor]:
    """The loss of B pairs of unit vectors (B, D), and how often `second` is found by `first`, scalars.

    misses: (B, M, D), of each of the first M more that are not its own; `told` is how often none is nearer.
    """
    logits = scale * first.float() @ second.float().T  # (B, B)
    own = torch.arange(len(logits), device=logits.device)
    found = (logits.argmax(dim=1) == own).float().mean()
    losses, told = {"found": found, "scale": scale.detach()}, logits
    if misses is not None:
        near = scale * torch.einsum("bd,bmd->bm", first.float(), misses.float())
        told = torch.cat([logits, near], dim=1)  # (B, B + M)
        losses["told"] = (logits.diagonal() > near.amax(dim=1)).float().mean()
    loss = (functional.cross_entropy(told, own) + functional.cross_entropy(logits.T, own)) / 2
    return {"loss": loss, **losses}


class ContrastObjective(nn.Module):
    """Clips uint8 (B, F, H, W, 3) and B captions in, the loss of telling them apart out."""

    def __init__(self, recipe: ContrastRecipe) -> None:
        super().__init__()
        self.recipe = recipe
        self.tokenizer, text_tower = read_text_tower(recipe.text)
        self.text_tower = text_tower.requires_grad_(False)
        config = VivitConfig(**recipe.clip_tower)
        if config.hidden_size != text_tower.config.hidden_size:
            raise ValueError(
                f"clip_tower: hidden_size is {config.hidden_size}, but must be"
                f" {text_tower.config.hidden_size}: the text tower's"
            )
        self.clip_tower = VivitModel(config, add_pooling_layer=False)
        self.scale = Scale()

    def dataset(self, report: Callable[[Progress], None]) -> Dataset[dict[str, Any]]:
        """Captioned clips of the recipe's levels."""
        return self.recipe.world.dataset(hard_negatives=self.recipe.misses)

    def forward(self, batch: dict[str, Any], rng: StepRNG) -> dict[str, Tensor]:
        """The loss, and how often the caption of a clip is found among the batch's, scalars."""
        with torch.no_grad():
            texts = embed_texts(self.tokenizer, self.text_tower, batch["caption"])
            misses = [
                embed_texts(self.tokenizer, self.text_tower, some) for some in batch.get("hard_negatives", [])
            ]
        clips = self.embed_clips(batch["frames"])
        return contrast_loss(clips, texts, self.scale(), torch.stack(misses, dim=1) if misses else None)

    def embed_clips(self, frames: Tensor) -> Tensor:
        """Unit vectors (B, D) of clips uint8 (B, F, H, W, 3)."""
        pixels = frames.permute(0, 1, 4, 2, 3).float().div(127.5).sub(1)
        return functional.normalize(self.clip_tower(pixels).last_hidden_state[:, 0].float(), dim=-1)

    def samples(self, folder: Path, step: int) -> None:
        """Nothing to look at."""

    def export(self, folder: Path) -> None:
        """Write `clip_tower/`."""
        self.clip_tower.save_pretrained(folder / "clip_tower")
