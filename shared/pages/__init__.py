"""What the pages for people share: their policy, how their files are served, and the scripts and styles they all load.

No build step and no data in a page: a shell, small ES modules, and everything else from the public API with the
reader's own session, so a page can show nothing that the key may not see.
"""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter, HTTPException
from fastapi.responses import FileResponse, Response
from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

MEDIA = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'self'; frame-ancestors 'none'; require-trusted-types-for 'script'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-cache",
}


def template(folder: Path, name: str) -> Template:
    """Return a page's shell. It may include `session.html`, the dialog that asks for a key."""
    folders = [folder / "templates", Path(__file__).parent / "templates"]
    return Environment(loader=FileSystemLoader(folders), autoescape=True, undefined=StrictUndefined).get_template(name)


def add_files(router: APIRouter, prefix: str, folder: Path) -> None:
    """Serve the scripts, styles and pictures of `folder` below `prefix`."""
    # A table of the files there are, so that no name can lead elsewhere.
    files = {path.name: path for path in folder.iterdir() if path.suffix in MEDIA}

    @router.get(f"{prefix}/{{name}}", include_in_schema=False)
    async def static(name: str) -> Response:
        if name not in files:
            raise HTTPException(404)
        return FileResponse(files[name], media_type=MEDIA[files[name].suffix], headers=HEADERS)


def pages_router() -> APIRouter:
    """Return the routes of what all pages load."""
    router = APIRouter()
    add_files(router, "/pages", Path(__file__).parent / "static")
    return router
