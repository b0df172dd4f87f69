"""The task text_contrastive: a text encoder that reads the content of a caption, however it is worded.

A caption and a paraphrase of it should land close together, and apart from all others of the batch: the
contrastive loss of CLIP (arXiv 2103.00020) between texts. In a large batch many captions share colour and
background, so shape, motion and size have to be encoded as well. Clips come later
(`video_text_contrastive.py`): their pixels teach an encoder colours long before shapes, and it forgets what
it does not need.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator
from torch import Tensor
from torch.utils.data import Dataset
from transformers import CLIPTextConfig

from latent_shift.data.caption_io import read_text
from latent_shift.data.samplers import ShuffledSampler
from latent_shift.data.sources import AnyGeneratedSource
from latent_shift.data.sources.base import CaptionedClips
from latent_shift.documents import parse_yaml
from latent_shift.io import warn
from latent_shift.rng import StepRNG, choice, item_rng
from latent_shift.training.datasets import data_summary
from latent_shift.training.logging import Report
from latent_shift.training.recipe import Recipe, exactly_one, known_to
from latent_shift.training.task import Task
from latent_shift.training.tasks.video_text_contrastive import (
    LogitScale,
    contrastive_loss,
    refuse_without_effect,
)
from latent_shift.training.text_encoder import embed_texts, new_text_encoder

_IMAGES = 4  # every fourth pair is of image captions, which leave the motion out
_FROM_TOKENIZER = ("vocab_size", "bos_token_id", "eos_token_id", "pad_token_id")


class TextContrastiveRecipe(Recipe):
    """A text encoder, trained so that two wordings of one content land close together."""

    loss_is_mean = False

    task: Literal["text_contrastive"]
    source: AnyGeneratedSource | None = Field(None, description="a generated source; or paraphrases")
    paraphrases: Path | None = Field(
        None, description="YAML list of contents, each a list of sentences that say the same; or source"
    )
    text_encoder: Annotated[dict[str, Any], known_to(CLIPTextConfig, *_FROM_TOKENIZER)]

    def data_summary(self) -> list[str]:
        """See `Recipe.data_summary`."""
        if self.paraphrases is not None:
            return [f"The sentences of `{self.paraphrases}`."]
        return data_summary(self.source, None)

    @model_validator(mode="after")
    def _one_kind_of_data(self) -> TextContrastiveRecipe:
        exactly_one(self, "source", "paraphrases")
        refuse_without_effect(self)
        return self


class SourceParaphrases(Dataset[dict[str, str]]):
    """Items {"caption": in canonical words, "paraphrase": as the source words it at this index}."""

    def __init__(self, clips: CaptionedClips) -> None:
        self.clips = clips

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> dict[str, str]:
        image = index % _IMAGES == 0
        return {
            "caption": self.clips.caption(index, image=image),
            "paraphrase": self.clips.paraphrase(index, image=image),
        }


class FileParaphrases(Dataset[dict[str, str]]):
    """The same items of a file: a YAML list of contents, each a list of sentences that say the same."""

    def __init__(self, path: Path, seed: int) -> None:
        self.contents, self.seed = read_paraphrases(path), seed

    def __len__(self) -> int:
        return len(self.contents)

    def __getitem__(self, index: int) -> dict[str, str]:
        first, *others = self.contents[index % len(self)]
        return {"caption": first, "paraphrase": choice(item_rng(self.seed, index), others)}

    def batch_sampler(self, batch_size: int, seed: int) -> ShuffledSampler:
        """All contents shuffled, none of them twice in a batch."""
        return ShuffledSampler(len(self), batch_size, seed, drop_last=True)

    def words(self) -> list[str]:
        """All words, in lower case."""
        text = " ".join(sentence for content in self.contents for sentence in content)
        return sorted(set(re.findall("[a-z]+", text.lower())))


def read_paraphrases(path: Path) -> list[list[str]]:
    """The contents of a file. Raises ValueError naming the file and what is wrong with it."""
    try:
        text, guesses = read_text(path)
        contents = parse_yaml(text, f"{path}: cannot be read")
    except ValueError as error:
        raise ValueError(f"paraphrases: {error}") from error
    for guess in guesses:
        warn(f"paraphrases: {guess}")
    if not isinstance(contents, list) or len(contents) < 2:
        raise ValueError(f"paraphrases: {path}: must be a list of two contents or more")
    for number, content in enumerate(contents, 1):
        if not isinstance(content, list) or len(content) < 2 or not all(isinstance(s, str) for s in content):
            raise ValueError(f"paraphrases: {path}: content {number} must be a list of two sentences or more")
    return contents


class TextContrastiveTask(Task):
    """From B captions and their paraphrases to the contrastive loss."""

    Config = TextContrastiveRecipe
    summary = "a text model"
    recipe: TextContrastiveRecipe

    def __init__(self, recipe: TextContrastiveRecipe) -> None:
        super().__init__(recipe)
        words = self._from_file().words() if recipe.source is None else recipe.source.vocabulary()
        # Named as in the checkpoints of earlier runs.
        self.tokenizer, self.text_tower = new_text_encoder(recipe.text_encoder, words)
        self.scale = LogitScale()

    def dataset(self, report: Report) -> SourceParaphrases | FileParaphrases:
        """Captions of the source (nothing is rendered), or the sentences of the file."""
        source = self.recipe.source
        return self._from_file() if source is None else SourceParaphrases(source.captioned_clips())

    def _from_file(self) -> FileParaphrases:
        assert self.recipe.paraphrases is not None  # the recipe has one of the two
        data = FileParaphrases(self.recipe.paraphrases, self.recipe.seed)
        if self.recipe.batch_size > len(data):
            raise ValueError(
                f"batch_size is {self.recipe.batch_size}, but {self.recipe.paraphrases} has"
                f" {len(data)} contents: in a batch each may stand once"
            )
        return data

    def forward(self, batch: dict[str, Any], rng: StepRNG) -> dict[str, Tensor]:
        """The loss, and how often a paraphrase's caption is found among the batch's, scalars."""
        texts = embed_texts(self.tokenizer, self.text_tower, [*batch["caption"], *batch["paraphrase"]])
        captions, paraphrases = texts.chunk(2)
        return contrastive_loss(paraphrases, captions, self.scale())

    def export(self, folder: Path) -> None:
        """Write `text_encoder/` and `tokenizer/`."""
        self.tokenizer.save_pretrained(folder / "tokenizer")
        self.text_tower.save_pretrained(folder / "text_encoder")
