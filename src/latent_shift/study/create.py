"""Make a study: clips of every source encoded alike, known pairs spoilt from them, and the study file.

All clips get one codec, size and rate, no metadata, random names and one date, so that nothing about a file
tells its source. Small clips are enlarged by whole pixels before they are encoded: a video's colours have
half of its resolution.

Shapes: F frames, H, W pixels, uint8 (F, H, W, 3).
"""

from __future__ import annotations

import datetime
import os
import random
import shutil
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from latent_shift.evaluation.clip_files import Frames
from latent_shift.hashes import file_sha256
from latent_shift.io import write_text
from latent_shift.media import write_clip
from latent_shift.study.design import (
    CHECKS,
    CLIPS,
    MAX_CATCH_PAIRS,
    MIN_CATCHES,
    MIN_PROMPTS,
    STUDY_FILE,
    ClipFile,
    DesignOptions,
    KnownPair,
    Source,
    Study,
    all_pairs,
    draw_queue,
    draw_sessions,
    expected_answers,
    farthest_prompt,
)
from latent_shift.study.sources import ClipsOf, SourceClip, check_prompts, common_prompts, normal
from latent_shift.study.store import StudyStore

TRAINING_PAIRS = 3
MIN_SIDE = 256  # pixels of the shorter side; smaller clips are enlarged
_DATE = 1_577_836_800  # of every clip's file, seconds: 2020-01-01
_BLOCK = 8  # pixels of a side of a square of noise in a spoilt clip, at MIN_SIDE


@dataclass(frozen=True)
class _Known:
    """A known pair to be made: the clip of `clean` and the spoilt clip of `spoilt`, prompts of one source."""

    prompt: int
    source: int
    clean: int
    spoilt: int
    crossed: bool  # the spoilt clip is the one that shows the text


