"""Customers as they stand: by id, by handle, by name."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg

from services.conversation.reading.shown import IS_OPEN, time_shown
from shared import handles

CUSTOMER_OF_NODES = """
SELECT l.customer_id FROM conversation.leaf l WHERE l.tenant_id = $1 AND l.node = ANY($2::text[])
"""

# A weak handle (a browser) leads to somebody only where it was seen with one customer alone.
CUSTOMERS_OF_SIGHTINGS = """
SELECT DISTINCT l.customer_id FROM conversation.sighting s,
LATERAL (SELECT customer_id FROM conversation.leaf WHERE tenant_id = $1 AND leaf_id = s.leaf_id OFFSET 0) AS l
WHERE s.tenant_id = $1 AND s.node = ANY($2::text[]) LIMIT 2
"""

SURVIVOR = """
SELECT customer_id FROM conversation.leaf WHERE tenant_id = $1 AND leaf_id = $2 AND (was_customer OR customer_id = $2)
"""

LEAVES = """
SELECT customer_id, leaf_id, node, shown, verified, was_customer, first_seen_at, last_seen_at, name, named_at,
       attributes, channels
FROM conversation.leaf WHERE tenant_id = $1 AND customer_id = ANY($2::uuid[]) ORDER BY first_seen_at, node
"""

SIGHTINGS = """
SELECT l.customer_id, s.node, max(s.shown) AS shown, bool_or(s.verified) AS verified,
       min(s.first_seen_at) AS first_seen_at, max(s.last_seen_at) AS last_seen_at
FROM conversation.leaf l,
LATERAL (SELECT * FROM conversation.sighting WHERE tenant_id = $1 AND leaf_id = l.leaf_id OFFSET 0) AS s
WHERE l.tenant_id = $1 AND l.customer_id = ANY($2::uuid[]) GROUP BY l.customer_id, s.node ORDER BY s.node
"""

MOST_OPEN = 50
"""Open conversations that are named with a customer, the last active first."""

TAKEN_PART = """part AS MATERIALIZED (
    SELECT p.conversation_id FROM conversation.leaf l,
    LATERAL (SELECT conversation_id FROM conversation.participation
             WHERE tenant_id = $1 AND leaf_id = l.leaf_id OFFSET 0) AS p
    WHERE l.tenant_id = $1 AND l.customer_id = ANY({}::uuid[]))"""
"""SQL for which conversations customers take part in. OFFSET 0 keeps the look-ups nested, whatever the planner takes a
new tenant for. What these conversations are is looked up as a list: one by one it takes twice as long."""

# Of a life next to nothing is open. Only of that it is asked whose it is, and of what became part of others.
OPEN_OF_CUSTOMERS = f"""
WITH {TAKEN_PART.format("$2")},
met AS MATERIALIZED (
    SELECT conversation_id, canonical_id FROM conversation.conversation k
    WHERE tenant_id = $1 AND conversation_id = ANY (ARRAY(SELECT conversation_id FROM part))
        AND (canonical_id <> conversation_id OR ({IS_OPEN})))
SELECT DISTINCT l.customer_id, k.conversation_id, k.last_activity_at FROM met,
LATERAL (SELECT conversation_id, resolved_at, last_activity_at FROM conversation.conversation
         WHERE tenant_id = $1 AND conversation_id = met.canonical_id OFFSET 0) AS k,
LATERAL (SELECT leaf_id FROM conversation.participation
         WHERE tenant_id = $1 AND conversation_id = met.conversation_id OFFSET 0) AS p,
