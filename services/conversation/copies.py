"""Copies of mails: several events with one Message-ID are one entry, the first of them by when it happened.

Which of them is the entry depends on the set of copies alone. One that comes late and happened first takes the place
of the entry that stood there, which becomes a copy. Source: docs/decisions/0010-copies-of-mails.md
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import asyncpg

from services.conversation.entries import COLUMNS, Entry
from services.conversation.facts import Facts, Key
from shared.events import InboundEvent

_ENTRY = ", ".join(f"e.{'tenant_id' if name == 'tenant' else name}" for name in COLUMNS)

STANDING = f"""
SELECT w.key AS wanted, {_ENTRY} FROM unnest($2::text[]) AS w (key),
LATERAL (SELECT entry_id FROM conversation.binding WHERE tenant_id = $1 AND key = w.key LIMIT 1) AS b,
LATERAL (SELECT * FROM conversation.entry WHERE tenant_id = $1 AND entry_id = b.entry_id OFFSET 0) AS e
"""  # noqa: S608 - names of our own columns

OF_ENTRIES = """
SELECT entry_id, copy_id, source, event_id, type, occurred_at, received_at, region, data FROM conversation.copy
WHERE tenant_id = $1 AND entry_id = ANY($2::uuid[]) ORDER BY occurred_at, source, event_id
"""

ALL = """
SELECT entry_id, copy_id, source, event_id, type, occurred_at, received_at, region, data FROM conversation.copy
WHERE tenant_id = $1
"""

THAT_STAND = "SELECT DISTINCT entry_id FROM conversation.copy WHERE tenant_id = $1 AND copy_id = ANY($2::uuid[])"

SAVE = """
INSERT INTO conversation.copy (tenant_id, copy_id, entry_id, source, event_id, type, occurred_at, received_at,
                               recorded_at, region, digest, data)
SELECT $1, * FROM unnest($2::uuid[], $3::uuid[], $4::text[], $5::text[], $6::text[], $7::timestamptz[],
                         $8::timestamptz[], $9::timestamptz[], $10::text[], $11::bytea[], $12::jsonb[])
"""

REPOINT = """
UPDATE conversation.copy c SET entry_id = w.entry_id FROM unnest($2::uuid[], $3::uuid[]) AS w (gone, entry_id)
WHERE c.tenant_id = $1 AND c.entry_id = w.gone
"""


@dataclass(frozen=True, slots=True)
class Copy:
    """An event that became no entry, and the entry that stands for it."""

    stands_for: UUID
    event: InboundEvent
    facts: Facts
    digest: bytes
    recorded_at: datetime


async def standing(connection: asyncpg.Connection, tenant: str, keys: Iterable[Key]) -> dict[Key, Entry]:
    """Return the entry of each of these mails (by `Facts.copy_key`) that has one."""
    rows = await connection.fetch(STANDING, tenant, list(keys))
    return {row[0]: Entry(*row[1:]) for row in rows}


async def of_entries(
    connection: asyncpg.Connection, tenant: str, ids: Iterable[UUID]
) -> list[tuple[UUID, UUID, InboundEvent]]:
    """Return (entry, id of the copy, its event) of all stored copies of these entries, in their order."""
    return [_of(tenant, row) for row in await connection.fetch(OF_ENTRIES, tenant, list(ids))]


async def all_copies(connection: asyncpg.Connection, tenant: str) -> AsyncIterator[tuple[UUID, UUID, InboundEvent]]:
    """Yield (entry, id of the copy, its event) of all stored copies of a tenant, a row at a time."""
    async for row in connection.cursor(ALL, tenant, prefetch=1_000):
        yield _of(tenant, row)


async def that_stand(connection: asyncpg.Connection, tenant: str, ids: Iterable[UUID]) -> set[UUID]:
    """Return the entries that stand for these copies."""
    return {row[0] for row in await connection.fetch(THAT_STAND, tenant, list(ids))}


def _of(tenant: str, row: asyncpg.Record) -> tuple[UUID, UUID, InboundEvent]:
    event = InboundEvent(
        tenant,
        row["source"],
        row["event_id"],
        row["type"],
        row["occurred_at"],
        row["received_at"],
        row["data"],
        region=row["region"],
    )
    return row["entry_id"], row["copy_id"], event


async def save(connection: asyncpg.Connection, tenant: str, copies: Sequence[Copy], displaced: Iterable[UUID]) -> None:
    """Store copies; those of the entries in `displaced`, which are copies now, go with them."""
    if not copies:
        return
    gone = set(displaced)
    moved = [(c.facts.entry_id, c.stands_for) for c in copies if c.facts.entry_id in gone]
    if moved:
        await connection.execute(REPOINT, tenant, [id_ for id_, _ in moved], [to for _, to in moved])
    rows = [
        (
            c.facts.entry_id,
            c.stands_for,
            c.event.source,
            c.event.id,
            c.event.type,
            c.event.occurred_at,
            c.event.received_at,
            c.recorded_at,
            c.event.region,
            c.digest,
            c.event.data,
        )
        for c in copies
    ]
    await connection.execute(SAVE, tenant, *(list(column) for column in zip(*rows, strict=True)))
