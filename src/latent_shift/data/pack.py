"""Any source as tar shards in the WebDataset layout: for many small files, slow disks, and other programs.

    folder/train-000000.tar   00000000.mp4  00000000.json   00000001.mp4  00000001.json ...
    folder/train-000000.json  number of samples; records that were left out, with reasons; times of files
    folder/pack.json          the source and settings; the same command goes on where it was stopped

The files go in unchanged, not encoded again; a sample's .json holds its captions, its piece (start, end) and
its key in the source. The source decides which record lies in which shard, and so every byte.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePath
from typing import Any, Protocol

from pydantic import TypeAdapter, ValidationError

from latent_shift.data.check import in_parallel
from latent_shift.data.manifest import ClipRecord, LocalFile, Manifest, TarMember
from latent_shift.documents import read_json_mapping, validation_error
from latent_shift.io import atomic_file, one_line, printable, write_json
from latent_shift.media import HeldFile, kind_by_name, open_clip


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
    times: dict[str, list[int]] = field(default_factory=dict)  # of the files by key, see `_times`


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
    settings = {"format": 2, "per_shard": per_shard, "source": fingerprint(manifest)}
    ahead = {} if encoder is None else {"ahead": encoder.settings_record}
    old = {**settings, "format": 1, "source": fingerprint(manifest, sizes=True)}
    _claim(folder, {**settings, **ahead}, {**old, **ahead})
    yield from in_parallel(partial(write_shard, folder, encoder=encoder), shards, workers)


def fingerprint(manifest: Manifest, *, sizes: bool = False) -> str:
    """A hash of all that is packed but the files, of which the shards keep account: keys, captions, pieces.

    sizes: of the files, too, as earlier releases had it.
    """
    digest = hashlib.sha256()
    for record in manifest.records:
        values = [record.key, record.captions, record.kind, record.start, record.end]
        values += [_size(record)] if sizes else []
        digest.update(json.dumps(values).encode())
    return digest.hexdigest()


def write_shard(folder: Path, shard: Shard, *, encoder: RecordEncoder | None = None) -> PackedShard:
    """Write one shard and before it its notes, whole or not at all; or read the notes of one that exists.

    Of one that exists, each file has to be that which was packed. It is read for that only where a time of it
    is not the same, so that a stopped pack of terabytes goes on at once; a file that was replaced has another
    time of its inode, whatever time its content claims. Where one that was left out can be packed now, the
    shard is written again. Raises ValueError naming the shard and the key of another file.
    """
    path = folder / f"train-{shard.number:06d}.tar"
    notes = path.with_suffix(".json")
    if path.exists() and notes.exists():
        packed = _read_notes(path, notes)
        _refuse_other_files(shard, packed)
        if not _repaired(shard, packed, encoder):
            return packed
    left_out: dict[str, str] = {}
    times: dict[str, list[int]] = {}
    try:
        with atomic_file(path) as partial_path:
            with tarfile.open(partial_path, "w", format=tarfile.USTAR_FORMAT) as tar:
                for number, record in enumerate(shard.records, shard.first):
                    before = _times(record)
                    if before is not None:
                        times[record.key] = before
                    try:
                        files = _sample(record, encoder)
                    except ValueError as error:
                        left_out[record.key] = printable(str(error))
                        continue
                    for suffix, data in files.items():
                        _add(tar, f"{number:08d}.{suffix}", data)
            samples = len(shard.records) - len(left_out)
            content = {"samples": samples, "left_out": left_out, "times": times}
            path.unlink(missing_ok=True)  # new notes beside an old shard would pass for its own
            write_json(notes, content, ensure_ascii=False, indent=1)
    except OSError as error:
        raise ValueError(f"{path}: cannot be written: {error.strerror or error}") from error
    return PackedShard(path, samples, left_out, times)


def _read_notes(path: Path, notes: Path) -> PackedShard:
    content = read_json_mapping(notes)
    try:
        return TypeAdapter(PackedShard).validate_python({**content, "path": path})
    except ValidationError as error:
        again = f"remove it to pack {path.name} again"
        raise ValueError(f"{notes}: is damaged: {validation_error(error)}; {again}") from error


def _refuse_other_files(shard: Shard, packed: PackedShard) -> None:
    doubtful = {
        f"{number:08d}": record
        for number, record in enumerate(shard.records, shard.first)
        if record.key not in packed.left_out and _touched(record, packed)
    }
    if not doubtful:
        return
    again = f"remove {packed.path} to pack it again, or name another folder"
    try:
        with tarfile.open(packed.path) as tar:
            for member in tar:
                number = member.name.split(".")[0]
                if number not in doubtful or kind_by_name(member.name) is None:
                    continue
                stored, record = tar.extractfile(member), doubtful.pop(number)
                if stored is None or stored.read() != _read(record)[1]:
                    raise ValueError(
                        f"{packed.path}: {record.key} was another file when it was packed; {again}"
                    )
    except (tarfile.TarError, OSError) as error:
        raise ValueError(f"{packed.path}: cannot be read: {one_line(error)}; {again}") from error
    if doubtful:
        key = next(iter(doubtful.values())).key
        raise ValueError(f"{packed.path}: lacks {key}, which its notes count; {again}")


def _repaired(shard: Shard, packed: PackedShard, encoder: RecordEncoder | None) -> bool:
    """Whether a record that was left out can be packed now."""
    for record in shard.records:
        if record.key in packed.left_out and _touched(record, packed):
            with suppress(ValueError, OSError):
                _sample(record, encoder)
                return True
    return False


def _touched(record: ClipRecord, packed: PackedShard) -> bool:
    """Whether a record's file may be another than when its shard was written."""
    times = _times(record)
    return times is None or times != packed.times.get(record.key)


