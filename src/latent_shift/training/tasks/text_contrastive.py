"""The wording objective: a text tower that reads what a caption says, however it is said.

A caption and another wording of the same content should land close together, and apart from all others of
the batch: the contrast of CLIP (arXiv 2103.00020) between texts. In a large batch many captions share colour
and background, so shape, motion and size have to be told as well. Clips come after, in `contrast.py`: their
pixels teach a tower colours long before shapes, and what it does not need it forgets.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor, nn
from torch.utils.data import Dataset

from latent_shift.data.sources.base import CaptionedClips
from latent_shift.rng import StepRNG, choice, item_rng
from latent_shift.training.log import Progress
from latent_shift.training.recipe import WordingRecipe
from latent_shift.training.tasks.video_text_contrastive import Scale, contrast_loss
from latent_shift.training.text_tower import embed_texts, new_text_tower

_IMAGES = 4  # every fourth pair is of image captions, which leave the motion out


class Wordings(Dataset[dict[str, str]]):
    """Items {"caption": in the canonical words, "wording": as the world words it at this visit}."""

    def __init__(self, scenes: CaptionedClips) -> None:
        self.scenes = scenes

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, visit: int) -> dict[str, str]:
        image = visit % _IMAGES == 0
        return {
            "caption": self.scenes.caption(visit, image=image),
            "wording": self.scenes.paraphrase(visit, image=image),
        }


class FileWordings(Dataset[dict[str, str]]):
    """The same items of a file: a YAML list of contents, each a list of sentences that say the same."""

    def __init__(self, path: Path, seed: int) -> None:
        self.contents, self.seed = read_wordings(path), seed

    def __len__(self) -> int:
        return len(self.contents)

    def __getitem__(self, visit: int) -> dict[str, str]:
        first, *others = self.contents[visit % len(self)]
        return {"caption": first, "wording": choice(item_rng(self.seed, visit), others)}

    def words(self) -> list[str]:
        """All words, in lower case."""
        text = " ".join(sentence for content in self.contents for sentence in content)
        return sorted(set(re.findall("[a-z]+", text.lower())))


def read_wordings(path: Path) -> list[list[str]]:
    """The contents of a file. Raises ValueError naming the file and what is wrong with it."""
    try:
        contents = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"wordings: {path}: cannot be read: {' '.join(str(error).split())}") from error
    if not isinstance(contents, list) or len(contents) < 2:
        raise ValueError(f"wordings: {path}: must be a list of two contents or more")
    for number, content in enumerate(contents, 1):
        if not isinstance(content, list) or len(content) < 2 or not all(isinstance(s, str) for s in content):
            raise ValueError(f"wordings: {path}: content {number} must be a list of two sentences or more")
    return contents


class WordingObjective(nn.Module):
    """B captions in two wordings in, the loss of telling them apart out."""

    def __init__(self, recipe: WordingRecipe) -> None:
        super().__init__()
        self.recipe = recipe
        words = self._of_file().words() if recipe.world is None else recipe.world.vocabulary()
        self.tokenizer, self.text_tower = new_text_tower(recipe.text_tower, words)
        self.scale = Scale()

    def dataset(self, report: Callable[[Progress], None]) -> Wordings | FileWordings:
        """Captions of the recipe's levels (nothing is rendered), or the sentences of its file."""
        world = self.recipe.world
        return self._of_file() if world is None else Wordings(world.captioned_clips())

    def _of_file(self) -> FileWordings:
        assert self.recipe.wordings is not None  # the recipe has one of the two
        data = FileWordings(self.recipe.wordings, self.recipe.seed)
        if self.recipe.batch_size > len(data):
            raise ValueError(
                f"batch_size is {self.recipe.batch_size}, but {self.recipe.wordings} has"
                f" {len(data)} contents: in a batch each may stand once"
            )
        return data

    def forward(self, batch: dict[str, Any], rng: StepRNG) -> dict[str, Tensor]:
        """The loss, and how often a wording's caption is found among the batch's, scalars."""
        texts = embed_texts(self.tokenizer, self.text_tower, [*batch["caption"], *batch["wording"]])
        captions, wordings = texts.chunk(2)
        return contrast_loss(wordings, captions, self.scale())

    def samples(self, folder: Path, step: int) -> None:
        """Nothing to look at."""

    def export(self, folder: Path) -> None:
        """Write `text_encoder/` and `tokenizer/`."""
        self.tokenizer.save_pretrained(folder / "tokenizer")
        self.text_tower.save_pretrained(folder / "text_encoder")
