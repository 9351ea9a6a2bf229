"""`/v1/customers`: who somebody is, and everything that was ever said, on one line."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from typing import Annotated, Any
from uuid import UUID

import asyncpg
import orjson
from fastapi import APIRouter, Depends, Query
from fastapi.responses import StreamingResponse

from services.conversation import explaining, past, tables
from services.conversation.context import RECENT
from services.conversation.reading import briefs, conversations, customers, exports, timelines
from services.conversation.reading.timelines import Page
from services.conversation.routes import known, parameters
from services.conversation.routes.parameters import id_of, invalid, read
from shared import handles
from shared.auth import Principal, require
from shared.database.engine import tenant_reader
from shared.problems import not_found
from shared.service import Platform

Reader = Annotated[Principal, Depends(require("timeline:read"))]
Exporter = Annotated[Principal, Depends(require("privacy"))]
Limit = Annotated[int, Query(ge=1, le=200, description="Most entries of a page.")]
Choice = Annotated[list[str] | None, Query(description="Repeat it or separate with commas to allow several.")]


async def _page(
    limit: Limit = 50,
    before: str | None = None,
    after: str | None = None,
    channel: Choice = None,
    family: Choice = None,
    kind: Choice = None,
    since: str | None = None,
    until: str | None = None,
) -> Page:
    return Page(
        limit=limit,
        before=read("before", before, parameters.cursor),
        after=read("after", after, parameters.cursor),
        channels=several(channel),
        families=several(family),
        kinds=several(kind),
        since=read("since", since, parameters.instant),
        until=read("until", until, parameters.instant),
    )


Asked = Annotated[Page, Depends(_page)]
"""The page of entries that a query asks for."""


def customers_router(platform: Platform) -> APIRouter:
    """Return the routes of customers."""
    router = APIRouter(tags=["customers"])
    pool = platform.pool

    @router.get("/v1/customers", summary="Find customers by a handle, or by name")
    async def find(
        reader: Reader,
        handle: Annotated[str | None, Query(description="kind:value, e.g. email:ann@example.com; one or none")] = None,
        q: Annotated[
            str | None,
            Query(
                max_length=200,
                description="part of a name or handle; without three letters or digits in a row, the beginning of a "
                "handle or of a word of a name; without any, nobody",
            ),
        ] = None,
        limit: Limit = 50,
        cursor: str | None = None,
    ) -> dict[str, Any]:
        async with tenant_reader(pool, reader.tenant) as connection:
            if handle is not None:
                policy = (await tables.tenants.get_policy(connection, reader.tenant)).policy
                kind, nodes = _nodes(handle, policy.default_region)
                ids = await customers.customers_by_handle(connection, reader.tenant, kind, nodes)
                return {"customers": await customers.customers(connection, reader.tenant, ids), "next": None}
            after = read("cursor", cursor, parameters.read_list_cursor)
            text = q.replace("\0", "").strip() if q else None
            rows = await customers.find_customers(connection, text, after, limit + 1)
            found = await customers.customers(connection, reader.tenant, [id_ for id_, _ in rows[:limit]])
        more = parameters.list_cursor(rows[limit - 1][1], rows[limit - 1][0]) if len(rows) > limit else None
        return {"customers": found, "next": more}

    @router.get("/v1/customers/{customer_id}", summary="One customer; an id merged away answers with the survivor")
    async def one(reader: Reader, customer_id: str) -> dict[str, Any]:
        async with tenant_reader(pool, reader.tenant) as connection:
            survivor = await known.customer(connection, reader.tenant, customer_id)
            return await customers.customer(connection, reader.tenant, survivor)

    @router.get("/v1/customers/{customer_id}/timeline", summary="One chronological line over all channels")
    async def timeline(
        reader: Reader,
        customer_id: str,
        asked: Asked,
        conversation_id: str | None = None,
        scope: Annotated[str | None, Query(description="`own`: without what others said in conversations")] = None,
        as_of: Annotated[
            str | None,
            Query(
                description="An instant of the past, RFC 3339: the timeline as it was known then. Entries recorded "
                "later are absent; people, conversations and versions are as they were before later merges, splits, "
                "late events and policies. Who is erased is erased in every past."
            ),
        ] = None,
    ) -> dict[str, Any]:
        if scope not in (None, "", "all", "own"):
            raise invalid("scope", "use own, or leave it out")
        known_at = read("as_of", as_of, partial(_past, platform.clock.now()))
        async with tenant_reader(pool, reader.tenant) as connection:
            survivor = await _survivor(connection, reader.tenant, id_of("customer", customer_id), known_at)
            wanted = read("conversation_id", conversation_id, parameters.uuid)
            if wanted is not None and known_at is None:
                wanted = await conversations.canonical(connection, reader.tenant, wanted) or wanted
            page = replace(asked, conversation_id=wanted, own_only=scope == "own", as_of=known_at)
            entries, more = await timelines.timeline(connection, reader.tenant, survivor, page)
        return {"customer_id": str(survivor), **paged(entries, more, page)}

    @router.get(
        "/v1/customers/{customer_id}/context",
        summary="The brief for whoever picks up",
        description="`summary` tells the matter at hand, but for `surveys` (the last 20 answers, the oldest first) and "
        "`topics` (the last 5, the newest first), which are the customer's, whatever matter they are about.",
    )
    async def context(
        reader: Reader,
        customer_id: str,
        limit: Annotated[int, Query(ge=1, le=200, description="How many of the last entries to show.")] = RECENT,
    ) -> dict[str, Any]:
        async with tenant_reader(pool, reader.tenant) as connection:
            survivor = await known.customer(connection, reader.tenant, customer_id)
            return await briefs.context(connection, reader.tenant, survivor, limit)

    @router.get(
        "/v1/customers/{customer_id}/export",
        summary="Everything on one person, as JSON lines",
        response_class=StreamingResponse,
        responses={200: {"content": {"application/jsonl": {}}, "description": "one JSON object a line"}},
    )
    async def export(reader: Exporter, customer_id: str) -> StreamingResponse:
        async with tenant_reader(pool, reader.tenant) as connection:
            survivor = await known.customer(connection, reader.tenant, customer_id)
        headers = {"Content-Disposition": f'attachment; filename="customer-{survivor}.jsonl"'}
        lines = _lines(platform, reader.tenant, survivor)
        return StreamingResponse(lines, media_type="application/jsonl", headers=headers)

    return router


CLOCKS_APART = timedelta(minutes=1)
"""How far a caller's clock may be ahead of ours before an instant of theirs is in the future."""


