"""A few frames of a clip, at the times asked for: decoded from the keyframe before the first, to the last.

What training reads. `open_clip` opens a file once, decodes its first frame and tells the facts;
`Clip.frames(times)` seeks, decodes and converts nothing that it does not need. Right for variable frame
rates, turned and mirrored videos, pixels that are not square, 10 bits, odd sizes; sound is not looked at.

    with open_clip("holiday.mov") as clip:
        frames = clip.frames([10.0, 10.125, 10.25])    # uint8 (3, H, W, 3)

Times are seconds from the first frame.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import chain, pairwise

import av
import numpy as np

from latent_shift.media.opening import (
    MAX_DECODED_BYTES,
    File,
    Frames,
    Kind,
    Picture,
    holds_picture,
    named_errors,
    open_bytes,
    open_video,
    video_pixels,
)
from latent_shift.media.read import read_picture

SEEK_FROM = 0.5  # seconds; nearer the front, decoding on is no slower than seeking
BACK_OFF = (0.0, 3.0)  # seconds before the wanted frame to seek to, in turn; then the clip's beginning
CLOSE = 1e-3  # seconds; containers round their times
Timed = tuple[float, av.VideoFrame]  # a frame and its seconds from the first


@dataclass(frozen=True)
class Facts:
    """What a file is, as its header and first frame tell; nobody counted its frames."""

    kind: Kind
    width: int  # pixels, as it is looked at: upright, pixels square
    height: int
    duration: float  # seconds, 0 for an image
    fps: float  # frames a second, on average where the rate varies; 1 for an image
    frames: int | None  # where the header tells
    codec: str

    @property
    def last_time(self) -> float:
        """When the last frame begins, in seconds, if frames come evenly."""
        return max(self.duration - 1 / self.fps, 0.0)


class Clip:
    """An open clip or image: its facts, and its frames by their times. Made by `open_clip`."""

    def __init__(self, file: File, facts: Facts) -> None:
        self.file, self.facts = file, facts

    def frames(self, times: Sequence[float]) -> Frames:
        """The frames nearest to `times` (seconds, rising), uint8 (F, H, W, 3); of two as near the earlier.

        Raises ValueError naming the file for a time that it does not reach (it may have been cut short) and
        for frames that cannot be decoded or differ in size; ValueError for no times, or falling ones.
        """
        if not times or any(b < a for a, b in pairwise(times)) or times[0] < 0:
            raise ValueError(f"times {list(times)} must rise from 0 or later")
        with named_errors(self.file):
            chosen = self._nearest(times)
            if len({picture.shape for picture in chosen}) > 1:
                raise ValueError("changes its size between frames")
            if sum(picture.nbytes for picture in chosen) > MAX_DECODED_BYTES:
                raise ValueError(f"{len(chosen)} frames take over {MAX_DECODED_BYTES >> 30} GiB")
            return np.stack(chosen)

    def count_frames(self) -> int:
        """Decode it all and count the frames; the only way to know that a file is sound.

        Raises ValueError naming the file where it breaks, or ends before its header says.
        """
        with named_errors(self.file):
            return self._count()

    def _nearest(self, times: Sequence[float]) -> list[Picture]:
        raise NotImplementedError

    def _count(self) -> int:
        raise NotImplementedError


class _Pictures(Clip):
    """A GIF, WebP, PNG, JPEG or BMP, which have to be decoded whole."""

    def __init__(self, file: File, pictures: list[Picture], fps: float) -> None:
        height, width, _ = pictures[0].shape
        moving = len(pictures) > 1
        duration = len(pictures) / fps if moving else 0.0
        kind: Kind = "clip" if moving else "image"
        super().__init__(file, Facts(kind, width, height, duration, fps, len(pictures), "picture"))
        self._pictures = pictures

    def _nearest(self, times: Sequence[float]) -> list[Picture]:
        places = [int(np.ceil(time * self.facts.fps - 0.5 - CLOSE)) for time in times]
        if places[-1] >= len(self._pictures):
            raise ValueError(f"ends before {times[-1]:.2f} s")
        return [self._pictures[place] for place in places]

    def _count(self) -> int:
        return len(self._pictures)


class _Video(Clip):
    """A video that FFmpeg decodes; one thread, for a loader already reads several clips at once."""

    def __init__(self, file: File, container: av.container.InputContainer) -> None:
        self._container, self._stream = container, container.streams.video[0]
        self._stream.codec_context.thread_count = 1
        rate = self._stream.average_rate or self._stream.guessed_rate or self._stream.base_rate
        self._fps = float(rate) if rate else 1.0
        aspect = self._stream.sample_aspect_ratio
        # A hundredth more or less is a rounded size, not a shape of pixels.
        self._aspect = float(aspect) if aspect and 0.2 < aspect < 5 and abs(aspect - 1) > 0.02 else 1.0
        self._decoded = container.decode(self._stream)
        first = next(self._decoded, None)
        if first is None:
            raise ValueError("holds no frame that can be decoded")
        self._first, self._origin = first, first.time or 0.0
        # An AVI holds no times; those of reordered frames are guesses, so they are counted from the front.
        self._counted = container.format.name == "avi" and self._stream.codec_context.has_b_frames
        self._untouched = True  # nothing but the first frame was decoded yet
        super().__init__(file, self._facts())

    def _facts(self) -> Facts:
        height, width, _ = video_pixels(self._first, self._aspect).shape
        stream = self._stream
        frames, duration = stream.frames or None, self._duration()
        return Facts("clip", width, height, duration, self._fps, frames, stream.codec_context.name)

    def _duration(self) -> float:
        """Seconds from the first frame to the end of the last, by the header; else by all packets' times."""
        stream, container = self._stream, self._container
        if stream.duration and stream.time_base:
            return float(stream.duration * stream.time_base)
        # Matroska and such tell when a stream ends, not for how long it lasts.
        end = _seconds(stream.metadata.get("DURATION", ""))
        if not end and container.duration and len(container.streams) == 1:
            end = container.duration / av.time_base
        if not end:
            end = max((_end(packet) for packet in container.demux(stream)), default=0.0)
            self._untouched = False
        return max(end - self._origin, 0.0)

    def _nearest(self, times: Sequence[float]) -> list[Picture]:
        chosen: list[Picture] = []
        before: Timed | None = None
        for time, frame in self._from(times[0]):
            while len(chosen) < len(times) and times[len(chosen)] <= time:
                wanted = times[len(chosen)]
                earlier = before is not None and wanted - before[0] <= time - wanted
                chosen.append(self._pixels(before[1] if before is not None and earlier else frame))
            if len(chosen) == len(times):
                return chosen
            before = time, frame
        if before is None:
            raise ValueError(f"no frame at {times[0]:.2f} s can be decoded")
        for wanted in times[len(chosen) :]:
            if wanted > self._reach(*before):
                raise ValueError(f"ends before {wanted:.2f} s; its last frame is at {before[0]:.2f} s")
            chosen.append(self._pixels(before[1]))
        return chosen

    def _count(self) -> int:
        count, last = 0, 0.0
        for time, _ in self._from(0.0):
            count, last = count + 1, time
        if last < self.facts.last_time - 1.5 / self._fps and count < (self.facts.frames or count + 1):
            raise ValueError(
                f"is cut short: ends at {last:.2f} s, its header says {self.facts.duration:.2f} s"
            )
        return count

    def _pixels(self, frame: av.VideoFrame) -> Picture:
        return video_pixels(frame, self._aspect)

    def _reach(self, time: float, last: av.VideoFrame) -> float:
        """Up to when the last frame is the nearest: half a frame on, longer where it is shown for longer."""
        even = 1 / self._fps
        shown = float((last.duration or 0) * (last.time_base or 0))
        return time + max(even / 2, shown - even / 2) + CLOSE

    def _from(self, time: float) -> Iterator[Timed]:
        """Frames in order, beginning at or before `time`."""
        untouched, self._untouched = self._untouched, False
        if untouched and (time <= SEEK_FROM or self._counted):
            return self._timed(chain([self._first], self._decoded))
        for back in () if self._counted or time <= SEEK_FROM else BACK_OFF:
            frames = self._seek(time - back)
            first = next(frames, None)
            if first is not None and first[0] <= time + CLOSE:
                return chain([first], frames)
        return self._seek(0.0)

    def _seek(self, time: float) -> Iterator[Timed]:
        ticks = int((max(time, 0.0) + self._origin) / float(self._stream.time_base or 1))
        try:
            self._container.seek(ticks, stream=self._stream)
        except av.FFmpegError:  # a damaged index, or none
            self._container.seek(0)
        return self._timed(self._container.decode(self._stream))

    def _timed(self, frames: Iterable[av.VideoFrame]) -> Iterator[Timed]:
        """Frames with their times; ValueError for one without, since nobody knows where it belongs."""
        for count, frame in enumerate(frames):
            if frame.time is None:
                raise ValueError("has frames without a time")
            yield count / self._fps if self._counted else frame.time - self._origin, frame


def _seconds(clock: str) -> float:
    """Seconds of a text like 00:00:10.333; 0 for any other text."""
    found = re.fullmatch(r"(\d+):(\d+):(\d+(?:\.\d+)?)", clock)
    if found is None:
        return 0.0
    return int(found[1]) * 3600 + int(found[2]) * 60 + float(found[3])


def _end(packet: av.Packet) -> float:
    if packet.pts is None:
        return 0.0
    return float((packet.pts + (packet.duration or 0)) * packet.time_base)


@contextmanager
def open_clip(file: File) -> Iterator[Clip]:
    """Open a clip or image to read frames of it.

    Raises ValueError naming the file where it is missing, empty, broken, or of another kind.
    """
    with ExitStack() as closing:
        with named_errors(file):
            opened = closing.enter_context(open_bytes(file))
            clip: Clip
            if holds_picture(opened):
                clip = _Pictures(file, *read_picture(opened, None))
            else:
                clip = _Video(file, closing.enter_context(open_video(opened)))
        yield clip


def probe(file: File) -> Facts:
    """The facts of a clip or image; ValueError naming the file where it cannot be read."""
    with open_clip(file) as clip:
        return clip.facts
