"""What a changed policy has still to decide again: leaves and links decided under an earlier one.

`renewal` is the version of the latest policy change that may decide otherwise what was there before it. A leaf whose
own is lower is outstanding, and with it its component, its entries and the conversations that these are in.
"""

from __future__ import annotations

from collections.abc import Iterable
from uuid import UUID

import asyncpg

from services.conversation.identity import Evidence, EvidenceKey, Node
from services.conversation.tables.rows import columns

# One carries out a tenant's slices at a time, whatever the number of processes; the key is that of slices alone.
ALONE = "SELECT pg_try_advisory_xact_lock(hashtextextended('renewal:' || $1, 0))"

TENANTS = "SELECT tenant_id FROM conversation.tenant_state WHERE renewed < renewal ORDER BY tenant_id"

FINISH = "UPDATE conversation.tenant_state SET renewed = renewal WHERE tenant_id = $1 AND renewed < renewal"

# Leaves one component after the other, until they have that many entries.
NEXT = """
SELECT s.leaf_id FROM (
    SELECT l.leaf_id, sum(e.count) OVER (ROWS UNBOUNDED PRECEDING) - e.count AS before FROM (
        SELECT leaf_id FROM conversation.leaf WHERE tenant_id = $1 AND renewal < $2
        ORDER BY renewal, component_id LIMIT $3) AS l,
    LATERAL (SELECT count(*) FROM (
        SELECT FROM conversation.entry WHERE tenant_id = $1 AND leaf_id = l.leaf_id LIMIT $3) AS counted) AS e) AS s
WHERE s.before < $3
"""

STALE_PARTICIPANTS = """
SELECT DISTINCT p.leaf_id FROM unnest($2::uuid[]) AS c (conversation_id),
LATERAL (SELECT leaf_id FROM conversation.participation
         WHERE tenant_id = $1 AND conversation_id = c.conversation_id OFFSET 0) AS p,
LATERAL (SELECT FROM conversation.leaf
         WHERE tenant_id = $1 AND leaf_id = p.leaf_id AND renewal < $3 OFFSET 0) AS l
"""

_LINK = "l.occurred_at, l.source, l.event_id, l.a, l.b, l.rule"

OUTDATED_LINKS = f"""
SELECT {_LINK} FROM conversation.link l WHERE l.tenant_id = $1 AND l.a = ANY($2::text[]) AND l.renewal < $3
UNION
SELECT {_LINK} FROM conversation.link l WHERE l.tenant_id = $1 AND l.b = ANY($2::text[]) AND l.renewal < $3
"""  # noqa: S608

REMOVE_LINKS = """
DELETE FROM conversation.link l USING unnest($2::text[], $3::text[], $4::boolean[]) AS w (a, b, manual)
WHERE l.tenant_id = $1 AND l.a = w.a AND l.b = w.b AND l.manual = w.manual
"""

COUNT = """
SELECT count(*) FROM conversation.tenant_state s
JOIN conversation.leaf l ON l.tenant_id = s.tenant_id AND l.renewal < s.renewal WHERE s.tenant_id = ANY($1::text[])
"""


async def alone(connection: asyncpg.Connection, tenant: str) -> bool:
    """Become, until commit, the only one who carries out slices of a tenant; tell whether that was possible."""
    return bool(await connection.fetchval(ALONE, tenant))


async def tenants(connection: asyncpg.Connection | asyncpg.Pool) -> list[str]:
    """Return the tenants of whom something is outstanding."""
    return [row[0] for row in await connection.fetch(TENANTS)]


async def finish(connection: asyncpg.Connection, tenant: str) -> None:
    """Note that nothing of a tenant is outstanding."""
    await connection.execute(FINISH, tenant)


async def outstanding(connection: asyncpg.Connection | asyncpg.Pool, tenants: Iterable[str]) -> int:
    """Return how many leaves of these tenants are outstanding."""
    return int(await connection.fetchval(COUNT, list(tenants)))


async def next_leaves(connection: asyncpg.Connection, tenant: str, renewal: int, most: int) -> list[UUID]:
    """Return outstanding leaves, at least one if there is any, that own about `most` entries together."""
    return [row[0] for row in await connection.fetch(NEXT, tenant, renewal, most)]


async def stale_participants(
    connection: asyncpg.Connection, tenant: str, conversations: Iterable[UUID], renewal: int
) -> list[UUID]:
    """Return the outstanding leaves that take part in these conversations."""
    rows = await connection.fetch(STALE_PARTICIPANTS, tenant, list(conversations), renewal)
    return [row[0] for row in rows]


async def outdated_links(
    connection: asyncpg.Connection, tenant: str, nodes: Iterable[Node], renewal: int
) -> list[Evidence]:
    """Return the evidence on these nodes that was read under an earlier policy."""
    rows = await connection.fetch(OUTDATED_LINKS, tenant, list(nodes), renewal)
    return [Evidence(*row) for row in rows]


async def remove_links(connection: asyncpg.Connection, tenant: str, keys: Iterable[EvidenceKey]) -> None:
    """Forget evidence that no event gives any more."""
    if rows := list(keys):
        await connection.execute(REMOVE_LINKS, tenant, *columns(rows, 3))
