"""The Moving Shapes protocol: fixed prompts, real clips of the same scenes, and exact scores.

A subset is a level and a split with a fixed series of scenes. The canonical captions of the scenes are its
prompts, their renderings its real clips. Prompts and seeds depend on the subset and the index only. Clips of
one frame are images, with captions that leave the motion out.

    subset = SUBSETS["level-1-seen"]
    evaluate([SubsetClips("real clips", [subset], prompts=300)], ["moving-shapes"])

Shape legend: B videos, F frames, H, W pixels.
"""

from __future__ import annotations

import itertools
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latent_shift.evaluation.clip_files import ClipReadOptions
from latent_shift.evaluation.evaluated_model import EvaluatedModel
from latent_shift.evaluation.features import SourceFeatures
from latent_shift.evaluation.metrics.base import Measurement, Metric, MetricOptions, NotAvailable, proportion
from latent_shift.evaluation.report import MetricInfo
from latent_shift.evaluation.sources import BATCH_SIZE, ClipBatch, ClipSource
from latent_shift.moving_shapes import constants
from latent_shift.moving_shapes.captions import caption, image_caption, parse_caption
from latent_shift.moving_shapes.render import render
from latent_shift.moving_shapes.sampling import Split, draw_scene
from latent_shift.moving_shapes.scene import Scene
from latent_shift.moving_shapes.scorer import ClipScore, score_clip
from latent_shift.rng import item_rng

Clips = NDArray[np.uint8]

SEED = 7_000_003  # of the scenes; no recipe trains on it
FRAME_STEPS = {constants.FRAMES: 1, 8: 2, 6: 3}  # by a clip's frames: which of the world's sixteen they are
FRAME_CHOICES = (1, *FRAME_STEPS)
MAX_PROMPTS = 100_000
MOTION_KINDS = tuple(dict.fromkeys(map(constants.motion_kind, constants.MOTIONS)))
# Names of the scores; those of DETAILS are parts of others, or less certain.
SCORES = ("colour right", "shape right", "motion right", "background right", "all right at once")
DETAILS = ("speed right", *(f"motion right, {kind}" for kind in MOTION_KINDS))
_REFERENCE_NUMBER = 500_000  # added to a subset's number, for scenes that no subset has
_FRAME_STREAM = 3  # of the random numbers that choose the frame of an image


@dataclass(frozen=True)
class Subset:
    """Prompts of one level and split.

    number: distinguishes its seeds from those of other subsets. sized_growth: only objects that have a size
    word and grow or shrink.
    """

    name: str
    number: int
    level: int
    num_objects: int
    split: Split
    sized_growth: bool = False

    def scenes(self, count: int) -> list[Scene]:
        """Return the first `count` scenes, with glyphs of the test part."""
        motions = constants.CHANGES_OF_SIZE if self.sized_growth else constants.MOTIONS
        series = (
            draw_scene(
                SEED + self.number, index, level=self.level, num_objects=self.num_objects, split=self.split,
                glyphs="test", motions=motions, sized_growth=self.sized_growth,
            )
            for index in itertools.count()
        )  # fmt: skip
        taken = (scene for scene in series if not self.sized_growth or scene.objects[0].size_word)
        return list(itertools.islice(taken, count))

    def clip_seed(self, index: int) -> int:
        """Return the seed of the generated clip of prompt `index`."""
        return self.number * MAX_PROMPTS + index

    def render(self, indices: Sequence[int], scenes: Sequence[Scene], frames: int) -> Clips:
        """Render scenes (B, F, H, W, 3) of these indices: clips, or for `frames` = 1 a frame of each."""
        if frames > 1:
            return render(scenes, range(0, constants.FRAMES, FRAME_STEPS[frames]))
        images = []
        for index, scene in zip(indices, scenes, strict=True):
            frame = int(item_rng(SEED + self.number, index, _FRAME_STREAM).random() * constants.FRAMES)
            spins = any(obj.motion in constants.SPINNING for obj in scene.objects)
            images.append(render([scene], [0 if spins else frame]))  # upright: a rotated six is a nine
        return np.concatenate(images)


