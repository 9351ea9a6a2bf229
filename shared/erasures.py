"""The tables of erasures (schema `privacy`), which every service reads and to which each adds what it found.

All functions run inside the caller's transaction. Source: docs/decisions/0012-erasure.md
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import UUID

if TYPE_CHECKING:
    import asyncpg

    from shared.events import InboundEvent
from shared.tombstones import Erasure

ENTRY, NAME, CUSTOMER = b"e", b"n", b"c"

PATIENCE_S = 3600.0
"""Longest that one statement of an erasure may take: some look through all that there is of a tenant or a topic."""

COUNTED = "KPI entries made anonymous"
"""What the metrics service found."""

# The same thing erased again (somebody who came back) counts until its latest erasure.
PUT_TOMBSTONES = """
INSERT INTO privacy.tombstone AS t (tenant_id, digest, kind, erased_at, decided_at, erasure_id)
SELECT $1, d.digest, $2, $3, $4, $5 FROM unnest($6::uuid[]) AS d (digest)
ON CONFLICT (tenant_id, digest) DO UPDATE
SET erased_at = excluded.erased_at, decided_at = excluded.decided_at, erasure_id = excluded.erasure_id
WHERE t.erased_at < excluded.erased_at
"""

KNOWN = """
SELECT digest, kind, erased_at, decided_at, erasure_id FROM privacy.tombstone WHERE tenant_id = $1 AND digest = ANY($2)
"""

PUT_ERASURE = """
INSERT INTO privacy.erasure (tenant_id, erasure_id, erased_at, replayed, notes) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT DO NOTHING
"""

IS_THERE = "SELECT true FROM privacy.erasure WHERE tenant_id = $1 AND erasure_id = $2"

ADD_FINDINGS = """
INSERT INTO privacy.finding AS f (tenant_id, erasure_id, place, found)
SELECT $1, $2, * FROM unnest($3::text[], $4::bigint[])
ON CONFLICT (tenant_id, erasure_id, place) DO UPDATE SET found = f.found + excluded.found
"""

ERASURE = "SELECT erased_at, notes FROM privacy.erasure WHERE tenant_id = $1 AND erasure_id = $2"

FINDINGS = "SELECT place, found FROM privacy.finding WHERE tenant_id = $1 AND erasure_id = $2 ORDER BY place"


class Tombstone(NamedTuple):
    """One tombstone as stored."""

    kind: bytes
    erased_at: datetime
    decided_at: datetime
    erasure_id: UUID

    def covers(self, event: InboundEvent) -> bool:
        """Tell whether an event of the name belongs to what was erased, and is nothing that came afterwards."""
        return event.occurred_at <= self.erased_at and event.received_at <= self.decided_at


async def put(
    connection: asyncpg.Connection,
    tenant: str,
    kind: bytes,
    digests: Iterable[UUID],
    erasure: Erasure | Tombstone,
) -> None:
    """Store tombstones of one kind, all of one erasure."""
    if wanted := list(dict.fromkeys(digests)):
        of = (erasure.erased_at, erasure.decided_at, erasure.erasure_id)
        await connection.execute(PUT_TOMBSTONES, tenant, kind, *of, wanted)


async def known(connection: asyncpg.Connection, tenant: str, digests: Iterable[UUID]) -> dict[UUID, Tombstone]:
    """Return those of `digests` that are tombstones."""
    rows = await connection.fetch(KNOWN, tenant, list(digests))
    return {row[0]: Tombstone(*row[1:]) for row in rows}


async def is_fresh(connection: asyncpg.Connection, tenant: str, erasure: Erasure) -> bool:
    """Tell whether an erasure, or the part of a large one that this is, was not carried out here."""
    if not await connection.fetchval(IS_THERE, tenant, erasure.erasure_id):
        return True
    stones = await known(connection, tenant, [*erasure.entries, *erasure.names])
    return not all(
        id_ in stones and stones[id_].erased_at >= erasure.erased_at for id_ in (*erasure.entries, *erasure.names)
    )


async def begin(
    connection: asyncpg.Connection, tenant: str, erasure: Erasure, *, replayed: bool, notes: Mapping[str, Any]
) -> None:
    """Note that there was an erasure. `replayed`: it was read from the log, and done elsewhere before."""
    given = (erasure.erasure_id, erasure.erased_at, replayed, dict(notes))
    await connection.execute(PUT_ERASURE, tenant, *given)


async def erasure(connection: asyncpg.Connection, tenant: str, erasure_id: UUID) -> tuple[datetime, dict[str, Any]]:
    """Return when an erasure was and what was noted of it."""
    row = await connection.fetchrow(ERASURE, tenant, erasure_id)
    return row["erased_at"], row["notes"]


async def add_findings(connection: asyncpg.Connection, tenant: str, erasure_id: UUID, found: Mapping[str, int]) -> None:
    """Add to what an erasure found, by place."""
    if found:
        await connection.execute(ADD_FINDINGS, tenant, erasure_id, list(found), list(found.values()))


async def findings(connection: asyncpg.Connection, tenant: str, erasure_id: UUID) -> dict[str, int]:
    """Return what an erasure found, by place."""
    return {row["place"]: row["found"] for row in await connection.fetch(FINDINGS, tenant, erasure_id)}
