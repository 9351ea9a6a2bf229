"""A log of numbers, a handler that keeps what it gets, and a runner of it: for tests of the consumer loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import asyncpg

from shared.log.offsets import lag
from shared.log.postgres import PostgresLog, postgres_log
from shared.log.protocol import Outgoing, Record
from shared.log.runner import Handler, Rejection, Runner, RunnerSettings

TOPIC = "numbers"
FAST = RunnerSettings(max_wait_s=0.2, backoff_first_s=0.01, backoff_max_s=0.05, lag_period_s=0.05)
KEEP = "INSERT INTO kept (partition, place, value) SELECT * FROM unnest($1::int[], $2::bigint[], $3::bytea[])"


@asynccontextmanager
async def log_of_numbers(pool: asyncpg.Pool) -> AsyncIterator[PostgresLog]:
    await pool.execute("CREATE TABLE kept (n bigserial, partition int, place bigint, value bytea)")
    async with postgres_log(pool, partitions=4) as opened:
        yield opened


async def keep(connection: asyncpg.Connection, records: Sequence[Record]) -> Sequence[Rejection]:
    """A handler whose state is the list of what it got."""
    await connection.execute(KEEP, *zip(*((r.partition, r.offset, r.value) for r in records), strict=True))
    return ()


async def kept(pool: asyncpg.Pool) -> list[bytes]:
    return [row["value"] for row in await pool.fetch("SELECT value FROM kept ORDER BY n")]


@asynccontextmanager
async def running(
    log: PostgresLog, pool: asyncpg.Pool, handler: Handler, settings: RunnerSettings = FAST, **more: object
) -> AsyncIterator[Runner]:
    runner = Runner(log, pool, "group", TOPIC, handler, settings=settings, **more)  # type: ignore[arg-type]
    task = asyncio.create_task(runner.run())
    try:
        yield runner
    finally:
        runner.stop()
        await asyncio.wait_for(task, 10)


def numbers(count: int, key: bytes = b"one key") -> list[Outgoing]:
    return [Outgoing(key, b"%d" % n) for n in range(count)]


def done(runner: Runner, count: int) -> Callable[[], bool]:
    return lambda: runner.records_done >= count


async def all_done(log: PostgresLog, pool: asyncpg.Pool) -> bool:
    return not any((await lag(pool, log, "group", TOPIC)).values())
