"""Contact sheets: the frames of clips side by side on one image, to be looked at."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from latent_shift.media.opening import Frames, Picture


def contact_sheet(
    clips: Sequence[Frames],
    captions: Sequence[str] | None = None,
    *,
    columns: int | None = None,
    gap: int = 2,
) -> Picture:
    """All frames of all clips on one image (H', W', 3) uint8, time running along each line.

    Every clip (F, H, W, 3), all of one frame size, starts a new line and takes as many lines as it needs at
    `columns` frames each (all its frames on one line where None), `gap` gray pixels apart. `captions`, one a
    clip, are drawn above. Raises ValueError for no clips, other sizes, or another number of captions.
    """
    if not clips or len({clip.shape[1:] for clip in clips}) != 1:
        raise ValueError("a contact sheet needs at least one clip, all of one frame size")
    if captions is not None and len(captions) != len(clips):
        raise ValueError(f"{len(captions)} captions for {len(clips)} clips; give one each")
    for clip in clips:
        check_frames(clip)
    columns = columns or max(len(clip) for clip in clips)
    width = columns * (clips[0].shape[2] + gap) + gap
    strips: list[Picture] = [np.full((gap, width, 3), 128, np.uint8)]
    for index, clip in enumerate(clips):
        if captions is not None:
            strips.append(_caption_strip(captions[index], width))
        strips += [_line_strip(clip[i : i + columns], width, gap) for i in range(0, len(clip), columns)]
    return np.concatenate(strips)


def _line_strip(frames: Frames, width: int, gap: int) -> Picture:
    strip: Picture = np.full((frames.shape[1] + gap, width, 3), 128, np.uint8)
    for column, frame in enumerate(frames):
        start = gap + column * (frame.shape[1] + gap)
        strip[: -gap or None, start : start + frame.shape[1]] = frame
    return strip


def _caption_strip(caption: str, width: int, line_height: int = 14) -> Picture:
    font = ImageFont.load_default(size=11)
    lines = textwrap.wrap(caption, max(width // 6, 8)) or [""]
    image = Image.new("RGB", (width, line_height * len(lines) + 2), (32, 32, 32))
    ImageDraw.Draw(image).multiline_text((3, 1), "\n".join(lines), fill=(235, 235, 235), font=font, spacing=3)
    return np.array(image)


def check_frames(frames: Frames) -> None:
    """Raise ValueError unless frames are uint8 (F, H, W, 3), no side 0."""
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or 0 in frames.shape:
        raise ValueError(f"frames are {frames.dtype} {frames.shape}; expected uint8 (F, H, W, 3), no side 0")
