"""Files written atomically, read with errors that name them; errors and warnings for users."""

from __future__ import annotations

import datetime
import errno
import json
import os
import re
import sys
import tempfile
import uuid
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from stat import S_IMODE
from typing import Any, BinaryIO, TypeVar

import yaml
from pydantic import BaseModel, ValidationError
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
Model = TypeVar("Model", bound=BaseModel)


@dataclass(frozen=True)
class SafetensorsHeader:
    """Shapes and types ("F32", "I8" ...) of the tensors in a safetensors file by key, and its metadata."""

    shapes: dict[str, tuple[int, ...]]
    dtypes: dict[str, str]
    metadata: dict[str, str]


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`, which takes its place at the end of the `with` block.

    Where the block raises, the temporary file is removed and an old file stays as it was. An OSError that has
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
        partial.chmod(usual)
        os.replace(partial, path)
    except OSError as error:
        if error.errno == errno.EBUSY:  # as of a file mounted into a container
            mend = "is in use, perhaps mounted, and cannot be replaced; name another file"
            raise ValueError(f"{path}: {mend}") from error
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
            raise ValueError(f"{place}: is {kind}, and no folder; name another")
    there = next(place for place in (folder, *folder.absolute().parents) if place.is_dir())
    try:
        tempfile.TemporaryFile(dir=there).close()
    except OSError as error:
        raise ValueError(f"{folder}: cannot write into {there}: {error.strerror}") from error


def is_mount_point(path: Path) -> bool:
    """Whether something is mounted at a path, so that nothing can take its place; known on Linux only."""
    try:
        mounts = Path("/proc/self/mountinfo").read_bytes().splitlines()
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


def parse_json(text: str) -> Any:
    """A JSON value that people wrote. Raises ValueError, also for a key that stands twice in one object.

    Of such a key Python's reader takes the last value, and loses the others in silence.
    """
    try:
        return json.loads(text, object_pairs_hook=_no_key_twice)
    except _TwiceError:
        raise
    except RecursionError as error:
        raise ValueError("is nested too deeply for JSON") from error
    except ValueError as error:
        raise ValueError(f"is not JSON: {error}") from error


class _TwiceError(ValueError):
    """A key that stands twice."""


def _no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise _TwiceError(f"the key {printable(twice)!r} stands twice; remove one, or rename it")
    return found


def read_json_mapping(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises ValueError naming the file where there is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ValueError(f"{path}: is missing") from error
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror}") from error
    except RecursionError as error:
        raise ValueError(f"{path}: is nested too deeply for JSON") from error
    except ValueError as error:
        raise ValueError(f"{path}: is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected a JSON object")
    return content


def read_model(kind: type[Model], path: Path) -> Model:
    """A file that a program wrote as JSON. Raises ValueError naming the file where it is damaged."""
    try:
        return kind.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror}") from error
    except ValidationError as error:
        again = "remove it, and the same command makes it anew"
        raise ValueError(f"{path}: is damaged: {validation_error(error)}; {again}") from error


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


_TYPED = [f"tag:yaml.org,2002:{kind}" for kind in ("bool", "int", "float", "null", "timestamp")]


class YamlLoader(yaml.SafeLoader):
    """As YAML's safe loader, but numbers are decimal ones, keys are texts, and none may stand twice.

    YAML 1.1 reads 8:30 as 510 and 010 as 8, and the key No as false, whatever was meant; here they are texts.
    """

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """A mapping of a node."""
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if twice := [key for key in keys if keys.count(key) > 1]:
            raise yaml.MarkedYAMLError(
                problem=f"the key {twice[0]!r} stands twice", problem_mark=node.start_mark
            )
        for key, _ in node.value:  # names, such as those of classes
            if isinstance(key, yaml.ScalarNode) and key.tag in _TYPED:
                key.tag = "tag:yaml.org,2002:str"
        return super().construct_mapping(node, deep)


YamlLoader.yaml_implicit_resolvers = {
    sign: [(tag, pattern) for tag, pattern in resolvers if tag.rpartition(":")[2] not in ("int", "float")]
    for sign, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
YamlLoader.add_implicit_resolver(
    "tag:yaml.org,2002:int", re.compile(r"[-+]?(0|[1-9][0-9_]*|0x[0-9a-fA-F]+)$"), list("-+0123456789")
)
YamlLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"[-+]?(([0-9][0-9_]*\.[0-9_]*|\.[0-9]+)([eE][-+]?[0-9]+)?|\.(inf|Inf|INF))$|\.(nan|NaN|NAN)$"
    ),
    list("-+0123456789."),
)


def parse_yaml(text: str, where: str) -> Any:
    """A YAML value. Raises ValueError naming `where` for text that is not YAML."""
    try:
        return yaml.load(text, YamlLoader)  # a safe one
    except yaml.YAMLError as error:
        raise ValueError(f"{where}: is not valid YAML: {one_line(error)}") from error
    except RecursionError as error:
        raise ValueError(f"{where}: is nested too deeply for YAML") from error


def read_yaml_mapping(path: Path, kind: str) -> dict[str, Any]:
    """The mapping in a YAML file, or a .json one, as the record of a run.

    Raises ValueError naming `kind` and the file where there is none.
    """
    try:
        text = path.read_text(encoding="utf-8")
        content = parse_json(text) if path.suffix.lower() == ".json" else yaml.load(text, YamlLoader)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ValueError(f"cannot read {kind} {path}: {one_line(error)}") from error
    except RecursionError as error:
        raise ValueError(f"cannot read {kind} {path}: it is nested too deeply") from error
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


def is_disk_full(error: BaseException) -> bool:
    """Whether an error, or the one that it came from, says that the disk has no room."""
    causes = (error, error.__cause__)
    return any(isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT) for cause in causes)


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
        if first["type"] in ("tuple_type", "list_type"):
            reason = f"expected a list, as [a, b], got {str(first['input'])[:80]!r}"
        if first["type"] in ("string_type", "path_type") and first["input"] is None:
            reason = "is empty (null in YAML); expected a text"
        elif first["type"] in ("string_type", "path_type") and isinstance(first["input"], _NO_TEXT):
            reason += "; put it in quotation marks if it is a text"
    return f"{key}: {reason}{more}" if key else f"{reason}{more}"
