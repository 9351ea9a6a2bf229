"""The agent's page: find a customer, see them on one line over all channels, live, and say who is one person."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from fastapi import APIRouter
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from shared import pages

if TYPE_CHECKING:
    from shared.service import Platform

FOLDER = Path(__file__).parent


def console_router(platform: Platform) -> APIRouter:
    """Return the routes of the page: `/` and `/console`, with their scripts and styles."""
    router = APIRouter(include_in_schema=False)
    shell = pages.template(FOLDER, "console.html")

    @router.get("/")
    async def start() -> Response:
        return RedirectResponse("/console", status_code=307)

    @router.get("/console")
    async def page() -> Response:
        return HTMLResponse(shell.render(scope="timeline:read"), headers=pages.HEADERS)

    pages.add_files(router, "/console/static", FOLDER / "static")
    return router
