"""Leaves, the evidence that links them, and where each was seen."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields
from datetime import datetime
from operator import attrgetter
from typing import Any
from uuid import UUID

import asyncpg

from services.conversation import past
from services.conversation.identity import Evidence, EvidenceKey, Node
from services.conversation.people import Leaf
from services.conversation.regrouping import ASKING, Active, Open
from services.conversation.seen import Seen
from services.conversation.tables.conversations import WEEK
from services.conversation.tables.rows import Rows, columns, insert

KNOWN_NODES = """
SELECT EXISTS (SELECT FROM conversation.leaf WHERE tenant_id = $1 AND node = ANY ($2::text[]))
    OR EXISTS (SELECT FROM conversation.sighting WHERE tenant_id = $1 AND node = ANY ($2::text[]))
"""


async def knows_any(connection: asyncpg.Connection, tenant: str, nodes: Iterable[Node]) -> bool:
    """Tell whether any event ever named one of these handles so that it could mean something."""
    return bool(await connection.fetchval(KNOWN_NODES, tenant, list(nodes)))


# In the order in which a Leaf has them.
_LEAF = "leaf_id, node, component_id, customer_id, seq, was_customer, shared, linked_at, last_entry_at, renewal"

# OFFSET 0 keeps the look-ups nested: on a table without statistics the join is planned as a comparison of all with all.
_LEAVES_OF_COMPONENTS = f"""
SELECT {_LEAF} FROM (
    SELECT DISTINCT component_id AS id FROM conversation.leaf WHERE tenant_id = $1 AND {{}} OFFSET 0) AS k,
