"""Sources of a study's clips: folders of files, and models that make them.

A file of a folder belongs to a prompt by the first of these that it has: the line of the prompts' file that
names it as `output`; the prompt embedded in it (`latent-shift generate` writes it); the caption file beside
it; its name, which is the prompt's words joined by hyphens, with or without a seed at the end.

Shapes: F frames, H, W pixels, uint8 (F, H, W, 3).
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from latent_shift import generation, systems
from latent_shift.checkpoints.quiet import quiet_libraries
from latent_shift.data.caption_io import CaptionFiles, read_captions, single_blanks
from latent_shift.evaluation.clip_files import ClipReadOptions, Frames, list_clips, read_frames
from latent_shift.folders import list_files
from latent_shift.io import warn
from latent_shift.media import open_clip, probe, read_clip, read_settings
from latent_shift.systems.base import SYSTEM_FILE, GenerationRequest, SettledRequest

MODEL_FILES = (SYSTEM_FILE, "model_index.json")  # a folder with one of them is a model
_LISTED = 3  # names in a message


@dataclass(frozen=True)
class ReadOptions:
    """Choice of frames of each clip.

    frames: the first so many; None takes all. fps: frames a second that are taken of a file, or made by a
    model; None takes a file's own frames and a model's own rate.
    """

    frames: int | None = None
    fps: float | None = None

    def __post_init__(self) -> None:
        if self.fps is not None and self.frames is None:
            raise ValueError(f"fps is {self.fps:g}: say how many frames to take, too (--frames N)")


@dataclass(frozen=True)
class SourceClip:
    """A clip as its source has it. origin: its file, or the model's name, for messages."""

    prompt: int
    frames: Frames
    fps: float
    origin: str


class ClipsOf(Protocol):
    """A source: a name, how its clips came about, the prompts that it has clips of, and the clips."""

    name: str
    made_by: str
    prompts: frozenset[int]

    def read(self, prompts: Sequence[int]) -> Iterator[SourceClip]:
        """Yield the clips of these prompts. Raises ValueError naming a clip that cannot be used."""
        ...


class Folder:
    """A folder's clips. Raises ValueError for none that fits a prompt, and for two of one prompt."""

    def __init__(self, name: str, folder: Path, prompts: Sequence[dict[str, Any]], read: ReadOptions) -> None:
        self.name, self.made_by, self._read = name, f"folder {folder}", read
        clips = list_clips(folder)
        find = _Finder(prompts, folder)
        self._files: dict[int, Path] = {}
        unknown: list[Path] = []
        for file in clips:
            prompt = find(file)
            if prompt is None:
                unknown.append(file)
                continue
            if prompt in self._files:
                text, both = prompts[prompt]["prompt"], f"{self._files[prompt].name} and {file.name}"
                raise ValueError(f"{folder}: two clips of the prompt {text!r}, {both}; keep one")
            self._files[prompt] = file
        if not self._files:
            raise ValueError(
                f"{folder}: none of its {len(clips)} clips belongs to a prompt, as {clips[0].name} does not;"
                " name files as `latent-shift generate` does, put captions beside them, or name them as"
                ' "output" in a .jsonl of prompts'
            )
        if unknown:
            listed = ", ".join(file.name for file in unknown[:_LISTED])
            warn(f"{folder}: {len(unknown)} clips belong to none of the prompts and are left out: {listed}")
        self.prompts = frozenset(self._files)

    def read(self, prompts: Sequence[int]) -> Iterator[SourceClip]:
        """Yield the clips of these prompts."""
        for prompt in prompts:
            yield self._clip(prompt, self._files[prompt])

    def _clip(self, prompt: int, file: Path) -> SourceClip:
        wanted, rate = self._read.frames, self._read.fps
        if wanted is None:
            frames, fps = read_clip(file)
            if not _even(file, frames, fps):
                warn(
                    f"{file}: its frames come at uneven times, and are shown evenly, {fps:.3g} a second;"
                    " --frames N --fps F takes them by their times"
                )
        else:
            frames, fps = read_frames(file, ClipReadOptions(wanted, rate)), rate or probe(file).fps
        return SourceClip(prompt, frames, fps, str(file))


def _even(file: Path, frames: Frames, fps: float) -> bool:
    """Whether a clip's frames are those that it has at even times."""
    with open_clip(file) as clip:
        try:
            return np.array_equal(clip.frames([number / fps for number in range(len(frames))]), frames)
        except ValueError:  # ends before the last of these times
            return False


class _Finder:
    """Finds the prompt that a file of a folder belongs to; None for none."""

    def __init__(self, prompts: Sequence[dict[str, Any]], folder: Path) -> None:
        self._folder, self._captions = folder, CaptionFiles(list_files(folder).files)
        self._texts = {normal(values["prompt"]): number for number, values in enumerate(prompts)}
        self._outputs = {
            Path(values["output"]).with_suffix("").as_posix(): number
            for number, values in enumerate(prompts)
            if values.get("output")
        }
        slugs: dict[str, list[int]] = {}
        for number, values in enumerate(prompts):
            slugs.setdefault(_slug(values["prompt"]), []).append(number)
        self._slugs = slugs

    def __call__(self, file: Path) -> int | None:
        name = file.relative_to(self._folder).with_suffix("").as_posix()
        if name in self._outputs:
            return self._outputs[name]
        try:
            embedded = read_settings(file).get("prompt")
        except ValueError:  # made by others
            embedded = None
        if isinstance(embedded, str):
            return self._texts.get(normal(embedded))
        if (beside := self._captions.of(file)) is not None:
            lines, _ = read_captions(beside)
            return next((self._texts[text] for text in map(normal, lines) if text in self._texts), None)
        for stem in (file.stem, re.sub(r"-\d+$", "", file.stem)):
            if fitting := self._slugs.get(_slug(stem)):
                if len(fitting) > 1:
                    raise ValueError(
                        f"{file}: its name fits {len(fitting)} prompts, which begin with the same words;"
                        ' put a caption file beside it, or name it as "output" in a .jsonl of prompts'
                    )
                return fitting[0]
        return None


