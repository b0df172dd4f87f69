"""Reading of clips and images: whole ones, a few frames at given times, and the settings embedded in them.

One reader for all: `open_clip` opens a file once and decodes its first frame; `Clip.frames(times)` then seeks
to the keyframe before the first time and decodes to the last, and converts no frame that it does not return;
`read_clip` is all of a short clip. Right for variable frame rates, turned and mirrored videos, pixels that
are not square, see-through parts, HDR, interlaced films, 10 bits, odd sizes; sound is ignored.

    with open_clip("holiday.mov") as clip:
        frames = clip.frames([10.0, 10.125, 10.25])    # uint8 (3, H, W, 3)

Times are seconds from the first frame.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from latent_shift.media.clip import CLOSE, Clip, Facts
from latent_shift.media.damage import DAMAGED_JPEG, jpeg_is_damaged
from latent_shift.media.decode import (
    PICTURE_FORMATS,
    EndsEarlyError,
    File,
    Frames,
    Kind,
    StrPath,
    holds_picture,
    named_errors,
    open_bytes,
    open_video,
)
from latent_shift.media.film import Film
from latent_shift.media.pictures import Pictures, parse_settings, picture_settings, read_pictures
from latent_shift.media.pixels import Picture


def read_clip(path: StrPath, *, max_frames: int | None = None) -> tuple[Frames, float]:
    """Decode a clip to (frames uint8 (F, H, W, 3), frames a second); stop after `max_frames` if given.

    A still image is one frame at 1 frame a second. A gif or webp joins equal neighbours into one longer
    frame: they are repeated here on an even clock, that of the embedded settings ("fps", "frames") where they
    are, else of the shortest frame. Raises ValueError naming the file for anything missing, broken, of
    another kind, or too large to hold (4 GiB decoded). A video cut short gives the frames it still holds.
    """
    path = Path(path)
    with _open(path, max_frames) as clip:
        return clip.all_frames(max_frames), clip.facts.fps


def read_settings(file: File) -> dict[str, Any]:
    """Settings that `write_clip` embedded. Raises ValueError naming a file that is unreadable or has none."""
    with named_errors(file), open_bytes(file) as opened:
        if holds_picture(opened):
            with Image.open(opened, formats=PICTURE_FORMATS) as image:
                settings = picture_settings(image)
        else:
            with open_video(opened) as container:
                settings = parse_settings(container.metadata.get("comment", ""))
    if settings is None:
        raise ValueError(f"{file}: carries no settings; only files made by latent-shift do")
    return settings


@contextmanager
def open_clip(file: File) -> Iterator[Clip]:
    """Open a clip or image to read frames of it.

    Raises ValueError naming the file where it is missing, empty, broken, or of another kind.
    """
    with _open(file, None) as clip:
        yield clip


@contextmanager
def _open(file: File, max_frames: int | None) -> Iterator[Clip]:
    """Open a clip; of pictures `max_frames` frames."""
    with ExitStack() as closing:
        with named_errors(file):
            opened = closing.enter_context(open_bytes(file))
            clip: Clip
            if holds_picture(opened):
                clip = _Pictures(file, read_pictures(opened, max_frames))
            else:
                clip = Film(file, closing.enter_context(open_video(opened)))
        yield clip


def probe(file: File) -> Facts:
    """Facts of a clip or image. Raises ValueError naming a file that cannot be read."""
    with open_clip(file) as clip:
        return clip.facts


class _Pictures(Clip):
    """A GIF, WebP, PNG, JPEG or BMP, which have to be decoded whole."""

    def __init__(self, file: File, pictures: Pictures) -> None:
        super().__init__(file)
        self._notes |= dict.fromkeys(pictures.notes)
        height, width, _ = pictures.stored[0].shape
        self._stored, self._ends = pictures.stored, np.cumsum(pictures.ticks)
        count, fps = int(self._ends[-1]), pictures.fps
        kind: Kind = "clip" if count > 1 else "image"
        duration = count / fps if kind == "clip" else 0.0
        self.facts = Facts(kind, width, height, duration, fps, count, "picture")

    def _nearest(self, times: Sequence[float]) -> list[Picture]:
        places = [int(np.ceil(time * self.facts.fps - 0.5 - CLOSE)) for time in times]
        if places[-1] >= self._ends[-1]:
            raise EndsEarlyError(f"ends before {times[-1]:.2f} s")
        return [self._stored[number] for number in np.searchsorted(self._ends, places, "right")]

    def _all(self) -> Iterator[Picture]:
        ticks = np.diff(self._ends, prepend=0)
        return (picture for picture, times in zip(self._stored, ticks, strict=True) for _ in range(times))

    def _count(self) -> int:
        with open_bytes(self.file) as opened:
            data = opened.read()
        if data.startswith(b"\xff\xd8") and jpeg_is_damaged(data):
            self._notes[DAMAGED_JPEG] = None
        return int(self._ends[-1])
