"""What a collection of clips is read into: entries, and the problems met on the way. No file is decoded here.

An `Entry` is one clip or image with its captions; a `Problem` is what was left out, where, and why. A source
(`sources/`) reads a `Listing`, whatever its format; what comes after (`videos.py`, `check.py`, `pack.py`)
knows listings alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256
from typing import Protocol

from latent_shift.media import File, HeldFile, Kind


class FileRef(Protocol):
    """Where the bytes of a clip or image lie."""

    def open(self) -> File:
        """What `latent_shift.media` reads: a path, or the file itself held in memory."""
        ...

    def __str__(self) -> str: ...


@dataclass(frozen=True, slots=True)
class LocalFile:
    """A file of its own."""

    path: str

    def open(self) -> File:
        """The path."""
        return self.path

    def __str__(self) -> str:
        return self.path


@dataclass(frozen=True, slots=True)
class TarMember:
    """A member of a tar file, found by its place in it."""

    tar: str
    name: str
    offset: int  # bytes
    size: int

    def open(self) -> File:
        """The member's bytes; ValueError where the tar is shorter than it was."""
        return HeldFile(str(self), self.read())

    def read(self) -> bytes:
        """The member's bytes; ValueError where the tar is gone or shorter than it was."""
        try:
            with open(self.tar, "rb") as file:
                file.seek(self.offset)
                data = file.read(self.size)
        except OSError as error:
            raise ValueError(f"{self}: {error.strerror}") from error
        if len(data) < self.size:
            raise ValueError(f"{self}: is cut off, {len(data)} of {self.size} bytes are there")
        return data

    def __str__(self) -> str:
        return f"{self.tar}/{self.name}"


@dataclass(frozen=True, slots=True)
class ClipRecord:
    """One clip or image. start and end cut a piece out of a clip, in seconds."""

    key: str  # unique in its source; names the entry in logs
    place: FileRef
    captions: tuple[str, ...]  # at least one
    kind: Kind
    start: float | None = None
    end: float | None = None
    latents: FileRef | None = None  # computed ahead (`ahead.py`), with the states of the captions
    text: FileRef | None = None


@dataclass(frozen=True, slots=True)
class Problem:
    """Something of a source that cannot be used."""

    where: str  # file and line, or an entry's key
    reason: str

    def __str__(self) -> str:
        return f"{self.where}: {self.reason}"


@dataclass(frozen=True)
class Manifest:
    """A source that was read: what can be used, what cannot, and what was guessed on the way."""

    source: str
    entries: tuple[ClipRecord, ...]
    problems: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()

    def of_kind(self, kind: Kind) -> Manifest:
        """The listing with the clips alone, or the images alone."""
        kept = tuple(entry for entry in self.entries if entry.kind == kind)
        return Manifest(self.source, kept, self.problems, self.notes)

    def parted(self, count: int, seed: int) -> tuple[Manifest, Manifest]:
        """All but `count` of the entries, and these, chosen by the seed and their keys alone.

        Raises ValueError where that leaves nothing.
        """
        if count >= len(self.entries):
            raise ValueError(f"{self.source}: {count} of its {len(self.entries)} entries cannot be kept out")
        chance = {entry.key: sha256(f"{seed} {entry.key}".encode()).digest() for entry in self.entries}
        chosen = set(sorted(chance, key=lambda key: chance[key])[:count])
        rest = tuple(entry for entry in self.entries if entry.key not in chosen)
        kept = tuple(entry for entry in self.entries if entry.key in chosen)
        return Manifest(self.source, rest, self.problems, self.notes), Manifest(self.source, kept)


def build_manifest(
    source: str, entries: Iterable[ClipRecord], problems: Iterable[Problem], notes: Iterable[str] = ()
) -> Manifest:
    """A listing, checked: an entry whose key an earlier one has becomes a problem.

    Raises ValueError where no entry is left, naming the source and the first problem.
    """
    kept: dict[str, ClipRecord] = {}
    wrong = list(problems)
    for entry in entries:
        if entry.key in kept:
            wrong.append(Problem(entry.key, "stands twice in the source; the first one is used"))
        else:
            kept[entry.key] = entry
    if not kept:
        first = f"; the first of {len(wrong)} problems is {wrong[0]}" if wrong else ""
        raise ValueError(f"{source}: holds no clip or image with a caption that could be used{first}")
    return Manifest(source, tuple(kept.values()), tuple(wrong), tuple(dict.fromkeys(notes)))
