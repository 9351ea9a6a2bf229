"""Figures of the log: appends (single and in batches) and reads, for the adapter that the settings choose.

`python -m bench.log --database URL [--kafka HOST:PORT]` prints records per second. The database must be migrated.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from time import perf_counter
from uuid import uuid4

import asyncpg
import uvloop

from shared.log.database import Connection
from shared.log.kafka import KafkaOptions
from shared.log.open import kafka_with_outbox
from shared.log.postgres import postgres_log
from shared.log.protocol import Log, Outgoing, Record
from shared.log.runner import Rejection, Runner

VALUE = b'{"specversion":"1.0","data":"' + b"x" * 700 + b'"}'


async def start_at_zero(topic: str, partition: int) -> int:
    """Every reader of a bench begins at the beginning."""
    return 0


def records(first: int, count: int) -> list[Outgoing]:
    """Return `count` records of about 730 bytes over 1,000 keys."""
    return [Outgoing(b"customer-%d" % (n % 1000), VALUE) for n in range(first, first + count)]


async def append_singly(log: Log, topic: str, tasks: int, each: int) -> float:
    """Return appends per second of `tasks` callers, each waiting for its own before the next."""

    async def caller(number: int) -> None:
        for n in range(each):
            await log.append(topic, records(number * each + n, 1))

    began = perf_counter()
    await asyncio.gather(*(caller(number) for number in range(tasks)))
    return tasks * each / (perf_counter() - began)


async def append_batches(log: Log, topic: str, tasks: int, each: int, size: int) -> float:
    """Return records per second of `tasks` callers that append `size` records at a time."""

    async def caller() -> None:
        batch = records(0, size)
        for _ in range(each):
            await log.append(topic, batch)

    began = perf_counter()
    await asyncio.gather(*(caller() for _ in range(tasks)))
    return tasks * each * size / (perf_counter() - began)


async def read_all(log: Log, topic: str) -> float:
    """Return records per second of one member that reads the topic from its beginning to its end."""
    left = sum((await log.end_offsets(topic)).values())
    count = 0
    async with log.consume(f"bench-{uuid4()}", topic, start_at_zero) as consumer:
        began = 0.0
        while count < left:
            batch = await consumer.fetch(2000, 1.0)
            began = began or perf_counter()
            count += sum(len(part) for part in batch.values())
    return count / (perf_counter() - began)


async def round_trip_ms(log: Log, topic: str, times: int) -> tuple[float, float]:
    """Return (p50, p99) in ms from calling append to holding the record in an idle reader."""
    ends = await log.end_offsets(topic)

    async def start_at_end(topic: str, partition: int) -> int:
        return ends[partition]

    taken = []
    async with log.consume(f"bench-{uuid4()}", topic, start_at_end) as consumer:
        while not consumer.assigned():
            await consumer.fetch(1, 0.1)
        for n in range(times):
            began = perf_counter()
            waiting = asyncio.create_task(consumer.fetch(10, 5.0))
            await log.append(topic, records(n, 1))
            await waiting
            taken.append((perf_counter() - began) * 1000)
            await asyncio.sleep(0.005)
    taken.sort()
    return taken[len(taken) // 2], taken[len(taken) * 99 // 100]


async def run_all(log: Log, pool: asyncpg.Pool, topic: str) -> float:
    """Return records per second through the runner with a handler that does nothing: the cost of the loop itself."""

    times: list[float] = []
    counts: list[int] = []
    end = asyncio.Event()
    left = sum((await log.end_offsets(topic)).values())

    async def nothing(connection: Connection, records: Sequence[Record]) -> Sequence[Rejection]:
        times.append(perf_counter())
        counts.append(len(records))
        if sum(counts) >= left:
            end.set()
        return ()

    runner = Runner(log, pool, f"bench-{uuid4()}", topic, nothing)
    task = asyncio.create_task(runner.run())
    await end.wait()
    runner.stop()
    await task
    return sum(counts[:-1]) / (times[-1] - times[0])


async def main() -> None:
    """Run every figure once and print it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--database", required=True)
    parser.add_argument("--kafka")
    given = parser.parse_args()
    async with AsyncExitStack() as stack:
        pool = await stack.enter_async_context(asyncpg.create_pool(given.database, min_size=4, max_size=16))
        log: Log = (
            await stack.enter_async_context(kafka_with_outbox(KafkaOptions(given.kafka), pool, topics=()))
            if given.kafka
            else await stack.enter_async_context(postgres_log(pool))
        )
        topic = f"bench-{uuid4().hex[:8]}"
        await log.append(topic, records(0, 100))
        print(f"append, 1 caller        {await append_singly(log, topic, 1, 300):>10,.0f} records/s")
        print(f"append, 64 callers      {await append_singly(log, topic, 64, 100):>10,.0f} records/s")
        print(f"append, 256 callers     {await append_singly(log, topic, 256, 50):>10,.0f} records/s")
        print(f"append, batches of 100  {await append_batches(log, topic, 8, 20, 100):>10,.0f} records/s")
        print(f"append, batches of 1000 {await append_batches(log, topic, 4, 10, 1000):>10,.0f} records/s")
        print(f"read, one member        {await read_all(log, topic):>10,.0f} records/s")
        print(f"runner, empty handler   {await run_all(log, pool, topic):>10,.0f} records/s")
        p50, p99 = await round_trip_ms(log, topic, 200)
        print(f"append to read, idle    p50 {p50:.2f} ms, p99 {p99:.2f} ms")


if __name__ == "__main__":
    uvloop.run(main())
