"""The settings embedded in a clip or image that this package wrote: a JSON text in the file's comment."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from PIL import Image

from latent_shift.media.opening import holds_picture, named_errors, open_bytes, open_picture, open_video

SETTINGS_KEY = "latent_shift"  # the JSON in a file is {"latent_shift": {...}}: not just anybody's comment
EXIF_DESCRIPTION = 0x010E


def read_settings(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The settings that `write_clip` embedded; ValueError naming the file if unreadable or without any."""
    path = Path(path)
    with named_errors(path), open_bytes(path) as opened:
        if holds_picture(opened):
            with open_picture(opened) as image:
                comment = picture_comment(image)
        else:
            with open_video(opened) as container:
                comment = container.metadata.get("comment", "")
    settings = parse_settings(comment)
    if settings is None:
        raise ValueError(f"{path}: carries no settings; only files made by latent-shift do")
    return settings


def settings_text(settings: dict[str, Any]) -> str:
    """The comment that holds the settings; ValueError for what JSON cannot hold."""
    try:
        return json.dumps({SETTINGS_KEY: settings}, allow_nan=False)  # ASCII: survives every container
    except TypeError as error:
        raise ValueError(f"settings cannot be written as JSON: {error}") from error


def parse_settings(comment: str) -> dict[str, Any] | None:
    """The settings in a file's comment; None where it holds none."""
    try:
        found = json.loads(comment)
    except (ValueError, RecursionError):
        return None
    settings = found.get(SETTINGS_KEY) if isinstance(found, dict) else None
    return settings if isinstance(settings, dict) else None


def picture_comment(image: Image.Image) -> str:
    """The comment inside a picture, wherever its format keeps it; empty without one."""
    comment = image.info.get("comment") or image.info.get("Comment")  # of a gif, of a png
    comment = comment or image.getexif().get(EXIF_DESCRIPTION, "")
    return comment.decode("utf-8", "replace") if isinstance(comment, bytes) else str(comment)
