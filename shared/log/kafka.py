"""The log on Kafka, by aiokafka: an idempotent producer that waits for all replicas, and Kafka's consumer groups.

Where a consumer begins is asked of `starting_offset` each time a partition is assigned, never of Kafka: offsets live
with the state. What Kafka keeps of the group's offsets is for lag tools only.

What can go wrong: no broker, no leader, no acknowledgement in time are LogUnavailable. A record that was not
acknowledged in time may still arrive: the producer goes on trying, so that its later records keep their order. While
the broker is known to be away an append is refused after one short question instead of a whole time-out.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from operator import attrgetter
from time import monotonic
from typing import Any

import structlog
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRebalanceListener, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import (
    IllegalStateError,
    NoError,
    NoOffsetForPartitionError,
    OffsetOutOfRangeError,
    TopicAlreadyExistsError,
    UnknownTopicOrPartitionError,
    for_code,
)

from shared.errors import LogTruncated, LogUnavailable, ThreadlineError
from shared.log.database import Connection
from shared.log.kafka_errors import BROKEN_PRODUCER, quiet_client, translated
from shared.log.postgres import PostgresLog
from shared.log.protocol import Change, Outgoing, Position, Record, StartingOffset
from shared.log.sizes import measure
from shared.log.waiting import end

SESSION_TIMEOUT_MS = 6000
HEARTBEAT_MS = 1000
POLL_LIMIT_MS = 600_000
"""A member that asks for nothing for so long leaves the group; a batch that waits for a database is no reason to."""
REPORT_PERIOD_S = 1.0
STALL_CHECK_S = 5.0
"""A member that got nothing for so long asks whether there is something to get: the client has been seen to stand still
after a broker came back."""
COORDINATOR_LIMIT_S = 30.0
"""A client that finds no coordinator for so long, while the broker answers others, is replaced."""
CHECK_LIMIT_S = 2.0
CLOSE_LIMIT_S = 3.0
ENVELOPE_BYTES = 100_000
"""What batch headers, headers and encoding may add to a record of the largest size."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class KafkaOptions:
    """How we use the brokers. Partitions, replication and retention are for topics not made yet."""

    bootstrap: str
    prefix: str = "threadline"
    partitions: int = 8
    replication: int = 1
    retention: timedelta = timedelta(days=30)
    max_record_bytes: int = 1_000_000
    timeout_s: float = 10.0

    @property
    def client(self) -> dict[str, Any]:
        """What every client of ours is given."""
        return {
            "bootstrap_servers": self.bootstrap,
            "request_timeout_ms": round(self.timeout_s * 1000),
            "retry_backoff_ms": 50,
        }