SUBSETS = {
    subset.name: subset
    for subset in (
        Subset("level-1-seen", 0, 1, 1, "seen"),
        Subset("level-1-held-out", 1, 1, 1, "held-out"),
        Subset("level-1-sized-growth-seen", 5, 1, 1, "seen", sized_growth=True),
        Subset("level-1-sized-growth-held-out", 6, 1, 1, "held-out", sized_growth=True),
        Subset("level-2-one-seen", 2, 2, 1, "seen"),
        Subset("level-2-one-held-out", 3, 2, 1, "held-out"),
        Subset("level-2-two", 4, 2, 2, "any"),
    )
}


def other_scenes(subset: Subset) -> Subset:
    """Return a subset of other scenes of the same kind, for the real clips that distances are from."""
    return replace(subset, number=subset.number + _REFERENCE_NUMBER)


def choose_subsets(names: Sequence[str]) -> list[Subset]:
    """Return subsets in the order of SUBSETS, all for no names. Raises ValueError for an unknown name."""
    for name in names:
        if name not in SUBSETS:
            raise ValueError(f"subset {name!r} is unknown; choose from {', '.join(SUBSETS)}")
    return [subset for name, subset in SUBSETS.items() if not names or name in names]


def check_numbers(prompts: int, frames: int, batch_size: int) -> None:
    """Raise ValueError for numbers of prompts, frames or clips in a batch that are out of range."""
    if not 1 <= prompts <= MAX_PROMPTS:
        raise ValueError(f"prompts is {prompts}; give 1 to {MAX_PROMPTS} a subset")
    if frames not in FRAME_CHOICES:
        choices = ", ".join(f"{number} (every {step}.)" for number, step in FRAME_STEPS.items() if step > 1)
        raise ValueError(
            f"frames is {frames}; clips have {constants.FRAMES} frames, coarser ones {choices}, images 1"
        )
    if batch_size < 1:
        raise ValueError(f"batch is {batch_size}; give at least 1")


def prompt_of(scene: Scene, frames: int) -> str:
    """Return the prompt of a scene: its canonical caption, for `frames` = 1 that of an image."""
    return caption(scene) if frames > 1 else image_caption(scene)


class SubsetClips(ClipSource):
    """Clips of the prompts of subsets: rendered, or generated by a model.

    Args:
        name: of the row.
        subsets: one after the other.
        prompts: of each subset, one clip each.
        frames: of each clip, one of FRAME_CHOICES.
        batch_size: clips in a batch.
        model: generates the clips; None renders them.
        settings: of the row, beside the model's.
        metric_settings: of all columns, beside number and seed of the prompts.

    Attributes:
        seconds: spent on all clips so far; for cached clips what they took when they were generated.
    """

    def __init__(
        self,
        name: str,
        subsets: Sequence[Subset],
        *,
        prompts: int,
        frames: int = constants.FRAMES,
        batch_size: int = BATCH_SIZE,
        model: EvaluatedModel | None = None,
        settings: dict[str, Any] | None = None,
        metric_settings: dict[str, Any] | None = None,
    ) -> None:
        check_numbers(prompts, frames, batch_size)
        super().__init__(
            name,
            ClipReadOptions(frames),
            settings={**(model.settings if model else {}), **(settings or {})},
            metric_settings={**(metric_settings or {}), "prompts per subset": prompts, "seed": SEED},
            fps=constants.FPS * frames / constants.FRAMES,
        )
        self.subsets, self.prompts, self.batch_size = subsets, prompts, batch_size
        self.model, self.seconds = model, 0.0

    def __len__(self) -> int:
        """Number of clips."""
        return self.prompts * len(self.subsets)

    def batches(self) -> Iterator[ClipBatch]:
        """Yield the clips, subset by subset."""
        for subset in self.subsets:
            scenes = subset.scenes(self.prompts)
            for start in range(0, self.prompts, self.batch_size):
                part = scenes[start : start + self.batch_size]
                indices = range(start, start + len(part))
                prompts = [prompt_of(scene, self.read.frames) for scene in part]
                clips, seconds = self._make(subset, indices, part, prompts)
                self.seconds += seconds
                names = [f"{subset.name}-{index:06d}" for index in indices]
                yield ClipBatch(names, clips, prompts, part, subset.name, seconds=seconds)

    def _make(
        self, subset: Subset, indices: Sequence[int], scenes: Sequence[Scene], prompts: Sequence[str]
    ) -> tuple[Clips, float]:
        frames = self.read.frames
        if self.model is not None:
            name = f"{subset.name}-{indices[0]:06d}-{indices[-1]:06d}"
            seeds = [subset.clip_seed(index) for index in indices]
            return self.model.generate(name, prompts, seeds, frames)
        began = time.perf_counter()
        return subset.render(indices, scenes, frames), time.perf_counter() - began


