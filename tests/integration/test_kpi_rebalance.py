"""Three members of the metrics group that come, go and break off in mid-batch: no double, no gap."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import replace

import asyncpg

from services.cli.ledger import METRICS_GROUP
from services.metrics.consumer import MetricsConsumer
from services.metrics.recount import drift, streamed
from shared.errors import DatabaseUnavailable
from shared.log.database import Connection
from shared.log.postgres import postgres_log
from shared.log.protocol import TIMELINE, Log, Outgoing, Record
from shared.log.quarantine import Rejection
from shared.log.runner import Runner, RunnerSettings
from tests.kpi_histories import a_history
from tests.kpi_timeline import Model
from tests.waiting import until

BROKEN: list[int] = []
"""Sizes of the batches that were cut off."""


class Breaking:
    """A handler that now and then fails when its work is done and nothing is committed."""

    def __init__(self, rng: random.Random) -> None:
        self.consumer = MetricsConsumer()
        self.rng = rng

    async def handle(self, connection: Connection, records: Sequence[Record]) -> Sequence[Rejection]:
        done = await self.consumer.handle(connection, records)
        if self.rng.random() < 0.2:
            BROKEN.append(len(records))
            raise DatabaseUnavailable("cut off before the commit")
        return done


async def member(log: Log, pool: asyncpg.Pool, rng: random.Random) -> None:
    """Be a member of the group for a while, then be cancelled where one stands."""
    settings = RunnerSettings(batch_max_records=rng.choice((5, 40)), max_wait_s=0.1, backoff_first_s=0.01)
    runner = Runner(log, pool, METRICS_GROUP, TIMELINE, Breaking(rng).handle, settings=settings)
    try:
        await asyncio.wait_for(runner.run(), rng.uniform(0.2, 1.5))
    except TimeoutError:
        pass


async def test_members_that_come_and_go_count_everything_once(pool: asyncpg.Pool) -> None:
    rng, models = random.Random(5), {f"t{seed}": Model() for seed in range(4)}
    records = [replace(r, tenant=f"t{seed}") for seed in range(4) for r in a_history(seed).records]
    rng.shuffle(records)
    async with postgres_log(pool, retention=None) as log:
        for record in records:
            models[record.tenant].take([record])
        keyed = [Outgoing(f"{r.tenant}|{r.body.get('leaf_id', r.key)}".encode(), r.encode()) for r in records]
        await log.append(TIMELINE, keyed)
        for _ in range(6):
            await asyncio.gather(*(member(log, pool, random.Random(rng.random())) for _ in range(3)))
        last = Runner(log, pool, METRICS_GROUP, TIMELINE, MetricsConsumer().handle)
        running = asyncio.create_task(last.run())
        try:
            await until(lambda: reached(pool, log), "the group does every record", 60)
        finally:
            last.stop()
            await running
    for tenant, model in models.items():
        async with pool.acquire() as connection, connection.transaction():
            found = await streamed(connection, tenant)
        recounted = model.contributions()
        assert found == {ref: {k: c for k, c in cells.items() if c != (0, 0)} for ref, cells in recounted.items()}
    assert [line async for line in drift(pool)] == []
    assert await pool.fetchval("SELECT count(*) FROM log.quarantine") == 0
    assert BROKEN, "no batch was cut off: this run showed nothing"


async def reached(pool: asyncpg.Pool, log: Log) -> bool:
    """Whether the group has done every record."""
    rows = await pool.fetch('SELECT partition, next_offset FROM log."offset" WHERE group_name = $1', METRICS_GROUP)
    done = dict(rows)
    return all(done.get(partition, 0) >= end for partition, end in (await log.end_offsets(TIMELINE)).items())
