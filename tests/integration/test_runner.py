"""The consumer loop on the real PostgreSQL: what each failure does to offsets, state and order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import asyncpg
import pytest
from prometheus_client import CollectorRegistry

from shared.errors import DatabaseUnavailable, Fenced, Rejected
from shared.log.metrics import LogMetrics
from shared.log.offsets import compare_and_set, starting_offset
from shared.log.postgres import PostgresLog
from shared.log.postgres_consumer import PostgresConsumer
from shared.log.protocol import QUARANTINE, Outgoing, Record
from shared.log.runner import Rejection, Runner, RunnerSettings
from tests.integration.numbers import FAST, KEEP, TOPIC, all_done, done, keep, kept, log_of_numbers, numbers, running
from tests.waiting import until


@pytest.fixture
async def log(pool: asyncpg.Pool) -> AsyncIterator[PostgresLog]:
    async with log_of_numbers(pool) as opened:
        yield opened


async def test_records_reach_the_state_once_and_in_order(log: PostgresLog, pool: asyncpg.Pool) -> None:
    await log.append(TOPIC, numbers(500))
    async with running(log, pool, keep, RunnerSettings(batch_max_records=60, max_wait_s=0.2)) as runner:
        await until(done(runner, 500), "500 records done")
    assert await kept(pool) == [b"%d" % n for n in range(500)]
    assert runner.batches_done >= 500 / 60


async def test_a_second_runner_goes_on_where_the_first_stopped(log: PostgresLog, pool: asyncpg.Pool) -> None:
    await log.append(TOPIC, numbers(10))
    async with running(log, pool, keep) as runner:
        await until(done(runner, 10), "the first ten")
    await log.append(TOPIC, [Outgoing(b"one key", b"later")])
    async with running(log, pool, keep) as runner:
        await until(done(runner, 1), "one more")
    assert (await kept(pool))[10:] == [b"later"]


async def test_compare_and_set_moves_all_partitions_or_none(log: PostgresLog, pool: asyncpg.Pool) -> None:
    await log.append(TOPIC, numbers(1))
    for partition in (0, 1, 2):
        assert await starting_offset(pool, log, "group", TOPIC, partition) == 0
    name = log.name(TOPIC)
    async with pool.acquire() as connection:
        async with connection.transaction():
            await compare_and_set(connection, "group", name, {0: (0, 5), 2: (0, 7)})
        with pytest.raises(Fenced, match=r"\[2\]"):
            async with connection.transaction():
                await compare_and_set(connection, "group", name, {1: (0, 3), 2: (6, 9)})
    stored = [await starting_offset(pool, log, "group", TOPIC, partition) for partition in (0, 1, 2)]
    assert stored == [5, 0, 7]


async def test_of_two_members_that_do_one_batch_at_once_one_is_fenced(log: PostgresLog, pool: asyncpg.Pool) -> None:
    await log.append(TOPIC, numbers(1))
    await starting_offset(pool, log, "group", TOPIC, 0)
    inside = asyncio.Event()
    leave = asyncio.Event()

    async def member(wait: bool) -> str:
        async with pool.acquire() as connection:
            try:
                async with connection.transaction():
                    await compare_and_set(connection, "group", log.name(TOPIC), {0: (0, 1)})
                    if wait:
                        inside.set()
                        await leave.wait()
            except Fenced:
                return "fenced"
        return "committed"

    first = asyncio.create_task(member(wait=True))
    await inside.wait()
    second = asyncio.create_task(member(wait=False))
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    await until(lambda: pool.fetchval(waiting), "the second waits for the first")
    leave.set()
    assert [await first, await second] == ["committed", "fenced"]


async def test_a_zombie_changes_nothing(log: PostgresLog, pool: asyncpg.Pool) -> None:
    """While a batch is being handled another member does it; the late one rolls back and goes on after it."""
    await log.append(TOPIC, numbers(5))
    first_try = True

    async def overtaken(connection: asyncpg.Connection, records: Sequence[Record]) -> Sequence[Rejection]:
        return await keep(connection, records)

    real_commit = Runner._commit

    async def late_commit(self: Runner, records: Sequence[Record], *rest: object) -> Sequence[Rejection]:
        nonlocal first_try
        if first_try:
            first_try = False
            async with pool.acquire() as connection, connection.transaction():
                partition = records[0].partition
                await compare_and_set(connection, "group", log.name(TOPIC), {partition: (0, 3)})
                await connection.execute(KEEP, [partition], [0], [b"done by another"])
        return await real_commit(self, records, *rest)  # type: ignore[arg-type]

    Runner._commit = late_commit  # type: ignore[method-assign, assignment]
    try:
        async with running(log, pool, overtaken) as runner:
            await until(lambda: all_done(log, pool), "the end of the log")
    finally:
        Runner._commit = real_commit  # type: ignore[method-assign]
    assert await kept(pool) == [b"done by another", b"3", b"4"]
    assert runner.records_done == 2


async def test_a_commit_whose_answer_was_lost_is_not_repeated(log: PostgresLog, pool: asyncpg.Pool) -> None:
    await log.append(TOPIC, numbers(5))
    real_commit = Runner._commit
    lost = 0

    async def commit_and_lose(self: Runner, *rest: object) -> Sequence[Rejection]:
        nonlocal lost
        result = await real_commit(self, *rest)  # type: ignore[arg-type]
        if not lost:
            lost += 1
            raise DatabaseUnavailable("the answer to COMMIT never came")
        return result

    Runner._commit = commit_and_lose  # type: ignore[method-assign, assignment]
    try:
        async with running(log, pool, keep):
            await until(lambda: lost, "the cut")
            await log.append(TOPIC, [Outgoing(b"one key", b"after")])
            await until(lambda: all_done(log, pool), "the end of the log")
    finally:
        Runner._commit = real_commit  # type: ignore[method-assign]
    assert await kept(pool) == [b"0", b"1", b"2", b"3", b"4", b"after"]


async def test_poison_goes_to_quarantine_and_the_partition_goes_on(log: PostgresLog, pool: asyncpg.Pool) -> None:
    async def picky(connection: asyncpg.Connection, records: Sequence[Record]) -> Sequence[Rejection]:
        bad = [r for r in records if r.value == b"3"]
        await keep(connection, [r for r in records if r.value != b"3"])
        return [Rejection(r, "three is not liked\x00", tenant="acme", source="/s", event_id="\ud800") for r in bad]

    await log.append(TOPIC, [Outgoing(b"k", b"%d" % n, (("h", b"\xff\x00"),)) for n in range(6)])
    async with running(log, pool, picky, metrics=LogMetrics(CollectorRegistry())) as runner:
        await until(done(runner, 6), "all six")
    assert await kept(pool) == [b"0", b"1", b"2", b"4", b"5"]
    row = await pool.fetchrow("SELECT * FROM log.quarantine")
    assert (row["tenant_id"], row["source"], row["event_id"], row["topic"]) == ("acme", "/s", "?", log.name(TOPIC))
    assert (row["reason"], row["value"], row["offset"], row["state"]) == ("three is not liked\ufffd", b"3", 3, "held")
    assert runner.records_quarantined == 1
    (announced,) = [r for records in (await read_topic(log, QUARANTINE)).values() for r in records]
    assert (announced.key, announced.value, announced.headers[0]) == (b"k", b"3", ("h", b"\xff\x00"))
    told = dict(announced.headers)
    assert told["threadline-reason"].decode() == "three is not liked\ufffd"
    assert told["threadline-position"].decode() == f"{row['partition']}/3"


async def read_topic(log: PostgresLog, topic: str) -> Mapping[int, Sequence[Record]]:
    async def from_zero(topic: str, partition: int) -> int:
        return 0

    async with log.consume("reader", topic, from_zero) as consumer:
        return await consumer.fetch(100, 10.0)


async def test_the_largest_record_can_be_quarantined_too(log: PostgresLog, pool: asyncpg.Pool) -> None:
    async def reject(connection: asyncpg.Connection, records: Sequence[Record]) -> Sequence[Rejection]:
        return [Rejection(r, "no") for r in records]

    await log.append(TOPIC, [Outgoing(b"k", b"x" * 999_999)])
    async with running(log, pool, reject) as runner:
        await until(done(runner, 1), "the one")
    assert len(await pool.fetchval("SELECT value FROM log.quarantine")) == 999_999
    (announced,) = [r for records in (await read_topic(log, QUARANTINE)).values() for r in records]
    assert announced.value == b"" and "threadline-value-left-out" in dict(announced.headers)


async def test_a_rejection_raised_for_a_batch_finds_its_record(log: PostgresLog, pool: asyncpg.Pool) -> None:
    async def blunt(connection: asyncpg.Connection, records: Sequence[Record]) -> Sequence[Rejection]:
        if any(r.value == b"7" for r in records):
            raise Rejected("somewhere in here is a seven")
        return await keep(connection, records)

    await log.append(TOPIC, numbers(20))
    async with running(log, pool, blunt) as runner:
        await until(done(runner, 20), "all twenty")
    assert await kept(pool) == [b"%d" % n for n in range(20) if n != 7]
    assert await pool.fetchval("SELECT value FROM log.quarantine") == b"7"


async def test_the_reader_role_sees_quarantine_of_its_tenant_only(log: PostgresLog, pool: asyncpg.Pool) -> None:
    async def reject(connection: asyncpg.Connection, records: Sequence[Record]) -> Sequence[Rejection]:
        return [Rejection(r, "no", tenant="a" if r.value == b"0" else "b") for r in records]

    await log.append(TOPIC, numbers(3))
    async with running(log, pool, reject) as runner:
        await until(done(runner, 3), "all three")
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute("SELECT set_config('threadline.tenant', 'a', true)")
        await connection.execute("SET LOCAL ROLE threadline_reader")
        assert [r["value"] for r in await connection.fetch("SELECT value FROM log.quarantine")] == [b"0"]
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.fetch("SELECT * FROM log.record")


@pytest.mark.parametrize(
    "failure",
    [
        DatabaseUnavailable("away"),
        asyncpg.DeadlockDetectedError("deadlock"),
        asyncpg.CannotConnectNowError("starting up"),
        ConnectionResetError("cut"),
        TimeoutError(),
    ],
    ids=lambda failure: type(failure).__name__,
)
async def test_what_may_pass_is_tried_again_in_order(log: PostgresLog, pool: asyncpg.Pool, failure: Exception) -> None:
    failures = iter([failure] * 3)

    async def failing(connection: asyncpg.Connection, records: Sequence[Record]) -> Sequence[Rejection]:
        await keep(connection, records)
        for error in failures:
            raise error
        return ()

    await log.append(TOPIC, numbers(10))
    async with running(log, pool, failing, RunnerSettings(4, 0.2, 1000, 0.01, 0.05)) as runner:
        await until(done(runner, 10), "all ten")
    assert await kept(pool) == [b"%d" % n for n in range(10)]
    assert await runner.ready() == {}


async def test_readiness_says_while_it_waits(log: PostgresLog, pool: asyncpg.Pool) -> None:
    async def away(connection: asyncpg.Connection, records: Sequence[Record]) -> Sequence[Rejection]:
        raise DatabaseUnavailable("away")

    await log.append(TOPIC, numbers(1))
    async with running(log, pool, away) as runner:
        await until(runner.ready, "a fault in readiness")
        assert "DatabaseUnavailable" in (await runner.ready())["consumer group"]
        assert not runner.stopped
    assert await kept(pool) == []


async def test_its_own_connection_killed_in_the_transaction_loses_and_doubles_nothing(
    log: PostgresLog, pool: asyncpg.Pool
) -> None:
    killed = 0

    async def suicidal(connection: asyncpg.Connection, records: Sequence[Record]) -> Sequence[Rejection]:
        nonlocal killed
        await keep(connection, records)
        if killed < 2:
            killed += 1
            await pool.execute("SELECT pg_terminate_backend($1)", connection.get_server_pid())
        return ()

    await log.append(TOPIC, numbers(10))
    async with running(log, pool, suicidal) as runner:
        await until(done(runner, 10), "all ten")
    assert await kept(pool) == [b"%d" % n for n in range(10)]


async def test_a_run_of_rejections_stops_the_consumer_and_stores_nothing_of_the_batch(
    log: PostgresLog, pool: asyncpg.Pool
) -> None:
    async def reject(connection: asyncpg.Connection, records: Sequence[Record]) -> Sequence[Rejection]:
        return [Rejection(r, "a bad deployment") for r in records]

    await log.append(TOPIC, numbers(30))
    async with running(
        log, pool, reject, RunnerSettings(batch_max_records=8, max_wait_s=0.2, rejection_limit=20)
    ) as runner:
        await until(lambda: runner.stopped, "the stop")
        fault = (await runner.ready())["consumer group"]
    assert "in a row were rejected (limit 20)" in fault and "a bad deployment" in fault
    assert await pool.fetchval("SELECT count(*) FROM log.quarantine") == 16


async def test_one_success_ends_a_run_of_rejections(log: PostgresLog, pool: asyncpg.Pool) -> None:
    async def most(connection: asyncpg.Connection, records: Sequence[Record]) -> Sequence[Rejection]:
        return [Rejection(r, "no") for r in records if int(r.value) % 10]

    await log.append(TOPIC, numbers(100))
    async with running(
        log, pool, most, RunnerSettings(batch_max_records=7, max_wait_s=0.2, rejection_limit=9)
    ) as runner:
        await until(lambda: runner.stopped or runner.records_done == 100, "the end")
        assert not runner.stopped
    assert runner.records_quarantined == 90


async def test_a_bug_stops_the_consumer_without_a_commit_and_without_the_text(
    log: PostgresLog, pool: asyncpg.Pool
) -> None:
    async def buggy(connection: asyncpg.Connection, records: Sequence[Record]) -> Sequence[Rejection]:
        await keep(connection, records)
        raise KeyError("a customer's secret")

    await log.append(TOPIC, numbers(3))
    async with running(log, pool, buggy) as runner:
        await until(lambda: runner.stopped, "the stop")
        fault = (await runner.ready())["consumer group"]
    assert "KeyError" in fault and "secret" not in fault
    assert await kept(pool) == []
    assert await starting_offset(pool, log, "group", TOPIC, 0) == 0


async def test_lag_is_told_in_records_and_seconds(log: PostgresLog, pool: asyncpg.Pool) -> None:
    held = asyncio.Event()
    registry = CollectorRegistry()

    async def slow(connection: asyncpg.Connection, records: Sequence[Record]) -> Sequence[Rejection]:
        await held.wait()
        return ()

    positions = await log.append(TOPIC, numbers(7))
    partition = positions[0].partition
    async with running(log, pool, slow, metrics=LogMetrics(registry)) as runner:
        await until(lambda: partition in runner.lag() and runner.lag()[partition].records == 7, "a lag of seven")
        await until(lambda: runner.lag()[partition].seconds > 0.1, "a lag that ages")
        labels = {"group": "group", "topic": TOPIC, "partition": str(partition)}
        await until(lambda: registry.get_sample_value("threadline_log_lag_records", labels) == 7.0, "a gauge")
        held.set()
        await until(lambda: runner.lag()[partition].records == 0, "no lag")
        assert runner.lag()[partition].seconds == 0.0


async def test_readers_of_what_a_handler_emits_get_it_after_the_commit_only(
    log: PostgresLog, pool: asyncpg.Pool
) -> None:
    attempts = 0

    async def emitting(connection: asyncpg.Connection, records: Sequence[Record]) -> Sequence[Rejection]:
        nonlocal attempts
        attempts += 1
        await log.emit(connection, "out", [Outgoing(r.key, b"%s in attempt %d" % (r.value, attempts)) for r in records])
        if attempts == 1:
            raise DatabaseUnavailable("rolled back, and with it what was emitted")
        return ()

    got: list[bytes] = []

    async def reading(connection: asyncpg.Connection, records: Sequence[Record]) -> Sequence[Rejection]:
        got.extend(record.value for record in records)
        return ()

    await log.append(TOPIC, numbers(2))
    reader = Runner(log, pool, "reader", "out", reading, settings=FAST)
    task = asyncio.create_task(reader.run())
    async with running(log, pool, emitting, emits=("out",)):
        await until(lambda: len(got) == 2, "both read")
    reader.stop()
    await task
    assert got == [b"0 in attempt 2", b"1 in attempt 2"]


async def test_stopping_lets_the_batch_in_hand_commit(log: PostgresLog, pool: asyncpg.Pool) -> None:
    inside = asyncio.Event()
    leave = asyncio.Event()

    async def slow(connection: asyncpg.Connection, records: Sequence[Record]) -> Sequence[Rejection]:
        inside.set()
        await leave.wait()
        return await keep(connection, records)

    await log.append(TOPIC, numbers(4))
    runner = Runner(log, pool, "group", TOPIC, slow, settings=FAST)
    task = asyncio.create_task(runner.run())
    await inside.wait()
    runner.stop()
    leave.set()
    await asyncio.wait_for(task, 5)
    assert len(await kept(pool)) == 4
    assert await pool.fetchval("SELECT count(*) FROM log.member") == 0


async def test_a_cancellation_that_nobody_asked_for_does_not_end_the_consumer(
    log: PostgresLog, pool: asyncpg.Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kafka's client lets those of its inner tasks out; the consumer ended without a word."""
    real_fetch = PostgresConsumer.fetch
    strays = iter(range(2))

    async def fetch(self: PostgresConsumer, *limits: Any) -> Mapping[int, Sequence[Record]]:
        for _ in strays:
            raise asyncio.CancelledError
        return await real_fetch(self, *limits)

    monkeypatch.setattr(PostgresConsumer, "fetch", fetch)
    await log.append(TOPIC, numbers(3))
    async with running(log, pool, keep) as runner:
        await until(done(runner, 3), "all three")


async def test_a_cancelled_runner_ends(log: PostgresLog, pool: asyncpg.Pool) -> None:
    runner = Runner(log, pool, "group", TOPIC, keep, settings=FAST)
    task = asyncio.create_task(runner.run())
    await log.append(TOPIC, numbers(3))
    await until(done(runner, 3), "all three")
    task.cancel()
    done_tasks, _ = await asyncio.wait({task}, timeout=5)
    assert done_tasks and task.cancelled()
