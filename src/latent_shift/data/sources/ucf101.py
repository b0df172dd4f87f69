"""UCF-101: a folder a class, split files that list clips, captions made of the class names or given.

UCF-101/ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi     ->  "apply eye makeup"
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

import yaml
from pydantic import Field

from latent_shift.data.caption_io import as_captions, read_text
from latent_shift.data.manifest import Manifest, Problem, build_manifest
from latent_shift.data.sources.base import Source, file_entry, require_folder, sorted_out
from latent_shift.media import kind_by_name


class Ucf101Source(Source):
    """The class tree, whole or as far as a split file lists it."""

    format: Literal["ucf101"] = "ucf101"
    path: Path = Field(description="folder of the class folders")
    split_file: Path | None = Field(None, description="trainlist01.txt or such; none: every clip there is")
    captions: Path | None = Field(
        None, description="YAML or JSON: class to caption, or to a list of them; none: the class in words"
    )

    def read(self) -> Manifest:
        """One entry a clip. Raises ValueError where the captions lack a class that has clips."""
        root = require_folder(self.path, "path")
        names, problems, notes = self._listed() if self.split_file else (self._found(), [], [])
        given, guessed = self._given()
        lacking = sorted({name.split("/")[0] for name in names} - given.keys()) if self.captions else []
        if lacking:
            raise ValueError(
                f"{self.captions}: no caption for class {lacking[0]!r} ({len(lacking)} lack one)"
            )
        found = [
            file_entry(name, root / name, given.get(name.split("/")[0]) or (in_words(name.split("/")[0]),))
            for name in names
        ]
        entries, more = sorted_out(found)
        return build_manifest(str(root), entries, problems + more, notes + guessed)

    def _found(self) -> list[str]:
        clips = (path for path in sorted(self.path.glob("*/*")) if kind_by_name(path.name) == "clip")
        return [path.relative_to(self.path).as_posix() for path in clips]

    def _listed(self) -> tuple[list[str], list[Problem], list[str]]:
        """The clips of the split file: `Class/clip.avi`, in training lists with the class's number behind."""
        assert self.split_file is not None
        text, notes = read_text(self.split_file)
        names: list[str] = []
        problems: list[Problem] = []
        for number, line in enumerate(text.splitlines(), 1):
            name = line.split(" ")[0].strip().replace("\\", "/")
            if name.count("/") == 1 and ".." not in name and not name.startswith("/"):
                names.append(name)
            elif line.strip():
                problems.append(Problem(f"{self.split_file} line {number}", "expected Class/clip.avi"))
        return names, problems, notes

    def _given(self) -> tuple[dict[str, tuple[str, ...]], list[str]]:
        if self.captions is None:
            return {}, []
        text, notes = read_text(self.captions)
        try:
            content = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ValueError(f"{self.captions}: is no YAML: {' '.join(str(error).split())}") from error
        if not isinstance(content, dict):
            raise ValueError(
                f"{self.captions}: expected classes and their captions, as in 'Archery: a person ...'"
            )
        given = {str(name): as_captions(value) for name, value in content.items()}
        empty = [name for name, captions in given.items() if not captions]
        if empty:
            raise ValueError(
                f"{self.captions}: class {empty[0]!r} has no caption; expected a text or a list of them"
            )
        return given, notes


def in_words(name: str) -> str:
    """A class name in words: ApplyEyeMakeup becomes "apply eye makeup"."""
    return " ".join(re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", name)).lower()
