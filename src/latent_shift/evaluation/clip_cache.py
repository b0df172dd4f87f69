"""Generated clips on disk while an evaluation runs, so that a stopped one goes on where it was.

A folder holds the settings of its clips, and one safetensors file for each finished batch, which appears
whole or not at all. A cache without a folder keeps nothing.

Shapes: B videos, F frames, H, W pixels.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from latent_shift.io import atomic_file, write_text

Clips = NDArray[np.uint8]
_SETTINGS = "settings.json"


class ClipCache:
    """Batches of clips by name. Raises ValueError for a folder that holds clips of other settings."""

    def __init__(self, folder: Path | None, settings: dict[str, Any]) -> None:
        self.folder = folder
        if folder is None:
            return
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _check_settings(folder / _SETTINGS, settings)
        except OSError as error:
            raise ValueError(f"{folder}: cannot keep clips there: {error.strerror}") from error

    def batch(self, name: str, make: Callable[[], tuple[Clips, float]]) -> tuple[Clips, float]:
        """Return clips (B, F, H, W, 3) and the seconds they took: kept under `name`, else made and kept."""
        if self.folder is None:
            return make()
        path = self.folder / f"{name}.safetensors"
        if path.is_file():
            return _read(path)
        clips, seconds = make()
        with atomic_file(path) as partial:
            save_file({"frames": np.ascontiguousarray(clips)}, partial, {"seconds": repr(seconds)})
        return clips, seconds


def _read(path: Path) -> tuple[Clips, float]:
    try:
        with safe_open(path, framework="numpy") as file:
            return file.get_tensor("frames"), float((file.metadata() or {})["seconds"])
    except (SafetensorError, KeyError) as error:
        raise ValueError(f"{path}: is damaged ({error}); remove it, and it is made again") from error


def _check_settings(file: Path, settings: dict[str, Any]) -> None:
    text = json.dumps(settings, indent=2, sort_keys=True)
    if not file.is_file():
        # Hidden files are those that another process, starting on its own shard, is about to finish.
        if any(not other.name.startswith(".") for other in file.parent.iterdir()):
            raise ValueError(f"{file.parent}: is not empty and holds no clips of an evaluation; name another")
        write_text(file, text)
        return
    try:
        kept = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file}: is not valid JSON; remove the folder to begin again") from error
    wanted = json.loads(text)
    if kept != wanted:
        names = sorted(name for name in {*kept, *wanted} if kept.get(name) != wanted.get(name))
        raise ValueError(f"{file.parent}: holds clips of other {', '.join(names)}; name another folder")
