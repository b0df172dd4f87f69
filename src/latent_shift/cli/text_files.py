"""Text files as results of a command: checked before the work, written whole or not at all.

Clips and images are `media`'s; this is for JSON and Markdown.
"""

from __future__ import annotations

import os
import uuid
from pathlib import Path


def check_text_file(path: Path, suffix: str, *, overwrite: bool) -> None:
    """ValueError if a file of this suffix could not be written to `path`; leaves no trace."""
    if path.suffix.lower() != suffix:
        raise ValueError(f"{path}: unknown suffix {path.suffix!r}; the name must end in {suffix}")
    if path.is_dir():
        raise ValueError(f"{path}: is a folder; name a file")
    if os.path.lexists(path) and not overwrite:
        raise ValueError(f"{path}: exists already; use --force or another name")
    folder = path.parent
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    probe = folder / f".{uuid.uuid4().hex}.tmp"
    try:
        probe.touch(exist_ok=False)
        probe.unlink()
    except OSError as error:
        raise ValueError(f"{path}: cannot write into {folder}: {error.strerror}") from error


def write_text_file(path: Path, text: str) -> None:
    """Write a text file, and the folders above it; an old one is replaced."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
