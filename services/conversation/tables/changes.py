"""What changed on timelines, numbered in the order of commits, for streams."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import asyncpg

from services.conversation.entries import Entry
from services.conversation.tables.rows import columns

SAVE_CHANGES = """
WITH numbered AS (
    UPDATE conversation.tenant_state SET position = position + $2 WHERE tenant_id = $1
    RETURNING position - $2 AS before)
INSERT INTO conversation.change (tenant_id, position, entry_id, leaf_id, conversation_id, kind, changed_at)
SELECT $1, n.before + c.place, c.entry_id, c.leaf_id, c.conversation_id, c.kind, $3
FROM numbered n, unnest($4::uuid[], $5::uuid[], $6::uuid[], $7::"char"[])
    WITH ORDINALITY AS c (entry_id, leaf_id, conversation_id, kind, place)
"""

NEW, CORRECTED, GONE = b"n", b"c", b"g"


async def save_changes(
    connection: asyncpg.Connection, tenant: str, changes: Sequence[tuple[bytes, Entry]], now: datetime
) -> None:
    """Number what changed on timelines. The tenant's row is locked, so positions follow the order of commits."""
    if not changes:
        return
    rows = [(entry.entry_id, entry.leaf_id, entry.conversation_id, kind) for kind, entry in changes]
    await connection.execute(SAVE_CHANGES, tenant, len(rows), now, *columns(rows, 4))
