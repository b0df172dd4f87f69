"""A folder of clips or images, each with a text file of the same name beside it.

cats/jump.mp4    cats/jump.txt     (each line of the text is a caption; one is drawn at every visit)
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from latent_shift.data.caption_io import caption_lines, read_text
from latent_shift.data.manifest import ClipRecord, Manifest, Problem, build_manifest
from latent_shift.data.sources.base import Source, file_entry, require_folder, sorted_out
from latent_shift.media import kind_by_name


class FolderSource(Source):
    """A folder, with the folders in it."""

    format: Literal["folder"] = "folder"
    path: Path = Field(description="the folder")

    def read(self) -> Manifest:
        """Every clip and image with its captions; files whose name begins with a dot are left alone."""
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
        entries, problems = sorted_out([self._entry(path, notes) for path in clips])
        spoken_for = {path.with_suffix(".txt") for path in clips}
        problems += [
            Problem(_key(root, text), "a caption without a clip or image of the same name")
            for text in sorted(texts - spoken_for)
        ]
        others = len(files) - len(clips) - len(texts)
        if others:
            notes.append(f"{root}: {others} files that are neither clip, image nor .txt were left alone")
        return build_manifest(str(root), entries, problems, notes)

    def _entry(self, path: Path, notes: list[str]) -> ClipRecord | Problem:
        text, key = path.with_suffix(".txt"), _key(self.path, path)
        if not text.is_file():
            return Problem(key, f"no caption: {text.name} is missing")
        content, guessed = read_text(text)
        notes += guessed
        captions = caption_lines(content)
        return (
            file_entry(key, path, captions) if captions else Problem(key, f"no caption: {text.name} is empty")
        )


def _key(root: Path, path: Path) -> str:
    return path.relative_to(root).as_posix()
