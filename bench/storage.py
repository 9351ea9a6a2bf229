"""Bytes that one event costs: records of both topics, tables with their indexes, and WAL.

Lifelike traffic goes through conversation and metrics; then the database is asked. What the arithmetic of
docs/scaling.md starts from.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack

from bench import ground
from bench.report import Row, show
from bench.timeline import fill
from services.cli.ledger import CONVERSATION_GROUP, METRICS_GROUP, wait_for_end
from services.conversation.app import build as build_conversation
from services.metrics.app import build as build_metrics
from shared.log.protocol import INBOUND, TIMELINE
from shared.service import Platform

LIMIT_S = 900

RECORDS = """
SELECT p.topic, sum(length(r.key) + length(r.value))::bigint AS size_bytes, count(*) AS records
FROM log.record AS r JOIN log.partition AS p ON p.id = r.partition_id GROUP BY p.topic
"""

# Partitions of a partitioned table count by themselves; toast and indexes are part of their table.
TABLES = """
SELECT n.nspname AS schema, sum(pg_total_relation_size(c.oid))::bigint AS size_bytes
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.relkind = 'r' AND n.nspname IN ('log', 'conversation', 'metrics') GROUP BY n.nspname
"""

WAL = "SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint"


async def measure() -> Sequence[Row]:
    """Send the traffic through and return bytes per event."""
    async with ground.platform() as platform:
        wal_before = await platform.pool.fetchval(WAL)
        count = await fill(platform)
        await _through(platform)
        wal = await platform.pool.fetchval(WAL) - wal_before
        await platform.pool.execute("VACUUM ANALYZE")
        topics = {row["topic"].split(".", 1)[-1]: row for row in await platform.pool.fetch(RECORDS)}
        tables = {row["schema"]: row["size_bytes"] for row in await platform.pool.fetch(TABLES)}
    unit = "bytes/event"
    return [
        Row("inbound records (key and value)", topics[INBOUND]["size_bytes"] / count, unit),
        Row("timeline records (key and value)", topics[TIMELINE]["size_bytes"] / count, unit),
        Row("timeline records", topics[TIMELINE]["records"] / count, "records/event"),
        Row("PostgreSQL log, both topics, with indexes", tables["log"] / count, unit),
        Row("conversation's tables with indexes", tables["conversation"] / count, unit),
        Row("metrics' tables with indexes", tables["metrics"] / count, unit),
        Row("WAL of everything, PostgreSQL log included", wal / count, unit),
    ]


async def _through(platform: Platform) -> None:
    async with AsyncExitStack() as stack:
        services = [await build_conversation(platform, stack), await build_metrics(platform, stack)]
        loops = [asyncio.ensure_future(loop()) for service in services for loop in service.background]
        try:
            until = time.monotonic() + LIMIT_S
            for group, topic in ((CONVERSATION_GROUP, INBOUND), (METRICS_GROUP, TIMELINE)):
                await wait_for_end(platform.pool, platform.log, group, topic, until, 0.05)
        finally:
            for loop in loops:
                loop.cancel()
            await asyncio.gather(*loops, return_exceptions=True)


def rows() -> Sequence[Row]:
    """Measure, and return the rows."""
    return asyncio.run(measure())


if __name__ == "__main__":
    show(rows())
