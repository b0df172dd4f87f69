"""The study's web server: one page, and the few routes that it calls.

A rater's link is `/r/TOKEN`; `/join/INVITATION` gives a link to whoever agrees to take part. The token is all
that there is of an account. A rater gets only clips of pairs that were given to it, by the pair's random id
and the side, and a prompt's text only after the questions that come before it. No address is stored or
logged.

    uvicorn.run(create_app(folder), ...)       # as `latent-shift study serve` does
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, FastAPI
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request

from latent_shift import __version__
from latent_shift.server import errors
from latent_shift.server.errors import ERRORS, ApiError
from latent_shift.server.head import HeadAsGet
from latent_shift.server.pages import static_pages
from latent_shift.server.security import Guard, Security
from latent_shift.study.design import CLIPS, Choice, Kind, Study
from latent_shift.study.schema import ConflictError, Showing, UnknownError
from latent_shift.study.store import StudyStore, check_clips

PAGE = Path(__file__).parent / "page"
_CLIP_HEADERS = {"Cache-Control": "private, max-age=3600"}
_BODY_BYTES = 10_000
Token = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Join(_Message):
    """Someone who agreed to take part, with the invitation of the link for all."""

    invitation: str = Field(max_length=64)


class Joined(_Message):
    """The new rater's token."""

    token: str


class GivenAnswer(_Message):
    """An answer. seconds: from the end of the first whole play, by the page's clock."""

    showing: str = Field(max_length=64)
    question: str = Field(max_length=64)
    choice: Choice
    seconds: float = Field(0.0, ge=0, le=86_400, allow_inf_nan=False)
    plays: int = Field(1, ge=0, le=100_000)


class QuestionNow(_Message):
    """The question to answer now. prompt: its text, for questions with it."""

    id: str
    text: str
    prompt: str | None


class Feedback(_Message):
    """Whether the last answer to a training pair was right."""

    question: str
    right: bool
    expected: Literal["left", "right"]


class Pair(_Message):
    """The pair in front of a rater. question: None where all are answered."""

    showing: str
    kind: Literal["training", "pair"]
    question: QuestionNow | None
    number: int
    of: int
    feedback: list[Feedback]


class State(_Message):
    """All that the page shows. pair: None before consent and at the end."""

    title: str
    stage: Literal["consent", "rating", "finished"]
    consent: str
    no_difference: bool
    clip_seconds: float
    frames: int
    width: int
    height: int
    pairs: int
    minutes: int
    pair: Pair | None


def create_app(folder: Path, security: Security | None = None, *, open_to_all: bool = True) -> FastAPI:
    """An application for the study in `folder`.

    security: hosts and sizes; by default those of a server on loopback. open_to_all: whether the invitation's
    link is taken. Raises ValueError for a study that was changed or damaged.
    """
    store = StudyStore.open(folder)
    check_clips(store.study, folder / CLIPS)
    app = FastAPI(title=store.study.options.title, version=__version__, docs_url=None, redoc_url=None,
                  openapi_url=None)  # fmt: skip
    app.state.store = store
    errors.install(app)

    @app.exception_handler(UnknownError)
    async def unknown(request: Request, error: UnknownError) -> JSONResponse:
        return errors.error_response(404, "not_found", str(error.args[0]))

    @app.exception_handler(ConflictError)
    async def conflict(request: Request, error: ConflictError) -> JSONResponse:
        return errors.error_response(409, error.code, str(error))

    app.include_router(_rating_routes(store, folder / CLIPS, open_to_all))
    app.include_router(_page_routes(store))
    app.include_router(static_pages(PAGE))
    app.add_middleware(Guard, settings=security or Security(body_bytes=_BODY_BYTES))
    app.add_middleware(HeadAsGet)
    return app


def _page_routes(store: StudyStore) -> APIRouter:
    router = APIRouter()
    page = (PAGE / "index.html").read_text(encoding="utf-8")

    @router.get("/join/{invitation}")
    @router.get("/r/{token}")
    async def index() -> HTMLResponse:
        return HTMLResponse(page, headers={"Cache-Control": "no-cache"})

    return router


def _rating_routes(store: StudyStore, clips: Path, open_to_all: bool) -> APIRouter:
    router = APIRouter(prefix="/api", responses=ERRORS)
    invitation = store.invitation() if open_to_all else None

    def check_invitation(given: str) -> None:
        if given != invitation:
            raise ApiError(404, "not_found", "there is no such link")

    @router.get("/join/{given}")
    def invited(given: str) -> State:
        check_invitation(given)
        return _state(store.study, "consent", None)

    @router.post("/join")
    def join(body: Join) -> Joined:
        check_invitation(body.invitation)
        token = store.add_rater()
        store.consent(token)
        return Joined(token=token)

    @router.get("/r/{token}")
    def state(token: Token) -> State:
        if not store.consented(token):
            return _state(store.study, "consent", None)
        showing = store.current(token)
        return _state(store.study, "finished" if showing is None else "rating", _pair(store, showing))

    @router.post("/r/{token}/consent")
    def consent(token: Token) -> State:
        store.consent(token)
        return state(token)

    @router.post("/r/{token}/answers")
    def answer(token: Token, body: GivenAnswer) -> State:
        showing = store.answer(
            token, body.showing, body.question, body.choice, seconds=body.seconds, plays=body.plays
        )
        return _state(store.study, "rating", _pair(store, showing))

    @router.get("/r/{token}/clips/{showing}/{side}.mp4")
    def clip(token: Token, showing: Token, side: Literal["left", "right"]) -> FileResponse:
        name = store.clip(token, showing, side == "left")
        return FileResponse(clips / f"{name}.mp4", media_type="video/mp4", headers=_CLIP_HEADERS)

    return router


def _state(study: Study, stage: Literal["consent", "rating", "finished"], pair: Pair | None) -> State:
    items = len(study.sessions[0])
    seconds = items * len(study.options.questions) * (study.clip_seconds + 3)
    facts: dict[str, Any] = {
        "title": study.options.title, "consent": study.options.consent, "frames": study.frames,
        "no_difference": study.options.no_difference, "clip_seconds": study.clip_seconds,
        "width": study.width, "height": study.height, "pairs": items, "minutes": max(round(seconds / 60), 1),
    }  # fmt: skip
    return State(**facts, stage=stage, pair=pair)


def _pair(store: StudyStore, showing: Showing | None) -> Pair | None:
    """A showing for its rater: a catch pair and a repeat look like any other."""
    if showing is None:
        return None
    study, question = store.study, None
    for one in study.options.questions:
        if one.id not in showing.answers:
            prompt = study.prompts[showing.prompt] if one.with_prompt else None
            question = QuestionNow(id=one.id, text=one.text, prompt=prompt)
            break
    shown: Kind = "training" if showing.kind == "training" else "pair"
    return Pair(
        showing=showing.id,
        kind=shown,
        question=question,
        number=showing.place + 1,
        of=showing.of,
        feedback=_feedback(store, showing) if shown == "training" else [],
    )


def _feedback(store: StudyStore, showing: Showing) -> list[Feedback]:
    known = store.known_pair(showing)
    if known is None:
        return []
    found = []
    for question, choice in showing.answers.items():
        expected: Literal["left", "right"] = (
            "left" if showing.clips[0] == known.clips[known.expected[question]] else "right"
        )
        found.append(Feedback(question=question, right=choice == expected, expected=expected))
    return found
