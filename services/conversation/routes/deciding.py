"""What all decisions of agents share: appended to the log like any event, and answered once it shows."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID

from services.conversation import tables
from shared.auth import Principal
from shared.database.engine import tenant_reader
from shared.entry_ids import entry_id_of
from shared.events import InboundEvent
from shared.log.protocol import INBOUND, Outgoing
from shared.problems import Fault, Problem, unavailable
from shared.service import Platform

VISIBLE_S = 10.0
"""How long a caller waits for a decision to be on the timeline."""
LARGE_S = 60.0
"""The same for one that the lane has, because it is a large one."""
LOOK_EVERY_S = 0.02

PLACE_OF_ENTRY = """
SELECT l.customer_id, coalesce(c.canonical_id, e.conversation_id) AS conversation_id FROM conversation.entry e
JOIN conversation.leaf l ON l.tenant_id = e.tenant_id AND l.leaf_id = e.leaf_id
LEFT JOIN conversation.conversation c ON c.tenant_id = e.tenant_id AND c.conversation_id = e.conversation_id
WHERE e.tenant_id = $1 AND e.entry_id = $2
"""


async def carried_out(platform: Platform, secret: bytes, event: InboundEvent) -> tuple[UUID, UUID | None]:
    """Append a decision and wait until it shows; return the customer and the conversation that it is with.

    Raises LogUnavailable, or Problem 503 where it takes too long.
    """
    await platform.log.append(INBOUND, [Outgoing(f"{event.tenant}|{event.source}".encode(), event.encode())])
    entry_id = entry_id_of(secret, event.tenant, event.source, event.id)
    begun = asyncio.get_running_loop().time()
    while (waited := asyncio.get_running_loop().time() - begun) < LARGE_S:
        async with tenant_reader(platform.pool, event.tenant) as connection:
            row = await connection.fetchrow(PLACE_OF_ENTRY, event.tenant, entry_id)
            if row is not None:
                return row["customer_id"], row["conversation_id"]
            if waited > VISIBLE_S and not await tables.aside.is_aside(connection, event.tenant, entry_id):
                break
        await asyncio.sleep(LOOK_EVERY_S)
    raise unavailable("the decision is accepted and not yet carried out; look again in a moment before deciding anew")


def undecidable(pointer: str, detail: str) -> Problem:
    """Return the 422 for a decision that cannot be."""
    return Problem(422, "This cannot be done", detail, errors=[Fault(pointer, detail)])


def actor_of(writer: Principal) -> dict[str, Any]:
    """Return who decides, as an event says it."""
    return {"type": "agent", "id": str(writer.key_id)}
