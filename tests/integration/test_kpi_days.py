"""Packed days: exact whatever comes late, packed again, and found out where one is wrong."""

from __future__ import annotations

import random
from zoneinfo import ZoneInfo

import asyncpg
import pytest

from services.metrics import store
from services.metrics.buckets import Strip, pooled
from services.metrics.checking import PARTS, check_days
from services.metrics.closed_days import pack, unpack
from services.metrics.consumer import MetricsConsumer
from services.metrics.entries import HOUR, micros
from services.metrics.facts import DAY
from services.metrics.packing import CLOSED_US, day_of, pack_tenants
from services.metrics.reading.cells import Row
from services.metrics.reading.question import Fetch
from services.metrics.recount import drift
from services.metrics.revision import put_version, reevaluate
from services.metrics.sums import rows, rules_of, statement
from services.metrics.windows import edges
from shared.clock import SystemClock
from tests.integration.test_kpi_stream import CLEAR, START, TENANT, check, counted, cut, overtaking, stream
from tests.kpi_histories import a_history
from tests.kpi_timeline import OFFICE, Model

ZONES = ("Europe/Amsterdam", "Asia/Kolkata", "UTC", "Australia/Lord_Howe")
FIRST, LAST = micros(START) + 80 * DAY, micros(START) + 101 * DAY


async def put_zone(pool: asyncpg.Pool, zone: str) -> None:
    await put_version(pool, "schedule", TENANT, START, {"timezone": zone, "rules": OFFICE}, START)
    await reevaluate(pool, SystemClock(), TENANT)


async def same_as_contributions(connection: asyncpg.Connection, fetch: Fetch, now: int) -> int:
    kept = counted(await rows(connection, TENANT, fetch, now, None))
    sql, arguments = statement(TENANT, fetch, now, None)
    assert kept == counted([Row("", *row) for row in await connection.fetch(sql, *arguments)])
    return len(kept)


@pytest.mark.parametrize("zone", ZONES)
async def test_packed_days_are_exact_whatever_comes_after_them(pool: asyncpg.Pool, zone: str) -> None:
    """A random history with merges, splits, erasures and corrections, in random order and by two processes, while days
    are packed in between; midnight is on the hour, on the half hour, or moves by half an hour."""
    rng, history = random.Random(zone), a_history(ZONES.index(zone))
    await pool.execute(CLEAR)
    await put_zone(pool, zone)
    async with pool.acquire() as connection:
        model = Model(await rules_of(connection, TENANT))
    records = [*history.records, *overtaking(history, rng)]
    rng.shuffle(records)
    consumers = [MetricsConsumer(rng.choice((0, 10_000))) for _ in range(2)]
    answers = packed = opened = 0
    for number, batch in enumerate(cut(records, rng)):
        await stream(pool, rng.choice(consumers), [batch])
        model.take(batch)
        left = await days(pool)
        opened += left < packed
        if number % 4 == 0:
            await pack_tenants(pool, rng.randrange(FIRST, LAST))
            left = await days(pool)
            answers += await ask_some(pool, rng, zone)
        packed = left
    await pack_tenants(pool, LAST)
    assert await days(pool) > 100
    assert await pool.fetchval(UNPACKED, TENANT, zone) == 0
    await check(pool, model)
    answers += await ask_some(pool, rng, zone)
    assert opened > 5
    assert answers > 300


UNPACKED = """
SELECT count(*) FROM metrics.rollup AS r
WHERE tenant_id = $1 AND NOT EXISTS (
    SELECT FROM metrics.day AS d
    WHERE d.tenant_id = $1 AND d.series_id = r.series_id
      AND d.starts < (r.hour + 1) * 3600000000 AND d.ends > r.hour * 3600000000
) AND to_timestamp(r.hour * 3600.0) < date_trunc('day', timestamptz '2026-04-11Z', $2) - interval '1 hour'
"""


async def days(pool: asyncpg.Pool) -> int:
    found: int = await pool.fetchval("SELECT count(*) FROM metrics.day")
    return found


