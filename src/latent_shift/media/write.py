"""Clips and images written: mp4, gif, animated webp, png, whole or not at all, their settings inside.

`write_clip` chooses the format by the suffix; `WRITERS` lists them, one function each. `check_output` tells
before any work whether a file could be written. Not a place for reading (`read.py`, `settings.py`).
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc
from PIL import Image, PngImagePlugin

from latent_shift.media.opening import Frames, Picture
from latent_shift.media.settings import EXIF_DESCRIPTION, settings_text
from latent_shift.media.sheets import check_frames, contact_sheet


def check_output(
    path: str | os.PathLike[str], *, overwrite: bool = False, suffixes: Sequence[str] | None = None
) -> Path:
    """Make sure a file could be written to `path`, leaving no trace; called before anything heavy starts.

    suffixes: those it may have; None for a clip's. Raises ValueError for a suffix that is none of them, a
    file that exists (unless `overwrite`), and a folder that cannot be made or written into.
    """
    path = Path(path)
    suffixes = tuple(WRITERS) if suffixes is None else suffixes
    if path.suffix.lower() not in suffixes:
        known = f"one of {' '.join(suffixes)}" if len(suffixes) > 1 else suffixes[0]
        raise ValueError(f"{path}: unknown suffix {path.suffix!r}; the name must end in {known}")
    if path.is_dir():
        raise ValueError(f"{path}: is a folder; name a file")
    if os.path.lexists(path) and not overwrite:
        raise ValueError(f"{path}: exists already; use --force (overwrite=True) or another name")
    folder = path.parent
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    probe = folder / f".{uuid.uuid4().hex}.tmp"
    try:
        probe.touch(exist_ok=False)
        probe.unlink()
    except OSError as error:
        raise ValueError(f"{path}: cannot write into {folder}: {error.strerror}") from error
    return path


def write_clip(
    path: str | os.PathLike[str],
    frames: Frames,
    fps: float = 8,
    settings: dict[str, Any] | None = None,
    overwrite: bool = False,
) -> Path:
    """Write `frames` (F, H, W, 3) uint8 at `fps` frames a second; the suffix chooses the format.

    .mp4, .gif and .webp are clips; .png is the image itself for one frame and a contact sheet for more.
    `settings` (a JSON dictionary) is embedded. The file appears whole or not at all. mp4 needs even sides: an
    odd side is padded by repeating its last row or column. Returns the path; raises ValueError for a wrong
    array, rate or suffix, settings JSON cannot hold, an existing file, a folder that cannot be written.
    """
    check_frames(frames)
    if not 0.01 <= fps <= 1000:
        raise ValueError(f"fps {fps}: give 0.01 to 1000 frames a second")
    path = check_output(path, overwrite=overwrite)
    comment = "" if settings is None else settings_text(settings)
    path.parent.mkdir(parents=True, exist_ok=True)
    with _whole_file(path) as partial:
        WRITERS[path.suffix.lower()](partial, np.ascontiguousarray(frames), fps, comment)
    return path


def write_image(
    path: str | os.PathLike[str],
    image: Picture,
    settings: dict[str, Any] | None = None,
    overwrite: bool = False,
) -> Path:
    """Write one image (H, W, 3) uint8, as a clip of one frame: see `write_clip`."""
    return write_clip(path, image[None], settings=settings, overwrite=overwrite)


@contextmanager
def _whole_file(path: Path) -> Iterator[Path]:
    """Give a hidden name in the same folder, renamed to `path` at the end, removed on error or Ctrl-C."""
    partial = path.with_name(f".{uuid.uuid4().hex}.tmp{path.suffix}")
    try:
        yield partial
        os.replace(partial, path)
    except OSError as error:
        raise ValueError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        partial.unlink(missing_ok=True)


def _write_mp4(path: Path, frames: Frames, fps: float, comment: str) -> None:
    height, width = frames.shape[1:3]
    frames = np.pad(frames, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    with av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"}) as container:
        if comment:
            container.metadata["comment"] = comment
        # crf 12 is visually lossless; a clip of a few frames stays small all the same.
        options = {"crf": "12", "preset": "slow"}
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001), options=options)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
        stream.color_range, stream.colorspace = ColorRange.MPEG, Colorspace.ITU709
        stream.color_primaries, stream.color_trc = ColorPrimaries.BT709, ColorTrc.BT709
        for image in frames:
            rgb = av.VideoFrame.from_ndarray(image, format="rgb24")
            yuv = rgb.reformat(
                format="yuv420p",
                src_color_range=ColorRange.JPEG,
                dst_color_range=ColorRange.MPEG,
                dst_colorspace=Colorspace.ITU709,
            )
            container.mux(stream.encode(yuv))
        container.mux(stream.encode(None))


def _write_gif(path: Path, frames: Frames, fps: float, comment: str) -> None:
    images = [Image.fromarray(image).quantize(256, dither=Image.Dither.NONE) for image in frames]
    durations = _durations(len(frames), fps, tick=10)
    _save_animation(path, images, durations, format="GIF", comment=comment.encode())


def _write_webp(path: Path, frames: Frames, fps: float, comment: str) -> None:
    exif = Image.Exif()
    if comment:
        exif[EXIF_DESCRIPTION] = comment
    images = [Image.fromarray(image) for image in frames]
    durations = _durations(len(frames), fps, tick=1)
    _save_animation(path, images, durations, format="WEBP", lossless=True, exif=exif)


def _save_animation(path: Path, images: list[Image.Image], durations: list[int], **options: Any) -> None:
    if len(images) > 1:
        options |= {"save_all": True, "append_images": images[1:], "duration": durations, "loop": 0}
    images[0].save(path, **options)


def _write_png(path: Path, frames: Frames, fps: float, comment: str) -> None:
    text = PngImagePlugin.PngInfo()
    if comment:
        text.add_text("Comment", comment)
    columns = int(np.ceil(np.sqrt(len(frames))))
    image = frames[0] if len(frames) == 1 else contact_sheet([frames], columns=columns)
    Image.fromarray(image).save(path, format="PNG", pnginfo=text)


def _durations(count: int, fps: float, tick: int) -> list[int]:
    """Milliseconds each frame is shown: whole ticks, at least one, rounded so that errors never add up."""
    ends = [round(1000 * (i + 1) / fps / tick) for i in range(count)]
    return [max(tick, tick * (end - start)) for start, end in zip([0, *ends], ends, strict=False)]


WRITERS: dict[str, Callable[[Path, Frames, float, str], None]] = {
    ".mp4": _write_mp4,
    ".gif": _write_gif,
    ".webp": _write_webp,
    ".png": _write_png,
}
