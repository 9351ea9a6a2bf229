"""The log in PostgreSQL, for one machine: no broker, no set-up, the same promises (shared/log/protocol.py).

What is in here: appends in groups (appender.py), offsets dense and in commit order because the partition's row is
locked while its offset advances, wake-ups by an event inside the process and by one coalesced NOTIFY to others (never
inside an append's transaction: there it would serialise the commits), consumer groups over processes by heartbeats
whose truth is the member's own server session, and retention.

What can go wrong: a server away is LogUnavailable for whoever appends or reads, and everything goes on by itself
when it is back; a process killed loses its partitions to the others at their next beat, a frozen one after
`SESSION_TIMEOUT_S`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from time import monotonic
from uuid import UUID

import asyncpg
import structlog

from shared.errors import LogUnavailable
from shared.log import rewriting
from shared.log.appender import Appender, Group
from shared.log.database import Connection, in_log, passes
from shared.log.membership import assignment
from shared.log.postgres_consumer import SESSION_TIMEOUT_S, PostgresConsumer
from shared.log.protocol import Change, Outgoing, Position, StartingOffset
from shared.log.sizes import measure
from shared.log.waiting import being_cancelled, end, wait_at_most

CHANNEL = "threadline_log"
BEAT_S = 0.5
"""A member says that it lives, and looks who else does, this often."""
NOTIFY_GAP_S = 0.003
"""At least so long between two notifications, whatever the load."""
RETENTION_PERIOD_S = 60.0
RETENTION_CHUNK = 10_000

# Partitions of a topic, in order.
LAYOUT = "SELECT id FROM log.partition WHERE topic = $1 ORDER BY partition"

# Makes the partitions of a new topic; of two processes doing it at once the first wins.
CREATE_TOPIC = """
INSERT INTO log.partition (topic, partition) SELECT $1, generate_series(0, $2 - 1) ON CONFLICT DO NOTHING
"""

BOUNDS = "SELECT partition, first_offset, next_offset FROM log.partition WHERE topic = $1 ORDER BY partition"


# The server session that stands for this process: when it ends, the process is gone.
OWN_SESSION = "SELECT pid, backend_start FROM pg_stat_activity WHERE pid = pg_backend_pid()"

BEAT = "SELECT group_name, topic, member_id FROM log.beat($1, $2, $3, $4, $5, $6)"

LEAVE = "DELETE FROM log.member WHERE member_id = $1"

NOTIFY = "SELECT pg_notify($1, topic) FROM unnest($2::text[]) AS topic"

# Only one process retains at a time; the lock goes with the transaction.
RETENTION_LOCK = "SELECT pg_try_advisory_xact_lock(hashtextextended('threadline:log-retention', 0))"

# Per partition: where it begins and ends, and the first offset that a group with stored offsets has not done.
RETENTION_BOUNDS = """
SELECT p.id, p.partition, p.first_offset, p.next_offset,
       (SELECT min(o.next_offset) FROM log."offset" AS o
        WHERE o.topic = p.topic AND o.partition = p.partition) AS needed
