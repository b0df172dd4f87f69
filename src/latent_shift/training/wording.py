"""The wording objective: a text tower that reads what a caption says, however it is said.

A caption and another wording of the same content should land close together, and apart from all others of
the batch: the contrast of CLIP (arXiv 2103.00020) between texts. In a large batch many captions share colour
and background, so shape, motion and size have to be told as well. Clips come after, in `contrast.py`: their
pixels teach a tower colours long before shapes, and what it does not need it forgets.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.utils.data import Dataset

from latent_shift.data.moving_shapes import Scenes
from latent_shift.training.contrast import Scale, contrast_loss
from latent_shift.training.draws import Draws
from latent_shift.training.log import Progress
from latent_shift.training.recipe import WordingRecipe
from latent_shift.training.text_tower import embed_texts, new_text_tower

_IMAGES = 4  # every fourth pair is of image captions, which leave the motion out


class Wordings(Dataset[dict[str, str]]):
    """Items {"caption": in the canonical words, "wording": as the world words it at this visit}."""

    def __init__(self, scenes: Scenes) -> None:
        self.scenes = scenes

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, visit: int) -> dict[str, str]:
        image = visit % _IMAGES == 0
        return {
            "caption": self.scenes.caption(visit, image=image),
            "wording": self.scenes.words(visit, image=image),
        }


class WordingObjective(nn.Module):
    """B captions in two wordings in, the loss of telling them apart out."""

    def __init__(self, recipe: WordingRecipe) -> None:
        super().__init__()
        self.recipe = recipe
        self.tokenizer, self.text_tower = new_text_tower(recipe.text_tower)
        self.scale = Scale()

    def dataset(self, report: Callable[[Progress], None]) -> Wordings:
        """Captions of the recipe's levels; nothing is rendered."""
        return Wordings(Scenes(self.recipe.world))

    def forward(self, batch: dict[str, Any], draws: Draws) -> dict[str, Tensor]:
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
