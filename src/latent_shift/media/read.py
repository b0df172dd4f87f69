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

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

from latent_shift.media.damage import DAMAGED_JPEG, jpeg_is_damaged, tail_note
from latent_shift.media.decode import (
    MAX_DECODED_BYTES,
    PICTURE_FORMATS,
    EndsEarlyError,
    File,
    Frames,
    Kind,
    StrPath,
    collect,
    holds_picture,
    named_errors,
    open_bytes,
    open_video,
    video_stream,
)
from latent_shift.media.deinterlace import deinterlaced
from latent_shift.media.pictures import Pictures, parse_settings, picture_settings, read_pictures
from latent_shift.media.pixels import INTERLACED, Picture, frame_notes, video_pixels

SEEK_FROM = 0.5  # seconds; nearer the front, decoding on is no slower than seeking
BACK_OFF = (0.0, 3.0)  # seconds before the wanted frame to seek to, in turn; then the clip's beginning
BEGINNING = -10.0  # seconds: an MPEG stream, searched for its very first time, is entered a little later
LONG_PAUSE, SHORT_PAUSE = 5.5, 0.25  # frames and seconds; one shown for longer than both is remarked on
CLOSE = 1e-3  # seconds; containers round their times
SEE_THROUGH = {"vp8": "libvpx", "vp9": "libvpx-vp9"}  # decoders of WebM that give see-through parts, too
Timed = tuple[float, av.VideoFrame]  # a frame and its seconds from the first


def read_clip(path: StrPath, *, max_frames: int | None = None) -> tuple[Frames, float]:
    """Decode a clip to (frames uint8 (F, H, W, 3), frames a second); stop after `max_frames` if given.

    A still image is one frame at 1 frame a second. A gif or webp joins equal neighbours into one longer
    frame: they are repeated here on an even clock, that of the embedded settings ("fps", "frames") where they
    are, else of the shortest frame. Raises ValueError naming the file for anything missing, broken, of
    another kind, or too large to hold (4 GiB decoded). A video cut short gives the frames it still holds.
    """
    path = Path(path)
    with _open(path, max_frames, threads=0) as clip:
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


@dataclass(frozen=True)
class Facts:
    """Facts about a file from its header and first frame; frames are not counted."""

    kind: Kind
    width: int  # pixels, as displayed: upright, pixels square
    height: int
    duration: float  # seconds, 0 for an image
    fps: float  # frames a second, on average where the rate varies; 1 for an image
    frames: int | None  # None where the header does not say
    codec: str

    @property
    def last_time(self) -> float:
        """Start of the last frame, in seconds, if frames come evenly."""
        return max(self.duration - 1 / self.fps, 0.0)


@contextmanager
def open_clip(file: File) -> Iterator[Clip]:
    """Open a clip or image to read frames of it.

    Raises ValueError naming the file where it is missing, empty, broken, or of another kind.
    """
    with _open(file, None, threads=1) as clip:
        yield clip


@contextmanager
def _open(file: File, max_frames: int | None, threads: int) -> Iterator[Clip]:
    """Open a clip; of pictures `max_frames` frames. threads: of FFmpeg, 0 for one a core."""
    with ExitStack() as closing:
        with named_errors(file):
            opened = closing.enter_context(open_bytes(file))
            clip: Clip
            if holds_picture(opened):
                clip = _Pictures(file, read_pictures(opened, max_frames))
            else:
                clip = _Video(file, closing.enter_context(open_video(opened)), threads)
        yield clip


def probe(file: File) -> Facts:
    """Facts of a clip or image. Raises ValueError naming a file that cannot be read."""
    with open_clip(file) as clip:
        return clip.facts


