"""What changes on timelines, as it changes: positions that a reader may resume from, over processes and restarts.

Each tenant's changes are numbered without gaps in the order of their commits (tables.changes.save_changes), so reading
everything above a position misses nothing and repeats nothing. One loop per process watches the numbers of those
tenants that somebody listens to.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import asyncpg
import orjson
import structlog

from services.conversation import tables
from services.conversation.reading import conversations, customers
from services.conversation.reading.shown import SHOWN, seen_by
from shared.database.engine import tenant_reader
from shared.database.retrying import tried_again
from shared.events import DERIVED_SOURCE, TYPE_PREFIX

LOOK_EVERY_S = 0.1
HEARTBEAT_S = 15.0
ALLOWED_EVERY_S = 1.0
"""How often it is asked whether a reader may still read."""
AT_ONCE = 200
"""Most changes read at a time."""

HEARTBEAT = b": still here\n\n"
UNITED = f"{TYPE_PREFIX}conversation.merged"
UNKNOWN = "this position is too old or unknown; read the timeline again"
ANOTHER = "the customer was merged or split, or a conversation became one with another; read the timeline again"

log = structlog.get_logger(__name__)

POSITIONS = "SELECT tenant_id, position FROM conversation.tenant_state WHERE tenant_id = ANY($1::text[])"

BOUNDS = """
SELECT s.position AS last,
       coalesce((SELECT min(position) FROM conversation.change WHERE tenant_id = $1), s.position + 1) AS first
FROM conversation.tenant_state s WHERE s.tenant_id = $1
"""

CHANGES = f"""
SELECT c.position, c.kind, c.entry_id AS changed_id, c.leaf_id AS then_leaf, c.conversation_id AS then_in, {SHOWN},
       coalesce(k.canonical_id, e.conversation_id)::text AS canonical_id,
       coalesce(k.merged_source = '{DERIVED_SOURCE}', false) AS joined_whole, l.customer_id::text AS customer_id
FROM conversation.change c
LEFT JOIN conversation.entry e ON e.tenant_id = c.tenant_id AND e.entry_id = c.entry_id
LEFT JOIN conversation.leaf l ON l.tenant_id = c.tenant_id AND l.leaf_id = e.leaf_id
LEFT JOIN conversation.conversation k
    ON k.tenant_id = c.tenant_id AND k.conversation_id = coalesce(e.conversation_id, c.conversation_id)
WHERE c.tenant_id = $1 AND c.position > $2 AND c.position <= $3
"""  # noqa: S608

# Where the version before this change stood: what leaves a timeline is a correction of what its readers have.
# OFFSET 0: looked up for each change, never hashed over a tenant's whole past.
_LEFT = """ OR c.kind = 'c' AND EXISTS (
    SELECT FROM conversation.past_entry q
    LEFT JOIN conversation.conversation w ON w.tenant_id = $1 AND w.conversation_id = q.conversation_id
    WHERE q.tenant_id = $1 AND q.entry_id = c.entry_id AND q.until = c.changed_at AND ({0}) OFFSET 0)"""
_THEIRS = "IN (SELECT leaf_id FROM conversation.leaf WHERE tenant_id = $1 AND customer_id = $4)"
_THEIR_MATTERS = """IN (
        SELECT m.canonical_id FROM conversation.leaf o
        JOIN conversation.participation p ON p.tenant_id = $1 AND p.leaf_id = o.leaf_id
        JOIN conversation.conversation m ON m.tenant_id = $1 AND m.conversation_id = p.conversation_id
        WHERE o.tenant_id = $1 AND o.customer_id = $4)"""
OF_CUSTOMER = f""" AND (
    coalesce(e.leaf_id, c.leaf_id) {_THEIRS} OR k.canonical_id {_THEIR_MATTERS}
    {_LEFT.format(f"q.leaf_id {_THEIRS} OR w.canonical_id {_THEIR_MATTERS}")})
"""

OF_CONVERSATION = f" AND (coalesce(k.canonical_id, c.conversation_id) = $4 {_LEFT.format('w.canonical_id = $4')})"

# Who a customer is: when this changes, what was sent before is not the whole story any more.
FORMER = """
SELECT leaf_id FROM conversation.leaf WHERE tenant_id = $1 AND customer_id = $2 AND was_customer ORDER BY leaf_id
"""

# The conversations that one consists of, and whether who or what it is has changed since an instant.
MERGED_IN = """
SELECT conversation_id FROM conversation.conversation WHERE tenant_id = $1 AND canonical_id = $2
ORDER BY conversation_id
"""
MADE_OTHERWISE = """
SELECT EXISTS (SELECT FROM conversation.past_leaf WHERE tenant_id = $1 AND customer_id = $2 AND until > $3)
    OR EXISTS (SELECT FROM conversation.leaf l, LATERAL (
                   SELECT FROM conversation.past_leaf WHERE tenant_id = $1 AND leaf_id = l.leaf_id AND until > $3
                   OFFSET 0) AS p
               WHERE l.tenant_id = $1 AND l.customer_id = $2)
