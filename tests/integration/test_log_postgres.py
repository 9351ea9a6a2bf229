"""What only the log in PostgreSQL has: groups of commits, wake-ups between processes, retention, tables."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from time import monotonic

import asyncpg
import pytest

from shared.errors import LogUnavailable
from shared.log import postgres as postgres_module
from shared.log import postgres_consumer
from shared.log.offsets import compare_and_set, starting_offset
from shared.log.postgres import PostgresLog, postgres_log
from shared.log.protocol import Consumer, Outgoing
from tests.waiting import until

TOPIC = "things"


@pytest.fixture
async def log(pool: asyncpg.Pool) -> AsyncIterator[PostgresLog]:
    async with postgres_log(pool, partitions=2) as opened:
        yield opened


async def from_zero(topic: str, partition: int) -> int:
    return 0


def values(count: int, first: int = 0) -> list[Outgoing]:
    return [Outgoing(b"key", b"%d" % n) for n in range(first, first + count)]


async def make_older(pool: asyncpg.Pool, below: int, age: timedelta) -> None:
    await pool.execute('UPDATE log.record SET appended_at = appended_at - $2::interval WHERE "offset" < $1', below, age)


async def test_appends_that_wait_together_are_one_commit(log: PostgresLog, pool: asyncpg.Pool) -> None:
    await log.append(TOPIC, values(1))
    await asyncio.gather(*(log.append(TOPIC, [Outgoing(b"%d" % n, b"")]) for n in range(200)))
    assert await pool.fetchval("SELECT count(*) FROM log.record") == 201
    commits = await pool.fetchval("SELECT count(DISTINCT appended_at) FROM log.record")
    assert commits <= 5, f"{commits} commits for 200 appends that came at once"


async def test_time_follows_the_order_of_offsets(log: PostgresLog, pool: asyncpg.Pool) -> None:
    for _ in range(5):
        await asyncio.gather(*(log.append(TOPIC, values(3)) for _ in range(10)))
    backwards = """SELECT count(*) FROM (SELECT appended_at - lag(appended_at) OVER (PARTITION BY partition_id
                   ORDER BY "offset") AS step FROM log.record) AS s WHERE step < interval '0'"""
    assert await pool.fetchval(backwards) == 0


async def test_another_process_is_woken_and_need_not_look_by_itself(
    log: PostgresLog, pool: asyncpg.Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_consumer, "POLL_S", 60.0)
    async with postgres_log(pool, partitions=2) as other, other.consume("g", TOPIC, from_zero) as consumer:
        await until(lambda: len(consumer.assigned()) == 2, "all partitions")
        assert not await consumer.fetch(10, 0.05)
        began = monotonic()
        fetching = asyncio.create_task(consumer.fetch(10, 30.0))
        await log.append(TOPIC, values(1))
        assert await fetching
        assert monotonic() - began < 10, "it waited for its own look instead of being woken"


async def test_many_who_append_and_emit_at_once_never_wait_in_a_circle(log: PostgresLog, pool: asyncpg.Pool) -> None:
    async def emit(n: int) -> None:
        async with pool.acquire() as connection, connection.transaction():
            await log.emit(connection, TOPIC, [Outgoing(b"%d" % (n + k), b"") for k in range(10)])

    await asyncio.gather(
        *(emit(n) for n in range(30)),
        *(log.append(TOPIC, [Outgoing(b"%d" % (n + k), b"") for k in range(10)]) for n in range(30)),
    )
    assert sum((await log.end_offsets(TOPIC)).values()) == 600


async def test_old_records_are_deleted_and_young_ones_stay(log: PostgresLog, pool: asyncpg.Pool) -> None:
    (first, *_) = await log.append(TOPIC, values(100))
    await make_older(pool, 60, timedelta(days=31))
    assert await log.retain(TOPIC, timedelta(days=30)) == 60
    assert (await log.begin_offsets(TOPIC))[first.partition] == 60
    assert await pool.fetchval('SELECT min("offset") FROM log.record') == 60
    assert await log.retain(TOPIC, timedelta(days=30)) == 0


async def test_what_a_group_has_not_read_is_kept_unless_forced(log: PostgresLog, pool: asyncpg.Pool) -> None:
    (first, *_) = await log.append(TOPIC, values(100))
    await make_older(pool, 60, timedelta(days=31))
    for group, reached in (("fast", 90), ("slow", 25)):
        await starting_offset(pool, log, group, TOPIC, first.partition)
        async with pool.acquire() as connection, connection.transaction():
            await compare_and_set(connection, group, log.name(TOPIC), {first.partition: (0, reached)})
    assert await log.retain(TOPIC, timedelta(days=30)) == 25
    assert (await log.begin_offsets(TOPIC))[first.partition] == 25
    assert await log.retain(TOPIC, timedelta(days=30), force=True) == 35
    assert (await log.begin_offsets(TOPIC))[first.partition] == 60


async def test_retention_goes_through_more_than_one_chunk(
    log: PostgresLog, pool: asyncpg.Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_module, "RETENTION_CHUNK", 7)
    await log.append(TOPIC, values(50))
    assert await log.retain(TOPIC, timedelta(0)) == 50
    await log.append(TOPIC, values(3, first=50))
    assert await pool.fetchval("SELECT count(*) FROM log.record") == 3


async def test_a_pool_without_a_free_connection_is_said_in_time(pool: asyncpg.Pool) -> None:
    async with postgres_log(pool, partitions=1, timeout_s=0.5) as log:
        await log.append(TOPIC, values(1))
        held = []
        try:
            while True:
                held.append(await pool.acquire(timeout=0.5))
        except TimeoutError:
            pass
        with pytest.raises(LogUnavailable):
            await log.append(TOPIC, values(1))
        for connection in held:
            await pool.release(connection)
        await log.append(TOPIC, values(1))


async def test_members_whose_session_ended_are_removed_at_once(log: PostgresLog, pool: asyncpg.Pool) -> None:
    """The session is what counts: a heartbeat from a moment ago does not keep a dead member's partitions."""
    await log.partitions(TOPIC)
    await pool.execute(
        "INSERT INTO log.member VALUES ('00000000-0000-0000-0000-000000000000', 'g', $1, 1, now(), now() + '1 hour')",
        log.name(TOPIC),
    )
    async with log.consume("g", TOPIC, from_zero) as consumer:
        await until(lambda: len(consumer.assigned()) == 2, "all partitions for the one that lives", 3)


async def test_a_member_that_could_not_beat_holds_nothing_for_its_own(
    log: PostgresLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    consumer: Consumer
    async with log.consume("g", TOPIC, from_zero) as consumer:
        await until(lambda: len(consumer.assigned()) == 2, "all partitions")
        monkeypatch.setattr(postgres_consumer, "SESSION_TIMEOUT_S", -1.0)  # as if it had been frozen since
        await until(lambda: not consumer.assigned(), "nothing")
        monkeypatch.setattr(postgres_consumer, "SESSION_TIMEOUT_S", 6.0)
        await until(lambda: len(consumer.assigned()) == 2, "all partitions again")


async def test_every_table_of_the_log_is_under_row_level_security(pool: asyncpg.Pool) -> None:
    rows = await pool.fetch(
        "SELECT relname, relrowsecurity FROM pg_class WHERE relnamespace = 'log'::regnamespace AND relkind = 'r'"
    )
    assert {row["relname"] for row in rows} >= {"record", "partition", "member", "offset", "quarantine"}
    assert [row["relname"] for row in rows if not row["relrowsecurity"]] == []