class Clip:
    """An open clip or image: its facts, and its frames by their times. Made by `open_clip`."""

    facts: Facts

    def __init__(self, file: File) -> None:
        self.file = file
        self._notes: dict[str, None] = {}

    @property
    def notes(self) -> tuple[str, ...]:
        """Remarks on the frames decoded so far, as "is HDR (PQ): ..."."""
        return tuple(self._notes)

    def frames(self, times: Sequence[float]) -> Frames:
        """Decode the frames nearest to `times` (seconds, rising), uint8 (F, H, W, 3); of two the earlier.

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

    def all_frames(self, max_frames: int | None = None) -> Frames:
        """Decode all frames (or the first `max_frames`), uint8 (F, H, W, 3).

        Raises ValueError naming the file for frames that cannot be decoded, differ in size, or need too much
        memory.
        """
        with named_errors(self.file):
            return np.stack(collect(self._all(), max_frames))

    def count_frames(self) -> int:
        """Decode and count all frames: the only way to know that a file is sound.

        Raises ValueError naming the file where it breaks, ends before its header says, or changes its size.
        """
        with named_errors(self.file):
            count = self._count()
            with open_bytes(self.file) as opened:
                note = tail_note(opened)
            self._notes |= {} if note is None else {note: None}
            return count

    def _all(self) -> Iterator[Picture]:
        raise NotImplementedError

    def _nearest(self, times: Sequence[float]) -> list[Picture]:
        raise NotImplementedError

    def _count(self) -> int:
        raise NotImplementedError


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


class _Video(Clip):
    """A video that FFmpeg decodes; with one thread where a loader already reads several clips at once."""

    def __init__(self, file: File, container: av.container.InputContainer, threads: int) -> None:
        super().__init__(file)
        self._container, self._stream = container, video_stream(container)
        self._decoder: Any = self._stream.codec_context
        if self._stream.metadata.get("alpha_mode") == "1" and self._decoder.name in SEE_THROUGH:
            self._decoder = av.CodecContext.create(SEE_THROUGH[self._decoder.name], "r")
        self._decoder.thread_count, self._decoder.thread_type = threads, "AUTO"
        self._fps = self._rate()
        aspect = self._stream.sample_aspect_ratio
        # A hundredth more or less is a rounded size, not a shape of pixels.
        self._aspect = float(aspect) if aspect and 0.2 < aspect < 5 and abs(aspect - 1) > 0.02 else 1.0
        self._lead = 0.0  # seconds before a frame, from which it is decoded; of an interlaced one more
        self._decoded = self._decode()
        first = next(self._decoded, None)
        if first is None:
            raise ValueError("holds no frame that can be decoded")
        self._first, self._origin = first, first.time or 0.0
        # An AVI holds no times; those of reordered frames are guesses, so they are counted from the front.
        self._counted = container.format.name == "avi" and self._stream.codec_context.has_b_frames
        # An MPEG program stream tells the time of one frame a packet; entered in the middle, those of the
        # others are guessed a frame off.
        self._from_front = self._counted or container.format.name == "mpeg"
        self._untouched = True  # nothing but the first frame was decoded yet
        height, width, _ = self._pixels(first).shape
        frames, codec = self._stream.frames or None, self._stream.codec_context.name
        self.facts = Facts("clip", width, height, self._duration(), self._fps, frames, codec)

    def _rate(self) -> float:
        """Frames a second, by the header; where it says none, by all packets' times."""
        if self._stream.average_rate:
            return float(self._stream.average_rate)
        times = [float(packet.pts * packet.time_base) for packet in self._packets()]
        self._container.seek(0)
        if len(times) > 1 and max(times) > min(times):
            return (len(times) - 1) / (max(times) - min(times))
        rate = self._stream.guessed_rate or self._stream.base_rate
        return float(rate) if rate else 1.0

    def _packets(self) -> Iterator[Any]:
        """The stream's packets that have a time, from where the file stands."""
        return (packet for packet in self._container.demux(self._stream) if packet.pts is not None)

    def _duration(self) -> float:
        """Seconds from the first frame to the end of the last, by the header; else by all packets' times."""
        stream, container = self._stream, self._container
        if stream.duration and stream.time_base:
            duration = float(stream.duration * stream.time_base)
            # FFmpeg counts an AVI without an index by its bytes, however many frames its header promises.
            promised = stream.frames / self._fps if container.format.name == "avi" else 0.0
            return max(duration, promised)
        end = 0.0  # Matroska and such tell when a stream ends, not for how long it lasts
        clock = re.fullmatch(r"(\d+):(\d+):(\d+(?:\.\d+)?)", stream.metadata.get("DURATION", ""))
        if clock is not None:
            end = int(clock[1]) * 3600 + int(clock[2]) * 60 + float(clock[3])
        if not end and container.duration and len(container.streams) == 1:
            end = container.duration / av.time_base
        if not end:
            for packet in self._packets():
                end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
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
                raise EndsEarlyError(f"ends before {wanted:.2f} s; its last frame is at {before[0]:.2f} s")
            chosen.append(self._pixels(before[1]))
        return chosen

    def _all(self) -> Iterator[Picture]:
        frames = chain([self._first], self._decoded) if self._untouched else self._decode_from(BEGINNING)
        self._untouched = False
        return map(self._pixels, frames)

    def _count(self) -> int:
        count, last, size = 0, 0.0, (self._first.width, self._first.height)
        falls_back = False
        pause, paused = 0.0, 0.0  # seconds that a frame is shown at most, and from when
        for time, frame in self._from(0.0):
            if time < last - 1.5 / self._fps:
                falls_back, falls = True, f"its clock falls back from {last:.2f} to {time:.2f} s"
                self._notes[f"{falls}, as of films joined: write it anew, or cut it there"] = None
            pause, paused = max((pause, paused), (time - last, last))
            count, last = count + 1, time
            if (frame.width, frame.height) != size:
                sizes = " x ".join(map(str, size)), f"{frame.width} x {frame.height}"
                raise ValueError(
                    f"changes its size at {time:.2f} s, from {sizes[0]} to {sizes[1]}; cut it there"
                )
        between = last / max(count - 1, 1)  # seconds; a header may say another rate
        even = max(1 / self._fps, between)
        if last < self.facts.duration - 2.5 * even and count < (self.facts.frames or count + 1):
            raise ValueError(
                f"is cut short: ends at {last:.2f} s, its header says {self.facts.duration:.2f} s"
            )
        if pause > max(LONG_PAUSE / self._fps, SHORT_PAUSE):
            span = f"shows one frame from {paused:.2f} to {paused + pause:.2f} s"
            self._notes[f"{span}: frames are lost there, or its rate varies"] = None
        elif count > 2 and not falls_back and not 0.9 < between * self._fps < 1.1:
            rate = "none" if between <= 0 else f"{1 / between:.4g}"
            self._notes[f"its header says {self._fps:g} frames a second, its times {rate}"] = None
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
        if untouched and (time <= SEEK_FROM or self._from_front):
            return self._timed(chain([self._first], self._decoded))
        for back in () if self._from_front or time <= SEEK_FROM else BACK_OFF:
            frames = self._timed(self._decode_from(max(time - self._lead - back, 0.0)))
            first = next(frames, None)
            if first is not None and first[0] <= time - self._lead + CLOSE:
                return chain([first], frames)
        return self._timed(self._decode_from(BEGINNING))

    def _decode_from(self, time: float) -> Iterator[av.VideoFrame]:
        """Seek to a keyframe at `time`, or before it if the container can, and decode on from there."""
        ticks = int((time + self._origin) / float(self._stream.time_base or 1))
        try:
            self._container.seek(ticks, stream=self._stream)
        except av.FFmpegError:  # a damaged index, or none; or before its first frame
            self._container.seek(0)
        return self._decode()

    def _decode(self) -> Iterator[av.VideoFrame]:
        """Decode on from where the file stands: whole frames, of which remarks are noted."""
        frames: Iterable[av.VideoFrame]
        if self._decoder is self._stream.codec_context:
            frames = self._container.decode(self._stream)
        else:
            if self._decoder.is_open:
                self._decoder.flush_buffers()
            packets = self._container.demux(self._stream)
            frames = (frame for packet in packets for frame in self._decoder.decode(packet))
        return deinterlaced(self._noted(frames))

    def _noted(self, frames: Iterable[av.VideoFrame]) -> Iterator[av.VideoFrame]:
        for frame in frames:
            self._notes |= dict.fromkeys(notes := frame_notes(frame))
            self._lead = max(self._lead, 1.5 / self._fps if INTERLACED in notes else 0.0)
            yield frame

    def _timed(self, frames: Iterable[av.VideoFrame]) -> Iterator[Timed]:
        """Frames with their times. Raises ValueError for one without: its place would be unknown."""
        for count, frame in enumerate(frames):
            if frame.time is None:
                raise ValueError("has frames without a time")
            yield count / self._fps if self._counted else frame.time - self._origin, frame
