"""The agent's page: find a customer, see them on one line over all channels.

Server-rendered shell, small ES modules, no build step. The page holds no data of its own: everything comes from the
public API with the reader's own session, so it can show nothing that the key may not see.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from fastapi import APIRouter, HTTPException
from fastapi.responses import FileResponse, HTMLResponse, RedirectResponse, Response
from jinja2 import Environment, FileSystemLoader, StrictUndefined

if TYPE_CHECKING:
    from shared.service import Platform

FOLDER = Path(__file__).parent
STATIC = {path.name: path for path in (FOLDER / "static").iterdir() if path.suffix in (".js", ".css", ".svg")}
MEDIA = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'; require-trusted-types-for 'script'"
)
HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-cache",
}


def console_router(platform: Platform) -> APIRouter:
    """Return the routes of the page: `/` and `/console`, with their scripts and styles."""
    router = APIRouter(include_in_schema=False)
    shell = Environment(
        loader=FileSystemLoader(FOLDER / "templates"), autoescape=True, undefined=StrictUndefined
    ).get_template("console.html")

    @router.get("/")
    async def start() -> Response:
        return RedirectResponse("/console", status_code=307)

    @router.get("/console")
    async def page() -> Response:
        return HTMLResponse(shell.render(), headers=HEADERS)

    @router.get("/console/static/{name}")
    async def static(name: str) -> Response:
        # A table of the files there are, so that no name can lead elsewhere.
        if name not in STATIC:
            raise HTTPException(404)
        return FileResponse(STATIC[name], media_type=MEDIA[STATIC[name].suffix], headers=HEADERS)

    return router
