"""Contact sheets: the frames of clips on one image, with their captions.

Shapes: F frames, H, W pixels, 3 channels RGB or 4 with transparency, uint8 0..255.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from latent_shift.media.decode import Frames
from latent_shift.media.pixels import Picture

GAP = 2  # pixels between the frames of a contact sheet
MAX_SHEET = 150_000_000  # pixels of a contact sheet, captions apart; Pillow reads 179 million of a picture


def contact_sheet(
    clips: Sequence[Frames], captions: Sequence[str] | None = None, *, columns: int | None = None
) -> Picture:
    """All frames of all clips on one image (H', W', 3) uint8, time running along each line.

    Every clip (F, H, W, 3), or (F, H, W, 4) without captions, all of one frame size, starts a new line
    and takes as many lines as it needs at `columns` frames each (all its frames on one line where None),
    GAP gray pixels apart. `captions`, one a clip, are drawn above. Raises ValueError for no clips, other
    sizes, another number of captions, and a sheet of more pixels than readers of images take.
    """
    if not clips or len({clip.shape[1:] for clip in clips}) != 1:
        raise ValueError("a contact sheet needs at least one clip, all of one frame size")
    if captions is not None and len(captions) != len(clips):
        raise ValueError(f"{len(captions)} captions for {len(clips)} clips; give one each")
    for clip in clips:
        check_frames(clip)
    columns = columns or max(len(clip) for clip in clips)
    height, width = clips[0].shape[1:3]
    check_sheet([len(clip) for clip in clips], height, width, columns)
    total = _line_width(width, columns)
    gray = (128, 128, 128, 0)[: clips[0].shape[-1]]  # see-through between frames that are
    strips: list[Picture] = [np.full((GAP, total, len(gray)), gray, np.uint8)]
    for index, clip in enumerate(clips):
        if captions is not None:
            strips.append(_caption_strip(captions[index], total))
        for first in range(0, len(clip), columns):
            strip = np.full((height + GAP, total, len(gray)), gray, np.uint8)
            for column, frame in enumerate(clip[first : first + columns]):
                left = GAP + column * (width + GAP)
                strip[:height, left : left + width] = frame
            strips.append(strip)
    return np.concatenate(strips)


def check_sheet(counts: Sequence[int], height: int, width: int, columns: int) -> None:
    """Raise ValueError for a sheet of more pixels than readers of images take.

    counts: frames of each clip. height, width: of a frame. columns: frames on a line.
    """
    pixels = _line_width(width, columns) * sum(-(-count // columns) * (height + GAP) for count in counts)
    if pixels > MAX_SHEET:
        raise ValueError(
            f"a sheet of {pixels / 1e6:.0f} million pixels is larger than the {MAX_SHEET / 1e6:.0f} million"
            " that readers of images take; give fewer clips, or fewer or smaller frames"
        )


def square_columns(count: int) -> int:
    """Columns of a sheet of one clip of so many frames, as many as lines."""
    return int(np.ceil(np.sqrt(count)))


def check_frames(frames: Frames) -> None:
    """Raise ValueError unless frames are uint8 (F, H, W, 3) or (F, H, W, 4), no side 0."""
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] not in (3, 4) or 0 in frames.shape:
        raise ValueError(f"frames are {frames.dtype} {frames.shape}; expected uint8 (F, H, W, 3), no side 0")


def _line_width(width: int, columns: int) -> int:
    return columns * (width + GAP) + GAP


def _caption_strip(caption: str, width: int, line_height: int = 14) -> Picture:
    """A caption on as many lines as it takes, (H, width, 3); of a letter that the font lacks its number."""
    import matplotlib  # has a font of more letters than Latin ones

    file = f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans.ttf"
    font = ImageFont.truetype(file, size=11, layout_engine=ImageFont.Layout.BASIC)
    missing = bytes(font.getmask("\U0010ffff"))
    escaped = {letter: letter.encode("ascii", "backslashreplace").decode() for letter in set(caption)}
    known = {letter for letter in escaped if bytes(font.getmask(letter)) != missing}
    lines = [""]
    for word in re.findall(" ?[^ ]+", " ".join(caption.split())):
        shown = "".join(letter if letter in known else escaped[letter] for letter in word)
        if font.getlength(lines[-1] + shown) > width - 6:
            lines += [""] if lines[-1] else []
            shown = shown.lstrip()
        for letter in shown:  # a word longer than a line is broken
            lines += [""] if font.getlength(lines[-1] + letter) > width - 6 and lines[-1] else []
            lines[-1] += letter
    image = Image.new("RGB", (width, line_height * len(lines) + 2), (32, 32, 32))
    ImageDraw.Draw(image).multiline_text((3, 1), "\n".join(lines), fill=(235, 235, 235), font=font, spacing=1)
    return np.array(image)
