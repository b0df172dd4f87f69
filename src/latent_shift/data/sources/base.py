"""What all sources share: strict settings with a `read`, and the checks that every format needs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from latent_shift.data.entries import Entry, Listing, OnDisk, Problem
from latent_shift.data.text import as_seconds
from latent_shift.media import CLIP_SUFFIXES, IMAGE_SUFFIXES, kind_by_name


class Source(BaseModel, ABC):
    """Settings of one collection of clips; an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @abstractmethod
    def read(self) -> Listing:
        """All entries and problems. Raises ValueError for a source that cannot be used at all."""


def file_entry(
    key: str, path: Path, captions: Sequence[str], start: float | None = None, end: float | None = None
) -> Entry | Problem:
    """An entry for a file on disk, or what is wrong with it: name, captions, times, or it is not there."""
    kind = kind_by_name(path.name)
    if kind is None:
        known = " ".join(CLIP_SUFFIXES + IMAGE_SUFFIXES)
        return Problem(key, f"{path.name} has an unknown suffix; known are {known}")
    if not captions:
        return Problem(key, "has no caption")
    if start is not None and end is not None and end <= start:
        return Problem(key, f"ends at {end:g} s, before its start at {start:g} s")
    if not path.is_file():
        return Problem(key, f"{path}: no such file")
    return Entry(key, OnDisk(str(path)), tuple(captions), kind, start, end)


def piece(start: Any, end: Any) -> tuple[float | None, float | None]:
    """A row's start and end in seconds; ValueError naming the one that is no time."""
    times = []
    for name, value in (("start", start), ("end", end)):
        try:
            times.append(as_seconds(value))
        except ValueError as error:
            raise ValueError(f"{name} {error}") from error
    return times[0], times[1]


def sorted_out(found: Sequence[Entry | Problem]) -> tuple[list[Entry], list[Problem]]:
    """Entries and problems, apart."""
    entries = [one for one in found if isinstance(one, Entry)]
    return entries, [one for one in found if isinstance(one, Problem)]


def require_folder(path: Path, what: str) -> Path:
    """The path if it is a folder; ValueError naming the key it was given for otherwise."""
    if not path.is_dir():
        raise ValueError(f"{what} {path}: {'is not a folder' if path.exists() else 'no such folder'}")
    return path
