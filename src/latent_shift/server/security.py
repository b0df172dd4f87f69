"""Protection of a local server: Host and Origin checks, API keys, size of bodies, headers of every answer.

One ASGI middleware without any knowledge of what it protects:

    app.add_middleware(Guard, settings=Security(hosts=("localhost", "127.0.0.1"), body_bytes=10**6))

- A page of another site can make a browser send requests to a server on this machine. The name by which the
  server is called (Host) must be one of its own, which defeats DNS rebinding; a request that changes things
  must not come from another origin, which defeats forms of other sites.
- With API keys every request but those for public paths needs one ("Authorization: Bearer KEY").
- A body larger than allowed is refused with 413, by its header or as soon as it has grown too large.
- Every answer has a strict Content-Security-Policy and a request id.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import sys
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from latent_shift.server.errors import error_response

LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
_SAFE_METHODS = ("GET", "HEAD", "OPTIONS", "TRACE")
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data: blob:;"
    " media-src 'self' blob:; font-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)


@dataclass(frozen=True)
class Security:
    """Settings of a `Guard`.

    hosts: names that the server is called by, without port. api_keys: empty where none is needed.
    public_paths: what needs no key; a path that ends in "/" stands for all below it. body_bytes: size of a
    body. larger_bodies: other sizes, by path.
    """

    hosts: tuple[str, ...] = LOOPBACK
    api_keys: tuple[str, ...] = ()
    public_paths: tuple[str, ...] = ()
    body_bytes: int = 10**6
    larger_bodies: Mapping[str, int] = field(default_factory=dict)

    def is_public(self, path: str) -> bool:
        """Whether a path needs no key."""
        return any(
            path == public or (public.endswith("/") and path.startswith(public) and public != "/")
            for public in self.public_paths
        )


class Guard:
    """The middleware; `scope["state"]["owner"]` is a hash of the request's API key, "" without keys."""

    def __init__(self, app: ASGIApp, settings: Security) -> None:
        self._app, self._settings = app, settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        request_id = secrets.token_hex(8)
        started = False

        async def send_safely(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                _add_headers(MutableHeaders(scope=message), request_id)
            await send(message)

        refused = self._refusal(scope["method"], scope["path"], headers)
        if refused is not None:
            await error_response(*refused)(scope, receive, send_safely)
            return
        scope.setdefault("state", {})["owner"] = self._owner(headers)
        allowed = self._settings.larger_bodies.get(scope["path"], self._settings.body_bytes)
        received = 0

        async def receive_some() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > allowed:
                raise _TooLargeError
            return message

        try:
            if int(headers.get("content-length", "0") or "0") > allowed:
                raise _TooLargeError
            await self._app(scope, receive_some, send_safely)
        except _TooLargeError:
            if not started:
                message = f"the body is larger than {allowed} bytes"
                await error_response(413, "request_too_large", message)(scope, receive, send_safely)
        except Exception as error:
            if started:
                raise
            traceback.print_exception(error, file=sys.stderr)
            message = "the server failed at this request; see its log"
            await error_response(500, "internal_error", message)(scope, receive, send_safely)

    def _refusal(
        self, method: str, path: str, headers: Headers
    ) -> tuple[int, str, str, None, dict[str, str]] | None:
        """Answer that refuses a request; None where it is let through."""
        host = headers.get("host", "")
        if _name(host) not in self._settings.hosts:
            message = f"this server is not called {_name(host)!r}; start it with --allowed-host for that name"
            return 403, "host_not_allowed", message, None, {}
        if method not in _SAFE_METHODS:
            site, origin = headers.get("sec-fetch-site"), headers.get("origin")
            # A browser that says whether a page is of this site is believed: behind a proxy Host is another.
            foreign = site not in ("same-origin", "none")
            if site is None:
                foreign = origin is not None and origin.partition("://")[2] != host
            if foreign:
                return 403, "cross_site_request", "requests of other sites' pages are refused", None, {}
        if self._settings.api_keys and not self._settings.is_public(path) and not self._has_key(headers):
            message = "this server needs an API key: Authorization: Bearer KEY"
            return 401, "invalid_api_key", message, None, {"WWW-Authenticate": "Bearer"}
        return None

    def _has_key(self, headers: Headers) -> bool:
        given = _bearer(headers).encode()
        # Each is compared, in constant time: neither length of the list nor place of the key shows.
        return any([hmac.compare_digest(given, key.encode()) for key in self._settings.api_keys])

    def _owner(self, headers: Headers) -> str:
        if not self._settings.api_keys:
            return ""
        return hashlib.sha256(_bearer(headers).encode()).hexdigest()[:16]


class _TooLargeError(Exception):
    """A body that is larger than allowed."""


def _name(host: str) -> str:
    """The name of a Host header, without port: "[::1]:8000" is "[::1]"."""
    name, _, port = host.rpartition(":")
    return (name if name and port.isdigit() else host).lower()


def _bearer(headers: Headers) -> str:
    scheme, _, key = headers.get("authorization", "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else ""


def _add_headers(headers: MutableHeaders, request_id: str) -> None:
    headers["X-Request-Id"] = request_id
    headers.setdefault("Content-Security-Policy", CONTENT_SECURITY_POLICY)
    headers["X-Content-Type-Options"] = "nosniff"
    headers["X-Frame-Options"] = "DENY"
    headers["Referrer-Policy"] = "no-referrer"
    headers["Cross-Origin-Resource-Policy"] = "same-origin"
    headers["Cross-Origin-Opener-Policy"] = "same-origin"
    headers.setdefault("Cache-Control", "no-store")
