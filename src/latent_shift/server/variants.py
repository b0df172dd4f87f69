"""Contents of a finished job: the clip, a still, a sheet of its frames, and other formats of it."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from fastapi.responses import FileResponse, Response
from starlette.datastructures import Headers
from starlette.types import Receive, Scope, Send

from latent_shift.generation import slug
from latent_shift.io import is_disk_full
from latent_shift.media import GAP, contact_sheet, encode_image, read_clip, read_settings, write_clip
from latent_shift.server.errors import ApiError, error_response, storage_full
from latent_shift.server.files import ClipFiles
from latent_shift.server.jobs import Job

Variant = Literal["video", "thumbnail", "spritesheet"]
Format = Literal["mp4", "gif", "webp", "png"]
TYPES = {
    ".mp4": "video/mp4", ".png": "image/png", ".gif": "image/gif", ".webp": "image/webp",
    ".jpeg": "image/jpeg",
}  # fmt: skip
_Derivation = tuple[str, Callable[[Path, Path], None]]
_THUMBNAIL_SIDE = 320  # pixels at most
_SHEET_COLUMNS = 4  # or more, where a sheet would be longer than a JPEG can be
_JPEG_SIDE = 65_000
# One part; a header of another form is passed over, and one that ends before it begins (RFC 9110, 14.1.1).
_RANGE = re.compile(r"bytes=(\d{1,18})-(\d{0,18})|bytes=-(\d{1,18})")


def content(files: ClipFiles, job: Job, variant: Variant, format: Format | None) -> ClipResponse:
    """The answer with a variant of a completed job's clip.

    files: of the server. job: of any state. variant: of the content. format: of the variant "video"; None: as
    it is stored. Raises ApiError for a job that is not completed, a clip that has expired, and a format that
    does not fit.
    """
    if job.status == "failed":
        raise ApiError(400, str(job.error_code), f"the video failed: {job.error_message}")
    if job.status != "completed":
        raise ApiError(400, "video_not_ready", f"the video is {job.status}, {job.progress} % done")
    gone = ApiError(404, "expired", "the clip has been removed for its age or the disk's space")
    if job.expired or job.file is None:
        raise gone
    made = _derivation(job.file, variant, format)
    try:
        path = files.path(job.file) if made is None else files.derived(job, *made)
    except FileNotFoundError as error:
        raise gone from error
    except (OSError, ValueError) as error:
        if is_disk_full(error):
            raise storage_full() from error
        if not isinstance(error, ValueError):
            raise
        # the rate is beyond a gif's
        raise ApiError(404, "invalid_format", str(error).partition(": ")[2], param="format") from error
    name = f"{slug(job.request['prompt'])}-{job.request['seed']}{path.suffix}"
    return ClipResponse(path, media_type=TYPES[path.suffix], filename=name, content_disposition_type="inline")


def is_work(files: ClipFiles, job: Job, variant: Variant, format: Format | None) -> bool:
    """Whether `content` has to decode the clip and make a file first.

    files, job, variant, format: as of `content`. Raises ApiError for a format that does not fit.
    """
    if job.status != "completed" or job.expired or job.file is None:
        return False
    made = _derivation(job.file, variant, format)
    return made is not None and not files.has_derived(job, made[0])


def _derivation(file: str, variant: Variant, format: Format | None) -> _Derivation | None:
    """The end of a variant's name and the function that makes it of a stored file; None: the file itself."""
    stored = Path(file).suffix
    if variant == "thumbnail":
        return "thumbnail.webp", _thumbnail
    if variant == "spritesheet":
        return "spritesheet.jpeg", _spritesheet
    if format is None or f".{format}" == stored:
        return None
    is_image = stored == ".png"
    if format == ("mp4" if is_image else "png"):
        have = "an image: png, webp or gif" if is_image else "a clip: mp4, webp or gif"
        raise ApiError(404, "invalid_format", f"format {format}: this is {have}", param="format")
    return f"copy.{format}", _copy


class ClipResponse(FileResponse):
    """A file with ETag and ranges; ranges that cannot be served are errors in the API's shape."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the file, or an error where it has just been removed."""
        try:
            size = Path(self.path).stat().st_size
        except FileNotFoundError:
            await error_response(404, "expired", "the clip has just been removed")(scope, receive, send)
            return
        headers_in = Headers(scope=scope)
        self.set_stat_headers(Path(self.path).stat())
        tag, changed = self.headers["etag"], self.headers["last-modified"]
        if _holds(headers_in.get("if-none-match"), tag):
            unchanged = {"ETag": tag, "Last-Modified": changed}
            await Response(status_code=304, headers=unchanged)(scope, receive, send)
            return
        if "if-match" in headers_in and not _holds(headers_in["if-match"], tag):
            refused = error_response(412, "changed", "the file is not the one that If-Match names")
            await refused(scope, receive, send)
            return
        match = _RANGE.fullmatch(headers_in.get("range", ""))
        is_other = headers_in.get("if-range") not in (None, tag, changed)
        if match is None or is_other or (match[2] and int(match[2]) < int(match[1])):
            headers = [(name, value) for name, value in scope["headers"] if name != b"range"]
            scope = {**scope, "headers": headers}
        elif (match[1] and int(match[1]) >= size) or (match[3] and int(match[3]) == 0):
            sized = {"Content-Range": f"bytes */{size}"}
            refused = error_response(416, "invalid_range", f"the file has {size} bytes", headers=sized)
            await refused(scope, receive, send)
            return
        await super().__call__(scope, receive, send)


def _holds(tags: str | None, tag: str) -> bool:
    """Whether a header's list of entity tags has one, or is "*"."""
    found = [one.strip().removeprefix("W/") for one in (tags or "").split(",")]
    return "*" in found or tag in found


def _thumbnail(clip: Path, target: Path) -> None:
    frames, _ = read_clip(clip)
    target.write_bytes(encode_image(frames[len(frames) // 2], "webp", max_side=_THUMBNAIL_SIDE))


def _spritesheet(clip: Path, target: Path) -> None:
    frames, _ = read_clip(clip)
    count, height = frames.shape[:2]
    rows = max(1, _JPEG_SIDE // (height + GAP))  # at most
    columns = max(min(count, _SHEET_COLUMNS), -(-count // rows))
    target.write_bytes(encode_image(contact_sheet([frames], columns=columns), "jpeg"))


def _copy(clip: Path, target: Path) -> None:
    frames, fps = read_clip(clip)
    settings = read_settings(clip) or {}
    write_clip(target, frames, fps, settings, loop=settings.get("loop", False))
