"""Bodies of requests and answers: one model of a request for JSON, multipart and urlencoded forms.

Field names are those of OpenAI's and vLLM's video APIs. A field that is unknown is listed in the answer's
`ignored`, or refused under `?strict=1`. JSON is read strictly; the texts of a form are converted.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Annotated, Any, Literal, TypeVar

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field, JsonValue, StringConstraints, ValidationError, create_model
from starlette.datastructures import FormData, UploadFile

from latent_shift.io import printable
from latent_shift.limits import MAX_FPS, MAX_GUIDANCE, MAX_SEED, MIN_FPS
from latent_shift.server.config import Limits
from latent_shift.server.errors import ApiError, validation_message

_Model = TypeVar("_Model", bound=BaseModel)
FORMS = ("multipart/form-data", "application/x-www-form-urlencoded")
_SIZE = r"^[1-9][0-9]{0,3}x[1-9][0-9]{0,3}$"
_SECONDS = r"^[0-9]{1,4}(\.[0-9]{1,6})?$"  # a video's own have up to five digits after the point
_Seconds = Annotated[float, Field(ge=0, lt=10_000, allow_inf_nan=False)]
_REFERENCES = ("input_reference", "image_reference", "video_reference", "audio_reference")


class VideoRequest(BaseModel):
    """A clip to make. What is left open takes the model's own value; a seed is drawn."""

    model_config = ConfigDict(extra="allow", frozen=True)

    prompt: str
    model: str | None = Field(None, description="id of a model; the server's first")
    seconds: Annotated[str, StringConstraints(pattern=_SECONDS)] | _Seconds | None = Field(
        None, description="length of the clip, where num_frames is not given"
    )
    size: Annotated[str, StringConstraints(pattern=_SIZE)] | None = Field(
        None, description="WIDTHxHEIGHT in pixels; comes before width and height"
    )
    width: int | None = None
    height: int | None = None
    fps: float | None = Field(
        None, ge=MIN_FPS, le=MAX_FPS, allow_inf_nan=False, description="frames a second"
    )
    num_frames: int | None = None
    num_inference_steps: int | None = None
    guidance_scale: float | None = Field(
        None, ge=0, le=MAX_GUIDANCE, allow_inf_nan=False, description="scale of classifier-free guidance"
    )
    seed: int | None = Field(None, ge=0, le=MAX_SEED, description="seed of the clip's noise")
    negative_prompt: str | None = None
    loop: bool = Field(False, description="whether the clip begins again where it ends")

    @property
    def ignored(self) -> list[str]:
        """Names of fields that are not known."""
        return sorted(self.model_extra or ())


def video_request(limits: Limits, models: Sequence[JsonValue]) -> type[VideoRequest]:
    """The model of a request with the limits of a server, as its document shows them."""
    side = Field(None, ge=1, le=4096, description="pixels; a multiple of the model's")
    text = Annotated[str, StringConstraints(max_length=limits.prompt_chars)]
    prompt = Annotated[str, StringConstraints(min_length=1, max_length=limits.prompt_chars, pattern=r"\S")]
    known = Field(
        None, description="id of a model; the server's first", json_schema_extra={"examples": [*models]}
    )
    return create_model(
        "CreateVideo",
        __base__=VideoRequest,
        __doc__=VideoRequest.__doc__,
        prompt=(prompt, Field(description="text that describes the clip")),
        model=(Annotated[str, StringConstraints(max_length=256)] | None, known),
        width=(int | None, side),
        height=(int | None, side),
        num_frames=(int | None, Field(None, ge=1, le=limits.frames, description="frames; 1 makes an image")),
        num_inference_steps=(int | None, Field(None, ge=1, le=limits.steps, description="denoising steps")),
        negative_prompt=(text | None, Field(None, description="text that guidance moves away from")),
    )


class RemixRequest(BaseModel):
    """Another prompt for the settings and the seed of a video."""

    model_config = ConfigDict(extra="allow", frozen=True)
    prompt: Annotated[str, StringConstraints(min_length=1, pattern=r"\S")]