LATERAL (SELECT * FROM conversation.leaf WHERE tenant_id = $1 AND component_id = k.id OFFSET 0) AS l
"""  # noqa: S608 - names of our own columns

LEAVES_BY_NODES = _LEAVES_OF_COMPONENTS.format("node = ANY($2::text[])")

LEAVES_BY_IDS = _LEAVES_OF_COMPONENTS.format("leaf_id = ANY($2::uuid[])")

ALL_LEAVES = f"SELECT {_LEAF} FROM conversation.leaf WHERE tenant_id = $1"  # noqa: S608

_LINK = "l.occurred_at, l.source, l.event_id, l.a, l.b, l.rule"

LINKS_OF_PAIRS = f"""
SELECT {_LINK} FROM conversation.link l
JOIN unnest($2::text[], $3::text[]) AS p (a, b) ON l.a = p.a AND l.b = p.b WHERE l.tenant_id = $1 AND l.renewal >= $4
"""  # noqa: S608

LINKS_OF_NODES = f"""
SELECT {_LINK} FROM conversation.link l WHERE l.tenant_id = $1 AND l.a = ANY($2::text[])
UNION
SELECT {_LINK} FROM conversation.link l WHERE l.tenant_id = $1 AND l.b = ANY($2::text[])
"""  # noqa: S608

SAVE_LINKS = """
INSERT INTO conversation.link (tenant_id, renewal, occurred_at, source, event_id, a, b, rule, manual)
SELECT $1, $2, * FROM
    unnest($3::timestamptz[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::boolean[])
ON CONFLICT (tenant_id, a, b, manual) DO UPDATE
SET renewal = excluded.renewal, occurred_at = excluded.occurred_at, source = excluded.source,
    event_id = excluded.event_id, rule = excluded.rule
"""

SAVE_LEAVES = f"""
WITH s AS (
    SELECT * FROM unnest($3::uuid[], $4::uuid[], $5::uuid[], $6::boolean[], $7::boolean[], $8::timestamptz[])
        AS s (leaf_id, component_id, customer_id, was_customer, shared, linked_at)),
stood AS ({past.leaves_stood("s", "$9")})
UPDATE conversation.leaf l
SET renewal = $2, component_id = s.component_id, customer_id = s.customer_id, was_customer = s.was_customer,
    shared = s.shared, linked_at = s.linked_at
FROM s WHERE l.tenant_id = $1 AND l.leaf_id = s.leaf_id
"""  # noqa: S608

# The columns of a leaf that is new; the database numbers them in their order.
_NEW_LEAF = (
    "tenant_id", "renewal", "leaf_id", "node", "component_id", "customer_id", "was_customer", "shared", "linked_at",
    "first_seen_at", "last_seen_at", "shown", "verified", "last_entry_at", "name", "named_at", "attributes", "channels",
)  # fmt: skip

# Facts about leaves from new entries, in any order: earliest, latest, and what the latest said.
SAVE_SEEN = """
UPDATE conversation.leaf l
SET first_seen_at = least(l.first_seen_at, s.first_at),
    last_seen_at = greatest(l.last_seen_at, s.last_at),
    shown = CASE WHEN l.last_seen_at IS NULL OR s.shown_at >= l.last_seen_at THEN coalesce(s.shown, l.shown)
                 ELSE coalesce(l.shown, s.shown) END,
    verified = l.verified OR s.verified,
    last_entry_at = greatest(l.last_entry_at, s.entry_at),
    name = CASE WHEN s.name IS NOT NULL AND (l.named_at IS NULL OR s.named_at >= l.named_at)
                THEN s.name ELSE l.name END,
    named_at = greatest(l.named_at, s.named_at),
    attributes = CASE WHEN s.attributes = '{}' THEN l.attributes ELSE l.attributes || (
        SELECT coalesce(jsonb_object_agg(n.key, n.value), '{}') FROM jsonb_each(s.attributes) n
        WHERE NOT l.attributes ? n.key OR l.attributes -> n.key ->> 1 <= n.value ->> 1) END,
    channels = l.channels || ARRAY(
        SELECT c.channel FROM jsonb_object_keys(s.channels) AS c (channel) WHERE c.channel <> ALL (l.channels))
FROM unnest($2::uuid[], $3::timestamptz[], $4::timestamptz[], $5::text[], $6::timestamptz[], $7::boolean[],
            $8::timestamptz[], $9::text[], $10::timestamptz[], $11::jsonb[], $12::jsonb[])
    AS s (leaf_id, first_at, last_at, shown, shown_at, verified, entry_at, name, named_at, attributes, channels)
WHERE l.tenant_id = $1 AND l.leaf_id = s.leaf_id
"""

SAVE_SIGHTINGS = """
INSERT INTO conversation.sighting AS s (tenant_id, node, leaf_id, shown, verified, first_seen_at, last_seen_at)
SELECT $1, * FROM unnest($2::text[], $3::uuid[], $4::text[], $5::boolean[], $6::timestamptz[], $7::timestamptz[])
ON CONFLICT (tenant_id, node, leaf_id) DO UPDATE
SET first_seen_at = least(s.first_seen_at, excluded.first_seen_at),
    last_seen_at = greatest(s.last_seen_at, excluded.last_seen_at),
    verified = s.verified OR excluded.verified
WHERE excluded.first_seen_at < s.first_seen_at OR excluded.last_seen_at > s.last_seen_at
    OR excluded.verified AND NOT s.verified
"""


async def leaves_of_nodes(connection: asyncpg.Connection, tenant: str, nodes: Iterable[Node]) -> list[Leaf]:
    """Return the leaves of every component that one of these nodes is part of."""
    return [Leaf(*row) for row in await connection.fetch(LEAVES_BY_NODES, tenant, list(nodes))]


async def leaves_of_ids(connection: asyncpg.Connection, tenant: str, ids: Iterable[UUID]) -> list[Leaf]:
    """Return the leaves of every component that one of these leaves is part of."""
    return [Leaf(*row) for row in await connection.fetch(LEAVES_BY_IDS, tenant, list(ids))]


async def all_leaves(connection: asyncpg.Connection, tenant: str) -> list[Leaf]:
    """Return every leaf of the tenant."""
    return [Leaf(*row) for row in await connection.fetch(ALL_LEAVES, tenant)]


async def links_of_pairs(
    connection: asyncpg.Connection, tenant: str, pairs: Iterable[tuple[Node, Node]], renewal: int
) -> dict[EvidenceKey, Evidence]:
    """Return the stored evidence of those pairs that have some, as far as it was read under the policy in force."""
    rows = await connection.fetch(LINKS_OF_PAIRS, tenant, *columns(pairs, 2), renewal)
    return {link.key: link for link in (Evidence(*row) for row in rows)}


async def links_of_nodes(connection: asyncpg.Connection, tenant: str, nodes: Iterable[Node]) -> list[Evidence]:
    """Return all evidence that names one of these nodes."""
    return [Evidence(*row) for row in await connection.fetch(LINKS_OF_NODES, tenant, list(nodes))]


# What each leaf has to do with the time from `since` on, when what went on from `open_since` on may still be open. Most
# of many leaves have nothing to do with it, and are not told of. A bulk mail's id is bound as `<id>|<leaf>` (index
# binding_bulk).
ACTIVE = f"""
SELECT leaf_id, asked_at, opened_at, last_activity_at, resolved_at, bulk FROM (
    SELECT l.leaf_id,
        CASE WHEN l.since IS NULL THEN '{{}}' ELSE ARRAY(
            SELECT occurred_at FROM conversation.entry
            WHERE tenant_id = $1 AND leaf_id = l.leaf_id AND occurred_at >= l.since AND rule = ANY($5::text[]))
        END AS asked_at,
        EXISTS (SELECT FROM conversation.binding
                WHERE tenant_id = $1 AND right(key, 36) = l.leaf_id::text AND key LIKE 'mail:%|%') AS bulk,
        o.*
    FROM unnest($2::uuid[], $3::timestamptz[], $4::timestamptz[]) AS l (leaf_id, since, open_since), LATERAL (
        SELECT count(*) AS parts, array_agg(k.opened_at) FILTER (WHERE k.last_activity_at >= l.open_since) AS opened_at,
               array_agg(k.last_activity_at) FILTER (WHERE k.last_activity_at >= l.open_since) AS last_activity_at,
               array_agg(k.resolved_at) FILTER (WHERE k.last_activity_at >= l.open_since) AS resolved_at
        FROM (SELECT conversation_id FROM conversation.participation
              WHERE tenant_id = $1 AND leaf_id = l.leaf_id AND active_week >= {WEEK.format("l.open_since")}
              OFFSET 0) AS p,
        LATERAL (SELECT canonical_id FROM conversation.conversation
                 WHERE tenant_id = $1 AND conversation_id = p.conversation_id OFFSET 0) AS c,
        LATERAL (SELECT opened_at, last_activity_at, resolved_at FROM conversation.conversation
                 WHERE tenant_id = $1 AND conversation_id = c.canonical_id OFFSET 0) AS k) AS o
    OFFSET 0) AS a
WHERE parts > 0 OR bulk OR asked_at <> '{{}}'
"""  # noqa: S608


async def active(
    connection: asyncpg.Connection, tenant: str, wanted: Iterable[tuple[UUID, datetime | None, datetime]]
) -> dict[UUID, Active]:
    """Return for each (leaf, since, open since) what the leaf has to do with the time from `since` on, if anything.

    None: it has done nothing since then. What went on from `open since` on may be open then. A leaf that is not told of
    took part in nothing that did.
    """
    rows = await connection.fetch(ACTIVE, tenant, *columns(wanted, 3), ASKING)
    return {row[0]: Active(row[1], list(map(Open, *(times or () for times in row[2:5]))), row[5]) for row in rows}


async def save_links(connection: asyncpg.Connection, tenant: str, links: Iterable[Evidence], renewal: int) -> None:
    """Store evidence, read under the policy whose `renewal` this is."""
    rows = [(e.occurred_at, e.source, e.event_id, e.a, e.b, e.rule, e.manual) for e in links]
    if rows:
        await connection.execute(SAVE_LINKS, tenant, renewal, *columns(rows, 7))


async def clear_links(connection: asyncpg.Connection, tenant: str) -> None:
    """Forget all evidence, to be gathered again from the stored entries."""
    await connection.execute("DELETE FROM conversation.link WHERE tenant_id = $1", tenant)


async def save_leaves(
    connection: asyncpg.Connection,
    tenant: str,
    leaves: Iterable[Leaf],
    renewal: int,
    seen: Mapping[UUID, Seen],
    now: datetime,
) -> None:
    """Store leaves, decided under the policy whose `renewal` this is, and what is new of each.

    Of those that are another customer's than before, whose they were until now is kept.
    A new leaf is written whole at once: it stands in seven indexes, and to write it again costs as much as to write it.
    """
    fresh, known = [], []
    for leaf in sorted(leaves, key=lambda leaf: leaf.age):
        row = (leaf.component_id, leaf.customer_id, leaf.was_customer, leaf.shared, leaf.linked_at)
        if leaf.seq is None:
            first = _first_seen(seen.get(leaf.leaf_id) or Seen(leaf.leaf_id))
            fresh.append((tenant, renewal, leaf.leaf_id, leaf.node, *row, *first))
        else:
            known.append((leaf.leaf_id, *row))
    await insert(connection, "leaf", _NEW_LEAF, fresh)
    if known:
        await connection.execute(SAVE_LEAVES, tenant, renewal, *columns(known, 6), now)
    written = {row[2] for row in fresh}
    if rows := [_SEEN(one) for leaf_id, one in seen.items() if leaf_id not in written]:
        await connection.execute(SAVE_SEEN, tenant, *columns(rows, 11))


def _first_seen(seen: Seen) -> tuple[Any, ...]:
    """Return what SAVE_SEEN would make of a leaf of which nothing was known."""
    channels = sorted(seen.channels, key=lambda channel: (len(channel.encode()), channel))
    return (
        seen.first_at, seen.last_at, seen.shown, seen.verified, seen.entry_at, seen.name, seen.named_at,
        seen.attributes, channels,
    )  # fmt: skip


_SEEN = attrgetter(*(column.name for column in fields(Seen)))


async def save_sightings(connection: asyncpg.Connection, tenant: str, rows: Rows) -> None:
    """Rows of (node, leaf_id, shown, verified, first_seen_at, last_seen_at), one per node and leaf."""
    if rows:
        await connection.execute(SAVE_SIGHTINGS, tenant, *columns(rows, 6))
