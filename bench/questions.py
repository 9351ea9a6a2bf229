"""What a question costs when a tenant has ten million entries: 30 days by day and channel, from the sums by hour.

A year of them is made up as the sums that it leaves: one entry in ten is the first reply of a conversation, on seven
channels, more by day than by night, with the spread of the published reply times. The question goes the whole way, from
the parameters of a request to the JSON of its answer.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta

import asyncpg
import orjson

from bench import ground
from bench.report import Row, quantile, show
from services.metrics import sums
from services.metrics.asking import query_of
from services.metrics.buckets import BOUNDS, bucket_of
from services.metrics.entries import HOUR, SECOND, micros
from services.metrics.presenting import present
from shared.database.engine import tenant_reader
from shared.events import family_of

ENTRIES = 10_000_000
REPLIES = ENTRIES // 10
DAYS = 365
QUESTIONS = 50
TENANT = "bench"
END = datetime(2026, 6, 1, tzinfo=UTC)
CHANNELS = {
    "chat": (0.34, 110), "email": (0.28, 9000), "phone": (0.18, 20), "whatsapp": (0.09, 5400),
    "messenger": (0.06, 5400), "sms": (0.03, 5400), "instagram": (0.02, 5400),
}  # fmt: skip
"""channel → (share, median reply time in seconds)"""
SPREAD = 1.3


async def measure() -> Sequence[Row]:
    """Make the sums, ask, and return the figures."""
    async with ground.platform() as platform:
        rows = await _fill(platform.pool)
        asked = [await _ask(platform.pool) for _ in range(QUESTIONS)]
    took, points = [one[0] for one in asked], asked[0][1]
    return [
        Row("sums by hour of one KPI with a histogram, 10 million entries in a year", rows, "rows"),
        Row("30 days by day and channel over them, points", points, ""),
        Row("30 days by day and channel over them, p50", 1e3 * quantile(took, 0.5), "ms", "the target", 30),
        Row("30 days by day and channel over them, p90", 1e3 * quantile(took, 0.9), "ms", "the target", 30),
    ]


async def _fill(pool: asyncpg.Pool) -> int:
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute("INSERT INTO metrics.tenant (tenant_id) VALUES ($1)", TENANT)
        series = await connection.fetchval(
            "INSERT INTO metrics.series (tenant_id, name) VALUES ($1, 'first_reply_time') RETURNING series_id", TENANT
        )
        await connection.executemany(
            "INSERT INTO metrics.dims (tenant_id, channel, family) VALUES ($1, $2, $3)",
            [(TENANT, channel, family_of(channel)) for channel in CHANNELS],
        )
        rows = list(_sums(series))
        await connection.copy_records_to_table("rollup", schema_name="metrics", records=rows)
    await pool.execute("VACUUM ANALYZE metrics.rollup")
    return len(rows)


def _sums(series: int) -> Iterator[tuple[str, int, int, str, int, int, int]]:
    rng, last = random.Random(1), micros(END) // HOUR
    for hour in range(last - DAYS * 24, last):
        weight = 1 + 0.9 * math.cos((hour % 24 - 12) / 24 * math.tau)
        for channel, (share, median) in CHANNELS.items():
            found: dict[int, int] = {}
            for _ in range(round(REPLIES / DAYS / 24 * share * weight + rng.random() - 0.5)):
                bucket = bucket_of(round(median * SECOND * math.exp(rng.gauss(0, SPREAD))))
                found[bucket] = found.get(bucket, 0) + 1
            for bucket, n in sorted(found.items()):
                yield TENANT, series, hour, channel, bucket, n, n * BOUNDS[bucket]


async def _ask(pool: asyncpg.Pool) -> tuple[float, int]:
    began = time.perf_counter()
    start = END - timedelta(days=30)
    given = {"start": start.isoformat(), "end": END.isoformat(), "step": "1d", "group_by": "channel",
             "tz": "Europe/Amsterdam"}  # fmt: skip
    async with tenant_reader(pool, TENANT) as connection:
        query = query_of("first_reply_time", given, await sums.rules_of(connection, TENANT), micros(END))
        answer = await sums.ask(connection, TENANT, query)
    body = orjson.dumps(present(query, answer))
    assert body
    return time.perf_counter() - began, len(answer.points)


def rows() -> Sequence[Row]:
    """Return the figures, for the table of all measurements."""
    return asyncio.run(measure())


if __name__ == "__main__":
    show(rows())
