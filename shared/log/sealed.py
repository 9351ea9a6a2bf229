"""A log that is sealed: what a record says of a person opens only with a key that an erasure destroys.

Then every record under it is unreadable at once, also where the log cannot change what it holds (Kafka). Keys stand in
the database, each sealed under the installation's. Readers that come through here read as if nothing were sealed; a
record whose key was destroyed reads as one of something that is there no longer.

The timeline topic has a key for each leaf, and for each word of an agent on who is one person. Whose the records of the
other topics are is not known when they are written, so each has its own (record_keys.py); they are sealed on Kafka
only, since an erasure rewrites PostgreSQL's.

Source: docs/decisions/0014-sealed-topic.md, docs/decisions/0018-sealed-records.md
"""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from hashlib import sha256
from secrets import token_bytes
from typing import NamedTuple
from uuid import UUID

import asyncpg
import orjson
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from shared.database.engine import translated
from shared.entry_ids import entry_id_of, entry_secret
from shared.errors import Rejected
from shared.events import DECISIONS, TYPE_PREFIX, InboundEvent, TimelineRecord
from shared.log.database import Connection, in_log
from shared.log.protocol import (
    INBOUND,
    QUARANTINE,
    TIMELINE,
    Change,
    Consumer,
    Log,
    Outgoing,
    Position,
    Record,
    StartingOffset,
)
from shared.log.record_keys import (
    NOBODYS,
    PLAIN,
    PLAIN_EVERY,
    Place,
    RecordKeys,
    about_quarantined,
    name_of,
)
from shared.sealing import Sealer
from shared.tombstones import is_erasure, stub_of

PERSONAL = ("entry", "leaf")
"""Kinds of timeline records that tell of a person; a conversation's are ids alone."""

_MARK = b'"sealed":"'

ADD_KEYS = """
INSERT INTO privacy.log_key (tenant_id, leaf_id, sealed)
SELECT * FROM unnest($1::text[], $2::uuid[], $3::bytea[]) ON CONFLICT DO NOTHING
"""

KEYS = """
SELECT k.tenant_id, k.leaf_id, k.sealed FROM privacy.log_key k
JOIN unnest($1::text[], $2::uuid[]) AS w (tenant_id, leaf_id) USING (tenant_id, leaf_id)
"""


class Leaf(NamedTuple):
    """Whose key seals a record."""

    tenant: str
    leaf_id: UUID


def leaf_of(line: TimelineRecord) -> Leaf | None:
    """Return whose key seals what a record says; None where it says nothing of a person."""
    if line.kind not in PERSONAL or line.deleted or line.body.get("erased"):
        return None
    if line.kind == "entry" and str(line.body.get("type")).removeprefix(TYPE_PREFIX) in DECISIONS:
        return Leaf(line.tenant, decision_key(UUID(line.key), line.version))
    return Leaf(line.tenant, UUID(line.key if line.kind == "leaf" else line.body["leaf_id"]))


def decision_key(entry_id: UUID, version: int) -> UUID:
    """Return what takes a leaf's place in naming the key of an agent's word on who is one person, in one version.

    It names handles of several people. Under the key of one of them it would tell of another who was erased; and of
    what is told again without the latter, the key is not to open what was told before.
    """
    return UUID(bytes=sha256(b"decision\0" + entry_id.bytes + str(version).encode()).digest()[:16])


def sealed(line: TimelineRecord, leaf: Leaf, key: bytes) -> TimelineRecord:
    """Return a record that says the same to whoever has the key."""
    nonce = token_bytes(12)
    secret = nonce + AESGCM(key).encrypt(nonce, orjson.dumps(line.body), _bound_to(line))
    return replace(line, body={"leaf_id": str(leaf.leaf_id), "sealed": base64.b64encode(secret).decode()})


def opened_line(line: TimelineRecord, key: bytes | None) -> TimelineRecord:
    """Return what a sealed record says; without the key that there is no longer such a thing."""
    if key is None:
        return replace(line, deleted=True, body={"leaf_id": line.body["leaf_id"]})
    secret = base64.b64decode(line.body["sealed"])
    body = orjson.loads(AESGCM(key).decrypt(secret[:12], secret[12:], _bound_to(line)))
    return replace(line, body=body)


def _bound_to(line: TimelineRecord) -> bytes:
    return f"{line.tenant}|{line.kind}|{line.key}|{line.version}".encode()


