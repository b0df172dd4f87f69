"""Prompt sets: MSR-VTT's test captions, and one sentence for each class of UCF-101.

Neither data set is part of this package: MSR-VTT's list is made from the user's own json, UCF-101's from a
list of sentences of ours, `ucf_101_sentences.csv`, with a version that every result records. A prompt's seed
depends on its place in the whole list only, so that a part of a list gives the clips of the whole.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np

from latent_shift.data.caption_io import read_text, text_lines, text_of
from latent_shift.documents import parse_json
from latent_shift.io import one_line, warn

SENTENCES, SENTENCES_VERSION = "ucf_101_sentences.csv", 1
MSR_VTT_TEST_CLIPS = 2990
Captions = Literal["one", "all"]


@dataclass(frozen=True)
class Prompt:
    """A prompt. name: of its clip. seed: of the clip's noise."""

    name: str
    text: str
    seed: int


@dataclass(frozen=True)
class PromptSet:
    """Prompts with a name and settings, as results record them."""

    name: str
    prompts: tuple[Prompt, ...]
    settings: dict[str, Any]

    def digest(self) -> str:
        """Return 12 hexadecimal digits over every name, text and seed."""
        text = json.dumps([(one.name, one.text, one.seed) for one in self.prompts])
        return hashlib.sha256(text.encode()).hexdigest()[:12]


def msr_vtt(file: Path, *, captions: Captions = "one", limit: int | None = None, seed: int = 0) -> PromptSet:
    """Return the test captions of a `test_videodatainfo.json`, or its zip: one a clip, drawn, or all.

    seed: of which caption is drawn, and of the clips. limit: clips, drawn by the seed; None for all.
    Raises ValueError for a file of another kind, or a limit out of range.
    """
    by_video: dict[str, list[str]] = {}
    for video, text in _sentences(file):
        by_video.setdefault(video, []).append(text)
    videos = sorted(by_video, key=lambda name: (len(name), name))
    prompts = []
    for place, video in enumerate(videos):
        texts = by_video[video]
        drawn = int(np.random.default_rng([seed, place]).integers(len(texts)))
        for number in [drawn] if captions == "one" else range(len(texts)):
            suffix = "" if captions == "one" else f"-{number:02}"
            prompts.append((video + suffix, texts[number]))
    return _list("MSR-VTT", prompts, limit, seed, {"captions": captions, "videos": len(videos)})


def ucf_101(samples: int, *, classes: Path | None = None, seed: int = 0) -> PromptSet:
    """Return `samples` prompts, the classes one after the other and again: as even as the number allows.

    classes: a `classInd.txt` with the classes to take, in its order; all of ours where None. Raises
    ValueError for a class without a sentence, or for fewer than one sample.
    """
    if samples < 1:
        raise ValueError(f"samples is {samples}; give 1 or more (2,048 and 10,000 are usual)")
    known = ucf_101_sentences()
    names = list(known) if classes is None else _class_names(classes)
    for name in names:
        if name not in known:
            raise ValueError(f"{classes}: class {name!r} has no sentence in {SENTENCES}")
    prompts = [
        (f"{names[number % len(names)]}-{number // len(names):05}", known[names[number % len(names)]])
        for number in range(samples)
    ]
    settings = {"sentences": f"{SENTENCES} version {SENTENCES_VERSION}", "classes": len(names)}
    return _list("UCF-101", prompts, None, seed, settings)


def ucf_101_sentences() -> dict[str, str]:
    """The sentence of each class, in the order of the data set's own list."""
    text = files("latent_shift").joinpath("assets", SENTENCES).read_text(encoding="utf-8")
    return {row["class"]: row["sentence"] for row in csv.DictReader(io.StringIO(text))}


def _list(
    name: str, prompts: Sequence[tuple[str, str]], limit: int | None, seed: int, settings: dict[str, Any]
) -> PromptSet:
    chosen = range(len(prompts))
    if limit is not None:
        if not 1 <= limit <= len(prompts):
            raise ValueError(f"{limit} prompts of {name}: give 1 to {len(prompts)}")
        drawn = np.random.default_rng(seed).permutation(len(prompts))[:limit]
        chosen = sorted(int(number) for number in drawn)  # type: ignore[assignment]
    kept = tuple(Prompt(*prompts[place], seed=seed + place) for place in chosen)
    return PromptSet(name, kept, {"protocol": name, **settings, "prompts": len(kept), "seed": seed})


def _sentences(file: Path) -> list[tuple[str, str]]:
    """(video, caption) of the test split, in the file's order."""
    try:
        found = parse_json(_json_text(file))
        test = {video["video_id"] for video in found["videos"] if video["split"] == "test"}
        sentences = [(one["video_id"], one["caption"].strip()) for one in found["sentences"]]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{file}: is no list of MSR-VTT captions ({type(error).__name__}: {error});"
            " expected test_videodatainfo.json or its zip"
        ) from error
    kept = [(video, text) for video, text in sentences if video in test and text]
    if not kept:
        raise ValueError(f"{file}: holds no caption of the test split")
    return kept


def _json_text(file: Path) -> str:
    if not file.is_file():
        raise ValueError("there is no such file")
    if not zipfile.is_zipfile(file):
        text, guesses = read_text(file)
    else:
        name, data = _only_json(file)
        text, guesses = text_of(data, name)
    for guess in guesses:
        warn(guess)
    return text


def _only_json(file: Path) -> tuple[str, bytes]:
    """Name and content of the json file in a zip, in which names that begin with a dot do not count."""
    try:
        with zipfile.ZipFile(file) as archive:
            paths = [PurePosixPath(name) for name in archive.namelist()]
            shown = [path for path in paths if not any(part.startswith(".") for part in path.parts)]
            names = [str(path) for path in shown if path.suffix.lower() == ".json"]
            if len(names) != 1:
                raise ValueError(f"the zip holds {len(names)} json files")
            return names[0], archive.read(names[0])
    # Of a damaged one, one with a password, and one of a method that Python does not know.
    except (zipfile.BadZipFile, RuntimeError, NotImplementedError, zlib.error, OSError, EOFError) as error:
        raise ValueError(f"the zip cannot be read: {one_line(error)}") from error


def _class_names(file: Path) -> list[str]:
    """The classes of a classInd.txt: a number and a name a line."""
    if not file.is_file():
        raise ValueError(f"{file}: there is no such list of classes")
    lines = [line.split() for line in text_lines(read_text(file)[0]) if line.strip()]
    if not lines or any(len(line) != 2 or not line[0].isdigit() for line in lines):
        raise ValueError(f"{file}: expected lines of a number and a class, as in UCF-101's classInd.txt")
    return [name for _, name in lines]