class KafkaLog:
    """Log over Kafka topics. Open it with `kafka_log`."""

    def __init__(self, options: KafkaOptions, outbox: PostgresLog) -> None:
        self._options = options
        self._outbox = outbox
        self._partitions: dict[str, int] = {}
        self._producer: AIOKafkaProducer | None = None
        self._admin: AIOKafkaAdminClient | None = None
        self._scout: AIOKafkaConsumer | None = None
        self._opening = asyncio.Lock()
        self._making = asyncio.Lock()
        self._checking: asyncio.Task[None] | None = None
        self._away = False
        self._disposals: set[asyncio.Task[None]] = set()
        self.relay_faults: Callable[[], Awaitable[Mapping[str, str]]] | None = None
        """Says what keeps the relay of the outbox from publishing; set by who runs one."""

    def name(self, topic: str) -> str:
        """Return the stored name of `topic`; it is not the PostgreSQL log's, whose offsets mean other records."""
        return f"kafka:{self._topic(topic)}"

    def _topic(self, topic: str) -> str:
        return f"{self._options.prefix}.{topic}"

    # Appending

    async def append(self, topic: str, records: Sequence[Outgoing]) -> Sequence[Position]:
        """See Log.append."""
        if not records:
            return []
        measure(records, self._options.max_record_bytes)
        checked = self._away
        if checked:
            await self._reached()
            self._away = False
        try:
            with translated():
                async with asyncio.timeout(self._options.timeout_s):
                    await self.partitions(topic)
                    return await self._send(await self._sender(), self._topic(topic), records)
        except LogUnavailable as error:
            # Where the broker answers others and this producer fails again, the producer is at fault.
            if checked or isinstance(error.__cause__, BROKEN_PRODUCER):
                log.warning("the Kafka producer is replaced", error=str(error))
                self._dispose("_producer")
            self._away = True
            raise

    async def _send(self, producer: AIOKafkaProducer, name: str, records: Sequence[Outgoing]) -> list[Position]:
        sent = [await producer.send(name, r.value, r.key, headers=list(r.headers)) for r in records]
        try:
            answers = [await each for each in sent]
        finally:
            for each in sent:
                each.add_done_callback(_retrieved)
        return [Position(answer.partition, answer.offset) for answer in answers]

    async def _sender(self) -> AIOKafkaProducer:
        if self._producer is not None:
            return self._producer
        async with self._opening:
            if self._producer is None:
                producer = AIOKafkaProducer(
                    **self._options.client,
                    acks="all",
                    enable_idempotence=True,
                    compression_type="lz4",
                    max_request_size=self._options.max_record_bytes + ENVELOPE_BYTES,
                    max_batch_size=256 * 1024,
                )
                await _started(producer)
                self._producer = producer
        return self._producer

    def _dispose(self, attribute: str) -> None:
        """Forget a client that failed, so that the next call makes a new one, and close it behind our back."""
        client = getattr(self, attribute)
        setattr(self, attribute, None)
        if client is not None:
            task = asyncio.create_task(_closed(client))
            self._disposals.add(task)
            task.add_done_callback(self._disposals.discard)

    async def emit(self, connection: Connection, topic: str, records: Sequence[Outgoing]) -> None:
        """See Log.emit: into the outbox, from which the relay publishes."""
        measure(records, self._options.max_record_bytes)
        await self._outbox.emit(connection, topic, records)

    async def rewrite(
        self,
        connection: Connection,
        topic: str,
        change: Change,
        *,
        keys: Collection[bytes] = (),
        ids: Collection[str] = (),
    ) -> int | None:
        """See Log.rewrite: only what is still in the outbox can be changed."""
        await self._outbox.rewrite(connection, topic, change, keys=keys, ids=ids)
        return None

    async def replace(self, connection: Connection, topic: str, values: Mapping[tuple[int, int], bytes]) -> None:
        """See Log.replace: nothing that a broker holds can be."""

    def wake(self, topic: str) -> None:
        """See Log.wake."""
        self._outbox.wake(topic)

    # Topics and offsets

    async def partitions(self, topic: str) -> int:
        """See Log.partitions. Makes the topic where it is missing."""
        if topic not in self._partitions:
            try:
                with translated():
                    async with asyncio.timeout(self._options.timeout_s), self._making:
                        if topic not in self._partitions:
                            self._partitions[topic] = await self._ensure(self._topic(topic))
            except LogUnavailable:
                self._dispose("_admin")
                raise
        return self._partitions[topic]

    async def _ensure(self, name: str) -> int:
        """Return the number of partitions of topic `name`, made if missing and waited for."""
        admin = await self._administrator()
        asked = False
        while True:
            (found,) = await admin.describe_topics([name])
            error = for_code(found["error_code"])
            if error is NoError and found["partitions"] and all(p["leader"] >= 0 for p in found["partitions"]):
                return len(found["partitions"])
            if error is UnknownTopicOrPartitionError and not asked:
                await self._create(admin, name)
                asked = True
            elif error not in (NoError, UnknownTopicOrPartitionError) and not error.retriable:
                raise error()
            await asyncio.sleep(0.05)

    async def _create(self, admin: AIOKafkaAdminClient, name: str) -> None:
        configs = {
            "cleanup.policy": "delete",
            "retention.ms": str(round(self._options.retention.total_seconds() * 1000)),
            "max.message.bytes": str(self._options.max_record_bytes + ENVELOPE_BYTES),
            "message.timestamp.type": "LogAppendTime",
        }
        topic = NewTopic(name, self._options.partitions, self._options.replication, topic_configs=configs)
        response: Any = await admin.create_topics([topic], timeout_ms=round(self._options.timeout_s * 1000))
        for _, code, *_ in response.topic_errors:
            error = for_code(code)
            if error not in (NoError, TopicAlreadyExistsError):
                raise error()
        log.info("topic made", topic=name, partitions=self._options.partitions)

    async def _administrator(self) -> AIOKafkaAdminClient:
        async with self._opening:
            if self._admin is None:
                admin = AIOKafkaAdminClient(**self._options.client)
                await _started(admin)
                self._admin = admin
        return self._admin

    async def begin_offsets(self, topic: str) -> Mapping[int, int]:
        """See Log.begin_offsets."""
        return await self._offsets(topic, "beginning_offsets")

    async def end_offsets(self, topic: str) -> Mapping[int, int]:
        """See Log.end_offsets."""
        return await self._offsets(topic, "end_offsets")

    async def _offsets(self, topic: str, method: str) -> Mapping[int, int]:
        try:
            with translated():
                async with asyncio.timeout(self._options.timeout_s):
                    places = [TopicPartition(self._topic(topic), p) for p in range(await self.partitions(topic))]
                    async with self._opening:
                        if self._scout is None:
                            scout = AIOKafkaConsumer(**self._options.client)
                            await _started(scout)
                            self._scout = scout
                    found = await getattr(self._scout, method)(places)
                    return {place.partition: offset for place, offset in found.items()}
        except LogUnavailable:
            self._dispose("_scout")
            raise

    async def check(self) -> None:
        """See Log.check. The relay of the outbox belongs to it."""
        await self._reached()
        if self.relay_faults is not None and (faults := await self.relay_faults()):
            raise LogUnavailable(f"what was emitted is not published: {'; '.join(faults.values())}")

    async def _reached(self) -> None:
        """Raise LogUnavailable where the broker does not answer. Of many who ask at once one asks it."""
        if self._checking is None or self._checking.done():
            self._checking = asyncio.create_task(self._check())
        await asyncio.shield(self._checking)

    async def _check(self) -> None:
        try:
            with translated():
                async with asyncio.timeout(CHECK_LIMIT_S):
                    await (await self._administrator()).describe_cluster()
        except LogUnavailable:
            self._dispose("_admin")
            raise

    # Groups

    @asynccontextmanager
    async def consume(self, group: str, topic: str, starting_offset: StartingOffset) -> AsyncIterator[KafkaConsumer]:
        """See Log.consume."""
        await self.partitions(topic)
        client = AIOKafkaConsumer(
            **self._options.client,
            group_id=f"{self._options.prefix}.{group}",
            enable_auto_commit=False,
            auto_offset_reset="none",
            session_timeout_ms=SESSION_TIMEOUT_MS,
            heartbeat_interval_ms=HEARTBEAT_MS,
            max_poll_interval_ms=POLL_LIMIT_MS,
            fetch_max_bytes=16_000_000,
            max_partition_fetch_bytes=max(1_048_576, self._options.max_record_bytes + ENVELOPE_BYTES),
        )
        with translated():
            async with asyncio.timeout(self._options.timeout_s):
                await _started(client)
        consumer = KafkaConsumer(self, client, topic, self._topic(topic), starting_offset)
        reporting = asyncio.create_task(consumer.report_for_ever())
        try:
            client.subscribe([self._topic(topic)], listener=consumer)
            yield consumer
        finally:
            await end(reporting)
            await _closed(client)

    async def close(self) -> None:
        """Close every connection; what is not acknowledged by then is not waited for."""
        for client in (self._producer, self._scout, self._admin):
            if client is not None:
                await _closed(client)
        if self._disposals:
            await asyncio.wait(self._disposals, timeout=CLOSE_LIMIT_S)


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
        self, owner: KafkaLog, client: AIOKafkaConsumer, topic: str, name: str, starting_offset: StartingOffset
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
                async with asyncio.timeout(CHECK_LIMIT_S):
                    await self._client.commit(places)
        except ThreadlineError as error:
            log.debug("offsets not reported", topic=self._name, error=str(error))