class VideoError(BaseModel):
    """Reason of a video's failure."""

    code: str
    message: str


class Video(BaseModel):
    """A job and, when it is completed, its clip."""

    id: str
    object: Literal["video"] = "video"
    created_at: int
    completed_at: int | None
    expires_at: int | None
    status: Literal["queued", "in_progress", "completed", "failed"]
    progress: int = Field(ge=0, le=100)
    model: str
    prompt: str
    seconds: str
    size: str
    remixed_from_video_id: str | None
    error: VideoError | None
    fps: float
    num_frames: int
    seed: int
    num_inference_steps: int
    guidance_scale: float
    negative_prompt: str | None
    loop: bool
    queue_position: int | None = Field(description="from 1, of a job that waits")
    inference_time_s: float | None
    peak_memory_mb: float | None
    expired: bool = Field(description="whether the clip has been removed for its age or the disk's space")
    warnings: list[str] = Field(
        description="words not known or not trained on, and a negative prompt without guidance"
    )
    ignored: list[str] = Field(default=[], description="fields of the request that are not known")
    url: None = None


class VideoList(BaseModel):
    """A page of videos; the next one is `after=last_id`."""

    object: Literal["list"] = "list"
    data: list[Video]
    first_id: str | None
    last_id: str | None
    has_more: bool


class DeletedVideo(BaseModel):
    """A video that is gone."""

    id: str
    deleted: Literal[True] = True
    object: Literal["video.deleted"] = "video.deleted"


class Settings(BaseModel):
    """The settings inside a file that this package made."""

    settings: dict[str, Any]


@asynccontextmanager
async def form_of(request: Request, *, files: int, fields: int) -> AsyncIterator[FormData]:
    """The form of a body, with so many files and fields at most. Raises ApiError for an unknown charset."""
    try:
        async with request.form(max_files=files, max_fields=fields) as form:
            yield form
    except UnicodeError as error:
        raise ApiError(400, "invalid_request", "the body's charset is not known; send UTF-8") from error


async def read_fields(request: Request) -> tuple[Mapping[str, Any], bool]:
    """Fields of a body by name, and whether they are texts of a form.

    Raises ApiError for a body of another kind, one that is damaged, and references to files.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind in FORMS:
        fields: dict[str, Any] = {}
        async with form_of(request, files=4, fields=100) as form:
            for name, value in form.multi_items():
                if isinstance(value, UploadFile) and name in VideoRequest.model_fields:
                    raise ApiError(400, "invalid_request", f"{name}: send a text, not a file", param=name)
                text = value.filename if isinstance(value, UploadFile) else value
                fields[name] = (
                    [fields[name], text] if name in fields else text
                )  # a list is no value of a field
    elif kind == "application/json" or kind.endswith("+json"):
        try:
            fields = json.loads(await request.body())
        except (ValueError, RecursionError) as error:
            raise ApiError(400, "invalid_json", f"the body is not JSON: {error}") from error
        if not isinstance(fields, dict):
            raise ApiError(400, "invalid_request", "the body must be a JSON object")
    else:
        message = f"a body of the type {kind!r} is not read; send application/json or {' or '.join(FORMS)}"
        raise ApiError(415, "unsupported_media_type", message)
    for name, value in fields.items():
        if name.partition("[")[0] in _REFERENCES and value is not None:
            raise ApiError(400, "unsupported", f"{name}: these models take text only", param=name)
    return {printable(name): value for name, value in fields.items()}, kind in FORMS


def validated(model: type[_Model], fields: Mapping[str, Any], *, is_form: bool, strict: bool) -> _Model:
    """The checked fields of a request.

    model: to be made. fields: by name. is_form: whether numbers are texts. strict: whether unknown fields are
    refused. Raises ApiError naming the field.
    """
    try:
        made = model.model_validate(fields, strict=not is_form)
    except ValidationError as error:
        param, message = validation_message(error)
        raise ApiError(400, "invalid_request", message, param=param) from error
    if strict and made.model_extra:
        name = sorted(made.model_extra)[0]
        raise ApiError(400, "unknown_field", f"{name}: is not known here", param=name)
    return made
