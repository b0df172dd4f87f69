"""Routes of videos: create, sync, remix; retrieve, list, content, events; cancel, delete; inspect."""

from __future__ import annotations

import asyncio
from typing import Annotated, Literal

from anyio import CapacityLimiter, to_thread
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
    VideoList,
    VideoRequest,
    form_of,
    read_fields,
    validated,
)
from latent_shift.server.document import FILE, media, request_body
from latent_shift.server.errors import ERRORS, ApiError
from latent_shift.server.jobs import ID, Job, StoreFullError
from latent_shift.server.service import Service, body_hash, not_found
from latent_shift.server.uploads import BusyError, UnreadableError, settings_of
from latent_shift.server.variants import Format, Variant, content, is_work
from latent_shift.server.views import LOOK_EVERY, events_of, show, video

_MADE_AT_ONCE = 2  # files of clips, each of which is decoded whole
_RETRY_UPLOAD = 2.0  # seconds after which a file to read may find a place
Id = Annotated[str, Path(pattern=f"^{ID}$", description="id of a video")]
# Not in the document: it makes the same body valid or not.
Strict = Annotated[bool, Query(include_in_schema=False)]
IdempotencyKey = Annotated[
    str | None,
    Header(min_length=1, max_length=255, description="a repeat with this key returns the same video"),
]


def video_routes(service: Service) -> APIRouter:
    """The routes below /v1/videos."""
    router = APIRouter(prefix="/v1/videos", tags=["videos"], responses=ERRORS)
    _add_making(router, service)
    _add_inspecting(router, service.config.limits.upload_bytes)
    for path in ("/sync", "/inspect"):  # of other methods these are no ids of videos
        router.add_api_route(path, _post_only, methods=["GET", "DELETE"], include_in_schema=False)
    _add_looking(router, service)
    _add_ending(router, service)
    for path in ("/edits", "/extensions", "/characters"):
        router.add_api_route(path, _unsupported, methods=["POST"], include_in_schema=False)
    router.add_api_route("/characters/{character_id}", _unsupported, methods=["GET"], include_in_schema=False)
    return router


def _add_making(router: APIRouter, service: Service) -> None:
    """Routes that put a clip into the queue."""
    body = request_body(service.request_model)

    @router.post("", operation_id="create_video", openapi_extra=body)
    async def create(
        request: Request, response: Response, strict: Strict = False, idempotency_key: IdempotencyKey = None
    ) -> Video:
        """Put a clip to make into the queue."""
        job, ignored = await _submitted(service, request, strict, idempotency_key)
        return await run_in_threadpool(show, service, job, response, ignored)

    @router.post(
        "/sync",
        operation_id="create_video_sync",
        openapi_extra=body,
        response_class=Response,
        responses=media({200: "the clip"}) | {504: ERRORS["4XX"]},
    )
    async def create_and_wait(
        request: Request, strict: Strict = False, idempotency_key: IdempotencyKey = None
    ) -> Response:
        """Make a clip and answer with its file; a client that goes, having sent no key, cancels it."""
        job, _ = await _submitted(service, request, strict, idempotency_key)
        job = await _finished(service, request, job, is_kept=idempotency_key is not None)
        answer = await run_in_threadpool(content, service.files, job, "video", None)
        answer.headers["X-Video-Id"] = job.id
        answer.headers["X-Model"] = job.model.encode("ascii", "replace").decode()
        answer.headers["X-Inference-Time-S"] = str(job.inference_s)
        answer.headers["X-Peak-Memory-MB"] = str(job.peak_memory_mb)
        return answer

    @router.post("/{video_id}/remix", operation_id="remix_video", openapi_extra=request_body(RemixRequest))
    async def remix(
        video_id: Id,
        request: Request,
        response: Response,
        strict: Strict = False,
        idempotency_key: IdempotencyKey = None,
    ) -> Video:
        """Make another prompt with the settings and the seed of a video."""
        fields, is_form = await read_fields(request)
        wanted = validated(RemixRequest, fields, is_form=is_form, strict=strict)

        def add() -> Video:
            idempotency = None
            if idempotency_key is not None:
                idempotency = idempotency_key, body_hash({**fields, "remix": video_id})
            ignored = sorted(wanted.model_extra or ())
            if (known := service.repeated(idempotency, _owner(request))) is not None:
                return show(service, known, response, ignored)
            source = service.find(video_id, _owner(request))
            values = source.request
            facts, settled, warnings = service.settle(VideoRequest(
                prompt=wanted.prompt, model=source.model, seed=values["seed"], num_frames=values["frames"],
                fps=values["fps"], num_inference_steps=values["steps"], guidance_scale=values["guidance"],
                negative_prompt=values["negative"], height=values["height"], width=values["width"],
                loop=values.get("loop", False),
            ))  # fmt: skip
            job = service.submit(
                facts, settled, owner=_owner(request), warnings=warnings, remixed_from=source.id,
                idempotency=idempotency,
            )  # fmt: skip
            return show(service, job, response, ignored)

        return await run_in_threadpool(add)


async def _submitted(
    service: Service, request: Request, strict: bool, key: str | None
) -> tuple[Job, list[str]]:
    """The job of a request's body, and the fields that are not known. key: of idempotency."""
    fields, is_form = await read_fields(request)
    wanted: VideoRequest = validated(service.request_model, fields, is_form=is_form, strict=strict)

    def add() -> Job:
        idempotency = None if key is None else (key, body_hash(fields))
        if (known := service.repeated(idempotency, _owner(request))) is not None:
            return known
        facts, settled, warnings = service.settle(wanted)
        return service.submit(
            facts, settled, owner=_owner(request), warnings=warnings, idempotency=idempotency
        )

    return await run_in_threadpool(add), wanted.ignored


