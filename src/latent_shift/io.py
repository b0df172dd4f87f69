"""Files written atomically, read with errors that name them; errors and warnings for users."""

from __future__ import annotations

import errno
import json
import os
import re
import sys
import tempfile
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from stat import S_IMODE, S_ISVTX
from typing import Any, BinaryIO

from safetensors import SafetensorError, safe_open

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

# A warning of these rooms and of the packages that call into them points at the line that called them.
_ROOMS = "io prompts conditioning video_config pipeline checkpoints systems generation"
_PASSED_OVER = (*(f"latent_shift.{room}." for room in _ROOMS.split()), "torch.", "diffusers.", "contextlib.")
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
_LOCK = ".lock"  # in a folder that a process holds


@dataclass(frozen=True)
class SafetensorsHeader:
    """Shapes and types ("F32", "I8" ...) of the tensors in a safetensors file by key, and its metadata."""

    shapes: dict[str, tuple[int, ...]]
    dtypes: dict[str, str]
    metadata: dict[str, str]


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`, which takes its place at the end of the `with` block.

    Where the block raises, the temporary file is removed and an old file stays as it was. Where an old file
    cannot be replaced, the new one is kept beside it, and a ValueError tells its name. An OSError that has
    no name, as of a full disk, or the temporary one gets that of `path`, and one of safetensors becomes an
    OSError. Makes the folders above. The permissions are those of the old file, or of any new one;
    safetensors lets only the owner read its own.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        partial.touch()
        usual = S_IMODE((path if path.is_file() else partial).stat().st_mode)
        partial.unlink()
        yield partial
        with suppress(PermissionError):  # file systems without permissions of each file, as of a network
            partial.chmod(usual)
        try:
            os.replace(partial, path)
        except OSError as error:  # as of a file that another program has open, or of another user's
            if not os.path.lexists(path):
                raise
            kept = free_name(path)
            os.replace(partial, kept)
            why = f"cannot be replaced ({error.strerror})"
            raise ValueError(f"{path}: {why}; what was to be written is in {kept}") from error
    except OSError as error:
        if error.errno is None or error.filename not in (None, str(partial)):
            raise
        raise type(error)(error.errno, error.strerror, str(path)) from error
    except SafetensorError as error:
        number = re.search(r"os error ([0-9]+)", str(error))
        raise OSError(int(number[1]) if number else errno.EIO, one_line(error), str(path)) from error
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def only_process_in(folder: Path, work: str) -> Iterator[None]:
    """Hold a folder for this process; the lock ends with the process, however that ends.

    Raises ValueError where another process holds it, with its number. work: what it does there, in the third
    person. Without effect on file systems and platforms that lock no files.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise ValueError(f"{folder}: cannot be made a folder: {error.strerror}") from error
    with (folder / _LOCK).open("a+b", buffering=0) as lock:
        try:
            if (
                fcntl is not None
            ):  # lockf, not flock: worker processes, which may live longer, do not inherit it
                fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            lock.seek(0)
            other = lock.read().decode("ascii", "replace").strip() or "of unknown number"
            raise ValueError(
                f"{folder}: another process ({other}) {work} this folder: wait for it, or end it first"
            ) from error
        except OSError:
            pass
        try:
            lock.truncate(0)
            lock.write(str(os.getpid()).encode())
        except OSError as error:  # as of a full disk, which has no name of a file
            raise type(error)(error.errno, error.strerror, str(folder)) from error
        yield


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Wait until no other process is in such a block for this folder, which gets no file for it.

    Without effect on file systems and platforms that lock no folders.
    """
    opened = None if fcntl is None else os.open(folder, os.O_RDONLY)
    try:
        if opened is not None:
            with suppress(OSError):
                fcntl.flock(opened, fcntl.LOCK_EX)
        yield
    finally:
        if opened is not None:
            os.close(opened)


def at_home(path: str) -> str:
    """A path, with the user's folder for a ~ at its front that no shell saw, as in --output=~/a.mp4."""
    return os.path.expanduser(path) if f"{path}/".startswith("~/") else path


def check_no_address(path: str | os.PathLike[str]) -> None:
    """Raise ValueError for an address given as an output. As text only: in a Path both slashes are one."""
    if _ADDRESS.match(os.fspath(path)):
        raise ValueError(
            f"{path}: is an address; name a file of this machine, or a folder, and send it afterwards"
        )


def check_folder(folder: Path) -> None:
    """Raise ValueError, leaving no trace, for a folder that could not be made or written into."""
    for place in (folder, *folder.parents):
        if not place.is_dir() and os.path.lexists(place):
            kind = "a file" if place.exists() else "a link to nothing"
            cause = NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(place))
            raise ValueError(f"{place}: is {kind}, and no folder; name another") from cause
    there = next(place for place in (folder, *folder.absolute().parents) if place.is_dir())
    try:
        tempfile.TemporaryFile(dir=there).close()
    except OSError as error:
        raise ValueError(f"{folder}: cannot write into {there}: {error.strerror}") from error


def free_name(path: Path) -> Path:
    """The path, or where something is there, the first of NAME-2, NAME-3 ... beside it where nothing is."""
    place, number = path, 2
    while os.path.lexists(place):
        place, number = path.with_stem(f"{path.stem}-{number}"), number + 1
    return place


def check_replaceable(path: Path) -> None:
    """Raise ValueError for a file that no other can replace, as far as that is seen before it is tried."""
    if _is_mount_point(path):
        raise ValueError(
            f"{path}: is mounted, as into a container, and cannot be replaced; name another file"
        )
    folder, file = path.parent.stat(), path.lstat()
    if folder.st_mode & S_ISVTX and os.geteuid() not in (0, folder.st_uid, file.st_uid):  # as in /tmp
        raise ValueError(f"{path}: belongs to another user, and cannot be replaced; name another file")


def _is_mount_point(path: Path) -> bool:
    try:
        mounts = Path("/proc/self/mountinfo").read_bytes().splitlines()  # of Linux
    except OSError:
        return False
    places = {
        re.sub(rb"\\([0-7]{3})", lambda code: bytes([int(code[1], 8)]), line.split()[4]) for line in mounts
    }
    return os.fsencode(path.resolve()) in places


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file, whole or not at all; an old one is replaced."""
    with atomic_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Any, **options: Any) -> None:
    """Write JSON, whole or not at all. options: of `json.dumps`, by default an indent of 2."""
    write_text(path, json.dumps(content, **{"indent": 2, **options}) + "\n")


def printable(text: str) -> str:
    r"""Text that UTF-8 can hold and a terminal may get: bytes of a name that are none become \udc80.

    So do halves of surrogates; a control character, as the beginning of a terminal's commands, \x1b.
    """
    shown = re.sub(r"[\x00-\x1f\x7f-\x9f]", lambda found: repr(found[0])[1:-1], text)
    return shown.encode("utf-8", "backslashreplace").decode()


def zeros_at_end(opened: BinaryIO) -> int:
    """Bytes of a file's last sixteenth (1 MiB at most) if all are zeros, else 0.

    So end files of which a download or a full disk left the rest unwritten.
    """
    size = opened.seek(0, os.SEEK_END)
    length = min(size // 16, 1 << 20)
    opened.seek(size - length)
    return 0 if any(opened.read()) else length


def read_safetensors_header(path: Path) -> SafetensorsHeader:
    """The header of a safetensors file, read once while the file stays the same; needs no torch.

    Raises ValueError for a missing, truncated or damaged file, or one of another kind.
    """
    if not path.is_file():
        raise ValueError(f"{path}: there is no such file")
    return _read_header(*file_state(path))


def file_state(path: Path) -> tuple[Path, int, int, int]:
    """Path, inode, size and modification time: equal while a file stays the same, as keys of caches."""
    stat = path.stat()
    return path, stat.st_ino, stat.st_size, stat.st_mtime_ns


@lru_cache(maxsize=64)
def _read_header(path: Path, *_: int) -> SafetensorsHeader:
    try:
        with safe_open(path, framework="numpy") as opened:
            slices = {key: opened.get_slice(key) for key in opened.keys()}  # noqa: SIM118
            shapes = {key: tuple(one.get_shape()) for key, one in slices.items()}
            dtypes = {key: str(one.get_dtype()) for key, one in slices.items()}
            return SafetensorsHeader(shapes, dtypes, opened.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"{path}: is no safetensors file, or is truncated or damaged ({error}); fetch it again"
        ) from error


def warn(message: str) -> None:
    """Warn (UserWarning) at the line that called the pipeline, or another room that users call."""
    frame = sys._getframe(1)
    while frame.f_back is not None and f"{frame.f_globals.get('__name__', '')}.".startswith(_PASSED_OVER):
        frame = frame.f_back
    warnings.warn_explicit(
        message,
        UserWarning,
        filename=frame.f_code.co_filename,
        lineno=frame.f_lineno,
        module=frame.f_globals.get("__name__", "<unknown>"),
        registry=frame.f_globals.setdefault("__warningregistry__", {}),
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory does not suffice: Python's and numpy's, or torch's on any device."""
    if isinstance(error, MemoryError):
        return True
    # torch has a class for a GPU's memory and none for a CPU's
    named = type(error).__name__ == "OutOfMemoryError" or "DefaultCPUAllocator" in str(error)
    return isinstance(error, RuntimeError) and (named or "out of memory" in str(error))


def is_disk_full(error: BaseException) -> bool:
    """Whether an error, or the one that it came from, says that the disk has no room."""
    causes = (error, error.__cause__)
    return any(isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT) for cause in causes)


def one_line(error: Exception) -> str:
    """An error's message without line breaks."""
    return " ".join(str(error).split())
