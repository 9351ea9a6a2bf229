"""Both logs through kill -9 and restart of what keeps them: nothing acknowledged is lost, and all goes on by itself."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from time import monotonic
from uuid import uuid4

import asyncpg
import pytest

from shared import directory
from shared.database import embedded
from shared.database.migrate import migrate
from shared.errors import LogUnavailable
from shared.log import kafka_consumer
from shared.log.offsets import lag
from shared.log.protocol import Log, Outgoing, Record
from shared.log.runner import Rejection, Runner, RunnerSettings
from tests.kafka_broker import Broker
from tests.log_process import KEPT, opened
from tests.waiting import until

TOPIC = "durable.v1"
KEEP = "INSERT INTO kept (partition, place, value) SELECT * FROM unnest($1::int[], $2::bigint[], $3::bytea[])"


Condition = Callable[[], Awaitable[object]]


@dataclass
class Perishable:
    """A log whose server can be killed."""

    database: str
    kafka: str | None
    kill_and_restart: Callable[[Condition], Awaitable[None]]
    """Kills the server, waits (where that is in our hands) for a condition, and sees it back."""


@asynccontextmanager
async def own_postgres() -> AsyncIterator[tuple[str, Callable[[Condition], Awaitable[None]]]]:
    """A server of this test alone, with the commits that a user gets; killed by its pid and started again."""
    folder = directory.temporary("threadline-durable-")
    try:
        with directory.hold(folder, "tests", lasting=True), embedded.running(folder) as server:
            await migrate(server.url)
            supervising = asyncio.create_task(server.supervise(0.05))

            async def kill_and_restart(noticed: Condition) -> None:
                os.kill(server.pid, signal.SIGKILL)
                await until(lambda: _answers(server.url), "the server to be back", 30)

            yield server.url, kill_and_restart
            supervising.cancel()
            await asyncio.gather(supervising, return_exceptions=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


async def _answers(url: str) -> bool:
    try:
        connection = await asyncpg.connect(url, timeout=2)
    except (OSError, asyncpg.PostgresError):
        return False
    await connection.close()
    return True


@pytest.fixture(params=["postgres", "kafka"])
async def perishable(request: pytest.FixtureRequest, database: str) -> AsyncIterator[Perishable]:
    if request.param == "postgres":
        async with own_postgres() as (url, kill_and_restart):
            yield Perishable(url, None, kill_and_restart)
        return
    running: Broker = request.getfixturevalue("kafka_broker")

    async def kill_and_restart(noticed: Condition) -> None:
        await asyncio.to_thread(running.kill)
        await until(noticed, "the consumer to notice", 60)
        await asyncio.to_thread(running.start)

    yield Perishable(database, running.bootstrap, kill_and_restart)


async def append_for_ever(log: Log, name: str, acknowledged: set[bytes], stop: asyncio.Event) -> None:
    """Append numbered records one by one, each until it is acknowledged, as a client that sends again."""
    n = 0
    while not stop.is_set():
        value = f"{name}:{n}".encode()
        try:
            await log.append(TOPIC, [Outgoing(name.encode(), value)])
        except LogUnavailable:
            await asyncio.sleep(0.05)
            continue
        acknowledged.add(value)
        n += 1


async def test_through_a_kill_of_the_server_nothing_acknowledged_is_lost_and_state_is_made_once(
    perishable: Perishable,
) -> None:
    async def keep(connection: asyncpg.Connection, records: Sequence[Record]) -> Sequence[Rejection]:
        await connection.execute(KEEP, *zip(*((r.partition, r.offset, r.value) for r in records), strict=True))
        return ()

    acknowledged: set[bytes] = set()
    stop = asyncio.Event()
    async with opened(perishable.database, perishable.kafka, f"durable-{uuid4().hex[:6]}") as (pool, log):
        await pool.execute(KEPT)
        runner = Runner(log, pool, "group", TOPIC, keep, settings=RunnerSettings(max_wait_s=0.2))
        running = asyncio.create_task(runner.run())
        clients = [asyncio.create_task(append_for_ever(log, f"client {n}", acknowledged, stop)) for n in range(20)]
        for _ in range(2):
            reached = len(acknowledged) + 500
            await until(lambda: len(acknowledged) >= reached, "appends", 60)  # noqa: B023
            began = monotonic()
            await perishable.kill_and_restart(runner.ready)
            reached = len(acknowledged) + 100
            await until(lambda: len(acknowledged) >= reached, "appends after the restart", 60)  # noqa: B023
            print(f"\nappends again {monotonic() - began:.2f} s after the kill")
        stop.set()
        await asyncio.gather(*clients)
        await until(lambda: _nothing_left(pool, log), "everything consumed", 60)
        runner.stop()
        await running
        rows = await pool.fetch("SELECT partition, place, value FROM kept ORDER BY n")
    assert acknowledged <= {row["value"] for row in rows}
    places = [(row["partition"], row["place"]) for row in rows]
    assert len(places) == len(set(places)), "a record was processed twice"
    for partition in {partition for partition, _ in places}:
        offsets = [place for p, place in places if p == partition]
        assert offsets == list(range(len(offsets))), "a partition was not processed in order and without gap"
    # What was appended twice because its acknowledgement was lost is known by its identity; that is the readers' task.
    print(
        f"{len(rows)} appended, {len(acknowledged)} acknowledged, {len(rows) - len(acknowledged)} twice or unanswered"
    )


async def _nothing_left(pool: asyncpg.Pool, log: Log) -> bool:
    return not any((await lag(pool, log, "group", TOPIC)).values())


async def test_what_was_emitted_before_a_kill_of_the_broker_is_published_after_it(
    database: str, kafka_broker: Broker
) -> None:
    async with opened(database, kafka_broker.bootstrap, "outbox", relayed=(TOPIC,), timeout_s=2.0) as (pool, log):
        await log.partitions(TOPIC)
        await asyncio.to_thread(kafka_broker.kill)
        for n in range(50):
            async with pool.acquire() as connection, connection.transaction():
                await log.emit(connection, TOPIC, [Outgoing(b"key", b"%d" % n)])
        log.wake(TOPIC)
        with pytest.raises(LogUnavailable):
            await log.check()
        await asyncio.to_thread(kafka_broker.start)
        got: list[bytes] = []

        async def from_zero(topic: str, partition: int) -> int:
            return 0

        async with log.consume("reader", TOPIC, from_zero) as consumer:
            deadline = monotonic() + 60
            while len(set(got)) < 50:
                assert monotonic() < deadline, f"{len(set(got))} of 50 were published"
                for records in (await consumer.fetch(100, 0.5)).values():
                    got += [record.value for record in records]
    first_seen = list(dict.fromkeys(got))
    assert first_seen == [b"%d" % n for n in range(50)]


async def test_two_relays_publish_in_order_and_share_the_work(database: str, kafka_broker: Broker) -> None:
    """While relays come and go, each key arrives in order; what is repeated is repeated after it was there."""
    async with opened(database, kafka_broker.bootstrap, "relays", relayed=()) as (pool, log):
        await log.partitions(TOPIC)

        async def emit_all() -> None:
            for n in range(100):
                async with pool.acquire() as connection, connection.transaction():
                    await log.emit(connection, TOPIC, [Outgoing(b"%d" % k, b"%d:%d" % (k, n)) for k in range(8)])
                log.wake(TOPIC)

        emitting = asyncio.create_task(emit_all())
        for published in (1, 100, 200):
            async with (
                opened(database, kafka_broker.bootstrap, "relays", relayed=(TOPIC,)),
                opened(database, kafka_broker.bootstrap, "relays", relayed=(TOPIC,)),
            ):
                await until(lambda: _published(log, published), "something published", 60)  # noqa: B023
        await emitting
        async with opened(database, kafka_broker.bootstrap, "relays", relayed=(TOPIC,)):
            await until(lambda: _published(log, 800), "all published", 60)
        got: dict[bytes, list[bytes]] = {}

        async def from_zero(topic: str, partition: int) -> int:
            return 0

        left = sum((await log.end_offsets(TOPIC)).values())
        async with log.consume("reader", TOPIC, from_zero) as consumer:
            while left > 0:
                for records in (await consumer.fetch(1000, 5.0)).values():
                    left -= len(records)
                    for record in records:
                        got.setdefault(record.key, []).append(record.value)
    for key, published in got.items():
        assert list(dict.fromkeys(published)) == [b"%s:%d" % (key, n) for n in range(100)]


async def _published(log: Log, count: int) -> bool:
    return sum((await log.end_offsets(TOPIC)).values()) >= count


async def test_a_kafka_client_that_stands_still_is_replaced(
    database: str, kafka_broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen under load after a broker's return: the client neither fetches nor says anything."""
    monkeypatch.setattr(kafka_consumer, "STALL_CHECK_S", 0.5)
    got: list[bytes] = []

    async def keep(connection: asyncpg.Connection, records: Sequence[Record]) -> Sequence[Rejection]:
        got.extend(record.value for record in records)
        return ()

    async with opened(database, kafka_broker.bootstrap, "still") as (pool, log):
        runner = Runner(log, pool, "group", TOPIC, keep, settings=RunnerSettings(max_wait_s=0.2))
        task = asyncio.create_task(runner.run())
        await log.append(TOPIC, [Outgoing(b"key", b"before")])
        await until(lambda: got == [b"before"], "the first record")
        consumer = runner._consumer
        assert isinstance(consumer, kafka_consumer.KafkaConsumer)
        consumer._client._fetcher._fetch_task.cancel()
        await log.append(TOPIC, [Outgoing(b"key", b"after")])
        await until(lambda: len(got) == 2, "what an unfinished request brought", 30)
        await log.append(TOPIC, [Outgoing(b"key", b"later")])
        await until(lambda: got == [b"before", b"after", b"later"], "the third record", 30)
        assert runner._consumer is not consumer
        runner.stop()
        await task
