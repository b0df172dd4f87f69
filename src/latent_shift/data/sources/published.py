"""Datasets in the layouts in which they are published: MSR-VTT, UCF-101 and WebVid.

MSR-VTT:  its json (`videos` and `sentences`) and a folder of video0.mp4, video1.mp4 and so on. The times in
          the json are those of the original films and not used: the published clips are cut already.
UCF-101:  a folder a class, and split files that list clips. Captions come from the class names,
          ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi -> "apply eye makeup", or from a file.
WebVid:   a csv (videoid, contentUrl, duration, page_dir, name) and page_dir/videoid.mp4 files.

A clip that is not there is looked for with other suffixes, too.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from latent_shift.data.caption_io import as_captions, read_text, text_lines
from latent_shift.data.manifest import ClipRecord, Manifest, Problem, build_manifest
from latent_shift.data.sources.base import Source, file_record, require_folder
from latent_shift.data.sources.local import table_rows
from latent_shift.documents import parse_json, parse_yaml
from latent_shift.folders import list_files
from latent_shift.media import kind_by_name


class _Clips:
    """Clips by the names that lists have for them, whatever their suffix: many are stored as re-encoded."""

    def __init__(self) -> None:
        self._listed: dict[Path, dict[str, Path]] = {}  # the clips of a folder by their names without suffix

    def find(self, path: Path) -> Path:
        """The path, or where nothing is there a clip beside it of the same name without suffix."""
        if os.path.exists(path):
            return path
        folder = path.parent
        if folder not in self._listed:
            files = sorted(file for file in folder.glob("*") if kind_by_name(file.name) == "clip")
            self._listed[folder] = {file.stem: file for file in files}
        return self._listed[folder].get(path.stem, path)


class MsrvttSource(Source):
    """The clips of one split with all their sentences (20 each)."""

    format: Literal["msrvtt"] = "msrvtt"
    path: Path = Field(description="train_val_videodatainfo.json or test_videodatainfo.json")
    videos: Path = Field(description="folder of the clips")
    split: Literal["train", "validate", "test"] | None = Field(None, description="none: all in the file")

    def read(self) -> Manifest:
        """One record a video. Raises ValueError for a file that is not MSR-VTT's."""
        folder = require_folder(self.videos, "videos")
        text, notes = read_text(self.path)
        videos, sentences = self._lists(text)
        captions_of: dict[str, list[str]] = {}
        found: list[ClipRecord | Problem] = []
        for number, sentence in enumerate(sentences):
            captions = as_captions(sentence.get("caption"))
            if captions and isinstance(sentence.get("video_id"), str):
                captions_of.setdefault(sentence["video_id"], []).extend(captions)
            else:
                found.append(Problem(f"{self.path} sentence {number}", "has no video_id or no caption"))
        chosen = [video for video in videos if self.split in (None, video.get("split"))]
        if not chosen:
            splits = sorted({str(video.get("split")) for video in videos})
            raise ValueError(f"{self.path}: no video of split {self.split!r}; it has {', '.join(splits)}")
        clips = _Clips()
        for name in (str(video.get("video_id")) for video in chosen):
            file = clips.find(folder / f"{name}.mp4")
            found.append(file_record(name, file, tuple(dict.fromkeys(captions_of.get(name, [])))))
        return build_manifest(str(self.path), found, notes)

    def _lists(self, text: str) -> list[list[dict[str, Any]]]:
        """The videos and the sentences."""
        try:
            content = parse_json(text)
        except ValueError as error:
            raise ValueError(f"{self.path}: {error}") from error
        lists = []
        for key in ("videos", "sentences"):
            objects = content.get(key) if isinstance(content, dict) else None
            if not isinstance(objects, list) or not all(isinstance(one, dict) for one in objects):
                expected = "expected MSR-VTT's videodatainfo.json"
                raise ValueError(f"{self.path}: no list {key!r} of objects; {expected}")
            lists.append(objects)
        return lists


