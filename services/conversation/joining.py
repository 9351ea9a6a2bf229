"""What an agent decides about conversations, as an event: entries, or a whole conversation, belong into another one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

import asyncpg

from shared.events import DERIVED_SOURCE, JOINED, TYPE_PREFIX, InboundEvent

MOST_ENTRIES = 200
"""Most entries that one join moves; a whole conversation may be of any length."""
MOST_KEPT = 500
"""How many entries behind those that leave are kept where they are by name; any others follow the rules."""

CONVERSATION = """
SELECT c.canonical_id, k.opened_at, k.last_entry_at FROM conversation.conversation c
JOIN conversation.conversation k ON k.tenant_id = $1 AND k.conversation_id = c.canonical_id
WHERE c.tenant_id = $1 AND c.conversation_id = $2
"""

ENTRIES = """
SELECT e.entry_id, e.occurred_at, e.cause_id IS NOT NULL AS derived,
       coalesce(c.canonical_id, e.conversation_id) AS held_by
FROM conversation.entry e
LEFT JOIN conversation.conversation c ON c.tenant_id = $1 AND c.conversation_id = e.conversation_id
WHERE e.tenant_id = $1 AND e.entry_id = ANY($2::uuid[])
"""

# What lies in a conversation behind the first entry that leaves it, and stays.
KEPT = """
SELECT e.entry_id FROM conversation.conversation c
JOIN conversation.entry e ON e.tenant_id = $1 AND e.conversation_id = c.conversation_id
WHERE c.tenant_id = $1 AND c.canonical_id = $2 AND e.cause_id IS NULL AND e.entry_id <> ALL ($3::uuid[])
    AND (e.occurred_at, e.source, e.event_id) > (
        SELECT g.occurred_at, g.source, g.event_id FROM conversation.entry g
        WHERE g.tenant_id = $1 AND g.entry_id = ANY ($4::uuid[])
        ORDER BY g.occurred_at, g.source, g.event_id LIMIT 1)
ORDER BY e.occurred_at, e.source, e.event_id LIMIT $5
"""


# Also one that is part of another by now: what became of it is known by its id.
KNOWN = "SELECT true FROM conversation.conversation WHERE tenant_id = $1 AND conversation_id = $2"


class Unjoinable(ValueError):
    """The join cannot be; the message tells the agent why. `index` is that of the entry at fault, if one is."""

    def __init__(self, reason: str, index: int | None = None) -> None:
        super().__init__(reason)
        self.index = index


class UnknownEntry(Unjoinable):
    """There is no such entry, or it is another tenant's."""


@dataclass(frozen=True, slots=True)
class Join:
    """What is to be joined into the conversation `into`: entries, or a whole conversation. An instant behind both.

    Where `into` is no conversation yet it is one of the entries, and they open one of their own.
    """

    into: UUID
    at: datetime
    whole: UUID | None = None
    entries: tuple[UUID, ...] = ()
    kept: tuple[tuple[UUID, tuple[UUID, ...]], ...] = ()
    """(conversation, entries that stay in it though others leave)."""

    def event(self, tenant: str, reason: str | None, actor: dict[str, Any], now: datetime) -> InboundEvent:
        """Return the join as the event that carries it through the log."""
        data: dict[str, Any] = {"actor": actor, "into": str(self.into)}
        if self.whole:
            data["from"] = str(self.whole)
        if self.entries:
            data["entry_ids"] = [str(id_) for id_ in self.entries]
        if self.kept:
            data["kept"] = {str(id_): [str(entry) for entry in stay] for id_, stay in self.kept}
        if reason:
            data["reason"] = reason.replace("\0", "\ufffd").encode("utf-8", "replace").decode()
        at = max(now, self.at)
        return InboundEvent(tenant, DERIVED_SOURCE, f"{JOINED}:{uuid4()}", TYPE_PREFIX + JOINED, at, now, data)


async def whole(connection: asyncpg.Connection, tenant: str, into: UUID, other: UUID) -> Join:
    """Return the join of two conversations, by canonical ids. Raises Unjoinable."""
    if into == other:
        raise Unjoinable("this is the same conversation; name another one")
    rows = [await connection.fetchrow(CONVERSATION, tenant, id_) for id_ in (into, other)]
    return Join(into, max(row["opened_at"] for row in rows), whole=other)


async def some(connection: asyncpg.Connection, tenant: str, into: UUID, ids: Sequence[UUID]) -> Join:
    """Return the join of entries into a conversation, by canonical id. Raises Unjoinable."""
    opened_at = (await connection.fetchrow(CONVERSATION, tenant, into))["opened_at"]
    return await _put(connection, tenant, into, ids, opened_at)


async def of_their_own(connection: asyncpg.Connection, tenant: str, name: UUID, ids: Sequence[UUID]) -> Join:
    """Return the join of entries, of which `name` is one, into a conversation of their own. Raises Unjoinable."""
    if await connection.fetchval(KNOWN, tenant, name):
        raise Unjoinable("this conversation became part of another one as a whole, and stays so", ids.index(name))
    return await _put(connection, tenant, name, ids)


async def _put(
    connection: asyncpg.Connection, tenant: str, into: UUID, ids: Sequence[UUID], at: datetime | None = None
) -> Join:
    found = {row["entry_id"]: row for row in await connection.fetch(ENTRIES, tenant, list(ids))}
    for index, id_ in enumerate(ids):
        if id_ not in found:
            raise UnknownEntry("there is no such entry", index)
        if found[id_]["derived"]:
            raise Unjoinable("Threadline made this entry from another one; join that one", index)
    moved = tuple(id_ for id_ in dict.fromkeys(ids) if found[id_]["held_by"] != into)
    if not moved:
        raise Unjoinable("all of these are in this conversation already")
    kept = []
    for left in sorted({found[id_]["held_by"] for id_ in moved} - {None}):
        leaving = [id_ for id_ in moved if found[id_]["held_by"] == left]
        rows = await connection.fetch(KEPT, tenant, left, list(moved), leaving, MOST_KEPT)
        kept.append((left, tuple(row["entry_id"] for row in rows)))
    return Join(into, at or max(found[id_]["occurred_at"] for id_ in moved), entries=moved, kept=tuple(kept))
