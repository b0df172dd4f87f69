"""Tar shards in the WebDataset layout: files of one name up to the first dot belong together.

    train-0000.tar:  000.mp4  000.txt   001.mp4  001.json  ...

A caption is a .txt, or a .json with the key `caption` (a text or a list of texts) and, optionally, `start`
and `end` in seconds. Only headers and captions of a tar are read here, no clips. Shards on the web are
downloaded once, into a folder that must be named.
"""

from __future__ import annotations

import glob
import hashlib
import os
import posixpath
import re
import shutil
import tarfile
from collections.abc import Sequence
from contextlib import suppress
from http.client import HTTPException
from itertools import product
from math import prod
from pathlib import Path, PurePosixPath
from typing import Literal
from urllib.parse import urlsplit
from urllib.request import urlopen

from pydantic import Field

from latent_shift.data.caption_io import as_captions, caption_lines, check_caption_size, text_of
from latent_shift.data.manifest import ClipRecord, Manifest, Problem, TarMember, build_manifest
from latent_shift.data.sources.base import Source, is_url, piece_times
from latent_shift.documents import parse_json
from latent_shift.io import atomic_file, one_line
from latent_shift.media import kind_by_name, kind_of

MAX_NAMES = 1_000_000  # that a pattern may stand for
COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd", b"PK\x03\x04")
TIMEOUT = 60  # seconds without a byte, after which a server counts as gone


class ShardsSource(Source):
    """Tar files: one pattern or several, with braces ({0000..0099}, {a,b}) or * for local ones, or URLs."""

    format: Literal["shards"] = "shards"
    shards: str | tuple[str, ...] = Field(description="path or URL of the tars, with braces")
    fetch: Path | None = Field(None, description="folder for shards from the web; none: no network")
    caption_key: str = Field("caption", description="key of the captions in the .json files")

    def read(self) -> Manifest:
        """One record a sample. Raises ValueError for missing shards, or any on the web without `fetch`."""
        patterns = (self.shards,) if isinstance(self.shards, str) else self.shards
        found: list[ClipRecord | Problem] = []
        notes: list[str] = []
        for name in [name for pattern in patterns for name in expand(pattern)]:
            tar = str(self._fetched(name)) if is_url(name) else name
            samples, error = _read_headers(tar)
            others = 0
            for stem, members in samples.items():
                if members.keys() & {"txt", "json"} or any(
                    kind_by_name(one.name) for one in members.values()
                ):
                    found.append(self._sample(tar, stem, members, notes))
                else:
                    others += len(members)
            if others:
                notes.append(f"{name}: {others} files without a clip, image or caption were left alone")
            if error:
                found.append(Problem(name, error))
        return build_manifest(", ".join(patterns), found, notes)

    def _fetched(self, url: str) -> Path:
        if self.fetch is None:
            raise ValueError(f"{url}: lies on the web; set fetch to a folder that it may be stored in")
        return fetch_file(url, self.fetch)

    def _sample(
        self, tar: str, stem: str, members: dict[str, TarMember], notes: list[str]
    ) -> ClipRecord | Problem:
        key = f"{tar}/{stem}"
        media = [member for member in members.values() if kind_by_name(member.name) is not None]
        if len(media) != 1:
            return Problem(key, f"has {len(media)} clips or images, not one: {', '.join(members)}")
        try:
            captions, start, end = self._captions(key, members, notes)
            kind = kind_of(media[0].name, media[0].read)
        except ValueError as error:
            return Problem(key, str(error))
        if not captions:
            found = "its .txt is empty" if "txt" in members else "no .txt"
            listed = "no text in a .json under" if "json" in members else "no .json with"
            return Problem(key, f"has no caption: {found}, and {listed} {self.caption_key!r}")
        assert kind is not None
        latents, text = members.get("latents.safetensors"), members.get("text.safetensors")
        place = tar.removesuffix(os.path.basename(tar))
        return ClipRecord(key, media[0], captions, kind, start, end, latents, text, place)

    def _captions(
        self, key: str, members: dict[str, TarMember], notes: list[str]
    ) -> tuple[tuple[str, ...], float | None, float | None]:
        """The captions, start and end of a sample."""
        texts = {}
        for suffix in ("txt", "json"):
            if suffix in members:
                member = members[suffix]
                check_caption_size(member.size, member.name)
                texts[suffix], guesses = text_of(member.read(), str(member))
                notes += guesses
        try:
            content = parse_json(texts.get("json", "{}"))
        except ValueError as error:
            raise ValueError(f"{members['json'].name}: {error}") from error
        content = content if isinstance(content, dict) else {}
        captions = caption_lines(texts.get("txt", ""), f"{key}.txt")
        captions = captions or as_captions(content.get(self.caption_key))
        return captions, *piece_times(content.get("start"), content.get("end"))


