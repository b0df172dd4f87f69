"""From prompts to clips: requests, the files they go to, and running them in batches on any system.

Used by the command, the server, evaluation and benchmark. Everything that can be wrong about a request is
found before a model is loaded.

    requests = [parse_request(prompt="a red circle", seed=1)]
    jobs = plan_jobs(requests, systems.inspect(name), count=2, output="out/")
    for job, made in zip(jobs, run(systems.load(name), [job.request for job in jobs])):
        media.write_clip(job.file, made.clip, made.request.fps)   # or run_in_parts, and made.parts
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count as counted
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, ValidationError

from latent_shift import __version__
from latent_shift.data.caption_io import check_sentences, text_lines, text_of
from latent_shift.documents import parse_json
from latent_shift.io import at_home, check_no_address, printable, warn
from latent_shift.limits import MAX_SEED
from latent_shift.systems.base import (
    GenerationRequest,
    RequestDefaults,
    SettledRequest,
    SystemInfo,
    TextToVideoSystem,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SUFFIXES = (".mp4", ".gif", ".webp", ".png")
_SLUG_LENGTH = 48  # characters; at most 4 bytes each, within the 255 bytes of a file name
# Eight clips of the built-in model: beyond four a batch saves nothing on a CPU (0.47, 0.40, 0.37, 0.37, 0.38
# core-seconds a clip of four steps in batches of 1, 2, 4, 8, 16), and all but small clips run one by one.
_BATCH_PIXELS = 8 * 16 * 64 * 64
_LONG_CLIP = 64  # frames; longer ones are written part by part
# torch's CPU convolutions take other kernels below 16 images: a clip's last bits would then depend on
# how many others are made with it.
_SAME_KERNELS = 16
_FORECAST = "forecast"  # of a system's settings, where steps are forecast


class FileRequest(GenerationRequest):
    """A request with a file or folder of its own: a line of a .jsonl file."""

    output: str | None = Field(None, min_length=1, pattern=r"^[^\x00]*$")


@dataclass(frozen=True)
class ClipJob:
    """One clip to make and the file to write."""

    request: SettledRequest
    file: Path


@dataclass(frozen=True)
class GeneratedClip:
    """A clip (F, H, W, 3) uint8 and its request. seconds: its batch's time divided by the batch's clips."""

    clip: NDArray[np.uint8]
    request: SettledRequest
    seconds: float


@dataclass
class StreamedClip:
    """A clip under way: its parts (n, H, W, 3) uint8 in order, to be read once.

    seconds: until its last part was read; 0 before.
    """

    parts: Iterator[NDArray[np.uint8]]
    request: SettledRequest
    seconds: float = 0.0


def run(
    system: TextToVideoSystem,
    requests: Sequence[GenerationRequest],
    *,
    max_batch: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Iterator[GeneratedClip]:
    """Generate clips, one a request, in the order of the requests.

    Consecutive requests of one shape make a batch; its clips are yielded before the next batch begins.

    Args:
        system: loaded.
        requests: what they leave open is settled by the system's defaults.
        max_batch: clips made together, at least 1; None: as many as have 524,288 pixels in all, and one where
            on a CPU more would change a clip's last bits. One where steps are forecast, whatever is given.
        on_progress: called after each denoising step of a batch with the steps done and all steps, both
            summed over clips; an exception that it raises ends the run.

    Raises:
        ValueError: for a `max_batch` below 1, and a request that the system cannot meet; before any work
            where its defaults tell.
    """
    if max_batch is not None and max_batch < 1:
        raise ValueError(f"max_batch is {max_batch}; give 1 or more")
    info = system.info()
    settled = [info.defaults.settle(request) for request in requests]
    total = sum(request.steps for request in settled)
    done = 0
    for batch in _batches(settled, max_batch, info):
        steps = sum(request.steps for request in batch)

        def step_ended(step: int, of: int, before: int = done, steps: int = steps) -> None:
            if on_progress is not None:
                on_progress(before + steps * step // of, total)

        began = time.perf_counter()
        clips = system.generate(batch, step_ended)
        seconds = round((time.perf_counter() - began) / len(batch), 3)
        done += steps
        for request, clip in zip(batch, clips, strict=True):
            yield GeneratedClip(clip, request, seconds)


def run_in_parts(
    system: TextToVideoSystem,
    requests: Sequence[GenerationRequest],
    *,
    on_progress: Callable[[int, int], None] | None = None,
) -> Iterator[StreamedClip]:
    """Generate clips, one a request, in their order, of which long ones come part by part.

    The parts of a clip have to be read before the next clip is taken. system, requests, on_progress and
    errors: as in `run`.
    """
    defaults = system.info().defaults
    settled = [defaults.settle(request) for request in requests]
    total, done = sum(request.steps for request in settled), 0

    def steps_ended(steps: int, of: int) -> None:
        if on_progress is not None:
            on_progress(done + steps, total)

    for is_long, group in groupby(settled, key=lambda request: request.frames > _LONG_CLIP):
        alike = list(group)
        if is_long:
            for request in alike:
                streamed = StreamedClip(iter(()), request)
                streamed.parts = _timed(system.stream(request, steps_ended), streamed)
                yield streamed
                done += request.steps
        else:
            for made in run(system, alike, on_progress=steps_ended):
                yield StreamedClip(iter([made.clip]), made.request, made.seconds)
            done += sum(request.steps for request in alike)


def _timed(parts: Iterator[NDArray[np.uint8]], clip: StreamedClip) -> Iterator[NDArray[np.uint8]]:
    began = time.perf_counter()
    yield from parts
    clip.seconds = round(time.perf_counter() - began, 3)


def clip_settings(made: GeneratedClip | StreamedClip, model: str, info: SystemInfo) -> dict[str, Any]:
    """All that decides a clip, to be embedded in its file. model: the name that it was loaded by."""
    facts = {"model": model, "weights": info.weights, "dtype": info.dtype, "device": info.device}
    return {**made.request.model_dump(), **info.settings, **facts, "version": __version__}


def _batches(
    requests: Sequence[SettledRequest], max_batch: int | None, info: SystemInfo
) -> Iterator[list[SettledRequest]]:
    for _, group in groupby(requests, key=lambda request: request.shape):
        alike = list(group)
        size = default_batch(alike[0], info) if max_batch is None or _FORECAST in info.settings else max_batch
        yield from (alike[start : start + size] for start in range(0, len(alike), size))


def default_batch(request: SettledRequest, info: SystemInfo) -> int:
    """Number of clips like this one that `run` makes together where it is not given. info: of the system."""
    if _FORECAST in info.settings:  # a step is forecast for all clips of a call or for none
        return 1
    if info.device == "cpu":
        everywhere = request.guidance > 1 and "guidance_interval" not in info.settings
        in_blocks = request.frames > 2 * max(_SAME_KERNELS, info.defaults.frames)  # the last ones are small
        images = min(request.frames, info.fewest_frames or request.frames) * (2 if everywhere else 1)
        if images < _SAME_KERNELS or in_blocks:
            return 1
    return max(1, _BATCH_PIXELS // (request.frames * request.height * request.width))


def parse_request(**values: Any) -> FileRequest:
    """A request from options of the command line. Raises ValueError naming the option."""
    try:
        return FileRequest(**values)
    except ValidationError as error:
        raise ValueError(_explain(error, option="--")) from error


def read_prompts(file: Path) -> list[dict[str, Any]]:
    """The checked values of each prompt in a file: .txt has one prompt a line, .jsonl one object.

    Empty lines, and those of a .txt that begin with #, are skipped. Warns where the encoding is a guess.
    Raises ValueError naming file and line.
    """
    if file.suffix.lower() not in (".txt", ".jsonl"):
        raise ValueError(f"--prompts {file}: expected a .txt or .jsonl file")
    try:
        text, guesses = text_of(file.read_bytes(), str(file))
    except OSError as error:
        raise ValueError(f"--prompts {file}: {error.strerror}") from error
    except ValueError as error:
        raise ValueError(f"--prompts {error}") from error
    for guess in guesses:
        warn(f"--prompts {guess}")
    numbered = [(number, line.strip()) for number, line in enumerate(text_lines(text), 1) if line.strip()]
    if file.suffix.lower() == ".jsonl":
        found = [_parse_jsonl(f"{file} line {number}", line) for number, line in numbered]
    else:
        objects = [number for number, line in numbered if line.startswith("{") and _is_object(line)]
        if objects:
            mend = f"name the file {file.stem}.jsonl, or it would be taken for a prompt"
            raise ValueError(f"--prompts {file} line {objects[0]}: is a JSON object: {mend}")
        check_sentences(text, f"--prompts {file}")
        found = [{"prompt": line} for _, line in numbered if not line.startswith("#")]
    if not found:
        raise ValueError(f"--prompts {file}: holds no prompt")
    return found


def _is_object(line: str) -> bool:
    try:
        return isinstance(parse_json(line), dict)
    except ValueError:
        return False


def _parse_jsonl(where: str, line: str) -> dict[str, Any]:
    try:
        values = parse_json(line)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{where}: expected a JSON object with a prompt")
    try:
        FileRequest(**values)
    except ValidationError as error:
        raise ValueError(f"{where}: {_explain(error)}") from error
    return values


def _explain(error: ValidationError, option: str = "") -> str:
    """The first thing wrong, in one line: name, value, what was expected."""
    first = error.errors()[0]
    name = str(first["loc"][0])
    if first["type"] == "extra_forbidden":
        return f"unknown key {name!r}; known are {', '.join(FileRequest.model_fields)}"
    if first["type"] == "missing":
        return f"has no {name}"
    if first["type"] == "string_unicode":
        return f"the {name} {printable(first['input'])!r} is no text that UTF-8 can hold"
    if name == "prompt":
        return "the prompt is empty" if isinstance(first["input"], str) else "the prompt must be text"
    return f"{option}{name} {first['input']!r}: {first['msg'].removeprefix('Input ')}"


def plan_jobs(
    requests: Sequence[FileRequest],
    defaults: RequestDefaults,
    *,
    count: int,
    output: str,
    clip_suffix: str = ".mp4",
) -> list[ClipJob]:
    """All clips to make, in order; values that requests leave open are the model's `defaults`.

    count: clips a request, with the seeds seed, seed + 1, ... output: a file for one clip, or a folder.
    clip_suffix: of clips in a folder that name no file.
    Raises ValueError for outputs that do not fit, and requests that the model cannot meet. Warns
    (UserWarning) about words of a prompt that the model knows and was not trained on.
    """
    from latent_shift.prompts import warn_of_untrained

    jobs: list[ClipJob] = []
    taken: set[str] = set()  # absolute paths: a.mp4 and b/../a.mp4 are one file
    for request in requests:
        first = defaults.settle(request, option="--")
        warn_of_untrained(first.prompt, defaults.untrained_words)
        if first.seed + count - 1 > MAX_SEED:
            raise ValueError(f"--seed {first.seed}: with --count {count} it exceeds {MAX_SEED}")
        folder, file = _target(output, request.output, several=len(requests) * count > 1, count=count)
        suffix = ".png" if first.frames == 1 else clip_suffix
        for seed in range(first.seed, first.seed + count):
            path = file or _free(folder / f"{slug(first.prompt)}-{seed}{suffix}", taken)
            if (one := _place(path)) in taken:
                raise ValueError(f"{path}: two clips would be written to it; give each its own output")
            taken.add(one)
            jobs.append(ClipJob(first.model_copy(update={"seed": seed}), path))
    for job in jobs:
        if inside := next((folder for folder in job.file.parents if _place(folder) in taken), None):
            raise ValueError(f"{job.file}: {inside} is a clip of its own, and no folder; name another")
    return jobs


def _target(base: str, own: str | None, *, several: bool, count: int) -> tuple[Path, Path | None]:
    """(folder, file or None): a request's own output lies in the output folder, or anywhere if absolute."""
    if own is None:
        if not is_file_output(base):
            return Path(base), None
        if several:
            raise ValueError(f"-o {base}: names one file, but several clips would be made; name a folder")
        return Path(base).parent, Path(base)
    if is_file_output(base):
        raise ValueError(f"-o {base}: name a folder, since a prompt has its own output {own!r}")
    check_no_address(own)
    if not own.strip():
        raise ValueError(f"output {own!r}: is empty; name a file or folder, or leave it out")
    path = Path(base) / at_home(own)
    if not is_file_output(own):
        return path, None
    if count > 1:
        raise ValueError(f"output {own!r}: names one file, but --count {count} clips would be made")
    return path.parent, path


def is_file_output(output: str) -> bool:
    """Whether an output names a file, not a folder. Raises ValueError for a suffix that cannot be written."""
    path = Path(output)
    if path.name.lower() in SUFFIXES:
        raise ValueError(f"{path}: is a suffix without a name before it, as where a name was empty")
    if output.endswith("/") or not path.suffix or path.is_dir():
        return False
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(
            f"{path}: unknown suffix {path.suffix!r}; expected {' '.join(SUFFIXES)}, or a folder, as {path}/"
        )
    return True


def slug(prompt: str) -> str:
    """A file name made of a prompt's words."""
    return "-".join(re.findall(r"\w+", prompt.lower()))[:_SLUG_LENGTH].rstrip("-") or "clip"


def _free(path: Path, taken: set[str]) -> Path:
    """The path, or with -2, -3, ... where this run already has one of that name."""
    if _place(path) not in taken:
        return path
    numbered = (path.with_stem(f"{path.stem}-{number}") for number in counted(2))
    return next(candidate for candidate in numbered if _place(candidate) not in taken)


def _place(path: Path) -> str:
    """Place of a file, by whatever links its folder is named."""
    return os.path.join(os.path.realpath(path.parent), path.name)
