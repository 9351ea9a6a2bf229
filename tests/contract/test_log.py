"""What every log keeps (shared/log/protocol.py), held against the real PostgreSQL and a real Kafka broker."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import monotonic
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from aiokafka.structs import TopicPartition

from shared.errors import Fenced, LogTruncated, LogUnavailable, RecordTooLarge
from shared.log.offsets import compare_and_set, lag, starting_offset
from shared.log.postgres import PostgresLog
from shared.log.postgres_consumer import SESSION_TIMEOUT_S
from shared.log.protocol import Consumer, Log, Outgoing, Position, Record
from shared.log.runner import Rejection, Runner, RunnerSettings
from shared.log.stretch import stretch
from tests.kafka_broker import free_ports
from tests.log_process import KEPT, opened
from tests.waiting import until

TOPIC = "contract.v1"
GROUP = "group"
PARTITIONS = 4
ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Place:
    """Where one log of a test lives; it can be opened many times, as by many processes."""

    database: str
    kafka: str | None
    prefix: str = field(default_factory=lambda: f"test-{uuid4().hex[:8]}")

    def open(self, **options: Any) -> AbstractAsyncContextManager[tuple[asyncpg.Pool, Log]]:
        return opened(self.database, self.kafka, self.prefix, **options)

    async def truncate(self, log: Log, topic: str) -> None:
        """Let the log forget every record that it holds."""
        if isinstance(log, PostgresLog):
            await log.retain(topic, timedelta(0), force=True)
            return
        admin = AIOKafkaAdminClient(bootstrap_servers=self.kafka)
        await admin.start()
        name = f"{self.prefix}.{topic}"
        ends = await log.end_offsets(topic)
        await admin.delete_records({TopicPartition(name, p): RecordsToDelete(before_offset=o) for p, o in ends.items()})
        await admin.close()

    def process(self, **given: Any) -> AbstractAsyncContextManager[asyncio.subprocess.Process]:
        """Start tests.log_process; it is killed at the end of the context."""
        arguments = {
            "database": self.database, "kafka": self.kafka, "prefix": self.prefix, "partitions": PARTITIONS,
            "topic": TOPIC, "group": GROUP, **given,
        }  # fmt: skip
        return _process(json.dumps(arguments))


@asynccontextmanager
async def _process(arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.log_process", arguments, cwd=ROOT, stdout=asyncio.subprocess.PIPE
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGCONT)
            process.kill()
        await process.wait()


async def heard(process: asyncio.subprocess.Process, line: str) -> None:
    """Wait until the process says `line`."""
    assert process.stdout is not None
    async with asyncio.timeout(60):
        async for each in process.stdout:
            if each.decode().strip() == line:
                return
    raise AssertionError(f"the process ended without saying {line}")


@pytest.fixture(params=["postgres", "kafka"])
def place(request: pytest.FixtureRequest, database: str) -> Place:
    if request.param == "postgres":
        return Place(database, None)
    return Place(database, request.getfixturevalue("kafka_broker").bootstrap)


@pytest.fixture
async def log(place: Place) -> AsyncIterator[Log]:
    async with place.open() as (_, opened_log):
        yield opened_log


async def from_zero(topic: str, partition: int) -> int:
    return 0


def values(count: int, key: bytes = b"key") -> list[Outgoing]:
    return [Outgoing(key, b"%d" % n) for n in range(count)]


async def read(consumer: Consumer, count: int, limit_s: float = 30.0) -> dict[int, list[Record]]:
    """Fetch until `count` records came, per partition in the order in which they came."""
    got: dict[int, list[Record]] = defaultdict(list)
    deadline = monotonic() + limit_s
    while sum(map(len, got.values())) < count:
        assert monotonic() < deadline, f"{sum(map(len, got.values()))} of {count} records came"
        for partition, records in (await consumer.fetch(500, 0.5)).items():
            got[partition] += records
    return got


async def read_all(log: Log, count: int, topic: str = TOPIC) -> dict[int, list[Record]]:
    async with log.consume(f"reader-{uuid4()}", topic, from_zero) as consumer:
        return await read(consumer, count)


def flat(got: Mapping[int, Sequence[Record]]) -> list[bytes]:
    return [record.value for partition in sorted(got) for record in got[partition]]


def assert_dense(got: Mapping[int, Sequence[Record]]) -> None:
    for partition, records in got.items():
        assert [record.offset for record in records] == list(range(len(records))), f"partition {partition} has a gap"


def assert_keys_in_order(got: Mapping[int, Sequence[Record]]) -> None:
    """Values end in `:n`; of one key they have to come as 0, 1, 2 …"""
    seen: dict[bytes, int] = defaultdict(int)
    for records in got.values():
        for record in records:
            assert int(record.value.rpartition(b":")[2]) == seen[record.key], f"{record.key!r} is out of order"
            seen[record.key] += 1


# Appending and reading


async def test_stretch_is_read_from_its_begin_to_before_its_end(log: Log) -> None:
    await log.append(TOPIC, [Outgoing(b"%d" % n, b"%d" % n) for n in range(200)])
    ends = await log.end_offsets(TOPIC)
    begins = {partition: end // 2 for partition, end in ends.items()}
    cut = {partition: end - 1 for partition, end in ends.items()}
    found = {partition: [] for partition in ends}
    async for records in stretch(log, TOPIC, begins, cut):
        for record in records:
            found[record.partition].append(record.offset)
    assert found == {partition: list(range(begins[partition], end)) for partition, end in cut.items()}
    assert [records async for records in stretch(log, TOPIC, ends, ends)] == []


async def test_what_is_appended_is_read_back_whole(log: Log) -> None:
    before = datetime.now(UTC) - timedelta(seconds=5)
    odd = Outgoing(b"a\x00\xff", b"\x00\xfe value", (("trace", b"\xff\x00"), ("empty", b""), ("trace", b"twice")))
    (position,) = await log.append(TOPIC, [odd])
    got = await read_all(log, 1)
    (record,) = got[position.partition]
    assert (record.topic, record.partition, record.offset) == (TOPIC, position.partition, position.offset)
    assert (record.key, record.value, record.headers) == (odd.key, odd.value, odd.headers)
    assert before < record.appended_at < datetime.now(UTC) + timedelta(seconds=5)
    assert record.appended_at.tzinfo is not None


async def test_positions_answer_to_the_records_in_the_order_given(log: Log) -> None:
    batch = [Outgoing(b"%d" % (n % 7), b"%d" % n) for n in range(50)]
    positions = await log.append(TOPIC, batch)
    got = await read_all(log, 50)
    stored = {Position(r.partition, r.offset): r.value for records in got.values() for r in records}
    assert [stored[position] for position in positions] == [record.value for record in batch]


async def test_an_empty_append_is_nothing(log: Log) -> None:
    assert await log.append(TOPIC, []) == []
    assert set((await log.end_offsets(TOPIC)).values()) == {0}


async def test_equal_keys_share_a_partition_and_many_keys_use_all(log: Log) -> None:
    positions = await log.append(TOPIC, [Outgoing(b"key %d" % (n % 50), b"") for n in range(200)])
    for n in range(50):
        assert len({position.partition for position in positions[n::50]}) == 1
    assert {position.partition for position in positions} == set(range(PARTITIONS))
    assert await log.partitions(TOPIC) == PARTITIONS


async def test_concurrent_appenders_keep_the_order_of_each_key(log: Log) -> None:
    async def sequence(key: int) -> None:
        for n in range(25):
            await log.append(TOPIC, [Outgoing(b"key %d" % key, b"x:%d" % n)])

    await asyncio.gather(*(sequence(key) for key in range(40)))
    got = await read_all(log, 1000)
    assert_dense(got)
    assert_keys_in_order(got)


async def test_a_reader_beside_many_appending_processes_misses_nothing(place: Place, log: Log) -> None:
    await log.partitions(TOPIC)
    async with (
        place.process(do="append", name="p", count=400) as first,
        place.process(do="append", name="q", count=400) as second,
        log.consume("reader", TOPIC, from_zero) as consumer,
    ):
        got = await read(consumer, 800, limit_s=60)
        await heard(first, "appended")
        await heard(second, "appended")
    assert_dense(got)
    assert_keys_in_order(got)
    assert len(set(flat(got))) == 800


async def test_a_fetch_gives_no_more_than_asked_and_goes_on_after_it(log: Log) -> None:
    await log.append(TOPIC, [Outgoing(b"key %d" % n, b"%d" % n) for n in range(100)])
    sizes = []
    got: list[bytes] = []
    async with log.consume(GROUP, TOPIC, from_zero) as consumer:
        while len(got) < 100:
            batch = await consumer.fetch(7, 5.0)
            sizes.append(sum(map(len, batch.values())))
            got += flat(batch)
    assert max(sizes) <= 7
    assert sorted(map(int, got)) == list(range(100))


async def test_a_fetch_waits_for_what_comes_and_no_longer_than_told(log: Log) -> None:
    async with log.consume(GROUP, TOPIC, from_zero) as consumer:
        await until(lambda: _assigned(consumer, PARTITIONS), "all partitions")
        began = monotonic()
        assert not await consumer.fetch(10, 0.3)
        assert 0.25 < monotonic() - began < 3.0
        fetching = asyncio.create_task(consumer.fetch(10, 20.0))
        await asyncio.sleep(0)
        await log.append(TOPIC, values(1))
        assert flat(await asyncio.wait_for(fetching, 5)) == [b"0"]


async def _assigned(consumer: Consumer, count: int) -> bool:
    await consumer.fetch(1, 0.05)
    return len(consumer.assigned()) == count


async def test_a_reader_begins_where_it_is_told(log: Log) -> None:
    (first, *_) = await log.append(TOPIC, values(10))

    async def from_six(topic: str, partition: int) -> int:
        return 6 if partition == first.partition else 0

    async with log.consume(GROUP, TOPIC, from_six) as consumer:
        assert flat(await read(consumer, 4)) == [b"6", b"7", b"8", b"9"]


async def test_rewinding_asks_for_the_offset_again(log: Log) -> None:
    (first, *_) = await log.append(TOPIC, values(5))
    begin = 0

    async def asked(topic: str, partition: int) -> int:
        return begin if partition == first.partition else 0

    async with log.consume(GROUP, TOPIC, asked) as consumer:
        assert len(flat(await read(consumer, 5))) == 5
        begin = 3
        await consumer.rewind(first.partition)
        assert flat(await read(consumer, 2)) == [b"3", b"4"]


async def test_begin_and_end_offsets_enclose_what_is_held(place: Place, log: Log) -> None:
    (first, *_) = await log.append(TOPIC, values(8))
    assert (await log.begin_offsets(TOPIC))[first.partition] == 0
    assert (await log.end_offsets(TOPIC))[first.partition] == 8
    await place.truncate(log, TOPIC)
    assert (await log.begin_offsets(TOPIC))[first.partition] == 8
    await log.append(TOPIC, values(1))
    assert (await log.end_offsets(TOPIC))[first.partition] == 9
    assert sum((await log.end_offsets(TOPIC)).values()) == 9


# Large records


async def test_a_record_too_large_is_refused_and_nothing_of_its_batch_is_appended(place: Place) -> None:
    async with place.open(max_record_bytes=10_000) as (pool, log):
        huge = Outgoing(b"k", b"x" * 9_000, (("h", b"y" * 1_001),))
        for batch in ([*values(3), huge], [huge]):
            with pytest.raises(RecordTooLarge, match="10003 bytes"):
                await log.append(TOPIC, batch)
        async with pool.acquire() as connection:
            with pytest.raises(RecordTooLarge):
                await log.emit(connection, TOPIC, [huge])
        await log.append(TOPIC, values(2))
        assert sum((await log.end_offsets(TOPIC)).values()) == 2


async def test_records_of_the_largest_size_go_through_also_many_at_once(log: Log) -> None:
    large = [Outgoing(b"key", os.urandom(999_997)) for _ in range(20)]
    await log.append(TOPIC, large)
    got = await read_all(log, 20)
    assert flat(got) == [record.value for record in large]


async def test_the_topics_own_lower_limit_is_a_record_too_large(place: Place) -> None:
    if place.kafka is None:
        return  # the PostgreSQL log has one limit only, tested above
    async with place.open(max_record_bytes=10_000) as (_, log):
        await log.append(TOPIC, values(1))
    async with place.open(max_record_bytes=900_000) as (_, log):
        with pytest.raises(RecordTooLarge, match=r"max\.message\.bytes"):
            await log.append(TOPIC, [Outgoing(b"key", os.urandom(500_000))])
        await log.append(TOPIC, values(1))


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


# Emitting with a transaction


async def test_what_is_emitted_is_read_if_and_only_if_the_transaction_commits(place: Place) -> None:
    async with place.open(relayed=(TOPIC,)) as (pool, log), log.consume("reader", TOPIC, from_zero) as consumer:
        for n in range(6):
            async with pool.acquire() as connection:
                transaction = connection.transaction()
                await transaction.start()
                await log.emit(connection, TOPIC, [Outgoing(b"key", b"%d" % n), Outgoing(b"key", b"%d again" % n)])
                await (transaction.rollback() if n % 2 else transaction.commit())
            log.wake(TOPIC)
        got = await read(consumer, 6)
        assert not await consumer.fetch(10, 0.5)
    assert flat(got) == [b"0", b"0 again", b"2", b"2 again", b"4", b"4 again"]


async def test_what_is_rewritten_is_read_otherwise_at_its_place_or_the_log_says_that_it_cannot(place: Place) -> None:
    named = str(uuid4())
    records = [
        Outgoing(b"one", b'{"id":"1"}'), Outgoing(b"other", b'{"specversion":"1.0","id":"%s:1"}' % named.encode()),
        Outgoing(b"third", b'{"id":"3"}'), Outgoing(b"one", b'{"id":"4"}'),
    ]  # fmt: skip
    async with place.open() as (pool, log):
        places = await log.append(TOPIC, records)

        def change(record: Record) -> tuple[bytes, bytes] | None:
            return None if record.value.endswith(b'"4"}') else (b"gone", b"gone")

        async with pool.acquire() as connection, connection.transaction():
            count = await log.rewrite(connection, TOPIC, change, keys=[b"one"], ids=[named])
            third = (places[2].partition, places[2].offset)
            await log.replace(connection, TOPIC, {third: b"replaced"})
        got = {(r.partition, r.offset): r.value for rs in (await read_all(log, 4)).values() for r in rs}
    values_ = [got[place_.partition, place_.offset] for place_ in places]
    if isinstance(log, PostgresLog):
        assert count == 2
        assert values_ == [b"gone", b"gone", b"replaced", records[3].value]
    else:
        assert count is None
        assert values_ == [record.value for record in records]


async def test_a_slow_transaction_that_emits_is_never_skipped(place: Place) -> None:
    """Others append and emit meanwhile; the reader may wait for the slow one but not pass it."""
    async with place.open(relayed=(TOPIC,)) as (pool, log), log.consume("reader", TOPIC, from_zero) as consumer:
        async with pool.acquire() as slow, pool.acquire() as fast:
            transaction = slow.transaction()
            await transaction.start()
            await log.emit(slow, TOPIC, [Outgoing(b"key", b"slow")])

            async def emit_fast() -> None:
                async with fast.transaction():
                    await log.emit(fast, TOPIC, [Outgoing(b"key", b"fast")])

            emitting = asyncio.create_task(emit_fast())
            assert not await consumer.fetch(10, 0.5)
            await transaction.commit()
            await emitting
        log.wake(TOPIC)
        got = await read(consumer, 2)
    assert flat(got) == [b"slow", b"fast"]


# A log that is away


@pytest.fixture
def away() -> str:
    """An address where nobody listens."""
    return f"127.0.0.1:{free_ports(1)[0]}"


async def test_check_is_silent_while_the_log_works(log: Log) -> None:
    await log.check()


async def test_kafka_that_is_away_from_the_start_is_said_in_time_and_never_hangs(database: str, away: str) -> None:
    began = monotonic()
    async with opened(database, away, "away", timeout_s=1.5) as (_, log):
        with pytest.raises(LogUnavailable):
            await log.check()
        for _ in range(2):
            with pytest.raises(LogUnavailable):
                await log.append(TOPIC, values(1))
        with pytest.raises(LogUnavailable):
            await log.end_offsets(TOPIC)
        with pytest.raises(LogUnavailable):
            async with log.consume(GROUP, TOPIC, from_zero):
                pass
    assert monotonic() - began < 15


async def test_postgres_that_is_away_is_said_in_time(place: Place) -> None:
    if place.kafka is not None:
        return
    async with place.open(timeout_s=1.5) as (_, log):
        await log.append(TOPIC, values(1))
        admin = await asyncpg.connect(place.database.rpartition("/")[0] + "/postgres")
        name = place.database.rpartition("/")[2]
        await admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        await admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", name)
        try:
            with pytest.raises(LogUnavailable):
                await log.append(TOPIC, values(1))
            with pytest.raises(LogUnavailable):
                await log.check()
        finally:
            await admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
            await admin.close()
        await until(lambda: _appends(log), "appends work again")


async def _appends(log: Log) -> bool:
    try:
        await log.append(TOPIC, [Outgoing(b"key", b"again")])
    except LogUnavailable:
        return False
    return True
