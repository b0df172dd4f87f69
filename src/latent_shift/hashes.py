"""Hashes of files: of what they hold, read once while a file stays the same.

`file_sha256` reads; `remembered_sha256` and `files_hash` keep results in the user's cache
($XDG_CACHE_HOME, or ~/.cache), one small file for each file or set of files, replaced when those change. A
cache that is damaged, or cannot be written, costs time only.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
import zlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from latent_shift.io import file_state, write_text

_LARGE = 64 << 20  # bytes, of a file with a hash that is worth keeping
_BLOCK = 1 << 20  # bytes
_GRAIN = 2_000_000_000  # nanoseconds between two times that the coarsest file system can tell apart


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file, hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def short_hash(path: Path) -> str:
    """The first 12 hexadecimal digits of a file's SHA-256 (`remembered_sha256`)."""
    return remembered_sha256(path)[:12]


def file_crc32(path: Path) -> int:
    """The CRC-32 of a file: tells damage, several times as fast as a SHA-256."""
    found = 0
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK):
            found = zlib.crc32(block, found)
    return found


def remembered_sha256(path: Path) -> str:
    """The SHA-256 of a file, computed once while the file stays the same (`file_state`).

    That of a file of 64 MiB or more outlives the process, so that commands do not read gigabytes of weights
    each time.
    """
    return _remembered_sha256(*file_state(path.absolute()))


@lru_cache(maxsize=256)
def _remembered_sha256(path: Path, *state: int) -> str:
    if path.stat().st_size < _LARGE:
        return file_sha256(path)
    return _kept(str(path), repr(state), lambda: file_sha256(path), lambda: repr(file_state(path)[1:]))


def files_hash(files: Mapping[str, Path]) -> str:
    """A hash of the names and the whole contents of files, by their names; the same on every machine.

    No part of a file is left out: a clip replaced by one of the same size, and the same beginning and end, is
    another. The files are read again only where one of them has another inode, size, time of its content, or
    time of its inode (which no program can set back), or was changed within the last two seconds, which is
    as fine as the times of some file systems are.
    """

    before = [_full_state(path) for path in files.values()]
    settled = time.time_ns() - _GRAIN  # a later change of an older file gives it another time

    def compute() -> str:
        digest = hashlib.sha256()
        for (name, path), state in zip(files.items(), before, strict=True):
            content = _content(path, *state) if max(state[2:]) < settled else file_sha256(path)
            digest.update(f"{name} {content}\n".encode())
        return digest.hexdigest()

    def state_now() -> str:
        after = [_full_state(path) for path in files.values()]
        return repr(after) if all(max(state[2:]) < settled for state in after) else ""

    names = "\n".join(f"{name} {path.absolute()}" for name, path in files.items())
    return _kept(names, repr(before), compute, state_now)


def _full_state(path: Path) -> tuple[int, int, int, int]:
    """Inode, size, and the times of content and inode in nanoseconds."""
    stat = path.stat()
    return stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


@lru_cache(maxsize=1 << 17)
def _content(path: Path, *_: int) -> str:
    return file_sha256(path)


def _kept(name: str, state: str, compute: Callable[[], str], state_now: Callable[[], str]) -> str:
    """The hash kept for a name and its state; else computed, and kept if the state is the same afterwards."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    file = Path(base) / "latent-shift" / "sha256" / _sha256(name)
    with suppress(OSError, ValueError):
        known_state, known = file.read_text(encoding="ascii").split(" ")
        if known_state == _sha256(state) and re.fullmatch("[0-9a-f]{64}", known):
            return known
    found = compute()
    if state_now() == state:
        with suppress(OSError):
            write_text(file, f"{_sha256(state)} {found}")
    return found


def _sha256(text: str) -> str:
    return hashlib.sha256(os.fsencode(text)).hexdigest()
