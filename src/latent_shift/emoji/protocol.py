"""The emoji protocol: cells of fixed prompts, real clips of the same, and scores of clips.

A cell has a fixed series of prompts; prompts and seeds depend on cell and index only. Of each prompt there
is a real clip, drawn from the pack by the same words: in the cell "styles" in the style that is never
trained on, in "loop" one whole loop.

    cells = choose_cells(["names"])
    evaluate([CellClips("real clips", cells[0], world, prompts=300)], [partial(EmojiScores, world, eyes)])

Shape legend: B videos, F frames, H, W pixels.
"""

from __future__ import annotations

import hashlib
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latent_shift.emoji.captions import Words, caption, keyword_caption
from latent_shift.emoji.constants import FPS, FRAMES, MOTIONS
from latent_shift.emoji.eyes import Eyes
from latent_shift.emoji.motion import FROZEN, mean_change, motion_features, name_motion, seam
from latent_shift.emoji.pack import Pack
from latent_shift.emoji.render import render
from latent_shift.emoji.scene import Scene, draw_ground, place_composed, place_plain
from latent_shift.emoji.splits import Emoji, Splits
from latent_shift.evaluation.clip_files import ClipReadOptions
from latent_shift.evaluation.evaluated_model import EvaluatedModel
from latent_shift.evaluation.features import SourceFeatures
from latent_shift.evaluation.metrics.base import Measurement, Metric, MetricOptions, mean_of_clips, proportion
from latent_shift.evaluation.report import MetricInfo
from latent_shift.evaluation.sources import BATCH_SIZE, ClipBatch, ClipSource
from latent_shift.rng import choice, item_rng

Clips = NDArray[np.uint8]

SEED = 7_000_019  # of the prompts; no recipe trains on it
MAX_PROMPTS = 100_000
MOVES_OTHERS = 19  # emoji that a clip's motion is compared with, beside its own
TOP = 5
_OTHERS_STREAM = 5
_DIGESTED = 300  # prompts of a cell
_SPIN_FRAMES = (0, 1)  # of a clip that spins: nearly upright

# Cells by their number, which distinguishes their seeds.
CELLS = (
    "names", "composed-seen", "composed-held-out", "words-seen", "words-held-out", "styles", "moves", "loop",
)  # fmt: skip
MEASURES = {
    "names": ("name top 1", "name top 5", "ground"),
    "composed-seen": ("name top 1", "motion", "ground", "all at once"),
    "composed-held-out": ("name top 1", "motion", "ground", "all at once"),
    "words-seen": ("words top 5",),
    "words-held-out": ("words top 5",),
    "styles": ("name top 1", "name top 5", "style"),
    "moves": ("moves", "not frozen", "nearest training clip"),
    "loop": ("seam",),
}


@dataclass(frozen=True)
class EmojiPrompt:
    """A prompt and what is right for it. keywords: of the cells of words; style, motion: "" for any, none."""

    text: str
    emoji: str
    ground: str
    scene: Scene
    motion: str = ""
    style: str = ""
    keywords: tuple[str, ...] = ()


