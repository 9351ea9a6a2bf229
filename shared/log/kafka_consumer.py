"""A member of a Kafka group, and how it notices that its client stands still."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from time import monotonic
from typing import Any

import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import IllegalStateError, NoOffsetForPartitionError, OffsetOutOfRangeError

from shared.errors import LogTruncated, LogUnavailable, ThreadlineError
from shared.log.kafka_errors import translated
from shared.log.protocol import Log, Record, StartingOffset

REPORT_PERIOD_S = 1.0
STALL_CHECK_S = 5.0
"""A member that got nothing for so long asks whether there is something to get: the client has been seen to stand still
after a broker came back."""
COORDINATOR_LIMIT_S = 30.0
"""A client that finds no coordinator for so long, while the broker answers others, is replaced."""
REPORT_LIMIT_S = 2.0

log = structlog.get_logger(__name__)


class StandstillWatch:
    """Decides, without I/O, whether a client stands still. Times are of a monotonic clock, in seconds."""

    def __init__(self, now: float) -> None:
        self._moved_at = now
        self._coordinated_at = now
        self._checked_at = now
        self._behind: Mapping[int, int] = {}

    def due(self, now: float) -> bool:
        """Tell whether it is time to ask the broker where the topic ends."""
        return now - max(self._moved_at, self._checked_at) >= STALL_CHECK_S

    def seen(self, now: float, moved: bool, coordinated: bool) -> None:
        """Take note that records came, and that the coordinator is known."""
        if moved:
            self._moved_at = now
            self._behind = {}
        if coordinated:
            self._coordinated_at = now

    def judge(self, now: float, behind: Mapping[int, int]) -> str | None:
        """Return why the client has to be replaced, if so. `behind`: positions of partitions that hold more.

        One look is not enough, since records may have come this moment: the same position twice is a standstill.
        """
        before, self._behind, self._checked_at = self._behind, behind, now
        if still := {partition for partition, offset in behind.items() if before.get(partition) == offset}:
            return f"partitions {sorted(still)} hold records that do not come"
        if now - self._coordinated_at > COORDINATOR_LIMIT_S:
            return "no coordinator found while the broker answers"
        return None


class KafkaConsumer(ConsumerRebalanceListener):
    """One member of a Kafka group that takes its positions from `starting_offset`."""

    def __init__(
        self, owner: Log, client: AIOKafkaConsumer, topic: str, name: str, starting_offset: StartingOffset
    ) -> None:
        self._owner = owner
        self._client = client
        self._topic = topic
        self._name = name
        self._starting_offset = starting_offset
        self._mine: frozenset[int] = frozenset()
        self._unplaced: set[int] = set()
        self._positions: dict[int, int] = {}
        self._to_report: dict[int, int] = {}
        self._watch = StandstillWatch(monotonic())

    async def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None:
        """Called by the client before a rebalance: until it is over nothing is ours."""
        self._mine = frozenset()
        self._unplaced.clear()
        self._positions.clear()
        self._to_report.clear()

    async def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
        """Called by the client after a rebalance. Where to begin is asked in `fetch`, where a failure can be told."""
        self._mine = frozenset(place.partition for place in assigned)
        self._unplaced = set(self._mine)
        self._positions.clear()
        log.info("partitions assigned", topic=self._name, partitions=sorted(self._mine))

    def assigned(self) -> frozenset[int]:
        """See Consumer.assigned."""
        return self._mine

    async def rewind(self, partition: int) -> None:
        """See Consumer.rewind."""
        if partition in self._mine:
            self._unplaced.add(partition)

    async def fetch(self, max_records: int, max_wait_s: float) -> Mapping[int, Sequence[Record]]:
        """See Consumer.fetch."""
        deadline = monotonic() + max_wait_s
        while True:
            await self._place()
            # While nothing is placed yet it pays to look again soon.
            limit_s = max(0.0, deadline - monotonic())
            batch = await self._get(max_records, limit_s if self._positions else min(limit_s, 0.1))
            await self._look_after_client(bool(batch))
            if batch or monotonic() >= deadline:
                return batch

    async def _look_after_client(self, moved: bool) -> None:
        """Raise LogUnavailable where the client stands still though there is something to get."""
        now = monotonic()
        coordinator = getattr(getattr(self._client, "_coordinator", None), "coordinator_id", None)
        if moved or not self._watch.due(now):
            self._watch.seen(now, moved, coordinator is not None)
            return
        ends = await self._owner.end_offsets(self._topic)
        behind = {p: o for p, o in self._positions.items() if p in self._mine and o < ends[p]}
        self._watch.seen(now, moved, coordinator is not None)
        if reason := self._watch.judge(now, behind):
            log.warning("the Kafka client stands still and is replaced", topic=self._name, reason=reason)
            raise LogUnavailable(f"the Kafka client stood still ({reason})")

    async def _place(self) -> None:
        """Give each partition that has none its position."""
        for partition in sorted(self._unplaced):
            offset = await self._starting_offset(self._topic, partition)
            if partition not in self._unplaced:
                continue  # a rebalance took it meanwhile
            with suppress(IllegalStateError):  # one has begun, and the listener hears of it later
                self._client.seek(TopicPartition(self._name, partition), offset)
                self._positions[partition] = offset
                self._unplaced.discard(partition)

    async def _get(self, max_records: int, max_wait_s: float) -> Mapping[int, Sequence[Record]]:
        with translated():
            try:
                # During a rebalance the client waits for its end, however long that is; we do not.
                async with asyncio.timeout(max_wait_s + 0.5):
                    got = await self._client.getmany(timeout_ms=round(max_wait_s * 1000), max_records=max_records)
            except TimeoutError:
                return {}
            except NoOffsetForPartitionError:
                return {}  # the client looked for a position before we gave it one
            except OffsetOutOfRangeError as error:
                raise await self._truncated() from error
        batch: dict[int, Sequence[Record]] = {}
        for place, messages in got.items():
            expected = self._positions.get(place.partition)
            if expected is None or place.partition in self._unplaced:
                continue  # fetched from a position that was not ours to take
            records = [self._record(message) for message in messages if message.offset >= expected]
            if records:
                self._refuse_gap(place.partition, expected, records)
                self._positions[place.partition] = records[-1].offset + 1
                batch[place.partition] = records
        return batch

    def _refuse_gap(self, partition: int, expected: int, records: Sequence[Record]) -> None:
        """Our topics have a record at each offset. Raises LogTruncated where one does not (compacted, transactions)."""
        if records[0].offset != expected or records[-1].offset - expected != len(records) - 1:
            raise LogTruncated(f"{self._name} partition {partition} has offsets without a record from {expected} on")

    def _record(self, message: Any) -> Record:
        at = datetime.fromtimestamp(message.timestamp / 1000, UTC)
        headers = tuple((name, bytes(value)) for name, value in message.headers)
        return Record(
            self._topic, message.partition, message.offset, message.key or b"", message.value or b"", headers, at
        )

    async def _truncated(self) -> LogTruncated:
        begins, ends = await self._owner.begin_offsets(self._topic), await self._owner.end_offsets(self._topic)
        places = [
            f"partition {partition} holds offsets {begins[partition]} to {ends[partition]}, the group is at {position}"
            for partition, position in sorted(self._positions.items())
            if not begins[partition] <= position <= ends[partition]
        ]
        return LogTruncated(f"{self._name}: {'; '.join(places)}: records are gone that were never read")

    async def report(self, next_offsets: Mapping[int, int]) -> None:
        """See Consumer.report. Sent now and then, so that no batch waits for it."""
        self._to_report.update(next_offsets)

    async def report_for_ever(self) -> None:
        """Tell Kafka how far the group is, once a second and at the end."""
        try:
            while True:
                await asyncio.sleep(REPORT_PERIOD_S)
                await self._report()
        finally:
            await self._report()

    async def _report(self) -> None:
        offsets, self._to_report = self._to_report, {}
        places = {TopicPartition(self._name, p): o for p, o in offsets.items() if p in self._mine}
        if not places:
            return
        try:
            with translated():
                async with asyncio.timeout(REPORT_LIMIT_S):
                    await self._client.commit(places)
        except ThreadlineError as error:
            log.debug("offsets not reported", topic=self._name, error=str(error))
