"""Any source as tar shards in the WebDataset layout: for many small files, slow disks, and other programs.

    folder/train-000000.tar   00000000.mp4  00000000.json   00000001.mp4  00000001.json ...
    folder/train-000000.json  how many samples, and what was left out and why
    folder/pack.json          what was packed; the same command goes on where it was stopped

The files go in as they are, not encoded anew; a sample's .json holds its captions, its piece (start, end) and
its key in the source. Which entry lies in which shard depends on the source alone, and so does every byte.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePath
from typing import Any

from latent_shift.data.check import in_parallel
from latent_shift.data.manifest import ClipRecord, Manifest, TarMember
from latent_shift.data.precomputed import Encoder
from latent_shift.media import File, HeldFile, open_clip


@dataclass(frozen=True)
class Shard:
    """One tar to write: the entries from number `first` on."""

    number: int
    first: int
    entries: tuple[ClipRecord, ...]


@dataclass(frozen=True)
class Packed:
    """What became of a shard."""

    path: Path
    samples: int
    left_out: dict[str, str]  # reason by key


def pack(
    listing: Manifest,
    folder: Path,
    *,
    per_shard: int = 1000,
    workers: int = 1,
    encoder: Encoder | None = None,
) -> Iterator[Packed]:
    """Write a listing's shards into `folder`, yielding each as it is done; those that are there are kept.

    encoder: computes latents and text states, which are written beside each clip.

    An entry whose file cannot be opened is left out, and named. Raises ValueError where the folder holds the
    shards of another source, or other files that nobody packed, and for a disk that cannot be written.
    """
    if per_shard < 1:
        raise ValueError(f"per_shard {per_shard}: give 1 or more")
    firsts = range(0, len(listing.entries), per_shard)
    shards = [
        Shard(number, first, listing.entries[first : first + per_shard])
        for number, first in enumerate(firsts)
    ]
    ahead = {} if encoder is None else {"ahead": encoder.facts}
    _claim(folder, {"format": 1, "per_shard": per_shard, "source": fingerprint(listing), **ahead})
    yield from in_parallel(partial(write_shard, folder, encoder=encoder), shards, workers)


def fingerprint(listing: Manifest) -> str:
    """A hash of what is packed: keys, captions, pieces, and the sizes of the files, of all entries."""
    digest = hashlib.sha256()
    for entry in listing.entries:
        told = [entry.key, entry.captions, entry.kind, entry.start, entry.end, _size(entry)]
        digest.update(json.dumps(told).encode())
    return digest.hexdigest()


def write_shard(folder: Path, shard: Shard, *, encoder: Encoder | None = None) -> Packed:
    """Write one shard whole, its notes first; or read the notes of one that is there."""
    path = folder / f"train-{shard.number:06d}.tar"
    notes = path.with_suffix(".json")
    if path.exists() and notes.exists():
        told = json.loads(notes.read_text(encoding="utf-8"))
        return Packed(path, told["samples"], told["left_out"])
    partial_path = folder / f".{uuid.uuid4().hex}.tmp"
    left_out: dict[str, str] = {}
    try:
        with tarfile.open(partial_path, "w", format=tarfile.USTAR_FORMAT) as tar:
            for number, entry in enumerate(shard.entries, shard.first):
                try:
                    name, data = _content(entry)
                    beside = {} if encoder is None else encoder.files(entry)
                except ValueError as error:
                    left_out[entry.key] = str(error)
                    continue
                _add(tar, f"{number:08d}{PurePath(name).suffix.lower()}", data)
                _add(tar, f"{number:08d}.json", _words(entry))
                for suffix, computed in beside.items():
                    _add(tar, f"{number:08d}.{suffix}", computed)
        samples = len(shard.entries) - len(left_out)
        _write_json(notes, {"samples": samples, "left_out": left_out})
        os.replace(partial_path, path)
    except OSError as error:
        raise ValueError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        partial_path.unlink(missing_ok=True)
    return Packed(path, samples, left_out)


def _content(entry: ClipRecord) -> tuple[str, bytes]:
    """An entry's file as it is, opened once to be sure that it can be; ValueError otherwise."""
    file = entry.place.open()
    with open_clip(file) as clip:
        if clip.facts.kind != entry.kind:
            raise ValueError(f"{file}: holds no {entry.kind}, whatever its name says")
    if isinstance(file, HeldFile):
        return _named(entry, file), file.data
    return str(file), Path(file).read_bytes()


def _named(entry: ClipRecord, file: HeldFile) -> str:
    """A name whose suffix says what the file is; rows of a table have none."""
    if isinstance(entry.place, TarMember):
        return entry.place.name
    suffix = ".mp4" if entry.kind == "clip" else ".png"
    return file.name + suffix


def _words(entry: ClipRecord) -> bytes:
    told: dict[str, Any] = {"caption": list(entry.captions), "key": entry.key}
    times = {"start": entry.start, "end": entry.end}
    told |= {name: seconds for name, seconds in times.items() if seconds is not None}
    return json.dumps(told, ensure_ascii=False).encode()


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    """A member without time or owner, so that the same source gives the same bytes."""
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(data), 0o644
    tar.addfile(member, io.BytesIO(data))


def _size(entry: ClipRecord) -> int:
    if isinstance(entry.place, TarMember):
        return entry.place.size
    file: File = entry.place.open()
    return len(file.data) if isinstance(file, HeldFile) else Path(file).stat().st_size


def _claim(folder: Path, settings: dict[str, Any]) -> None:
    """Make the folder this pack's own; ValueError where it is another's."""
    path = folder / "pack.json"
    if path.exists():
        if json.loads(path.read_text(encoding="utf-8")) != settings:
            raise ValueError(
                f"{folder}: holds shards of another source, or of other settings; name another folder"
            )
        return
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder}: holds other files; name a new folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write_json(path, settings)
    except OSError as error:
        raise ValueError(f"{folder}: cannot be written: {error.strerror}") from error


def _write_json(path: Path, content: dict[str, Any]) -> None:
    partial_path = path.with_name(f".{uuid.uuid4().hex}.tmp")
    partial_path.write_text(json.dumps(content, ensure_ascii=False, indent=1), encoding="utf-8")
    os.replace(partial_path, path)
