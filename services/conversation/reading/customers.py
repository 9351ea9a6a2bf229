"""Customers as they stand: by id, by handle, by name."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg

from services.conversation.reading.shown import time_shown
from shared import handles

CUSTOMER_OF_NODES = """
SELECT l.customer_id FROM conversation.leaf l WHERE l.tenant_id = $1 AND l.node = ANY($2::text[])
"""

# A weak handle (a browser) leads to somebody only where it was seen with one customer alone.
CUSTOMERS_OF_SIGHTINGS = """
SELECT DISTINCT l.customer_id FROM conversation.sighting s
JOIN conversation.leaf l ON l.tenant_id = s.tenant_id AND l.leaf_id = s.leaf_id
WHERE s.tenant_id = $1 AND s.node = ANY($2::text[]) LIMIT 2
"""

SURVIVOR = """
SELECT customer_id FROM conversation.leaf WHERE tenant_id = $1 AND leaf_id = $2 AND (was_customer OR customer_id = $2)
"""

LEAVES = """
SELECT leaf_id, node, shown, verified, was_customer, first_seen_at, last_seen_at, name, named_at, attributes, channels
FROM conversation.leaf WHERE tenant_id = $1 AND customer_id = $2 ORDER BY first_seen_at, node
"""

SIGHTINGS = """
SELECT node, max(shown) AS shown, bool_or(verified) AS verified, min(first_seen_at) AS first_seen_at,
       max(last_seen_at) AS last_seen_at
FROM conversation.sighting WHERE tenant_id = $1 AND leaf_id = ANY($2::uuid[]) GROUP BY node ORDER BY node
"""

OPEN_OF_LEAVES = """
SELECT DISTINCT k.conversation_id, k.last_activity_at FROM conversation.participation p
JOIN conversation.conversation c ON c.tenant_id = $1 AND c.conversation_id = p.conversation_id
JOIN conversation.conversation k ON k.tenant_id = $1 AND k.conversation_id = c.canonical_id
WHERE p.tenant_id = $1 AND p.leaf_id = ANY($2::uuid[]) AND k.resolved_at IS NULL
ORDER BY k.last_activity_at DESC NULLS LAST LIMIT 50
"""

# What belongs to nobody (a cost, an agent's shift) is on a line of its own, but is no customer to be found.
FIND_CUSTOMERS = """
SELECT customer_id, max(last_seen_at) AS seen_at FROM conversation.leaf
WHERE tenant_id = $1 AND last_seen_at IS NOT NULL AND node NOT LIKE 'anonymous:%'
    AND ($2::text IS NULL OR name ILIKE $2 OR shown ILIKE $2 OR node ILIKE $2)
GROUP BY customer_id HAVING ($3::timestamptz IS NULL OR (max(last_seen_at), customer_id) < ($3, $4::uuid))
ORDER BY seen_at DESC, customer_id DESC LIMIT $5
"""


async def customers_by_handle(
    connection: asyncpg.Connection, tenant: str, kind: str, nodes: Sequence[str]
) -> list[UUID]:
    """Return the customer whom this handle (in its possible matching forms) identifies: one or none."""
    if not nodes:
        return []
    rows = await connection.fetch(CUSTOMER_OF_NODES, tenant, list(nodes))
    found = {row["customer_id"] for row in rows}
    if not found and handles.strength(kind) >= handles.WEAK:
        found = {row["customer_id"] for row in await connection.fetch(CUSTOMERS_OF_SIGHTINGS, tenant, list(nodes))}
    return list(found) if len(found) == 1 else []


async def survivor(connection: asyncpg.Connection, tenant: str, customer_id: UUID) -> UUID | None:
    """Return who answers for a customer id, itself or the one it was merged into; None where there is no such id."""
    found: UUID | None = await connection.fetchval(SURVIVOR, tenant, customer_id)
    return found


async def find_customers(
    connection: asyncpg.Connection, tenant: str, text: str | None, after: tuple[datetime, UUID] | None, limit: int
) -> list[tuple[UUID, datetime]]:
    """Return (customer, last seen) by name or handle (all where `text` is None), the last seen first."""
    pattern = None
    if text:
        escaped = text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
        pattern = f"%{escaped}%"
    seen_at, id_ = after or (None, None)
    rows = await connection.fetch(FIND_CUSTOMERS, tenant, pattern, seen_at, id_, limit)
    return [(row["customer_id"], row["seen_at"]) for row in rows]


async def customer(connection: asyncpg.Connection, tenant: str, customer_id: UUID) -> dict[str, Any]:
    """Return a surviving customer as the API gives it."""
    leaves = await connection.fetch(LEAVES, tenant, customer_id)
    ids = [leaf["leaf_id"] for leaf in leaves]
    formers = [leaf["leaf_id"] for leaf in leaves if leaf["was_customer"]]
    sightings = await connection.fetch(SIGHTINGS, tenant, ids)
    open_ = await connection.fetch(OPEN_OF_LEAVES, tenant, ids)
    named = [leaf for leaf in leaves if leaf["name"] is not None]
    name = max(named, key=lambda leaf: leaf["named_at"])["name"] if named else None
    return {
        "id": str(customer_id),
        "name": name,
        "handles": [_handle(row) for row in (*leaves, *sightings) if _is_handle(row)],
        "attributes": _attributes(leaves),
        "channels": sorted({channel for leaf in leaves for channel in leaf["channels"]}),
        "merged_ids": [str(id_) for id_ in formers if id_ != customer_id],
        "first_seen_at": time_shown(min((at for leaf in leaves if (at := leaf["first_seen_at"])), default=None)),
        "last_seen_at": time_shown(max((at for leaf in leaves if (at := leaf["last_seen_at"])), default=None)),
        "open_conversations": [str(row["conversation_id"]) for row in open_],
    }


def _is_handle(row: asyncpg.Record) -> bool:
    return row["shown"] is not None and row["node"].partition(":")[0] in handles.STRENGTH


def _handle(row: asyncpg.Record) -> dict[str, Any]:
    return {
        "kind": row["node"].partition(":")[0],
        "value": row["shown"],
        "verified": row["verified"],
        "first_seen_at": time_shown(row["first_seen_at"]),
        "last_seen_at": time_shown(row["last_seen_at"]),
    }


def _attributes(leaves: Sequence[asyncpg.Record]) -> dict[str, Any]:
    latest: dict[str, tuple[str, Any]] = {}
    for leaf in leaves:
        for name, (value, at) in leaf["attributes"].items():
            if name not in latest or latest[name][0] <= at:
                latest[name] = (at, value)
    return {name: value for name, (_, value) in sorted(latest.items())}