async def _started(client: Any) -> None:
    """Start `client`; where that fails or is cut short, close what it had opened."""
    try:
        await client.start()
    except BaseException:
        await _closed(client)
        raise


async def _closed(client: Any) -> None:
    """Close `client`, in an orderly way where that is soon done, else by force."""
    close = client.close if isinstance(client, AIOKafkaAdminClient) else client.stop
    try:
        with translated():
            async with asyncio.timeout(CLOSE_LIMIT_S):
                await close()
    except Exception as error:
        log.info("a Kafka client is closed by force", error=type(error).__name__)
        await _force_closed(client)


INNER_TASKS = (
    "_coordinator._coordination_task",
    "_coordinator._heartbeat_task",
    "_fetcher._fetch_task",
    "_sender._sender_task",
)
"""Where aiokafka 0.14 keeps the tasks that would try for ever; it has no public way to end them."""


async def _force_closed(client: Any) -> None:
    """End what an interrupted `stop` leaves running; an idempotent producer would try to send for ever."""
    found = (attrgetter(path)(client) for path in INNER_TASKS if _has(client, path))
    await end(*(task for task in found if task is not None))
    inner = getattr(client, "_client", None) or getattr(client, "client", None)
    if inner is not None:
        try:
            with translated():
                async with asyncio.timeout(CLOSE_LIMIT_S):
                    await inner.close()
        except Exception as error:
            log.info("a Kafka connection was left to the system", error=type(error).__name__)


def _has(client: Any, path: str) -> bool:
    try:
        attrgetter(path)(client)
    except AttributeError:
        return False
    return True


def _retrieved(future: asyncio.Future[Any]) -> None:
    """Look at a result nobody waits for any more, so that asyncio does not complain about it."""
    if not future.cancelled():
        future.exception()


@asynccontextmanager
async def kafka_log(options: KafkaOptions, outbox: PostgresLog) -> AsyncIterator[KafkaLog]:
    """Open the log; connections are made when they are first needed. `outbox` holds what is emitted until published."""
    quiet_client()
    kafka = KafkaLog(options, outbox)
    try:
        yield kafka
    finally:
        await kafka.close()