def _past(now: datetime, text: str) -> datetime:
    """Read an instant that is not in the future. Raises ValueError."""
    at = parameters.instant(text)
    if at > now + CLOCKS_APART:
        raise ValueError("what will be known then is not known yet; give an instant of the past")
    return at


async def _survivor(connection: asyncpg.Connection, tenant: str, customer_id: UUID, at: datetime | None) -> UUID:
    """Return who answers for a customer id, now or at an instant. Raises Problem 404."""
    if at is None:
        survivor = await customers.survivor(connection, tenant, customer_id)
    else:
        survivor = await past.survivor(connection, tenant, at, customer_id)
    if survivor is None:
        raise not_found("customer")
    return survivor


async def _lines(platform: Platform, tenant: str, customer_id: UUID) -> AsyncIterator[bytes]:
    async with tenant_reader(platform.pool, tenant) as connection:
        async for item in exports.export(connection, tenant, customer_id):
            yield orjson.dumps(item, option=orjson.OPT_APPEND_NEWLINE)
        why = {"kind": "identity", **await explaining.identity(connection, tenant, customer_id)}
        why.pop("suggestions", None)  # they are about other people
        yield orjson.dumps(why, option=orjson.OPT_APPEND_NEWLINE)


def paged(entries: list[dict[str, Any]], more: bool, page: Page) -> dict[str, Any]:
    """Return entries with the cursors that lead on: `before` to older ones, `after` to newer ones."""
    forward = page.after is not None and page.before is None
    older = (entries or page.after) if forward else (entries if more else None)
    before = timelines.cursor_of(entries[-1]) if entries and older else None
    if entries:
        after: str | None = timelines.cursor_of(entries[0])
    else:
        given = page.after or page.before
        after = given.encode() if given else None
    return {"entries": entries, "before": before, "after": after}


def several(values: list[str] | None) -> tuple[str, ...]:
    """Return the values of a parameter that may be repeated or separated with commas."""
    return tuple(part.strip() for value in values or () for part in value.split(",") if part.strip())


def _nodes(handle: str, region: str) -> tuple[str, tuple[str, ...]]:
    try:
        return handle.partition(":")[0].strip().lower(), handles.queried(handle, region)
    except ValueError as error:
        raise invalid("handle", str(error)) from error
