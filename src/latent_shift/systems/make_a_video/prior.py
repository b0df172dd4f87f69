"""The prior: from a caption to the embedding of a still, as in the paper; an option, not the default.

Diffusion of embeddings by diffusers' `PriorTransformer`, which predicts the clean one (DALL-E 2, arXiv
2204.06125): mean squared error, cosine schedule. Of several draws the one nearest to the text's embedding
is taken. A still of Moving Shapes does not tell left from right, so a cascade with a prior cannot follow a
word of motion; so the stages read the text itself by default (`text_conditioning: direct`).

Shapes: B stills, E width of embeddings, L text tokens of width E.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import torch
from diffusers import DDIMScheduler, PriorTransformer
from pydantic import Field, ValidationError
from torch import Generator, Tensor, nn
from torch.nn import functional
from torch.utils.data import Dataset

from latent_shift.data.sources import AnyGeneratedSource
from latent_shift.documents import read_json_mapping, validation_error
from latent_shift.io import write_json
from latent_shift.model_weights import check_weights
from latent_shift.rng import StepRNG
from latent_shift.systems.make_a_video.stage import load_scheduler
from latent_shift.systems.make_a_video.text import StillEncoder, TextModel
from latent_shift.training.datasets import data_summary
from latent_shift.training.logging import Report
from latent_shift.training.model_setup import noise_scheduler
from latent_shift.training.recipe import Count, Holds, Recipe, Strict, known_to
from latent_shift.training.task import Task
from latent_shift.training.tasks.image import SchedulerConfig

PRIOR, PRIOR_FILE = "prior", "prior.json"


class PriorSampling(Strict):
    """Settings of sampling, written into the model."""

    num_inference_steps: Count = 20
    num_draws: Count = Field(2, description="embeddings drawn; the nearest to the text's is taken")


class Prior(nn.Module):
    """A `PriorTransformer` on embeddings scaled to unit variance, with its noise schedule."""

    def __init__(
        self, transformer: PriorTransformer, scheduler: DDIMScheduler, sampling: PriorSampling
    ) -> None:
        super().__init__()
        self.transformer, self.scheduler, self.sampling = transformer, scheduler, sampling
        self.scale = float(transformer.config.embedding_dim) ** 0.5  # of a unit vector's values
        for statistic in (transformer.clip_mean, transformer.clip_std):  # not used: `scale` is in their place
            statistic.requires_grad_(False)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Load the folder that `save` wrote, in float32. Raises ValueError for files missing or unfit."""
        file = folder / PRIOR_FILE
        try:
            sampling = PriorSampling.model_validate(read_json_mapping(file))
        except ValidationError as error:
            raise ValueError(f"{file}: {validation_error(error)}") from error
        check_weights(folder / "transformer", "diffusers", "PriorTransformer")
        transformer = PriorTransformer.from_pretrained(folder / "transformer", torch_dtype=torch.float32)
        return cls(transformer, load_scheduler(folder), sampling)

    def save(self, folder: Path) -> None:
        """Write `transformer/`, `scheduler/` and `prior.json`."""
        self.transformer.save_pretrained(folder / "transformer")
        self.scheduler.save_pretrained(folder / "scheduler")
        write_json(folder / PRIOR_FILE, self.sampling.model_dump())

    def forward(self, noisy: Tensor, timesteps: Tensor, text: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        """Clean embeddings (B, E), scaled, of noisy ones at timesteps (B,). text: as `TextModel.embed`."""
        states, pooled, tokens = text
        predicted: Tensor = self.transformer(
            noisy, timesteps, pooled * self.scale, states, tokens
        ).predicted_image_embedding
        return predicted.float()

    @torch.no_grad()
    def sample(self, text: TextModel, prompts: Sequence[str], generators: Sequence[Generator]) -> Tensor:
        """Unit vectors (B, E) for prompts, by a generator each: of the draws the nearest to the text's."""
        embedded = text.embed(prompts)
        device = embedded[1].device
        draws = [self._draw(embedded, generators, device) for _ in range(self.sampling.num_draws)]
        stacked = torch.stack(draws, dim=1)  # (B, draws, E)
        best = (stacked * embedded[1][:, None]).sum(dim=-1).argmax(dim=1)
        return stacked[torch.arange(len(stacked), device=device), best]

    def _draw(
        self, text: tuple[Tensor, Tensor, Tensor], generators: Sequence[Generator], device: torch.device
    ) -> Tensor:
        width = self.transformer.config.embedding_dim
        embeds = torch.stack([torch.randn(width, generator=one) for one in generators]).to(device)
        self.scheduler.set_timesteps(self.sampling.num_inference_steps, device=device)
        for timestep in self.scheduler.timesteps:
            predicted = self(embeds, timestep.expand(len(embeds)), text)
            embeds = self.scheduler.step(predicted, timestep, embeds).prev_sample
        return functional.normalize(embeds, dim=-1)


class PriorRecipe(Recipe):
    """A prior, trained on stills and their captions."""

    task: Literal["make_a_video_prior"]
    source: AnyGeneratedSource
    text_encoder_from: Annotated[Path, Holds(("text_encoder", "tokenizer"))] = Field(
        description="folder with text_encoder/ and tokenizer/"
    )
    video_encoder_from: Annotated[Path, Holds(("clip_tower",))] = Field(description="folder with clip_tower/")
    prior: Annotated[dict[str, Any], known_to(PriorTransformer, "embedding_dim", "num_embeddings")] = Field(
        description="diffusers PriorTransformer; its widths and lengths are those of the encoders"
    )
    scheduler: SchedulerConfig = Field({"log_snr_shift": 0.0}, description="diffusers DDIMScheduler")
    sampling: PriorSampling = PriorSampling()

    def data_summary(self) -> list[str]:
        """See `Recipe.data_summary`."""
        return data_summary(self.source, None)


class PriorTask(Task):
    """From stills uint8 (B, 1, H, W, 3) and captions to the squared error of their embeddings."""

    Config = PriorRecipe
    summary = "a prior: from a caption to the embedding of a still (arXiv 2204.06125)"
    recipe: PriorRecipe
    alphas: Tensor

    def __init__(self, recipe: PriorRecipe) -> None:
        super().__init__(recipe)
        self.text = TextModel.load(recipe.text_encoder_from)
        self.text_encoder = self.text.text_encoder
        self.still_encoder = StillEncoder(recipe.video_encoder_from)
        width = self.still_encoder.width
        if self.text_encoder.config.hidden_size != width:
            raise ValueError(
                f"video_encoder_from: its hidden_size is {width}, the text encoder's"
                f" {self.text_encoder.config.hidden_size}"
            )
        transformer = PriorTransformer(
            **recipe.prior, embedding_dim=width, num_embeddings=self.text.tokenizer.model_max_length
        )
        scheduler = noise_scheduler(
            {
                "clip_sample": False,
                "timestep_spacing": "trailing",
                **recipe.scheduler,
                "prediction_type": "sample",
            }
        )
        self.prior = Prior(transformer, scheduler, recipe.sampling)
        self.register_buffer("alphas", scheduler.alphas_cumprod.clone(), persistent=False)

    def dataset(self, report: Report) -> Dataset[dict[str, Any]]:
        """Captioned stills of the source."""
        return self.recipe.source.dataset(images=True)

    def validation(self, report: Report) -> Dataset[dict[str, Any]] | None:
        """Stills of another series of the source."""
        if self.recipe.validation is None:
            return None
        return self.recipe.source.other_series(self.recipe.validation.items).dataset(images=True)

    def forward(self, batch: dict[str, Any], rng: StepRNG) -> dict[str, Tensor]:
        """The loss of a batch, a scalar; `rng` decides timesteps and noise."""
        clean = self.still_encoder(batch["frames"][:, 0]) * self.prior.scale  # (B, E)
        generators = rng.item_generators(clean.device)
        noise = torch.stack([torch.randn(clean.shape[1], generator=g, device=g.device) for g in generators])
        start = float(torch.rand((), generator=rng.step_generator()))
        timesteps = (rng.stratified_uniforms(start)[:, 0] * len(self.alphas)).long().to(clean.device)
        alpha = self.alphas[timesteps][:, None]
        noisy = alpha.sqrt() * clean + (1 - alpha).sqrt() * noise
        predicted = self.prior(noisy, timesteps, self.text.embed(batch["caption"]))
        return {"loss": (predicted - clean).square().mean()}

    def export(self, folder: Path) -> None:
        """Write `prior/` and the text encoder into a model's folder."""
        self.prior.save(folder / PRIOR)
        self.text.save(folder)
