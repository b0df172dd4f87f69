"""Clips of files as a torch dataset: window, caption and size of each item, and what happens to bad files.

Indices go on beyond the length: index i is of record i modulo their number, each time with another window and
caption. An item depends on the seed and its index only, so any number of loader workers may share a dataset,
and a resumed run sees what it would have seen.

    videos = VideoDataset(source.read(), ClipSettings(num_frames=16, fps=8), seed=0)
    videos[0]    # {"frames": uint8 (16, 256, 256, 3), "caption": ..., "image_caption": ..., "fps": 8.0}

A file that is broken, or too short for the requested frames, is never padded: it is logged with its reason
and another record, drawn by seed and index, takes its place. Beyond a share of bad files the run ends.
"""

from __future__ import annotations

import json
import warnings
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import from_numpy
from torch.utils.data import Dataset

from latent_shift.data.manifest import ClipRecord, Manifest
from latent_shift.data.resize import Buckets, Size, center_crop_resize
from latent_shift.data.samplers import BatchSampler, BucketBatchSampler, ShuffledSampler
from latent_shift.limits import MAX_FPS, MAX_FRAMES, MAX_SIDE
from latent_shift.media import Facts, Kind, open_clip
from latent_shift.rng import choice, item_rng

DEFAULT_FPS = 8.0
MAX_SLOWDOWN = 1.1  # a clip may be this much slower than the requested rate: one frame in ten is seen twice
MIN_COVERAGE = 100  # records tried, before which a share says little
_A = {"clip": "a clip", "image": "an image"}


class TooManyBadClips(ValueError):
    """More of a source's records are bad than a run may leave out."""

    def __init__(self, message: str) -> None:
        # A loader's worker raises it again with a traceback as its message, at the end of which is ours.
        super().__init__(message.rpartition("TooManyBadClips: ")[2].strip())


