"""Files written atomically, read with errors that name them, hashed; errors and warnings for users."""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import re
import sys
import uuid
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

# A warning of these rooms and of the packages that call into them points at the line that called them.
_ROOMS = "io prompts conditioning video_config pipeline checkpoints systems generation"
_PASSED_OVER = (*(f"latent_shift.{room}." for room in _ROOMS.split()), "torch.", "diffusers.", "contextlib.")
_END = 64 * 1024  # bytes
_LARGE = 64 << 20  # bytes, of a file with a hash that is worth keeping
_BLOCK = 1 << 20  # bytes
_LARGE = 64 * 2**20  # bytes of a file that is not hashed anew at every start
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

    Where the block raises, the temporary file is removed and an old file stays as it was; an OSError without
    a name, as of a full disk, gets that of `path`. Makes the folders above.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        yield partial
        os.replace(partial, path)
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise type(error)(error.errno, error.strerror, str(path)) from error
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def only_process_in(folder: Path, work: str) -> Iterator[None]:
    """Hold a folder for this process; the lock ends with the process, however that ends.

    Raises ValueError where another process holds it, with its number. work: what it does there, in the third
    person. Without effect on file systems and platforms that lock no files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / _LOCK).open("a+", encoding="utf-8") as lock:
        try:
            if (
                fcntl is not None
            ):  # lockf, not flock: worker processes, which may live longer, do not inherit it
                fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            lock.seek(0)
            other = lock.read().strip() or "of unknown number"
            raise ValueError(
                f"{folder}: another process ({other}) {work} this folder: wait for it, or end it first"
            ) from error
        except OSError:
            pass
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file, whole or not at all; an old one is replaced."""
    with atomic_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Any, **options: Any) -> None:
    """Write JSON, whole or not at all. options: of `json.dumps`, by default an indent of 2."""
    write_text(path, json.dumps(content, **{"indent": 2, **options}) + "\n")


class FileList(NamedTuple):
    """The files of a folder and of those in it, sorted; and what was left out."""

    files: list[Path]
    unreadable: dict[Path, str]  # files and folders, and why
    repeated: list[Path]  # links to folders that are listed already


def list_files(folder: Path) -> FileList:
    """List all files below a folder but those with a name, or in a folder of a name, that begins with a dot.

    Links to folders are followed; each folder is listed once, by its own name where it lies below.
    """
    found = FileList([], {}, [])
    seen: set[tuple[int, int]] = set()
    roots = [str(folder)]

    def leave_out(error: OSError) -> None:
        found.unreadable[Path(error.filename)] = f"cannot be read: {error.strerror}"

    for root in roots:  # grows by links to folders
        for parent, folders, names in os.walk(root, onerror=leave_out):
            stat = os.stat(parent)
            if (stat.st_dev, stat.st_ino) in seen:
                found.repeated.append(Path(parent))
                folders.clear()
                continue
            seen.add((stat.st_dev, stat.st_ino))
            folders[:] = [name for name in sorted(folders) if not name.startswith(".")]
            paths = [os.path.join(parent, name) for name in folders]
            roots += [path for path in paths if os.path.islink(path)]
            for path in (Path(parent, name) for name in names if not name.startswith(".")):
                try:
                    if path.is_file():
                        found.files.append(path)
                    else:
                        is_link = path.is_symlink()
                        found.unreadable[path] = "is a link to nothing" if is_link else "is no file"
                except OSError as error:
                    leave_out(error)
    found.files.sort()
    return found