async def ask_some(pool: asyncpg.Pool, rng: random.Random, zone: str) -> int:
    found = 0
    async with pool.acquire() as connection, connection.transaction():
        names = tuple(row[0] for row in await connection.fetch("SELECT name FROM metrics.series ORDER BY 1"))
        for step in ("1d", "1w", "1h", None):
            start, end = sorted(rng.randrange(FIRST, LAST) for _ in range(2))
            if rng.random() < 0.5:
                start, end = start // HOUR * HOUR, (end // HOUR + 1) * HOUR
            group = rng.choice(((), ("channel",), ("family",)))
            filters = rng.choice(({}, {}, {"channel": "chat"}, {"family": "social"}))
            borders = tuple(edges(start, end, step, ZoneInfo(rng.choice((zone, zone, "America/St_Johns")))))
            fetch = Fetch("", names, borders, group, filters, before=rng.random() < 0.3)
            found += await same_as_contributions(connection, fetch, rng.randrange(FIRST, LAST))
    return found


async def test_what_comes_late_opens_its_day_and_no_other(pool: asyncpg.Pool) -> None:
    await stream(pool, MetricsConsumer(), [a_history(3).records])
    await pack_tenants(pool, LAST)
    before = await pool.fetch("SELECT series_id, starts FROM metrics.day")
    series, starts = before[len(before) // 2]
    async with pool.acquire() as connection, connection.transaction():
        await store.drop_days(connection, [(TENANT, series, starts + 23 * HOUR), ("t2", series, starts - DAY)])
    assert set(before) - set(await pool.fetch("SELECT series_id, starts FROM metrics.day")) == {(series, starts)}
    assert await pool.fetchval("SELECT packed_to FROM metrics.tenant") == starts + 23 * HOUR
    await pack_tenants(pool, LAST)
    assert set(before) == set(await pool.fetch("SELECT series_id, starts FROM metrics.day"))


async def test_days_are_packed_an_hour_after_they_end_and_anew_in_another_zone(pool: asyncpg.Pool) -> None:
    await put_zone(pool, "Asia/Kolkata")
    await stream(pool, MetricsConsumer(), [a_history(3).records])
    end = micros(START) + 88 * DAY + 37 * HOUR // 2
    for now, last in ((end + CLOSED_US - 1, end - DAY), (end + CLOSED_US, end)):
        await pack_tenants(pool, now)
        assert await pool.fetchval("SELECT max(ends) FROM metrics.day") == last
    await put_zone(pool, "UTC")
    await pack_tenants(pool, LAST)
    found = await pool.fetch("SELECT DISTINCT starts, ends FROM metrics.day")
    assert found and all(day == day_of(day["starts"], ZoneInfo("UTC")) for day in found)
    assert [line async for line in drift(pool)] == []


async def test_a_packed_day_that_is_wrong_is_told_by_verify_and_by_the_drift_check(pool: asyncpg.Pool) -> None:
    await stream(pool, MetricsConsumer(), [a_history(3).records])
    await pack_tenants(pool, LAST)
    async with pool.acquire() as connection:
        assert [await check_days(connection, TENANT, n / PARTS) for n in range(PARTS)] == [[]] * PARTS
    series, starts, body = await pool.fetchrow("SELECT series_id, starts, body FROM metrics.day ORDER BY starts DESC")
    channels = {one.channel: one.strip for one in unpack(body)}
    channel = next(iter(channels))
    channels[channel] = pooled([channels[channel], Strip([7], [1], [0])])
    await pool.execute(BREAK, pack(channels), TENANT, series, starts)
    lines = [line async for line in drift(pool)]
    assert len(lines) == 1 and str(starts) in lines[0]
    async with pool.acquire() as connection:
        found = [await check_days(connection, TENANT, (series % PARTS + n / 40) / PARTS) for n in range(3)]
    assert lines in found


BREAK = "UPDATE metrics.day SET body = $1 WHERE tenant_id = $2 AND series_id = $3 AND starts = $4"
