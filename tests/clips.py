"""Clips made for tests: every frame a flat gray of its own, so that it can be told from any other.

write_video(path, count=24, fps=8)                 # frame i has the brightness of level(i)
numbers(frames)                                    # which frames these are, [0, 1, 2 ...]
"""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.reformatter import ColorRange

REAL = Path(__file__).parents[2] / "shared" / "data"
needs_real_clips = pytest.mark.skipif(not REAL.is_dir(), reason=f"no real clips in {REAL}")

STEP = 7  # between the brightness of two neighbouring frames: more than a codec loses


def level(number):
    """Brightness of a frame; 33 frames can be told apart."""
    return 12 + STEP * number


def numbers(frames):
    """Which frames of a made clip these are."""
    return [round((float(np.asarray(frame).mean()) - 12) / STEP) for frame in frames]


def write_video(
    path, count=24, fps=8, size=(48, 64), times=None, codec="libx264", pixels="yuv420p", edit=None, gop=6
):
    """A clip of `count` frames (H, W) at `fps`; or at `times` in seconds. edit(stream) sets more."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=Fraction(fps).limit_denominator(1001))
        stream.height, stream.width, stream.pix_fmt = *size, pixels
        stream.codec_context.gop_size = gop
        stream.codec_context.color_range = ColorRange.MPEG
        if times is not None:
            stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        if edit is not None:
            edit(stream)
        for number in range(count):
            image = np.full((*size, 3), level(number), np.uint8)
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame = frame.reformat(format=pixels, dst_color_range=ColorRange.MPEG)
            frame.pts = number if times is None else round(times[number] * 1000)
            frame.time_base = Fraction(1, fps) if times is None else Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def captioned_folder(folder, captions, **video):
    """A folder of made clips 0.mp4, 1.mp4 ..., each with its captions, a text or several lines, beside it."""
    folder.mkdir()
    for number, caption in enumerate(captions):
        write_video(folder / f"{number}.mp4", **video)
        (folder / f"{number}.txt").write_text(caption)
    return folder
