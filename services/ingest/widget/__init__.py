"""The chat widget: a script that a website includes, and the page in a frame that it opens.

The page speaks to its own origin only (the chat's webhook and its stream), so no browser has to be told to let a
website read anything of ours. Which websites may show it in a frame is the account's `options.origins`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse, HTMLResponse, Response
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from services.ingest.channels import Channels
from services.ingest.reading import clean_text
from shared.problems import not_found

FOLDER = Path(__file__).parent
MEDIA = {".js": "text/javascript", ".css": "text/css"}
STATIC = {path.name: path for path in (FOLDER / "static").iterdir() if path.suffix in MEDIA}

_ORIGIN = re.compile(r"https?://[A-Za-z0-9.-]+(:[0-9]{1,5})?", re.ASCII)

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; require-trusted-types-for 'script'; frame-ancestors 'self'"
)
FILE_HEADERS = {"Cache-Control": "public, max-age=300"}


def add_widget_routes(router: APIRouter, channels: Channels) -> None:
    """Add `/widget.js`, `/chat/{token}` (the last part of the account's webhook path) and the page's files."""
    page = Environment(
        loader=FileSystemLoader(FOLDER / "templates"), autoescape=True, undefined=StrictUndefined
    ).get_template("chat.html")

    @router.get("/widget.js", include_in_schema=False)
    async def loader() -> Response:
        # A website that isolates itself (COEP) may load it too.
        headers = {**FILE_HEADERS, "Cross-Origin-Resource-Policy": "cross-origin"}
        return FileResponse(STATIC["loader.js"], media_type=MEDIA[".js"], headers=headers)

    @router.get("/chat/static/{name}", include_in_schema=False)
    async def static(name: str) -> Response:
        # A table of the files there are, so that no name can lead elsewhere.
        if name not in STATIC:
            raise not_found("file")
        return FileResponse(STATIC[name], media_type=MEDIA[STATIC[name].suffix], headers=FILE_HEADERS)

    @router.get("/chat/{token}", include_in_schema=False)
    async def chat(request: Request, token: str) -> Response:
        channel = await channels.by_token(clean_text(token))
        if channel is None or channel.account.provider != "chat":
            raise not_found("chat")
        policy = " ".join([CONTENT_SECURITY_POLICY, *frame_ancestors(channel.account.options.get("origins"))])
        # X-Frame-Options cannot name websites; browsers that know frame-ancestors ignore it.
        headers = {"Content-Security-Policy": policy, "X-Frame-Options": "SAMEORIGIN", "Cache-Control": "no-cache"}
        return HTMLResponse(page.render(endpoint=channel.path, account=token), headers=headers)


def frame_ancestors(origins: Any) -> Sequence[str]:
    """Return those of an account's origins that can stand in a content security policy."""
    return [
        origin for origin in origins if isinstance(origin, str) and _ORIGIN.fullmatch(origin)
    ] if isinstance(origins, list) else []  # fmt: skip
