"""Writing of clips and images: mp4, gif, animated webp, png, whole or not at all, with settings inside.

`write_clip` chooses the format by the suffix; `WRITERS` lists them, one function each. `check_output` finds
out before any work whether a file could be written. Reading is in `read.py`.
"""

from __future__ import annotations

import io
import json
import os
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from fractions import Fraction
from itertools import chain, pairwise
from pathlib import Path
from typing import Any, Literal

import av
import numpy as np
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc
from PIL import Image, PngImagePlugin

from latent_shift.io import (
    atomic_file,
    check_folder,
    check_no_address,
    check_replaceable,
    free_name,
    warn,
)
from latent_shift.limits import MAX_FPS, MIN_FPS
from latent_shift.media.decode import Frames, StrPath
from latent_shift.media.pictures import CLOCK_KEY, EXIF_DESCRIPTION, SETTINGS_KEY
from latent_shift.media.pixels import Picture
from latent_shift.media.sheet import check_frames, check_sheet, contact_sheet, square_columns

Settings = dict[str, Any]  # that JSON can hold
WITH_ALPHA = (".gif", ".webp", ".png")
_LONGEST_NAME, _LONGEST_PATH = 255, 4000  # bytes; the system's 4,095, less a temporary name
_TRANSPARENT = 255  # number of the see-through colour in a gif
_TICKS = {".gif": 10, ".webp": 1}  # milliseconds in which a format counts
_LONGEST_SIDES = {".mp4": 16384, ".gif": 65535, ".webp": 16383}  # pixels that an encoder takes
MAX_RATES = {".gif": 50.0}  # frames a second that a format holds; a gif's shorter delays are shown for 100 ms


def check_output(
    path: StrPath,
    *,
    overwrite: bool = False,
    suffixes: Sequence[str] | None = None,
    fps: float | None = None,
    shape: tuple[int, int, int] | None = None,
) -> Path:
    """Check that a file could be written to `path`, leaving no trace; called before anything heavy starts.

    suffixes: those it may have; None for a clip's. fps: rate of a clip of several frames. shape: frames,
    height and width of the clip. Raises ValueError for an address, a suffix that is none of them, a rate, a
    size or a number of frames that its format does not hold, a file that exists (unless `overwrite`) or
    cannot be replaced, and a folder that cannot be made or written into.
    """
    check_no_address(path)
    path = Path(path)
    if "\0" in str(path):
        raise ValueError(f"{str(path)!r}: no file's name can hold a byte of 0; give another name")
    suffixes = tuple(WRITERS) if suffixes is None else suffixes
    if path.suffix.lower() not in suffixes:
        known = f"one of {' '.join(suffixes)}" if len(suffixes) > 1 else suffixes[0]
        raise ValueError(f"{path}: unknown suffix {path.suffix!r}; the name must end in {known}")
    if fps is not None:
        _check_rate(path, fps)
    if shape is not None:
        _check_sides(path, shape[1:])
    if shape is not None and path.suffix.lower() == ".png":
        try:
            check_sheet([shape[0]], *shape[1:], square_columns(shape[0]))
        except ValueError as error:
            raise ValueError(f"{path}: {error}; or write .mp4, .webp or .gif") from error
    _check_names(path)
    if path.exists() and not path.is_file():
        raise ValueError(f"{path}: is {'a folder' if path.is_dir() else 'a device or pipe'}; name a file")
    if os.path.lexists(path) and not overwrite:
        raise ValueError(f"{path}: exists already; use --force (overwrite=True) or another name")
    check_folder(path.parent)
    if os.path.lexists(path):
        check_replaceable(path)
    return path


def _check_rate(path: Path, fps: float) -> None:
    if fps > (most := MAX_RATES.get(path.suffix.lower(), MAX_FPS)):
        mend = f"write .mp4 or .webp, or {most:g} frames a second"
        raise ValueError(f"{path}: {fps:g} frames a second are more than the {most:g} of its format; {mend}")


