"""Changing the rules: opening hours and agreements by version, and evaluating again what they decide.

A version may start in the past. It is stored under the tenant's lock together with a mark, and everything it may decide
is evaluated again in chunks until the mark is gone: each chunk is one transaction of `new − old`, so numbers are right
for the entities done and as before for the rest, a crash goes on where it stopped, and the stream goes on meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import asyncpg

from services.metrics import store
from services.metrics.consumer import MetricsConsumer, evaluate_touched
from services.metrics.entries import micros
from services.metrics.evaluation import AGENT, AGENT_DAY, CONVERSATION, CUSTOMER, Ref
from services.metrics.memory import Memory
from services.metrics.work import Work
from shared.clock import Clock
from shared.database.engine import transaction
from shared.database.retrying import tried_again
from shared.telemetry import logger

CHUNK = 500
EVERY_S = 1.0

PUT = {
    "schedule": """
INSERT INTO metrics.schedule (tenant_id, valid_from, body, set_at) VALUES ($1, $2, $3, $4)
ON CONFLICT (tenant_id, valid_from) DO UPDATE SET body = excluded.body, set_at = excluded.set_at
""",
    "sla": """
INSERT INTO metrics.sla (tenant_id, valid_from, body, set_at) VALUES ($1, $2, $3, $4)
ON CONFLICT (tenant_id, valid_from) DO UPDATE SET body = excluded.body, set_at = excluded.set_at
""",
}

MARK = """
INSERT INTO metrics.tenant (tenant_id, reevaluate_after) VALUES ($1, 0)
ON CONFLICT (tenant_id) DO UPDATE SET reevaluate_after = 0
"""

MARKED = "SELECT tenant_id FROM metrics.tenant WHERE reevaluate_after IS NOT NULL ORDER BY 1"

NEXT_CHUNK = """
SELECT x.entity_id, x.kind, x.key
FROM metrics.tenant AS t
JOIN metrics.entity AS x ON x.tenant_id = t.tenant_id AND x.entity_id > t.reevaluate_after
WHERE t.tenant_id = $1 AND x.kind = ANY ($2)
ORDER BY x.entity_id
LIMIT $3
"""

MOVE = "UPDATE metrics.tenant SET reevaluate_after = $2 WHERE tenant_id = $1"

DECIDED = (CONVERSATION, CUSTOMER, AGENT, AGENT_DAY)
"""Kinds of entities that opening hours and agreements decide on, or a migration (0025)."""


async def put_version(
    pool: asyncpg.Pool, kind: str, tenant: str, valid_from: datetime, body: Mapping[str, Any], now: datetime
) -> None:
    """Store a version of the schedule or the agreement (`kind`) and mark what it may decide. Raises
    DatabaseUnavailable."""
    async with transaction(pool) as connection:
        await store.lock(connection, [tenant])
        await connection.execute(PUT[kind], tenant, valid_from, dict(body), now)
        await connection.execute(MARK, tenant)


async def reevaluate_chunk(pool: asyncpg.Pool, tenant: str, now: datetime) -> bool:
    """Evaluate the next chunk of what is marked; False when the mark is gone."""
    async with transaction(pool) as connection:
        await store.lock(connection, [tenant])
        rows = await connection.fetch(NEXT_CHUNK, tenant, list(DECIDED), CHUNK)
        if rows:
            consumer = MetricsConsumer()
            work = Work(Memory(tenant))
            work.recorded = micros(now)
            await consumer.trust(connection, [work])
            for _, kind, key in rows:
                work.touch(Ref(kind, key), "backdated_rules")
            await evaluate_touched(connection, [work])
        await connection.execute(MOVE, tenant, rows[-1][0] if len(rows) == CHUNK else None)
    return len(rows) == CHUNK


async def reevaluate(pool: asyncpg.Pool, clock: Clock, tenant: str) -> None:
    """Evaluate all that is marked."""
    while await reevaluate_chunk(pool, tenant, clock.now()):
        pass


async def reevaluate_for_ever(pool: asyncpg.Pool, clock: Clock) -> None:
    """Finish what a crashed process or a large tenant left marked."""
    while True:
        await asyncio.sleep(EVERY_S)
        with tried_again(logger(), "rules are evaluated later"):
            for (tenant,) in await pool.fetch(MARKED):
                await reevaluate(pool, clock, tenant)
