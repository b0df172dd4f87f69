"""Any source as tar shards in the WebDataset layout: for many small files, slow disks, and other programs.

    folder/train-000000.tar   00000000.mp4  00000000.json   00000001.mp4  00000001.json ...
    folder/train-000000.json  number of samples; records that were left out, with reasons
    folder/pack.json          the source and settings; the same command goes on where it was stopped

The files go in unchanged, not encoded again; a sample's .json holds its captions, its piece (start, end) and
its key in the source. The source decides which record lies in which shard, and so every byte.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePath
from typing import Any, Protocol

from latent_shift.data.check import in_parallel
from latent_shift.data.manifest import ClipRecord, Manifest, TarMember
from latent_shift.io import atomic_file, printable, write_json
from latent_shift.media import HeldFile, open_clip


class RecordEncoder(Protocol):
    """Computes files that lie beside each clip; in several processes, each with its own pickled copy."""

    @property
    def settings_record(self) -> dict[str, Any]:
        """JSON values that the files depend on."""
        ...

    def files(self, record: ClipRecord) -> dict[str, bytes]:
        """Files by their suffixes. Raises ValueError where the clip cannot be used."""
        ...


@dataclass(frozen=True)
class Shard:
    """One tar to write: the records from number `first` on."""

    number: int
    first: int
    records: tuple[ClipRecord, ...]


@dataclass(frozen=True)
class PackedShard:
    """A shard that was written."""

    path: Path
    samples: int
    left_out: dict[str, str]  # reason by key


def pack(
    manifest: Manifest,
    folder: Path,
    *,
    per_shard: int = 1000,
    workers: int = 1,
    encoder: RecordEncoder | None = None,
) -> Iterator[PackedShard]:
    """Write a manifest's shards, yielding each when it is done; shards that exist are kept.

    A record of which the file cannot be opened is left out, with its reason. folder: a new one, or that of
    the same command stopped before. per_shard: records in one tar. workers: processes. encoder: computes
    files that are written beside each clip. Raises ValueError where the folder holds shards of another source
    or of other settings, or other files, or the disk cannot be written.
    """
    if per_shard < 1:
        raise ValueError(f"per_shard {per_shard}: give 1 or more")
    shards = [
        Shard(number, first, manifest.records[first : first + per_shard])
        for number, first in enumerate(range(0, len(manifest.records), per_shard))
    ]
    settings = {"format": 1, "per_shard": per_shard, "source": fingerprint(manifest)}
    _claim(folder, settings if encoder is None else {**settings, "ahead": encoder.settings_record})
    yield from in_parallel(partial(write_shard, folder, encoder=encoder), shards, workers)


def fingerprint(manifest: Manifest) -> str:
    """A hash of all that is packed: keys, captions, pieces, and the sizes of the files."""
    digest = hashlib.sha256()
    for record in manifest.records:
        values = [record.key, record.captions, record.kind, record.start, record.end, _size(record)]
        digest.update(json.dumps(values).encode())
    return digest.hexdigest()


def write_shard(folder: Path, shard: Shard, *, encoder: RecordEncoder | None = None) -> PackedShard:
    """Write one shard and before it its notes, whole or not at all; or read the notes of one that exists."""
    path = folder / f"train-{shard.number:06d}.tar"
    notes = path.with_suffix(".json")
    if path.exists() and notes.exists():
        return PackedShard(path, **json.loads(notes.read_text(encoding="utf-8")))
    left_out: dict[str, str] = {}
    try:
        with atomic_file(path) as partial_path:
            with tarfile.open(partial_path, "w", format=tarfile.USTAR_FORMAT) as tar:
                for number, record in enumerate(shard.records, shard.first):
                    try:
                        files = _sample(record) | ({} if encoder is None else encoder.files(record))
                    except ValueError as error:
                        left_out[record.key] = printable(str(error))
                        continue
                    for suffix, data in files.items():
                        _add(tar, f"{number:08d}.{suffix}", data)
            samples = len(shard.records) - len(left_out)
            content = {"samples": samples, "left_out": left_out}
            write_json(notes, content, ensure_ascii=False, indent=1)
    except OSError as error:
        raise ValueError(f"{path}: cannot be written: {error.strerror or error}") from error
    return PackedShard(path, samples, left_out)


def _sample(record: ClipRecord) -> dict[str, bytes]:
    """A record's file, unchanged, and its words, by suffix. Raises ValueError where it cannot be opened."""
    file = record.file.open()
    with open_clip(file) as clip:
        if clip.facts.kind != record.kind:
            raise ValueError(f"{file}: holds no {record.kind}, whatever its name says")
    if not isinstance(file, HeldFile):
        suffix, data = PurePath(file).suffix, Path(file).read_bytes()
    elif isinstance(record.file, TarMember):
        suffix, data = PurePath(record.file.name).suffix, file.data
    else:  # a row of a table, which has no file name
        suffix, data = ".mp4" if record.kind == "clip" else ".png", file.data
    words: dict[str, Any] = {"caption": list(record.captions), "key": record.key}
    times = {"start": record.start, "end": record.end}
    words |= {name: seconds for name, seconds in times.items() if seconds is not None}
    return {suffix[1:].lower(): data, "json": json.dumps(words, ensure_ascii=False).encode()}


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    """A member without time or owner, so that the same source gives the same bytes."""
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(data), 0o644
    tar.addfile(member, io.BytesIO(data))


def _size(record: ClipRecord) -> int:
    """Bytes of a record's file; -1 where it cannot be opened, which packing it reports."""
    if isinstance(record.file, TarMember):
        return record.file.size
    try:
        file = record.file.open()
        return len(file.data) if isinstance(file, HeldFile) else Path(file).stat().st_size
    except (OSError, ValueError):
        return -1


def _claim(folder: Path, settings: dict[str, Any]) -> None:
    """Write the folder's settings. Raises ValueError where it is in use for others."""
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
        write_json(path, settings, ensure_ascii=False, indent=1)
    except OSError as error:
        raise ValueError(f"{folder}: cannot be written: {error.strerror}") from error
