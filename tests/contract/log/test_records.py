"""What is appended is read back, in order and without a gap (the promises are in shared/log/protocol.py)."""

from __future__ import annotations

import asyncio
import os
from datetime import UTC, datetime, timedelta
from time import monotonic

import asyncpg
import pytest

from shared.errors import LogUnavailable, RecordTooLarge
from shared.log.protocol import Consumer, Log, Outgoing, Position
from shared.log.stretch import stretch
from tests.contract.log.places import (
    GROUP,
    PARTITIONS,
    TOPIC,
    Place,
    assert_dense,
    assert_keys_in_order,
    flat,
    from_zero,
    heard,
    read,
    read_all,
    values,
)
from tests.kafka_broker import free_ports
from tests.log_process import opened
from tests.waiting import until

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