def _read_headers(tar: str) -> tuple[dict[str, dict[str, TarMember]], str]:
    """A tar's members by sample and suffix, and its error; of a tar that is cut off those before the cut.

    Names that begin with a dot, and files in folders of such names, do not count, as in a folder.
    """
    samples: dict[str, dict[str, TarMember]] = {}
    data: dict[str, tuple[int, int]] = {}  # place and size by name, for links to it
    try:
        with tarfile.open(tar, "r:") as file:
            for member in file:
                path = PurePosixPath(member.name)
                beside = posixpath.normpath(path.parent / member.linkname)
                target = member.linkname if member.islnk() else beside
                if member.isfile():
                    data[member.name] = member.offset_data, member.size
                elif (member.islnk() or member.issym()) and target in data:
                    data[member.name] = data[target]
                else:
                    continue
                if not any(part.startswith(".") and part != ".." for part in path.parts):
                    stem, suffix = split_name(member.name)
                    samples.setdefault(stem, {})[suffix] = TarMember(tar, member.name, *data[member.name])
            return samples, _behind_the_end(tar, file.offset)
    except (OSError, tarfile.TarError) as error:
        return samples, f"cannot be read as a tar: {_why(tar) or one_line(error)}"


def _why(tar: str) -> str:
    """Reason for a file to be no tar, where its first bytes tell; else nothing."""
    with suppress(OSError), open(tar, "rb") as file:
        if file.read(8).startswith(COMPRESSED):
            return "it is compressed; unpack it (gunzip, unzstd, unzip), tars are read by the byte"
    return ""


def _behind_the_end(tar: str, end: int) -> str:
    """Fault of a tar that ends at a byte for Python, which takes a damaged header for an end; or nothing."""
    with open(tar, "rb") as file:
        file.seek(end)
        if any(file.read(tarfile.BLOCKSIZE)):
            return f"is damaged at byte {end}: what follows is left out"
        while block := file.read(1 << 20):
            if any(block):
                return "goes on behind its end, as tars that were joined: unpack them, and make one anew"
    return ""


def split_name(name: str) -> tuple[str, str]:
    """A member's sample and suffix, split at the file name's first dot: a/b.seg.txt gives a/b, seg.txt."""
    path = PurePosixPath(name)
    stem, _, suffix = path.name.partition(".")
    return str(path.with_name(stem)) if stem else name, suffix.lower()


def expand(pattern: str) -> list[str]:
    """All names of a pattern: {0..12}, {000..099} and {a,b} in braces, * and ? where the files are local.

    A name of a file that is there is that file, whatever signs are in it. Raises ValueError for a local
    pattern that fits no file, and for one of more than a million names.
    """
    if os.path.exists(pattern):
        return [pattern]
    parts = re.split(r"\{([^{}]*)\}", pattern)  # texts and braces' contents in turn
    choices = [_choices(part) if number % 2 else [part] for number, part in enumerate(parts)]
    if (count := prod(map(len, choices))) > MAX_NAMES:
        raise ValueError(f"shards {pattern}: stands for {count} names, {MAX_NAMES} at most")
    names = ["".join(chosen) for chosen in product(*choices)]
    if is_url(pattern):
        return names
    files = [file for name in names for file in (_matching(name) if set("*?") & set(name) else [name])]
    if not any(os.path.exists(file) for file in files):
        raise ValueError(f"shards {pattern}: no such file")
    return files


def _matching(pattern: str) -> list[str]:
    """The local files that fit a pattern of * and ?, in which brackets stand for themselves."""
    return sorted(glob.glob(pattern.replace("[", "[[]")))


def _choices(inside: str) -> Sequence[str]:
    """The texts that a brace stands for."""
    numbers = re.fullmatch(r"(\d+)\.\.(\d+)", inside)
    if numbers is None:
        return inside.split(",")
    first, last = numbers.groups()
    width = len(first) if first.startswith("0") else 0
    count = range(int(first), int(last) + 1)
    if not 0 < len(count) <= MAX_NAMES:
        raise ValueError(f"shards {{{inside}}}: counts {'backwards' if not count else 'too far'}")
    return [f"{number:0{width}d}" for number in count]


def fetch_file(url: str, folder: Path) -> Path:
    """The local copy of a file on the web, downloaded now if it is not there yet.

    Its name holds a hash of the address, so that files of one name from two places stay apart. Raises
    ValueError naming the address where it cannot be fetched whole.
    """
    name = PurePosixPath(urlsplit(url).path).name
    path = folder / f"{hashlib.sha256(url.encode()).hexdigest()[:12]}-{name}"
    if path.exists():
        return path
    try:
        with atomic_file(path) as partial:
            with urlopen(url, timeout=TIMEOUT) as response, partial.open("wb") as file:
                shutil.copyfileobj(response, file)
                promised = response.headers.get("Content-Length")
            size = partial.stat().st_size
            if promised is not None and size != int(promised):
                raise ValueError(f"{url}: broke off after {size} of {promised} bytes; try again")
    except (OSError, HTTPException) as error:
        raise ValueError(f"{url}: cannot be fetched: {error}") from error
    return path
