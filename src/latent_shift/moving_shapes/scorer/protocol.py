"""How a model is measured on Moving Shapes: which prompts, one clip each, beside real clips of the same.

A cell is a level and a split with its own fixed series of scenes; their canonical captions are the prompts.
Three sources of clips are scored alike: rendered from the scenes, the same through the model's autoencoder,
and the model's own. Prompts and seeds depend on the cell and the number alone. With one frame it is images.

Shapes: B videos, F frames, H, W pixels.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from latent_shift.evaluation.clip_cache import ClipCache
from latent_shift.evaluation.clip_maker import ClipMaker
from latent_shift.moving_shapes import (
    ObjectWords,
    Scene,
    caption,
    constants,
    draw_scenes,
    image_caption,
    render,
)
from latent_shift.moving_shapes.sampling import Split
from latent_shift.moving_shapes.scorer.score import ClipScore, score_clip
from latent_shift.rng import item_rng

Clips = NDArray[np.uint8]
Source = Literal["rendered", "autoencoder", "model"]

SEED = 7_000_003  # of the evaluation's scenes; no recipe trains on it
EVERY = {constants.FRAMES: 1, 8: 2, 6: 3}  # by the frames of a clip: which of the world's sixteen they are
FRAME_CHOICES = (1, *EVERY)
MOST_PROMPTS = 100_000
_FRAME_STREAM = 3  # of the random numbers that choose the frame of an image


@dataclass(frozen=True)
class Cell:
    """One line of the table. number: keeps the seeds of different cells apart."""

    name: str
    number: int
    level: int
    num_objects: int
    split: Split

    def scenes(self, prompts: int) -> list[Scene]:
        """The first `prompts` scenes of the cell, with handwriting that nobody trains on."""
        return draw_scenes(
            SEED + self.number, range(prompts), level=self.level, num_objects=self.num_objects,
            split=self.split, glyphs="test",
        )  # fmt: skip

    def clip_seed(self, index: int) -> int:
        """The seed of the clip of prompt `index`."""
        return self.number * MOST_PROMPTS + index


CELLS = {
    cell.name: cell
    for cell in (
        Cell("level-1-seen", 0, 1, 1, "seen"),
        Cell("level-1-held-out", 1, 1, 1, "held-out"),
        Cell("level-2-one-seen", 2, 2, 1, "seen"),
        Cell("level-2-one-held-out", 3, 2, 1, "held-out"),
        Cell("level-2-two", 4, 2, 2, "any"),
    )
}


@dataclass
class Tally:
    """The verdicts of each column: of objects for colour, shape, motion and speed, else of clips.

    kinds: those of the column "motion" again, by the kind of the motion asked for (`constants.motion_kind`).
    """

    columns: dict[str, list[bool]] = field(default_factory=lambda: defaultdict(list))
    kinds: dict[str, list[bool]] = field(default_factory=lambda: defaultdict(list))

    def add(self, score: ClipScore, motions: Sequence[str], frames: int) -> None:
        """Count one clip in, whose objects were asked for with these motions."""
        for obj, motion in zip(score.objects, motions, strict=True):
            self.columns["colour"].append(obj.colour)
            self.columns["shape"].append(obj.shape)
            if frames > 1:
                self.columns["motion"].append(obj.motion)
                self.columns["speed"].append(obj.speed)
                self.kinds[constants.motion_kind(motion)].append(obj.motion)
        self.columns["background"].append(score.background)
        self.columns["all"].append(score.all_correct)


@dataclass(frozen=True)
class Example:
    """A clip (F, H, W, 3) with what was asked and how it was judged."""

    prompt: str
    clip: Clips
    score: ClipScore

    def verdict(self) -> str:
        """What is wrong, in words, or "right"."""
        wrong = [] if self.score.background else ["background"]
        for number, obj in enumerate(self.score.objects, 1):
            of_which = f" {number}" if len(self.score.objects) > 1 else ""
            wrong += [f"{name}{of_which}" for name in ("colour", "shape", "motion") if not getattr(obj, name)]
        return f"wrong {', '.join(wrong)}" if wrong else "right"


@dataclass
class CellResult:
    """One cell of one source. seconds: spent making the clips, kept ones at what they took when made."""

    cell: str
    source: Source
    tally: Tally = field(default_factory=Tally)
    seconds: float = 0.0
    examples: list[Example] = field(default_factory=list)


def choose_cells(names: Sequence[str]) -> list[Cell]:
    """The cells of these names, all where there are none; ValueError naming an unknown one."""
    for name in names:
        if name not in CELLS:
            raise ValueError(f"cell {name!r} is unknown; choose of {', '.join(CELLS)}")
    return [cell for name, cell in CELLS.items() if not names or name in names]


def measure(
    cell: Cell,
    source: Source,
    *,
    prompts: int,
    frames: int = constants.FRAMES,
    batch: int = 8,
    maker: ClipMaker | None = None,
    store: ClipCache | None = None,
    examples: int = 0,
    show_done: Callable[[int], None] = lambda done: None,
) -> CellResult:
    """Score `prompts` clips of one source; `show_done` is told how many are finished, batch by batch.

    maker: needed for the sources "autoencoder" and "model". store: keeps the model's clips. examples: how
    many clips to give back. Raises ValueError for numbers out of range, or a source without its maker.
    """
    check_numbers(prompts, frames, batch)
    if source != "rendered" and maker is None:
        raise ValueError(f"the source {source!r} needs a model")
    result, done = CellResult(cell.name, source), 0
    for scenes, clips, seconds in batches_of(cell, source, prompts, frames, batch, maker, store):
        count_in(result, scenes, clips, seconds, examples)
        done += len(scenes)
        show_done(done)
    return result


def batches_of(
    cell: Cell,
    source: Source,
    prompts: int,
    frames: int,
    batch: int,
    maker: ClipMaker | None = None,
    store: ClipCache | None = None,
) -> Iterator[tuple[list[Scene], Clips, float]]:
    """The cell's scenes in batches, their clips (B, F, H, W, 3), and the seconds it took to make them."""
    every = cell.scenes(prompts)
    for start in range(0, prompts, batch):
        scenes = every[start : start + batch]
        indices = list(range(start, start + len(scenes)))
        clips, seconds = _make(cell, source, indices, scenes, frames, maker, store)
        yield scenes, clips, seconds


