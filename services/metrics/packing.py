"""Packing days that are over, in the background: a day of the tenant's calendar at a time, under the tenant's lock.

Where a zone is changed, all days are packed anew. What comes late opens its day again (store.drop_days), and the next
round packs it again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple
from zoneinfo import ZoneInfo

import asyncpg

from services.metrics import kept, store
from services.metrics.buckets import Strip, pooled
from services.metrics.closed_days import LONGEST_DAY, Gaps, pack
from services.metrics.entries import HOUR, SECOND, instant, micros
from services.metrics.sums import rules_of
from services.metrics.windows import following_midnight, midnight
from shared.clock import Clock
from shared.database.engine import transaction
from shared.database.retrying import tried_again
from shared.log.database import Connection
from shared.telemetry import logger

EVERY_S = 20.0

CLOSED_US = 3600 * SECOND
"""How long after its end a day is packed: most of what comes late has come by then."""

SERIES_AT_ONCE = 20
"""Series that are packed in one transaction, which holds up the tenant's batches."""

# Most days have 24 hours; one that has less waits for an hour.
WAITING = "SELECT tenant_id FROM metrics.tenant WHERE packed_to IS NULL OR packed_to <= $1 ORDER BY 1"

STATE = "SELECT packed_to, packed_zone FROM metrics.tenant WHERE tenant_id = $1"

BEGIN_ANEW = "DELETE FROM metrics.day WHERE tenant_id = $1"

MOVE = """
UPDATE metrics.tenant SET packed_to = $2, packed_until = greatest(packed_until, $3), packed_zone = $4
WHERE tenant_id = $1
"""

NEXT_HOUR = """
SELECT min(r.hour)
FROM metrics.series AS s
CROSS JOIN LATERAL (
    SELECT hour FROM metrics.rollup WHERE tenant_id = $1 AND series_id = s.series_id AND hour >= $2
    ORDER BY hour LIMIT 1
) AS r
WHERE s.tenant_id = $1
"""

MISSING = """
SELECT s.series_id
FROM metrics.series AS s
WHERE s.tenant_id = $1
  AND EXISTS (
    SELECT FROM metrics.rollup WHERE tenant_id = $1 AND series_id = s.series_id AND hour >= $2 AND hour < $3
  )
  AND NOT EXISTS (SELECT FROM metrics.day WHERE tenant_id = $1 AND series_id = s.series_id AND starts = $4)
ORDER BY 1
"""

PUT = "INSERT INTO metrics.day (tenant_id, series_id, starts, ends, body) VALUES ($1, $2, $3, $4, $5)"


class Day(NamedTuple):
    """A local day, [starts, ends) in µs."""

    starts: int
    ends: int


def day_of(at: int, zone: ZoneInfo) -> Day:
    """Return the local day in which `at` lies; where a calendar has left one out, it is joined to the one before."""
    starts = midnight(instant(at).astimezone(zone).date(), zone)
    return Day(starts, following_midnight(starts, zone))


async def pack_some(pool: asyncpg.Pool, tenant: str, now: int) -> bool:
    """Pack a part of the tenant's oldest day that is over and not packed; False when there is none."""
    async with transaction(pool) as connection:
        await store.lock(connection, [tenant])
        state = await connection.fetchrow(STATE, tenant)
        name = (await rules_of(connection, tenant)).timezone
        if state is None:
            return False
        since = state["packed_to"]
        if state["packed_zone"] != name:
            await connection.execute(BEGIN_ANEW, tenant)
            since = None
        at, zone = kept.FROM_THE_BEGINNING if since is None else since, ZoneInfo(name)
        hour = await connection.fetchval(NEXT_HOUR, tenant, at // HOUR)
        open_day = day_of(now - CLOSED_US, zone)
        day = open_day if hour is None else min(day_of(max(at, hour * HOUR), zone), open_day)
        if day == open_day:
            await connection.execute(MOVE, tenant, day.starts, day.starts, name)
            return False
        missing = [row[0] for row in await connection.fetch(MISSING, tenant, *_hours(day), day.starts)]
        if day.ends - day.starts > LONGEST_DAY:
            missing = []
        await _pack(connection, tenant, day, missing[:SERIES_AT_ONCE])
        done = len(missing) <= SERIES_AT_ONCE
        await connection.execute(MOVE, tenant, day.ends if done else day.starts, day.ends, name)
    return True


def _hours(day: Day) -> tuple[int, int]:
    return day.starts // HOUR, -(-day.ends // HOUR)


async def _pack(connection: Connection, tenant: str, day: Day, series: Sequence[int]) -> None:
    gaps = Gaps()
    for one in series:
        gaps.leave(one, *day, day, ())
    cells = kept.HOURS.format(only="", hour=HOUR)
    found = await kept.read(connection, cells, [tenant, list(day), *kept.gap_arguments(gaps)])
    channels: dict[int, dict[str, Strip]] = {one: {} for one in series}
    for (one, channel), parts in groupby(sorted(found, key=_place), _place):
        strip = pooled([cells for *_, cells in parts])
        if strip.buckets:
            channels[one][channel] = strip
    bodies = {one: pack(by_channel) for one, by_channel in channels.items()}
    await connection.executemany(PUT, [(tenant, one, *day, body) for one, body in bodies.items()])


def _place(found: tuple[int, int, str, kept.Cells]) -> tuple[int, str]:
    series, _, channel, _ = found
    return series, channel


async def pack_tenants(pool: asyncpg.Pool, now: int) -> None:
    """Pack whatever is over and not packed."""
    for (tenant,) in await pool.fetch(WAITING, now - CLOSED_US - 24 * HOUR):
        while await pack_some(pool, tenant, now):
            pass


async def pack_for_ever(pool: asyncpg.Pool, clock: Clock, every_s: float = EVERY_S) -> None:
    """Pack days as they end and as they are done again; a database away is waited for."""
    while True:
        await asyncio.sleep(every_s)
        with tried_again(logger(), "days are packed later"):
            await pack_tenants(pool, micros(clock.now()))
