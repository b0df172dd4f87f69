"""Settings of an uploaded file, read in a process of its own with bounds on time, memory and files.

The content reaches the child through its standard input and is decoded from memory: it has no name there,
and can open nothing, write nothing and start nothing.
"""

from __future__ import annotations

import json
import math
import resource
import subprocess
import sys
import threading
from contextlib import suppress
from typing import Any

SECONDS = 20  # of the wall clock, for starting and reading
_CPU_SECONDS = 10
_MEMORY = 2 * 2**30  # bytes of address space
_NAME = "the file"
_DEPTH = 30  # of settings; the package's own are 3 deep
_places = threading.BoundedSemaphore(2)  # files read at once, each within these bounds


class UnreadableError(ValueError):
    """A file without settings of this package, or none that can be read within the bounds."""


class BusyError(Exception):
    """As many files are being read as may be at once."""


def settings_of(content: bytes) -> dict[str, Any]:
    """The settings inside a clip or image.

    Raises UnreadableError where there are none, and BusyError at once where no place is free: who waited here
    would hold a thread that other requests need.
    """
    if not _places.acquire(blocking=False):
        raise BusyError
    try:
        done = subprocess.run(
            [sys.executable, "-m", "latent_shift.server.uploads"],
            input=content, capture_output=True, timeout=SECONDS, check=False,
        )  # fmt: skip
        answer = json.loads(done.stdout)
    except (subprocess.TimeoutExpired, ValueError) as error:
        raise UnreadableError(f"{_NAME} cannot be read within {SECONDS} s and {_MEMORY >> 30} GiB") from error
    finally:
        _places.release()
    if "error" in answer:
        raise UnreadableError(answer["error"])
    settings: dict[str, Any] = answer["settings"]
    return settings


def main() -> None:
    """Read a file from standard input and print its settings, or the error, as JSON."""
    from latent_shift.media import HeldFile, read_settings

    content = sys.stdin.buffer.read()
    for head in (b"GIF89a", b"-"):  # imports what reading needs, for which files have to be opened
        with suppress(ValueError):
            read_settings(HeldFile(_NAME, head))
    for kind, bound in (
        (resource.RLIMIT_CPU, _CPU_SECONDS),
        (resource.RLIMIT_AS, _MEMORY),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, 16),
        (resource.RLIMIT_NPROC, 0),
    ):
        with suppress(ValueError, OSError):  # a platform that does not know it, or has a lower bound already
            resource.setrlimit(kind, (bound, bound))
    try:
        answer = {"settings": _plain(read_settings(HeldFile(_NAME, content)))}
    except ValueError as error:
        answer = {"error": str(error)}
    print(json.dumps(answer))


def _plain(value: Any, depth: int = 0) -> Any:
    """A JSON value that any reader takes: without NaN, infinities and halves of surrogate pairs.

    Raises ValueError for one that is nested deeper than settings are.
    """
    if depth > _DEPTH:
        raise ValueError(f"{_NAME}: its settings are nested more than {_DEPTH} deep")
    if isinstance(value, dict):
        return {_utf8(name): _plain(one, depth + 1) for name, one in value.items()}
    if isinstance(value, list):
        return [_plain(one, depth + 1) for one in value]
    if isinstance(value, str):
        return _utf8(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _utf8(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


if __name__ == "__main__":
    main()
