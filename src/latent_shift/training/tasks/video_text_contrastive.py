"""The task video_text_contrastive: a video encoder that brings a clip close to its caption.

The loss is CLIP's (arXiv 2103.00020) with clips in place of images: in a batch, each clip should be most
similar to its own caption and each caption to its own clip; and each clip more similar to its caption than to
sentences that are wrong in one shape or motion (hard negative texts, arXiv 2210.01936). The text encoder is
trained already (`text_contrastive.py`) and frozen (locked-image tuning, arXiv 2111.07991, the other way
round); it conditions the denoiser, while the video encoder (`VivitModel`) serves evaluation. Both embeddings
are the encoders' own outputs, at the end token and at the class token; there are no projections.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import Dataset
from transformers import VivitConfig, VivitModel

from latent_shift.data.sources import AnyGeneratedSource
from latent_shift.rng import StepRNG
from latent_shift.training.datasets import data_summary
from latent_shift.training.logging import Report
from latent_shift.training.recipe import Holds, Recipe, known_to, making_network
from latent_shift.training.task import Task
from latent_shift.training.text_encoder import embed_texts, load_text_encoder

MAX_SCALE = 100.0  # of the cosines before the softmax, as in CLIP


class VideoTextContrastiveRecipe(Recipe):
    """A video encoder, trained so that a clip lands close to its caption."""

    loss_is_mean = False

    task: Literal["video_text_contrastive"]
    source: AnyGeneratedSource
    text_encoder_from: Annotated[Path, Holds(("text_encoder", "tokenizer"))]
    video_encoder: Annotated[dict[str, Any], known_to(VivitConfig)]
    hard_negatives: int = Field(0, ge=0, le=64, description="captions a clip wrong in one motion or shape")

    @model_validator(mode="after")
    def _keys_have_an_effect(self) -> VideoTextContrastiveRecipe:
        refuse_without_effect(self)
        return self

    def data_summary(self) -> list[str]:
        """See `Recipe.data_summary`."""
        return data_summary(self.source, None)


def refuse_without_effect(recipe: Recipe) -> None:
    """Raise ValueError for keys that a contrastive task does not heed."""
    for name in ("compile", "sample_every"):
        if value := getattr(recipe, name):
            raise ValueError(f"{name} is {value}: task {recipe.task} neither compiles nor samples; remove it")


class LogitScale(nn.Module):
    """The learned factor of the cosines before the softmax, a scalar from 0 to MAX_SCALE."""

    def __init__(self) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(math.log(10.0)))

    def forward(self) -> Tensor:
        """The factor."""
        return self.log_scale.exp().clamp(max=MAX_SCALE)


def contrastive_loss(
    first: Tensor, second: Tensor, scale: Tensor, hard_negatives: Tensor | None = None
) -> dict[str, Tensor]:
    """The loss of B pairs of unit vectors (B, D), and how often `second` is found by `first`, scalars.

    scale: factor of the cosines. hard_negatives: (B, M, D), for each of the first M that are not its own;
    the metric `hard_negative_accuracy` is how often its own is more similar than all of them.
    """
    logits = scale * first.float() @ second.float().T  # (B, B)
    own = torch.arange(len(logits), device=logits.device)
    found = (logits.argmax(dim=1) == own).float().mean()
    metrics, extended = {"found": found, "scale": scale.detach()}, logits
    if hard_negatives is not None:
        near = scale * torch.einsum("bd,bmd->bm", first.float(), hard_negatives.float())
        extended = torch.cat([logits, near], dim=1)  # (B, B + M)
        metrics["hard_negative_accuracy"] = (logits.diagonal() > near.amax(dim=1)).float().mean()
    loss = (functional.cross_entropy(extended, own) + functional.cross_entropy(logits.T, own)) / 2
    return {"loss": loss, **metrics}


class VideoTextContrastiveTask(Task):
    """From clips uint8 (B, F, H, W, 3) and B captions to the contrastive loss."""

    Config = VideoTextContrastiveRecipe
    summary = "a clip model"
    recipe: VideoTextContrastiveRecipe

    def __init__(self, recipe: VideoTextContrastiveRecipe) -> None:
        super().__init__(recipe)
        # The parts are named as in the checkpoints of earlier runs.
        self.tokenizer, text_encoder = load_text_encoder(recipe.text_encoder_from)
        self.text_tower = text_encoder.requires_grad_(False)
        with making_network("video_encoder"):
            config = VivitConfig(**recipe.video_encoder)
        if config.hidden_size != text_encoder.config.hidden_size:
            raise ValueError(
                f"video_encoder: hidden_size is {config.hidden_size}, but must be"
                f" {text_encoder.config.hidden_size}: the text encoder's"
            )
        with making_network("video_encoder"):
            self.clip_tower = VivitModel(config, add_pooling_layer=False)
        self.scale = LogitScale()

    def dataset(self, report: Report) -> Dataset[dict[str, Any]]:
        """Captioned clips of the source."""
        return self.recipe.source.dataset(hard_negatives=self.recipe.hard_negatives)

    def forward(self, batch: dict[str, Any], rng: StepRNG) -> dict[str, Tensor]:
        """The loss, and how often the caption of a clip is found among the batch's, scalars."""
        with torch.no_grad():
            texts = embed_texts(self.tokenizer, self.text_tower, batch["caption"])
            negatives = [
                embed_texts(self.tokenizer, self.text_tower, some) for some in batch.get("hard_negatives", [])
            ]
        clips = self.embed_clips(batch["frames"])
        return contrastive_loss(
            clips, texts, self.scale(), torch.stack(negatives, dim=1) if negatives else None
        )

    def embed_clips(self, frames: Tensor) -> Tensor:
        """Unit vectors (B, D) of clips uint8 (B, F, H, W, 3)."""
        pixels = frames.permute(0, 1, 4, 2, 3).float().div(127.5).sub(1)
        return functional.normalize(self.clip_tower(pixels).last_hidden_state[:, 0].float(), dim=-1)

    def export(self, folder: Path) -> None:
        """Write `clip_tower/`."""
        self.clip_tower.save_pretrained(folder / "clip_tower")
