"""Clips and images as files: the only module that knows PyAV and Pillow.

Writes mp4 (h264, yuv420p, index in front, so that browsers play it), gif, animated webp and png, each with
the settings that made it embedded as JSON, and reads clips and settings back. Not a data set reader (that is
`data/`) and not a video editor: a clip is an array of frames and a rate, nothing more.

    write_clip("out/cat.mp4", frames, fps=8, settings={"prompt": "a cat", "seed": 7})
    frames, fps = read_clip("out/cat.mp4")
    read_settings("out/cat.mp4")["seed"]

What each format keeps: webp and png are exact; mp4 halves the resolution of the colours (not of the
brightness) and compresses lightly; gif has 256 colours a frame.
Shapes: F frames, H, W pixels, 3 channels RGB, uint8 0..255.
"""

from __future__ import annotations

import json
import os
import struct
import textwrap
import uuid
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, ImageSequence, PngImagePlugin

Frames = NDArray[np.uint8]  # (F, H, W, 3)
Picture = NDArray[np.uint8]  # (H, W, 3)

PICTURE_SUFFIXES = (".gif", ".webp", ".png", ".jpg", ".jpeg", ".bmp")
# What FFmpeg may open: plain containers, so that no playlist in a stranger's file makes it fetch other files.
VIDEO_FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegts,flv,ogg,asf"
MAX_DECODED_BYTES = 4 * 2**30
SETTINGS_KEY = "latent_shift"  # the JSON in a file is {"latent_shift": {...}}: not just anybody's comment
_EXIF_DESCRIPTION = 0x010E
_BROKEN = (
    OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, OverflowError, MemoryError,
    struct.error, zlib.error, Image.DecompressionBombError, av.FFmpegError,
)  # fmt: skip


# ---- writing ---------------------------------------------------------------------------------------


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
    _check_frames(frames)
    if not 0.01 <= fps <= 1000:
        raise ValueError(f"fps {fps}: give 0.01 to 1000 frames a second")
    path = check_output(path, overwrite=overwrite)
    comment = "" if settings is None else _settings_text(settings)
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


def _check_frames(frames: Frames) -> None:
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or 0 in frames.shape:
        raise ValueError(f"frames are {frames.dtype} {frames.shape}; expected uint8 (F, H, W, 3), no side 0")


def _settings_text(settings: dict[str, Any]) -> str:
    try:
        return json.dumps({SETTINGS_KEY: settings}, allow_nan=False)  # ASCII: survives every container
    except TypeError as error:
        raise ValueError(f"settings cannot be written as JSON: {error}") from error


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
        exif[_EXIF_DESCRIPTION] = comment
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


# ---- reading ---------------------------------------------------------------------------------------


def read_clip(path: str | os.PathLike[str], *, max_frames: int | None = None) -> tuple[Frames, float]:
    """Decode a clip to (frames uint8 (F, H, W, 3), frames a second); stop after `max_frames` where given.

    A still image is one frame at 1 frame a second. A gif or webp joins equal neighbours into one longer
    frame: they are repeated here on an even clock, that of the embedded settings ("fps", "frames") where they
    are, else of the shortest frame. Raises ValueError naming the file for anything missing, broken, of
    another kind, or too large to hold (4 GiB decoded). A video cut short gives the frames it still holds.
    """
    path = Path(path)
    with _named_errors(path):
        frames, fps = (_read_picture if _is_picture(path) else _read_video)(path, max_frames)
        return np.stack(frames), fps


def read_settings(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The settings that `write_clip` embedded; ValueError naming the file if unreadable or without any."""
    path = Path(path)
    with _named_errors(path):
        comment = _picture_comment(path) if _is_picture(path) else _video_comment(path)
    settings = _parse_settings(comment)
    if settings is None:
        raise ValueError(f"{path}: carries no settings; only files made by latent-shift do")
    return settings


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in PICTURE_SUFFIXES


@contextmanager
def _named_errors(path: Path) -> Iterator[None]:
    """Whatever a decoder throws at a bad file becomes a ValueError that names the file."""
    if not path.is_file():
        raise ValueError(f"{path}: no such file" if not path.exists() else f"{path}: is not a file")
    try:
        yield
    except _BROKEN as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{path}: cannot be read as a clip or image: {reason}") from error


def _parse_settings(comment: str) -> dict[str, Any] | None:
    try:
        found = json.loads(comment)
    except (ValueError, RecursionError):
        return None
    settings = found.get(SETTINGS_KEY) if isinstance(found, dict) else None
    return settings if isinstance(settings, dict) else None


def _open_video(file: Any) -> av.container.InputContainer:
    container = av.open(file, metadata_errors="replace", options={"format_whitelist": VIDEO_FORMATS})
    if not container.streams.video:
        raise ValueError("holds no video")
    return container


def _read_video(path: Path, max_frames: int | None) -> tuple[list[Picture], float]:
    with path.open("rb") as file, _open_video(file) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        decoded = (np.asarray(f.to_ndarray(format="rgb24"), np.uint8) for f in container.decode(stream))
        frames = _collect(decoded, max_frames)
        rate = stream.average_rate or stream.guessed_rate
    return frames, float(rate) if rate else 1.0


def _video_comment(path: Path) -> str:
    with path.open("rb") as file, _open_video(file) as container:
        return container.metadata.get("comment", "")


def _open_picture(path: Path) -> Image.Image:
    return Image.open(path, formats=("GIF", "WEBP", "PNG", "JPEG", "BMP"))


def _read_picture(path: Path, max_frames: int | None) -> tuple[list[Picture], float]:
    durations: list[float] = []  # milliseconds each stored frame is shown, 0 in a still
    with _open_picture(path) as image:
        settings = _parse_settings(_comment_of(image)) or {}
        is_webp = image.format == "WEBP"  # whose writer turns a clip of equal frames into a still

        def stored() -> Iterator[Picture]:
            for frame in ImageSequence.Iterator(image):
                frame.load()
                durations.append(float(frame.info.get("duration", 0)))
                yield np.asarray(frame.convert("RGB"))

        frames = _collect(stored(), max_frames)
    fps = settings.get("fps")
    clock = float(fps) if isinstance(fps, int | float) and 0.01 <= fps <= 1000 else _clock(durations)
    if any(durations):
        ends = np.maximum(np.round(np.cumsum(np.maximum(durations, 10)) / 1000 * clock).astype(int), 1)
    else:
        ends = np.array([settings.get("frames", 1) if is_webp else 1]).astype(int)
        clock = clock if ends[0] > 1 else 1.0
    shown = np.diff(ends, prepend=0)  # how many ticks of the clock each stored frame lasts
    even = (frame for frame, ticks in zip(frames, shown, strict=True) for _ in range(ticks))
    return _collect(even, max_frames), clock


def _clock(durations: list[float]) -> float:
    """Frames a second of the shortest frames, all within a gif's tick (10 ms) of the shortest together."""
    shortest = max(min(durations), 10)
    return 1000 / float(np.mean([max(d, 10) for d in durations if d <= shortest + 10]))


def _picture_comment(path: Path) -> str:
    with _open_picture(path) as image:
        return _comment_of(image)


def _comment_of(image: Image.Image) -> str:
    comment = image.info.get("comment") or image.info.get("Comment")  # of a gif, of a png
    comment = comment or image.getexif().get(_EXIF_DESCRIPTION, "")
    return comment.decode("utf-8", "replace") if isinstance(comment, bytes) else str(comment)


def _collect(images: Iterator[Picture], max_frames: int | None) -> list[Picture]:
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


# ---- contact sheets --------------------------------------------------------------------------------


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
        _check_frames(clip)
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
