"""A folder of clips or images, each with a text file of the same name beside it.

cats/jump.mp4    cats/jump.txt     (each line of the text is a caption; one is drawn for each item)
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from latent_shift.data.caption_io import caption_lines, read_text
from latent_shift.data.manifest import ClipRecord, Manifest, Problem, build_manifest
from latent_shift.data.sources.base import Source, file_record, require_folder
from latent_shift.media import kind_by_name


class FolderSource(Source):
    """A folder, with the folders in it."""

    format: Literal["folder"] = "folder"
    path: Path = Field(description="the folder")

    def read(self) -> Manifest:
        """Every clip and image with its captions; names that begin with a dot are ignored."""
        root = require_folder(self.path, "folder")
        files = sorted(
            path
            for path in root.rglob("*")
            if path.is_file() and not any(part.startswith(".") for part in path.relative_to(root).parts)
        )
        clips = [path for path in files if kind_by_name(path.name) is not None]
        texts = {path for path in files if path.suffix.lower() == ".txt"}
        if not clips:
            raise ValueError(f"folder {root}: holds no clip or image")
        if not texts:
            example = f"{clips[0].stem}.txt for {clips[0].name}"
            raise ValueError(f"folder {root}: no caption anywhere; write a .txt beside each, {example}")
        notes: list[str] = []
        found = [self._record(path, notes) for path in clips]
        without_clip = texts - {path.with_suffix(".txt") for path in clips}
        found += [
            Problem(self._key(text), "a caption without a clip or image of the same name")
            for text in sorted(without_clip)
        ]
        others = len(files) - len(clips) - len(texts)
        if others:
            notes.append(f"{root}: {others} files that are neither clip, image nor .txt were left alone")
        return build_manifest(str(root), found, notes)

    def _record(self, path: Path, notes: list[str]) -> ClipRecord | Problem:
        text, key = path.with_suffix(".txt"), self._key(path)
        if not text.is_file():
            return Problem(key, f"no caption: {text.name} is missing")
        content, guesses = read_text(text)
        notes += guesses
        captions = caption_lines(content)
        return (
            file_record(key, path, captions)
            if captions
            else Problem(key, f"no caption: {text.name} is empty")
        )

    def _key(self, path: Path) -> str:
        return path.relative_to(self.path).as_posix()