async def _finished(service: Service, request: Request, job: Job, *, is_kept: bool) -> Job:
    """A job when it is finished. is_kept: whether it goes on where the client goes, or it takes too long."""
    waited = 0.0
    while not job.is_finished:
        if await request.is_disconnected() or waited > service.config.sync_timeout:
            if is_kept:
                message = (
                    f"{job.id} goes on after {waited:.0f} s; repeat the request with its Idempotency-Key"
                )
                raise ApiError(504, "timeout", message)
            await run_in_threadpool(service.store.cancel, job.id, job.owner)
            raise ApiError(504, "timeout", f"{job.id} was cancelled after {waited:.0f} s")
        if service.is_stopping:
            raise ApiError(503, "stopping", f"the server is being stopped; {job.id} is kept", retry_after=10)
        await asyncio.sleep(LOOK_EVERY)
        waited += LOOK_EVERY
        job = await run_in_threadpool(service.find, job.id, job.owner)
    return job


def _add_inspecting(router: APIRouter, most: int) -> None:
    """The route that reads an uploaded file. most: bytes of one."""

    @router.post(
        "/inspect",
        operation_id="inspect_file",
        openapi_extra={"requestBody": {"required": True, "content": {FORMS[0]: {"schema": FILE}}}},
    )
    async def inspect(request: Request) -> Settings:
        """Read the settings inside a file that this package made."""
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != FORMS[0]:
            raise ApiError(415, "unsupported_media_type", f"send {FORMS[0]} with a file")
        async with form_of(request, files=1, fields=10) as form:
            file = form.get("file")
            if not isinstance(file, UploadFile):
                raise ApiError(400, "invalid_request", "file: is missing", param="file")
            if file.size is None or file.size > most:
                raise ApiError(
                    413, "request_too_large", f"the file is larger than {most} bytes", param="file"
                )
            held = await file.read()
        try:
            return Settings(settings=await run_in_threadpool(settings_of, held))
        except BusyError as error:
            message = "other files are being read; try again later"
            raise ApiError(429, "rate_limit_exceeded", message, retry_after=_RETRY_UPLOAD) from error
        except UnreadableError as error:
            raise ApiError(400, "unreadable_file", str(error), param="file") from error


def _add_looking(router: APIRouter, service: Service) -> None:
    """Routes that change nothing."""
    store = service.store
    making = CapacityLimiter(_MADE_AT_ONCE)  # of threads, which all other requests need

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
            last = store.place_of(after, owner)
            if last is None:
                raise not_found(after, "after")
        jobs, more = store.page(owner, after=last, limit=limit, newest_first=order == "desc")
        positions = store.positions()
        data = [video(job, positions.get(job.id)) for job in jobs]
        first, last_id = (data[0].id, data[-1].id) if data else (None, None)
        return VideoList(data=data, first_id=first, last_id=last_id, has_more=more)

    @router.get("/{video_id}", operation_id="retrieve_video")
    def retrieve(video_id: Id, request: Request, response: Response) -> Video:
        """Look at a video; one that failed is no error."""
        return show(service, service.find(video_id, _owner(request)), response)

    @router.get(
        "/{video_id}/content",
        operation_id="download_video",
        response_class=Response,
        responses=media({200: "the content", 206: "a range of it"}),
    )
    async def download(
        video_id: Id, request: Request, variant: Variant = "video", format: Format | None = None
    ) -> Response:
        """Download a clip, a thumbnail (webp) or a sheet of all frames (jpeg)."""
        job = await run_in_threadpool(service.find, video_id, _owner(request))
        wanted = service.files, job, variant, format
        limiter = making if await run_in_threadpool(is_work, *wanted) else None
        return await to_thread.run_sync(content, *wanted, limiter=limiter)

    @router.get(
        "/{video_id}/events",
        operation_id="follow_video",
        response_class=StreamingResponse,
        responses={200: {"description": "server-sent events", "content": {"text/event-stream": {}}}},
    )
    async def events(video_id: Id, request: Request) -> StreamingResponse:
        """Follow a video by events until it is finished: `status` (a video), `preview` (step, data URL)."""
        job = await run_in_threadpool(service.find, video_id, _owner(request))
        unheld = {"X-Accel-Buffering": "no"}  # by nginx
        return StreamingResponse(events_of(service, job), media_type="text/event-stream", headers=unheld)


def _add_ending(router: APIRouter, service: Service) -> None:
    """Routes that end a video or remove it."""
    store = service.store

    @router.delete("/{video_id}", operation_id="delete_video")
    def delete(video_id: Id, request: Request) -> DeletedVideo:
        """Remove a video in any state; the making of it stops."""
        job = service.find(video_id, _owner(request))
        try:
            store.delete(video_id, job.owner)
        except StoreFullError:  # its own files make the room that the change needs
            service.files.remove(video_id)
            store.delete(video_id, job.owner)
        service.files.remove(video_id)
        return DeletedVideo(id=video_id)

    @router.post("/{video_id}/cancel", operation_id="cancel_video")
    def cancel(video_id: Id, request: Request, response: Response) -> Video:
        """Fail a video that waits or is being made as `cancelled`; a finished one stays as it is."""
        job = store.cancel(video_id, _owner(request))
        if job is None:
            raise not_found(video_id)
        return show(service, job, response)


async def _post_only() -> JSONResponse:
    raise HTTPException(405, "send it by POST", {"Allow": "POST"})


async def _unsupported() -> JSONResponse:
    raise ApiError(400, "unsupported", "these models make clips from text only")


def _owner(request: Request) -> str:
    return str(getattr(request.state, "owner", ""))
