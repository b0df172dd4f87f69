"""Clips of files as a torch dataset: which frames and caption a visit sees, and what becomes of bad files.

Visits are numbers without end: visit v is of entry v modulo their number, each time another window and
caption. What a visit sees depends on the seed and its number alone, so any number of loader workers may share
a dataset, and a resumed run sees what it would have seen.

    videos = Videos(source.read(), ClipSettings(num_frames=16, fps=8), seed=0)
    videos[0]    # {"frames": uint8 (16, 256, 256, 3), "caption": ..., "image_caption": ..., "fps": 8.0}

A file that is broken, or too short for the frames asked for, is never padded: it is noted with its reason and
another entry, drawn by seed and visit, stands in. Past a share of bad files the run ends (`TooManyBad`).
"""

from __future__ import annotations

import json
import os
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import from_numpy
from torch.utils.data import Dataset

from latent_shift.data.bucket_batches import BucketBatches
from latent_shift.data.manifest import ClipRecord, Manifest
from latent_shift.data.resize import Buckets, Size, center_crop_resize
from latent_shift.data.samplers import BatchSampler, ShuffledSampler
from latent_shift.media import Facts, Kind, open_clip
from latent_shift.rng import choice, item_rng

DEFAULT_FPS = 8.0
# A clip may be this much slower than asked for: one frame in ten is seen twice. Slower ones are left out.
MAX_SLOWDOWN = 1.1
MOST_PIXELS = 4096  # of a side: a limit against slips of the keyboard
MIN_COVERAGE = 100  # entries tried, before which a share says little


class TooManyBadClips(ValueError):
    """More of a source's entries are bad than a run may leave out."""

    def __init__(self, message: str) -> None:
        # A loader's worker hands its message on inside a traceback, of which the end is ours.
        super().__init__(message.rpartition("TooManyBadClips: ")[2].strip())


class ClipSettings(BaseModel):
    """What of each clip the model sees."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    num_frames: int = Field(16, ge=1, le=1024, description="1 takes single frames out of clips")
    fps: float | None = Field(None, gt=0, le=1000, description="frames a second; none: 8, or by stride")
    stride: int | None = Field(None, ge=1, description="every so many-th frame, instead of fps")
    height: int = Field(
        256, ge=8, le=MOST_PIXELS, description="pixels; what does not fit is cut off in the middle's favour"
    )
    width: int = Field(256, ge=8, le=MOST_PIXELS)
    buckets: Buckets | None = Field(None, description="sizes by each clip's shape, not height and width")
    max_bad_share: float = Field(0.1, ge=0.0, le=1.0, description="of the entries tried; more end the run")

    @model_validator(mode="after")
    def _one_of_each(self) -> ClipSettings:
        if self.fps is not None and self.stride is not None:
            raise ValueError(f"fps {self.fps:g} and stride {self.stride} contradict each other; set one")
        if self.buckets is not None and {"height", "width"} & self.model_fields_set:
            raise ValueError("buckets and height or width contradict each other; set pixels of the buckets")
        return self


class VideoDataset(Dataset[dict[str, Any]]):
    """The clips, or the images, of a listing: items {"frames", "caption", "image_caption", "fps", "key"}.

    frames: uint8 (F, H, W, 3), F = 1 for images. bad_log: a file that a line is added to for each bad entry,
    by whatever worker meets it; `read_bad_log` reads it. With buckets every entry is opened at the start.
    Raises ValueError where the listing has no entry of the kind, TooManyBad where it has too many problems.
    """

    def __init__(
        self,
        listing: Manifest,
        settings: ClipSettings,
        *,
        seed: int,
        kind: Kind = "clip",
        bad_log: Path | None = None,
    ) -> None:
        self.entries = listing.of_kind(kind).entries
        self.source, self.settings, self.seed, self.bad_log = listing.source, settings, seed, bad_log
        if not self.entries:
            other = "images" if kind == "clip" else "clips"
            raise ValueError(f"{listing.source}: holds no {kind}s, but {len(listing.entries)} {other}")
        left_out, total = len(listing.problems), len(listing.problems) + len(listing.entries)
        if left_out > settings.max_bad_share * total:
            raise TooManyBadClips(
                f"{listing.source}: {left_out} of {total} entries cannot be used; the first:"
                f" {listing.problems[0]}; mend them (latent-shift data check lists all),"
                " or set max_bad_share higher"
            )
        self.bad: dict[int, str] = {}  # by entry, as far as this process met it
        self._tried: set[int] = set()
        self.bucket_of = None if settings.buckets is None else self._measure(settings.buckets)

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, visit: int) -> dict[str, Any]:
        size = self._size(visit % len(self))
        for attempt in count():
            rng = item_rng(self.seed, visit, attempt)
            index = visit % len(self) if attempt == 0 else int(rng.random() * len(self))
            self._tried.add(index)
            try:
                return self._item(self.entries[index], rng, size)
            except ValueError as error:
                self._note(index, str(error))
        raise AssertionError("count() has no end")

    def plan(self, batch_size: int, seed: int) -> BatchSampler:
        """Which visits a step sees; with buckets, those of one bucket."""
        if self.bucket_of is None:
            return ShuffledSampler(len(self), batch_size, seed)
        return BucketBatches(self.bucket_of, batch_size, seed)

    def _size(self, index: int) -> Size | None:
        """Of the frames of an entry, and of those that stand in for it; None for each clip's own bucket."""
        if self.settings.buckets is None or self.bucket_of is None:
            return self.settings.height, self.settings.width
        bucket = self.bucket_of[index]
        return None if bucket is None else self.settings.buckets.sizes[bucket]

    def _item(self, entry: ClipRecord, rng: np.random.Generator, size: Size | None) -> dict[str, Any]:
        caption = choice(rng, entry.captions)
        with open_clip(entry.place.open()) as clip:
            if clip.facts.kind != entry.kind:
                raise ValueError(f"{entry.place}: holds {_A[clip.facts.kind]}, not {_A[entry.kind]}")
            times, fps = [0.0], 1.0
            if entry.kind == "clip":
                times, fps = sample_frame_times(clip.facts, entry, self.settings, rng)
            frames = from_numpy(clip.frames(times))
        if size is None and self.settings.buckets is not None:
            size = self.settings.buckets.sizes[self.settings.buckets.nearest(*frames.shape[1:3])]
        frames = frames if size is None else center_crop_resize(frames, size)
        return {
            "frames": frames, "caption": caption, "image_caption": caption, "fps": fps, "key": entry.key
        }  # fmt: skip

    def _measure(self, buckets: Buckets) -> list[int | None]:
        """The bucket of each entry; None for one that cannot be opened, which is bad."""
        found: list[int | None] = []
        for index, entry in enumerate(self.entries):
            self._tried.add(index)
            try:
                with open_clip(entry.place.open()) as clip:
                    found.append(buckets.nearest(clip.facts.height, clip.facts.width))
            except ValueError as error:
                found.append(None)
                self._note(index, str(error))
        return found

    def _note(self, index: int, reason: str) -> None:
        """Remember a bad entry; raise TooManyBad where that is one too many."""
        if index not in self.bad:
            self.bad[index] = reason
            if self.bad_log is not None:
                _append(self.bad_log, {"key": self.entries[index].key, "reason": reason})
        tried = max(len(self._tried), min(len(self), MIN_COVERAGE))
        # Even a share of 1 ends where nothing is left that could stand in.
        if len(self.bad) > self.settings.max_bad_share * tried or len(self.bad) == len(self):
            raise TooManyBadClips(
                f"{self.source}: {len(self.bad)} of {len(self._tried)} entries tried cannot be used;"
                f" the last: {self.entries[index].key}: {reason}; leave them out"
                " (latent-shift data check lists all), ask for fewer frames, or set max_bad_share higher"
            )


