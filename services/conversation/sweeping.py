"""Files and large data that no event came for: kept before an append that failed, and then nobody sent it again.

Ingest keeps bytes before it appends, so bytes without an event are either on their way or left behind. They are left
behind where everything that was appended after them has been taken from the log, and their event is nowhere. What was
found once is never looked for again: tables that are lost and filled anew by a replay lose no file.

Source: docs/decisions/0022-attachments-in-the-database.md
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

import asyncpg
import structlog

from services.conversation.consumer import GROUP
from shared.database.engine import transaction
from shared.database.retrying import tried_again
from shared.entry_ids import entry_id_of, entry_secret
from shared.log.offsets import stored_offsets
from shared.log.protocol import INBOUND
from shared.service import Platform

LOOK_EVERY_S = 3_600.0
AGE = timedelta(days=8)
"""How long bytes wait for their event: no provider tries for longer than seven days, and an append takes seconds."""
AT_ONCE = 500
"""Events of one transaction."""

# What nobody could read may be the record of any of them: while such a one is held, all are waited for.
UNSETTLED = """
SELECT tenant_id, source, event_id FROM (
    SELECT tenant_id, source, event_id FROM ingest.attachment WHERE NOT settled AND kept_at < $1
    UNION
    SELECT tenant_id, source, event_id FROM ingest.blob WHERE NOT settled AND kept_at < $1
) AS kept
WHERE NOT EXISTS (SELECT FROM log.quarantine WHERE state = 'held' AND source IS NULL)
LIMIT $2
"""

KNOWN = """
SELECT g.tenant_id, g.source, g.event_id
FROM unnest($1::text[], $2::text[], $3::text[], $4::uuid[]) AS g (tenant_id, source, event_id, entry_id)
WHERE EXISTS (SELECT FROM conversation.entry AS e WHERE e.tenant_id = g.tenant_id AND e.entry_id = g.entry_id)
   OR EXISTS (SELECT FROM conversation.copy AS c WHERE c.tenant_id = g.tenant_id AND c.copy_id = g.entry_id)
   OR EXISTS (SELECT FROM conversation.aside AS a WHERE a.tenant_id = g.tenant_id AND a.entry_id = g.entry_id)
   OR EXISTS (SELECT FROM log.quarantine AS q
              WHERE q.tenant_id = g.tenant_id AND q.source = g.source AND q.event_id = g.event_id)
"""

SETTLE = """
WITH given AS (SELECT * FROM unnest($1::text[], $2::text[], $3::text[]) AS g (tenant_id, source, event_id)),
blobs AS (
    UPDATE ingest.blob AS b SET settled = true FROM given AS g
    WHERE (b.tenant_id, b.source, b.event_id) = (g.tenant_id, g.source, g.event_id) AND NOT b.settled)
UPDATE ingest.attachment AS a SET settled = true FROM given AS g
WHERE (a.tenant_id, a.source, a.event_id) = (g.tenant_id, g.source, g.event_id) AND NOT a.settled
"""

# Where the event is being sent again at this moment, either its bytes are younger now or they are put anew afterwards.
SWEEP = """
WITH given AS (SELECT * FROM unnest($1::text[], $2::text[], $3::text[]) AS g (tenant_id, source, event_id)),
blobs AS (
    DELETE FROM ingest.blob AS b USING given AS g
    WHERE (b.tenant_id, b.source, b.event_id) = (g.tenant_id, g.source, g.event_id)
        AND NOT b.settled AND b.kept_at < $4 RETURNING 1),
files AS (
    DELETE FROM ingest.attachment AS a USING given AS g
    WHERE (a.tenant_id, a.source, a.event_id) = (g.tenant_id, g.source, g.event_id)
        AND NOT a.settled AND a.kept_at < $4 RETURNING 1)
SELECT (SELECT count(*) FROM blobs) + (SELECT count(*) FROM files)
"""

log = structlog.get_logger("threadline.sweeping")


class Seen(NamedTuple):
    """How far the inbound topic went at one moment."""

    at: datetime
    ends: Mapping[int, int]


class Sweeper:
    """Deletes what was left behind, of all tenants."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform
        self._secret = entry_secret(platform.secret_key)
        self._seen: Seen | None = None

    async def run(self) -> None:
        """Look now and then, for the life of the process."""
        while True:
            with tried_again(log, "what was left behind is looked for later"):
                await self.look()
            await asyncio.sleep(LOOK_EVERY_S)

    async def look(self) -> int:
        """Delete what was left behind before the look before this one; return how many files and large data.

        None are deleted before the conversation service has done all that the log held then. Raises Retryable.
        """
        before, inbound = self._seen, self._platform.log
        self._seen = Seen(self._platform.clock.now(), await inbound.end_offsets(INBOUND))
        if before is None or not await self._has_done(before.ends):
            return 0
        swept = 0
        while True:
            async with transaction(self._platform.pool) as connection:
                rows = await connection.fetch(UNSETTLED, before.at - AGE, AT_ONCE)
                if rows:
                    swept += await self._sweep(connection, rows, before.at - AGE)
            if len(rows) < AT_ONCE:
                break
        if swept:
            log.info("files and large data without an event are deleted", count=swept)
        return swept

    async def _has_done(self, ends: Mapping[int, int]) -> bool:
        begins = await self._platform.log.begin_offsets(INBOUND)
        done = await stored_offsets(self._platform.pool, self._platform.log, GROUP, INBOUND)
        return all(done.get(partition, begins[partition]) >= end for partition, end in ends.items())

    async def _sweep(self, connection: asyncpg.Connection, rows: Sequence[asyncpg.Record], before: datetime) -> int:
        events = {tuple(row) for row in rows}
        ids = [entry_id_of(self._secret, *event) for event in events]
        known = {tuple(row) for row in await connection.fetch(KNOWN, *_columns(events), ids)}
        await connection.execute(SETTLE, *_columns(known))
        swept: int = await connection.fetchval(SWEEP, *_columns(events - known), before)
        return swept


def _columns(events: set[tuple[str, ...]]) -> list[list[str]]:
    return [[event[place] for event in events] for place in range(3)]
