"""What became of one event, as far as the database knows: on a timeline, quarantined, or erased."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

if TYPE_CHECKING:
    import asyncpg

# One entry, or the one that stands for a copy of a mail, with its customer and the conversation that its own became
# a part of.
ENTRY = """
SELECT e.entry_id, l.customer_id, coalesce(c.canonical_id, e.conversation_id) AS conversation_id
FROM conversation.entry AS e
JOIN conversation.leaf AS l ON l.tenant_id = e.tenant_id AND l.leaf_id = e.leaf_id
LEFT JOIN conversation.conversation AS c
    ON c.tenant_id = e.tenant_id AND c.conversation_id = e.conversation_id
WHERE e.tenant_id = $1
    AND e.entry_id = coalesce((SELECT entry_id FROM conversation.copy WHERE tenant_id = $1 AND copy_id = $2), $2)
"""

# The newest word on the event: one that was retried and failed again stands here twice.
QUARANTINED = """
SELECT reason FROM log.quarantine
WHERE tenant_id = $1 AND source = $2 AND event_id = $3 AND state = 'held'
ORDER BY quarantined_at DESC LIMIT 1
"""

ERASED = "SELECT true FROM privacy.tombstone WHERE tenant_id = $1 AND digest = $2 AND kind = 'e'"

# Accepted more than a moment ago and not yet taken from the log (another process may have accepted it), or set aside
# by the conversation service, whose decision on it is a large one.
WAITING = """
SELECT true FROM ingest.accepted WHERE tenant_id = $1 AND digest = $2
UNION ALL
SELECT true FROM conversation.aside WHERE tenant_id = $1 AND entry_id = $3 LIMIT 1
"""


async def status_of(
    connection: asyncpg.Connection, tenant: str, source: str, event_id: str, entry_id: UUID, digest: bytes
) -> dict[str, str | None] | None:
    """Return the answer of `GET /v1/events/status`, or None where the database does not know the event.

    `entry_id` is the id of the entry that it would become (shared/entry_ids.py), `digest` its name among the accepted
    (shared/accepted.py).
    """
    row = await connection.fetchrow(ENTRY, tenant, entry_id)
    if row is not None:
        return answer("on_timeline", **{name: str(value) for name, value in row.items() if value is not None})
    reason = await connection.fetchval(QUARANTINED, tenant, source, event_id)
    if reason is not None:
        return answer("quarantined", reason=reason)
    if await connection.fetchval(ERASED, tenant, entry_id):
        return answer("erased")
    if await connection.fetchval(WAITING, tenant, digest, entry_id):
        return answer("accepted")
    return None


def answer(status: str, **known: str) -> dict[str, str | None]:
    """Return the answer of `GET /v1/events/status` with what is known filled in."""
    return {"status": status, "customer_id": None, "conversation_id": None, "entry_id": None, "reason": None, **known}
