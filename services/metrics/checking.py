"""The background check: random customers, groups and packed days are recounted all the time; a difference is an alarm.

A full recount is `threadline verify`; this one takes a sample small enough to run beside the stream for ever. Each
round takes some entities of each kind, reads their entries anew, evaluates them and compares to the last digit.
"""

from __future__ import annotations

import asyncio
from datetime import datetime

import asyncpg

from services.metrics import store
from services.metrics.asking import DAY_US
from services.metrics.buckets import difference
from services.metrics.entities import facts_of
from services.metrics.evaluation import Ref, evaluate
from services.metrics.loading import load_entities
from services.metrics.memory import Memory
from services.metrics.recount import Wrong, compare_days
from services.metrics.sums import rules_of
from services.metrics.work import Work
from shared.clock import Clock
from shared.database.retrying import tried_again
from shared.log.database import Connection
from shared.telemetry import logger

EVERY_S = 30.0
SAMPLE = 200
YEAR_US = 366 * DAY_US
PARTS = 10
"""One in so many series has a packed day recounted in a round."""

# A random place in the numbers, and the entities from there on: no scan however large the table.
SAMPLED = """
WITH ends AS (
    SELECT (SELECT min(entity_id) FROM metrics.entity) AS first, (SELECT max(entity_id) FROM metrics.entity) AS last
)
SELECT x.entity_id, x.kind, x.key
FROM metrics.entity AS x
WHERE x.tenant_id = $1
  AND x.entity_id >= (SELECT first + floor($3::float8 * (last - first + 1))::bigint FROM ends)
ORDER BY x.entity_id LIMIT $2
"""

# Of some series the packed day that began last, so long before the last packed day ended.
SAMPLED_DAYS = """
WITH ends AS (SELECT min(packed_until) AS until FROM metrics.tenant WHERE tenant_id = $1)
SELECT s.name, d.series_id, d.starts, d.ends, d.body
FROM metrics.series AS s
CROSS JOIN LATERAL (
    SELECT series_id, starts, ends, body FROM metrics.day
    WHERE tenant_id = $1 AND series_id = s.series_id
      AND starts <= (SELECT until FROM ends) - $2::bigint
    ORDER BY starts DESC LIMIT 1
) AS d
WHERE s.tenant_id = $1 AND s.series_id % $3::integer = $4::integer
"""

TENANTS = "SELECT tenant_id FROM metrics.tenant WHERE reevaluate_after IS NULL ORDER BY 1"

REMEMBER = """
INSERT INTO metrics.drift AS d (tenant_id, checked_at, entities_checked, entities_wrong, detail)
VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (tenant_id) DO UPDATE
SET checked_at = excluded.checked_at, entities_checked = d.entities_checked + excluded.entities_checked,
    entities_wrong = excluded.entities_wrong, detail = excluded.detail
"""


async def check_sample(
    connection: Connection, tenant: str, place: float, size: int = SAMPLE
) -> tuple[int, list[Wrong]]:
    """Recount up to `size` entities from `place` (0–1) on; return how many, and which differ.

    `connection` must be in a transaction that sees one snapshot.
    """
    rows = await connection.fetch(SAMPLED, tenant, size, place)
    refs = [Ref(kind, key) for _, kind, key in rows]
    work = Work(Memory(tenant))
    work.memory.rules = await rules_of(connection, tenant)
    have = await store.contributions(connection, [(tenant, ref) for ref in refs])
    await load_entities(connection, work, refs)
    wrong = []
    for ref in refs:
        facts = facts_of(work.memory, ref, work)
        ought = {} if facts is None else evaluate(ref.kind, facts, work.memory.rules).cells
        changed = difference(have.get((tenant, ref), (0, {}))[1], ought)
        if changed:
            wrong.append(Wrong(tenant, ref, changed))
    return len(refs), wrong


async def check_days(connection: Connection, tenant: str, place: float) -> list[str]:
    """Recount one packed day of every tenth series, somewhere in the last year; return a line for each that is wrong.

    `connection` must be in a transaction that sees one snapshot.
    """
    back = round((place * PARTS % 1) * YEAR_US)
    days = await connection.fetch(SAMPLED_DAYS, tenant, back, PARTS, int(place * PARTS))
    return await compare_days(connection, tenant, days) if days else []


async def check_tenants(pool: asyncpg.Pool, now: datetime, place: float) -> dict[str, list[str]]:
    """Check a sample of every tenant and remember what was found; returns a line for each value that is wrong."""
    found: dict[str, list[str]] = {}
    for (tenant,) in await pool.fetch(TENANTS):
        async with pool.acquire() as connection, connection.transaction(isolation="repeatable_read", readonly=True):
            checked, wrong = await check_sample(connection, tenant, place)
            days = await check_days(connection, tenant, place)
        detail = [*days, *(line for one in wrong[:20] for line in one.lines())][:100]
        await pool.execute(REMEMBER, tenant, now, checked, len(wrong) + len(days), detail)
        if detail:
            found[tenant] = detail
            logger().error("KPIs differ from their recount", tenant=tenant, entities=len(wrong), days=len(days))
    return found


async def check_for_ever(pool: asyncpg.Pool, clock: Clock, every_s: float = EVERY_S) -> None:
    """Check one sample after the other, walking through all entities; a database away is waited for."""
    place = 0.0
    while True:
        await asyncio.sleep(every_s)
        with tried_again(logger(), "drift is checked later"):
            await check_tenants(pool, clock.now(), place)
        # Steps by the golden ratio fall evenly and never repeat.
        place = (place + 0.6180339887) % 1.0
