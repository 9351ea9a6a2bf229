"""The consumer loop's pace: when it is behind, what it reads ahead, and how it gives way to others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from time import monotonic

import asyncpg
import pytest

from shared.log import runner as runner_module
from shared.log.postgres import PostgresLog
from shared.log.precedence import PATIENCE_S
from shared.log.protocol import Record
from shared.log.runner import Rejection, Runner, RunnerSettings
from tests.integration.numbers import TOPIC, done, keep, log_of_numbers, numbers, running
from tests.waiting import until


@pytest.fixture
async def log(pool: asyncpg.Pool) -> AsyncIterator[PostgresLog]:
    async with log_of_numbers(pool) as opened:
        yield opened


async def test_it_is_behind_while_more_waits_than_one_batch_takes(log: PostgresLog, pool: asyncpg.Pool) -> None:
    behind = list[bool]()

    async def look(connection: asyncpg.Connection, records: Sequence[Record]) -> Sequence[Rejection]:
        behind.append(runner.behind)
        return await keep(connection, records)

    await log.append(TOPIC, numbers(40))
    runner = Runner(log, pool, "group", TOPIC, look, settings=RunnerSettings(batch_max_records=20, max_wait_s=0.2))
    task = asyncio.create_task(runner.run())
    try:
        await until(done(runner, 40), "40 records done")
        await until(lambda: not runner.behind, "nothing more to do")
    finally:
        runner.stop()
        await asyncio.wait_for(task, 10)
    assert behind == [True, True]


async def test_what_comes_during_a_batch_that_took_all_there_was_is_one_batch(
    log: PostgresLog, pool: asyncpg.Pool
) -> None:
    sizes = list[int]()

    async def look(connection: asyncpg.Connection, records: Sequence[Record]) -> Sequence[Rejection]:
        sizes.append(len(records))
        if len(sizes) == 1:
            for _ in range(2):
                await log.append(TOPIC, numbers(5))
                await asyncio.sleep(0.1)
        return await keep(connection, records)

    await log.append(TOPIC, numbers(40))
    async with running(log, pool, look, RunnerSettings(batch_max_records=60, max_wait_s=0.2)) as runner:
        await until(done(runner, 50), "50 records done")
    assert sizes == [40, 10]


async def test_it_gives_way_while_others_go_first(log: PostgresLog, pool: asyncpg.Pool) -> None:
    first = True
    settings = RunnerSettings(max_wait_s=0.2, gives_way=lambda: first)
    async with running(log, pool, keep, settings) as runner:
        await log.append(TOPIC, numbers(2))
        await until(done(runner, 2), "what nobody knew to be waiting is done at once")
        await log.append(TOPIC, numbers(3))
        await asyncio.sleep(0.2)
        assert runner.records_done == 2
        first = False
        await until(done(runner, 5), "the rest, when nobody goes first any more", limit_s=PATIENCE_S / 2)


async def test_it_gives_way_only_until_what_waits_is_old(
    log: PostgresLog, pool: asyncpg.Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner_module, "PATIENCE_S", 0.3)
    async with running(log, pool, keep, RunnerSettings(max_wait_s=0.2, gives_way=lambda: True)) as runner:
        for count in range(1, 4):
            await log.append(TOPIC, numbers(1))
            await until(done(runner, count), f"{count} done though others go first")


async def test_stopping_ends_the_giving_way(log: PostgresLog, pool: asyncpg.Pool) -> None:
    async with running(log, pool, keep, RunnerSettings(max_wait_s=0.2, gives_way=lambda: True)) as runner:
        await log.append(TOPIC, numbers(1))
        await until(done(runner, 1), "the first is done")
        began = monotonic()
    assert monotonic() - began < PATIENCE_S / 2
