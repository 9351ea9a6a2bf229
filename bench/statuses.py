"""What one more status of an agent costs, by how long the agent has been at work.

A working day has twenty statuses, a year 250 working days. The process remembers the agent, as it does while they work,
or has to read first what it needs; one status in time order, and one that comes half a year late.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import asyncpg

from bench import ground
from bench.report import Row, quantile, show
from services.metrics.consumer import MetricsConsumer
from shared.events import TYPE_PREFIX, TimelineRecord, rfc3339

TENANT = "bench"
START = datetime(2025, 1, 1, 8, tzinfo=UTC)
DAYS = (1, 20, 250)
A_DAY = 20
STATES = ("available", "on_queue", "interacting", "busy")
ROUNDS = 10


async def measure() -> Sequence[Row]:
    """Let agents work for so many days each, then time one more status."""
    found = []
    async with ground.platform() as platform:
        for days in DAYS:
            agent = f"agent {days}"
            statuses = [
                _status(agent, START + timedelta(days=day, minutes=24 * n), n)
                for day in range(days)
                for n in range(A_DAY)
            ]
            consumer = MetricsConsumer()
            for first in range(0, len(statuses), 1000):
                await _apply(platform.pool, consumer, statuses[first : first + 1000])
            last, early = START + timedelta(days=days - 1, hours=9), START + timedelta(days=days // 2, hours=1)
            kinds = (("remembered", last, False), ("read first", last, True), ("read first, late", early, True))
            for second, (name, at, forget) in enumerate(kinds, 1):
                took = []
                for n in range(ROUNDS):
                    if forget:
                        consumer = MetricsConsumer()
                    record = _status(agent, at + timedelta(minutes=n, seconds=second), n)
                    began = time.process_time()
                    wall = time.perf_counter()
                    await _apply(platform.pool, consumer, [record])
                    took.append((time.perf_counter() - wall, time.process_time() - began))
                least = min(one for one, _ in took)
                what = f"one more status after {days} days, {name}"
                found.append(Row(f"{what}, least", 1e3 * least, "ms"))
                found.append(Row(f"{what}, processor", 1e3 * quantile([cpu for _, cpu in took], 0.5), "ms"))
    return found


def _status(agent: str, at: datetime, number: int) -> TimelineRecord:
    name = f"{agent} {at.isoformat()}"
    body = {
        "id": str(uuid.uuid5(uuid.NAMESPACE_OID, name)), "event_id": name, "source": "bench",
        "type": f"{TYPE_PREFIX}agent.status", "occurred_at": rfc3339(at), "recorded_at": rfc3339(at),
        "actor": {"type": "agent", "id": agent, "team": "blue"}, "data": {"state": STATES[number % len(STATES)]},
    }  # fmt: skip
    return TimelineRecord(TENANT, "entry", body["id"], 1, body, recorded_at=at)


async def _apply(pool: asyncpg.Pool, consumer: MetricsConsumer, records: Sequence[TimelineRecord]) -> None:
    async with pool.acquire() as connection, connection.transaction():
        await consumer.apply(connection, records)


def rows() -> Sequence[Row]:
    """Return the figures, for the table of all measurements."""
    return asyncio.run(measure())


if __name__ == "__main__":
    show(rows())