class MovingShapesScores(Metric):
    """The metric "moving-shapes": shares of objects and clips that match their captions.

    "colour", "shape" and "motion right" are shares of objects, "background right" and "all right at once" of
    clips. Captions must be canonical, clips 64 x 64; images have no motion.

    detailed: add the share of right speed words, and of right motions by kind of the caption's motion.

    Attributes:
        verdicts: of all objects or clips so far, by the name of the score.
    """

    def __init__(
        self, options: MetricOptions, extractor: str | None = None, *, detailed: bool = True
    ) -> None:
        super().__init__(options, extractor)
        self.detailed = detailed
        self.verdicts: dict[str, list[bool]] = defaultdict(list)
        self._unusable: str | None = None

    def update(self, batch: ClipBatch) -> Sequence[str] | None:
        """See `Metric.update`; the line about a clip names what is wrong, or is "right"."""
        notes = []
        for name, clip, text in zip(batch.names, batch.clips, batch.captions, strict=True):
            try:
                words, background = parse_caption(text or "", image=len(clip) == 1)
                score = score_clip(clip, words, background)
            except ValueError as error:
                self._unusable = f"{name}: {error}"
                return None
            self._count(score, [obj.motion for obj in words], is_clip=len(clip) > 1)
            notes.append(describe_errors(score))
        return notes

    def _count(self, score: ClipScore, motions: Sequence[str], *, is_clip: bool) -> None:
        for obj, motion in zip(score.objects, motions, strict=True):
            self.verdicts["colour right"].append(obj.colour)
            self.verdicts["shape right"].append(obj.shape)
            if is_clip:
                self.verdicts["motion right"].append(obj.motion)
                self.verdicts["speed right"].append(obj.speed)
                self.verdicts[f"motion right, {constants.motion_kind(motion)}"].append(obj.motion)
        self.verdicts["background right"].append(score.background)
        self.verdicts["all right at once"].append(score.all_correct)

    def compute(self, clips: SourceFeatures, reference: SourceFeatures | None) -> list[Measurement]:
        """See `Metric.compute`."""
        if self._unusable is not None:
            raise NotAvailable(self._unusable)
        names = [*SCORES, *DETAILS] if self.detailed else SCORES
        settings = {"scorer": "Moving Shapes", "frames": clips.read_settings["frames"]}
        return [
            Measurement(
                MetricInfo(name=name, better="higher", settings=settings, percent=True),
                proportion(sum(self.verdicts[name]), len(self.verdicts[name])),
            )
            for name in names
            if name in self.verdicts
        ]


def describe_errors(score: ClipScore) -> str:
    """Name what is wrong in a clip, such as "wrong colour 1, motion 2"; "right" if nothing is."""
    wrong = [] if score.background else ["background"]
    for number, obj in enumerate(score.objects, 1):
        suffix = f" {number}" if len(score.objects) > 1 else ""
        wrong += [f"{name}{suffix}" for name in ("colour", "shape", "motion") if not getattr(obj, name)]
    return f"wrong {', '.join(wrong)}" if wrong else "right"
