"""The WebVid layout: a csv (videoid, contentUrl, duration, page_dir, name) and page_dir/videoid.mp4 files."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from latent_shift.data.caption_io import as_captions, read_text
from latent_shift.data.manifest import ClipRecord, Manifest, Problem, build_manifest
from latent_shift.data.sources.base import Source, file_entry, require_folder, sorted_out
from latent_shift.data.sources.table import rows


class WebvidSource(Source):
    """Clips that were downloaded from a WebVid csv; their captions are its column `name`."""

    format: Literal["webvid"] = "webvid"
    path: Path = Field(description="results_10M_train.csv or such")
    videos: Path = Field(description="folder of the page_dir folders")

    def read(self) -> Manifest:
        """One entry a line. Raises ValueError for a csv without the columns."""
        folder = require_folder(self.videos, "videos")
        text, notes = read_text(self.path)
        found: list[ClipRecord | Problem] = []
        for where, row in rows(self.path, text, ["videoid", "page_dir", "name"]):
            if isinstance(row, str):
                found.append(Problem(where, row))
                continue
            name = "/".join(str(row.get(part, "")).strip() for part in ("page_dir", "videoid"))
            found.append(file_entry(name, folder / f"{name}.mp4", as_captions(row.get("name"))))
        entries, problems = sorted_out(found)
        return build_manifest(str(self.path), entries, problems, notes)
