"""The emoji world as a data source: clips or single frames with captions, composed on demand from a pack.

An item depends on the settings and its index only, so any number of loader workers may share a dataset. No
clip, and no caption, is of what is held out (`splits.py`). Indices past the length of the series give the
same clips, captioned anew.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator, model_validator
from torch import from_numpy
from torch.utils.data import Dataset

from latent_shift.data.sources.base import ClipShape, GeneratedSource
from latent_shift.emoji import constants
from latent_shift.emoji.captions import Words, caption, paraphrase
from latent_shift.emoji.constants import FILLED, FPS, FRAMES
from latent_shift.emoji.pack import EmojiClip, Pack
from latent_shift.emoji.render import render
from latent_shift.emoji.scene import Scene, draw_ground, place_composed, place_plain, placement
from latent_shift.emoji.splits import Splits
from latent_shift.emoji_names import emoji_names
from latent_shift.moving_shapes.captions import motion_words
from latent_shift.moving_shapes.constants import MOTIONS as ALL_MOTIONS
from latent_shift.rng import choice, item_rng, uniform

Ratio = Annotated[float, Field(ge=0.0, le=1.0)]

_PROMPTS_SEED = 77  # of the scenes of sample prompts
_PARAPHRASE_STREAM, _FRAME_STREAM = 1, 2
_STYLED = 0.5  # of the captions
_SAMPLES, _IMAGE_SAMPLES = 8, 32
_NOT_DRAWN = {"clips", "paraphrases", "default_style", "pack"}  # settings that change no picture
_NEWER = ("animated_only", "sizes", "composed_sizes", "centred")  # than the first stores of latents


def _words_of(texts: Iterable[str]) -> set[str]:
    return {word for text in texts for word in re.findall(r"[a-z0-9]+", text.lower())}


_FIXED_WORDS = _words_of([
    caption(Words("emoji", tone="light", style="fluent", motion="moving left")), *constants.GROUNDS,
    *constants.TONES, *constants.STYLES.values(), *constants.MOTIONS,
])  # fmt: skip


class EmojiWorld(GeneratedSource):
    """Settings of a series of clips of emoji."""

    format: Literal["emoji"] = "emoji"
    pack: Path = Field(description="pack of pictures, made by recipes/emoji/prepare.py")
    seed: int = Field(0, description="random seed of the series; other seeds give other series")
    clips: Annotated[int, Field(ge=1)] = Field(1_000_000, description="length of the series")
    styles: tuple[Literal["fluent", "noto", "twemoji"], ...] = Field(
        ("fluent", "noto"), min_length=1, description="styles of the pictures; twemoji has stills only"
    )
    emoji: int | None = Field(
        None, ge=1, description="number of emoji, evenly spaced over all: a smaller world to begin with"
    )
    composed: Ratio = Field(0.5, description="share of clips that have a motion of their caption")
    stills: Ratio = Field(
        0.0, description="share of stills, at another size and place in each frame; the others are animated"
    )
    animated_only: bool = Field(False, description="leave out stills of emoji that have no animation here")
    sizes: tuple[Ratio, Ratio] = Field(
        constants.SIZE, description="least and most part of the frame that the picture fills"
    )
    composed_sizes: tuple[Ratio, Ratio] = Field(
        constants.COMPOSED_SIZE, description="the same of clips that have a motion of their caption"
    )
    centred: bool = Field(
        False,
        description="put pictures, and the ways that they move, into the middle of the frame; stills have"
        " another size and place in each frame without it",
    )
    default_style: bool = Field(
        False,
        description="a caption without a style means the first of `styles` that the emoji is trained in, of"
        " its animations where it has any",
    )
    tones: Ratio = Field(0.2, description="share of clips with a skin tone, of emoji that have them")
    paraphrases: Ratio = Field(0.8, description="share of captions that are paraphrased")

    @cached_property
    def opened(self) -> Pack:
        """The pack. Raises ValueError where it is missing or damaged."""
        return Pack.open(self.pack)

    @cached_property
    def pools(self) -> Pools:
        """The pictures that clips are made of. Raises ValueError where there are none of a kind."""
        pools = Pools(self.opened, self.styles, self.emoji, animated_only=self.animated_only)
        wanted = {"stills": self.stills, "animations": 1 - self.stills}
        for kind, pool in (("stills", pools.stills), ("animations", pools.animations)):
            if wanted[kind] and not pool:
                also = ", with animated_only" if kind == "stills" and self.animated_only else ""
                raise ValueError(f"{self.pack} has no {kind} of the styles {', '.join(self.styles)}{also}")
        return pools

    @field_validator("sizes", "composed_sizes")
    @classmethod
    def _in_order(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0 < value[0] <= value[1]:
            raise ValueError(f"{list(value)}: expected the least and the most part of the frame, above 0")
        return value

    @model_validator(mode="after")
    def _all_is_seen(self) -> Self:
        if self.animated_only and not self.stills:
            raise ValueError("animated_only is for stills, of which there are none: set stills, or remove it")
        if self.stills and not self.centred and self.sizes != constants.SIZE:
            raise ValueError(
                "stills have another size and place in each frame, unless they are centred: set centred, or"
                " leave sizes out"
            )
        return self

    @property
    def shape(self) -> ClipShape:
        """See `GeneratedSource.shape`."""
        return ClipShape(FRAMES, FPS, self.opened.size, self.opened.size)

    @property
    def description(self) -> str:
        """See `GeneratedSource.description`."""
        return f"of emoji ({', '.join(self.styles)}), seed {self.seed}"

    def dataset(
        self, *, images: bool = False, crop: int | None = None, hard_negatives: int = 0
    ) -> EmojiClips:
        """See `GeneratedSource.dataset`. Raises ValueError for hard negatives, which this world has not."""
        if hard_negatives:
            raise ValueError("hard_negatives: the emoji world makes none; set 0")
        return EmojiClips(self, images=images, crop=crop)

    def captioned_clips(self, *, cached: bool = False) -> Scenes:
        """See `GeneratedSource.captioned_clips`."""
        return Scenes(self, cached=cached)

    def extended(self, count: int) -> Self:
        """See `GeneratedSource.extended`."""
        return self.model_copy(update={"clips": self.clips + count, "paraphrases": 0.0})

    def vocabulary(self) -> tuple[str, ...]:
        """See `GeneratedSource.vocabulary`: words of names, keywords and templates."""
        texts = [text for clip in self.opened.clips for text in (clip.name, *clip.keywords)]
        return tuple(sorted({*_FIXED_WORDS, *_words_of(texts)}))

    def untrained_words(self) -> tuple[str, ...]:
        """See `GeneratedSource.untrained_words`: names of one word, and motions, that this series lacks."""
        shown = {
            self.opened.clips[number].emoji
            for pool, share in ((self.pools.animations, 1 - self.stills), (self.pools.stills, self.stills))
            if share
            for styles in pool.values() for numbers in styles.values() for number in numbers
        }  # fmt: skip
        known = [clip for clip in self.opened.clips if clip.emoji in shown]
        words = {*_FIXED_WORDS, *_words_of(text for clip in known for text in (clip.name, *clip.keywords))}
        names = (name for name in emoji_names() if name.isalpha() and name not in words)
        shown_motions = constants.MOTIONS if self.composed else (constants.STILL,)
        return (*names, *sorted(motion_words(ALL_MOTIONS) - motion_words(shown_motions)))

    def sample_prompts(self, *, images: bool) -> list[str]:
        """Return canonical captions of scenes of another series."""
        scenes = Scenes(self.model_copy(update={"seed": _PROMPTS_SEED}))
        return [
            scenes.caption(number, image=images) for number in range(_IMAGE_SAMPLES if images else _SAMPLES)
        ]

    def latent_settings(self) -> dict[str, Any]:
        """See `GeneratedSource.latent_settings`: with the pack's digest in place of its path."""
        settings = self.model_dump(mode="json", exclude=_NOT_DRAWN)
        for name in _NEWER:  # where they change nothing, older latents stay valid
            if getattr(self, name) == type(self).model_fields[name].default:
                del settings[name]
        return {**settings, "pack": self.opened.digest}


