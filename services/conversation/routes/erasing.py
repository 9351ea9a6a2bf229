"""`DELETE /v1/customers/{id}`: everything on one person goes, and a receipt says what was found where."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Annotated, Any
from uuid import UUID

import asyncpg
from fastapi import APIRouter, Depends

from services.conversation import tables
from services.conversation.consumer import GROUP
from services.conversation.erasure.erasing import NobodysOwn, erase_customer
from services.conversation.erasure.traces import NAMED_BY_POLICY
from services.conversation.routes.parameters import id_of
from shared import erasures
from shared.auth import Principal, require
from shared.database.engine import transaction
from shared.entry_ids import entry_secret
from shared.events import rfc3339
from shared.log.offsets import lag
from shared.log.protocol import INBOUND, QUARANTINE, TIMELINE
from shared.problems import MEDIA_TYPE, Problem, not_found
from shared.service import Platform

Eraser = Annotated[Principal, Depends(require("privacy"))]

CATCH_UP_S = 5.0
"""How long an erasure waits for what was accepted before it; what is still not read then is known by its tombstones."""
COUNTED_S = 3.0
"""How long the answer waits for the metrics service to have made its part anonymous; a later look shows it too."""
LOOK_EVERY_S = 0.02

REMAINS = (
    "numbers in KPIs, of which nothing tells whose they were",
    "keyed hashes of the handles, by which what is read again from the log is recognised and dropped",
    "what other people wrote, also where they mention this person",
    "backups of the database and of the log, until you delete them",
)
"""What no erasure takes away, for the receipt."""
ON_KAFKA = "records of Kafka topics, until their retention ends"
IN_POLICY = (
    "handles that your identity policy blocks or shares and that they were seen with: take out of it what is theirs "
    "alone (PUT /v1/identity/policy)"
)
UNREADABLE = "records of Kafka topics that nobody can read any more, until their retention ends"


def erasing_router(platform: Platform) -> APIRouter:
    """Return the route that erases."""
    router = APIRouter(tags=["customers"])
    pool, secret = platform.pool, entry_secret(platform.secret_key)

    @router.delete(
        "/v1/customers/{customer_id}",
        summary="Erase a person from every table and topic; answers with a receipt, and again with the same",
        responses={
            404: {"description": "nobody has this id", "content": {MEDIA_TYPE: {}}},
            409: {"description": "a shared handle is nobody's own", "content": {MEDIA_TYPE: {}}},
        },
    )
    async def erase(eraser: Eraser, customer_id: str) -> dict[str, Any]:
        id_ = id_of("customer", customer_id)
        await _within(CATCH_UP_S, lambda: _caught_up(platform, eraser.tenant))
        try:
            async with transaction(pool) as connection:
                now = platform.clock.now()
                erasure_id = await erase_customer(connection, platform.log, eraser.tenant, secret, id_, now)
        except NobodysOwn as error:
            detail = "this is a handle that several people share; there is nobody to erase, only a handle to block"
            raise Problem(409, "Nobody's own", detail) from error
        if erasure_id is None:
            raise not_found("customer")
        platform.log.wake(TIMELINE)
        platform.log.wake(INBOUND)
        await _within(COUNTED_S, lambda: _is_counted(pool, eraser.tenant, erasure_id))
        return await _receipt(pool, eraser.tenant, erasure_id)

    return router


async def _within(seconds: float, done: Callable[[], Awaitable[bool]]) -> None:
    """Wait until something is done, or for so long."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while True:
                if await done():
                    return
                await asyncio.sleep(LOOK_EVERY_S)


async def _caught_up(platform: Platform, tenant: str) -> bool:
    if any((await lag(platform.pool, platform.log, GROUP, INBOUND)).values()):
        return False
    return tenant not in await tables.aside.tenants(platform.pool)


async def _is_counted(pool: asyncpg.Pool, tenant: str, erasure_id: UUID) -> bool:
    async with transaction(pool) as connection:
        found = await erasures.findings(connection, tenant, erasure_id)
    return not found.get("entries") or erasures.COUNTED in found


async def _receipt(pool: asyncpg.Pool, tenant: str, erasure_id: UUID) -> dict[str, Any]:
    async with transaction(pool) as connection:
        erased_at, notes = await erasures.erasure(connection, tenant, erasure_id)
        found = await erasures.findings(connection, tenant, erasure_id)
    topics = {topic: notes["topics"].get(topic, "erased") for topic in (INBOUND, TIMELINE, QUARANTINE)}
    on_kafka = {"until retention": ON_KAFKA, "unreadable": UNREADABLE}
    return {
        "erasure_id": str(erasure_id),
        "erased_at": rfc3339(erased_at),
        "found": found,
        "topics": {t: {"state": state, "records": notes.get("records", {}).get(t)} for t, state in topics.items()},
        "remains": [
            *REMAINS,
            *([IN_POLICY] if NAMED_BY_POLICY in found else []),
            *(text for state, text in on_kafka.items() if state in topics.values()),
        ],
    }