"""
CHANGED_AT = "SELECT changed_at FROM conversation.change WHERE tenant_id = $1 AND position = $2"

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

    @property
    def narrow(self) -> bool:
        """Whether what was there before may come into what is sent."""
        return self.customer_id is not None or self.conversation_id is not None


async def _always() -> bool:
    return True


async def stream(
    pool: asyncpg.Pool,
    tail: Tail,
    wanted: Wanted,
    after: int | None,
    allowed: Callable[[], Awaitable[bool]] = _always,
) -> AsyncIterator[bytes]:
    """Yield server-sent events from `after` on, or from now on, for as long as the reader is `allowed` to read them.

    An entry that is new is `entry`, a newer version or its removal `correction`. `reset` says that what was sent
    before is not enough to know the timeline: the position is too old, the customer was merged or split, also since
    the position, or a conversation became one with another.
    """
    with tail.listening(wanted.tenant):
        async with tenant_reader(pool, wanted.tenant) as connection:
            position, reset = await _start(connection, wanted, after)
            people = await _people(connection, wanted)
        if reset:
            yield _event("reset", position, {"reason": reset})
        else:
            yield HEARTBEAT
        clock = asyncio.get_running_loop().time
        beats_at_s = clock() + HEARTBEAT_S
        while await allowed():
            if not await tail.beyond(wanted.tenant, position, min(ALLOWED_EVERY_S, max(0.0, beats_at_s - clock()))):
                if clock() >= beats_at_s:
                    yield HEARTBEAT
                    beats_at_s = clock() + HEARTBEAT_S
                continue
            async with tenant_reader(pool, wanted.tenant) as connection:
                reached, rows = await _changes(connection, wanted, position)
                now = await _people(connection, wanted)
            if now != people or (wanted.narrow and any(row["type"] == UNITED for row in rows)):
                people = now
                yield _event("reset", reached, {"reason": ANOTHER})
            for row in rows:
                yield _told(row)
            position = reached
            beats_at_s = clock() + HEARTBEAT_S


async def _start(connection: asyncpg.Connection, wanted: Wanted, after: int | None) -> tuple[int, str | None]:
    """Return the position from which on to read, and why what came before it has to be read again, where it has."""
    bounds = await connection.fetchrow(BOUNDS, wanted.tenant)
    last, first = (bounds["last"], bounds["first"]) if bounds else (0, 1)
    if after is None:
        return last, None
    if not first - 1 <= after <= last:
        return last, UNKNOWN
    if after and wanted.customer_id is not None:
        at = await connection.fetchval(CHANGED_AT, wanted.tenant, after)
        survivor = await customers.survivor(connection, wanted.tenant, wanted.customer_id)
        if at is None:
            return last, UNKNOWN
        if await connection.fetchval(MADE_OTHERWISE, wanted.tenant, survivor, at):
            # All that came since follows all the same.
            return after, ANOTHER
    return after, None


async def _people(connection: asyncpg.Connection, wanted: Wanted) -> list[UUID] | None:
    """Return the customers or conversations that the wanted one consists of; new leaves of one are no change."""
    if wanted.conversation_id is not None:
        canonical = await conversations.canonical(connection, wanted.tenant, wanted.conversation_id)
        rows = await connection.fetch(MERGED_IN, wanted.tenant, canonical)
        return [row["conversation_id"] for row in rows]
    if wanted.customer_id is None:
        return None
    survivor = await customers.survivor(connection, wanted.tenant, wanted.customer_id)
    if survivor is None:
        return []
    rows = await connection.fetch(FORMER, wanted.tenant, survivor)
    return [survivor, *(row["leaf_id"] for row in rows)]


async def _changes(connection: asyncpg.Connection, wanted: Wanted, after: int) -> tuple[int, list[asyncpg.Record]]:
    """Return the next changes, and the position that they reach."""
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
    return reached, await connection.fetch(statement + " ORDER BY c.position", *arguments)


def _told(row: asyncpg.Record) -> bytes:
    kind, gone = row["kind"], row[5] is None
    if kind == tables.changes.GONE or gone:
        return _event("correction", row["position"], {"id": str(row["changed_id"]), "deleted": True})
    return _event("entry" if kind == tables.changes.NEW else "correction", row["position"], seen_by(None, row[5:]))


def _event(name: str, position: int, data: Any) -> bytes:
    return b"id: %d\nevent: %s\ndata: %s\n\n" % (position, name.encode(), orjson.dumps(data))
