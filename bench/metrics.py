"""KPI records/s of one process from the timeline topic to contributions of all KPIs, and what a question costs.

The records are what the conversation service makes of lifelike traffic. Nothing is in memory when the clock starts, so
this is catching up from an empty database: what a live stream adds to one record is the same evaluation.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from types import FunctionType, ModuleType
from zoneinfo import ZoneInfo

from bench import ground
from bench.report import Row, quantile, show
from bench.timeline import _to_timeline, fill
from services.cli.ledger import METRICS_GROUP, wait_for_end
from services.metrics import sums
from services.metrics.app import build
from services.metrics.entries import SECOND, micros
from services.metrics.evaluation import CONVERSATION, Ref
from services.metrics.kpis import BY_ID
from services.metrics.memory import Memory
from services.metrics.reading.question import Query
from services.metrics.windows import edges
from shared.database.engine import tenant_reader
from shared.log.protocol import TIMELINE
from shared.service import Platform

QUESTIONS = 30
MONTH = 30 * 86_400 * SECOND

STATE = """
SELECT (pg_total_relation_size('metrics.entry') + pg_total_relation_size('metrics.contribution'))::float8
       / (SELECT count(*) FROM metrics.entity WHERE kind = 'conversation')
"""


async def measure() -> Sequence[Row]:
    """Make timelines, count them, ask about them."""
    async with ground.platform() as platform:
        await fill(platform)
        await _to_timeline(platform)
        ends = await platform.log.end_offsets(TIMELINE)
        records = sum(ends.values())
        took, whole, opened = await _count(platform)
        asked = await _ask(platform)
        per_conversation = await platform.pool.fetchval(STATE)
        contributions = await platform.pool.fetchval("SELECT count(*) FROM metrics.contribution")
    return [
        Row("KPI records/s from topic to contributions, one process, all KPIs", records / took, "records/s",
            "the target", 10_000),
        Row("contributions written a record", contributions / records, ""),
        Row("stored bytes a conversation (entries and contributions, with indexes)", per_conversation, "bytes"),
        Row("remembered bytes an open conversation: entries, facts, contributions", opened, "bytes"),
        Row("remembered bytes a conversation, open or not, with customers and all else", whole, "bytes"),
        Row("30 days by day and channel, first_reply_time, p50", quantile(asked, 0.5) * 1000, "ms"),
        Row("30 days by day and channel, first_reply_time, p99", quantile(asked, 0.99) * 1000, "ms"),
    ]  # fmt: skip


async def _count(platform: Platform) -> tuple[float, float, float]:
    """Count everything; return the seconds, and the bytes held for a conversation and for an open one."""
    async with AsyncExitStack() as stack:
        service = await build(platform, stack)
        began = time.perf_counter()
        loop = asyncio.ensure_future(service.background[0]())
        try:
            await wait_for_end(platform.pool, platform.log, METRICS_GROUP, TIMELINE, time.monotonic() + 900, 0.05)
            took = time.perf_counter() - began
            memories = [one for one in gc.get_objects() if isinstance(one, Memory)]
            return took, *_held(max(memories, key=Memory.size))
        finally:
            loop.cancel()
            await asyncio.gather(loop, return_exceptions=True)


def _held(memory: Memory) -> tuple[float, float]:
    opened = [
        [c.entries, c, memory.cells.get(Ref(CONVERSATION, c.id))]
        for c in memory.facts.values()
        if c is not None and c.episodes[-1].resolved is None
    ]
    return size_of(memory) / len(memory.facts), size_of(opened) / len(opened)


def size_of(root: object) -> int:
    """Return the bytes of everything that can be reached from `root`, each once; classes and code do not count."""
    seen, found, left = {id(root)}, 0, [root]
    while left:
        one = left.pop()
        found += sys.getsizeof(one)
        for part in gc.get_referents(one):
            if id(part) not in seen and not isinstance(part, type | ModuleType | FunctionType):
                seen.add(id(part))
                left.append(part)
    return found


async def _ask(platform: Platform) -> list[float]:
    tenant = await platform.pool.fetchval("SELECT tenant_id FROM metrics.tenant LIMIT 1")
    now, zone = micros(platform.clock.now()), ZoneInfo("Europe/Amsterdam")
    query = Query(
        BY_ID["first_reply_time"], tuple(edges(now - MONTH, now, "1d", zone)), zone, now, group_by=("channel",)
    )
    found = []
    for _ in range(QUESTIONS):
        began = time.perf_counter()
        async with tenant_reader(platform.pool, tenant) as connection:
            await sums.ask(connection, tenant, query)
        found.append(time.perf_counter() - began)
    return found


def rows() -> Sequence[Row]:
    """Return the figures, for the table of all measurements."""
    return asyncio.run(measure())


if __name__ == "__main__":
    show(rows())
