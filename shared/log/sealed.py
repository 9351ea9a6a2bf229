"""A log whose timeline topic is sealed: what a record says of a person opens only with the key of their leaf.

Erasure destroys the key, and every record under it is unreadable at once, also where the log cannot change what it
holds (Kafka). Keys stand in the database, each sealed under the installation's. Readers that come through here read as
if nothing were sealed; a record whose key is gone reads as one of something that is there no longer.

Source: docs/decisions/0014-sealed-topic.md
"""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from secrets import token_bytes
from typing import NamedTuple
from uuid import UUID

import asyncpg
import orjson
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from shared.errors import Rejected
from shared.events import TimelineRecord
from shared.log.database import Connection, in_log
from shared.log.protocol import TIMELINE, Change, Consumer, Log, Outgoing, Position, Record, StartingOffset
from shared.sealing import Sealer

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
    return Leaf(line.tenant, UUID(line.key if line.kind == "leaf" else line.body["leaf_id"]))


def sealed(line: TimelineRecord, leaf: Leaf, key: bytes) -> TimelineRecord:
    """Return a record that says the same to whoever has the key."""
    nonce = token_bytes(12)
    secret = nonce + AESGCM(key).encrypt(nonce, orjson.dumps(line.body), _bound_to(line))
    return replace(line, body={"leaf_id": str(leaf.leaf_id), "sealed": base64.b64encode(secret).decode()})


def opened(line: TimelineRecord, key: bytes | None) -> TimelineRecord:
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


class SealedLog:
    """`inner` with a timeline topic that is sealed. What was sealed is opened also while nothing new is (`seals`)."""

    def __init__(self, inner: Log, pool: asyncpg.Pool, secret_key: bytes, *, seals: bool) -> None:
        self._inner, self._pool, self._seals = inner, pool, seals
        self._keys = Keys(secret_key)

    async def emit(self, connection: Connection, topic: str, records: Sequence[Outgoing]) -> None:
        """See Log.emit."""
        if self._seals and topic == TIMELINE:
            records = await self._sealed(connection, records)
        await self._inner.emit(connection, topic, records)

    async def _sealed(self, connection: Connection, records: Sequence[Outgoing]) -> list[Outgoing]:
        lines = [TimelineRecord.decode(record.value) for record in records]
        leaves = [leaf_of(line) for line in lines]
        keys = await self._keys.made(connection, {leaf for leaf in leaves if leaf is not None})
        return [
            record if leaf is None else replace(record, value=sealed(line, leaf, keys[leaf]).encode())
            for record, line, leaf in zip(records, lines, leaves, strict=True)
        ]

    def consume(self, group: str, topic: str, starting_offset: StartingOffset) -> AbstractAsyncContextManager[Consumer]:
        """See Log.consume."""
        joined = self._inner.consume(group, topic, starting_offset)
        return joined if topic != TIMELINE else self._opening(joined)

    @asynccontextmanager
    async def _opening(self, joined: AbstractAsyncContextManager[Consumer]) -> AsyncIterator[Consumer]:
        async with joined as consumer:
            yield OpeningConsumer(consumer, self._pool, self._keys)

    # Everything else is the log's own.

    async def append(self, topic: str, records: Sequence[Outgoing]) -> Sequence[Position]:
        """See Log.append."""
        return await self._inner.append(topic, records)

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
        return await self._inner.rewrite(connection, topic, change, keys=keys, ids=ids)

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
    """A consumer of a sealed topic."""

    def __init__(self, inner: Consumer, pool: asyncpg.Pool, keys: Keys) -> None:
        self._inner, self._pool, self._keys = inner, pool, keys

    async def fetch(self, max_records: int, max_wait_s: float) -> Mapping[int, Sequence[Record]]:
        """See Consumer.fetch."""
        fetched = await self._inner.fetch(max_records, max_wait_s)
        try:
            return await self._opened(fetched)
        except Exception as error:
            # The keys could not be had: the same records come again.
            for partition in fetched:
                await self._inner.rewind(partition)
            raise in_log(error) from error

    async def _opened(self, fetched: Mapping[int, Sequence[Record]]) -> Mapping[int, Sequence[Record]]:
        lines: dict[tuple[int, int], tuple[TimelineRecord, Leaf]] = {}
        for record in (record for records in fetched.values() for record in records):
            if (line := _sealed_line(record.value)) is not None:
                leaf = Leaf(line.tenant, UUID(line.body["leaf_id"]))
                lines[record.partition, record.offset] = line, leaf
        if not lines:
            return fetched
        keys = await self._keys.known(self._pool, (leaf for _, leaf in lines.values()))

        def readable(record: Record) -> Record:
            if (record.partition, record.offset) not in lines:
                return record
            line, leaf = lines[record.partition, record.offset]
            return replace(record, value=opened(line, keys.get(leaf)).encode())

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
