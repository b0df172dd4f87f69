"""Files of the web, each fetched once into a folder, whole or not at all. No other file here fetches."""

from __future__ import annotations

import hashlib
import os
import shutil
import uuid
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit
from urllib.request import urlopen

SECONDS = 60  # without a byte, after which a server counts as gone


def is_url(name: str) -> bool:
    """Whether a name is an address on the web."""
    return name.startswith(("http://", "https://"))


def fetch_file(url: str, folder: Path) -> Path:
    """The local copy of a file of the web, fetched now if it is not there yet.

    Its name holds a hash of the address, so that files of one name from two places stay apart. Raises
    ValueError naming the address where it cannot be fetched whole.
    """
    name = PurePosixPath(urlsplit(url).path).name
    path = folder / f"{hashlib.sha256(url.encode()).hexdigest()[:12]}-{name}"
    if path.exists():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f".{uuid.uuid4().hex}.tmp"
    try:
        with urlopen(url, timeout=SECONDS) as answer, partial.open("wb") as file:
            shutil.copyfileobj(answer, file)
            promised = answer.headers.get("Content-Length")
        size = partial.stat().st_size
        if promised is not None and size != int(promised):
            raise ValueError(f"{url}: broke off after {size} of {promised} bytes; try again")
        os.replace(partial, path)
    except (OSError, HTTPException) as error:
        raise ValueError(f"{url}: cannot be fetched: {error}") from error
    finally:
        partial.unlink(missing_ok=True)
    return path
