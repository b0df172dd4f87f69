"""Films as FFmpeg decodes them: rates and lengths, seeking, and what happens between their frames.

Right for variable frame rates, reordered frames, pixels that are not square and interlaced films.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from itertools import chain
from typing import Any

import av

from latent_shift.media.clip import CLOSE, Clip, Facts
from latent_shift.media.decode import EndsEarlyError, File, video_stream
from latent_shift.media.deinterlace import deinterlaced
from latent_shift.media.pixels import INTERLACED, UNSPECIFIED, Picture, frame_notes, video_pixels

SEEK_FROM = 0.5  # seconds; nearer the front, decoding on is no slower than seeking
BACK_OFF = (0.0, 3.0)  # seconds before the wanted frame to seek to, in turn; then the clip's beginning
BEGINNING = -10.0  # seconds: an MPEG stream, searched for its very first time, is entered a little later
LONG_PAUSE, SHORT_PAUSE = 5.5, 0.25  # frames and seconds; one shown for longer than both is remarked on
COLORS = ("color_primaries", "color_trc", "colorspace")  # of a frame, or of its container
SEE_THROUGH = {"vp8": "libvpx", "vp9": "libvpx-vp9"}  # decoders of WebM that give see-through parts, too
Timed = tuple[float, av.VideoFrame]  # a frame and its seconds from the first


class Film(Clip):
    """A video that FFmpeg decodes, in one thread: with more, their number decides what a broken one gives."""

    def __init__(self, file: File, container: av.container.InputContainer) -> None:
        super().__init__(file)
        self._container, self._stream = container, video_stream(container)
        self._decoder: Any = self._stream.codec_context
        if self._stream.metadata.get("alpha_mode") == "1" and self._decoder.name in SEE_THROUGH:
            self._decoder = av.CodecContext.create(SEE_THROUGH[self._decoder.name], "r")
        self._decoder.thread_count = 1
        named = {name: getattr(self._decoder, name) for name in COLORS}
        self._colors = {name: number for name, number in named.items() if number != UNSPECIFIED}
        self._fps = self._rate()
        self._aspect = _pixel_aspect(self._stream.sample_aspect_ratio)
        self._lead = 0.0  # seconds before a frame, from which it is decoded; of an interlaced one more
        self._entered: bool | None = None  # whether its first packet is a key frame's
        self._decoded = self._decode()
        first = next(self._decoded, None)
        if first is None:
            raise ValueError("holds no frame that can be decoded")
        self._first, self._origin = first, first.time or 0.0
        self._coded_aspect = _pixel_aspect(self._decoder.sample_aspect_ratio)  # a container may say another
        # An AVI holds no times; those of reordered frames are guesses, so they are counted from the front.
        self._counted = container.format.name == "avi" and self._stream.codec_context.has_b_frames
        # An MPEG program stream tells the time of one frame a packet; entered in the middle, those of the
        # others are guessed a frame off.
        self._from_front = self._counted or container.format.name == "mpeg"
        self._untouched = True  # nothing but the first frame was decoded yet
        height, width, _ = self._pixels(first).shape
        duration, frames = self._duration(), self._stream.frames
        # Fragments of an MP4 are not counted in its header, and frames that an edit list leaves out are.
        told = abs(frames - duration * self._fps) <= max(0.1 * frames, 1.5)
        codec = self._stream.codec_context.name
        self.facts = Facts("clip", width, height, duration, self._fps, frames if told else None, codec)

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
        # Of a DASH file it may be counted from 0, or from its first frame; of a program stream it is a guess.
        is_dash = container.format.name.startswith("mov") and not stream.frames and self._origin > CLOSE
        only_packets_tell = is_dash or container.format.name == "mpeg"
        if stream.duration and stream.time_base and not only_packets_tell:
            duration = float(stream.duration * stream.time_base)
            # FFmpeg counts an AVI without an index by its bytes, however many frames its header promises.
            promised = stream.frames / self._fps if container.format.name == "avi" else 0.0
            return max(duration, promised)
        end = 0.0  # Matroska and such tell when a stream ends, not for how long it lasts
        clock = re.fullmatch(r"(\d+):(\d+):(\d+(?:\.\d+)?)", stream.metadata.get("DURATION", ""))
        if clock is not None:
            end = int(clock[1]) * 3600 + int(clock[2]) * 60 + float(clock[3])
        if not end and container.duration and len(container.streams) == 1 and not only_packets_tell:
            end = container.duration / av.time_base
        if not end or container.format.name == "flv":  # a stream has no length in its header
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
            if _pixel_aspect(self._decoder.sample_aspect_ratio) != self._coded_aspect:
                raise ValueError(f"changes the shape of its pixels at {time:.2f} s; cut it there")
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
        if count > 1.1 * (self.facts.frames or count):
            self._notes[f"holds {count} frames, its header says {self.facts.frames}: films joined?"] = None
        return count

    def _pixels(self, frame: av.VideoFrame) -> Picture:
        coded = _pixel_aspect(self._decoder.sample_aspect_ratio)  # of broadcasts it changes midway
        return video_pixels(frame, self._aspect if coded == self._coded_aspect else coded)

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
        if self._decoder is not self._stream.codec_context and self._decoder.is_open:
            self._decoder.flush_buffers()
        packets = self._begun(self._container.demux(self._stream))
        return deinterlaced(self._noted(self._frames(packets)))

    def _frames(self, packets: Iterator[Any]) -> Iterator[av.VideoFrame]:
        """Decode packets. One that is broken is an error where whole ones follow, a remark at the end."""
        broken: av.InvalidDataError | None = None
        for packet in packets:
            try:
                frames = self._decoder.decode(packet)
            except av.InvalidDataError as error:
                broken = broken or error
                continue
            if broken is not None and frames and packet.size:
                raise broken
            yield from frames
        if broken is not None:
            self._notes["its last frame is damaged or cut off, and left out"] = None

    def _begun(self, packets: Iterator[Any]) -> Iterator[Any]:
        """The packets; of a film that begins between two key frames, as a stream recorded, a remark."""
        for packet in packets:
            if self._entered is None:
                self._entered = packet.is_keyframe
                if not packet.is_keyframe:
                    self._notes["begins between two key frames: its first frames are lost, or guessed"] = None
            yield packet

    def _noted(self, frames: Iterable[av.VideoFrame]) -> Iterator[av.VideoFrame]:
        for frame in frames:
            for name, number in self._colors.items():
                if getattr(frame, name) == UNSPECIFIED:  # of ProRes and such, the container may tell
                    setattr(frame, name, number)
            self._notes |= dict.fromkeys(notes := frame_notes(frame))
            self._lead = max(self._lead, 1.5 / self._fps if INTERLACED in notes else 0.0)
            yield frame

    def _timed(self, frames: Iterable[av.VideoFrame]) -> Iterator[Timed]:
        """Frames with their times. Raises ValueError for one without: its place would be unknown."""
        for count, frame in enumerate(frames):
            if frame.time is None:
                raise ValueError("has frames without a time")
            yield count / self._fps if self._counted else frame.time - self._origin, frame


def _pixel_aspect(aspect: Fraction | None) -> float:
    """Width of a pixel by its height; 1 where the file has none, or one that rounds a size."""
    return float(aspect) if aspect and 0.2 < aspect < 5 and abs(aspect - 1) > 0.02 else 1.0