def count_in(
    result: CellResult, scenes: Sequence[Scene], clips: Clips, seconds: float, examples: int = 0
) -> None:
    """Score clips (B, F, H, W, 3) of these scenes, and keep some as examples."""
    frames = clips.shape[1]
    result.seconds += seconds
    for scene, clip in zip(scenes, clips, strict=True):
        score = score_clip(clip, object_words(scene), scene.background)
        result.tally.add(score, [obj.motion for obj in scene.objects], frames)
        if len(result.examples) < examples:
            result.examples.append(Example(prompt_of(scene, frames), clip, score))


def check_numbers(prompts: int, frames: int, batch: int) -> None:
    """ValueError for a number out of range."""
    if not 1 <= prompts <= MOST_PROMPTS:
        raise ValueError(f"prompts is {prompts}; give 1 to {MOST_PROMPTS} a cell")
    if frames not in FRAME_CHOICES:
        choices = ", ".join(f"{number} (every {every}.)" for number, every in EVERY.items() if every > 1)
        raise ValueError(
            f"frames is {frames}; clips have {constants.FRAMES} frames, coarser ones {choices}, images 1"
        )
    if batch < 1:
        raise ValueError(f"batch is {batch}; give at least 1")


def _make(
    cell: Cell,
    source: Source,
    indices: list[int],
    scenes: list[Scene],
    frames: int,
    maker: ClipMaker | None,
    store: ClipCache | None,
) -> tuple[Clips, float]:
    """Clips (B, F, H, W, 3) of one batch of scenes, and the seconds it took to make them."""
    began = time.perf_counter()
    if source == "rendered" or maker is None:
        return rendered(cell, indices, scenes, frames), time.perf_counter() - began
    if source == "autoencoder":
        clips = maker.reconstruct(rendered(cell, indices, scenes, frames))
        return clips, time.perf_counter() - began

    def make() -> tuple[Clips, float]:
        seeds = [cell.clip_seed(index) for index in indices]
        clips = maker.sample([prompt_of(scene, frames) for scene in scenes], seeds, frames)
        return clips, time.perf_counter() - began

    name = f"{cell.name}-{indices[0]:06d}-{indices[-1]:06d}"
    return store.batch(name, make) if store is not None else make()


def rendered(cell: Cell, indices: Sequence[int], scenes: Sequence[Scene], frames: int) -> Clips:
    """The scenes drawn (B, F, H, W, 3): whole clips, or for images an upright frame of each."""
    if frames > 1:
        return render(scenes, range(0, constants.FRAMES, EVERY[frames]))
    return np.concatenate(list(_single_frames(cell, indices, scenes)))


def _single_frames(cell: Cell, indices: Sequence[int], scenes: Sequence[Scene]) -> Iterator[Clips]:
    for index, scene in zip(indices, scenes, strict=True):
        moment = int(item_rng(SEED + cell.number, index, _FRAME_STREAM).random() * constants.FRAMES)
        spins = any(obj.motion in constants.SPINNING for obj in scene.objects)
        yield render([scene], [0 if spins else moment])  # upright: a turned six is a nine


def prompt_of(scene: Scene, frames: int) -> str:
    """What the model is asked for: the canonical caption, of images without the motion."""
    return caption(scene) if frames > 1 else image_caption(scene)


def object_words(scene: Scene) -> list[ObjectWords]:
    """The words of a scene's objects, as `parse_caption` would read them from its caption."""
    return [
        ObjectWords(obj.size_word, obj.colour, obj.shape, obj.speed_word, obj.motion) for obj in scene.objects
    ]