class Ucf101Source(Source):
    """The tree of classes, whole or the clips that a split file lists."""

    format: Literal["ucf101"] = "ucf101"
    path: Path = Field(description="folder of the class folders")
    split_file: Path | None = Field(None, description="trainlist01.txt or such; none: every clip there is")
    captions: Path | None = Field(
        None, description="YAML or JSON: class to caption, or to a list of them; none: the class in words"
    )

    def read(self) -> Manifest:
        """One record a clip. Raises ValueError where the captions lack a class that has clips."""
        root = require_folder(self.path, "path")
        found: list[ClipRecord | Problem] = []
        notes: list[str] = []
        if self.split_file is None:
            listed = list_files(root)
            found += [Problem(str(path), reason) for path, reason in sorted(listed.unreadable.items())]
            files = (path.relative_to(root) for path in listed.files if kind_by_name(path.name) == "clip")
            names = [path.as_posix() for path in files if len(path.parts) == 2]
        else:
            names = self._listed(self.split_file, found, notes)
        captions_of = {} if self.captions is None else self._captions(self.captions, notes)
        lacking = sorted({_class(name) for name in names} - captions_of.keys()) if self.captions else []
        if lacking:
            raise ValueError(
                f"{self.captions}: no caption for class {lacking[0]!r} ({len(lacking)} lack one)"
            )
        clips = _Clips()
        for name in names:
            captions = captions_of.get(_class(name)) or (in_words(_class(name)),)
            found.append(file_record(name, clips.find(root / name), captions))
        return build_manifest(str(root), found, notes)

    def _listed(self, file: Path, found: list[ClipRecord | Problem], notes: list[str]) -> list[str]:
        """The clips of a split file: `Class/clip.avi`, in training lists followed by the class's number."""
        text, guesses = read_text(file)
        notes += guesses
        names: list[str] = []
        for number, line in enumerate(text_lines(text), 1):
            name = line.split(" ")[0].strip().replace("\\", "/")
            if name.count("/") == 1 and ".." not in name and not name.startswith("/"):
                names.append(name)
            elif line.strip():
                found.append(Problem(f"{file} line {number}", "expected Class/clip.avi"))
        return names

    def _captions(self, file: Path, notes: list[str]) -> dict[str, tuple[str, ...]]:
        text, guesses = read_text(file)
        notes += guesses
        content = parse_yaml(text, str(file))
        if not isinstance(content, dict):
            raise ValueError(f"{file}: expected classes and their captions, as in 'Archery: a person ...'")
        captions_of = {str(name): as_captions(value) for name, value in content.items()}
        empty = [name for name, captions in captions_of.items() if not captions]
        if empty:
            raise ValueError(f"{file}: class {empty[0]!r} has no caption; expected a text or a list of them")
        return captions_of


def _class(name: str) -> str:
    return name.split("/")[0]


def in_words(name: str) -> str:
    """A class name in words: ApplyEyeMakeup becomes "apply eye makeup"."""
    return " ".join(re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", name)).lower()


class WebvidSource(Source):
    """Clips that were downloaded from a WebVid csv; their captions are its column `name`."""

    format: Literal["webvid"] = "webvid"
    path: Path = Field(description="results_10M_train.csv or such")
    videos: Path = Field(description="folder of the page_dir folders")

    def read(self) -> Manifest:
        """One record a line. Raises ValueError for a csv without the columns."""
        folder = require_folder(self.videos, "videos")
        text, notes = read_text(self.path)
        found: list[ClipRecord | Problem] = []
        clips = _Clips()
        for where, row in table_rows(self.path, text, ["videoid", "page_dir", "name"]):
            if isinstance(row, str):
                found.append(Problem(where, row))
                continue
            name = "/".join(str(row.get(column, "")).strip() for column in ("page_dir", "videoid"))
            file = clips.find(folder / f"{name}.mp4")
            found.append(file_record(name, file, as_captions(row.get("name"))))
        return build_manifest(str(self.path), found, notes)