LATERAL (SELECT customer_id FROM conversation.leaf WHERE tenant_id = $1 AND leaf_id = p.leaf_id OFFSET 0) AS l
WHERE l.customer_id = ANY($2::uuid[]) AND {IS_OPEN}
ORDER BY k.last_activity_at DESC, k.conversation_id
"""  # noqa: S608

_INDEXED = re.compile(r"[^\W_]{3}")
"""What the index of parts of words knows wherever it stands."""
_LETTER = re.compile(r"[^\W_]")

FIND_CUSTOMERS = "SELECT found_id, seen_at FROM conversation.find_customers($1, $2, $3, $4)"


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
    connection: asyncpg.Connection, text: str | None, after: tuple[datetime, UUID] | None, limit: int
) -> list[tuple[UUID, datetime]]:
    """Return (customer, last seen) of the reader's tenant by part of a name or handle (all where `text` is None).

    The last seen come first. A text without three letters or digits in a row is looked for only where a word of a
    name or a handle begins: the index knows no less of the inside of a word. Without any it finds nobody.
    """
    if text and not _LETTER.search(text):
        return []
    pattern = None
    if text:
        escaped = text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
        pattern = f"%{escaped}%" if _INDEXED.search(text) else f"{escaped}%"
    seen_at, id_ = after or (None, None)
    rows = await connection.fetch(FIND_CUSTOMERS, pattern, seen_at, id_, limit)
    return [(row["found_id"], row["seen_at"]) for row in rows]


async def customer(
    connection: asyncpg.Connection, tenant: str, customer_id: UUID, open_ids: Sequence[UUID] | None = None
) -> dict[str, Any]:
    """Return a surviving customer as the API gives it. `open_ids`: their open conversations, where they are known."""
    known = None if open_ids is None else {customer_id: open_ids}
    return (await customers(connection, tenant, [customer_id], known))[0]


async def customers(
    connection: asyncpg.Connection,
    tenant: str,
    ids: Sequence[UUID],
    open_ids: Mapping[UUID, Sequence[UUID]] | None = None,
) -> list[dict[str, Any]]:
    """Return surviving customers as the API gives them, in the order asked for."""
    leaves = await _by_customer(connection, LEAVES, tenant, ids)
    sightings = await _by_customer(connection, SIGHTINGS, tenant, ids)
    if open_ids is None:
        found = await _by_customer(connection, OPEN_OF_CUSTOMERS, tenant, ids)
        open_ids = {id_: [row["conversation_id"] for row in found[id_][:MOST_OPEN]] for id_ in ids}
    return [_customer(id_, leaves[id_], sightings[id_], open_ids[id_]) for id_ in ids]


async def _by_customer(
    connection: asyncpg.Connection, statement: str, tenant: str, ids: Sequence[UUID]
) -> dict[UUID, list[asyncpg.Record]]:
    found: dict[UUID, list[asyncpg.Record]] = {id_: [] for id_ in ids}
    for row in await connection.fetch(statement, tenant, ids):
        found[row["customer_id"]].append(row)
    return found


Records = Sequence[asyncpg.Record]


def _customer(customer_id: UUID, leaves: Records, sightings: Records, open_ids: Sequence[UUID]) -> dict[str, Any]:
    formers = [leaf["leaf_id"] for leaf in leaves if leaf["was_customer"]]
    named = [leaf for leaf in leaves if leaf["name"] is not None]
    name = max(named, key=lambda leaf: leaf["named_at"])["name"] if named else None
    return {
        "id": str(customer_id),
        "name": name,
        "handles": [_handle(row) for row in (*leaves, *_seen_beside(leaves, sightings)) if _is_handle(row)],
        "attributes": _attributes(leaves),
        "channels": sorted({channel for leaf in leaves for channel in leaf["channels"]}),
        "merged_ids": [str(id_) for id_ in formers if id_ != customer_id],
        "first_seen_at": time_shown(min((at for leaf in leaves if (at := leaf["first_seen_at"])), default=None)),
        "last_seen_at": time_shown(max((at for leaf in leaves if (at := leaf["last_seen_at"])), default=None)),
        "open_conversations": [str(id_) for id_ in open_ids],
    }


def _seen_beside(leaves: Sequence[asyncpg.Record], sightings: Sequence[asyncpg.Record]) -> Sequence[asyncpg.Record]:
    """Return the weak handles that were seen with a customer and are not one of their own already."""
    own = {leaf["node"] for leaf in leaves}
    return [row for row in sightings if row["node"] not in own]


def _is_handle(row: asyncpg.Record) -> bool:
    return row["shown"] is not None and row["node"].partition(":")[0] in handles.STRENGTH


def _handle(row: asyncpg.Record) -> dict[str, Any]:
    kind, _, value = row["node"].partition(":")
    return {
        "kind": kind,
        # A number is only whole with its country code; an address is shown as given.
        "value": value if kind == "phone" else row["shown"],
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