class EmojiTruth:
    """A pack as the protocol reads it: prompts of its cells, real clips, features of real motion."""

    def __init__(self, pack: Pack) -> None:
        self.pack, self.splits = pack, Splits(pack.clips, pack.listed)
        self.numbers: dict[str, dict[str, int]] = defaultdict(dict)  # of animations without tone, by style
        for number, clip in enumerate(pack.clips):
            if not clip.still and not clip.tone:
                self.numbers[clip.emoji].setdefault(clip.style, number)

    def prompt(self, cell: str, index: int) -> EmojiPrompt:
        """The prompt `index` of a cell; the emoji of a cell take turns in a drawn order."""
        rng = item_rng(SEED + CELLS.index(cell), index)
        pool = self._pools[cell]
        one = pool[self._order(cell, index // len(pool))[index % len(pool)]]
        styles = self.numbers[one.code]
        ground = draw_ground(rng)
        if cell == "styles":
            style = str(one.left_out)
        else:
            style = choice(rng, [name for name in styles if name != one.left_out])
        number = styles[style]
        count = self.pack.clips[number].count
        fixed: dict[str, Any] = {"clip": number, "start": int(rng.random() * count), "ground": ground}
        if cell.startswith("composed"):
            held_out = cell == "composed-held-out"
            motions = [m for m in MOTIONS if self.splits.pair_held_out(one.code, m) == held_out]
            motion = choice(rng, motions)
            scene = Scene(**fixed, motion=motion, **place_composed(motion, rng))
            words = Words(one.name, motion=motion, ground=ground)
            return EmojiPrompt(caption(words), one.code, ground, scene, motion)
        scene = Scene(**fixed, **place_plain(rng))
        if cell.startswith("words"):
            if cell == "words-held-out":
                keywords: tuple[str, ...] = (str(one.held_out_word),)
            else:
                first = int(rng.random() * len(one.keywords))
                keywords = tuple(dict.fromkeys((one.keywords[first], one.keywords[first - 1])))
            return EmojiPrompt(keyword_caption(keywords, ground), one.code, ground, scene, keywords=keywords)
        said = style if cell == "styles" else ""
        text = caption(Words(one.name, style=said, ground=ground))
        return EmojiPrompt(text, one.code, ground, scene, style=said)

    @cached_property
    def _pools(self) -> dict[str, list[Emoji]]:
        there = list(self.splits.emoji.values())
        every = [one for one in there if self.numbers[one.code].keys() - {one.left_out}]
        pools = {cell: every for cell in CELLS}
        pools["composed-held-out"] = [
            one for one in every if any(self.splits.pair_held_out(one.code, motion) for motion in MOTIONS)
        ]
        pools["words-seen"] = [one for one in every if one.keywords]
        pools["words-held-out"] = [one for one in every if one.held_out_word is not None]
        pools["styles"] = [one for one in there if one.left_out in self.numbers[one.code]]
        return pools

    def missing(self, cell: str) -> bool:
        """Whether the pack has no emoji for a cell."""
        return not self._pools[cell]

    def _order(self, cell: str, around: int) -> NDArray[np.int64]:
        rng = item_rng(SEED + CELLS.index(cell), around, 1)
        return np.argsort(rng.random(len(self._pools[cell])))

    def real_clip(self, cell: str, prompt: EmojiPrompt) -> NDArray[np.uint8]:
        """A real clip (F, H, W, 3) of a prompt; for the cell "loop" one whole loop, whatever its length."""
        if cell != "loop":
            return render(self.pack, prompt.scene)
        return self._whole_loop(prompt.scene)

    def _whole_loop(self, scene: Scene) -> NDArray[np.uint8]:
        count = self.pack.clips[scene.clip].count
        frames = [round(frame * count / FRAMES) % count for frame in range(FRAMES)]
        return render(self.pack, scene, frames)

    def moves_of(self, code: str, ground: str) -> NDArray[np.float32]:
        """Features of how the real clips of an emoji move by themselves on a ground, a row a style."""
        if (code, ground) not in self._moves:
            rows = [
                motion_features(self._in_the_middle(clip, ground)) for clip in self.numbers[code].values()
            ]
            self._moves[code, ground] = np.stack(rows)
        return self._moves[code, ground]

    @cached_property
    def _moves(self) -> dict[tuple[str, str], NDArray[np.float32]]:
        return {}

    def _in_the_middle(self, clip: int, ground: str) -> NDArray[np.uint8]:
        """A real clip (F, H, W, 3) of the pack, by its number there, in the middle of a ground."""
        return render(self.pack, Scene(clip=clip, start=0, ground=ground, size=0.85))

    def moves_right(self, index: int, code: str, clip: NDArray[np.uint8], ground: str) -> bool:
        """Whether a clip moves, and nearer to its own emoji's real clip than to 19 others', on its ground.

        index: of its prompt, which draws the others. code: of its emoji.
        """
        if mean_change(clip) < FROZEN:
            return False
        features = motion_features(clip)
        codes = [one for one in self.splits.emoji if one != code]
        order = np.argsort(item_rng(SEED, index, _OTHERS_STREAM).random(len(codes)))[:MOVES_OTHERS]
        own = float((self.moves_of(code, ground) @ features).max())
        return all(own > float((self.moves_of(codes[other], ground) @ features).max()) for other in order)

    def nearest_training_clip(self, clip: NDArray[np.uint8], ground: str) -> float:
        """Distance (colour levels, root mean square) to the nearest animation of training, on that ground."""
        if ground not in self._galleries:
            self._galleries[ground] = np.stack([
                _look_and_motion(self._in_the_middle(number, ground))
                for code, styles in self.numbers.items()
                for style, number in styles.items()
                if not self.splits.style_held_out(code, style)
            ])  # fmt: skip
        apart = self._galleries[ground] - _look_and_motion(clip)
        return float(np.sqrt(np.square(apart).mean(axis=1).min()))

    @cached_property
    def _galleries(self) -> dict[str, NDArray[np.float32]]:
        return {}

    @cached_property
    def prompts_digest(self) -> str:
        """Changes where the first prompts of any cell are others: clips made of them are others, too."""
        texts = [
            self.prompt(cell, index).text
            for cell in CELLS
            if not self.missing(cell)
            for index in range(_DIGESTED)
        ]
        return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:12]


def _look_and_motion(clip: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Mean and spread over time of a clip's picture, cropped and against its ground, in colour levels."""
    from latent_shift.emoji.eyes import border_colour, boxes, cover, crop

    colour = border_colour(clip)
    crops = 128 * crop(clip, colour, boxes(cover(clip, colour)), 16).numpy()
    return np.concatenate([crops.mean(axis=0).ravel(), crops.std(axis=0).ravel()]).astype(np.float32)


def choose_cells(names: Sequence[str]) -> list[str]:
    """Return cells in the order of CELLS, all for no names. Raises ValueError for an unknown name."""
    for name in names:
        if name not in CELLS:
            raise ValueError(f"cell {name!r} is unknown; choose from {', '.join(CELLS)}")
    return [name for name in CELLS if not names or name in names]


class CellClips(ClipSource):
    """Clips of the prompts of a cell: real, or generated by a model.

    Args:
        name: of the row.
        cell: one of CELLS.
        truth: the pack.
        prompts: number of clips.
        batch_size: clips in a batch.
        model: generates the clips; None for real ones.
        frames: of a generated clip.
        settings: of the row, beside the model's.
    """

    def __init__(
        self,
        name: str,
        cell: str,
        truth: EmojiTruth,
        *,
        prompts: int,
        batch_size: int = BATCH_SIZE,
        model: EvaluatedModel | None = None,
        frames: int = FRAMES,
        settings: dict[str, Any] | None = None,
    ) -> None:
        if not 1 <= prompts <= MAX_PROMPTS:
            raise ValueError(f"prompts is {prompts}; give 1 to {MAX_PROMPTS} a cell")
        if batch_size < 1:
            raise ValueError(f"batch is {batch_size}; give at least 1")
        super().__init__(
            name, ClipReadOptions(frames), fps=FPS,
            settings={**(model.settings if model else {}), **(settings or {})},
            metric_settings={"prompts per cell": prompts, "seed": SEED, "pack": truth.pack.digest},
        )  # fmt: skip
        self.cell, self.truth, self.prompts = cell, truth, prompts
        self.batch_size, self.model, self.frames, self.seconds = batch_size, model, frames, 0.0

    def __len__(self) -> int:
        """Number of clips."""
        return self.prompts

    def batches(self) -> Iterator[ClipBatch]:
        """Yield the clips."""
        for first in range(0, self.prompts, self.batch_size):
            indices = range(first, min(first + self.batch_size, self.prompts))
            prompts = [self.truth.prompt(self.cell, index) for index in indices]
            clips, seconds = self._make(indices, prompts)
            self.seconds += seconds
            names = [f"{self.cell}-{index:06d}" for index in indices]
            texts = [prompt.text for prompt in prompts]
            yield ClipBatch(
                names, clips, texts, list(zip(indices, prompts, strict=True)), self.cell, seconds=seconds
            )

    def _make(self, indices: Sequence[int], prompts: Sequence[EmojiPrompt]) -> tuple[Clips, float]:
        began = time.perf_counter()
        if self.model is None:
            clips = np.stack([self.truth.real_clip(self.cell, prompt) for prompt in prompts])
            return clips, time.perf_counter() - began
        name = f"{self.cell}-{indices[0]:06d}-{indices[-1]:06d}"
        seeds = [CELLS.index(self.cell) * MAX_PROMPTS + index for index in indices]
        texts = [prompt.text for prompt in prompts]
        model = replace(self.model, options={**self.model.options, "loop": self.cell == "loop"})
        return model.generate(name, texts, seeds, self.frames)


class EmojiScores(Metric):
    """Shares of the clips of one cell that show what their prompts say, and the cell's other measures."""

    def __init__(
        self, truth: EmojiTruth, eyes: Eyes, options: MetricOptions, extractor: str | None = None
    ) -> None:
        super().__init__(options, extractor)
        self.truth, self.eyes = truth, eyes
        self.verdicts: dict[str, list[bool]] = defaultdict(list)
        self.values: dict[str, list[float]] = defaultdict(list)

    def update(self, batch: ClipBatch) -> Sequence[str] | None:
        """See `Metric.update`; the line about a clip names what is wrong, or is "right"."""
        notes = []
        for clip, (index, prompt) in zip(batch.clips, batch.origins, strict=True):
            found, values = self._judge(batch.subset, index, prompt, clip)
            for name in MEASURES[batch.subset]:
                if name in found:
                    self.verdicts[name].append(found[name])
                if name in values:
                    self.values[name].append(values[name])
            wrong = [name for name in MEASURES[batch.subset] if found.get(name) is False]
            notes.append(f"wrong {', '.join(wrong)}" if wrong else "right")
        return notes

    def _judge(
        self, cell: str, index: int, prompt: EmojiPrompt, clip: NDArray[np.uint8]
    ) -> tuple[dict[str, bool], dict[str, float]]:
        if cell == "loop":
            return {}, {"seam": seam(clip)}
        if cell == "moves":
            found = {
                "moves": self.truth.moves_right(index, prompt.emoji, clip, prompt.ground),
                "not frozen": mean_change(clip) >= FROZEN,
            }
            nearest = self.truth.nearest_training_clip(clip, prompt.ground)
            return found, {"nearest training clip": nearest}
        spins = prompt.motion.startswith("spinning")
        sight = self.eyes.look(clip, _SPIN_FRAMES if spins else None)
        first = sight.ranked[0] == prompt.emoji
        found = {
            "name top 1": first,
            "name top 5": prompt.emoji in sight.ranked[:TOP],
            "ground": sight.ground == prompt.ground,
            "style": sight.style == prompt.style,
            "words top 5": any(self._has_words(code, prompt) for code in sight.ranked[:TOP]),
        }
        if prompt.motion:
            found["motion"] = name_motion(clip) == prompt.motion
            found["all at once"] = first and found["motion"] and found["ground"]
        return found, {}

    def _has_words(self, code: str, prompt: EmojiPrompt) -> bool:
        """Whether an emoji is the prompt's, or has all of the prompt's keywords, too."""
        one = self.truth.splits.emoji.get(code)
        if one is None:  # eyes may know an emoji that this pack lacks
            return False
        return code == prompt.emoji or {word.casefold() for word in prompt.keywords} <= one.every_word

    def compute(self, clips: SourceFeatures, reference: SourceFeatures | None) -> list[Measurement]:
        """See `Metric.compute`."""
        settings = {"eyes": self.eyes.digest, "frames": FRAMES}
        found = [
            Measurement(
                MetricInfo(name=name, better="higher", settings=settings, percent=True),
                proportion(sum(verdicts), len(verdicts)),
            )
            for name, verdicts in self.verdicts.items()
        ]
        return found + [
            Measurement(
                MetricInfo(name=name, better="neither", settings=settings),
                mean_of_clips(values, self.options),
            )
            for name, values in self.values.items()
        ]