_A = {"clip": "a clip", "image": "an image"}


def clip_bounds(facts: Facts, entry: ClipRecord, fps: float) -> tuple[float, float, float]:
    """The times (seconds) of an entry's first and last frame, and how far containers may be off them.

    Raises ValueError for a clip that is too slow for `fps` frames a second.
    """
    if fps > facts.fps * MAX_SLOWDOWN:
        raise ValueError(f"{entry.place}: has {facts.fps:.3g} frames a second, {fps:.3g} are asked for")
    last = facts.last_time if entry.end is None else min(facts.last_time, entry.end - 1 / facts.fps)
    return entry.start or 0.0, last, 0.1 / facts.fps


def sample_frame_times(
    facts: Facts, entry: ClipRecord, settings: ClipSettings, rng: np.random.Generator
) -> tuple[list[float], float]:
    """The times (seconds) that a visit sees of a clip, somewhere between its start and end; and their rate.

    Raises ValueError for a clip that is too short, or too slow for the rate, naming it and what it has.
    """
    fps = facts.fps / settings.stride if settings.stride else settings.fps or DEFAULT_FPS
    first, last, slack = clip_bounds(facts, entry, fps if settings.num_frames > 1 else 0.0)
    room = last - first - (settings.num_frames - 1) / fps
    if room < -slack:
        held = max(int((last - first + slack) * fps) + 1, 0) if last >= first - slack else 0
        asked = f"{settings.num_frames} at {fps:.3g} frames a second"
        raise ValueError(f"{entry.place}: is too short: {held} frames of the {asked} that are asked for")
    start = first + rng.random() * max(room, 0.0)
    if settings.stride:  # on one of the clip's frames
        start = first + int(rng.random() * (int((max(room, 0.0) + slack) * facts.fps) + 1)) / facts.fps
    return [min(start + place / fps, max(last, first)) for place in range(settings.num_frames)], fps


def _append(log: Path, line: dict[str, str]) -> None:
    """Add a line in one write, so that several processes may share the file."""
    log.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(handle, (json.dumps(line) + "\n").encode())
    finally:
        os.close(handle)


def read_bad_log(log: Path) -> dict[str, str]:
    """The reason of each bad entry by its key, whichever workers met it; none where there is no such file."""
    if not log.exists():
        return {}
    lines = log.read_text(encoding="utf-8").splitlines()
    return {bad["key"]: bad["reason"] for bad in map(json.loads, lines)}
