"""Topics whose records each have a key of their own: nothing in the log tells, readers read, erasures end that."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import asyncpg
import pytest

from shared.entry_ids import entry_id_of, entry_secret
from shared.errors import DatabaseUnavailable, Rejected
from shared.events import InboundEvent
from shared.log import record_keys
from shared.log.postgres import PostgresLog, postgres_log
from shared.log.protocol import INBOUND, QUARANTINE, TIMELINE, Log, Outgoing, Record
from shared.log.quarantine import Rejection, quarantine
from shared.log.sealed import SealedLog
from shared.routing import routing_key
from shared.tombstones import Erasure, events_of, stub_of
from tests.processes import free_port
from tests.topics import records_of

SECRET = bytes(range(32))
AT = datetime(2026, 3, 1, 9, tzinfo=UTC)
DATA = {"customer": {"handles": [{"kind": "email", "value": "ann@zanzibar.example"}]}, "text": "zanzibar"}


def said(number: int) -> InboundEvent:
    return InboundEvent("acme", "/mail", f"<{number}@zanzibar.example>", "threadline.message.received", AT, AT, DATA)


def put(event: InboundEvent) -> Outgoing:
    return Outgoing(routing_key(event), event.encode(), (("traceparent", b"zanzibar"),))


def entry_of(event: InboundEvent) -> UUID:
    return entry_id_of(entry_secret(SECRET), event.tenant, event.source, event.id)


async def read(log: Log, topic: str = INBOUND) -> Sequence[Record]:
    return sorted(await records_of(log, topic), key=lambda record: record.value)


@asynccontextmanager
async def logs(pool: asyncpg.Pool) -> AsyncIterator[tuple[PostgresLog, SealedLog]]:
    """A log, and the same as one that cannot change what it holds and is sealed."""
    async with postgres_log(pool, retention=None) as inner:
        yield inner, SealedLog(inner, pool, SECRET, seals=True, lasting=True)


async def stored(pool: asyncpg.Pool) -> str:
    return repr([tuple(row) for row in await pool.fetch("SELECT key, value, headers FROM log.record")])


async def test_readers_read_what_the_log_tells_nobody_else(pool: asyncpg.Pool) -> None:
    events = [said(number) for number in range(3)]
    async with logs(pool) as (inner, log):
        await log.append(INBOUND, [put(event) for event in events])
        assert "zanzibar" not in await stored(pool)
        records = await read(log)
        assert [InboundEvent.decode(record.value) for record in records] == events
        assert {record.key for record in records} == {routing_key(events[0])}
        assert records[0].headers == (("traceparent", b"zanzibar"),)
        # One sender's events are in one partition, sealed or not.
        assert len({record.partition for record in records}) == 1
        plain = SealedLog(inner, pool, SECRET, seals=False, lasting=True)
        assert await read(plain) == records


async def test_a_destroyed_key_leaves_a_stub_and_what_comes_later_is_read(pool: asyncpg.Pool) -> None:
    gone, stays = said(1), said(2)
    async with logs(pool) as (_, log):
        await log.append(INBOUND, [put(gone), put(stays), put(gone)])
        async with pool.acquire() as connection, connection.transaction():
            assert len(await record_keys.destroy(connection, ["acme"], [entry_of(gone)])) == 2
            assert await record_keys.destroy(connection, ["acme"], [entry_of(gone)]) == []
        await log.append(INBOUND, [put(gone)])  # sent again, after the erasure
        stubs = [stub for record in await read(log) if (stub := stub_of(record.value)) is not None]
        assert [stub.entry_id for stub in stubs] == [entry_of(gone)] * 2
        read_again = [InboundEvent.decode(r.value) for r in await read(log) if stub_of(r.value) is None]
        assert read_again == [gone, stays]


async def test_a_key_that_the_database_never_had_is_no_erasure(pool: asyncpg.Pool) -> None:
    async with logs(pool) as (_, log):
        await log.append(INBOUND, [put(said(1))])
        await pool.execute("DELETE FROM privacy.record_key")  # restored from a backup of before
        (record,) = await read(log)
        assert stub_of(record.value) is None
        with pytest.raises(Rejected, match="its key is not in this database"):
            InboundEvent.decode(record.value)
        # Put back from the quarantine it is what it was.
        await log.append(INBOUND, [Outgoing(record.key, record.value)])
        assert [again.value for again in await read(log)] == [record.value] * 2


async def test_what_is_quarantined_is_sealed_and_found_by_its_place(pool: asyncpg.Pool) -> None:
    async with logs(pool) as (_, log):
        record = Record(INBOUND, 3, 7, b"acme\0email:ann@zanzibar.example", b"zanzibar", (), AT)
        async with pool.acquire() as connection, connection.transaction():
            await quarantine(connection, log, "conversation", INBOUND, [Rejection(record, "no zanzibar", "acme")])
        assert "zanzibar" not in await stored(pool)
        (told,) = await read(log, QUARANTINE)
        assert (told.key, told.value) == (record.key, b"zanzibar")
        assert dict(told.headers)["threadline-reason"] == b"no zanzibar"
        about = record_keys.about_quarantined("conversation", INBOUND, "3/7")
        async with pool.acquire() as connection, connection.transaction():
            assert await record_keys.destroy(connection, ["acme", record_keys.NOBODYS], [about]) == [about]


async def test_an_erasure_itself_is_not_sealed(pool: asyncpg.Pool) -> None:
    async with logs(pool) as (inner, log):
        (event,) = events_of("acme", Erasure(uuid4(), AT, AT, (uuid4(),), ()))
        # Whoever calls the data of a message so is sealed all the same.
        sly = InboundEvent("acme", "/x", "1", "threadline.message.received", AT, AT, {"type": event.type, **DATA})
        await log.append(INBOUND, [put(event), put(sly)])
        in_the_plain = [r for r in await read(inner) if record_keys.name_of(r.value) is None]
        assert [InboundEvent.decode(record.value) for record in in_the_plain] == [event]
        assert await pool.fetchval("SELECT count(*) FROM privacy.record_key") == 1


async def test_without_the_database_nothing_is_appended(pool: asyncpg.Pool) -> None:
    async with logs(pool) as (inner, log):
        async with pool.acquire() as connection:
            await connection.execute("ALTER TABLE privacy.record_key RENAME TO away")
            with pytest.raises(asyncpg.UndefinedTableError):
                await log.append(INBOUND, [put(said(1))])
            await connection.execute("ALTER TABLE privacy.away RENAME TO record_key")
        assert await read(log) == []
        async with asyncpg.create_pool(f"postgresql://127.0.0.1:{free_port()}/x", min_size=0) as nowhere:
            with pytest.raises(DatabaseUnavailable):
                await SealedLog(inner, nowhere, SECRET, seals=True, lasting=True).append(INBOUND, [put(said(1))])
        assert await read(log) == []


async def test_it_is_known_until_when_a_topic_was_told_in_the_plain(pool: asyncpg.Pool) -> None:
    now = datetime.now(UTC)
    async with logs(pool) as (inner, log):
        plain = SealedLog(inner, pool, SECRET, seals=False, lasting=True)
        async with pool.acquire() as connection, connection.transaction():
            for topic in (INBOUND, TIMELINE):
                assert await record_keys.was_sealed(connection, log.name(topic), now)
            await plain.emit(connection, TIMELINE, [Outgoing(b"k", b"zanzibar")])
        await log.append(INBOUND, [put(said(1))])
        await read(log)
        async with pool.acquire() as connection, connection.transaction():
            assert await record_keys.was_sealed(connection, log.name(INBOUND), now)
        await plain.append(INBOUND, [put(said(2))])
        await read(log)  # whoever reads it knows
        async with pool.acquire() as connection, connection.transaction():
            for topic in (INBOUND, TIMELINE):
                assert not await record_keys.was_sealed(connection, log.name(topic), now)
                assert await record_keys.was_sealed(connection, log.name(topic), now + timedelta(minutes=5))


async def test_keys_of_what_the_log_no_longer_has_are_forgotten(pool: asyncpg.Pool) -> None:
    async with logs(pool) as (_, log):
        await log.append(INBOUND, [put(said(1)), put(said(2))])
        await pool.execute("UPDATE privacy.record_key SET made_at = now() - interval '39 days' WHERE about = $1",
                           entry_of(said(1)))  # fmt: skip
        await record_keys.forget(pool, timedelta(days=30))
        assert await pool.fetchval("SELECT about FROM privacy.record_key") == entry_of(said(2))
