"""The task cogvideo_tokenizer: the frame tokenizer, trained to reconstruct single frames.

The package's reconstruction loss, absolute and squared error, and the commitment loss. No discriminator and
no perceptual loss, which CompVis/taming-transformers adds on pretrained weights.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from diffusers import VQModel
from pydantic import Field, model_validator
from torch import Tensor
from torch.utils.data import Dataset

from latent_shift.autoencoder import to_model_range
from latent_shift.data.sources import AnyGeneratedSource
from latent_shift.media import write_image
from latent_shift.rng import StepRNG
from latent_shift.systems.cogvideo.tokenizer import FOLDER, FrameTokenizer, Quantizer, QuantizerConfig
from latent_shift.training.compiling import ready_to_compile
from latent_shift.training.datasets import data_summary
from latent_shift.training.logging import Report
from latent_shift.training.model_setup import check_same_network
from latent_shift.training.recipe import Holds, Recipe, known_to
from latent_shift.training.task import Task

_SAMPLED = 10**6  # index of frames for samples, far from what is trained on


class TokenizerRecipe(Recipe):
    """A frame tokenizer, trained on single frames."""

    task: Literal["cogvideo_tokenizer"]
    source: AnyGeneratedSource = Field(description="frames of a generated source")
    autoencoder: Annotated[
        dict[str, Any], known_to(VQModel, "num_vq_embeddings", "vq_embed_dim", "lookup_from_codebook")
    ] = Field(description="diffusers VQModel; its codebook is that of quantizer")
    quantizer: Quantizer = QuantizerConfig()
    crop: int | None = Field(None, ge=8, description="train on windows of so many pixels around the objects")
    init_from: Annotated[Path | None, Holds((FOLDER,))] = Field(
        None, description=f"folder with the {FOLDER}/ to start from; none: new weights"
    )

    def check(self) -> None:
        """See `Recipe.check`. Raises ValueError for a codebook in several processes."""
        super().check()
        if self.quantizer.kind == "vq" and int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise ValueError(
                "quantizer: the codebook of vq follows one process's latents; train in one process, or with"
                " quantizer: fsq"
            )

    def data_summary(self) -> list[str]:
        """See `Recipe.data_summary`."""
        return data_summary(self.source, None)

    @model_validator(mode="after")
    def _codebook_sees_whole_batches(self) -> TokenizerRecipe:
        if self.quantizer.kind == "vq" and self.gradient_accumulation_steps > 1:
            raise ValueError(
                "gradient_accumulation_steps: the codebook of vq follows whole batches; set 1, or quantizer:"
                " fsq"
            )
        return self

    @model_validator(mode="after")
    def _sizes_fit(self) -> TokenizerRecipe:
        scale = 2 ** (len(self.autoencoder.get("block_out_channels", (64,))) - 1)
        _, _, height, width = self.source.shape
        sides = {"the height of source": height, "the width of source": width}
        if self.crop is not None:
            sides = {"crop": self.crop}
            if self.crop > min(height, width):
                raise ValueError(f"crop {self.crop} is larger than the frames of source, {height}x{width}")
        for name, side in sides.items():
            if side % scale:
                raise ValueError(f"{name}, {side} pixels, is no multiple of the autoencoder's scale, {scale}")
        return self


class TokenizerTask(Task):
    """From frames uint8 (B, 1, H, W, 3) to the loss of their reconstruction from tokens."""

    Config = TokenizerRecipe
    summary = "a frame tokenizer"
    recipe: TokenizerRecipe

    def __init__(self, recipe: TokenizerRecipe) -> None:
        super().__init__(recipe)
        if recipe.init_from is None:
            self.tokenizer = FrameTokenizer(recipe.autoencoder, recipe.quantizer)
        else:
            self.tokenizer = FrameTokenizer.load(recipe.init_from / FOLDER)
            _check_same_tokenizer(self.tokenizer, recipe, recipe.init_from)
        if recipe.compile:
            ready_to_compile(self.tokenizer.vq.encoder).compile()
            ready_to_compile(self.tokenizer.vq.decoder).compile()

    def dataset(self, report: Report) -> Dataset[dict[str, Any]]:
        """Single frames of the source, or windows of them."""
        return self.recipe.source.dataset(images=True, crop=self.recipe.crop)

    def validation(self, report: Report) -> Dataset[dict[str, Any]] | None:
        """Whole frames of another series of the same source."""
        if self.recipe.validation is None:
            return None
        return self.recipe.source.other_series(self.recipe.validation.items).dataset(images=True)

    def forward(self, batch: dict[str, Any], rng: StepRNG) -> dict[str, Tensor]:
        """The loss and its parts, scalars; `rng` decides what the codebook draws.

        perplexity: the number of codes, all equally frequent, with the entropy of the batch's tokens.
        """
        pixels = to_model_range(batch["frames"][:, 0])  # (B, 3, H, W) in [-1, 1]
        latents = self.tokenizer.vq.encode(pixels).latents
        quantized, tokens, commitment = self.tokenizer.quantize(
            latents, seed=rng.seed if self.training else None
        )
        error = self.tokenizer.decode_latents(quantized).float() - pixels
        squared = error.square().mean()
        return {
            "loss": error.abs().mean() + squared + commitment,
            "psnr": 10 * torch.log10(4 / squared.detach()),
            "commitment": commitment.detach(),
            "perplexity": perplexity(tokens, len(self.tokenizer.codes)),
        }

    @torch.no_grad()
    def samples(self, folder: Path, step: int) -> None:
        """Write a sheet of frames above their reconstructions."""
        whole = self.recipe.source.dataset(images=True)
        frames = torch.cat([whole[index]["frames"] for index in range(_SAMPLED, _SAMPLED + 16)])
        restored = self.tokenizer.decode(self.tokenizer.encode(frames)).cpu()
        rows = [torch.cat(list(part), dim=1) for part in (frames[:8], restored[:8], frames[8:], restored[8:])]
        write_image(folder / f"step-{step:08d}.png", torch.cat(rows).numpy(), overwrite=True)

    def export(self, folder: Path) -> None:
        """Write `frame_tokenizer/`."""
        self.tokenizer.save(folder / FOLDER)


def perplexity(tokens: Tensor, codes: int) -> Tensor:
    """Exponential of the entropy of the tokens' distribution over `codes`, a scalar."""
    shares = torch.bincount(tokens.flatten(), minlength=codes) / tokens.numel()
    return torch.special.entr(shares).sum().exp()


def _check_same_tokenizer(loaded: FrameTokenizer, recipe: TokenizerRecipe, folder: Path) -> None:
    """Raise ValueError where a recipe's keys are of another tokenizer than `init_from` (`folder`) has."""
    check_same_network(loaded.vq, recipe.autoencoder, "autoencoder", folder)
    if "quantizer" in recipe.model_fields_set and recipe.quantizer != loaded.config:
        raise ValueError(
            f"quantizer is {recipe.quantizer!r}, and that of init_from is {loaded.config!r}: it is the"
            f" tokenizer of {folder} that is trained; set quantizer to its values, leave it out, or remove"
            " init_from"
        )
