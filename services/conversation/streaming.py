"""What changes on timelines, as it changes: positions that a reader may resume from, over processes and restarts.

Each tenant's changes are numbered without gaps in the order of their commits (tables.changes.save_changes), so reading
everything above a position misses nothing and repeats nothing. One loop per process watches the numbers of those
tenants that somebody listens to.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import asyncpg
import orjson
import structlog

from services.conversation import tables
from services.conversation.entries import Line, render
from services.conversation.reading import conversations, customers
from services.conversation.reading.shown import LINE, WIDTH
from shared.database.engine import tenant_reader
from shared.database.retrying import tried_again
from shared.events import DERIVED_SOURCE

LOOK_EVERY_S = 0.1
HEARTBEAT_S = 15.0
AT_ONCE = 200
"""Most changes read at a time."""

HEARTBEAT = b": still here\n\n"

log = structlog.get_logger(__name__)

POSITIONS = "SELECT tenant_id, position FROM conversation.tenant_state WHERE tenant_id = ANY($1::text[])"

BOUNDS = """
SELECT s.position AS last,
       coalesce((SELECT min(position) FROM conversation.change WHERE tenant_id = $1), s.position + 1) AS first
FROM conversation.tenant_state s WHERE s.tenant_id = $1
"""

CHANGES = f"""
SELECT c.position, c.kind, c.entry_id AS changed_id, c.leaf_id AS then_leaf, c.conversation_id AS then_in, {LINE},
       coalesce(k.canonical_id, e.conversation_id) AS canonical_id, l.customer_id,
       coalesce(k.merged_source = '{DERIVED_SOURCE}', false) AS joined_whole
FROM conversation.change c
LEFT JOIN conversation.entry e ON e.tenant_id = c.tenant_id AND e.entry_id = c.entry_id
LEFT JOIN conversation.leaf l ON l.tenant_id = c.tenant_id AND l.leaf_id = e.leaf_id
LEFT JOIN conversation.conversation k ON k.tenant_id = c.tenant_id AND k.conversation_id = e.conversation_id
WHERE c.tenant_id = $1 AND c.position > $2 AND c.position <= $3
"""  # noqa: S608

OF_CUSTOMER = """ AND (
    coalesce(e.leaf_id, c.leaf_id) IN (
        SELECT leaf_id FROM conversation.leaf WHERE tenant_id = $1 AND customer_id = $4)
    OR k.canonical_id IN (
        SELECT m.canonical_id FROM conversation.leaf o
        JOIN conversation.participation p ON p.tenant_id = $1 AND p.leaf_id = o.leaf_id
        JOIN conversation.conversation m ON m.tenant_id = $1 AND m.conversation_id = p.conversation_id
        WHERE o.tenant_id = $1 AND o.customer_id = $4))
"""

OF_CONVERSATION = " AND coalesce(k.canonical_id, c.conversation_id) = $4"

# Who a customer is: when this changes, what was sent before is not the whole story any more.
FORMER = """
SELECT leaf_id FROM conversation.leaf WHERE tenant_id = $1 AND customer_id = $2 AND was_customer ORDER BY leaf_id
"""

PRUNE = "DELETE FROM conversation.change WHERE changed_at < now() - make_interval(secs => $1)"


class Tail:
    """Wakes the streams of this process when their tenant's timelines change."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool
        self._listeners: dict[str, int] = {}
        self._positions: dict[str, int] = {}
        self._changed = asyncio.Condition()

    @contextmanager
    def listening(self, tenant: str) -> Iterator[None]:
        """Watch a tenant for the life of the context."""
        self._listeners[tenant] = self._listeners.get(tenant, 0) + 1
        try:
            yield
        finally:
            self._listeners[tenant] -= 1
            if not self._listeners[tenant]:
                del self._listeners[tenant]
                self._positions.pop(tenant, None)

    async def beyond(self, tenant: str, position: int, limit_s: float) -> bool:
        """Return true once there is something above `position`, false when there was nothing for `limit_s`."""
        try:
            async with asyncio.timeout(limit_s), self._changed:
                await self._changed.wait_for(lambda: self._positions.get(tenant, 0) > position)
        except TimeoutError:
            return False
        return True

    async def run(self) -> None:
        """Watch for the life of the process."""
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            if not self._listeners:
                continue
            with tried_again(log, "streams wait for the database"):
                rows = await self._pool.fetch(POSITIONS, list(self._listeners))
                async with self._changed:
                    self._positions.update({row["tenant_id"]: row["position"] for row in rows})
                    self._changed.notify_all()
                continue
            await asyncio.sleep(1.0)

    async def prune_for_ever(self, older_than_s: float, every_s: float = 600.0) -> None:
        """Forget changes above an age: whoever resumes from before is told to start over (`reset`)."""
        while True:
            with tried_again(log, "old changes stay for now"):
                await self._pool.execute(PRUNE, older_than_s)
            await asyncio.sleep(every_s)