class Keys:
    """The keys of leaves, in the database."""

    def __init__(self, secret_key: bytes) -> None:
        self._sealer = Sealer(secret_key, "log keys")

    async def made(self, connection: Connection, leaves: Collection[Leaf]) -> dict[Leaf, bytes]:
        """Return the keys of all these leaves, new ones where there were none."""
        found = await self.known(connection, leaves)
        if missing := sorted(set(leaves) - found.keys()):
            fresh = [self._sealer.seal(token_bytes(32), _owner(leaf)) for leaf in missing]
            await connection.execute(ADD_KEYS, [leaf.tenant for leaf in missing], [leaf[1] for leaf in missing], fresh)
            found |= await self.known(connection, missing)  # another process may have been first
        return found

    async def known(self, connection: Connection | asyncpg.Pool, leaves: Iterable[Leaf]) -> dict[Leaf, bytes]:
        """Return those of the keys that there are."""
        wanted = list(set(leaves))
        rows = await connection.fetch(KEYS, [leaf.tenant for leaf in wanted], [leaf.leaf_id for leaf in wanted])
        return {(leaf := Leaf(row[0], row[1])): self._sealer.open(row[2], _owner(leaf)) for row in rows}


def _owner(leaf: Leaf) -> str:
    return f"{leaf.tenant}/{leaf.leaf_id}"


def _about_event(record: Outgoing, secret: bytes) -> tuple[str, UUID] | None:
    try:
        event = InboundEvent.decode(record.value)
    except Rejected:
        return None  # sealed already, put back from the quarantine; or nothing of ours
    return None if is_erasure(event) else (event.tenant, entry_id_of(secret, event.tenant, event.source, event.id))


def _about_quarantined(record: Outgoing, _: bytes) -> tuple[str, UUID]:
    told = {name: value.decode() for name, value in record.headers if name.startswith("threadline-")}
    place = (told["threadline-group"], told["threadline-topic"], told["threadline-position"])
    return told.get("threadline-tenant", NOBODYS), about_quarantined(*place)


ABOUT: Mapping[str, Callable[[Outgoing, bytes], tuple[str, UUID] | None]] = {
    INBOUND: _about_event,
    QUARANTINE: _about_quarantined,
}
"""Topic → tenant of a record and what it is about; None where it says nothing of anybody."""


def told_in_the_plain(records: Sequence[Record]) -> datetime | None:
    """Return when the latest of some records of the inbound topic that tell something to everybody was appended."""
    for record in sorted(records, key=lambda record: record.appended_at, reverse=True):
        if name_of(record.value) is None and stub_of(record.value) is None:
            try:
                if is_erasure(InboundEvent.decode(record.value)):
                    continue
            except Rejected:
                pass
            return record.appended_at
    return None


