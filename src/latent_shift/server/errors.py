"""Errors in OpenAI's shape for every answer that is none: {"error": {message, type, param, code}}.

raise ApiError(400, "video_not_ready", "the video is still being made")
install(app)           # also 404, 405, 413 and errors of validation of the framework; 400, never 422
"""

from __future__ import annotations

import math
import re
import sys
import traceback
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException

from latent_shift.io import printable

_CODES = {
    400: "invalid_request", 401: "invalid_api_key", 403: "forbidden", 404: "not_found",
    405: "method_not_allowed", 413: "request_too_large", 415: "unsupported_media_type",
    429: "rate_limit_exceeded", 500: "internal_error", 503: "unavailable", 504: "timeout",
}  # fmt: skip


class ErrorContent(BaseModel):
    """A fault, for programs (`code`, `param`) and people (`message`)."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorBody(BaseModel):
    """The body of every answer that is an error."""

    error: ErrorContent


class ApiError(Exception):
    """An answer that is an error.

    status: of HTTP. code: for programs. message: for people. param: the field at fault. retry_after: seconds
    after which the request may succeed.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        param: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.param = status, code, message, param
        self.headers = {} if retry_after is None else {"Retry-After": str(min(120, math.ceil(retry_after)))}


def error_response(
    status: int, code: str, message: str, param: str | None = None, headers: dict[str, str] | None = None
) -> JSONResponse:
    """An error as an answer.

    status: of HTTP. code: for programs. message: for people. param: the field at fault. headers: more.
    """
    kind = "server_error" if status >= 500 else "invalid_request_error"
    if status == 429:
        kind = "rate_limit_error"
    content = ErrorContent(
        message=printable(message), type=kind, param=None if param is None else printable(param), code=code
    )
    return JSONResponse(ErrorBody(error=content).model_dump(), status, headers)


def storage_full() -> ApiError:
    """The answer where the disk has no room."""
    return ApiError(429, "storage_full", "the server's disk is full; try again later", retry_after=60)


def validation_message(error: ValidationError | RequestValidationError) -> tuple[str, str]:
    """The first error of a validation: the field's name and what is wrong with it."""
    first = error.errors()[0]
    places = [str(part) for part in first["loc"] if part not in ("body", "query", "path", "header")]
    param = places[0] if places else "body"
    shown = "" if first["type"] == "missing" else f", got {printable(str(first['input'])[:80])!r}"
    message = re.sub("^(Value error, |Input )", "", str(first["msg"]))
    return param, f"{param}: {message}{shown}"


def install(app: FastAPI) -> None:
    """Make an application answer all errors in this shape."""

    @app.exception_handler(ApiError)
    async def api_error(request: Request, error: ApiError) -> JSONResponse:
        return error_response(error.status, error.code, error.message, error.param, error.headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        param, message = validation_message(error)
        if error.errors()[0]["loc"][0] == "path":  # no thing has such an id
            return error_response(404, "not_found", message, param)
        return error_response(400, "invalid_request", message, param)

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> JSONResponse:
        headers: dict[str, str] = dict(error.headers or {})
        if error.status_code == 405:
            headers["Allow"] = ", ".join(_methods_of(app, request.url.path)) or headers.get("Allow", "GET")
        code = _CODES.get(error.status_code, "invalid_request")
        return error_response(error.status_code, code, str(error.detail), headers=headers)

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> JSONResponse:
        traceback.print_exception(error, file=sys.stderr)
        return error_response(500, "internal_error", "the server failed at this request; see its log")


def _methods_of(app: FastAPI, path: str) -> list[str]:
    """All methods of a path by the document: the framework names those of one route only."""
    for template, operations in app.openapi()["paths"].items():
        if re.fullmatch(re.sub(r"\\{\w+\\}", "[^/]+", re.escape(template)), path):
            return sorted(method.upper() for method in operations)
    return []


ERRORS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": ErrorBody, "description": "The request is refused; `error.code` says why."}
}