class ClipSettings(BaseModel):
    """Frames, rate and size of the clips that a model sees."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    num_frames: int = Field(16, ge=1, le=MAX_FRAMES, description="frames; 1 takes single ones out of clips")
    fps: float | None = Field(None, gt=0, le=MAX_FPS, description="frames a second; none: 8, or by stride")
    stride: int | None = Field(None, ge=1, description="take every stride-th frame, instead of fps")
    height: int = Field(256, ge=8, le=MAX_SIDE, description="pixels; clips are cropped in the middle to fit")
    width: int = Field(256, ge=8, le=MAX_SIDE, description="pixels")
    buckets: Buckets | None = Field(None, description="sizes by each clip's shape, not height and width")
    max_bad_share: float = Field(
        0.1, ge=0.0, le=1.0, description="largest share of bad entries among those tried; more end the run"
    )

    @model_validator(mode="after")
    def _without_contradiction(self) -> ClipSettings:
        if self.fps is not None and self.stride is not None:
            raise ValueError(f"fps {self.fps:g} and stride {self.stride} contradict each other; set one")
        if self.buckets is not None and {"height", "width"} & self.model_fields_set:
            raise ValueError("buckets and height or width contradict each other; set pixels of the buckets")
        return self


class VideoDataset(Dataset[dict[str, Any]]):
    """The clips, or the images, of a manifest: items {"frames", "caption", "image_caption", "fps", "key"}.

    "frames" are uint8 (F, H, W, 3), F = 1 for images.

    Args:
        manifest: the records, of which those of another kind are left out.
        settings: frames, rate and size.
        seed: decides windows and captions.
        kind: "clip" or "image".
        bad_log: file that gets a line for each bad record, from whatever worker meets it (`read_bad_log`).
        of: records of the source that these are of; of many, one bad one among a few is no large share.

    Raises:
        ValueError: the manifest has no record of the kind.
        TooManyBadClips: it has too many problems. With buckets, which are found by opening every record at
            the start, also where too many of them cannot be opened.
    """

    def __init__(
        self,
        manifest: Manifest,
        settings: ClipSettings,
        *,
        seed: int,
        kind: Kind = "clip",
        bad_log: Path | None = None,
        of: int = 0,
    ) -> None:
        self.records = manifest.of_kind(kind).records
        self._of = max(of, len(self.records))
        self.source, self.settings, self.seed, self.bad_log = manifest.source, settings, seed, bad_log
        if not self.records:
            other = "images" if kind == "clip" else "clips"
            raise ValueError(f"{manifest.source}: holds no {kind}s, but {len(manifest.records)} {other}")
        problems, total = len(manifest.problems), len(manifest.problems) + len(manifest.records)
        if problems > settings.max_bad_share * total:
            raise TooManyBadClips(
                f"{manifest.source}: {problems} of {total} entries cannot be used; the first:"
                f" {manifest.problems[0]}; mend them (latent-shift data check lists all),"
                " or set max_bad_share higher"
            )
        self.bad: dict[int, str] = {}  # reason by record number, as far as this process met it
        self._tried: set[int] = set()
        self._told: set[str] = set()  # remarks on frames
        self.bucket_of = None if settings.buckets is None else self._measure(settings.buckets)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> dict[str, Any]:
        size = self._size(index % len(self))
        for attempt in count():
            rng = item_rng(self.seed, index, attempt)
            number = index % len(self) if attempt == 0 else int(rng.random() * len(self))
            self._tried.add(number)
            try:
                return self._item(self.records[number], rng, size)
            except ValueError as error:
                self._add_bad(number, str(error))
        raise AssertionError("count() has no end")

    def batch_sampler(self, batch_size: int, seed: int) -> BatchSampler:
        """All records shuffled; with buckets, batches of one bucket each."""
        if self.bucket_of is None:
            return ShuffledSampler(len(self), batch_size, seed)
        return BucketBatchSampler(self.bucket_of, batch_size, seed)

    def _size(self, number: int) -> Size | None:
        """Size of a record's frames, and of those that take its place; None for each clip's own bucket."""
        if self.settings.buckets is None or self.bucket_of is None:
            return self.settings.height, self.settings.width
        bucket = self.bucket_of[number]
        return None if bucket is None else self.settings.buckets.sizes[bucket]

    def _item(self, record: ClipRecord, rng: np.random.Generator, size: Size | None) -> dict[str, Any]:
        caption = choice(rng, record.captions)
        with open_clip(record.file.open()) as clip:
            if clip.facts.kind != record.kind:
                raise ValueError(f"{record.file}: holds {_A[clip.facts.kind]}, not {_A[record.kind]}")
            times, fps = [0.0], 1.0
            if record.kind == "clip":
                times, fps = sample_frame_times(clip.facts, record, self.settings, rng)
            frames = from_numpy(clip.frames(times))
            for note in clip.notes:
                if note not in self._told:
                    warnings.warn(f"{record.file}: {note} (only the first such file is named)", stacklevel=1)
                self._told.add(note)
        if size is None and self.settings.buckets is not None:
            size = self.settings.buckets.sizes[self.settings.buckets.nearest(*frames.shape[1:3])]
        frames = frames if size is None else center_crop_resize(frames, size)
        return {
            "frames": frames, "caption": caption, "image_caption": caption, "fps": fps, "key": record.key
        }  # fmt: skip

    def _measure(self, buckets: Buckets) -> list[int | None]:
        """The bucket of each record; None for one that cannot be opened, which is bad."""
        found: list[int | None] = []
        for number, record in enumerate(self.records):
            self._tried.add(number)
            try:
                with open_clip(record.file.open()) as clip:
                    found.append(buckets.nearest(clip.facts.height, clip.facts.width))
            except ValueError as error:
                found.append(None)
                self._add_bad(number, str(error))
        return found

    def _add_bad(self, number: int, reason: str) -> None:
        """Remember a bad record; raise TooManyBadClips where that is one too many."""
        if number not in self.bad:
            self.bad[number] = reason
            if self.bad_log is not None:
                line = json.dumps({"key": self.records[number].key, "reason": reason}) + "\n"
                try:
                    self.bad_log.parent.mkdir(parents=True, exist_ok=True)
                    with self.bad_log.open("ab", buffering=0) as log:  # one write: processes share the file
                        log.write(line.encode())
                except OSError as error:  # as of a full disk: the clip is left out nevertheless
                    warnings.warn(f"{self.bad_log}: could not be written: {error}: {line}", stacklevel=1)
        tried = max(len(self._tried), min(self._of, MIN_COVERAGE))
        # Even a share of 1 ends where nothing is left that could take a bad one's place.
        if len(self.bad) > self.settings.max_bad_share * tried or len(self.bad) == len(self):
            raise TooManyBadClips(
                f"{self.source}: {len(self.bad)} of {len(self._tried)} entries tried cannot be used;"
                f" the last: {self.records[number].key}: {reason}; leave them out"
                " (latent-shift data check lists all), ask for fewer frames, or set max_bad_share higher"
            )


def clip_bounds(facts: Facts, record: ClipRecord, fps: float) -> tuple[float, float, float]:
    """The times (seconds) of a record's first and last frame, and how far containers may be off them.

    Raises ValueError for a clip that is too slow for `fps` frames a second.
    """
    if fps > facts.fps * MAX_SLOWDOWN:
        raise ValueError(f"{record.file}: has {facts.fps:.3g} frames a second, {fps:.3g} are requested")
    last = facts.last_time if record.end is None else min(facts.last_time, record.end - 1 / facts.fps)
    return record.start or 0.0, last, 0.1 / facts.fps


def sample_frame_times(
    facts: Facts, record: ClipRecord, settings: ClipSettings, rng: np.random.Generator
) -> tuple[list[float], float]:
    """Frame times (seconds) of a random window between a record's start and end, and their rate.

    facts: of the record's file. settings: number and rate of the frames. rng: decides its start.
    Raises ValueError for a clip that is too short, or too slow for the rate, naming it and what it has.
    """
    fps = facts.fps / settings.stride if settings.stride else settings.fps or DEFAULT_FPS
    first, last, slack = clip_bounds(facts, record, fps if settings.num_frames > 1 else 0.0)
    room = last - first - (settings.num_frames - 1) / fps
    if room < -slack:
        held = max(int((last - first + slack) * fps) + 1, 0) if last >= first - slack else 0
        requested = f"{settings.num_frames} at {fps:.3g} frames a second"
        raise ValueError(f"{record.file}: is too short: {held} frames of the {requested} that are requested")
    start = first + rng.random() * max(room, 0.0)
    if settings.stride:  # on one of the clip's frames
        start = first + int(rng.random() * (int((max(room, 0.0) + slack) * facts.fps) + 1)) / facts.fps
    return [min(start + number / fps, max(last, first)) for number in range(settings.num_frames)], fps


def read_bad_log(log: Path) -> dict[str, str]:
    """The reason of each bad record by its key, of all workers; none where there is no such file."""
    if not log.exists():
        return {}
    lines = log.read_text(encoding="utf-8").splitlines()
    return {bad["key"]: bad["reason"] for bad in map(json.loads, lines)}
