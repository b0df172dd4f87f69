"""Moving Shapes as a torch dataset: clips or single frames with their captions, made as they are asked for.

No files and no state: item i depends on the dataset's settings and i alone, so any number of loader workers
may share it and every epoch sees the same items.
"""

from __future__ import annotations

from typing import TypedDict

import torch
from torch.utils.data import Dataset

from latent_shift.data.moving_shapes import captions, world
from latent_shift.data.moving_shapes.chance import generator, pick
from latent_shift.data.moving_shapes.render import render
from latent_shift.data.moving_shapes.scene import Scans, Split, draw_scene

_WORDING_STREAM = 1  # separate from the stream that draws the scene


class Item(TypedDict):
    """frames: uint8 (F, 64, 64, 3), F = 16 or, for images, 1; its caption; and its index."""

    frames: torch.Tensor
    caption: str
    index: int


class MovingShapes(Dataset[Item]):
    """Captioned clips of one level and split.

    length: number of items. images: one frame of each clip, chosen at random, with a caption that leaves the
    motion out. paraphrases: the share of captions in other than the canonical words, 0 to 1. The rest is as
    in `draw_scene`. Raises ValueError for settings outside these ranges.
    """

    def __init__(
        self,
        seed: int,
        length: int,
        *,
        level: int = 1,
        objects: int | None = None,
        split: Split = "seen",
        scans: Scans = "train",
        images: bool = False,
        paraphrases: float = 0.0,
    ) -> None:
        if length < 1:
            raise ValueError(f"length is {length}; a dataset needs at least one item")
        if not 0.0 <= paraphrases <= 1.0:
            raise ValueError(f"paraphrases is {paraphrases}; it is a share of the captions, from 0 to 1")
        self.seed, self.length = seed, length
        self.level, self.objects, self.split, self.scans = level, objects, split, scans
        self.images, self.paraphrases = images, paraphrases
        draw_scene(seed, 0, level=level, objects=objects, split=split, scans=scans)  # settings fail here

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Item:
        if not 0 <= index < self.length:
            raise IndexError(f"item {index} of a dataset of {self.length}")
        scene = draw_scene(
            self.seed, index, level=self.level, objects=self.objects, split=self.split, scans=self.scans
        )
        rng = generator(self.seed, index, _WORDING_STREAM)
        frames = [pick(rng, range(world.FRAMES))] if self.images else None
        in_other_words = rng.random() < self.paraphrases
        if self.images:
            text = captions.image_paraphrase(scene, rng) if in_other_words else captions.image_caption(scene)
        else:
            text = captions.paraphrase(scene, rng) if in_other_words else captions.caption(scene)
        return {"frames": torch.from_numpy(render([scene], frames)[0]), "caption": text, "index": index}
