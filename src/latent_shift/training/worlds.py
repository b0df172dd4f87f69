"""From a recipe's `world` to what training reads: clips and frames of several levels, taken in turn.

Items are asked for by visit, a number without end: beyond the length of the world it begins again from the
front, the same clips in other words.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from torch import Tensor, from_numpy
from torch.utils.data import Dataset

from latent_shift.data.moving_shapes import (
    Scene,
    caption,
    draw_scene,
    generator,
    image_caption,
    image_paraphrase,
    paraphrase,
    render,
)
from latent_shift.data.moving_shapes.motion import frame_times, track
from latent_shift.data.moving_shapes.world import FRAMES
from latent_shift.training.recipe import World

_WORDING_STREAM, _FRAME_STREAM = 1, 2


class Scenes:
    """The scenes of a world by index, drawn once where `kept`; never a held-out one."""

    def __init__(self, world: World, *, kept: bool = False) -> None:
        self.world = world
        self._kept = [self._draw(index) for index in range(world.clips)] if kept else None

    def __len__(self) -> int:
        return self.world.clips

    def __getitem__(self, index: int) -> Scene:
        return self._draw(index) if self._kept is None else self._kept[index]

    def _draw(self, index: int) -> Scene:
        place, level = divmod(index, len(self.world.levels))
        return draw_scene(self.world.seed, place, level=self.world.levels[level], split="seen")

    def frames(self, indices: Iterable[int]) -> np.ndarray:
        """uint8 (N, 16, 64, 64, 3)."""
        return render([self[index] for index in indices])

    def words(self, visit: int, *, image: bool = False) -> str:
        """A caption of the scene that a visit sees; of a single frame where `image`."""
        scene, rng = self[visit % len(self)], generator(self.world.seed, visit, _WORDING_STREAM)
        if rng.random() < self.world.paraphrases:
            return image_paraphrase(scene, rng) if image else paraphrase(scene, rng)
        return image_caption(scene) if image else caption(scene)


class RenderedClips(Dataset[dict[str, Any]]):
    """Items {"frames": uint8 (F, 64, 64, 3), "caption": text}; F = 16, or 1 where `images`.

    crop: of each image only a window of so many pixels that holds one of its things, (1, crop, crop, 3).
    """

    def __init__(self, world: World, *, images: bool = False, crop: int | None = None) -> None:
        self.scenes, self.images, self.crop = Scenes(world), images, crop

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, visit: int) -> dict[str, Any]:
        scene = self.scenes[visit % len(self)]
        words = self.scenes.words(visit, image=self.images)
        if not self.images:
            return {"frames": from_numpy(render([scene])[0]), "caption": words}
        rng = generator(self.scenes.world.seed, visit, _FRAME_STREAM)
        frame = int(rng.random() * FRAMES)
        pixels = render([scene], [frame])[0]
        if self.crop is not None:
            pixels = _window(pixels, scene, frame, self.crop, rng)
        return {"frames": from_numpy(pixels), "caption": words}


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


class StoredClips(Dataset[dict[str, Any]]):
    """Items of encoded clips: {"latents": float16 (F, C, h, w), "caption": ..., "image_caption": ...}.

    Where `images`, an item is one frame of a clip, (1, C, h, w), and the visits go through all frames.
    """

    def __init__(self, latents: Tensor, scenes: Scenes, *, images: bool = False) -> None:
        self.latents, self.scenes, self.images = latents, scenes, images
        self.frames = latents.shape[1] if images else 1

    def __len__(self) -> int:
        return len(self.latents) * self.frames

    def __getitem__(self, visit: int) -> dict[str, Any]:
        epoch, place = divmod(visit, len(self))
        clip, frame = divmod(place, self.frames)
        said = epoch * len(self) + frame * len(self.latents) + clip  # other words each frame and epoch
        latents = self.latents[clip, frame : frame + 1] if self.images else self.latents[clip]
        return {
            "latents": latents,
            "caption": self.scenes.words(said),
            "image_caption": self.scenes.words(said, image=True),
        }
