"""What a question costs when a tenant has ten million entries: 30 days by day and channel, for KPIs of three kinds.

A year of them is made up as the sums by hour that it leaves: six entries in ten are messages received, one is the first
reply of a conversation, one in forty a score, on seven channels, more by day than by night, with the spread of the
published reply times. Metrics' own task packs the days that are over. A question goes the whole way, from the
parameters of a request to the JSON of its answer; it has 31 days, the first and last of them in part.

Cold is the first question of a connection, which knows neither tables nor plans yet. "While a day is open" is after a
correction: the day's hours are read until it is packed again. The largest question is one that makes nearly as many
points as are allowed.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta

import asyncpg
import orjson

from bench import ground
from bench.report import Row, quantile, show
from services.metrics import store, sums
from services.metrics.asking import DAY_US, query_of
from services.metrics.buckets import BOUNDS, NO_BUCKET, bucket_of
from services.metrics.entries import HOUR, SECOND, micros
from services.metrics.packing import pack_tenants
from services.metrics.presenting import present
from services.metrics.routes import ANSWER_WITHIN_S
from services.metrics.turns import beside
from shared.database.engine import tenant_reader
from shared.events import family_of

ENTRIES = 10_000_000
DAYS = 365
WARM, COLD = 200, 20
TENANT = "bench"
ZONE = "Europe/Amsterdam"
END = datetime(2026, 6, 1, tzinfo=UTC)
CHANNELS = {
    "chat": (0.34, 110), "email": (0.28, 9000), "phone": (0.18, 20), "whatsapp": (0.09, 5400),
    "messenger": (0.06, 5400), "sms": (0.03, 5400), "instagram": (0.02, 5400),
}  # fmt: skip
"""channel → (share, median reply time in seconds)"""
SPREAD = 1.3
SHARES = {"messages_received": 0.6, "first_reply_time": 0.1, "csat_ratio": 0.025}
"""KPI → what share of the entries leaves one of it"""
SCORES = (0.05, 0.04, 0.05, 0.3, 0.56)
"""Shares of the scores 1 to 5."""


async def measure() -> Sequence[Row]:
    """Make the sums, ask, pack, ask again, and return the figures."""
    async with ground.platform() as platform:
        pool = platform.pool
        made = await _fill(pool)
        found = [Row("sums by hour of three KPIs, 10 million entries in a year", made, "rows")]
        found += await _asked(pool, "by hour, nothing packed", WARM // 10, 0)
        began = time.perf_counter()
        await pack_tenants(pool, micros(END) + 2 * HOUR)
        await pool.execute("VACUUM ANALYZE metrics.day")
        days = await pool.fetchval("SELECT count(*) FROM metrics.day")
        size = await pool.fetchval("SELECT pg_total_relation_size('metrics.day') / 1e6::float8")
        hours = await pool.fetchval("SELECT pg_total_relation_size('metrics.rollup') / 1e6::float8")
        found.append(Row("packing them", days / (time.perf_counter() - began), "days of a KPI/s"))
        found.append(Row("packed days, on disk", size, "MB", "the sums by hour", hours))
        found += await _asked(pool, "", WARM, COLD)
        found += await _largest(pool)
        await _open_a_day(pool)
        found += await _asked(pool, "while a day is open", WARM // 4, 0)
    return found


async def _asked(pool: asyncpg.Pool, when: str, warm: int, cold: int) -> list[Row]:
    found = []
    for kpi in SHARES:
        name = f"{kpi}, 30 days by day and channel{', ' if when else ''}{when}"
        took = []
        for _ in range(cold):
            await pool.expire_connections()
            took.append((await _ask(pool, kpi))[0])
        if cold:
            found.append(Row(f"{name}, cold, p50", 1e3 * quantile(took, 0.5), "ms", "the target", 30))
            found.append(Row(f"{name}, cold, p99", 1e3 * quantile(took, 0.99), "ms", "the target", 30))
        took = [(await _ask(pool, kpi))[0] for _ in range(warm)]
        if not when:
            found.append(Row(f"{name}, points", (await _ask(pool, kpi))[1], ""))
        found.append(Row(f"{name}, p50", 1e3 * quantile(took, 0.5), "ms", "the target", 30))
        found.append(Row(f"{name}, p99", 1e3 * quantile(took, 0.99), "ms", "the target", 30))
    return found


async def _largest(pool: asyncpg.Pool) -> list[Row]:
    """The largest question that is answered: a year by hour and channel; 100,000 points are allowed."""
    gaps, found = [0.0], []

    async def watch() -> None:
        while True:
            began = time.perf_counter()
            await asyncio.sleep(0.001)
            gaps.append(time.perf_counter() - began)

    given = {
        "start": (END - timedelta(days=DAYS)).isoformat(),
        "end": END.isoformat(),
        "step": "1h",
        "group_by": "channel",
    }
    for kpi in SHARES:
        watching = asyncio.create_task(watch())
        took, points = await _ask(pool, kpi, given)
        watching.cancel()
        name = f"{kpi}, a year by hour and channel, {points:,} points"
        found.append(Row(name, took, "s", "refused after", ANSWER_WITHIN_S))
        found.append(Row(f"{name}, longest that others waited for a turn", 1e3 * max(gaps), "ms"))
        gaps[:] = [0.0]
    return found


async def _fill(pool: asyncpg.Pool) -> int:
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute("INSERT INTO metrics.tenant (tenant_id) VALUES ($1)", TENANT)
        await connection.execute(
            "INSERT INTO metrics.schedule VALUES ($1, 'epoch', $2, now())", TENANT, {"timezone": ZONE, "rules": {}}
        )
        await connection.executemany(
            "INSERT INTO metrics.dims (tenant_id, channel, family) VALUES ($1, $2, $3)",
            [(TENANT, channel, family_of(channel)) for channel in CHANNELS],
        )
        made = 0
        for kpi in SHARES:
            series = (await store.name_series(connection, [(TENANT, kpi)]))[TENANT, kpi]
            rows = list(_sums(kpi, series))
            made += len(rows)
            await connection.copy_records_to_table("rollup", schema_name="metrics", records=rows)
    await pool.execute("VACUUM ANALYZE metrics.rollup")
    return made


def _sums(kpi: str, series: int) -> Iterator[tuple[str, int, int, str, int, int, int]]:
    rng, last = random.Random(1), micros(END) // HOUR
    for hour in range(last - DAYS * 24, last):
        weight = (1 + 0.9 * math.cos((hour % 24 - 12) / 24 * math.tau)) * SHARES[kpi] * ENTRIES / DAYS / 24
        for channel, (share, median) in CHANNELS.items():
            found: dict[int, tuple[int, int]] = {}
            count = round(share * weight + rng.random() - 0.5)
            if kpi == "messages_received":
                found = {NO_BUCKET: (count, 0)} if count else {}
            else:
                for _ in range(count):
                    bucket, total = _score(rng) if kpi == "csat_ratio" else _reply(rng, median)
                    n, before = found.get(bucket, (0, 0))
                    found[bucket] = (n + 1, before + total)
            for bucket, (n, total) in sorted(found.items()):
                yield TENANT, series, hour, channel, bucket, n, total


def _reply(rng: random.Random, median: int) -> tuple[int, int]:
    bucket = bucket_of(round(median * SECOND * math.exp(rng.gauss(0, SPREAD))))
    return bucket, BOUNDS[bucket]


def _score(rng: random.Random) -> tuple[int, int]:
    score = rng.choices(range(1, 6), SCORES)[0]
    return score, int(score >= 4)


async def _open_a_day(pool: asyncpg.Pool) -> None:
    """What a correction ten days back does to the packed day of each KPI."""
    at = micros(END) - 10 * DAY_US
    async with pool.acquire() as connection, connection.transaction():
        series = await connection.fetch("SELECT series_id FROM metrics.series")
        await store.drop_days(connection, [(TENANT, number, at) for (number,) in series])


MONTH = {
    "start": (END - timedelta(days=30)).isoformat(), "end": END.isoformat(), "step": "1d", "group_by": "channel",
}  # fmt: skip


async def _ask(pool: asyncpg.Pool, kpi: str, given: Mapping[str, str] = MONTH) -> tuple[float, int]:
    began = time.perf_counter()
    async with tenant_reader(pool, TENANT) as connection:
        query = query_of(kpi, given, await sums.rules_of(connection, TENANT), micros(END))
        answer = await sums.ask(connection, TENANT, query)
    body = orjson.dumps(await beside(len(answer.points), present, query, answer))
    assert body
    return time.perf_counter() - began, len(answer.points)


def rows() -> Sequence[Row]:
    """Return the figures, for the table of all measurements."""
    return asyncio.run(measure())


if __name__ == "__main__":
    show(rows())
