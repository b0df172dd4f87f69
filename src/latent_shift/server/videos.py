"""Routes of videos: create, retrieve, list, content, cancel, delete, remix, sync, events, inspect."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Path, Query, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException

from latent_shift.server.bodies import (
    FORMS,
    DeletedVideo,
    RemixRequest,
    Settings,
    Video,
    VideoError,
    VideoList,
    VideoRequest,
    read_fields,
    validated,
)
from latent_shift.server.errors import ERRORS, ApiError
from latent_shift.server.service import Service, body_hash, not_found
from latent_shift.server.store import Job
from latent_shift.server.uploads import UnreadableError, settings_of
from latent_shift.server.variants import TYPES, Format, Variant, content

_LOOK_EVERY = 0.1  # seconds between two looks of a request that waits
_COMMENT_EVERY = 100  # looks, after which a silent stream of events shows that it lives
Id = Annotated[str, Path(pattern="^video_[0-9a-f]{32}$", description="id of a video")]
# Not in the document: it makes the same body valid or not.
Strict = Annotated[bool, Query(include_in_schema=False)]
IdempotencyKey = Annotated[
    str | None,
    Header(min_length=1, max_length=255, description="a repeat with this key returns the same video"),
]


def video(service: Service, job: Job, positions: dict[str, int], ignored: list[str] | None = None) -> Video:
    """A job as clients see it.

    service: of the job. job: to be shown. positions: of the queue, by id. ignored: unknown fields.
    """
    request = job.request
    error = None
    if job.status == "failed":
        error = VideoError(code=str(job.error_code), message=str(job.error_message))
    return Video(
        id=job.id, created_at=int(job.created_at), completed_at=_seconds(job.completed_at),
        expires_at=_seconds(job.expires_at), status=job.status, progress=job.progress, model=job.model,
        prompt=request["prompt"], seconds=f"{request['frames'] / request['fps']:g}",
        size=f"{request['width']}x{request['height']}", remixed_from_video_id=job.remixed_from, error=error,
        fps=request["fps"], num_frames=request["frames"], seed=request["seed"],
        num_inference_steps=request["steps"], guidance_scale=request["guidance"],
        negative_prompt=request["negative"], queue_position=positions.get(job.id),
        inference_time_s=job.inference_s, peak_memory_mb=job.peak_memory_mb, expired=job.expired,
        warnings=list(job.warnings), ignored=ignored or [],
    )  # fmt: skip


def _seconds(time: float | None) -> int | None:
    return None if time is None else int(time)


def video_routes(service: Service) -> APIRouter:
    """The routes below /v1/videos."""
    router = APIRouter(prefix="/v1/videos", tags=["videos"], responses=ERRORS)
    store = service.store

    def show(job: Job, response: Response, ignored: list[str] | None = None) -> Video:
        positions = store.positions() if job.status == "queued" else {}
        if not job.is_finished:
            response.headers["openai-poll-after-ms"] = str(service.poll_ms(job.model))
        return video(service, job, positions, ignored)

    async def submit(request: Request, strict: bool, key: str | None) -> tuple[Job, list[str]]:
        fields, is_form = await read_fields(request)
        wanted: VideoRequest = validated(service.request_model, fields, is_form=is_form, strict=strict)

        def add() -> Job:
            facts, settled, warnings = service.settle(wanted)
            idempotency = None if key is None else (key, body_hash(fields))
            return service.submit(
                facts, settled, owner=_owner(request), warnings=warnings, idempotency=idempotency
            )

        return await run_in_threadpool(add), wanted.ignored

    body = _request_body(service.request_model)

    @router.post("", operation_id="create_video", openapi_extra=body)
    async def create(
        request: Request, response: Response, strict: Strict = False, idempotency_key: IdempotencyKey = None
    ) -> Video:
        """Put a clip to make into the queue."""
        job, ignored = await submit(request, strict, idempotency_key)
        return await run_in_threadpool(show, job, response, ignored)

    @router.post(
        "/sync",
        operation_id="create_video_sync",
        openapi_extra=body,
        response_class=Response,
        responses=_media({200: "the clip"}) | {504: ERRORS["4XX"]},
    )
    async def create_and_wait(request: Request, strict: Strict = False) -> Response:
        """Make a clip and answer with its file; a client that goes cancels it."""
        job, _ = await submit(request, strict, None)
        waited = 0.0
        while not job.is_finished:
            if await request.is_disconnected() or waited > service.config.sync_timeout:
                await run_in_threadpool(store.cancel, job.id, job.owner)
                raise ApiError(504, "timeout", f"{job.id} was cancelled after {waited:.0f} s")
            if service.is_stopping:
                raise ApiError(
                    503, "stopping", f"the server is being stopped; {job.id} is kept", retry_after=10
                )
            await asyncio.sleep(_LOOK_EVERY)
            waited += _LOOK_EVERY
            job = await run_in_threadpool(service.find, job.id, job.owner)
        answer = await run_in_threadpool(content, service.files, job, "video", None)
        answer.headers["X-Video-Id"] = job.id
        answer.headers["X-Model"] = job.model.encode("ascii", "replace").decode()
        answer.headers["X-Inference-Time-S"] = str(job.inference_s)
        answer.headers["X-Peak-Memory-MB"] = str(job.peak_memory_mb)
        return answer

    @router.get("", operation_id="list_videos")
    def listing(
        request: Request,
        after: Annotated[str | None, Query(description="id of the video before the first")] = None,
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
        order: Literal["asc", "desc"] = "desc",
    ) -> VideoList:
        """List videos in the order of their creation."""
        owner = _owner(request)
        last = None
        if after is not None:
            last = store.get(after, owner)
            if last is None:
                raise not_found(after, "after")
        jobs, more = store.page(owner, after=last, limit=limit, newest_first=order == "desc")
        positions = store.positions()
        data = [video(service, job, positions) for job in jobs]
        first, last_id = (data[0].id, data[-1].id) if data else (None, None)
        return VideoList(data=data, first_id=first, last_id=last_id, has_more=more)

    @router.post(
        "/inspect",
        operation_id="inspect_file",
        openapi_extra={"requestBody": {"required": True, "content": {FORMS[0]: {"schema": _FILE}}}},
    )
    async def inspect(request: Request) -> Settings:
        """Read the settings inside a file that this package made."""
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != FORMS[0]:
            raise ApiError(415, "unsupported_media_type", f"send {FORMS[0]} with a file")
        async with request.form(max_files=1, max_fields=10) as form:
            file = form.get("file")
            if not isinstance(file, UploadFile):
                raise ApiError(400, "invalid_request", "file: is missing", param="file")
            held = await file.read()
        try:
            return Settings(settings=await run_in_threadpool(settings_of, held))
        except UnreadableError as error:
            raise ApiError(400, "unreadable_file", str(error), param="file") from error

    for path in ("/sync", "/inspect"):  # of other methods these are no ids of videos
        router.add_api_route(path, _post_only, methods=["GET", "DELETE"], include_in_schema=False)

    @router.get("/{video_id}", operation_id="retrieve_video")
    def retrieve(video_id: Id, request: Request, response: Response) -> Video:
        """Look at a video; one that failed is no error."""
        return show(service.find(video_id, _owner(request)), response)

    @router.delete("/{video_id}", operation_id="delete_video")
    def delete(video_id: Id, request: Request) -> DeletedVideo:
        """Remove a video in any state; the making of it stops."""
        if not store.delete(video_id, _owner(request)):
            raise not_found(video_id)
        service.files.remove(video_id)
        return DeletedVideo(id=video_id)

    @router.post("/{video_id}/cancel", operation_id="cancel_video")
    def cancel(video_id: Id, request: Request, response: Response) -> Video:
        """Fail a video that waits or is being made as `cancelled`; a finished one stays as it is."""
        job = store.cancel(video_id, _owner(request))
        if job is None:
            raise not_found(video_id)
        return show(job, response)

    @router.get(
        "/{video_id}/content",
        operation_id="download_video",
        response_class=Response,
        responses=_media({200: "the content", 206: "a range of it"}),
    )
    def download(
        video_id: Id, request: Request, variant: Variant = "video", format: Format | None = None
    ) -> Response:
        """Download a clip, a thumbnail (webp) or a sheet of all frames (jpeg)."""
        return content(service.files, service.find(video_id, _owner(request)), variant, format)

    @router.post("/{video_id}/remix", operation_id="remix_video", openapi_extra=_request_body(RemixRequest))
    async def remix(video_id: Id, request: Request, response: Response, strict: Strict = False) -> Video:
        """Make another prompt with the settings and the seed of a video."""
        fields, is_form = await read_fields(request)
        wanted = validated(RemixRequest, fields, is_form=is_form, strict=strict)

        def add() -> Video:
            source = service.find(video_id, _owner(request))
            values = source.request
            facts, settled, warnings = service.settle(VideoRequest(
                prompt=wanted.prompt, model=source.model, seed=values["seed"], num_frames=values["frames"],
                fps=values["fps"], num_inference_steps=values["steps"], guidance_scale=values["guidance"],
                negative_prompt=values["negative"], height=values["height"], width=values["width"],
            ))  # fmt: skip
            job = service.submit(
                facts, settled, owner=_owner(request), warnings=warnings, remixed_from=source.id
            )
            return show(job, response, sorted(wanted.model_extra or ()))

        return await run_in_threadpool(add)

    @router.get(
        "/{video_id}/events",
        operation_id="follow_video",
        response_class=StreamingResponse,
        responses={200: {"description": "server-sent events", "content": {"text/event-stream": {}}}},
    )
    async def events(video_id: Id, request: Request) -> StreamingResponse:
        """Follow a video by events until it is finished: `status` (a video), `preview` (step, data URL)."""
        job = await run_in_threadpool(service.find, video_id, _owner(request))
        return StreamingResponse(_events(service, job), media_type="text/event-stream")

    for path in ("/edits", "/extensions", "/characters"):
        router.add_api_route(path, _unsupported, methods=["POST"], include_in_schema=False)
    router.add_api_route("/characters/{character_id}", _unsupported, methods=["GET"], include_in_schema=False)
    return router


async def _post_only() -> JSONResponse:
    raise HTTPException(405, "send it by POST", {"Allow": "POST"})


async def _unsupported() -> JSONResponse:
    raise ApiError(400, "unsupported", "these models make clips from text only")


async def _events(service: Service, job: Job) -> AsyncIterator[str]:
    """Events of a job until it is finished or the server stops; previews are made while somebody listens."""
    shown: Any = None
    preview = silent = 0
    while True:
        positions = await run_in_threadpool(service.store.positions) if job.status == "queued" else {}
        state = (job.status, job.progress, positions.get(job.id))
        if state != shown:
            shown, silent = state, 0
            yield _event("status", video(service, job, positions).model_dump())
        if job.preview_step != preview and job.status == "in_progress":
            preview = job.preview_step
            image = await run_in_threadpool(service.files.read_preview, job.id)
            if image is not None:
                url = f"data:image/webp;base64,{base64.b64encode(image).decode()}"
                yield _event("preview", {"step": preview, "steps": job.request["steps"], "image": url})
        if job.is_finished or service.is_stopping:
            return
        silent += 1
        if silent % _COMMENT_EVERY == 0:
            yield ": still there\n\n"
        await run_in_threadpool(service.files.watch, job.id)
        await asyncio.sleep(_LOOK_EVERY)
        found = await run_in_threadpool(service.store.get, job.id, job.owner)
        if found is None:
            yield _event("deleted", {"id": job.id})
            return
        job = found


def _event(name: str, content: dict[str, Any]) -> str:
    return f"event: {name}\ndata: {json.dumps(content)}\n\n"


def _owner(request: Request) -> str:
    return str(getattr(request.state, "owner", ""))


_FILE = {
    "type": "object",
    "required": ["file"],
    "properties": {"file": {"type": "string", "format": "binary"}},
}


def _request_body(model: type[Any]) -> dict[str, Any]:
    """A body of any of the three kinds, for the document."""
    schema = model.model_json_schema()
    forms = {**schema, "properties": {name: _no_null(one) for name, one in schema["properties"].items()}}
    content = {"application/json": {"schema": schema}, **{kind: {"schema": forms} for kind in FORMS}}
    return {"requestBody": {"required": True, "content": content}}


def _no_null(field: dict[str, Any]) -> dict[str, Any]:
    """The schema of a field of a form, which can leave a value out and knows no null."""
    kinds = [kind for kind in field.get("anyOf", ()) if kind != {"type": "null"}]
    others = {name: value for name, value in field.items() if name not in ("anyOf", "default")}
    if not kinds:
        return field
    return {**others, **kinds[0]} if len(kinds) == 1 else {**others, "anyOf": kinds}


def _media(answers: dict[int, str]) -> dict[int | str, dict[str, Any]]:
    """Answers that hold a clip or an image, for the document."""
    binary = {"schema": {"type": "string", "format": "binary"}}
    kinds = dict.fromkeys([*TYPES.values()], binary)
    return {status: {"description": text, "content": kinds} for status, text in answers.items()}
