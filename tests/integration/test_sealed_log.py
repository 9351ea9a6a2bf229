"""A sealed timeline topic: nothing in the log tells of a person, readers read it, and a destroyed key ends that."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID, uuid4

import asyncpg

from shared.events import TimelineRecord
from shared.log.postgres import PostgresLog, postgres_log
from shared.log.protocol import TIMELINE, Outgoing
from shared.log.sealed import SealedLog
from tests.topics import records_of

SECRET = bytes(range(32))
LEAF = UUID("00000000-0000-4000-8000-00000000000a")
ENTRY = TimelineRecord("acme", "entry", str(uuid4()), 1, {"leaf_id": str(LEAF), "text": "zanzibar", "source": "/x"})
OWNER = TimelineRecord("acme", "leaf", str(LEAF), 1, {"customer_id": str(LEAF), "kind": "crm", "value": "zanzibar"})
PLACE = TimelineRecord("acme", "conversation", str(uuid4()), 1, {"canonical_id": str(LEAF), "follow_up_of": None})
GONE = TimelineRecord("acme", "entry", ENTRY.key, 2, {"leaf_id": str(LEAF), "erased": {}}, deleted=True)


async def emit(pool: asyncpg.Pool, log: SealedLog, *lines: TimelineRecord) -> None:
    async with pool.acquire() as connection, connection.transaction():
        await log.emit(connection, TIMELINE, [Outgoing(b"acme", line.encode()) for line in lines])


async def read(log: SealedLog | PostgresLog) -> Sequence[TimelineRecord]:
    return [TimelineRecord.decode(record.value) for record in await records_of(log, TIMELINE)]


async def test_readers_read_what_the_log_does_not_tell(pool: asyncpg.Pool) -> None:
    async with postgres_log(pool, retention=None) as inner:
        log = SealedLog(inner, pool, SECRET, seals=True)
        await emit(pool, log, ENTRY, OWNER, PLACE)
        values = [row["value"] for row in await pool.fetch("SELECT value FROM log.record")]
        assert len(values) == 3 and not any(b"zanzibar" in value for value in values)
        assert await read(log) == [ENTRY, OWNER, PLACE]
        # Somebody switched it off again: what was sealed is read, and nothing new is sealed.
        log = SealedLog(inner, pool, SECRET, seals=False)
        await emit(pool, log, ENTRY)
        assert await read(log) == [ENTRY, OWNER, PLACE, ENTRY]
        assert (await read(inner))[-1] == ENTRY


async def test_without_its_key_a_record_is_of_something_that_is_gone(pool: asyncpg.Pool) -> None:
    async with postgres_log(pool, retention=None) as inner:
        log = SealedLog(inner, pool, SECRET, seals=True)
        await emit(pool, log, ENTRY, OWNER)
        await pool.execute("DELETE FROM privacy.log_key WHERE leaf_id = $1", LEAF)
        await emit(pool, log, GONE)
        lines = await read(log)
        assert [(line.kind, line.version, line.deleted) for line in lines] == [
            ("entry", 1, True), ("leaf", 1, True), ("entry", 2, True),
        ]  # fmt: skip
        assert lines[2] == GONE
        assert await pool.fetchval("SELECT count(*) FROM privacy.log_key") == 0
