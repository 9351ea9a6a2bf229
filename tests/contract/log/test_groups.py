"""Members of a group share the partitions, take over from each other, and never pass over what is gone."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from time import monotonic
from typing import Any

import asyncpg
import pytest

from shared.errors import Fenced, LogTruncated
from shared.log.offsets import compare_and_set, lag, starting_offset
from shared.log.postgres_consumer import SESSION_TIMEOUT_S
from shared.log.protocol import Consumer, Log, Outgoing, Record
from shared.log.runner import Rejection, Runner, RunnerSettings
from tests.contract.log.places import GROUP, PARTITIONS, TOPIC, Place, flat, from_zero, read, values
from tests.log_process import KEPT
from tests.waiting import until

# Groups


@asynccontextmanager
async def reading(log: Log, got: list[Record], stored: dict[int, int]) -> AsyncIterator[Consumer]:
    """A member that fetches all the time and stores its offsets in `stored`."""

    async def start(topic: str, partition: int) -> int:
        return stored.get(partition, 0)

    async with log.consume(GROUP, TOPIC, start) as consumer:

        async def loop() -> None:
            while True:
                for partition, records in (await consumer.fetch(100, 0.2)).items():
                    if records[0].offset == stored.get(partition, 0):
                        got.extend(records)
                        stored[partition] = records[-1].offset + 1

        task = asyncio.create_task(loop())
        try:
            yield consumer
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def share(*consumers: Consumer) -> Callable[[], bool]:
    """Tell whether the partitions are divided among `consumers`, each has some, and no two share one."""

    def divided() -> bool:
        parts = [consumer.assigned() for consumer in consumers]
        everything = [partition for part in parts for partition in part]
        return all(parts) and sorted(everything) == list(range(PARTITIONS))

    return divided


async def test_a_member_that_joins_takes_its_share_and_gives_it_back(place: Place) -> None:
    got: list[Record] = []
    stored: dict[int, int] = {}
    async with place.open() as (_, one), place.open() as (_, two), reading(one, got, stored) as first:
        await until(share(first), "the first has all")
        await one.append(TOPIC, [Outgoing(b"%d" % n, b"%d" % n) for n in range(100)])
        async with reading(two, got, stored) as second:
            await until(share(first, second), "both have a share")
            await one.append(TOPIC, [Outgoing(b"%d" % n, b"%d" % n) for n in range(100, 200)])
            await until(lambda: len(got) == 200, "all read by two")
        await until(share(first), "the first has all again")
        await one.append(TOPIC, [Outgoing(b"%d" % n, b"%d" % n) for n in range(200, 300)])
        await until(lambda: len(got) == 300, "all read by one")
    assert sorted(int(record.value) for record in got) == list(range(300))


async def test_two_groups_each_read_everything(log: Log) -> None:
    await log.append(TOPIC, values(10))
    async with log.consume("one", TOPIC, from_zero) as one, log.consume("two", TOPIC, from_zero) as two:
        first, second = await asyncio.gather(read(one, 10), read(two, 10))
    assert flat(first) == flat(second) == [b"%d" % n for n in range(10)]


async def kept(pool: asyncpg.Pool) -> int:
    return int(await pool.fetchval("SELECT count(*) FROM kept"))


async def readers(pool: asyncpg.Pool) -> int:
    return int(await pool.fetchval("SELECT count(DISTINCT pid) FROM kept"))


async def feed(log: Log, stop: asyncio.Event) -> int:
    """Append to all partitions, steadily, until told to stop; returns how many."""
    count = 0
    while not stop.is_set():
        await log.append(TOPIC, [Outgoing(b"%d" % n, b"%d" % n) for n in range(count, count + 20)])
        count += 20
        await asyncio.sleep(0.02)
    return count


async def assert_all_kept_once(pool: asyncpg.Pool, count: int) -> None:
    rows = await pool.fetch("SELECT value, count(*) AS times FROM kept GROUP BY value")
    assert {row["times"] for row in rows} == {1}, "a record was processed twice"
    assert {int(row["value"]) for row in rows} == set(range(count))
    disorder = """SELECT count(*) FROM (
        SELECT place - lag(place, 1, -1::bigint) OVER (PARTITION BY partition ORDER BY n) AS step FROM kept
    ) AS s WHERE step <> 1"""
    assert await pool.fetchval(disorder) == 0, "a partition was not processed in the order of its offsets"


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM], ids=["killed", "frozen", "stopped"])
async def test_partitions_of_a_member_that_is_gone_go_to_the_others(place: Place, end: signal.Signals) -> None:
    async with place.open() as (pool, log):
        await pool.execute(KEPT)
        await log.partitions(TOPIC)
        async with place.process(do="consume", pid=1) as victim, place.process(do="consume", pid=2):
            stop = asyncio.Event()
            feeding = asyncio.create_task(feed(log, stop))
            await until(lambda: _both(pool), "both members at work", limit_s=60)
            victim.send_signal(end)
            marks = await log.end_offsets(TOPIC)
            reached = (
                "SELECT count(*) FROM (SELECT partition FROM kept WHERE place > $1[partition + 1] GROUP BY 1) AS p"
            )
            reached = reached.replace("$1[", "($1::bigint[])[")
            beyond = [marks[partition] + 20 for partition in range(PARTITIONS)]
            began = monotonic()
            await until(lambda: _equals(pool.fetchval(reached, beyond), PARTITIONS), "work on all partitions", 60)
            took_s = monotonic() - began
            print(f"\n{end.name}: all partitions at work again after {took_s:.2f} s")
            if place.kafka is None and end == signal.SIGKILL:
                assert took_s < SESSION_TIMEOUT_S - 1, "a killed member has to be seen before the session time-out"
            if end == signal.SIGSTOP:
                victim.send_signal(signal.SIGCONT)
                marks = await log.end_offsets(TOPIC)
                thawed = "SELECT count(*) FROM kept WHERE pid = 1 AND place > ($1::bigint[])[partition + 1]"
                beyond = [marks[partition] for partition in range(PARTITIONS)]
                await until(lambda: pool.fetchval(thawed, beyond), "the thawed one at work again", 60)
            stop.set()
            count = await feeding
            await until(lambda: _equals(kept(pool), count), "everything kept", limit_s=60)
        await assert_all_kept_once(pool, count)
        assert not any((await lag(pool, log, GROUP, TOPIC)).values())


async def _both(pool: asyncpg.Pool) -> bool:
    return await readers(pool) == 2


async def _equals(awaited: Any, wanted: object) -> bool:
    return bool(await awaited == wanted)


async def test_a_group_resumes_where_its_stored_offsets_say(place: Place) -> None:
    for first in (0, 50):
        async with place.open() as (pool, log):
            await pool.execute(KEPT)
            await log.append(TOPIC, [Outgoing(b"%d" % n, b"%d" % n) for n in range(first, first + 50)])
            async with place.process(do="consume", pid=first) as process:
                await until(lambda: _equals(kept(pool), first + 50), "all kept", limit_s=60)  # noqa: B023
                process.send_signal(signal.SIGTERM)
                assert await asyncio.wait_for(process.wait(), 15) == 0
            if first:
                await assert_all_kept_once(pool, 100)


async def test_a_zombie_is_fenced(place: Place) -> None:
    """It fetched, lost the partition, another member did the work: its transaction has to fail."""
    async with place.open() as (pool, one), place.open() as (_, two):
        (first, *_) = await one.append(TOPIC, values(5))
        name = one.name(TOPIC)

        async def start(topic: str, partition: int) -> int:
            return await starting_offset(pool, one, GROUP, topic, partition)

        async with one.consume(GROUP, TOPIC, start) as zombie:
            await read(zombie, 5)
            async with two.consume(f"{GROUP}", TOPIC, start):
                async with pool.acquire() as connection, connection.transaction():
                    await compare_and_set(connection, GROUP, name, {first.partition: (0, 5)})
                with pytest.raises(Fenced):
                    async with pool.acquire() as connection, connection.transaction():
                        await compare_and_set(connection, GROUP, name, {first.partition: (0, 5)})
        assert await start(TOPIC, first.partition) == 5


async def test_lag_is_what_the_group_has_not_done(place: Place) -> None:
    async with place.open() as (pool, log):
        await log.append(TOPIC, values(12))
        assert sum((await lag(pool, log, GROUP, TOPIC)).values()) == 12

        async def ignore(connection: asyncpg.Connection, records: Sequence[Record]) -> Sequence[Rejection]:
            return ()

        runner = Runner(log, pool, GROUP, TOPIC, ignore, settings=RunnerSettings(max_wait_s=0.2))
        task = asyncio.create_task(runner.run())
        await until(lambda: runner.records_done == 12, "twelve done")
        runner.stop()
        await task
        assert sum((await lag(pool, log, GROUP, TOPIC)).values()) == 0
        await log.append(TOPIC, values(3))
        assert sum((await lag(pool, log, GROUP, TOPIC)).values()) == 3


# What must never pass silently


async def test_a_topic_truncated_below_the_next_offset_is_an_error(place: Place, log: Log) -> None:
    (first, *_) = await log.append(TOPIC, values(10))
    await place.truncate(log, TOPIC)
    await log.append(TOPIC, values(5))

    async def from_four(topic: str, partition: int) -> int:
        return 4 if partition == first.partition else 0

    async with log.consume(GROUP, TOPIC, from_four) as consumer:
        with pytest.raises(LogTruncated, match="10 to 15"):
            await read(consumer, 1)


async def test_a_log_that_ends_before_the_next_offset_is_an_error(log: Log) -> None:
    (first, *_) = await log.append(TOPIC, values(10))

    async def from_beyond(topic: str, partition: int) -> int:
        return 999 if partition == first.partition else 0

    async with log.consume(GROUP, TOPIC, from_beyond) as consumer:
        with pytest.raises(LogTruncated, match="999"):
            await read(consumer, 1)


async def test_a_new_group_begins_with_the_first_record_held(place: Place) -> None:
    async with place.open() as (pool, log):
        (first, *_) = await log.append(TOPIC, values(10))
        await place.truncate(log, TOPIC)
        assert await starting_offset(pool, log, "new", TOPIC, first.partition) == 10


async def test_a_runner_stands_still_at_a_truncated_topic_and_says_so(place: Place) -> None:
    async def ignore(connection: asyncpg.Connection, records: Sequence[Record]) -> Sequence[Rejection]:
        return ()

    async with place.open() as (pool, log):
        (first, *_) = await log.append(TOPIC, values(10))
        assert await starting_offset(pool, log, GROUP, TOPIC, first.partition) == 0
        await place.truncate(log, TOPIC)
        runner = Runner(log, pool, GROUP, TOPIC, ignore)
        task = asyncio.create_task(runner.run())
        await until(lambda: runner.stopped, "the stop")
        assert "never read" in (await runner.ready())[f"consumer {GROUP}"]
        runner.stop()
        await task
        assert await starting_offset(pool, log, GROUP, TOPIC, first.partition) == 0
