"""Where a log of a test lives, and what its tests read and compare."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from time import monotonic
from typing import Any
from uuid import uuid4

import asyncpg
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from aiokafka.structs import TopicPartition

from shared.log.postgres import PostgresLog
from shared.log.protocol import Consumer, Log, Outgoing, Record
from tests.log_process import opened

TOPIC = "contract.v1"
GROUP = "group"
PARTITIONS = 4
ROOT = Path(__file__).resolve().parents[3]


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