def _times(record: ClipRecord) -> list[int] | None:
    """Nanoseconds when the content and the inode of a record's file changed last; None where it has none."""
    if isinstance(record.file, TarMember):
        path = record.file.tar
    elif isinstance(record.file, LocalFile):
        path = record.file.path
    else:
        return None
    try:
        stat = os.stat(path)
    except OSError:
        return None
    return [stat.st_mtime_ns, stat.st_ctime_ns]


def _sample(record: ClipRecord, encoder: RecordEncoder | None) -> dict[str, bytes]:
    """A record's file, unchanged, its words, and what is computed of it, by suffix.

    Raises ValueError where it cannot be opened, or computed with.
    """
    file = record.file.open()
    with open_clip(file) as clip:
        if clip.facts.kind != record.kind:
            raise ValueError(f"{file}: holds no {record.kind}, whatever its name says")
    suffix, data = _read(record)
    words: dict[str, Any] = {"caption": list(record.captions), "key": record.key}
    times = {"start": record.start, "end": record.end}
    words |= {name: seconds for name, seconds in times.items() if seconds is not None}
    files = {suffix[1:].lower(): data, "json": json.dumps(words, ensure_ascii=False).encode()}
    return files | ({} if encoder is None else encoder.files(record))


def _read(record: ClipRecord) -> tuple[str, bytes]:
    """Suffix and content of a record's file."""
    file = record.file.open()
    if not isinstance(file, HeldFile):
        return PurePath(file).suffix, Path(file).read_bytes()
    if isinstance(record.file, TarMember):
        return PurePath(record.file.name).suffix, file.data
    return ".mp4" if record.kind == "clip" else ".png", file.data  # a row of a table has no file name


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


def _claim(folder: Path, settings: dict[str, Any], old: dict[str, Any]) -> None:
    """Write the folder's settings. Raises ValueError where it is in use for others.

    old: the same settings as an earlier release wrote them.
    """
    path = folder / "pack.json"
    if path.exists():
        if read_json_mapping(path) not in (settings, old):
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
