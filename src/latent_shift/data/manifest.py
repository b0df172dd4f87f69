"""A collection of clips as it was read: records, and the problems met on the way. No file is decoded here.

A `ClipRecord` is one clip or image with its captions; a `Problem` is something that was left out, where, and
why. A source (`sources/`) of any format gives a `Manifest`; the datasets, `check.py` and `pack.py` know
manifests only.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Protocol

from latent_shift.io import printable, warn
from latent_shift.media import File, HeldFile, Kind

_END = 4096  # bytes of each end of a file


class FileRef(Protocol):
    """A file of a clip or image, which can be pickled and opened later."""

    def open(self) -> File:
        """The path, or the file held in memory: what `latent_shift.media` reads."""
        ...

    def ends(self) -> bytes:
        """Size, first and last 4 KiB, which tell it from another file; empty where they cannot be read."""
        ...

    def __str__(self) -> str: ...


@dataclass(frozen=True, slots=True)
class LocalFile:
    """A file by its path."""

    path: str

    def open(self) -> File:
        """The path."""
        return self.path

    def ends(self) -> bytes:
        """See `FileRef.ends`."""
        try:
            return _ends(self.path, 0, os.path.getsize(self.path))
        except OSError:
            return b""

    def __str__(self) -> str:
        return self.path


@dataclass(frozen=True, slots=True)
class TarMember:
    """A member of a tar file, by its offset."""

    tar: str
    name: str
    offset: int  # bytes
    size: int

    def open(self) -> File:
        """The member in memory. Raises ValueError where the tar is gone or shorter than it was."""
        return HeldFile(str(self), self.read())

    def ends(self) -> bytes:
        """See `FileRef.ends`."""
        try:
            return _ends(self.tar, self.offset, self.size)
        except OSError:
            return b""

    def read(self, count: int = -1) -> bytes:
        """The member's bytes, or the first `count`. Raises ValueError where the tar is gone or shorter."""
        wanted = self.size if count < 0 else min(count, self.size)
        try:
            with open(self.tar, "rb") as file:
                file.seek(self.offset)
                data = file.read(wanted)
        except OSError as error:
            raise ValueError(f"{self}: {error.strerror}") from error
        if len(data) < wanted:
            raise ValueError(f"{self}: is cut off, {len(data)} of {self.size} bytes are there")
        return data

    def __str__(self) -> str:
        return f"{self.tar}/{self.name}"


def _ends(path: str, first: int, size: int) -> bytes:
    with open(path, "rb") as file:
        file.seek(first)
        head = file.read(min(size, _END))
        file.seek(first + max(size - _END, 0))
        return str(size).encode() + b" " + head + file.read(min(size, _END))


@dataclass(frozen=True, slots=True)
class ClipRecord:
    """One clip or image. start and end cut a piece out of a clip, in seconds.

    place: the beginning of the key that only says where the source lies, so that the same source elsewhere,
    or by another spelling of its path, has other keys.
    """

    key: str  # unique in its source; names the record in logs
    file: FileRef
    captions: tuple[str, ...]  # at least one
    kind: Kind
    start: float | None = None
    end: float | None = None
    latents: FileRef | None = None  # precomputed (`precomputed.py`), as the embeddings of the captions
    text: FileRef | None = None
    place: str = ""

    @property
    def name(self) -> str:
        """The key without the place."""
        return self.key.removeprefix(self.place)


@dataclass(frozen=True, slots=True)
class Problem:
    """Something of a source that cannot be used."""

    where: str  # file and line, or a record's key
    reason: str

    def __str__(self) -> str:
        return f"{self.where}: {self.reason}"


@dataclass(frozen=True)
class Manifest:
    """A source that was read: records, problems, and notes on what was guessed."""

    source: str
    records: tuple[ClipRecord, ...]
    problems: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()

    def of_kind(self, kind: Kind) -> Manifest:
        """The manifest with only its clips, or only its images."""
        return replace(self, records=tuple(record for record in self.records if record.kind == kind))

    def split(self, count: int, seed: int) -> tuple[Manifest, Manifest]:
        """All but `count` of the records, and these, chosen by the seed and their names only.

        Other pieces of a file of which a piece is kept out are in neither, with a warning. Raises ValueError
        where that leaves nothing.
        """
        order = sorted(self.records, key=lambda record: sha256(f"{seed} {record.name}".encode()).digest())
        chosen = {record.key for record in order[:count]}
        kept = tuple(record for record in self.records if record.key in chosen)
        files = {_film_of(record) for record in kept}
        rest = tuple(record for record in self.records if _film_of(record) not in files)
        if not rest:
            pieces = "" if count >= len(self.records) else " with the other pieces of their files"
            raise ValueError(
                f"{self.source}: {count} of its {len(self.records)} entries cannot be kept out{pieces}"
            )
        if others := len(self.records) - len(kept) - len(rest):
            warn(f"{self.source}: {others} other pieces of files that validation has are left out, too")
        return replace(self, records=rest), Manifest(self.source, kept)


def _film_of(record: ClipRecord) -> bytes:
    """A name of the file that a record is a piece of: in shards, which have a copy for each, its content."""
    is_piece = record.start is not None or record.end is not None
    content = record.file.ends() if is_piece and isinstance(record.file, TarMember) else b""
    return content or str(record.file).encode(errors="surrogatepass")


def build_manifest(source: str, found: Iterable[ClipRecord | Problem], notes: Iterable[str] = ()) -> Manifest:
    """A checked manifest of records and problems: a record with the key of an earlier one is a problem.

    Keys, and all texts for people, are made such that UTF-8 can hold them.

    Raises ValueError where no record is left, naming the source and the first problem.
    """
    records: dict[str, ClipRecord] = {}
    problems, repeated = [], []
    for one in found:
        if isinstance(one, Problem):
            problems.append(Problem(printable(one.where), printable(one.reason)))
            continue
        key = printable(one.key)
        if key in records:
            repeated.append(Problem(key, "stands twice in the source; the first one is used"))
        else:
            records[key] = one if key == one.key else replace(one, key=key)
    problems += repeated
    if not records:
        first = f"; the first of {len(problems)} problems is {problems[0]}" if problems else ""
        raise ValueError(f"{source}: holds no clip or image with a caption that could be used{first}")
    told = tuple(dict.fromkeys(printable(note) for note in notes))
    return Manifest(printable(source), tuple(records.values()), tuple(problems), told)
