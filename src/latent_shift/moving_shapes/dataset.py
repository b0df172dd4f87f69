"""Moving Shapes as a torch dataset: clips or single frames with their captions, made as they are asked for.

No files and no state: what a visit sees depends on the settings and its number alone, so any number of loader
workers may share a dataset. Visits are numbers without end: beyond the length of the world it begins again
from the front, the same clips in other words.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import Field, model_validator
from torch import from_numpy
from torch.utils.data import Dataset

from latent_shift.data.sources.base import ClipShape, GeneratedSource
from latent_shift.moving_shapes.captions import (
    caption,
    image_caption,
    image_paraphrase,
    paraphrase,
    vocabulary,
)
from latent_shift.moving_shapes.constants import FPS, FRAMES, MOTIONS, SIZE
from latent_shift.moving_shapes.hard_negatives import hard_negatives
from latent_shift.moving_shapes.motion import frame_times, track
from latent_shift.moving_shapes.render import render
from latent_shift.moving_shapes.scene import Scene, draw_scene, draw_scenes
from latent_shift.rng import item_rng

# Separate from the stream that rng the scene.
_SAMPLES_SEED = 77  # of the scenes whose captions are sample prompts; no training series should have it
_OTHER_SERIES = 1_000_003  # added to the seed of a series
_WORDING_STREAM, _FRAME_STREAM, _MISSES_STREAM, _FAVOUR_STREAM = 1, 2, 3, 4


class WorldConfig(GeneratedSource):
    """Settings of a series of Moving Shapes clips."""

    format: Literal["moving-shapes"] = "moving-shapes"
    seed: int = Field(0, description="of the series of scenes; another seed is another series")
    clips: Annotated[int, Field(ge=1)] = Field(10_000_000, description="length of the series")
    levels: tuple[Literal[1, 2], ...] = Field((1,), min_length=1, description="taken in turn, clip by clip")
    paraphrases: float = Field(
        0.5, ge=0.0, le=1.0, description="share of captions in other than the canonical words"
    )
    favoured: tuple[str, ...] = Field((), description="motions that are shown more often than by chance")
    favoured_share: float = Field(
        0.0, ge=0.0, le=1.0, description="share of clips whose motion is drawn among the favoured alone"
    )
    favoured_spread: float = Field(
        1.0,
        ge=0.0,
        le=1.0,
        description="part of a range, about its middle, that amounts of favoured motions have",
    )

    @model_validator(mode="after")
    def _favours_what_there_is(self) -> WorldConfig:
        unknown = [motion for motion in self.favoured if motion not in MOTIONS]
        if unknown:
            raise ValueError(f"favoured names {unknown[0]!r}; the motions are {', '.join(MOTIONS)}")
        if bool(self.favoured) != (self.favoured_share > 0):
            raise ValueError("favoured and favoured_share go together: give both, or neither")
        if self.favoured_spread < 1 and not self.favoured:
            raise ValueError("favoured_spread is about favoured motions, and none is favoured: name some")
        return self

    @property
    def shape(self) -> ClipShape:
        """See `GeneratedSource.shape`."""
        return ClipShape(FRAMES, FPS, SIZE, SIZE)

    def dataset(
        self, *, images: bool = False, crop: int | None = None, hard_negatives: int = 0
    ) -> MovingShapes:
        """See `GeneratedSource.dataset`."""
        return MovingShapes(self, images=images, crop=crop, hard_negatives=hard_negatives)

    def captioned_clips(self, *, cached: bool = False) -> Scenes:
        """See `GeneratedSource.captioned_clips`."""
        return Scenes(self, cached=cached)

    def extended(self, count: int) -> Self:
        """See `GeneratedSource.extended`."""
        return self.model_copy(update={"clips": self.clips + count, "paraphrases": 0.0})

    def other_series(self, count: int) -> Self:
        """See `GeneratedSource.other_series`."""
        return self.model_copy(update={"seed": self.seed + _OTHER_SERIES, "clips": count})

    def vocabulary(self) -> tuple[str, ...]:
        """See `GeneratedSource.vocabulary`."""
        return vocabulary()

    def sample_prompts(self, *, images: bool) -> list[str]:
        """Eight captions of level 1, or 32 of images."""
        scenes = draw_scenes(_SAMPLES_SEED, range(32 if images else 8), level=1)
        return [image_caption(scene) if images else caption(scene) for scene in scenes]

    def latent_settings(self) -> dict[str, Any]:
        """See `GeneratedSource.latent_settings`; unused later additions are left out, as in older stores."""
        given = self.model_dump(mode="json", exclude={"clips", "paraphrases", "format"})
        plain = WorldConfig().model_dump(mode="json")
        return {
            name: value for name, value in given.items() if "favoured" not in name or value != plain[name]
        }


class Scenes:
    """The scenes of a world by index, drawn once where `cached`; never a held-out one."""

    def __init__(self, world: WorldConfig, *, cached: bool = False) -> None:
        self.world = world
        self._kept = [self._draw(index) for index in range(world.clips)] if cached else None

    def __len__(self) -> int:
        return self.world.clips

    def __getitem__(self, index: int) -> Scene:
        return self._draw(index) if self._kept is None else self._kept[index]

    def _draw(self, index: int) -> Scene:
        place, level = divmod(index, len(self.world.levels))
        lucky = item_rng(self.world.seed, index, _FAVOUR_STREAM).random() < self.world.favoured_share
        motions, spread = (self.world.favoured, self.world.favoured_spread) if lucky else (MOTIONS, 1.0)
        return draw_scene(
            self.world.seed,
            place,
            level=self.world.levels[level],
            split="seen",
            motions=motions,
            spread=spread,
        )

    def frames(self, indices: Iterable[int]) -> np.ndarray:
        """uint8 (N, 16, 64, 64, 3)."""
        return render([self[index] for index in indices])

    def caption(self, visit: int, *, image: bool = False) -> str:
        """The canonical caption of the scene that a visit sees; of a single frame where `image`."""
        scene = self[visit % len(self)]
        return image_caption(scene) if image else caption(scene)

    def paraphrase(self, visit: int, *, image: bool = False) -> str:
        """That caption, or in the world's share of the visits the same in other words."""
        rng = item_rng(self.world.seed, visit, _WORDING_STREAM)
        return self._say(self[visit % len(self)], rng, image=image)

    def hard_negatives(self, visit: int, count: int) -> list[str]:
        """`count` sentences that are false of that scene in one motion or shape, worded like `paraphrase`."""
        rng = item_rng(self.world.seed, visit, _MISSES_STREAM)
        return [self._say(miss, rng) for miss in hard_negatives(self[visit % len(self)], count, rng)]

    def _say(self, scene: Scene, rng: np.random.Generator, *, image: bool = False) -> str:
        if rng.random() >= self.world.paraphrases:
            return image_caption(scene) if image else caption(scene)
        return image_paraphrase(scene, rng) if image else paraphrase(scene, rng)


