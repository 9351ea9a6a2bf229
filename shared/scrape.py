"""`GET /metrics`: who may scrape a process, and what one without the metrics service shows."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import APIRouter, Request, Response
from prometheus_client.exposition import choose_encoder

from shared.auth import Principal
from shared.problems import Problem
from shared.service import Platform

Shown = Callable[[Principal | None, str], Awaitable[tuple[bytes, str]]]
"""What somebody who scrapes (None: without a key, where metrics are open) and their `Accept` get, with its type."""

_PATH = "/metrics"
_SCOPE = "metrics:read"

_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "content": {media: {"schema": {"type": "string"}} for media in ("text/plain", "application/openmetrics-text")},
        "description": "one metric family after the other",
    }
}

# Beside keys, nobody's: where service metrics are open.
_SECURITY: dict[str, Any] = {"security": [{"key": []}, {}]}


def scrape_router(platform: Platform, summary: str, shown: Shown) -> APIRouter:
    """Return the route that Prometheus scrapes."""
    router = APIRouter(tags=["metrics"])

    @router.get(_PATH, summary=summary, response_class=Response, responses=_RESPONSES, openapi_extra=_SECURITY)
    async def metrics(request: Request) -> Response:
        """Prometheus or OpenMetrics text, as `Accept` asks: this process's metrics and, where the metrics service
        runs, the KPIs of the key's tenant."""
        body, content_type = await shown(await _scraper(platform, request), request.headers.get("accept", ""))
        return Response(body, headers={"content-type": content_type})

    return router


def of_the_process(platform: Platform) -> Shown:
    """Show what a process counts of itself; KPIs are the metrics service's to show."""

    async def shown(_: Principal | None, accept: str) -> tuple[bytes, str]:
        encoder, content_type = choose_encoder(accept)
        return encoder(platform.registry), content_type

    return shown


async def _scraper(platform: Platform, request: Request) -> Principal | None:
    """Return who scrapes; None for somebody without a key where service metrics are open. Raises Problem 401, 403."""
    try:
        return await platform.auth.authorize(request, _SCOPE)
    except Problem as problem:
        if platform.settings.metrics_open and problem.status == 401 and "authorization" not in request.headers:
            return None
        raise