@dataclass(slots=True)
class Wanted:
    """Whose changes a stream sends: all of a tenant, or of one customer or conversation."""

    tenant: str
    customer_id: UUID | None = None
    conversation_id: UUID | None = None


async def stream(pool: asyncpg.Pool, tail: Tail, wanted: Wanted, after: int | None) -> AsyncIterator[bytes]:
    """Yield server-sent events from `after` on, or from now on; never ends by itself.

    An entry that is new is `entry`, a newer version or its removal `correction`. `reset` says that what was sent
    before is not enough to know the timeline: the position is too old, or the customer was merged or split.
    """
    with tail.listening(wanted.tenant):
        async with tenant_reader(pool, wanted.tenant) as connection:
            position, reset = await _start(connection, wanted.tenant, after)
            people = await _people(connection, wanted)
        if reset:
            yield _event("reset", position, {"reason": "this position is too old or unknown; read the timeline again"})
        else:
            yield HEARTBEAT
        while True:
            if not await tail.beyond(wanted.tenant, position, HEARTBEAT_S):
                yield HEARTBEAT
                continue
            async with tenant_reader(pool, wanted.tenant) as connection:
                reached, events = await _changes(connection, wanted, position)
                now = await _people(connection, wanted)
            if now != people:
                people = now
                yield _event("reset", reached, {"reason": "the customer was merged or split; read the timeline again"})
            for event in events:
                yield event
            position = reached


async def _start(connection: asyncpg.Connection, tenant: str, after: int | None) -> tuple[int, bool]:
    bounds = await connection.fetchrow(BOUNDS, tenant)
    last, first = (bounds["last"], bounds["first"]) if bounds else (0, 1)
    if after is None:
        return last, False
    known = first - 1 <= after <= last
    return (after, False) if known else (last, True)


async def _people(connection: asyncpg.Connection, wanted: Wanted) -> list[UUID] | None:
    """Return the customers that the wanted one consists of; new leaves of the same one are no change."""
    if wanted.customer_id is None:
        return None
    survivor = await customers.survivor(connection, wanted.tenant, wanted.customer_id)
    if survivor is None:
        return []
    rows = await connection.fetch(FORMER, wanted.tenant, survivor)
    return [survivor, *(row["leaf_id"] for row in rows)]


async def _changes(connection: asyncpg.Connection, wanted: Wanted, after: int) -> tuple[int, list[bytes]]:
    """Return the next changes as events, and the position that they reach."""
    bounds = await connection.fetchrow(BOUNDS, wanted.tenant)
    reached = min(bounds["last"], after + AT_ONCE)
    arguments: list[Any] = [wanted.tenant, after, reached]
    statement = CHANGES
    if wanted.customer_id is not None:
        survivor = await customers.survivor(connection, wanted.tenant, wanted.customer_id)
        statement += OF_CUSTOMER
        arguments.append(survivor)
    elif wanted.conversation_id is not None:
        canonical = await conversations.canonical(connection, wanted.tenant, wanted.conversation_id)
        statement += OF_CONVERSATION
        arguments.append(canonical or wanted.conversation_id)
    rows = await connection.fetch(statement + " ORDER BY c.position", *arguments)
    return reached, [_told(row) for row in rows]


def _told(row: asyncpg.Record) -> bytes:
    kind, gone = row["kind"], row[5] is None
    if kind == tables.changes.GONE or gone:
        return _event("correction", row["position"], {"id": str(row["changed_id"]), "deleted": True})
    shown = render(Line(*row[5 : 5 + WIDTH]), row["canonical_id"], joined_whole=row["joined_whole"])
    shown |= {"via": "identity", "customer_id": str(row["customer_id"])}
    return _event("entry" if kind == tables.changes.NEW else "correction", row["position"], shown)


def _event(name: str, position: int, data: Any) -> bytes:
    return b"id: %d\nevent: %s\ndata: %s\n\n" % (position, name.encode(), orjson.dumps(data))