def printable(text: str) -> str:
    """Text that UTF-8 can hold: other bytes of a file's name, and halves of surrogates, become \\udc80."""
    return text.encode("utf-8", "backslashreplace").decode()


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file, hexadecimal.

    Of a large file it is kept in the user's cache while path, inode, size and time stay the same: gigabytes
    of weights take seconds to read at every start.
    """
    state = file_state(path.resolve())
    kept = _kept_hashes() if state[2] >= _LARGE else {}
    key = " ".join(map(str, state))
    if key in kept:
        return str(kept[key])
    with path.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if state[2] >= _LARGE and file_state(path.resolve()) == state:
        others = {one: value for one, value in kept.items() if not one.startswith(f"{state[0]} ")}
        with suppress(OSError):  # a cache that cannot be written is none
            write_json(_hash_cache(), {**others, key: found})
    return found


def _hash_cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "latent-shift" / "sha256.json"


def _kept_hashes() -> dict[str, Any]:
    try:
        return read_json_mapping(_hash_cache())
    except (ValueError, OSError):
        return {}


def remembered_sha256(path: Path) -> str:
    """The SHA-256 of a file, computed once while the file stays the same (`file_state`).

    That of a file of 64 MiB or more is kept in the user's cache ($XDG_CACHE_HOME, or ~/.cache) as well, so
    that commands do not read gigabytes of weights each time.
    """
    return _remembered_sha256(*file_state(path.absolute()))


@lru_cache(maxsize=256)
def _remembered_sha256(path: Path, *state: int) -> str:
    if path.stat().st_size < _LARGE:
        return file_sha256(path)
    caches = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    key = hashlib.sha256(repr((os.fsencode(path), *state)).encode()).hexdigest()
    file = Path(caches) / "latent-shift" / "sha256" / key
    with suppress(OSError, ValueError):
        known = file.read_text(encoding="ascii")
        if re.fullmatch("[0-9a-f]{64}", known):
            return known
    found = file_sha256(path)
    with suppress(OSError):  # a cache that cannot be written costs time only
        write_text(file, found)
    return found


def file_crc32(path: Path) -> int:
    """The CRC-32 of a file: tells damage, several times as fast as a SHA-256."""
    found = 0
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK):
            found = zlib.crc32(block, found)
    return found


def ends_hash(path: Path) -> str:
    """A hash of a file's size, first and last 64 KiB: tells another clip at once, however long they are."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        first = stream.read(_END)
        stream.seek(max(size - _END, 0))
        return hashlib.sha256(f"{size} ".encode() + first + stream.read(_END)).hexdigest()


def short_hash(path: Path) -> str:
    """The first 12 hexadecimal digits of a file's SHA-256."""
    return file_sha256(path)[:12]


def read_json_mapping(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises ValueError naming the file where there is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ValueError(f"{path}: is missing") from error
    except ValueError as error:
        raise ValueError(f"{path}: is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected a JSON object")
    return content


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


class _Loader(yaml.SafeLoader):
    """As YAML's safe loader, but a key that stands twice in a mapping is an error."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """A mapping of a node."""
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if twice := [key for key in keys if keys.count(key) > 1]:
            raise yaml.MarkedYAMLError(
                problem=f"the key {twice[0]!r} stands twice", problem_mark=node.start_mark
            )
        return super().construct_mapping(node, deep)


def parse_yaml(text: str, where: str) -> Any:
    """A YAML value. Raises ValueError naming `where` for text that is not YAML."""
    try:
        return yaml.load(text, _Loader)  # a safe one
    except yaml.YAMLError as error:
        raise ValueError(f"{where}: is not valid YAML: {one_line(error)}") from error


def read_yaml_mapping(path: Path, kind: str) -> dict[str, Any]:
    """The mapping in a YAML file. Raises ValueError naming `kind` and the file where there is none."""
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _Loader)  # a safe one
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"cannot read {kind} {path}: {one_line(error)}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{kind} {path} must be a mapping of keys to values")
    return content


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


def one_line(error: Exception) -> str:
    """An error's message without line breaks."""
    return " ".join(str(error).split())


_NO_TEXT = (
    bool,
    int,
    float,
    datetime.date,
    type(None),
)  # YAML's readings of what may have been meant as a text
_UNKNOWN_KEY = ("extra_forbidden", "unexpected_keyword_argument")  # of a model, of a dataclass


def validation_error(
    error: ValidationError, owner: str = "", advice: Callable[[str], str] | None = None
) -> str:
    """The first error of a pydantic validation as "key: what is wrong, got value"; how many more there are.

    Unknown keys come before others: a missing key is often one that was misspelt. owner: what the keys belong
    to, as "format table". advice: gives a sentence about an unknown key.
    """
    first = min(error.errors(), key=lambda one: one["type"] not in _UNKNOWN_KEY)
    key = ".".join(map(str, first["loc"]))
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    if first["type"] == "value_error":  # raised by our own validators, which name the values
        reason = str(first["ctx"]["error"])
    elif first["type"] in _UNKNOWN_KEY:
        reason = f"unknown key of {owner}" if owner else "unknown key"
        reason += f"; {advice(str(first['loc'][-1]))}" if advice is not None else ""
    elif first["type"] == "missing":
        reason = f"is missing; {owner} needs it" if owner else "is missing"
    else:
        reason = f"{first['msg']}, got {str(first['input'])[:80]!r}"
        if first["type"] in ("string_type", "path_type") and isinstance(first["input"], _NO_TEXT):
            reason += "; put it in quotation marks if it is a text"
    return f"{key}: {reason}{more}" if key else f"{reason}{more}"