def _slug(text: str) -> str:
    """A name made of words, of which accents may be written in two ways and only the beginning counts."""
    return generation.slug(unicodedata.normalize("NFC", text))


class Model:
    """A model's clips, made when they are read. Raises ValueError for requests that it cannot meet.

    options: device and dtype of `systems.load`. seed: of the first prompt's clip where its line names none;
    the next prompt's is one higher, so that all models get the same seeds.
    """

    def __init__(
        self,
        name: str,
        model: str,
        prompts: Sequence[dict[str, Any]],
        read: ReadOptions,
        seed: int,
        options: dict[str, str],
        on_progress: Callable[[str, int, int], None],
    ) -> None:
        self.name, self._model, self._options, self._progress = name, model, options, on_progress
        quiet_libraries()
        defaults = systems.inspect(model)
        self._requests: list[SettledRequest] = []
        for number, values in enumerate(prompts):
            given = {key: value for key, value in values.items() if key != "output" and value is not None}
            wanted = {"frames": read.frames, "fps": read.fps}
            given |= {key: value for key, value in wanted.items() if value is not None}
            request = GenerationRequest(**{"seed": seed + number, **given})
            self._requests.append(defaults.settle(request, option="--"))
        first = self._requests[0].model_dump(
            include={"frames", "fps", "steps", "guidance", "height", "width"}
        )
        self.made_by = f"model {model}, {json.dumps(first)}"
        self.prompts = frozenset(range(len(prompts)))

    def read(self, prompts: Sequence[int]) -> Iterator[SourceClip]:
        """Load the model, and yield its clips of these prompts."""
        system = systems.load(self._model, **self._options)
        requests = [self._requests[prompt] for prompt in prompts]

        def show(done: int, total: int) -> None:
            self._progress(self.name, done, total)

        for prompt, made in zip(prompts, generation.run(system, requests, on_progress=show), strict=True):
            yield SourceClip(prompt, made.clip, made.request.fps, f"model {self._model}")


def open_sources(
    named: Sequence[str],
    prompts: Sequence[dict[str, Any]],
    read: ReadOptions,
    *,
    seed: int = 0,
    options: dict[str, str] | None = None,
    on_progress: Callable[[str, int, int], None] = lambda name, done, total: None,
) -> list[ClipsOf]:
    """Open two or more sources, checking all that can be checked without reading clips or weights.

    Args:
        named: a folder of clips, or a model as of `systems.load`; "NAME=" before it gives it a name.
        prompts: as of `generation.read_prompts`.
        read: which frames are taken.
        seed: of models' clips.
        options: device and dtype of models.
        on_progress: called with a model's name, steps done and all steps.

    Raises:
        ValueError: for fewer than two, for a name that stands twice, and for what a source raises.
    """
    if len(named) < 2:
        raise ValueError(f"{len(named)} sources of clips: give two or more folders or models to compare")
    parts = [_name_of(one) for one in named]
    names = [name for name, _ in parts]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(
                f"two sources are called {name!r}; name them: NAME={parts[names.index(name)][1]}"
            )
    opened: list[ClipsOf] = []
    for name, place in parts:
        path = Path(place)
        if path.is_dir() and not any((path / file).is_file() for file in MODEL_FILES):
            opened.append(Folder(name, path, prompts, read))
        else:
            opened.append(Model(name, place, prompts, read, seed, options or {}, on_progress))
    return opened


def check_prompts(prompts: Sequence[dict[str, Any]]) -> None:
    """Raise ValueError for a prompt that stands twice."""
    seen: set[str] = set()
    for text in (normal(values["prompt"]) for values in prompts):
        if text in seen:
            raise ValueError(f"the prompt {text!r} stands twice; a study takes each once")
        seen.add(text)


def common_prompts(sources: Sequence[ClipsOf], total: int, least: int) -> list[int]:
    """Return the prompts of which every source has a clip; warn of others.

    Raises ValueError where there are fewer than `least`. total: number of prompts.
    """
    common = sorted(frozenset.intersection(*(source.prompts for source in sources)))
    if len(common) < least:
        has = ", ".join(f"{source.name} {len(source.prompts)}" for source in sources)
        raise ValueError(
            f"{len(common)} of {total} prompts have a clip of every source; a study needs {least} or more"
            f" (clips that belong to a prompt: {has})"
        )
    if len(common) < total:
        warn(f"{total - len(common)} of {total} prompts are left out: not every source has a clip of them")
    return common


def normal(text: str) -> str:
    """Return a prompt with single blanks between words, as captions have them."""
    return single_blanks(text)


def _name_of(source: str) -> tuple[str, str]:
    """Return a source's name and its folder or model."""
    name, equals, rest = source.partition("=")
    if equals and name and rest and not Path(source).exists() and "/" not in name:
        return name, rest
    return Path(source.rstrip("/")).name or source, source
