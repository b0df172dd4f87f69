"""The clips of a folder, read alike: so many frames at one rate, of one size, and every bad file told first.

`survey` looks into each file's header and first frame before any work and says what cannot be used and why;
`read_clips` decodes one clip after the other. The order is that of the names, so that two runs read the same.

Shapes: F frames, H, W pixels, uint8 (F, H, W, 3).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from latent_shift.media import CLIP_SUFFIXES, IMAGE_SUFFIXES, open_clip, probe, read_clip

Frames = NDArray[np.uint8]
Fit = Literal["exact", "crop", "stretch"]
FITS: tuple[Fit, ...] = ("exact", "crop", "stretch")
SUFFIXES = (*CLIP_SUFFIXES, ".webp")  # animated webp is what this package writes without loss
_SLACK = 0.01  # of a frame rate
_NAMED = 5  # files in a message


class TooShortError(ValueError):
    """A sound clip that does not have the frames asked for."""


@dataclass(frozen=True)
class Reading:
    """How clips are read.

    frames: of each, from its beginning; 1 takes images, too. fps: None takes the clip's own frames one after
    the other. fit: "exact" refuses clips of different sizes, "crop" takes the middle square of each,
    "stretch" the whole frame whatever its shape.
    """

    frames: int = 16
    fps: float | None = None
    fit: Fit = "exact"

    def __post_init__(self) -> None:
        if self.frames < 1:
            raise ValueError(f"frames is {self.frames}; give 1 or more of each clip")
        if self.fps is not None and not 0.01 <= self.fps <= 1000:
            raise ValueError(
                f"fps is {self.fps}; give 0.01 to 1000 frames a second, or none for the clip's own"
            )
        if self.fit not in FITS:
            raise ValueError(f"fit is {self.fit!r}; expected one of {', '.join(FITS)}")

    def says_fps(self) -> str:
        """The rate as results tell it."""
        return "own" if self.fps is None else f"{self.fps:g}"


@dataclass
class Survey:
    """What a folder holds: clips to use, in order of their names, and others with the reason why not."""

    folder: Path
    clips: list[Path] = field(default_factory=list)
    unreadable: dict[str, str] = field(default_factory=dict)
    short: dict[str, str] = field(default_factory=dict)
    sizes: dict[tuple[int, int], str] = field(default_factory=dict)  # (height, width), and one file of it

    def name(self, clip: Path) -> str:
        """A clip's name, below the folder."""
        return clip.relative_to(self.folder).as_posix()


def survey(
    folder: Path, reading: Reading, *, allow_unreadable: bool = False, allow_short: bool = False
) -> Survey:
    """What of a folder, and the folders below, can be read as asked; without decoding it.

    Raises ValueError for a folder that is missing or holds no clip, for unreadable files and short clips
    unless allowed (they are left out, and told in the survey), and for different sizes with fit "exact".
    """
    found = Survey(folder)
    for file in list_clips(folder, images=reading.frames == 1):
        name = found.name(file)
        try:
            size = _check(file, reading)
        except TooShortError as error:
            found.short[name] = str(error)
        except ValueError as error:
            found.unreadable[name] = str(error)
        else:
            found.clips.append(file)
            found.sizes.setdefault(size, name)
    _refuse(found.unreadable, folder, "cannot be read", "--allow-unreadable", allow_unreadable)
    _refuse(found.short, folder, "are too short", "--allow-short", allow_short)
    if not found.clips:
        raise ValueError(f"{folder}: holds no clip that can be used ({len(found.short)} are too short)")
    if reading.fit == "exact" and len(found.sizes) > 1:
        sizes = "; ".join(f"{w} x {h} ({name})" for (h, w), name in list(found.sizes.items())[:_NAMED])
        raise ValueError(
            f"{folder}: holds clips of {len(found.sizes)} sizes: {sizes}; say --fit crop (the middle square"
            " of each) or --fit stretch (the whole frame)"
        )
    return found


