"""Jobs as clients see them: a video, and the events of one that is being made."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from typing import Any

from fastapi import Response
from starlette.concurrency import run_in_threadpool

from latent_shift.server.bodies import Video, VideoError
from latent_shift.server.jobs import Job
from latent_shift.server.service import Service

LOOK_EVERY = 0.1  # seconds between two looks of a request that waits
_COMMENT_EVERY = 100  # looks, after which a silent stream of events shows that it lives


def video(job: Job, place: int | None, ignored: list[str] | None = None) -> Video:
    """A job as clients see it. place: in the queue, of one that waits. ignored: unknown fields."""
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
        negative_prompt=request["negative"], loop=request.get("loop", False),
        queue_position=place,
        inference_time_s=job.inference_s, peak_memory_mb=job.peak_memory_mb, expired=job.expired,
        warnings=list(job.warnings), ignored=ignored or [],
    )  # fmt: skip


def _seconds(time: float | None) -> int | None:
    return None if time is None else int(time)


def show(service: Service, job: Job, response: Response, ignored: list[str] | None = None) -> Video:
    """A job as the answer to a request, with advice when to look again.

    service: of the job. job: to be shown. response: gets the advice. ignored: unknown fields.
    """
    place = service.store.position(job)
    if not job.is_finished:
        response.headers["openai-poll-after-ms"] = str(service.poll_ms(job, place))
    return video(job, place, ignored)


async def events_of(service: Service, job: Job) -> AsyncIterator[str]:
    """Events of a job until it is finished or the server stops; previews are made while somebody listens."""
    shown: Any = None
    preview = silent = 0
    while True:
        place = await run_in_threadpool(service.store.position, job) if job.status == "queued" else None
        state = (job.status, job.progress, place)
        if state != shown:
            shown, silent = state, 0
            yield _event("status", video(job, place).model_dump())
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
        await asyncio.sleep(LOOK_EVERY)
        found = await run_in_threadpool(service.store.get, job.id, job.owner)
        if found is None:
            yield _event("deleted", {"id": job.id})
            return
        job = found


def _event(name: str, content: dict[str, Any]) -> str:
    return f"event: {name}\ndata: {json.dumps(content)}\n\n"