class MovingShapes(Dataset[dict[str, Any]]):
    """Items {"frames": uint8 (F, 64, 64, 3), "caption", "key"}; F = 16, or 1 where `images`.

    hard_negatives: clips come with so many sentences, "hard_negatives", that are false of them in one motion
    or shape.
    crop: of each image only a window of so many pixels that holds one of its things, (1, crop, crop, 3).
    """

    def __init__(
        self, world: WorldConfig, *, images: bool = False, crop: int | None = None, hard_negatives: int = 0
    ) -> None:
        self.scenes, self.images, self.crop = Scenes(world), images, crop
        self.hard_negatives = hard_negatives

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, visit: int) -> dict[str, Any]:
        scene = self.scenes[visit % len(self)]
        words, key = self.scenes.paraphrase(visit, image=self.images), f"clip {visit % len(self)}"
        if not self.images:
            clip = {"frames": from_numpy(render([scene])[0]), "caption": words, "key": key}
            if self.hard_negatives:
                clip["hard_negatives"] = self.scenes.hard_negatives(visit, self.hard_negatives)
            return clip
        rng = item_rng(self.scenes.world.seed, visit, _FRAME_STREAM)
        frame = int(rng.random() * FRAMES)
        pixels = render([scene], [frame])[0]
        if self.crop is not None:
            pixels = _window(pixels, scene, frame, self.crop, rng)
        return {"frames": from_numpy(pixels), "caption": words, "key": key}


def _window(pixels: np.ndarray, scene: Scene, frame: int, side: int, rng: np.random.Generator) -> np.ndarray:
    """A square of `pixels` (1, H, W, 3) with the middle of one of the scene's things somewhere in it."""
    thing = scene.things[int(rng.random() * len(scene.things))]
    x, y, *_ = (values[0] for values in track(thing, frame_times(np.array([frame]))))
    corner = []
    for middle, extent in ((y, pixels.shape[1]), (x, pixels.shape[2])):
        start = int((middle + 1) / 2 * extent - rng.random() * side)
        corner.append(min(max(start, 0), extent - side))
    top, left = corner
    return np.ascontiguousarray(pixels[:, top : top + side, left : left + side])
