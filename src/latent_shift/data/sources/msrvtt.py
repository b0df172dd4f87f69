"""MSR-VTT: its json (`videos` and `sentences`) and a folder of video0.mp4, video1.mp4 and so on.

The times in the json are those of the original films; the clips as they are handed out are cut already.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from latent_shift.data.caption_io import as_captions, read_text
from latent_shift.data.manifest import ClipRecord, Manifest, Problem, build_manifest
from latent_shift.data.sources.base import Source, file_entry, require_folder, sorted_out
from latent_shift.media import CLIP_SUFFIXES


class MsrvttSource(Source):
    """The clips of one split with all their sentences (20 each)."""

    format: Literal["msrvtt"] = "msrvtt"
    path: Path = Field(description="train_val_videodatainfo.json or test_videodatainfo.json")
    videos: Path = Field(description="folder of the clips")
    split: Literal["train", "validate", "test"] | None = Field(None, description="none: all in the file")

    def read(self) -> Manifest:
        """One entry a video. Raises ValueError for a file that is not MSR-VTT's."""
        folder = require_folder(self.videos, "videos")
        text, notes = read_text(self.path)
        videos, sentences = _parts(self.path, text)
        said: dict[str, list[str]] = {}
        problems: list[Problem] = []
        for number, sentence in enumerate(sentences):
            captions = as_captions(sentence.get("caption"))
            if captions and isinstance(sentence.get("video_id"), str):
                said.setdefault(sentence["video_id"], []).extend(captions)
            else:
                problems.append(Problem(f"{self.path} sentence {number}", "has no video_id or no caption"))
        chosen = [video for video in videos if self.split in (None, video.get("split"))]
        if not chosen:
            splits = sorted({str(video.get("split")) for video in videos})
            raise ValueError(f"{self.path}: no video of split {self.split!r}; it has {', '.join(splits)}")
        names = [video.get("video_id") for video in chosen]
        entries, more = sorted_out([_entry(folder, name, said.get(name, [])) for name in map(str, names)])
        return build_manifest(str(self.path), entries, problems + more, notes)


def _parts(path: Path, text: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: is not JSON: {error}") from error
    parts = [content.get(key) if isinstance(content, dict) else None for key in ("videos", "sentences")]
    for key, part in zip(("videos", "sentences"), parts, strict=True):
        if not isinstance(part, list) or not all(isinstance(one, dict) for one in part):
            raise ValueError(f"{path}: no list {key!r} of objects; expected MSR-VTT's videodatainfo.json")
    return parts[0] or [], parts[1] or []


def _entry(folder: Path, name: str, captions: list[str]) -> ClipRecord | Problem:
    suffix = next((s for s in CLIP_SUFFIXES if (folder / f"{name}{s}").is_file()), ".mp4")
    return file_entry(name, folder / f"{name}{suffix}", tuple(dict.fromkeys(captions)))
