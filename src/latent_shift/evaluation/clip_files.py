"""Clips in files: which of a folder can be used, and how each is read.

`scan_folder` looks into each file's header and first frame before any work and says what cannot be used and
why; `read_batches` decodes one clip after the other, in the order of their names, so that two runs read the
same.

Shapes: B clips, F frames, H, W pixels, uint8 (F, H, W, 3).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from latent_shift.data.caption_io import (
    CaptionFiles,
    is_caption_file,
    read_captions,
)
from latent_shift.folders import FileList, list_files, suffixes_of
from latent_shift.io import printable
from latent_shift.limits import MAX_FPS, MIN_FPS
from latent_shift.media import (
    CLIP_SUFFIXES,
    IMAGE_SUFFIXES,
    EndsEarlyError,
    kind_by_name,
    kind_of_file,
    open_clip,
    read_clip,
)

Frames = NDArray[np.uint8]
Fit = Literal["exact", "crop", "stretch"]
FITS: tuple[Fit, ...] = ("exact", "crop", "stretch")
SUFFIXES = (*CLIP_SUFFIXES, ".webp")  # animated webp is what this package writes without loss
_FPS_TOLERANCE = 0.01  # of a frame rate
_MAX_LISTED = 5  # files in a message


class TooShortError(ValueError):
    """A sound clip with fewer frames than requested."""


@dataclass(frozen=True)
class ClipReadOptions:
    """Options of reading clips.

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
        if self.fps is not None and not MIN_FPS <= self.fps <= MAX_FPS:
            raise ValueError(
                f"fps is {self.fps}; give {MIN_FPS:g} to {MAX_FPS:g} frames a second, or none for the clip's"
                " own"
            )
        if self.fit not in FITS:
            raise ValueError(f"fit is {self.fit!r}; expected one of {', '.join(FITS)}")

    def settings(self) -> dict[str, Any]:
        """Return the options as results record them; fps is "own" where the clip's own frames are taken."""
        return {
            "frames": self.frames,
            "fps": "own" if self.fps is None else f"{self.fps:g}",
            "fit": self.fit,
        }


@dataclass
class FolderScan:
    """Contents of a folder: clips to use, in order of their names, and others with the reason why not."""

    folder: Path
    clips: list[Path] = field(default_factory=list)
    unreadable: dict[str, str] = field(default_factory=dict)
    short: dict[str, str] = field(default_factory=dict)
    sizes: dict[tuple[int, int], str] = field(default_factory=dict)  # (height, width), and one file of it
    captions: dict[Path, str] = field(default_factory=dict)  # of the clips that have one
    remarks: list[str] = field(default_factory=list)  # on how frames are shown and captions were read

    def name(self, clip: Path) -> str:
        """Return a clip's name, below the folder."""
        return printable(clip.relative_to(self.folder).as_posix())


def scan_folder(
    folder: Path, read: ClipReadOptions, *, allow_unreadable: bool = False, allow_short: bool = False
) -> FolderScan:
    """Find the clips of a folder, and of the folders below, that can be read; without decoding them.

    Raises ValueError for a folder that is missing or holds no clip, for unreadable files without
    `allow_unreadable` and short clips without `allow_short` (with them these are left out, and listed in the
    result), and for different sizes with fit "exact".
    """
    found = FolderScan(folder)
    files, listed = _list(folder, images=read.frames == 1)
    texts = CaptionFiles(listed.files)
    for path, reason in listed.unreadable.items():
        if path.is_dir() or is_caption_file(path) or kind_by_name(path.name) is not None:
            found.unreadable[found.name(path)] = f"{path}: {reason}"
    captions = {file for file in listed.files if is_caption_file(file)}
    if others := sorted({*listed.files}.difference(files, captions)):
        found.remarks.append(f"{len(others)} files that hold no clip were left alone: {suffixes_of(others)}")
    for file in files:
        name, text = found.name(file), texts.of(file)
        try:
            size, remarks = _check(file, read)
            if text is not None:
                lines, guesses = read_captions(text)
                found.remarks += guesses
                if lines:
                    found.captions[file] = lines[0]
            found.remarks += [f"{name}: {remark}" for remark in remarks]
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
        left_out = f"{len(found.short)} are too short, {len(found.unreadable)} cannot be read"
        raise ValueError(f"{folder}: holds no clip that can be used ({left_out})")
    if read.fit == "exact" and len(found.sizes) > 1:
        sizes = "; ".join(f"{w} x {h} ({name})" for (h, w), name in list(found.sizes.items())[:_MAX_LISTED])
        raise ValueError(
            f"{folder}: holds clips of {len(found.sizes)} sizes: {sizes}; say --fit crop (the middle square"
            " of each) or --fit stretch (the whole frame)"
        )
    return found


