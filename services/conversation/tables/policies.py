"""Changes of the identity policy: who made each, when, and which leaves it took apart or put together.

Leaves alone are named, never handles, so that whoever is erased is gone from here as well.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

import asyncpg

from services.conversation.identity import Node
from services.conversation.people import Regrouped
from services.conversation.tables.rows import columns

SAVE_CHANGE = """
INSERT INTO conversation.policy_change (tenant_id, policy_version, changed_at, actor, settings)
VALUES ($1, $2, $3, $4, $5)
"""

SAVE_REGROUPED = """
INSERT INTO conversation.policy_regrouping (tenant_id, policy_version, leaf_id, was, became)
SELECT $1, $2, * FROM unnest($3::uuid[], $4::uuid[], $5::uuid[])
ON CONFLICT (tenant_id, leaf_id, policy_version) DO UPDATE SET became = excluded.became
"""

# All whom the changes regrouped together with a leaf of this customer.
CHANGES_OF_CUSTOMER = """
WITH mine AS (
    SELECT DISTINCT r.policy_version, met.id FROM conversation.leaf l
    JOIN conversation.policy_regrouping r ON r.tenant_id = $1 AND r.leaf_id = l.leaf_id,
    LATERAL (VALUES (r.was), (r.became)) AS met (id)
    WHERE l.tenant_id = $1 AND l.customer_id = $2),
around AS (
    SELECT r.* FROM mine JOIN conversation.policy_regrouping r
        ON r.tenant_id = $1 AND r.policy_version = mine.policy_version AND r.was = mine.id
    UNION
    SELECT r.* FROM mine JOIN conversation.policy_regrouping r
        ON r.tenant_id = $1 AND r.policy_version = mine.policy_version AND r.became = mine.id)
SELECT c.policy_version, c.changed_at, c.actor, c.settings, array_agg(l.node ORDER BY l.node) AS nodes
FROM around r
JOIN conversation.policy_change c ON c.tenant_id = $1 AND c.policy_version = r.policy_version
JOIN conversation.leaf l ON l.tenant_id = $1 AND l.leaf_id = r.leaf_id
GROUP BY c.policy_version, c.changed_at, c.actor, c.settings, r.was, r.became
ORDER BY c.policy_version, min(l.node)
"""


class Change(NamedTuple):
    """A change of the identity policy: the version that it made, and the names of the settings that are others now."""

    version: int
    changed_at: datetime
    actor: str | None
    settings: list[str]


async def save_change(connection: asyncpg.Connection, tenant: str, change: Change) -> None:
    """Keep a change of the policy."""
    await connection.execute(SAVE_CHANGE, tenant, *change)


async def save_regrouped(
    connection: asyncpg.Connection, tenant: str, version: int, regrouped: Iterable[Regrouped]
) -> None:
    """Keep whom a change of the policy, by the version that it made, regrouped."""
    if rows := list(regrouped):
        await connection.execute(SAVE_REGROUPED, tenant, version, *columns(rows, 3))


async def changes_of_customer(
    connection: asyncpg.Connection, tenant: str, customer_id: UUID
) -> list[tuple[Change, list[list[Node]]]]:
    """Return the changes that regrouped this customer, oldest first, with the groups of nodes that moved as one."""
    found: dict[int, tuple[Change, list[list[Node]]]] = {}
    for *change, nodes in await connection.fetch(CHANGES_OF_CUSTOMER, tenant, customer_id):
        found.setdefault(change[0], (Change(*change), []))[1].append(nodes)
    return list(found.values())