FROM log.partition AS p WHERE p.topic = $1 ORDER BY p.id
"""

# The offset after the last old record in a range; time follows the order of offsets, so all before it are old too.
OLD_UNTIL = """
SELECT max("offset") + 1 FROM log.record
WHERE partition_id = $1 AND "offset" >= $2 AND "offset" < $3 AND appended_at < clock_timestamp() - $4::interval
"""

DELETE_UNTIL = 'DELETE FROM log.record WHERE partition_id = $1 AND "offset" < $2'

BEGIN_AT = "UPDATE log.partition SET first_offset = $2 WHERE id = $1 AND first_offset < $2"

log = structlog.get_logger(__name__)


class PostgresLog:
    """Log over the tables of schema `log`. Open it with `postgres_log`."""

    def __init__(
        self, pool: asyncpg.Pool, *, prefix: str, partitions: int, max_record_bytes: int, timeout_s: float
    ) -> None:
        self._pool = pool
        self._prefix = prefix
        self._new_partitions = partitions
        self._max_record_bytes = max_record_bytes
        self._timeout_s = timeout_s
        self._layouts: dict[str, Sequence[int]] = {}
        self._asked: dict[str, asyncio.Future[Sequence[int]]] = {}
        self._consumers: dict[UUID, PostgresConsumer] = {}
        self._dirty: set[str] = set()
        self._attention = asyncio.Event()
        self._beat_at = 0.0
        self._fault: str | None = None
        self.appender = Appender(pool, timeout_s, self._appended)

    def name(self, topic: str) -> str:
        """Return the stored name of `topic`."""
        return f"{self._prefix}.{topic}"

    # Appending

    async def append(self, topic: str, records: Sequence[Outgoing]) -> Sequence[Position]:
        """See Log.append."""
        if not records:
            return []
        size_bytes = measure(records, self._max_record_bytes)
        return await self.appender.append(topic, await self._layout(topic), records, size_bytes)

    async def emit(self, connection: Connection, topic: str, records: Sequence[Outgoing]) -> None:
        """See Log.emit: here the records are simply rows of the caller's transaction."""
        if not records:
            return
        measure(records, self._max_record_bytes)
        group = Group(await self._layout(topic))
        group.add(records)
        await group.store(connection)

    async def rewrite(
        self,
        connection: Connection,
        topic: str,
        change: Change,
        *,
        keys: Collection[bytes] = (),
        ids: Collection[str] = (),
    ) -> int | None:
        """See Log.rewrite."""
        return await rewriting.rewrite(connection, self.name(topic), await self._layout(topic), change, keys, ids)

    async def replace(self, connection: Connection, topic: str, values: Mapping[tuple[int, int], bytes]) -> None:
        """See Log.replace."""
        await rewriting.replace(connection, await self._layout(topic), values)

    def wake(self, topic: str) -> None:
        """See Log.wake."""
        self._appended(topic)

    async def _layout(self, topic: str) -> Sequence[int]:
        """Return the ids of the partitions of `topic`, made if there are none. Raises LogUnavailable.

        Asked on the log's own connection: who emits holds one of the pool and must not wait for another.
        """
        known = self._layouts.get(topic)
        if known is not None:
            return known
        if self._fault is not None:
            raise LogUnavailable(self._fault)
        answer = self._asked.setdefault(topic, asyncio.get_running_loop().create_future())
        self._attention.set()
        try:
            async with asyncio.timeout(self._timeout_s):
                return await asyncio.shield(answer)
        except TimeoutError as error:
            raise LogUnavailable("the log's database did not answer in time") from error

    async def _answer(self, connection: Connection) -> None:
        """Find or make the topics that somebody asks for; one that fails is asked for again after a reconnect."""
        for topic, answer in list(self._asked.items()):
            rows = await connection.fetch(LAYOUT, self.name(topic), timeout=self._timeout_s)
            if not rows:
                async with connection.transaction():
                    await connection.execute("SET LOCAL synchronous_commit = on")
                    await connection.execute(CREATE_TOPIC, self.name(topic), self._new_partitions)
                rows = await connection.fetch(LAYOUT, self.name(topic), timeout=self._timeout_s)
            self._layouts[topic] = [row["id"] for row in rows]
            del self._asked[topic]
            answer.set_result(self._layouts[topic])

    # Waking readers

    def _appended(self, topic: str) -> None:
        self._wake_readers(self.name(topic))
        self._dirty.add(self.name(topic))
        self._attention.set()

    def _wake_readers(self, name: str) -> None:
        for consumer in self._consumers.values():
            if consumer.name == name:
                consumer.wake()

    def _notified(self, connection: Connection, pid: int, channel: str, payload: object) -> None:
        if pid == connection.get_server_pid():
            return
        kind, _, name = str(payload).partition(":")
        if kind == "group":
            self._beat_at = 0.0
            self._attention.set()
        else:
            self._wake_readers(name)

    # Groups

    @asynccontextmanager
    async def consume(self, group: str, topic: str, starting_offset: StartingOffset) -> AsyncIterator[PostgresConsumer]:
        """See Log.consume."""
        layout = await self._layout(topic)
        consumer = PostgresConsumer(
            self._pool, group, topic, self.name(topic), layout, starting_offset, self._timeout_s
        )
        self._consumers[consumer.member] = consumer
        self._regroup(group)
        try:
            yield consumer
        finally:
            del self._consumers[consumer.member]
            await consumer.close()
            await self._leave(consumer)

    def _regroup(self, group: str) -> None:
        """Look at the members now, and let the other processes of the group do so."""
        self._beat_at = 0.0
        self._dirty.add(f"group:{group}")
        self._attention.set()

    async def _leave(self, consumer: PostgresConsumer) -> None:
        try:
            async with self._pool.acquire(timeout=2) as connection:
                await connection.execute(LEAVE, consumer.member, timeout=2)
        except Exception as error:
            if not passes(error):
                raise
            # The others see it at the end of our session, or after the session time-out.
            log.info("left a consumer group unannounced", group=consumer.group, error=type(error).__name__)
        self._regroup(consumer.group)

    async def run(self) -> None:
        """Beat and notify for ever on a connection of our own; takes a new one when it breaks."""
        pause_s = 0.1
        while not being_cancelled():
            try:
                async with self._pool.acquire(timeout=self._timeout_s) as connection:
                    await connection.execute("SET synchronous_commit = off")  # nothing here has to survive a crash
                    session = await connection.fetchrow(OWN_SESSION)
                    await connection.add_listener(CHANNEL, self._notified)
                    self._fault = None
                    pause_s = 0.1
                    try:
                        await self._attend(connection, session)
                    finally:
                        with suppress(Exception):  # the connection may be the very thing that broke
                            await connection.remove_listener(CHANNEL, self._notified)
                            await connection.execute("RESET synchronous_commit")
            except Exception as error:
                self._fault = str(in_log(error)) if passes(error) else f"a bug ({type(error).__name__})"
                log.warning("the log's own connection broke", error=type(error).__name__, retry_in_s=pause_s)
                if not being_cancelled():
                    await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, 2.0)

    async def _attend(self, connection: Connection, session: asyncpg.Record) -> None:
        self._beat_at = 0.0
        while True:
            await self._answer(connection)
            if self._dirty:
                names, self._dirty = self._dirty, set()
                payloads = [name if name.startswith("group:") else f"topic:{name}" for name in sorted(names)]
                await connection.execute(NOTIFY, CHANNEL, payloads, timeout=self._timeout_s)
            if monotonic() >= self._beat_at:
                self._beat_at = monotonic() + BEAT_S
                await self._beat(connection, session)
            await asyncio.sleep(NOTIFY_GAP_S)
            await wait_at_most(self._attention, self._beat_at - monotonic())
            self._attention.clear()

    async def _beat(self, connection: Connection, session: asyncpg.Record) -> None:
        """Say that our members live and give each its partitions."""
        consumers = list(self._consumers.values())
        if not consumers:
            return
        rows = await connection.fetch(
            BEAT,
            [consumer.member for consumer in consumers],
            [consumer.group for consumer in consumers],
            [consumer.name for consumer in consumers],
            session["pid"],
            session["backend_start"],
            timedelta(seconds=SESSION_TIMEOUT_S),
            timeout=self._timeout_s,
        )
        for consumer in consumers:
            members = [row["member_id"] for row in rows if (row["group_name"], row["topic"]) == consumer.place]
            consumer.assign(assignment(consumer.member, members, consumer.partitions))

    # Offsets

    async def partitions(self, topic: str) -> int:
        """See Log.partitions."""
        return len(await self._layout(topic))

    async def begin_offsets(self, topic: str) -> Mapping[int, int]:
        """See Log.begin_offsets."""
        return {row["partition"]: row["first_offset"] for row in await self._bounds(topic)}

    async def end_offsets(self, topic: str) -> Mapping[int, int]:
        """See Log.end_offsets."""
        return {row["partition"]: row["next_offset"] for row in await self._bounds(topic)}

    async def _bounds(self, topic: str) -> Sequence[asyncpg.Record]:
        await self._layout(topic)
        try:
            rows: Sequence[asyncpg.Record] = await self._pool.fetch(BOUNDS, self.name(topic), timeout=self._timeout_s)
            return rows
        except Exception as error:
            raise in_log(error) from error

    async def check(self) -> None:
        """See Log.check."""
        try:
            await self._pool.fetchval("SELECT 1 FROM log.partition LIMIT 1", timeout=min(2.0, self._timeout_s))
        except Exception as error:
            # Whatever it is, a caller of /readyz has to know that the log cannot be used.
            raise LogUnavailable(str(in_log(error))) from error
        if self._fault is not None:
            raise LogUnavailable(self._fault)

    # Retention

    async def retain(self, topic: str, older_than: timedelta, *, force: bool = False) -> int:
        """Delete records older than `older_than`; returns how many.

        What a group with stored offsets has not read stays, unless `force`. One process does it at a time; another
        returns 0 at once. Raises LogUnavailable.
        """
        try:
            rows = await self._pool.fetch(RETENTION_BOUNDS, self.name(topic))
            deleted = 0
            for row in rows:
                end = row["next_offset"] if force or row["needed"] is None else min(row["needed"], row["next_offset"])
                deleted += await self._retain(row["id"], row["first_offset"], end, older_than)
            return deleted
        except Exception as error:
            raise in_log(error) from error

    async def _retain(self, partition_id: int, begin: int, end: int, older_than: timedelta) -> int:
        """Delete the old of [begin, end) in chunks, each a short transaction, so that appends hardly wait."""
        deleted = 0
        while begin < end:
            async with self._pool.acquire() as connection, connection.transaction():
                if not await connection.fetchval(RETENTION_LOCK):
                    break
                stop = min(begin + RETENTION_CHUNK, end)
                until = await connection.fetchval(OLD_UNTIL, partition_id, begin, stop, older_than)
                if until is None:
                    break
                await connection.execute(DELETE_UNTIL, partition_id, until)
                await connection.execute(BEGIN_AT, partition_id, until)
            deleted += until - begin
            begin = until
            if until < stop:
                break
        return deleted

    async def retain_for_ever(self, older_than: timedelta) -> None:
        """Retain every topic that this process has used, now and then, for ever."""
        while True:
            await asyncio.sleep(RETENTION_PERIOD_S)
            for topic in list(self._layouts):
                try:
                    deleted = await self.retain(topic, older_than)
                except LogUnavailable as error:
                    log.warning("retention waits", topic=topic, error=str(error))
                    break
                if deleted:
                    log.info("old records deleted", topic=topic, records=deleted)


@asynccontextmanager
async def postgres_log(
    pool: asyncpg.Pool,
    *,
    prefix: str = "threadline",
    partitions: int = 8,
    max_record_bytes: int = 1_000_000,
    timeout_s: float = 10.0,
    retention: timedelta | None = timedelta(days=30),
) -> AsyncIterator[PostgresLog]:
    """Open the log over `pool`, of which it keeps one connection, one for each consumer, and one while appending.

    `partitions` is for topics not made yet. Without `retention` nothing is deleted. Needs migration 0002_log.
    """
    postgres = PostgresLog(
        pool, prefix=prefix, partitions=partitions, max_record_bytes=max_record_bytes, timeout_s=timeout_s
    )
    tasks = [asyncio.create_task(postgres.run()), asyncio.create_task(postgres.appender.run())]
    if retention is not None:
        tasks.append(asyncio.create_task(postgres.retain_for_ever(retention)))
    try:
        yield postgres
    finally:
        await end(*tasks)