def list_clips(folder: Path, *, images: bool = False) -> list[Path]:
    """List the clips (and images) in a folder and below, by name. Raises ValueError where there is none."""
    return _list(folder, images=images)[0]


def _list(folder: Path, *, images: bool) -> tuple[list[Path], FileList]:
    """List the clips of a folder, and all that lies in it."""
    if not folder.is_dir():
        raise ValueError(f"{folder}: there is no such folder of clips")
    listed = list_files(folder)
    known = {*SUFFIXES, *(IMAGE_SUFFIXES if images else ())}
    files = [file for file in listed.files if file.suffix.lower() in known or _moves(file)]
    if not files:
        kinds = " ".join(SUFFIXES)
        raise ValueError(f"{folder}: is empty of clips; expected files of {kinds}")
    return sorted(files, key=lambda file: file.relative_to(folder).as_posix()), listed


def _moves(file: Path) -> bool:
    """Whether a picture is a clip."""
    try:
        return kind_of_file(file) == "clip"
    except OSError:
        return False


def choose_clips(clips: Sequence[Path], count: int | None, seed: int) -> list[Path]:
    """Draw `count` clips (None: all) by `seed`, in their order. Raises ValueError for fewer."""
    if count is None:
        return list(clips)
    if not 1 <= count <= len(clips):
        raise ValueError(f"{count} clips are requested, there are {len(clips)}; give 1 to {len(clips)}")
    chosen = np.random.default_rng(seed).permutation(len(clips))[:count]
    return [clips[number] for number in sorted(chosen)]


def read_batches(
    files: Sequence[Path],
    read: ClipReadOptions,
    batch_size: int,
    leave_out: Callable[[Path, ValueError], None] | None = None,
) -> Iterator[tuple[list[Path], Frames]]:
    """Decode clips into batches (B, F, H, W, 3) of one size: a batch ends early where the size changes.

    files: in this order. batch_size: most clips in a batch. leave_out: is called for a clip that cannot be
    read after all, and may raise; None raises the error.
    """
    held: list[tuple[Path, Frames]] = []
    for file in files:
        try:
            frames = read_frames(file, read)
        except ValueError as error:
            if leave_out is None:
                raise
            leave_out(file, error)
            continue
        if held and (len(held) == batch_size or frames.shape != held[0][1].shape):
            yield [path for path, _ in held], np.stack([clip for _, clip in held])
            held = []
        held.append((file, frames))
    if held:
        yield [path for path, _ in held], np.stack([clip for _, clip in held])


def read_frames(file: Path, read: ClipReadOptions) -> Frames:
    """Read one clip (F, H, W, 3), its middle square with fit "crop".

    Raises TooShortError for too few frames, ValueError naming a file that cannot be read or is too slow.
    """
    if read.fps is None:
        frames, _ = read_clip(file, max_frames=read.frames)
        if len(frames) < read.frames:
            raise TooShortError(f"{file}: has {len(frames)} frames, {read.frames} are requested")
    else:
        _check(file, read)
        try:
            with open_clip(file) as clip:
                frames = clip.frames([number / read.fps for number in range(read.frames)])
        except EndsEarlyError as error:
            raise TooShortError(str(error)) from error
    if read.fit != "crop":
        return frames
    _, height, width, _ = frames.shape
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return frames[:, top : top + side, left : left + side]


def _check(file: Path, read: ClipReadOptions) -> tuple[tuple[int, int], tuple[str, ...]]:
    """Height and width, and remarks on frames, of a file with a header that promises the frames requested."""
    with open_clip(file) as clip:
        header, remarks = clip.facts, clip.notes
    if read.fps is None:
        frames = header.frames if header.frames is not None else round(header.duration * header.fps)
        if header.kind == "clip" and frames < read.frames:
            raise TooShortError(f"{file}: has {frames} frames, {read.frames} are requested")
    elif read.frames > 1:
        if header.fps < read.fps * (1 - _FPS_TOLERANCE):
            raise TooShortError(f"{file}: has {header.fps:g} frames a second, {read.fps:g} are requested")
        needed = (read.frames - 1) / read.fps
        if header.last_time + 0.5 / header.fps < needed:
            raise TooShortError(f"{file}: ends at {header.duration:.2f} s, {needed:.2f} s are requested")
    if header.kind == "image" and read.frames > 1:
        raise TooShortError(f"{file}: is a single image, {read.frames} frames are requested")
    return (header.height, header.width), remarks


def _refuse(files: dict[str, str], folder: Path, reason: str, option: str, allowed: bool) -> None:
    if files and not allowed:
        listed = "; ".join(list(files.values())[:_MAX_LISTED])
        more = f"; and {len(files) - _MAX_LISTED} more" if len(files) > _MAX_LISTED else ""
        raise ValueError(
            f"{folder}: {len(files)} files {reason}: {listed}{more}; leave them out with {option}"
        )
