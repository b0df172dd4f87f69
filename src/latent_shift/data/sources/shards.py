"""Tar shards in the WebDataset layout: files of one name up to the first dot belong together.

    train-0000.tar:  000.mp4  000.txt   001.mp4  001.json  ...

A caption is a .txt, or a .json with the key `caption` (a text or a list of texts) and, if need be, `start`
and `end` in seconds. Only the headers of a tar are read here; a clip's bytes are read when it is asked for.
Shards on the web are fetched once, into a folder that must be named.
"""

from __future__ import annotations

import glob
import json
import os
import re
import tarfile
from collections.abc import Iterator
from itertools import product
from pathlib import Path, PurePosixPath
from typing import Literal

from pydantic import Field

from latent_shift.data.caption_io import as_captions, caption_lines, decode
from latent_shift.data.manifest import ClipRecord, Manifest, Problem, TarMember, build_manifest
from latent_shift.data.sources.base import Source, piece
from latent_shift.data.sources.fetching import fetch_file, is_url
from latent_shift.media import kind_by_name

MAX_TEXT_BYTES = 1 << 20  # of a caption file in a tar


class ShardsSource(Source):
    """Tar files: one pattern or several, with braces ({0000..0099}, {a,b}) or * for local ones, or URLs."""

    format: Literal["shards"] = "shards"
    shards: str | tuple[str, ...] = Field(description="path or URL of the tars, with braces")
    fetch: Path | None = Field(None, description="folder to fetch shards of the web into; none: no network")
    caption_key: str = Field("caption", description="of the .json files")

    def read(self) -> Manifest:
        """One entry a sample. Raises ValueError for shards that are nowhere, or on the web and no `fetch`."""
        patterns = (self.shards,) if isinstance(self.shards, str) else self.shards
        entries: list[ClipRecord] = []
        problems: list[Problem] = []
        notes: list[str] = []
        for name in [name for pattern in patterns for name in expand(pattern)]:
            try:
                tar = self._local(name)
                self._read_tar(tar, entries, problems, notes)
            except (OSError, tarfile.TarError) as error:
                problems.append(Problem(name, f"cannot be read as a tar: {' '.join(str(error).split())}"))
        return build_manifest(", ".join(patterns), entries, problems, notes)

    def _local(self, name: str) -> str:
        if not is_url(name):
            return name
        if self.fetch is None:
            raise ValueError(f"{name}: lies on the web; set fetch to a folder that it may be stored in")
        return str(fetch_file(name, self.fetch))

    def _read_tar(
        self, tar: str, entries: list[ClipRecord], problems: list[Problem], notes: list[str]
    ) -> None:
        """Add what a tar holds; of one that is cut off, what lies before the cut, and then raise."""
        samples: dict[str, dict[str, TarMember]] = {}
        try:
            with tarfile.open(tar, "r:") as file:
                for member in file:
                    if member.isfile():
                        stem, suffix = split_name(member.name)
                        place = TarMember(tar, member.name, member.offset_data, member.size)
                        samples.setdefault(stem, {})[suffix] = place
        finally:
            for stem, members in samples.items():
                found = self._sample(f"{tar}/{stem}", members, notes)
                (entries if isinstance(found, ClipRecord) else problems).append(found)  # type: ignore[arg-type]

    def _sample(self, key: str, members: dict[str, TarMember], notes: list[str]) -> ClipRecord | Problem:
        media = [place for place in members.values() if kind_by_name(place.name) is not None]
        if len(media) != 1:
            return Problem(key, f"has {len(media)} clips or images, not one: {', '.join(members)}")
        try:
            captions, start, end = self._words(members, notes)
        except ValueError as error:
            return Problem(key, str(error))
        if not captions:
            return Problem(key, f"has no caption: no .txt, and no .json with {self.caption_key!r}")
        kind = kind_by_name(media[0].name)
        assert kind is not None
        ahead = {"latents": members.get("latents.safetensors"), "text": members.get("text.safetensors")}
        return ClipRecord(key, media[0], captions, kind, start, end, **ahead)

    def _words(
        self, members: dict[str, TarMember], notes: list[str]
    ) -> tuple[tuple[str, ...], float | None, float | None]:
        texts = {}
        for suffix in ("txt", "json"):
            if suffix in members:
                place = members[suffix]
                if place.size > MAX_TEXT_BYTES:
                    raise ValueError(f"{place.name} has {place.size} bytes, too many for a caption")
                texts[suffix], guessed = decode(place.read(), str(place))
                notes += guessed
        try:
            content = json.loads(texts.get("json", "{}"))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{members['json'].name} is not JSON: {error}") from error
        content = content if isinstance(content, dict) else {}
        captions = caption_lines(texts.get("txt", "")) or as_captions(content.get(self.caption_key))
        return captions, *piece(content.get("start"), content.get("end"))


def split_name(name: str) -> tuple[str, str]:
    """A member's sample, and what of it: a/b.seg.txt is a/b, seg.txt, cut at the file name's first dot."""
    path = PurePosixPath(name)
    stem, _, suffix = path.name.partition(".")
    return str(path.with_name(stem)) if stem else name, suffix.lower()


def expand(pattern: str) -> list[str]:
    """All names of a pattern: {0..12}, {000..099} and {a,b} in braces, * and ? where the files are local.

    Raises ValueError for a local pattern that fits no file.
    """
    names = list(_braces(pattern))
    if is_url(pattern):
        return names
    found = [
        file for name in names for file in (sorted(glob.glob(name)) if set("*?") & set(name) else [name])
    ]
    if not any(os.path.exists(file) for file in found):
        raise ValueError(f"shards {pattern}: no such file")
    return found


def _braces(pattern: str) -> Iterator[str]:
    parts = re.split(r"\{([^{}]*)\}", pattern)  # texts and braces' contents in turn
    choices = [_choices(part) if place % 2 else [part] for place, part in enumerate(parts)]
    return ("".join(chosen) for chosen in product(*choices))


def _choices(inside: str) -> list[str]:
    numbers = re.fullmatch(r"(\d+)\.\.(\d+)", inside)
    if numbers is None:
        return inside.split(",")
    first, last = numbers.groups()
    width = len(first) if first.startswith("0") else 0
    return [f"{number:0{width}d}" for number in range(int(first), int(last) + 1)]
