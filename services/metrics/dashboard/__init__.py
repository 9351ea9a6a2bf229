"""The ops page: every KPI live, how it moves, what it is made of, and the benchmark beside it.

Server-rendered shell, small ES modules, no build step, strict policy. The page's own route `/ops/data` brings all KPIs
of a window in one answer, so that a page open on a wall costs a few statements a refresh and not a hundred.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any
from zoneinfo import ZoneInfo

import orjson
from fastapi import APIRouter, Depends, Query, Response
from fastapi.responses import HTMLResponse, RedirectResponse

from services.metrics import sums
from services.metrics.entries import SECOND, instant, micros
from services.metrics.exposition import ask_together
from services.metrics.kpis import DEFINITIONS, FAMILIES
from services.metrics.presenting import describe, provisional
from services.metrics.reading.answering import Answer
from services.metrics.reading.question import Query as Asked
from shared import pages
from shared.auth import Principal, require
from shared.database.engine import tenant_reader
from shared.events import rfc3339
from shared.service import Platform

FOLDER = Path(__file__).parent
WINDOWS_S = {"1h": 3600, "24h": 86_400, "7d": 604_800, "28d": 2_419_200}
PARTS = {"1h": 12, "24h": 24, "7d": 28, "28d": 28}
"""How many parts of a window the line shows."""

Reader = Annotated[Principal, Depends(require("kpis:read"))]


def dashboard_router(platform: Platform) -> APIRouter:
    """Return the routes of the page: `/ops` (and `/dashboard`), its files, and its data."""
    router = APIRouter(include_in_schema=False)
    shell = pages.template(FOLDER, "ops.html")

    @router.get("/ops")
    async def page() -> Response:
        return HTMLResponse(shell.render(windows=list(WINDOWS_S), scope="kpis:read"), headers=pages.HEADERS)

    @router.get("/dashboard")
    async def dashboard() -> Response:
        # A browser keeps what stands after the #, so that a link that signs in works here too.
        return RedirectResponse("/ops", status_code=307)

    pages.add_files(router, "/ops/static", FOLDER / "static")

    @router.get("/ops/data")
    async def data(
        principal: Reader,
        window: Annotated[str, Query(pattern="^(1h|24h|7d|28d)$")] = "24h",
        family: Annotated[str | None, Query(max_length=40)] = None,
    ) -> Response:
        now = micros(platform.clock.now())
        async with tenant_reader(platform.pool, principal.tenant) as connection:
            rules = await sums.rules_of(connection, principal.tenant)
            currency = next(iter(await sums.currencies(connection, principal.tenant)), "EUR")
            length = WINDOWS_S[window] * SECOND
            borders = _borders(now, length, PARTS[window])
            queries = []
            for definition in DEFINITIONS:
                filters = {"family": family} if family and "family" in definition.dimensions else {}
                parameters = {"currency": currency} if "currency" in definition.parameters else {}
                base = (definition, borders, ZoneInfo(rules.timezone), now, (), filters, parameters, rules)
                queries.append(Asked(*base))
            before = [Asked(q.definition, (now - 2 * length, now - length + 1), *_rest(q)) for q in queries]
            found = await ask_together(connection, principal.tenant, queries)
            past = await ask_together(connection, principal.tenant, before)
        kpis = [_kpi(q, a, b, currency) for q, a, b in zip(queries, found, past, strict=True)]
        shown = {"now": rfc3339(instant(now)), "window": window, "families": FAMILIES, "kpis": kpis}
        return Response(orjson.dumps(shown), media_type="application/json")

    return router


def _borders(now: int, length: int, parts: int) -> tuple[int, ...]:
    """Return the borders of a window that ends with this very moment."""
    return (*(now - length + length * part // parts for part in range(parts)), now + 1)


def _rest(query: Asked) -> tuple[Any, ...]:
    return query.zone, query.now, query.group_by, query.filters, query.parameters, query.rules


def _kpi(query: Asked, found: Answer, before: Answer, currency: str) -> dict[str, Any]:
    figures = found.total.figures
    return {
        **describe(query.definition),
        "value": figures.value,
        "numerator": figures.numerator,
        "denominator": figures.denominator,
        "p50": figures.p50,
        "p90": figures.p90,
        "min": figures.min,
        "max": figures.max,
        "before": before.total.figures.value,
        "provisional": provisional(query, found.total.end - 1),
        "points": [point.figures.value for point in found.points],
        "currency": currency if query.definition.unit == "money" else None,
    }
