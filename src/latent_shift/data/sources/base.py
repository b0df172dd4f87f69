"""Base classes of all sources: collections that are read, and worlds that make their clips on demand.

Also the checks that the formats of collections share.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Self
from unicodedata import normalize

import numpy as np
from pydantic import BaseModel, ConfigDict
from torch.utils.data import Dataset

from latent_shift.data.caption_io import as_seconds
from latent_shift.data.manifest import ClipRecord, LocalFile, Manifest, Problem
from latent_shift.media import CLIP_SUFFIXES, IMAGE_SUFFIXES, kind_by_name, kind_of_file


class Source(BaseModel, ABC):
    """Settings of one collection of clips; an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @abstractmethod
    def read(self) -> Manifest:
        """All records and problems. Raises ValueError for a source that cannot be used at all."""


class ClipShape(NamedTuple):
    """Frames of a clip, frames a second, height and width in pixels."""

    num_frames: int
    fps: float
    height: int
    width: int


class CaptionedClips(Protocol):
    """Clips by number, and their captions by index; index i is of clip i modulo their number."""

    def __len__(self) -> int: ...

    def frames(self, indices: Iterable[int]) -> np.ndarray:
        """Clips of these numbers, uint8 (N, F, H, W, 3)."""
        ...

    def caption(self, index: int, *, image: bool = False) -> str:
        """The canonical caption of a clip; of a single frame of it where `image`."""
        ...

    def paraphrase(self, index: int, *, image: bool = False) -> str:
        """A caption of a clip, worded by the index; of a single frame where `image`."""
        ...


_OTHER_SERIES = 1_000_003  # added to the seed of a series


class GeneratedSource(BaseModel, ABC):
    """Settings of a generated world: a series of captioned clips made on demand, without files."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: str
    seed: int
    clips: int

    @property
    @abstractmethod
    def shape(self) -> ClipShape:
        """The native shape of its clips."""

    @property
    def description(self) -> str:
        """The series in words, for model cards."""
        return f"{self.format}, seed {self.seed}"

    @abstractmethod
    def dataset(
        self, *, images: bool = False, crop: int | None = None, hard_negatives: int = 0
    ) -> Dataset[dict[str, Any]]:
        """Items {"frames": uint8 (F, H, W, 3), "caption", "key"}; single frames where `images`.

        crop: side in pixels of a window around an object, cut out of each image. hard_negatives: number of
        false captions of each item, "hard_negatives".
        """

    @abstractmethod
    def captioned_clips(self, *, cached: bool = False) -> CaptionedClips:
        """The series by number. cached: keep the descriptions (not the pixels) in memory."""

    @abstractmethod
    def extended(self, count: int) -> Self:
        """The series continued by `count` clips, in canonical words: for validation."""

    def other_series(self, count: int) -> Self:
        """`count` clips of the same kind that this series does not have, of another seed: for validation."""
        return self.model_copy(update={"seed": self.seed + _OTHER_SERIES, "clips": count})

    @abstractmethod
    def vocabulary(self) -> tuple[str, ...]:
        """Every word of its captions, in lower case, sorted."""

    def untrained_words(self) -> tuple[str, ...]:
        """Words that no caption of this series has, single or combined; by default none.

        Entries as in `VideoConfig.untrained_words`.
        """
        return ()

    def shows(self, index: int, frames: np.ndarray) -> bool:
        """Whether a clip uint8 (F, H, W, 3) shows what caption `index` says, as the world's scorer sees it.

        Raises ValueError for a world without a scorer of whole clips.
        """
        raise ValueError(f"source of format {self.format}: its clips cannot be judged")

    @abstractmethod
    def sample_prompts(self, *, images: bool) -> list[str]:
        """Captions of a few clips, or of images, that no training sees."""

    @abstractmethod
    def latent_settings(self) -> dict[str, Any]:
        """Settings that encoded clips depend on; latents of other settings are never mixed."""


def file_record(
    key: str, path: Path, captions: Sequence[str], start: float | None = None, end: float | None = None
) -> ClipRecord | Problem:
    """Check a file on disk: a record of it, or the problem that it has.

    key: of the record. path: of a clip or image. captions: one or more. start, end: of a piece, in seconds.
    """
    kind = kind_by_name(path.name)
    if kind is None:
        known = " ".join(CLIP_SUFFIXES + IMAGE_SUFFIXES)
        return Problem(key, f"{path.name} has an unknown suffix; known are {known}")
    if not captions:
        return Problem(key, "has no caption")
    if start is not None and end is not None and end <= start:
        return Problem(key, f"ends at {end:g} s, before its start at {start:g} s")
    try:
        found = path if path.is_file() else _of_letters(path)
        if found is None:
            return Problem(key, f"{path}: no such file")
        path = found
        kind = kind_of_file(path) or kind
    except OSError as error:
        return Problem(key, f"{path}: cannot be read: {error.strerror}")
    return ClipRecord(key, LocalFile(str(path)), tuple(captions), kind, start, end)


def _of_letters(path: Path) -> Path | None:
    """Find the file of the same letters, with accents composed in another way, as Macs pack them."""
    if path.name.isascii() or not path.parent.is_dir():
        return None
    name = normalize("NFC", path.name)
    return next((one for one in path.parent.iterdir() if normalize("NFC", one.name) == name), None)


def piece_times(start: Any, end: Any) -> tuple[float | None, float | None]:
    """A row's start and end in seconds. Raises ValueError naming the one that is no time."""
    times = []
    for name, value in (("start", start), ("end", end)):
        try:
            times.append(as_seconds(value))
        except ValueError as error:
            raise ValueError(f"{name} {error}") from error
    return times[0], times[1]


def is_url(name: str) -> bool:
    """Whether a name is an address on the web."""
    return name.startswith(("http://", "https://"))


def require_folder(path: Path, key: str) -> Path:
    """The path, if it is a folder. Raises ValueError naming the setting `key` otherwise."""
    if not path.is_dir():
        raise ValueError(f"{key} {path}: {'is not a folder' if path.exists() else 'no such folder'}")
    return path
