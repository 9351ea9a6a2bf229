"""How far conversations had come: stored states of long ones, from which they are told anew."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from uuid import UUID

import asyncpg

from services.conversation.checkpoints import Checkpoint
from services.conversation.tables.conversations import CONVERSATION, RECORD, conversation_of, row_of
from services.conversation.tables.rows import columns

LATEST = f"""
SELECT c.* FROM unnest($2::uuid[], $3::timestamptz[]) AS w (conversation_id, since),
LATERAL (SELECT at, participants, {CONVERSATION} FROM conversation.checkpoint
         WHERE tenant_id = $1 AND conversation_id = w.conversation_id AND at < w.since ORDER BY at DESC LIMIT 1) AS c
"""  # noqa: S608 - names of our own columns, here and below

DELETE = """
DELETE FROM conversation.checkpoint c USING unnest($2::uuid[], $3::timestamptz[]) AS w (conversation_id, since)
WHERE c.tenant_id = $1 AND c.conversation_id = w.conversation_id AND c.at >= w.since
"""

SAVE = f"""
INSERT INTO conversation.checkpoint (tenant_id, at, participants, {CONVERSATION})
SELECT $1, at, participants, {CONVERSATION}
FROM jsonb_to_recordset($2::jsonb) AS r (at timestamptz, participants uuid[], {RECORD})
ON CONFLICT (tenant_id, conversation_id, at) DO NOTHING
"""  # noqa: S608


async def latest(
    connection: asyncpg.Connection, tenant: str, wanted: Iterable[tuple[UUID, datetime]]
) -> dict[UUID, Checkpoint]:
    """Return of each (conversation, instant) the latest checkpoint before that instant, where there is one."""
    rows = await connection.fetch(LATEST, tenant, *columns(wanted, 2))
    return {
        row["conversation_id"]: Checkpoint(row["at"], conversation_of(row), frozenset(row["participants"]))
        for row in rows
    }


async def delete(connection: asyncpg.Connection, tenant: str, wanted: Iterable[tuple[UUID, datetime]]) -> None:
    """Delete the checkpoints of each (conversation, instant) from that instant on."""
    await connection.execute(DELETE, tenant, *columns(wanted, 2))


async def save(connection: asyncpg.Connection, tenant: str, checkpoints: Sequence[Checkpoint]) -> None:
    """Store checkpoints; those that are there say the same."""
    rows = [
        {"at": c.at, "participants": [str(id_) for id_ in c.participants], **row_of(c.conversation)}
        for c in checkpoints
    ]
    await connection.execute(SAVE, tenant, rows)
