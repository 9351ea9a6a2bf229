"""Everything that is kept of one person."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import asyncpg

from services.conversation.reading.conversations import conversations
from services.conversation.reading.customers import customer
from services.conversation.reading.shown import JOINED_WHOLE, SHOWN, seen_by
from shared.events import rfc3339

EXPORTED = f"""
SELECT {SHOWN}, coalesce(c.canonical_id, e.conversation_id)::text AS canonical_id, {JOINED_WHOLE}, NULL AS customer_id
FROM conversation.leaf l
JOIN conversation.entry e ON e.tenant_id = $1 AND e.leaf_id = l.leaf_id
LEFT JOIN conversation.conversation c ON c.tenant_id = $1 AND c.conversation_id = e.conversation_id
WHERE l.tenant_id = $1 AND l.customer_id = $2
ORDER BY e.occurred_at, e.source, e.event_id
"""  # noqa: S608

# Other events of mails that are on the line already.
COPIES = """
SELECT m.entry_id::text, m.source, m.event_id, m.type, m.occurred_at, m.data FROM conversation.leaf l
JOIN conversation.entry e ON e.tenant_id = $1 AND e.leaf_id = l.leaf_id
JOIN conversation.copy m ON m.tenant_id = $1 AND m.entry_id = e.entry_id
WHERE l.tenant_id = $1 AND l.customer_id = $2 ORDER BY m.occurred_at, m.source, m.event_id
"""


# What else came under the ids of events that are on the line already.
CONFLICTS = """
SELECT f.entry_id::text, f.type, f.occurred_at, f.data FROM conversation.leaf l
JOIN conversation.entry e ON e.tenant_id = $1 AND e.leaf_id = l.leaf_id
JOIN conversation.conflict f ON f.tenant_id = $1 AND f.entry_id = e.entry_id
WHERE l.tenant_id = $1 AND l.customer_id = $2 ORDER BY f.occurred_at, f.entry_id, f.digest
"""


async def export(connection: asyncpg.Connection, tenant: str, customer_id: UUID) -> AsyncIterator[dict[str, Any]]:
    """Yield everything that is kept of one surviving customer: who they are, their conversations, their entries.

    An entry comes as the API shows it, with `data` as it was posted. Reads a row at a time, whatever the length.
    """
    yield {"kind": "customer", **await customer(connection, tenant, customer_id)}
    met: set[str] = set()
    who = str(customer_id)
    async for row in connection.cursor(EXPORTED, tenant, customer_id, prefetch=200):
        if row["canonical_id"] is not None:
            met.add(row["canonical_id"])
        yield {"kind": "entry", **seen_by(who, row), "data": row["data"]}
    for kind, query in (("copy", COPIES), ("conflict", CONFLICTS)):
        for row in await connection.fetch(query, tenant, customer_id):
            yield {"kind": kind, **row, "occurred_at": rfc3339(row["occurred_at"])}
    for conversation in await conversations(connection, tenant, [UUID(id_) for id_ in sorted(met)]):
        yield {"kind": "conversation", **conversation}