def _check_sides(path: Path, sides: Sequence[int]) -> None:
    most = _LONGEST_SIDES.get(path.suffix.lower())
    if most is not None and max(sides) > most:
        mend = "make them smaller, or write .png"
        raise ValueError(
            f"{path}: frames of {sides[0]} x {sides[1]} are larger than the {most} its format holds; {mend}"
        )


def _check_names(path: Path) -> None:
    """Raise ValueError where a path has a name that no file system holds, or lies in a link to nothing."""
    for name in path.parts:
        if (size := len(os.fsencode(name))) > _LONGEST_NAME:
            raise ValueError(
                f"{path}: {name[:20]}... is a name of {size} bytes; {_LONGEST_NAME} are the most"
            )
    if (size := len(os.fsencode(path))) > _LONGEST_PATH:
        raise ValueError(f"{str(path)[:40]}...: is a path of {size} bytes; {_LONGEST_PATH} are the most")
    for folder in path.parents:
        if folder.is_symlink() and not folder.exists():
            raise ValueError(f"{path}: {folder} is a link to nothing; name another folder")


def write_clip(
    path: StrPath,
    frames: Frames | Iterable[Frames] | Sequence[Image.Image],
    fps: float = 8,
    settings: Settings | None = None,
    overwrite: bool = False,
    loop: bool = False,
) -> Path:
    """Write `frames` (F, H, W, 3) uint8 at `fps` frames a second; the suffix chooses the format.

    Frames (F, H, W, 4) have an alpha channel, which .gif (on or off), .webp and .png keep.
    A list of PIL images, as of a pipeline's `.frames[0]`, is a clip, too.
    Frames may come in parts (n, H, W, 3), one after the other: an mp4 is written as they come, and memory
    does not grow with the clip; the other formats need all frames at once.
    .mp4, .gif and .webp are clips; .png is the image itself for one frame and a contact sheet for more.
    `settings` (a JSON dictionary) is embedded; in a gif or webp, of which the clock is coarse, the rate, too.
    loop: whether all frames of a gif or webp are shown equally long, at the rate nearest to fps that its
    clock allows, so that it does not stutter where it begins again. The file appears whole or not at all. mp4
    needs even sides: an odd side is padded by repeating its last row or column. Raises ValueError for a wrong
    array, rate or suffix, settings JSON cannot hold, an existing file (unless `overwrite`), a folder that
    cannot be written. Returns the path, or that of a free name beside it, with a warning (UserWarning), where
    without `overwrite` another file has come to it while the parts were made.
    """
    path = check_output(path, overwrite=overwrite)
    parts = _in_parts(frames)
    first = next(parts, np.empty((0, 0, 0, 3), np.uint8))
    if path.suffix.lower() != ".mp4" and (others := list(parts)):
        first = np.concatenate([first, *others])
    check_frames(first)
    _check_sides(path, first.shape[1:3])
    if not MIN_FPS <= fps <= MAX_FPS:
        raise ValueError(f"fps {fps}: give {MIN_FPS:g} to {MAX_FPS:g} frames a second")
    if len(first) > 1:
        _check_rate(path, fps)
    if first.shape[-1] == 4 and path.suffix.lower() not in WITH_ALPHA:
        raise ValueError(f"{path}: holds no transparency; write one of {' '.join(WITH_ALPHA)}")
    told: dict[str, Any] = {} if settings is None else {SETTINGS_KEY: settings}
    if path.suffix.lower() in _TICKS and len(first) > 1:
        told[CLOCK_KEY] = [1000 / _loop_delay(fps, _TICKS[path.suffix.lower()]) if loop else fps, len(first)]
    try:
        comment = json.dumps(told, allow_nan=False) if told else ""  # ASCII: survives every container
    except (TypeError, ValueError) as error:
        raise ValueError(f"settings cannot be written as JSON: {error}") from error
    unnamed = path if overwrite else path.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        with atomic_file(unnamed) as partial:
            all_frames = (
                chain([first], parts) if path.suffix.lower() == ".mp4" else np.ascontiguousarray(first)
            )
            WRITERS[path.suffix.lower()](partial, all_frames, fps, comment, loop)
        return path if overwrite else _named(unnamed, path)
    except OSError as error:
        raise ValueError(f"{path}: cannot be written: {error.strerror or error}") from error
    except OverflowError as error:
        longest = "shows one picture for longer than the 655 s that a gif can say"
        raise ValueError(f"{path}: {longest}; write .mp4 or .webp") from error


