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
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import structlog
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import (
    NoError,
    TopicAlreadyExistsError,
    UnknownTopicOrPartitionError,
    for_code,
)

from shared.errors import LogUnavailable
from shared.log.database import Connection
from shared.log.kafka_clients import CLOSE_LIMIT_S, close_client, start_client
from shared.log.kafka_consumer import KafkaConsumer
from shared.log.kafka_errors import BROKEN_PRODUCER, quiet_client, translated
from shared.log.postgres import PostgresLog
from shared.log.protocol import Change, Outgoing, Position, StartingOffset
from shared.log.sizes import measure
from shared.log.waiting import end

SESSION_TIMEOUT_MS = 6000
HEARTBEAT_MS = 1000
POLL_LIMIT_MS = 600_000
"""A member that asks for nothing for so long leaves the group; a batch that waits for a database is no reason to."""
CHECK_LIMIT_S = 2.0
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
                await start_client(producer)
                self._producer = producer
        return self._producer

    def _dispose(self, attribute: str) -> None:
        """Forget a client that failed, so that the next call makes a new one, and close it behind our back."""
        client = getattr(self, attribute)
        setattr(self, attribute, None)
        if client is not None:
            task = asyncio.create_task(close_client(client))
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
                await start_client(admin)
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
                            await start_client(scout)
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
                await start_client(client)
        consumer = KafkaConsumer(self, client, topic, self._topic(topic), starting_offset)
        reporting = asyncio.create_task(consumer.report_for_ever())
        try:
            client.subscribe([self._topic(topic)], listener=consumer)
            yield consumer
        finally:
            await end(reporting)
            await close_client(client)

    async def close(self) -> None:
        """Close every connection; what is not acknowledged by then is not waited for."""
        for client in (self._producer, self._scout, self._admin):
            if client is not None:
                await close_client(client)
        if self._disposals:
            await asyncio.wait(self._disposals, timeout=CLOSE_LIMIT_S)


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
