"""A page as static files of the package: no build step, nothing from another server, unchanged in memory.

    app.include_router(static_pages(Path(__file__).parent / "static"))      # "/" is its index.html

Files are read once, and a path is looked up among their names: no path of a request is ever opened.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from fastapi import APIRouter, Request, Response
from starlette.exceptions import HTTPException

TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".webp": "image/webp",
    ".png": "image/png",
}


def static_pages(folder: Path, *, prefix: str = "", index: str = "index.html") -> APIRouter:
    """Routes to the files of a folder: `index` at "<prefix>/", all at "<prefix>/static/NAME".

    folder: with files of the types above, none in folders below. prefix: of the paths. index: name of a file.
    """
    contents = {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.suffix in TYPES}
    router = APIRouter(include_in_schema=False)

    def answer(name: str, request: Request) -> Response:
        content = contents[name]
        etag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
        headers = {"ETag": etag, "Cache-Control": "no-cache"}
        if request.headers.get("if-none-match") == etag:
            return Response(None, 304, headers)
        return Response(content, 200, headers, TYPES[Path(name).suffix])

    @router.get(f"{prefix}/")
    async def page(request: Request) -> Response:
        return answer(index, request)

    @router.get(f"{prefix}/static/{{name}}")
    async def file(name: str, request: Request) -> Response:
        if name not in contents:
            raise HTTPException(404, "there is no such file")
        return answer(name, request)

    return router
