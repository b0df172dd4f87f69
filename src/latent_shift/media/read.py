"""A whole clip as an array: for what is short, such as a clip this package made.

Not for training on long videos: `seek.py` decodes a few frames of those.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import ImageSequence

from latent_shift.media.opening import (
    MAX_DECODED_BYTES,
    Frames,
    Picture,
    holds_picture,
    named_errors,
    open_bytes,
    open_picture,
    open_video,
    picture_pixels,
    video_pixels,
)
from latent_shift.media.settings import parse_settings, picture_comment


def read_clip(path: str | os.PathLike[str], *, max_frames: int | None = None) -> tuple[Frames, float]:
    """Decode a clip to (frames uint8 (F, H, W, 3), frames a second); stop after `max_frames` where given.

    A still image is one frame at 1 frame a second. A gif or webp joins equal neighbours into one longer
    frame: they are repeated here on an even clock, that of the embedded settings ("fps", "frames") where they
    are, else of the shortest frame. Raises ValueError naming the file for anything missing, broken, of
    another kind, or too large to hold (4 GiB decoded). A video cut short gives the frames it still holds.
    """
    path = Path(path)
    with named_errors(path), open_bytes(path) as opened:
        read = read_picture if holds_picture(opened) else _read_video
        frames, fps = read(opened, max_frames)
        return np.stack(frames), fps


def _read_video(opened: BinaryIO, max_frames: int | None) -> tuple[list[Picture], float]:
    with open_video(opened) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        frames = collect((video_pixels(frame) for frame in container.decode(stream)), max_frames)
        rate = stream.average_rate or stream.guessed_rate
    return frames, float(rate) if rate else 1.0


def read_picture(opened: BinaryIO, max_frames: int | None) -> tuple[list[Picture], float]:
    """The frames of a picture, still or moving, on an even clock, and its rate: see `read_clip`."""
    durations: list[float] = []  # milliseconds each stored frame is shown, 0 in a still
    with open_picture(opened) as image:
        settings = parse_settings(picture_comment(image)) or {}
        is_webp = image.format == "WEBP"  # whose writer turns a clip of equal frames into a still

        def stored() -> Iterator[Picture]:
            for frame in ImageSequence.Iterator(image):
                frame.load()
                durations.append(float(frame.info.get("duration", 0)))
                yield picture_pixels(frame)

        frames = collect(stored(), max_frames)
    fps = settings.get("fps")
    clock = float(fps) if isinstance(fps, int | float) and 0.01 <= fps <= 1000 else _clock(durations)
    if any(durations):
        ends = np.maximum(np.round(np.cumsum(np.maximum(durations, 10)) / 1000 * clock).astype(int), 1)
    else:
        ends = np.array([settings.get("frames", 1) if is_webp else 1]).astype(int)
        clock = clock if ends[0] > 1 else 1.0
    shown = np.diff(ends, prepend=0)  # how many ticks of the clock each stored frame lasts
    even = (frame for frame, ticks in zip(frames, shown, strict=True) for _ in range(ticks))
    return collect(even, max_frames), clock


def _clock(durations: list[float]) -> float:
    """Frames a second of the shortest frames, all within a gif's tick (10 ms) of the shortest together."""
    shortest = max(min(durations), 10)
    return 1000 / float(np.mean([max(d, 10) for d in durations if d <= shortest + 10]))


def collect(images: Iterator[Picture], max_frames: int | None) -> list[Picture]:
    """The images as a list; ValueError if there are none, they differ in size, or would not fit in memory."""
    frames: list[Picture] = []
    for image in islice(images, max_frames):
        if frames and image.shape != frames[0].shape:
            raise ValueError(f"frame {len(frames)} is {image.shape[:2]}, the first one {frames[0].shape[:2]}")
        frames.append(image)
        if image.nbytes * len(frames) > MAX_DECODED_BYTES:
            raise ValueError(f"over {MAX_DECODED_BYTES >> 30} GiB decoded; read it in part with max_frames")
    if not frames:
        raise ValueError("holds no frame that can be decoded")
    return frames
