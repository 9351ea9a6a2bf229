"""The log: partitioned, append-only, read by consumer groups. Two adapters: Kafka and PostgreSQL.

Promises every adapter keeps (tests/contract/log holds both to them):

- `append` returns only when every record is durable; after an error none, some or all may be in the log, and
  appending again is safe for readers that know the identity of what they read.
- Records of one partition are read in the order of their offsets, without gap, also under concurrent appenders.
- A consumer reads from the offset that `starting_offset` names. Offsets live with the reader's state, not here.
- At any instant a partition may for a short while have two readers (a zombie after a rebalance): whoever commits
  state compares the stored offset first (shared/log/runner.py).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from shared.log.database import Connection

INBOUND = "inbound.v1"
TIMELINE = "timeline.v1"
QUARANTINE = "quarantine.v1"
"""Topic names without the prefix (`THREADLINE_TOPIC_PREFIX`, default `threadline`), which the adapter puts before."""


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One record to append. Records with equal `key` go to one partition and keep their order."""

    key: bytes
    value: bytes
    headers: tuple[tuple[str, bytes], ...] = ()


@dataclass(frozen=True, slots=True)
class Record:
    """One record as read. `appended_at` is the log's own time (aware UTC)."""

    topic: str
    partition: int
    offset: int
    key: bytes
    value: bytes
    headers: tuple[tuple[str, bytes], ...]
    appended_at: datetime


@dataclass(frozen=True, slots=True)
class Position:
    """Where a record was put."""

    partition: int
    offset: int


StartingOffset = Callable[[str, int], Awaitable[int]]
"""(topic, partition) → first offset not yet done, asked for each time a partition is assigned."""


Change = Callable[[Record], tuple[bytes, bytes] | None]
"""A record → its new key and value, None where it stays as it is."""


class Consumer(Protocol):
    """One member of a consumer group."""

    async def fetch(self, max_records: int, max_wait_s: float) -> Mapping[int, Sequence[Record]]:
        """Return the next records of the assigned partitions, at most `max_records` over all of them.

        Waits at most `max_wait_s` for the first one; empty when none came. Each call continues where the one before
        ended. Raises LogUnavailable, LogTruncated.
        """

    def assigned(self) -> frozenset[int]:
        """Return the partitions that this member believes to own."""

    async def rewind(self, partition: int) -> None:
        """Forget what was fetched of `partition` and ask `starting_offset` again before the next fetch."""

    async def report(self, next_offsets: Mapping[int, int]) -> None:
        """Tell the log how far the group is, for lag tools only. Never raises."""


class Log(Protocol):
    """A partitioned log with durable appends and consumer groups."""

    async def append(self, topic: str, records: Sequence[Outgoing]) -> Sequence[Position]:
        """Append `records` durably, in order per key. Raises LogUnavailable, RecordTooLarge (then none is appended)."""

    async def emit(self, connection: Connection, topic: str, records: Sequence[Outgoing]) -> None:
        """Append `records` as part of the caller's database transaction: readers get them if and only if it commits.

        In order per key. They are read at least once: on Kafka a relay publishes them after the commit and may repeat
        some after a crash (shared/log/outbox.py). Call it last and once a topic in a transaction, because partitions
        stay locked until its end; after the commit call `wake`. Raises RecordTooLarge.
        """

    async def rewrite(
        self,
        connection: Connection,
        topic: str,
        change: Change,
        *,
        keys: Collection[bytes] = (),
        ids: Collection[str] = (),
    ) -> int | None:
        """Rewrite records that are there already, as part of the caller's database transaction: for erasure alone.

        Every record with one of `keys`, or whose CloudEvents id begins with one of `ids` (uuids), is given to
        `change`, which returns its new key and value, or None to leave it. Offsets stay. Returns how many were
        rewritten; None where the log cannot change what it holds (Kafka), and they vanish by retention. Raises
        LogUnavailable.
        """

    async def replace(self, connection: Connection, topic: str, values: Mapping[tuple[int, int], bytes]) -> None:
        """Put other values, and no key, in the place of the records at (partition, offset), where the log can."""

    def wake(self, topic: str) -> None:
        """Let readers of `topic` look at once for what was emitted, after the commit; they look by themselves soon."""

    def name(self, topic: str) -> str:
        """Return the name under which offsets of `topic` are stored; it differs between logs and prefixes."""

    async def partitions(self, topic: str) -> int:
        """Return the number of partitions of `topic`."""

    async def end_offsets(self, topic: str) -> Mapping[int, int]:
        """Return, per partition, the offset after the last record: what a consumer must reach to have read all."""

    async def begin_offsets(self, topic: str) -> Mapping[int, int]:
        """Return, per partition, the first offset still held."""

    def consume(self, group: str, topic: str, starting_offset: StartingOffset) -> AbstractAsyncContextManager[Consumer]:
        """Join `group` as one member for `topic`; leaving the context leaves the group."""

    async def check(self) -> None:
        """Raise LogUnavailable if the log cannot take or give records now (for /readyz)."""