def _named(unnamed: Path, path: Path) -> Path:
    """Give a whole file its name; where another has come to that meanwhile, a free one beside it.

    Returns the name. Warns (UserWarning) where it is another.
    """
    try:
        place = _move_to_free_name(unnamed, path)
    finally:
        unnamed.unlink(missing_ok=True)
    if place != path:
        warn(f"{path}: has come there while this was made, and is kept; the result is {place}")
    return place


def _move_to_free_name(file: Path, path: Path) -> Path:
    while True:
        place = free_name(path)
        try:
            os.link(file, place)  # which replaces nothing, as a rename would
        except FileExistsError:  # has come between the two
            continue
        except OSError:  # file systems without hard links
            os.replace(file, place)
        return place


def write_image(
    path: StrPath, image: Picture, settings: Settings | None = None, overwrite: bool = False
) -> Path:
    """Write one image (H, W, 3) uint8 to `path`; settings, overwrite and errors as in `write_clip`."""
    return write_clip(path, image[None], settings=settings, overwrite=overwrite)


def encode_image(image: Picture, kind: Literal["webp", "jpeg"], *, max_side: int | None = None) -> bytes:
    """An image (H, W, 3) uint8 as the bytes of a small file, lossy, without settings.

    kind: format. max_side: pixels that neither side exceeds afterwards, None: as it is.
    """
    check_frames(image[None])
    picture = Image.fromarray(image)
    if max_side is not None:
        picture.thumbnail((max_side, max_side))
    content = io.BytesIO()
    picture.save(content, kind.upper(), quality=85)
    return content.getvalue()


def _write_mp4(path: Path, parts: Iterator[Frames], fps: float, comment: str, loop: bool) -> None:
    first = next(parts)
    height, width = (side + side % 2 for side in first.shape[1:3])
    # As an address of a file: of "run:1/clip.mp4" FFmpeg would take "run" for a protocol.
    with av.open(f"file:{path}", "w", format="mp4", options={"movflags": "+faststart"}) as container:
        if comment:
            container.metadata["comment"] = comment
        # crf 12 is visually lossless; a clip of a few frames stays small all the same.
        options = {"crf": "12", "preset": "slow"}
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001), options=options)
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        stream.color_range, stream.colorspace = ColorRange.MPEG, Colorspace.ITU709
        stream.color_primaries, stream.color_trc = ColorPrimaries.BT709, ColorTrc.BT709
        for image in _padded(chain([first], parts), first.shape[1:]):
            rgb = av.VideoFrame.from_ndarray(image, format="rgb24")
            yuv = rgb.reformat(
                format="yuv420p",
                src_color_range=ColorRange.JPEG,
                dst_color_range=ColorRange.MPEG,
                dst_colorspace=Colorspace.ITU709,
            )
            container.mux(stream.encode(yuv))
        container.mux(stream.encode(None))


def _padded(parts: Iterable[Frames], shape: tuple[int, ...]) -> Iterator[Picture]:
    """Images of all parts, each of `shape` (H, W, 3), with even sides: the last line is repeated."""
    for part in parts:
        check_frames(part)
        if part.shape[1:] != shape:
            raise ValueError(f"frames of a clip must be of one size, not {shape} and {part.shape[1:]}")
        even = np.pad(part, ((0, 0), (0, shape[0] % 2), (0, shape[1] % 2), (0, 0)), mode="edge")
        yield from np.ascontiguousarray(even)


