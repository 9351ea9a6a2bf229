"""`GET /metrics` of a process without the metrics service, and who may scrape."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response
from prometheus_client.exposition import choose_encoder

from shared.auth import Principal
from shared.problems import Problem
from shared.service import Platform

PATH = "/metrics"
SCOPE = "metrics:read"

RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "content": {media: {"schema": {"type": "string"}} for media in ("text/plain", "application/openmetrics-text")},
        "description": "one metric family after the other",
    }
}

# Beside keys, nobody's: where service metrics are open.
SECURITY: dict[str, Any] = {"security": [{"key": []}, {}]}


async def scraper(platform: Platform, request: Request) -> Principal | None:
    """Return who scrapes; None for somebody without a key where service metrics are open. Raises Problem 401, 403."""
    try:
        return await platform.auth.authorize(request, SCOPE)
    except Problem as problem:
        if platform.settings.metrics_open and problem.status == 401 and "authorization" not in request.headers:
            return None
        raise


def scrape_router(platform: Platform) -> APIRouter:
    """Return the route by which a process shows what it counts of itself; KPIs are the metrics service's to show."""
    router = APIRouter(tags=["metrics"])

    @router.get(
        PATH,
        summary="Metrics of this process for Prometheus",
        response_class=Response,
        responses=RESPONSES,
        openapi_extra=SECURITY,
    )
    async def metrics(request: Request) -> Response:
        """Prometheus or OpenMetrics text, as `Accept` asks. KPIs are shown where the metrics service runs."""
        await scraper(platform, request)
        encoder, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encoder(platform.registry), headers={"content-type": content_type})

    return router
