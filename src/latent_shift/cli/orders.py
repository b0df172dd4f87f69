"""Which clips to make and where to write them: prompts, prompt files, seeds, counts and names, all checked.

An `Order` is one clip. Everything that can be wrong about one is told here, before a model is loaded. Not the
sampling (that is the pipeline) and not the writing (that is `media`). Used by `generate` alone.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from latent_shift.limits import MAX_FRAMES

SUFFIXES = (".mp4", ".gif", ".webp", ".png")
MAX_SEED = 2**63 - 1
_SLUG_LENGTH = 48  # characters; at most 4 bytes each, within the 255 bytes of a file name


class Wish(BaseModel):
    """One prompt and what was asked for it: a line of a .jsonl file, or an argument with the options."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    prompt: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
    seed: int | None = Field(None, ge=0, le=MAX_SEED)
    frames: int | None = Field(None, ge=1, le=MAX_FRAMES)
    steps: int | None = Field(None, ge=1, le=1000)
    guidance: float | None = Field(None, ge=0, le=100, allow_inf_nan=False)
    negative: str | None = None
    output: str | None = Field(None, min_length=1)


@dataclass(frozen=True)
class Order:
    """One clip to make, every value settled, and the file to write."""

    prompt: str
    negative: str | None
    seed: int
    frames: int
    steps: int
    guidance: float
    file: Path


def make_wish(**values: Any) -> Wish:
    """A wish from options of the command line; ValueError naming the option."""
    try:
        return Wish(**values)
    except ValidationError as error:
        raise ValueError(_explain(error, option="--")) from error


def read_prompts(file: Path) -> list[dict[str, Any]]:
    """The checked values of each prompt in a file: .txt has one prompt a line, .jsonl one object.

    Empty lines, and those of a .txt that begin with #, are skipped. Raises ValueError naming file and line.
    """
    if file.suffix.lower() not in (".txt", ".jsonl"):
        raise ValueError(f"--prompts {file}: expected a .txt or .jsonl file")
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"--prompts {file}: is not UTF-8 text ({error})") from error
    except OSError as error:
        raise ValueError(f"--prompts {file}: {error.strerror}") from error
    parse = _parse_jsonl if file.suffix.lower() == ".jsonl" else _parse_txt
    numbered = [(f"{file} line {number}", line) for number, line in enumerate(lines, 1) if line.strip()]
    found = [values for where, line in numbered if (values := parse(where, line)) is not None]
    if not found:
        raise ValueError(f"--prompts {file}: holds no prompt")
    return found


def _parse_txt(where: str, line: str) -> dict[str, Any] | None:
    return None if line.lstrip().startswith("#") else {"prompt": line.strip()}


def _parse_jsonl(where: str, line: str) -> dict[str, Any]:
    try:
        values = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{where}: expected a JSON object with a prompt")
    try:
        Wish(**values)
    except ValidationError as error:
        raise ValueError(f"{where}: {_explain(error)}") from error
    return values


def _explain(error: ValidationError, option: str = "") -> str:
    """The first thing wrong, in one line: name, value, what was expected."""
    first = error.errors()[0]
    name = str(first["loc"][0])
    if first["type"] == "extra_forbidden":
        return f"unknown key {name!r}; known are {', '.join(Wish.model_fields)}"
    if first["type"] == "missing":
        return f"has no {name}"
    if name == "prompt":
        return "the prompt is empty" if isinstance(first["input"], str) else "the prompt must be text"
    return f"{option}{name} {first['input']!r}: {first['msg'].removeprefix('Input ')}"


def plan(wishes: list[Wish], *, count: int, output: str, defaults: dict[str, Any]) -> list[Order]:
    """All clips to make, in order.

    Each wish makes `count` clips with the seeds seed, seed + 1, ...: a clip never depends on what else is
    made beside it. A seed that was not given is drawn. `output` is a file for one clip, or a folder;
    `defaults` has the model's frames, steps and guidance. Raises ValueError for outputs that do not fit.
    """
    orders: list[Order] = []
    taken: set[Path] = set()
    for wish in wishes:
        asked = {name: value for name, value in wish.model_dump().items() if value is not None}
        values = defaults | {name: asked[name] for name in ("frames", "steps", "guidance") if name in asked}
        first = secrets.randbelow(2**31) if wish.seed is None else wish.seed
        if first + count - 1 > MAX_SEED:
            raise ValueError(f"--seed {first}: with --count {count} it exceeds {MAX_SEED}")
        folder, file = _target(output, wish.output, several=len(wishes) * count > 1, count=count)
        suffix = ".png" if values["frames"] == 1 else ".mp4"
        for seed in range(first, first + count):
            path = file or _free(folder / f"{slug(wish.prompt)}-{seed}{suffix}", taken)
            if path in taken:
                raise ValueError(f"{path}: two clips would be written to it; give each its own output")
            taken.add(path)
            orders.append(Order(wish.prompt, wish.negative, seed, file=path, **values))
    return orders


def _target(base: str, own: str | None, *, several: bool, count: int) -> tuple[Path, Path | None]:
    """(folder, file or None): the wish's own output lies in the output folder, or anywhere if absolute."""
    if own is None:
        if not names_file(base):
            return Path(base), None
        if several:
            raise ValueError(f"-o {base}: names one file, but several clips would be made; name a folder")
        return Path(base).parent, Path(base)
    if names_file(base):
        raise ValueError(f"-o {base}: name a folder, since a prompt has its own output {own!r}")
    path = Path(base) / own
    if not names_file(own):
        return path, None
    if count > 1:
        raise ValueError(f"output {own!r}: names one file, but --count {count} clips would be made")
    return path.parent, path


def names_file(output: str) -> bool:
    """Whether an output is a file's name, not a folder's; ValueError for a suffix that cannot be written."""
    path = Path(output)
    if output.endswith("/") or not path.suffix or path.is_dir():
        return False
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(
            f"{path}: unknown suffix {path.suffix!r}; expected {' '.join(SUFFIXES)}, or a folder"
        )
    return True


def slug(prompt: str) -> str:
    """A file name made of a prompt's words."""
    return "-".join(re.findall(r"\w+", prompt.lower()))[:_SLUG_LENGTH].rstrip("-") or "clip"


def _free(path: Path, taken: set[Path]) -> Path:
    """The path, or with -2, -3, ... where this run already has one of that name."""
    return next(candidate for candidate in _numbered(path) if candidate not in taken)


def _numbered(path: Path) -> Iterator[Path]:
    yield path
    number = 2
    while True:
        yield path.with_stem(f"{path.stem}-{number}")
        number += 1
