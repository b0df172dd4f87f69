"""The ASGI application: models, health, metrics, the page, and the routes of videos behind the guard."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool

from latent_shift import __version__
from latent_shift.server import errors
from latent_shift.server.config import ServerConfig
from latent_shift.server.errors import ERRORS
from latent_shift.server.head import HeadAsGet
from latent_shift.server.jobs import StoreBusyError, StoreFullError
from latent_shift.server.metrics import CONTENT_TYPE
from latent_shift.server.pages import static_pages
from latent_shift.server.security import Guard, Security
from latent_shift.server.service import ModelFacts, Service
from latent_shift.server.videos import video_routes

_PUBLIC = ("/", "/static/", "/health", "/livez", "/readyz")
_CREATED = 1_700_000_000  # models have no date of their own; a constant, as clients sort by it


class ModelDefaults(BaseModel):
    """A model's own values, and what sizes it makes."""

    num_frames: int
    fps: float
    num_inference_steps: int
    guidance_scale: float
    width: int
    height: int
    size_multiple: int
    loops: bool = Field(description="whether it makes clips that begin again where they end")


class RequestLimits(BaseModel):
    """Most that a request may ask for."""

    prompt_chars: int
    frames: int
    pixels: int
    steps: int
    work: int
    upload_bytes: int


class Model(BaseModel):
    """A model that is served."""

    id: str
    object: str = "model"
    created: int = _CREATED
    owned_by: str = "latent-shift"
    source: str | None = Field(
        description="name for `latent-shift generate` on the server's machine; null where a key is needed"
    )
    device: str = Field(description="that the server was started with, as dtype")
    dtype: str
    defaults: ModelDefaults
    limits: RequestLimits
    examples: list[str]


class ModelList(BaseModel):
    """All models that are served; the first is the default."""

    object: str = "list"
    data: list[Model]


class Health(BaseModel):
    """State of the server."""

    status: str
    worker: str
    version: str = __version__
    message: str = ""


def create_app(config: ServerConfig, security: Security | None = None) -> FastAPI:
    """An application that serves `config`; its lifespan starts and stops the worker.

    security: hosts, keys and sizes; by default those of a server on loopback. Raises ValueError for models
    that cannot be read, and for a store that is damaged, cannot be used or is of another version.
    """
    service = Service(config)
    guarded = security or security_of(config)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service.supervisor.start()
        yield
        service.is_stopping = True
        await run_in_threadpool(service.supervisor.stop)
        service.store.close()

    app = FastAPI(
        title="Latent-Shift", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None,
        description="Text to video: the shape of OpenAI's /v1/videos, with extensions.",
    )  # fmt: skip
    app.state.service = service
    errors.install(app)

    @app.exception_handler(StoreFullError)
    async def full(request: Request, error: StoreFullError) -> JSONResponse:
        answer = errors.storage_full()
        return errors.error_response(answer.status, answer.code, answer.message, answer.param, answer.headers)

    @app.exception_handler(StoreBusyError)
    async def busy(request: Request, error: StoreBusyError) -> JSONResponse:
        message = "the store of jobs is busy; try again later"
        return errors.error_response(503, "store_busy", message, headers={"Retry-After": "10"})

    app.include_router(video_routes(service))
    app.include_router(_service_routes(service, shows_sources=not guarded.api_keys))
    app.include_router(static_pages(Path(__file__).parent / "static"))
    app.add_middleware(Guard, settings=guarded)
    app.add_middleware(HeadAsGet)
    return app


def security_of(config: ServerConfig, **others: Any) -> Security:
    """The guard's settings for a configuration. others: fields of `Security`, as hosts and api_keys."""
    limits = config.limits
    larger = {"/v1/videos/inspect": limits.upload_bytes + limits.body_bytes}
    return Security(public_paths=_PUBLIC, body_bytes=limits.body_bytes, larger_bodies=larger, **others)


def _service_routes(service: Service, *, shows_sources: bool) -> APIRouter:
    router = APIRouter(tags=["service"], responses=ERRORS)

    def shown(facts: ModelFacts) -> Model:
        own, limits = facts.defaults, service.config.limits
        defaults = ModelDefaults(
            num_frames=own.frames, fps=own.fps, num_inference_steps=own.steps, guidance_scale=own.guidance,
            width=own.width, height=own.height, size_multiple=own.size_multiple, loops=own.loops,
        )  # fmt: skip
        most = RequestLimits(**{name: getattr(limits, name) for name in RequestLimits.model_fields})
        source = facts.name if shows_sources else None
        return Model(
            id=facts.id, source=source, device=service.config.device, dtype=service.config.dtype,
            defaults=defaults, limits=most, examples=list(facts.examples),
        )  # fmt: skip

    @router.get("/v1/models", operation_id="list_models")
    async def models() -> ModelList:
        """List the models."""
        return ModelList(data=[shown(facts) for facts in service.models.values()])

    @router.get("/v1/models/{model:path}", operation_id="retrieve_model")
    async def model(model: str) -> Model:
        """Look at a model."""
        return shown(service.model(model))

    def health_of(is_well: bool) -> JSONResponse:
        worker = service.supervisor
        state = "stopping" if service.is_stopping else "ok" if is_well else "unavailable"
        content = Health(status=state, worker=worker.state, message=worker.message)
        return JSONResponse(content.model_dump(), 200 if is_well else 503)

    unwell: dict[int | str, dict[str, Any]] = {200: {"model": Health}, 503: {"model": Health}}

    @router.get("/health", operation_id="health", responses=unwell)
    async def health() -> JSONResponse:
        """Answer 200 where the worker lives and has its model, else 503."""
        return health_of(service.supervisor.state == "ready" and not service.is_stopping)

    @router.get("/readyz", operation_id="readiness", responses=unwell)
    async def ready() -> JSONResponse:
        """Answer 200 where jobs are taken, else 503; they wait while a worker starts."""
        return health_of(not service.is_stopping)

    @router.get("/livez", operation_id="liveness")
    async def live() -> dict[str, str]:
        """Answer 200 where the server lives."""
        return {"status": "ok"}

    @router.get(
        "/metrics",
        operation_id="metrics",
        response_class=Response,
        responses={200: {"description": "metrics of Prometheus", "content": {"text/plain": {}}}},
    )
    def metrics() -> Response:
        """Show the metrics."""
        return Response(service.metrics.text(), media_type=CONTENT_TYPE)

    return router
