"""The KPI API."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Depends, Query, Request, Response

from services.metrics import sums
from services.metrics.asking import PAGING, definition_of, once, query_of
from services.metrics.entries import micros
from services.metrics.presenting import as_csv, catalogue, present
from services.metrics.reading.answering import Answer
from services.metrics.reading.question import Query as Asked
from services.metrics.receipts import receipts
from services.metrics.scoreboard import scoreboard
from services.metrics.shapes import KpiAnswer, Receipts, Scoreboard
from services.metrics.turns import beside
from services.metrics.windows import TooMuch
from shared.auth import Principal, require
from shared.database.engine import tenant_reader
from shared.log.database import Connection
from shared.problems import Fault, Problem
from shared.service import Platform

Reader = Annotated[Principal, Depends(require("kpis:read"))]


def kpi_router(platform: Platform) -> APIRouter:
    """Return the routes of the catalogue and the values."""
    router = APIRouter(tags=["kpis"])

    @router.get("/v1/kpis", summary="The catalogue")
    async def kpis(principal: Reader) -> dict[str, Any]:
        """Every KPI: id, meaning, formula, unit, direction, dimensions, parameters, benchmark and its source."""
        return {"kpis": catalogue()}

    @router.get(
        "/v1/kpis/{kpi}",
        summary="Values of one KPI",
        responses={200: {"model": KpiAnswer, "content": {"text/csv": {"schema": {"type": "string"}}}}},
        openapi_extra=_PARAMETERS,
    )
    async def kpi(kpi: str, principal: Reader, request: Request) -> Response:
        """Points and the pooled total between `start` and `end` (half-open; the last 24 hours without them).

        `Accept: text/csv` gives the points as CSV. null is 0/0. A provisional value may still change by rule.
        What costs more than a question may (points, sums, 20 s) is refused with 422, which says what to ask instead.
        """
        given = once(request.query_params.multi_items())
        async with tenant_reader(platform.pool, principal.tenant) as connection:
            asked = await _asked(platform, connection, principal.tenant, kpi, given)
            found = await _answer(connection, principal.tenant, asked)
        size = len(found.points)
        if wants_csv(request.headers.get("accept", "")):
            return Response(await beside(size, as_csv, asked, found), media_type="text/csv; charset=utf-8")
        return Response(orjson.dumps(await beside(size, present, asked, found)), media_type="application/json")

    @router.get(
        "/v1/kpis/{kpi}/receipts",
        summary="What the number is made of",
        responses={200: {"model": Receipts}},
        openapi_extra=_RECEIPT_PARAMETERS,
    )
    async def receipts_of(
        kpi: str,
        principal: Reader,
        request: Request,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
        cursor: Annotated[str | None, Query(max_length=2000)] = None,
    ) -> Response:
        """One receipt for each unit of the denominator: conversation, call, survey, customer, with its event ids."""
        given = once((name, value) for name, value in request.query_params.multi_items() if name not in PAGING)
        async with tenant_reader(platform.pool, principal.tenant) as connection:
            asked = await _asked(platform, connection, principal.tenant, kpi, given)
            page = await receipts(connection, principal.tenant, asked, limit, cursor)
        return Response(orjson.dumps(page), media_type="application/json")

    @router.get("/v1/scoreboard", summary="Benchmarks beside live values", responses={200: {"model": Scoreboard}})
    async def scores(principal: Reader) -> Response:
        """Every published figure that can be compared, with its source, the live value of the last 365 days, sample
        size, 95 % interval, and an honest note where it is not like for like."""
        async with tenant_reader(platform.pool, principal.tenant) as connection:
            rows = await scoreboard(connection, principal.tenant, micros(platform.clock.now()))
        return Response(orjson.dumps({"rows": rows}), media_type="application/json")

    return router


ANSWER_WITHIN_S = 20.0
"""How long one question may take."""


async def _answer(connection: Connection, tenant: str, asked: Asked) -> Answer:
    """Answer a question. Raises Problem 422, which says what to ask instead, where it costs more than one may."""
    try:
        async with asyncio.timeout(ANSWER_WITHIN_S):
            return await sums.ask(connection, tenant, asked, sums.MOST_SUMS)
    except TooMuch as error:
        told, where = str(error), "group_by" if asked.group_by else "start"
    except TimeoutError:
        told, where = f"takes longer than {ANSWER_WITHIN_S:g} s to answer; {sums.INSTEAD}", "start"
    raise Problem(422, "Not valid", told, errors=[Fault(f"#/query/{where}", told)])


async def _asked(platform: Platform, connection: Connection, tenant: str, kpi: str, given: Mapping[str, str]) -> Asked:
    """Return the query that a request asks. Raises Problem."""
    rules = await sums.rules_of(connection, tenant)
    currency = None
    if "currency" in definition_of(kpi).parameters and "currency" not in given:
        currency = next(iter(await sums.currencies(connection, tenant)), "EUR")
    return query_of(kpi, given, rules, micros(platform.clock.now()), currency)


def wants_csv(accept: str) -> bool:
    """Tell whether an `Accept` header prefers CSV to JSON; where it likes both alike, CSV only if it names it alone."""
    weights: dict[str, float] = {}
    for part in accept.lower().split(","):
        media, *parameters = (word.strip() for word in part.split(";"))
        weight = next((word.removeprefix("q=") for word in parameters if word.startswith("q=")), "1")
        weights[media] = float(weight) if re.fullmatch(r"[01](\.\d{0,3})?", weight) else 1.0

    def liked(media: str) -> float:
        return next((weights[m] for m in (media, f"{media.split('/')[0]}/*", "*/*") if m in weights), 0.0)

    csv, json = liked("text/csv"), liked("application/json")
    return csv > json or (csv == json > 0 and "text/csv" in weights and "application/json" not in weights)


def _text(name: str, description: str) -> dict[str, Any]:
    return {"name": name, "in": "query", "required": False, "description": description, "schema": {"type": "string"}}


_PARAMETERS: dict[str, Any] = {
    "parameters": [
        _text("start", "first instant, RFC 3339; default: a day before end"),
        _text("end", "instant after the last, RFC 3339; default: now"),
        _text("step", "1m, 5m, 15m, 1h, 1d, 1w or 1M in tz; without it one point for the whole span"),
        _text("tz", "IANA time zone; default: the tenant's"),
        _text("group_by", "dimensions of the KPI, comma-separated or repeated"),
        *(_text(name, f"only this {name}") for name in ("channel", "family", "team", "agent", "segment", "language")),
        _text("as_of", "the values as they stood at this instant"),
        _text("threshold_s", "seconds, where the KPI has a threshold"),
        _text("clock", "calendar or business, where the KPI has both"),
        _text("from_channel", "for escalation_ratio"),
        _text("to_channel", "for escalation_ratio"),
        _text("sentiment", "for mention_ratio"),
        _text("variant", "as the catalogue lists"),
        _text("currency", "for amounts of money, e.g. EUR; default: the tenant's most used"),
    ]
}

_RECEIPT_PARAMETERS = _PARAMETERS