class Pools:
    """The pictures of a pack that may be trained on: numbers by emoji, style and tone.

    animations, stills: of each emoji (code without skin tones) its styles, of each style numbers in the pack,
    that without a tone first.
    """

    def __init__(
        self, pack: Pack, styles: tuple[str, ...], count: int | None, *, animated_only: bool = False
    ) -> None:
        self.splits = Splits(pack.clips, pack.listed)
        codes = list(self.splits.emoji)
        if count is not None and count < len(codes):
            codes = [codes[place * len(codes) // count] for place in range(count)]
        kept = None if count is None else set(codes)
        self.animations = _by_emoji(pack, styles, self.splits, kept, still=False)
        if animated_only:
            kept = set(self.animations)
        self.stills = _by_emoji(pack, styles, self.splits, kept, still=True)


def _by_emoji(
    pack: Pack, styles: tuple[str, ...], splits: Splits, kept: set[str] | None, *, still: bool
) -> dict[str, dict[str, list[int]]]:
    found: dict[str, dict[str, list[int]]] = {}
    order = sorted(range(len(pack)), key=lambda number: pack.clips[number].code)
    for number in order:
        clip = pack.clips[number]
        usable = clip.still == still and clip.style in styles and (kept is None or clip.emoji in kept)
        if usable and not splits.style_held_out(clip.emoji, clip.style):
            numbers = found.setdefault(clip.emoji, {}).setdefault(clip.style, [])
            numbers.insert(len(numbers) if clip.tone else 0, number)
    return found


class Scenes:
    """Scenes and captions of a series by index; never held out. cached: keep all scenes in memory."""

    def __init__(self, world: EmojiWorld, *, cached: bool = False) -> None:
        self.world, self.pack, self.pools = world, world.opened, world.pools
        self._cache = [self._draw(index) for index in range(world.clips)] if cached else None

    def __len__(self) -> int:
        return self.world.clips

    def __getitem__(self, index: int) -> Scene:
        return self._draw(index) if self._cache is None else self._cache[index]

    @cached_property
    def _codes(self) -> dict[bool, list[str]]:
        return {False: list(self.pools.animations), True: list(self.pools.stills)}

    def _draw(self, index: int) -> Scene:
        world, rng = self.world, item_rng(self.world.seed, index)
        still = rng.random() < world.stills
        code = choice(rng, self._codes[still])
        styles = (self.pools.stills if still else self.pools.animations)[code]
        style = choice(rng, list(styles))
        numbers = styles[style]
        plain = [number for number in numbers if not self.pack.clips[number].tone]
        toned = [number for number in numbers if self.pack.clips[number].tone]
        wants_tone = rng.random() < world.tones
        number = choice(rng, toned if toned and (wants_tone or not plain) else plain)
        start = int(rng.random() * self.pack.clips[number].count)
        ground, says_style = draw_ground(rng), rng.random() < _STYLED
        if world.default_style:
            meant = self.pools.animations.get(code, styles)
            says_style |= style != next(one for one in world.styles if one in meant)
        fixed: dict[str, Any] = {
            "clip": number, "start": start, "ground": ground, "says_style": says_style
        }  # fmt: skip
        if still and not world.centred:
            return Scene(**fixed, scatter=1 + int(rng.random() * 2**31))
        motions = [one for one in constants.MOTIONS if not self.pools.splits.pair_held_out(code, one)]
        if motions and rng.random() < world.composed:
            motion = choice(rng, motions)
            where = place_composed(motion, rng, world.composed_sizes, centred=world.centred)
            return Scene(**fixed, motion=motion, **where)
        return Scene(**fixed, **place_plain(rng, world.sizes, centred=world.centred))

    def frames(self, indices: Iterable[int]) -> np.ndarray:
        """Draw the clips of these indices: uint8 (N, 16, S, S, 3)."""
        return np.stack([render(self.pack, self[index]) for index in indices])

    def words(self, scene: Scene) -> Words:
        """Contents of the captions of a scene, and of its frames: a motion tells a picture's size."""
        clip: EmojiClip = self.pack.clips[scene.clip]
        one = self.pools.splits.emoji.get(clip.emoji)
        name, keywords = (clip.name, ()) if one is None else (one.trained_name(clip.name), one.keywords)
        style = clip.style if scene.says_style else ""
        return Words(name, keywords, clip.tone, style, scene.motion, scene.ground)

    def caption(self, index: int, *, image: bool = False) -> str:
        """Return the canonical caption of an item, of a single frame (`image`) the same."""
        return caption(self.words(self[index % len(self)]))

    def paraphrase(self, index: int, *, image: bool = False) -> str:
        """Return the caption of an item, or frame, in the configured share of items a paraphrase."""
        rng = item_rng(self.world.seed, index, _PARAPHRASE_STREAM)
        words = self.words(self[index % len(self)])
        return paraphrase(words, rng) if rng.random() < self.world.paraphrases else caption(words)


class EmojiClips(Dataset[dict[str, Any]]):
    """Items {"frames": uint8 (F, S, S, 3), "caption", "key"}; F = 16, or 1 for `images`.

    crop: side of a random window around the picture, for images only: frames are (1, crop, crop, 3).
    """

    def __init__(self, world: EmojiWorld, *, images: bool = False, crop: int | None = None) -> None:
        self.scenes, self.images, self.crop = Scenes(world), images, crop

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, index: int) -> dict[str, Any]:
        number = index % len(self)
        scene = self.scenes[number]
        words, key = self.scenes.paraphrase(index, image=self.images), f"clip {number}"
        if not self.images:
            frames = render(self.scenes.pack, scene)
            return {"frames": from_numpy(frames), "caption": words, "key": key}
        rng = item_rng(self.scenes.world.seed, index, _FRAME_STREAM)
        frame = int(rng.random() * FRAMES)
        pixels = render(self.scenes.pack, scene, [frame])
        if self.crop is not None:
            pixels = _crop_around_picture(pixels, scene, frame, self.crop, rng)
        return {"frames": from_numpy(pixels), "caption": words, "key": key}


def _crop_around_picture(
    pixels: NDArray[np.uint8], scene: Scene, frame: int, size: int, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """A window (1, size, size, 3) of one frame (1, S, S, 3), anywhere that its middle lies in the picture."""
    side = pixels.shape[1]
    at = placement(scene, np.array([frame / (FRAMES - 1)]))
    corner = []
    for centre in (at.y[0], at.x[0]):
        middle = (centre + uniform(rng, -1, 1) * at.size[0] * FILLED + 1) / 2 * side
        corner.append(int(np.clip(round(middle - size / 2), 0, side - size)))
    top, left = corner
    return np.ascontiguousarray(pixels[:, top : top + size, left : left + size])
