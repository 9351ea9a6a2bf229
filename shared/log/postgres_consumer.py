"""A member of a group that reads the log in PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from time import monotonic
from uuid import uuid4

import asyncpg
import structlog

from shared.errors import LogTruncated
from shared.log.database import Connection, in_log
from shared.log.headers import decode_headers
from shared.log.membership import shares
from shared.log.protocol import Record, StartingOffset
from shared.log.waiting import wait_at_most

SESSION_TIMEOUT_S = 6.0
"""A member silent for so long is taken for frozen and loses its partitions."""
POLL_S = 0.5
"""A reader looks by itself this often, should a wake-up be lost."""
FETCH_MAX_BYTES = 16_000_000

BOUNDS_BY_ID = "SELECT id, first_offset, next_offset FROM log.partition WHERE id = ANY ($1)"

# Ranges of several partitions in one statement; of each at least one record, then as many as fit into $4 bytes.
READ = """
SELECT r.partition_id, r."offset", r.appended_at, r.key, r.value, r.headers
FROM unnest($1::integer[], $2::bigint[], $3::bigint[]) AS want(partition_id, low, high)
CROSS JOIN LATERAL (
    SELECT x.*, sum(octet_length(x.value)) OVER (ORDER BY x."offset") - octet_length(x.value) AS bytes_before
    FROM log.record AS x
    WHERE x.partition_id = want.partition_id AND x."offset" >= want.low AND x."offset" < want.high
) AS r
WHERE r.bytes_before < $4
ORDER BY r.partition_id, r."offset"
"""

log = structlog.get_logger(__name__)


class PostgresConsumer:
    """One member of a group: knows its partitions and how far it has fetched each."""

    def __init__(
        self,
        pool: asyncpg.Pool,
        group: str,
        topic: str,
        name: str,
        layout: Sequence[int],
        starting_offset: StartingOffset,
        timeout_s: float,
    ) -> None:
        self.member = uuid4()
        self.group = group
        self.topic = topic
        self.name = name
        self._pool = pool
        self._layout = layout
        self._partition_of_id = {partition_id: partition for partition, partition_id in enumerate(layout)}
        self._starting_offset = starting_offset
        self._timeout_s = timeout_s
        self._mine: frozenset[int] = frozenset()
        self._mine_until = 0.0
        self._positions: dict[int, int] = {}
        self._signal = asyncio.Event()
        self._connection: Connection | None = None

    @property
    def place(self) -> tuple[str, str]:
        """The group and the topic's stored name, as log.member has them."""
        return self.group, self.name

    @property
    def partitions(self) -> int:
        """How many partitions the topic has."""
        return len(self._layout)

    def wake(self) -> None:
        """Let a waiting fetch look at once."""
        self._signal.set()

    def assign(self, partitions: frozenset[int]) -> None:
        """Take what the last beat said; it holds until the others may take us for frozen."""
        self._mine_until = monotonic() + SESSION_TIMEOUT_S
        if partitions == self._mine:
            return
        log.info("partitions assigned", group=self.group, topic=self.topic, partitions=sorted(partitions))
        self._mine = partitions
        for partition in self._positions.keys() - partitions:
            del self._positions[partition]
        self._signal.set()

    def assigned(self) -> frozenset[int]:
        """See Consumer.assigned. After a freeze nothing is ours until the next beat."""
        return self._mine if monotonic() < self._mine_until else frozenset()

    async def rewind(self, partition: int) -> None:
        """See Consumer.rewind."""
        self._positions.pop(partition, None)

    async def report(self, next_offsets: Mapping[int, int]) -> None:
        """See Consumer.report: here the stored offsets are what tools read."""

    async def fetch(self, max_records: int, max_wait_s: float) -> Mapping[int, Sequence[Record]]:
        """See Consumer.fetch."""
        deadline = monotonic() + max_wait_s
        while True:
            self._signal.clear()
            records = await self._read(max_records)
            left_s = deadline - monotonic()
            if records or left_s <= 0:
                return records
            await wait_at_most(self._signal, min(left_s, POLL_S))

    async def _read(self, max_records: int) -> Mapping[int, Sequence[Record]]:
        mine = self.assigned()
        for partition in sorted(mine - self._positions.keys()):
            self._positions[partition] = await self._starting_offset(self.topic, partition)
        positions = {partition: self._positions[partition] for partition in mine if partition in self._positions}
        if not positions:
            return {}
        try:
            connection = await self._connected()
            wanted = await self._wanted(connection, positions, max_records)
            rows = await self._rows(connection, positions, wanted)
        except Exception as error:
            await self.close()
            raise in_log(error) from error
        return self._advance(positions, rows)

    async def _wanted(self, connection: Connection, positions: Mapping[int, int], max_records: int) -> dict[int, int]:
        """Decide how many records to read of each partition. Raises LogTruncated."""
        ids = [self._layout[partition] for partition in positions]
        bounds = await connection.fetch(BOUNDS_BY_ID, ids, timeout=self._timeout_s)
        available = {}
        for row in bounds:
            partition = self._partition_of_id[row["id"]]
            position = positions[partition]
            if not row["first_offset"] <= position <= row["next_offset"]:
                raise LogTruncated(
                    f"{self.name} partition {partition} holds offsets {row['first_offset']} to {row['next_offset']}, "
                    f"and group {self.group} is at {position}: records are gone that it never read"
                )
            available[partition] = row["next_offset"] - position
        return shares(available, max_records)

    async def _rows(
        self, connection: Connection, positions: Mapping[int, int], wanted: Mapping[int, int]
    ) -> Sequence[asyncpg.Record]:
        if not wanted:
            return []
        rows: Sequence[asyncpg.Record] = await connection.fetch(
            READ,
            [self._layout[partition] for partition in wanted],
            [positions[partition] for partition in wanted],
            [positions[partition] + count for partition, count in wanted.items()],
            FETCH_MAX_BYTES // len(wanted),
            timeout=self._timeout_s,
        )
        return rows

    def _advance(self, positions: Mapping[int, int], rows: Sequence[asyncpg.Record]) -> Mapping[int, Sequence[Record]]:
        """Turn rows into records and move the positions on; what was taken from us or rewound meanwhile is dropped."""
        batch: dict[int, list[Record]] = {}
        for partition_id, offset, appended_at, key, value, headers in rows:
            partition = self._partition_of_id[partition_id]
            records = batch.setdefault(partition, [])
            expected = positions[partition] + len(records)
            if offset != expected:
                raise LogTruncated(f"{self.name} partition {partition} lacks offset {expected}: it was deleted unread")
            records.append(Record(self.topic, partition, offset, key, value, decode_headers(headers), appended_at))
        for partition, records in list(batch.items()):
            if self._positions.get(partition) == positions[partition]:
                self._positions[partition] = records[-1].offset + 1
            else:
                del batch[partition]
        return batch

    async def _connected(self) -> Connection:
        if self._connection is None or self._connection.is_closed():
            await self.close()
            self._connection = await self._pool.acquire(timeout=self._timeout_s)
        return self._connection

    async def close(self) -> None:
        """Give the connection back."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await self._pool.release(connection)
