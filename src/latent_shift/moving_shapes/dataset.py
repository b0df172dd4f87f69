"""Moving Shapes as a data source and a torch dataset: clips or single frames with captions, made on demand.

No files and no state: an item depends on the settings and its index only, so any number of loader workers may
share a dataset. Indices have no upper bound: past the length of the series it starts again with the same
clips, captioned anew.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import AliasChoices, Field, model_validator
from torch import from_numpy
from torch.utils.data import Dataset

from latent_shift.data.sources.base import ClipShape, GeneratedSource
from latent_shift.moving_shapes.captions import (
    beyond_level_1,
    caption,
    image_caption,
    image_paraphrase,
    paraphrase,
    parse_caption,
    vocabulary,
)
from latent_shift.moving_shapes.constants import FPS, FRAMES, MOTIONS, SIZE
from latent_shift.moving_shapes.render import render
from latent_shift.moving_shapes.sampling import draw_scene, draw_scenes, hard_negatives
from latent_shift.moving_shapes.scene import Scene, frame_times, trajectory
from latent_shift.rng import item_rng

_PROMPTS_SEED = 77  # of the scenes of sample prompts; no training series should have it
# Random streams of an item, separate from that of its scene.
_PARAPHRASE_STREAM, _FRAME_STREAM, _NEGATIVES_STREAM, _OVERSAMPLE_STREAM = 1, 2, 3, 4
# Earlier names of settings: read for one release, and kept in the settings of stored latents.
_OLD_NAMES = {
    "oversample_motions": "favoured",
    "oversample_motions_ratio": "favoured_share",
    "amplitude_range": "favoured_spread",
}


def _aliases(name: str) -> AliasChoices:
    return AliasChoices(name, _OLD_NAMES[name])


class WorldConfig(GeneratedSource):
    """Settings of a series of Moving Shapes clips."""

    format: Literal["moving-shapes"] = "moving-shapes"
    seed: int = Field(0, description="random seed of the series; other seeds give other series")
    clips: Annotated[int, Field(ge=1)] = Field(10_000_000, description="length of the series")
    levels: tuple[Literal[1, 2], ...] = Field(
        (1,), min_length=1, description="levels, alternating by clip; one named twice shows each clip twice"
    )
    paraphrases: float = Field(0.5, ge=0.0, le=1.0, description="share of captions that are paraphrased")
    size: int = Field(SIZE, ge=8, multiple_of=8, description="height and width of the clips in pixels")
    oversample_motions: tuple[str, ...] = Field(
        (), validation_alias=_aliases("oversample_motions"), description="motions to show more often"
    )
    oversample_motions_ratio: float = Field(
        0.0,
        ge=0.0,
        le=1.0,
        validation_alias=_aliases("oversample_motions_ratio"),
        description="share of clips with a motion of oversample_motions; the others have any motion",
    )
    amplitude_range: float = Field(
        1.0,
        ge=0.0,
        le=1.0,
        validation_alias=_aliases("amplitude_range"),
        description="part of its range, about the middle, that the amplitude has in oversampled clips",
    )

    sized_growth: bool = Field(
        False, description="whether what grows or shrinks may be small or large; other clips stay the same"
    )

    @model_validator(mode="after")
    def _check_oversampling(self) -> WorldConfig:
        unknown = [motion for motion in self.oversample_motions if motion not in MOTIONS]
        if unknown:
            raise ValueError(f"oversample_motions has {unknown[0]!r}; the motions are {', '.join(MOTIONS)}")
        if bool(self.oversample_motions) != (self.oversample_motions_ratio > 0):
            raise ValueError(
                "oversample_motions and oversample_motions_ratio go together: give both, or neither"
            )
        if self.amplitude_range < 1 and not self.oversample_motions:
            raise ValueError("amplitude_range applies to oversample_motions, and there is none: name some")
        return self

    @property
    def shape(self) -> ClipShape:
        """See `GeneratedSource.shape`."""
        return ClipShape(FRAMES, FPS, self.size, self.size)

    @property
    def description(self) -> str:
        """See `GeneratedSource.description`."""
        return f"Moving Shapes, levels {list(self.levels)}, seed {self.seed}"

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

    def vocabulary(self) -> tuple[str, ...]:
        """See `GeneratedSource.vocabulary`."""
        return vocabulary()

    def untrained_words(self) -> tuple[str, ...]:
        """See `GeneratedSource.untrained_words`: what is beyond level 1, where level 2 is not among them."""
        return () if 2 in self.levels else beyond_level_1(sized_growth=self.sized_growth)

    def shows(self, index: int, frames: np.ndarray) -> bool:
        """See `GeneratedSource.shows`: of the objects; a paraphrase may leave the background out."""
        from latent_shift.moving_shapes.scorer import score_clip  # which imports this room

        scene = self.captioned_clips()[index % self.clips]
        score = score_clip(frames, *parse_caption(caption(scene)))
        return all(one.correct for one in score.objects)

    def sample_prompts(self, *, images: bool) -> list[str]:
        """Return eight captions of level 1, or 32 of images."""
        scenes = draw_scenes(_PROMPTS_SEED, range(32 if images else 8), level=1)
        return [image_caption(scene) if images else caption(scene) for scene in scenes]

    def latent_settings(self) -> dict[str, Any]:
        """See `GeneratedSource.latent_settings`."""
        # Stores of latents that were made with the old key names stay valid, so these are kept here; values
        # at their defaults are left out, as stores from before these keys do not have them.
        settings = self.model_dump(mode="json", exclude={"clips", "paraphrases", "format"})
        defaults = WorldConfig().model_dump(mode="json")
        return {
            _OLD_NAMES.get(name, name): value
            for name, value in settings.items()
            if name not in (*_OLD_NAMES, "size", "sized_growth") or value != defaults[name]
        }


class Scenes:
    """Scenes and captions of a series by index; never held out. cached: keep all scenes in memory."""

    def __init__(self, world: WorldConfig, *, cached: bool = False) -> None:
        self.world = world
        self._cache = [self._draw(index) for index in range(world.clips)] if cached else None

    def __len__(self) -> int:
        return self.world.clips

    def __getitem__(self, index: int) -> Scene:
        return self._draw(index) if self._cache is None else self._cache[index]

    def _draw(self, index: int) -> Scene:
        number, level = divmod(index, len(self.world.levels))
        rng = item_rng(self.world.seed, index, _OVERSAMPLE_STREAM)
        oversampled = rng.random() < self.world.oversample_motions_ratio
        return draw_scene(
            self.world.seed,
            number,
            level=self.world.levels[level],
            split="seen",
            motions=self.world.oversample_motions if oversampled else MOTIONS,
            amplitude_range=self.world.amplitude_range if oversampled else 1.0,
            sized_growth=self.world.sized_growth,
        )

    def frames(self, indices: Iterable[int]) -> np.ndarray:
        """Render the clips of these indices: uint8 (N, 16, S, S, 3)."""
        return render([self[index] for index in indices], size=self.world.size)

    def caption(self, index: int, *, image: bool = False) -> str:
        """Return the canonical caption of an item; of a single frame for `image`."""
        scene = self[index % len(self)]
        return image_caption(scene) if image else caption(scene)

    def paraphrase(self, index: int, *, image: bool = False) -> str:
        """Return the caption of an item, in the configured share of items a paraphrase."""
        rng = item_rng(self.world.seed, index, _PARAPHRASE_STREAM)
        return self._caption(self[index % len(self)], rng, image=image)

    def hard_negatives(self, index: int, count: int) -> list[str]:
        """Return `count` captions false of an item in one motion or shape, worded like `paraphrase`."""
        rng = item_rng(self.world.seed, index, _NEGATIVES_STREAM)
        scenes = hard_negatives(self[index % len(self)], count, rng)
        return [self._caption(scene, rng) for scene in scenes]

    def _caption(self, scene: Scene, rng: np.random.Generator, *, image: bool = False) -> str:
        if rng.random() >= self.world.paraphrases:
            return image_caption(scene) if image else caption(scene)
        return image_paraphrase(scene, rng) if image else paraphrase(scene, rng)


class MovingShapes(Dataset[dict[str, Any]]):
    """Items {"frames": uint8 (F, S, S, 3), "caption", "key"}; F = 16, or 1 for `images`; S the world's size.

    crop: side of a random window around an object, for images only: frames are (1, crop, crop, 3).
    hard_negatives: number of captions, "hard_negatives", that are false of a clip in one motion or shape.
    """

    def __init__(
        self, world: WorldConfig, *, images: bool = False, crop: int | None = None, hard_negatives: int = 0
    ) -> None:
        self.scenes, self.images, self.crop = Scenes(world), images, crop
        self.hard_negatives = hard_negatives

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, index: int) -> dict[str, Any]:
        number = index % len(self)
        scene = self.scenes[number]
        words, key = self.scenes.paraphrase(index, image=self.images), f"clip {number}"
        if not self.images:
            frames = render([scene], size=self.scenes.world.size)[0]
            clip = {"frames": from_numpy(frames), "caption": words, "key": key}
            if self.hard_negatives:
                clip["hard_negatives"] = self.scenes.hard_negatives(index, self.hard_negatives)
            return clip
        rng = item_rng(self.scenes.world.seed, index, _FRAME_STREAM)
        frame = int(rng.random() * FRAMES)
        pixels = render([scene], [frame], self.scenes.world.size)[0]
        if self.crop is not None:
            pixels = _crop_around_object(pixels, scene, frame, self.crop, rng)
        return {"frames": from_numpy(pixels), "caption": words, "key": key}


def _crop_around_object(
    pixels: np.ndarray, scene: Scene, frame: int, side: int, rng: np.random.Generator
) -> np.ndarray:
    """A random square window of `pixels` (1, H, W, 3) that contains the centre of one of the objects."""
    obj = scene.objects[int(rng.random() * len(scene.objects))]
    x, y, *_ = (values[0] for values in trajectory(obj, frame_times(np.array([frame]))))
    corner = []
    for centre, extent in ((y, pixels.shape[1]), (x, pixels.shape[2])):
        start = int((centre + 1) / 2 * extent - rng.random() * side)
        corner.append(min(max(start, 0), extent - side))
    top, left = corner
    return np.ascontiguousarray(pixels[:, top : top + side, left : left + side])
