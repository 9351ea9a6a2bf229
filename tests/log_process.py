"""A process that appends to a log or is a member of a group: `python -m tests.log_process '<json>'`.

Tests start it to kill or freeze it. It says on stdout, one line each, what it has done.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import asyncpg

from shared.database.engine import open_pool
from shared.log.kafka import KafkaOptions
from shared.log.open import kafka_with_outbox
from shared.log.postgres import postgres_log
from shared.log.protocol import Log, Outgoing, Record
from shared.log.runner import Rejection, Runner, RunnerSettings
from shared.settings import Settings

KEPT = "CREATE TABLE IF NOT EXISTS kept (n bigserial, pid int, partition int, place bigint, value bytea)"
KEEP = "INSERT INTO kept (pid, partition, place, value) SELECT $1, * FROM unnest($2::int[], $3::bigint[], $4::bytea[])"


@asynccontextmanager
async def opened(
    database: str, kafka: str | None = None, prefix: str = "test", **options: Any
) -> AsyncIterator[tuple[asyncpg.Pool, Log]]:
    """Open a pool and a log as a process would: on Kafka where `kafka` is given. `options` as of the adapters."""
    options = {"partitions": 4, "timeout_s": 10.0, **options}
    topics = options.pop("relayed", ())  # only Kafka needs a relay
    async with open_pool(Settings(_env_file=None), database) as pool:
        if kafka is None:
            async with postgres_log(pool, prefix=prefix, **options) as log:
                yield pool, log
        else:
            settings = KafkaOptions(kafka, prefix, **options)
            async with kafka_with_outbox(settings, pool, topics=topics) as log:
                yield pool, log


def say(line: str) -> None:
    print(line, flush=True)


async def append(log: Log, topic: str, name: str, count: int) -> None:
    """Append `count` records of this process one by one, ten at once, numbered within ten keys."""

    async def sequence(key: int) -> None:
        for n in range(count // 10):
            await log.append(topic, [Outgoing(f"{name}-{key}".encode(), f"{name}-{key}:{n}".encode())])

    say("appending")
    await asyncio.gather(*(sequence(key) for key in range(10)))
    say("appended")


async def consume(pool: asyncpg.Pool, log: Log, group: str, topic: str, pid: int) -> None:
    """Be a member that keeps what it gets in table `kept`, until SIGTERM."""

    async def keep(connection: asyncpg.Connection, records: Sequence[Record]) -> Sequence[Rejection]:
        columns = zip(*((r.partition, r.offset, r.value) for r in records), strict=True)
        await connection.execute(KEEP, pid, *columns)
        return ()

    runner = Runner(log, pool, group, topic, keep, settings=RunnerSettings(batch_max_records=50, max_wait_s=0.2))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, runner.stop)
    say("consuming")
    await runner.run()


async def main(given: dict[str, Any]) -> None:
    async with opened(given["database"], given["kafka"], given["prefix"], partitions=given["partitions"]) as (
        pool,
        log,
    ):
        if given["do"] == "append":
            await append(log, given["topic"], given["name"], given["count"])
        else:
            await consume(pool, log, given["group"], given["topic"], given["pid"])


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
