"""Events/s from the log to the timeline in one process, against COPY of the same rows into the same indexed table.

The events are lifelike traffic in order of time. The base does nothing but write: asyncpg COPY, 1,000 rows a
transaction, into a table made LIKE conversation.entry with all its indexes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime

import uvloop

from bench import ground
from bench.report import Row, show
from services.cli.ledger import CONVERSATION_GROUP, wait_for_end
from services.cli.traffic.events import Event
from services.cli.traffic.world import World, history
from services.conversation.app import build
from shared.events import InboundEvent
from shared.log.protocol import INBOUND, Outgoing
from shared.service import Platform

PEOPLE = 1_000
ROWS = 1_000


async def measure() -> Sequence[Row]:
    """Fill the log, let the conversation service empty it, then copy what it wrote."""
    async with ground.platform() as platform:
        count = await fill(platform)
        took = await _to_timeline(platform)
        copied, copy_s = await _copy(platform)
    return [
        Row(
            "events/s from log to timeline, one process",
            count / took,
            "events/s",
            "COPY of the same entries",
            copied / copy_s,
        )
    ]


async def fill(platform: Platform) -> int:
    """Append lifelike history to the inbound topic and return the number of events."""
    now = time.time()
    world = World(seed=1, customers=PEOPLE, start=now - 28 * 86_400, end=now)
    records = [_record(event) for event in history(world)]
    for start in range(0, len(records), ROWS):
        await platform.log.append(INBOUND, records[start : start + ROWS])
    return len(records)


def _record(event: Event) -> Outgoing:
    at = datetime.fromtimestamp(event.at, UTC)
    inbound = InboundEvent("bench", event.source, event.id, event.type, at, datetime.now(UTC), event.data)
    handles = (event.data.get("customer") or {}).get("handles") or [
        {"kind": "none", "value": event.data.get("contact_id", "")}
    ]
    return Outgoing(f"bench|{handles[0]['kind']}:{handles[0]['value']}".encode(), inbound.encode())


async def _to_timeline(platform: Platform) -> float:
    async with AsyncExitStack() as stack:
        service = await build(platform, stack)
        began = time.perf_counter()
        loops = [asyncio.ensure_future(loop()) for loop in service.background]
        try:
            await wait_for_end(platform.pool, platform.log, CONVERSATION_GROUP, INBOUND, time.monotonic() + 600, 0.1)
            return time.perf_counter() - began
        finally:
            for loop in loops:
                loop.cancel()
            await asyncio.gather(*loops, return_exceptions=True)


async def _copy(platform: Platform) -> tuple[int, float]:
    async with platform.pool.acquire() as connection:
        rows = [
            tuple(row)
            for row in await connection.fetch("SELECT * FROM conversation.entry ORDER BY recorded_at", timeout=120)
        ]
        await connection.execute(
            "CREATE SCHEMA bench; CREATE TABLE bench.entry (LIKE conversation.entry INCLUDING ALL)"
        )
        began = time.perf_counter()
        for start in range(0, len(rows), ROWS):
            async with connection.transaction():
                await connection.copy_records_to_table("entry", schema_name="bench", records=rows[start : start + ROWS])
        return len(rows), time.perf_counter() - began


def rows() -> Sequence[Row]:
    """Measure, and return the rows."""
    return uvloop.run(measure())  # as the services are run


if __name__ == "__main__":
    show(rows())