def create_study(
    sources: Sequence[ClipsOf],
    prompts: Sequence[dict[str, Any]],
    folder: Path,
    options: DesignOptions,
    *,
    resolution: int | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Study:
    """Write a study's folder, whole or not at all.

    Args:
        sources: two or more, of which the prompts that all have are taken.
        prompts: as of `generation.read_prompts`.
        folder: new or empty; a link to one, or a mounted one, stays what it is.
        options: of the design.
        resolution: side in pixels of the middle square that is taken of each clip; None takes whole frames.
        on_progress: called with clips done and all clips.

    Raises:
        ValueError: for a folder that holds something, too few common prompts, and clips of different length,
            rate or size.
    """
    check_folder(folder)
    check_prompts(prompts)
    common = common_prompts(sources, len(prompts), MIN_PROMPTS)
    texts = tuple(normal(prompts[number]["prompt"]) for number in common)
    rng = random.Random(f"{options.seed} clips")
    pairs = all_pairs(len(common), len(sources))
    known = _draw_known(texts, len(sources), len(pairs), options.seed)
    is_there = folder.is_dir()
    beside = folder if is_there else folder.parent
    beside.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=beside))
    try:
        with suppress(PermissionError):  # file systems without permissions of each folder
            work.chmod(0o755)
        encoder = _Encoder(work / CLIPS, rng)
        total = len(common) * len(sources)
        kept: dict[tuple[int, int], SourceClip] = {}  # by source and prompt, for the known pairs
        needed = {(one.source, one.spoilt) for one in known}
        for number, source in enumerate(sources):
            for place, clip in enumerate(source.read(common)):
                clip = encoder.checked(clip, resolution)
                encoder.write(clip, source.name, place)
                if (number, place) in needed:
                    kept[number, place] = clip
                on_progress(len(encoder.files), total)
        made = tuple(_known_pair(one, kept, encoder, sources, options) for one in known)
        per_rater = min(options.pairs_per_rater, len(pairs))
        options = options.model_copy(update={"pairs_per_rater": per_rater})
        sessions = -(-len(pairs) * options.raters_per_pair // per_rater)
        shape = encoder.like.frames.shape
        study = Study(
            created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            options=options,
            frames=shape[0],
            fps=encoder.like.fps,
            height=shape[1],
            width=shape[2],
            prompts=texts,
            sources=tuple(Source(name=source.name, made_by=source.made_by) for source in sources),
            clips=tuple(sorted(encoder.files, key=lambda clip: clip.id)),
            pairs=pairs,
            training=made[:TRAINING_PAIRS],
            catches=made[TRAINING_PAIRS:],
            queue=draw_queue(pairs, options.raters_per_pair, options.seed),
            sessions=draw_sessions(
                sessions, per_rater, TRAINING_PAIRS, len(made) - TRAINING_PAIRS, options.seed
            ),
        )
        write_text(work / STUDY_FILE, study.model_dump_json(indent=1) + "\n")
        StudyStore.create(work).close()
        if is_there:
            for part in sorted(work.iterdir(), key=lambda file: file.name == STUDY_FILE):  # which comes last
                os.replace(part, folder / part.name)
        else:
            os.replace(work, folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return study


def check_folder(folder: Path) -> None:
    """Raise ValueError unless a folder is new or empty; a study that is there is never touched."""
    if (folder / STUDY_FILE).is_file():
        store = StudyStore.open(folder)
        answers = store.progress().answers
        store.close()
        raise ValueError(f"{folder}: holds a study already, with {answers} answers; name another folder")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder}: exists and is no empty folder; name another one")


class _Encoder:
    """Encoder of all clips, which checks that they are alike."""

    def __init__(self, folder: Path, rng: random.Random) -> None:
        folder.mkdir()
        self._folder, self._rng = folder, rng
        self.files: list[ClipFile] = []
        self._first: SourceClip | None = None
        self._scale = 1

    @property
    def like(self) -> SourceClip:
        """The first clip, which all others are like."""
        if self._first is None:
            raise AssertionError("no clip was read")
        return self._first

    def checked(self, clip: SourceClip, resolution: int | None) -> SourceClip:
        """Return a clip cropped and enlarged. Raises ValueError where it is unlike the first."""
        frames = clip.frames if resolution is None else _middle_square(clip.frames, resolution)
        if self._first is None:
            self._scale = -(-MIN_SIDE // min(frames.shape[1:3]))
        if self._scale > 1:
            frames = frames.repeat(self._scale, axis=1).repeat(self._scale, axis=2)
        clip = SourceClip(clip.prompt, frames, clip.fps, clip.origin)
        if self._first is None:
            self._first = clip
        first = self._first
        if len(frames) != len(first.frames):
            raise ValueError(
                f"{clip.origin}: has {len(frames)} frames, {first.origin} has {len(first.frames)}; clips of a"
                " study are equally long: take the first N of each with --frames N"
            )
        if abs(clip.fps - first.fps) > 0.01 * first.fps:
            raise ValueError(
                f"{clip.origin}: has {clip.fps:g} frames a second, {first.origin} has {first.fps:g}; take one"
                " rate of all with --fps F --frames N"
            )
        if frames.shape != first.frames.shape:
            sizes = [f"{one.shape[2] // self._scale} x {one.shape[1] // self._scale}" for one in
                     (frames, first.frames)]  # fmt: skip
            raise ValueError(
                f"{clip.origin}: is {sizes[0]} pixels, {first.origin} is {sizes[1]}; bring all to one size"
                " with --resolution N, which takes the middle square"
            )
        return clip

    def write(self, clip: SourceClip, source: str | None, prompt: int) -> str:
        """Encode a clip under a new random id, and return the id. source: None for a spoilt clip."""
        name = f"{self._rng.getrandbits(64):016x}"
        file = write_clip(self._folder / f"{name}.mp4", clip.frames, self.like.fps)
        os.utime(file, (_DATE, _DATE))
        self.files.append(ClipFile(id=name, source=source, prompt=prompt, sha256=file_sha256(file)))
        return name


def _middle_square(frames: Frames, side: int) -> Frames:
    import torch

    from latent_shift.data.resize import center_crop_resize

    return center_crop_resize(torch.from_numpy(np.ascontiguousarray(frames)), (side, side)).numpy()


def _draw_known(texts: Sequence[str], sources: int, pairs: int, seed: int) -> list[_Known]:
    """Draw the known pairs: for training one easy and two crossed ones, then all catch pairs."""
    rng = random.Random(f"{seed} known")
    order = rng.sample(range(len(texts)), len(texts))
    places = [(prompt, (prompt + turn) % sources) for turn in range(sources) for prompt in order]
    wanted = min(max(MIN_CATCHES, pairs // CHECKS), MAX_CATCH_PAIRS)
    # Catch pairs take prompts after those of the training, and those again where there are no others.
    turned = places[TRAINING_PAIRS:] + places[:TRAINING_PAIRS]
    catches = (turned * wanted)[:wanted]
    known = []
    for number, (prompt, source) in enumerate([*(places * TRAINING_PAIRS)[:TRAINING_PAIRS], *catches]):
        other = farthest_prompt(texts, prompt, rng)
        crossed = 0 < number < TRAINING_PAIRS
        clean, spoilt = (other, prompt) if crossed else (prompt, other)
        known.append(_Known(prompt, source, clean, spoilt, crossed))
    return known


def _known_pair(
    one: _Known,
    kept: dict[tuple[int, int], SourceClip],
    encoder: _Encoder,
    sources: Sequence[ClipsOf],
    options: DesignOptions,
) -> KnownPair:
    name = sources[one.source].name
    clean = next(clip.id for clip in encoder.files if (clip.source, clip.prompt) == (name, one.clean))
    clip = kept[one.source, one.spoilt]
    frames = spoil(clip.frames, options.seed + len(encoder.files))
    spoilt = encoder.write(SourceClip(clip.prompt, frames, clip.fps, clip.origin), None, one.spoilt)
    right = {False: 0, True: 1 if one.crossed else 0}
    expected = expected_answers(options.questions, right)
    return KnownPair(prompt=one.prompt, clips=(clean, spoilt), expected=expected)


def spoil(frames: Frames, seed: int) -> Frames:
    """Return a clip under coarse noise that flickers: plainly worse, and what it shows still to be seen."""
    rng = np.random.default_rng(seed)
    count, height, width = frames.shape[:3]
    block = max(_BLOCK * min(height, width) // MIN_SIDE, 1)
    rows, columns = -(-height // block), -(-width // block)
    noise = rng.normal(0.0, 45.0, (count, rows, columns, 1))
    noise = noise.repeat(block, axis=1).repeat(block, axis=2)[:, :height, :width]
    flicker = rng.uniform(0.6, 1.1, (count, 1, 1, 1))
    return np.clip(frames * flicker + noise, 0, 255).astype(np.uint8)
