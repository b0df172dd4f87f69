"""Text files as results of a command, JSON and Markdown, written whole or not at all."""

from __future__ import annotations

import os
import uuid
from pathlib import Path


def write_text_file(path: Path, text: str) -> None:
    """Write a text file, and the folders above it; an old one is replaced."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
