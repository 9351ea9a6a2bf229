"""Group commit: whatever is waiting to be appended goes into one transaction, and the next group gathers meanwhile.

There is no artificial delay: a single append commits at once, and while it does, those that come form the next group.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from zlib import crc32

import asyncpg
import structlog

from shared.errors import LogUnavailable
from shared.log.database import Connection, in_log, passes
from shared.log.headers import encode_headers
from shared.log.protocol import Outgoing, Position
from shared.log.waiting import being_cancelled

log = structlog.get_logger(__name__)

APPEND = "SELECT log.append($1, $2, $3, $4, $5, $6)"
"""One round trip for any number of records and partitions of one topic; see migration 0002_log."""

GROUP_MAX_RECORDS = 4000
GROUP_MAX_BYTES = 8_000_000


@dataclass(slots=True)
class Call:
    """One caller's append, waiting."""

    topic: str
    layout: Sequence[int]
    records: Sequence[Outgoing]
    size_bytes: int
    done: asyncio.Future[list[Position]]


def partition_of(key: bytes, partitions: int) -> int:
    """Return the partition of `key`: equal keys, equal partition, on every machine and version."""
    return crc32(key) % partitions


@dataclass(slots=True)
class Group:
    """Records sorted by partition as `log.append` wants them, able to tell each one its position afterwards."""

    layout: Sequence[int]
    buckets: dict[int, list[Outgoing]] = field(default_factory=dict)

    def add(self, records: Sequence[Outgoing]) -> list[tuple[int, int]]:
        """Take `records` in; returns (partition, rank within this group) of each."""
        places = []
        for record in records:
            partition = partition_of(record.key, len(self.layout))
            bucket = self.buckets.setdefault(partition, [])
            places.append((partition, len(bucket)))
            bucket.append(record)
        return places

    async def store(self, connection: Connection, timeout_s: float | None = None) -> dict[int, int]:
        """Append to the tables; returns per partition the offset of its first record. Driver errors pass through."""
        # Locked in the order of ids, so that two appenders never wait for each other in a circle.
        order = sorted(self.buckets, key=lambda partition: self.layout[partition])
        slots: list[int] = []
        records: list[Outgoing] = []
        for slot, partition in enumerate(order, start=1):
            bucket = self.buckets[partition]
            slots += [slot] * len(bucket)
            records += bucket
        firsts = await connection.fetchval(
            APPEND,
            [self.layout[partition] for partition in order],
            [len(self.buckets[partition]) for partition in order],
            slots,
            [record.key for record in records],
            [record.value for record in records],
            [encode_headers(record.headers) for record in records],
            timeout=timeout_s,
        )
        return dict(zip(order, firsts, strict=True))


class Appender:
    """The one loop of a process that commits appends, on a connection that it keeps while there is work."""

    def __init__(self, pool: asyncpg.Pool, timeout_s: float, appended: Callable[[str], None]) -> None:
        self._pool = pool
        self._timeout_s = timeout_s
        self._appended = appended
        self._waiting: deque[Call] = deque()
        self._work = asyncio.Event()
        self._closed = False

    async def append(
        self, topic: str, layout: Sequence[int], records: Sequence[Outgoing], size_bytes: int
    ) -> list[Position]:
        """Wait until `records` are durable; their positions. Raises LogUnavailable."""
        if self._closed:
            raise LogUnavailable("the log is closed")
        done: asyncio.Future[list[Position]] = asyncio.get_running_loop().create_future()
        self._waiting.append(Call(topic, layout, records, size_bytes, done))
        self._work.set()
        return await done

    async def run(self) -> None:
        """Commit groups for ever; on cancellation, refuse what is left."""
        try:
            while not being_cancelled():
                await self._work.wait()
                await self._serve()
        finally:
            self._closed = True
            self._refuse(list(self._waiting), LogUnavailable("the log was closed"))
            self._waiting.clear()

    async def _serve(self) -> None:
        """Commit groups on one connection until nothing waits or the connection fails twice."""
        calls: list[Call] = []
        try:
            async with self._pool.acquire(timeout=self._timeout_s) as connection:
                while calls := self._take():
                    await self._commit(connection, calls)
                self._work.clear()
        except Exception as error:
            # Nobody waits for a database that is away: everyone hears it now and may come again.
            calls += self._waiting
            self._waiting.clear()
            self._work.clear()
            self._refuse(calls, in_log(error))
            if not passes(error):
                log.error("appending failed on a bug", error=type(error).__name__)
        except BaseException:
            self._refuse(calls, LogUnavailable("the log was closed"))
            raise

    def _take(self) -> list[Call]:
        """Remove the next group from the queue: calls of one topic, in order, bounded in records and bytes."""
        calls: list[Call] = []
        records = size_bytes = 0
        while self._waiting:
            call = self._waiting[0]
            if calls and (
                call.topic != calls[0].topic
                or records + len(call.records) > GROUP_MAX_RECORDS
                or size_bytes + call.size_bytes > GROUP_MAX_BYTES
            ):
                break
            records += len(call.records)
            size_bytes += call.size_bytes
            calls.append(self._waiting.popleft())
        return calls

    async def _commit(self, connection: Connection, calls: list[Call]) -> None:
        group = Group(calls[0].layout)
        places = [group.add(call.records) for call in calls]
        firsts = await group.store(connection, self._timeout_s)
        for call, where in zip(calls, places, strict=True):
            if not call.done.done():
                call.done.set_result([Position(p, firsts[p] + rank) for p, rank in where])
        self._appended(calls[0].topic)

    @staticmethod
    def _refuse(calls: Sequence[Call], error: Exception) -> None:
        for call in calls:
            if not call.done.done():
                call.done.set_exception(error)
