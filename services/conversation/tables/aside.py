"""What is set aside of a tenant: events whose decision is large, until the lane has carried it out (`lane`)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

import asyncpg

from services.conversation.tables import touched
from services.conversation.tables.rows import columns
from shared.events import InboundEvent

# One carries out what a tenant has set aside at a time, whatever the number of processes.
ALONE = "SELECT pg_try_advisory_xact_lock(hashtextextended('aside:' || $1, 0))"

TENANTS = "SELECT DISTINCT tenant_id FROM conversation.aside ORDER BY tenant_id"

PUT = """
INSERT INTO conversation.aside (tenant_id, entry_id, source, event_id, digest, event, set_aside_at)
SELECT $1, a.entry_id, a.source, a.event_id, a.digest, a.event, $2
FROM unnest($3::uuid[], $4::text[], $5::text[], $6::bytea[], $7::bytea[]) WITH ORDINALITY
    AS a (entry_id, source, event_id, digest, event, place)
ORDER BY a.place
"""

DIGESTS = "SELECT entry_id, digest FROM conversation.aside WHERE tenant_id = $1 AND entry_id = ANY($2::uuid[])"

NOTE_RECORDS = """
UPDATE conversation.aside a SET key = r.key, partition = r.partition, "offset" = r.place
FROM unnest($2::uuid[], $3::bytea[], $4::integer[], $5::bigint[]) AS r (entry_id, key, partition, place)
WHERE a.tenant_id = $1 AND a.entry_id = r.entry_id
"""

# What came by no record (there is none such outside tests) has a place that no record has.
_ROW = "entry_id, event, coalesce(key, ''), coalesce(partition, -1), coalesce(\"offset\", -seq), set_aside_at"

# Without a limit ($2 null), all of them.
FIRST = f"SELECT {_ROW} FROM conversation.aside WHERE tenant_id = $1 ORDER BY seq LIMIT $2"  # noqa: S608

TAKE = "DELETE FROM conversation.aside WHERE tenant_id = $1 AND entry_id = ANY($2::uuid[])"

COUNT = """
UPDATE conversation.tenant_state
SET aside = aside + $2, touched_since = CASE WHEN aside = 0 THEN version ELSE touched_since END
WHERE tenant_id = $1 RETURNING aside
"""

WAITING = "SELECT count(*), min(set_aside_at) FROM conversation.aside"

IS_ASIDE = "SELECT true FROM conversation.aside WHERE tenant_id = $1 AND entry_id = $2"


class Aside(NamedTuple):
    """An event that is set aside, with the key and the place of its record in the inbound topic."""

    entry_id: UUID
    event: InboundEvent
    key: bytes
    partition: int
    offset: int
    set_aside_at: datetime


async def alone(connection: asyncpg.Connection, tenant: str) -> bool:
    """Become, until commit, the only one who carries out what a tenant has set aside; tell whether it was possible."""
    return bool(await connection.fetchval(ALONE, tenant))


async def tenants(connection: asyncpg.Connection | asyncpg.Pool) -> list[str]:
    """Return the tenants of whom something is set aside."""
    return [row[0] for row in await connection.fetch(TENANTS)]


async def put(
    connection: asyncpg.Connection, tenant: str, events: Sequence[tuple[UUID, bytes, InboundEvent]], now: datetime
) -> None:
    """Set events aside, each given with its entry's id and its digest."""
    rows = [(id_, event.source, event.id, digest, event.encode()) for id_, digest, event in events]
    await connection.execute(PUT, tenant, now, *columns(rows, 5))
    await connection.execute(COUNT, tenant, len(rows))


async def digests(connection: asyncpg.Connection, tenant: str, ids: Iterable[UUID]) -> dict[UUID, bytes]:
    """Return the digests of those of these events that are set aside."""
    return {row[0]: row[1] for row in await connection.fetch(DIGESTS, tenant, list(ids))}


async def note_records(
    connection: asyncpg.Connection, tenant: str, records: Iterable[tuple[UUID, bytes, int, int]]
) -> None:
    """Note the (key, partition, offset) of the records that carried these events."""
    await connection.execute(NOTE_RECORDS, tenant, *columns(records, 4))


async def first(connection: asyncpg.Connection, tenant: str, most: int | None = None) -> list[Aside]:
    """Return the events that are set aside, the first ones first, up to `most`."""
    rows = await connection.fetch(FIRST, tenant, most)
    return [Aside(row[0], InboundEvent.decode(row[1]), *row[2:]) for row in rows]


async def take(connection: asyncpg.Connection, tenant: str, ids: Iterable[UUID]) -> int:
    """Let events be set aside no longer, within the transaction that decides them; return how many still were."""
    count = int((await connection.execute(TAKE, tenant, list(ids))).rpartition(" ")[2])
    if count and not await connection.fetchval(COUNT, tenant, -count):
        await connection.execute(touched.CLEAR, tenant)
    return count


async def waiting(connection: asyncpg.Connection | asyncpg.Pool) -> tuple[int, datetime | None]:
    """Return how many events are set aside, of all tenants, and since when the oldest is."""
    count, oldest = await connection.fetchrow(WAITING)
    return count, oldest


async def is_aside(connection: asyncpg.Connection, tenant: str, entry_id: UUID) -> bool:
    """Tell whether the event that would become this entry is set aside."""
    return bool(await connection.fetchval(IS_ASIDE, tenant, entry_id))