def _write_gif(path: Path, frames: Frames, fps: float, comment: str, loop: bool) -> None:
    options: dict[str, Any] = {"format": "GIF", "comment": comment.encode()}
    if frames.shape[-1] == 4:
        images = [_palette_with_alpha(image) for image in frames]
        options |= {"transparency": _TRANSPARENT, "disposal": 2, "optimize": False}  # each frame on nothing
    else:
        images = [Image.fromarray(image).quantize(256, dither=Image.Dither.NONE) for image in frames]
    _save_animation(path, images, fps, loop, tick=_TICKS[".gif"], **options)


def _palette_with_alpha(image: Picture) -> Image.Image:
    """A picture (H, W, 4) in 255 colours and a see-through one, for what is less than half covered."""
    colours = Image.fromarray(image[..., :3]).quantize(_TRANSPARENT, dither=Image.Dither.NONE)
    numbers = np.where(image[..., 3] < 128, _TRANSPARENT, np.asarray(colours)).astype(np.uint8)
    shown = Image.fromarray(numbers, mode="P")
    shown.putpalette((colours.getpalette() or [])[: 3 * _TRANSPARENT])
    return shown


def _write_webp(path: Path, frames: Frames, fps: float, comment: str, loop: bool) -> None:
    exif = Image.Exif()
    if comment:
        exif[EXIF_DESCRIPTION] = comment
    images = [Image.fromarray(image) for image in frames]
    # Each frame whole: of differences between lossless frames the encoder loses the transparency.
    whole = {"kmin": 0, "kmax": 1} if frames.shape[-1] == 4 else {}
    _save_animation(
        path, images, fps, loop, tick=_TICKS[".webp"], format="WEBP", lossless=True, exif=exif, **whole
    )


def _save_animation(
    path: Path, images: list[Image.Image], fps: float, loop: bool, tick: int, **options: Any
) -> None:
    """Save frames shown for whole ticks (milliseconds), at least one.

    Rounded so that errors never add up, or in a loop all alike.
    """
    ends = [round(1000 * (i + 1) / fps / tick) for i in range(len(images))]
    durations = [max(tick, tick * (end - start)) for start, end in pairwise([0, *ends])]
    if loop:
        durations = [_loop_delay(fps, tick)] * len(images)
    if len(images) > 1:
        options |= {"save_all": True, "append_images": images[1:], "duration": durations, "loop": 0}
    images[0].save(path, **options)


def _loop_delay(fps: float, tick: int) -> int:
    """Milliseconds that each frame of a loop is shown: whole ticks, all alike."""
    return max(tick, tick * round(1000 / fps / tick))


def _write_png(path: Path, frames: Frames, fps: float, comment: str, loop: bool) -> None:
    text = PngImagePlugin.PngInfo()
    if comment:
        text.add_text("Comment", comment)
    image = frames[0] if len(frames) == 1 else contact_sheet([frames], columns=square_columns(len(frames)))
    Image.fromarray(image).save(path, format="PNG", pnginfo=text)


WRITERS: dict[str, Callable[[Path, Any, float, str, bool], None]] = {
    ".mp4": _write_mp4,  # of the parts of a clip, the others of all frames
    ".gif": _write_gif,
    ".webp": _write_webp,
    ".png": _write_png,
}


def _in_parts(frames: Frames | Iterable[Frames] | Sequence[Image.Image]) -> Iterator[Frames]:
    """Frames in parts (n, H, W, 3), or with an alpha channel, however they were given."""
    if isinstance(frames, np.ndarray):
        yield frames
        return
    if not isinstance(frames, Sequence):
        yield from frames
        return
    images = [frame for frame in frames if isinstance(frame, Image.Image)]
    if len({image.size for image in images}) > 1:
        raise ValueError("the images are of several sizes; a clip has one")
    mode = "RGBA" if any(image.has_transparency_data for image in images) else "RGB"
    for frame in frames:
        yield np.asarray(frame.convert(mode))[None] if isinstance(frame, Image.Image) else frame