class PlainTopics:
    """Notes until when topics were told things in the plain: an erasure has to say whether that may be read still."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool
        self._noted: dict[str, datetime] = {}

    async def note(self, name: str, at: datetime) -> None:
        """Note to the minute when a topic was told something in the plain. Raises DatabaseUnavailable."""
        if name not in self._noted or at >= self._noted[name] + PLAIN_EVERY:
            with translated():
                await self._pool.execute(PLAIN, name, at)
            self._noted[name] = at


class SealedLog:
    """`inner`, sealed. What was sealed is opened also while nothing new is (`seals`).

    `lasting`: the log cannot change what it holds, so that every topic is sealed, not the timeline alone.
    """

    def __init__(
        self, inner: Log, pool: asyncpg.Pool, secret_key: bytes, *, seals: bool, lasting: bool = False
    ) -> None:
        self._inner, self._pool = inner, pool
        self._seals, self._lasting = seals, lasting
        self._keys = Keys(secret_key)
        self._record_keys = RecordKeys(pool, secret_key)
        self._entry_secret = entry_secret(secret_key)
        self._plain = PlainTopics(pool)

    async def append(self, topic: str, records: Sequence[Outgoing]) -> Sequence[Position]:
        """See Log.append. Where records are sealed raises DatabaseUnavailable, too: then nothing is appended."""
        return await self._inner.append(topic, await self._each_sealed(topic, records))

    async def emit(self, connection: Connection, topic: str, records: Sequence[Outgoing]) -> None:
        """See Log.emit."""
        if topic == TIMELINE and self._seals:
            records = await self._sealed(connection, records)
        records = await self._each_sealed(topic, records, connection)
        if self._lasting and not self._seals and records:
            await self._plain.note(self._inner.name(topic), datetime.now(UTC))
        await self._inner.emit(connection, topic, records)

    async def _sealed(self, connection: Connection, records: Sequence[Outgoing]) -> list[Outgoing]:
        lines = [TimelineRecord.decode(record.value) for record in records]
        leaves = [leaf_of(line) for line in lines]
        keys = await self._keys.made(connection, {leaf for leaf in leaves if leaf is not None})
        return [
            record if leaf is None else replace(record, value=sealed(line, leaf, keys[leaf]).encode())
            for record, line, leaf in zip(records, lines, leaves, strict=True)
        ]

    async def _each_sealed(
        self, topic: str, records: Sequence[Outgoing], connection: Connection | None = None
    ) -> Sequence[Outgoing]:
        """Return records, each sealed under a key of its own where the topic asks for that."""
        if not self._seals or not self._lasting or topic not in ABOUT:
            return records
        about = [ABOUT[topic](record, self._entry_secret) for record in records]
        wanted = [(record, *named) for record, named in zip(records, about, strict=True) if named is not None]
        made = iter(await self._record_keys.sealed(wanted, connection))
        return [record if named is None else next(made) for record, named in zip(records, about, strict=True)]

    def consume(self, group: str, topic: str, starting_offset: StartingOffset) -> AbstractAsyncContextManager[Consumer]:
        """See Log.consume."""
        return self._opening(self._inner.consume(group, topic, starting_offset), topic)

    @asynccontextmanager
    async def _opening(self, joined: AbstractAsyncContextManager[Consumer], topic: str) -> AsyncIterator[Consumer]:
        async with joined as consumer:
            plain = self._plain if self._lasting and topic == INBOUND else None
            yield OpeningConsumer(consumer, self._pool, self._keys, self._record_keys, plain, self._inner.name(topic))

    async def rewrite(
        self,
        connection: Connection,
        topic: str,
        change: Change,
        *,
        keys: Collection[bytes] = (),
        ids: Collection[str] = (),
    ) -> int | None:
        """See Log.rewrite. Records with keys of their own stay as they are: the erasure destroys those."""

        def of_readable(record: Record) -> tuple[bytes, bytes] | None:
            return None if name_of(record.value) is not None else change(record)

        return await self._inner.rewrite(connection, topic, of_readable, keys=keys, ids=ids)

    # Everything else is the log's own.

    async def replace(self, connection: Connection, topic: str, values: Mapping[tuple[int, int], bytes]) -> None:
        """See Log.replace."""
        await self._inner.replace(connection, topic, values)

    def wake(self, topic: str) -> None:
        """See Log.wake."""
        self._inner.wake(topic)

    def name(self, topic: str) -> str:
        """See Log.name."""
        return self._inner.name(topic)

    async def partitions(self, topic: str) -> int:
        """See Log.partitions."""
        return await self._inner.partitions(topic)

    async def end_offsets(self, topic: str) -> Mapping[int, int]:
        """See Log.end_offsets."""
        return await self._inner.end_offsets(topic)

    async def begin_offsets(self, topic: str) -> Mapping[int, int]:
        """See Log.begin_offsets."""
        return await self._inner.begin_offsets(topic)

    async def check(self) -> None:
        """See Log.check."""
        await self._inner.check()


class OpeningConsumer:
    """A consumer of a topic that may be sealed. `plain` hears what is not, under the topic's stored `name`."""

    def __init__(
        self,
        inner: Consumer,
        pool: asyncpg.Pool,
        keys: Keys,
        record_keys: RecordKeys,
        plain: PlainTopics | None,
        name: str,
    ) -> None:
        self._inner, self._pool, self._keys, self._record_keys = inner, pool, keys, record_keys
        self._plain, self._name = plain, name

    async def fetch(self, max_records: int, max_wait_s: float) -> Mapping[int, Sequence[Record]]:
        """See Consumer.fetch."""
        fetched = await self._inner.fetch(max_records, max_wait_s)
        try:
            if self._plain is not None:
                told_at = told_in_the_plain([record for records in fetched.values() for record in records])
                if told_at is not None:
                    await self._plain.note(self._name, told_at)
            return await self._opened(fetched)
        except Exception as error:
            # The keys could not be had: the same records come again.
            for partition in fetched:
                await self._inner.rewind(partition)
            raise in_log(error) from error

    async def _opened(self, fetched: Mapping[int, Sequence[Record]]) -> Mapping[int, Sequence[Record]]:
        flat = [record for records in fetched.values() for record in records]
        opened = await self._record_keys.opened(self._pool, flat)
        lines: dict[Place, tuple[TimelineRecord, Leaf]] = {}
        for record in flat:
            if (line := _sealed_line(record.value)) is not None:
                leaf = Leaf(line.tenant, UUID(line.body["leaf_id"]))
                lines[record.partition, record.offset] = line, leaf
        keys = await self._keys.known(self._pool, (leaf for _, leaf in lines.values())) if lines else {}

        def readable(record: Record) -> Record:
            place = record.partition, record.offset
            if place not in lines:
                return opened.get(place, record)
            line, leaf = lines[place]
            return replace(record, value=opened_line(line, keys.get(leaf)).encode())

        if not lines and not opened:
            return fetched
        return {partition: [readable(record) for record in records] for partition, records in fetched.items()}

    def assigned(self) -> frozenset[int]:
        """See Consumer.assigned."""
        return self._inner.assigned()

    async def rewind(self, partition: int) -> None:
        """See Consumer.rewind."""
        await self._inner.rewind(partition)

    async def report(self, next_offsets: Mapping[int, int]) -> None:
        """See Consumer.report."""
        await self._inner.report(next_offsets)


def _sealed_line(value: bytes) -> TimelineRecord | None:
    if _MARK not in value:
        return None
    try:
        line = TimelineRecord.decode(value)
        return line if not line.deleted and isinstance(line.body.get("sealed"), str) and len(line.body) == 2 else None
    except (Rejected, AttributeError):
        return None  # whoever reads it says what is wrong with it