def list_clips(folder: Path, *, images: bool = False) -> list[Path]:
    """The clips (and images) in a folder and below, by name. Raises ValueError where there is none."""
    if not folder.is_dir():
        raise ValueError(f"{folder}: there is no such folder of clips")
    known = {*SUFFIXES, *(IMAGE_SUFFIXES if images else ())}
    files = [file for file in folder.rglob("*") if file.suffix.lower() in known and file.is_file()]
    files = [file for file in files if not file.name.startswith(".")]
    if not files:
        kinds = " ".join(SUFFIXES)
        raise ValueError(f"{folder}: is empty of clips; expected files of {kinds}")
    return sorted(files, key=lambda file: file.relative_to(folder).as_posix())


def read_one(file: Path, reading: Reading) -> Frames:
    """One clip (F, H, W, 3), its middle square with fit "crop".

    Raises TooShortError for too few frames, ValueError naming a file that cannot be read or is too slow.
    """
    if reading.fps is None:
        frames, _ = read_clip(file, max_frames=reading.frames)
        if len(frames) < reading.frames:
            raise TooShortError(f"{file}: has {len(frames)} frames, {reading.frames} are asked for")
    else:
        _check(file, reading)
        with open_clip(file) as clip:
            frames = clip.frames([number / reading.fps for number in range(reading.frames)])
    return middle_square(frames) if reading.fit == "crop" else frames


def middle_square(frames: Frames) -> Frames:
    """The largest square in the middle of frames (F, H, W, 3)."""
    _, height, width, _ = frames.shape
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return frames[:, top : top + side, left : left + side]


def caption_of(file: Path) -> str | None:
    """The first line of the .txt beside a clip; None where there is none."""
    text = file.with_suffix(".txt")
    lines = text.read_text(encoding="utf-8").split("\n") if text.is_file() else []
    return lines[0].strip() if lines and lines[0].strip() else None


def choose(clips: Sequence[Path], count: int | None, seed: int) -> list[Path]:
    """`count` of the clips (None: all), drawn by `seed`, in their order. ValueError where there are fewer."""
    if count is None:
        return list(clips)
    if not 1 <= count <= len(clips):
        raise ValueError(f"{count} clips are asked for, there are {len(clips)}; give 1 to {len(clips)}")
    chosen = np.random.default_rng(seed).permutation(len(clips))[:count]
    return [clips[number] for number in sorted(chosen)]


def in_batches(files: Sequence[Path], reading: Reading, batch: int) -> Iterator[tuple[list[Path], Frames]]:
    """The clips decoded, (B, F, H, W, 3) of one size: a batch ends early where the size changes."""
    held: list[tuple[Path, Frames]] = []
    for file in files:
        frames = read_one(file, reading)
        if held and (len(held) == batch or frames.shape != held[0][1].shape):
            yield _stacked(held)
            held = []
        held.append((file, frames))
    if held:
        yield _stacked(held)


def _stacked(held: list[tuple[Path, Frames]]) -> tuple[list[Path], Frames]:
    return [file for file, _ in held], np.stack([frames for _, frames in held])


def _check(file: Path, reading: Reading) -> tuple[int, int]:
    """A file's height and width, where its header promises the frames asked for."""
    facts = probe(file)
    if reading.fps is None:
        frames = facts.frames if facts.frames is not None else round(facts.duration * facts.fps)
        if facts.kind == "clip" and frames < reading.frames:
            raise TooShortError(f"{file}: has {frames} frames, {reading.frames} are asked for")
    elif reading.frames > 1:
        if facts.fps < reading.fps * (1 - _SLACK):
            raise TooShortError(f"{file}: has {facts.fps:g} frames a second, {reading.fps:g} are asked for")
        needed = (reading.frames - 1) / reading.fps
        if facts.last_time + 0.5 / facts.fps < needed:
            raise TooShortError(f"{file}: ends at {facts.duration:.2f} s, {needed:.2f} s are asked for")
    if facts.kind == "image" and reading.frames > 1:
        raise TooShortError(f"{file}: is a single image, {reading.frames} frames are asked for")
    return facts.height, facts.width


def _refuse(files: dict[str, str], folder: Path, what: str, option: str, allowed: bool) -> None:
    if files and not allowed:
        told = "; ".join(list(files.values())[:_NAMED])
        more = f"; and {len(files) - _NAMED} more" if len(files) > _NAMED else ""
        raise ValueError(f"{folder}: {len(files)} files {what}: {told}{more}; leave them out with {option}")
