"""What is emitted goes with its transaction."""

from __future__ import annotations

import asyncio
from uuid import uuid4

from shared.log.postgres import PostgresLog
from shared.log.protocol import Outgoing, Record
from tests.contract.log.places import TOPIC, Place, flat, from_zero, read, read_all


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
