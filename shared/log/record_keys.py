"""Keys of single records: each record of the inbound and the quarantine topic is sealed under one of its own.

Who a record is about is not known yet when it is appended, so a key is bound to what the record is about: the entry
that its event will be, or the place in quarantine. An erasure knows both, and destroys those keys in its transaction.
No key is ever used for a second record: what somebody says after their erasure has other keys, in whatever process it
is taken.

A destroyed key leaves an empty row behind, so that readers can tell what was erased from what a database does not hold
(one that was restored from a backup older than the record).

Source: docs/decisions/0018-sealed-records.md
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from hashlib import sha256
from hmac import digest
from secrets import token_bytes
from typing import NamedTuple
from uuid import UUID, uuid4

import asyncpg
import orjson
import structlog
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from shared.database.engine import translated
from shared.errors import DatabaseUnavailable
from shared.events import DERIVED_SOURCE, SEALED_TYPE
from shared.log.database import Connection
from shared.log.headers import decode_headers, encode_headers
from shared.log.protocol import Outgoing, Record
from shared.sealing import Sealer
from shared.tombstones import STUB_KEY, stub

ADD = """
INSERT INTO privacy.record_key (tenant_id, about, key_id, sealed)
SELECT * FROM unnest($1::text[], $2::uuid[], $3::uuid[], $4::bytea[])
"""

KNOWN = """
SELECT tenant_id, about, key_id, sealed FROM privacy.record_key
JOIN unnest($1::text[], $2::uuid[], $3::uuid[]) AS w (tenant_id, about, key_id) USING (tenant_id, about, key_id)
"""

DESTROY = """
UPDATE privacy.record_key SET sealed = '' WHERE tenant_id = ANY($1) AND about = ANY($2) AND sealed <> ''
RETURNING about
"""

FORGET = "DELETE FROM privacy.record_key WHERE made_at < now() - $1::interval"
FORGET_EVERY_S = 3_600.0
SLACK = timedelta(days=8)
"""Kafka keeps a record for longer than its retention: until its segment is closed (seven days) and looked at."""

NOBODYS = ""
"""Tenant of the keys of what nobody could read: whose it is, is not known."""

STORE_LIMIT_S = 10.0

PLAIN = """
INSERT INTO log.plain AS p (topic, plain_at) VALUES ($1, $2)
ON CONFLICT (topic) DO UPDATE SET plain_at = excluded.plain_at WHERE p.plain_at < excluded.plain_at
"""

PLAIN_AT = "SELECT plain_at FROM log.plain WHERE topic = $1"

PLAIN_EVERY = timedelta(minutes=1)
"""How finely it is known until when a topic was told in the plain."""

log = structlog.get_logger("threadline.log")

_MARK = f'"type":"{SEALED_TYPE}"'.encode()


class Name(NamedTuple):
    """Which key seals a record."""

    tenant: str
    about: UUID
    key_id: UUID


class RecordKeys:
    """Makes keys and stores them; many callers at once share one statement. `secret_key` is the installation's."""

    def __init__(self, pool: asyncpg.Pool, secret_key: bytes) -> None:
        self._pool = pool
        self._sealer = Sealer(secret_key, "record keys")
        self._order = secret_key
        self._waiting: list[tuple[list[tuple[str, UUID, UUID, bytes]], asyncio.Future[None]]] = []
        self._storing: asyncio.Task[None] | None = None

    async def sealed(
        self, records: Sequence[tuple[Outgoing, str, UUID]], connection: Connection | None = None
    ) -> list[Outgoing]:
        """Return records, each given with its tenant and what it is about, sealed under new keys that are stored.

        With `connection` the keys are part of its transaction, else durable on return. Raises DatabaseUnavailable.
        """
        rows, made = [], []
        for record, tenant, about in records:
            name, key = Name(tenant, about, uuid4()), token_bytes(32)
            rows.append((*name, self._sealer.seal(key, _owner(name))))
            made.append(self._seal(record, name, key))
        if connection is not None:
            await connection.execute(ADD, *_columns(rows))
        elif rows:
            await self._stored(rows)
        return made

    def _seal(self, record: Outgoing, name: Name, key: bytes) -> Outgoing:
        parts = [base64.b64encode(part).decode() for part in (record.key, encode_headers(record.headers) or b"")]
        plain = orjson.dumps(parts) + b"\n" + record.value
        nonce = token_bytes(12)
        secret = nonce + AESGCM(key).encrypt(nonce, plain, _owner(name).encode())
        value = {
            "specversion": "1.0", "id": str(name.key_id), "source": DERIVED_SOURCE, "type": SEALED_TYPE,
            "tenant": name.tenant, "about": str(name.about), "data_base64": base64.b64encode(secret).decode(),
        }  # fmt: skip
        # Equal keys stay equal, so that what one sender says keeps its order; what they were nobody can tell.
        return Outgoing(digest(self._order, b"record key\0" + record.key, "sha256")[:16], orjson.dumps(value))

    async def _stored(self, rows: list[tuple[str, UUID, UUID, bytes]]) -> None:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((rows, done))
        if self._storing is None:
            self._storing = asyncio.create_task(self._store())
        await done

    async def _store(self) -> None:
        """Store what waits, and what came meanwhile, until nothing waits."""
        try:
            while self._waiting:
                calls, self._waiting = self._waiting, []
                failed: Exception | None = DatabaseUnavailable("the process ends")
                try:
                    with translated():
                        async with self._pool.acquire(timeout=STORE_LIMIT_S) as connection:
                            await connection.execute(ADD, *_columns([row for rows, _ in calls for row in rows]))
                    failed = None
                except Exception as error:
                    failed = error
                finally:
                    for _, done in calls:
                        if not done.done():
                            done.set_exception(failed) if failed else done.set_result(None)
        finally:
            self._storing = None

    async def opened(self, connection: asyncpg.Pool | Connection, records: Iterable[Record]) -> dict[Place, Record]:
        """Return the sealed ones of these records as what they were, by place.

        One whose key was destroyed is a stub (shared/tombstones.py). One whose key is not in this database stays as it
        is: whoever reads it says so.
        """
        found = [(record, name) for record in records if (name := name_of(record.value)) is not None]
        if not found:
            return {}
        wanted = [list(column) for column in zip(*(name for _, name in found), strict=True)]
        rows = await connection.fetch(KNOWN, *wanted)
        keys = {Name(row[0], row[1], row[2]): row[3] for row in rows}
        return {
            (record.partition, record.offset): self._open(record, name, keys[name])
            for record, name in found
            if name in keys
        }

    def _open(self, record: Record, name: Name, sealed: bytes) -> Record:
        if not sealed:
            return replace(record, key=STUB_KEY, value=stub(name.tenant or None, name.about))
        secret = base64.b64decode(orjson.loads(record.value)["data_base64"])
        key = self._sealer.open(sealed, _owner(name))
        plain = AESGCM(key).decrypt(secret[:12], secret[12:], _owner(name).encode())
        first, _, value = plain.partition(b"\n")
        own_key, headers = (base64.b64decode(part) for part in orjson.loads(first))
        return replace(record, key=own_key, headers=decode_headers(headers or None), value=value)


Place = tuple[int, int]
"""(partition, offset)"""


def name_of(value: bytes) -> Name | None:
    """Return which key seals a record; None where it is not sealed."""
    if _MARK not in value[:400]:
        return None
    try:
        read = orjson.loads(value)
        if read["type"] != SEALED_TYPE or not isinstance(read["data_base64"], str):
            return None
        return Name(str(read["tenant"]), UUID(read["about"]), UUID(read["id"]))
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def about_quarantined(group: str, topic: str, position: str) -> UUID:
    """Return what a record of the quarantine topic is about: one place of one topic, as one group saw it."""
    return UUID(bytes=sha256(f"quarantine\0{group}\0{topic}\0{position}".encode()).digest()[:16])


async def destroy(connection: Connection, tenants: Collection[str], abouts: Iterable[UUID]) -> list[UUID]:
    """Destroy the keys of all records about these, in the caller's transaction; return what each was about."""
    wanted = list(abouts)
    return [row[0] for row in await connection.fetch(DESTROY, list(tenants), wanted)] if wanted else []


async def forget(pool: asyncpg.Pool, retention: timedelta) -> None:
    """Delete the keys of records that a log of this retention no longer has. Raises DatabaseUnavailable."""
    with translated():
        await pool.execute(FORGET, retention + SLACK)


async def forget_for_ever(pool: asyncpg.Pool, retention: timedelta) -> None:
    """Do so now and then, for the life of the process."""
    while True:
        try:
            await forget(pool, retention)
        except DatabaseUnavailable as error:
            log.warning("keys of old records are forgotten later", error=str(error))
        await asyncio.sleep(FORGET_EVERY_S)


def _columns(rows: Sequence[tuple[str, UUID, UUID, bytes]]) -> list[list[object]]:
    return [list(column) for column in zip(*rows, strict=True)] if rows else [[], [], [], []]


def _owner(name: Name) -> str:
    return f"{name.tenant}/{name.about}/{name.key_id}"


async def was_sealed(connection: Connection, topic: str, since: datetime) -> bool:
    """Tell whether all that a topic, given by its log's name for it, was told since an instant is sealed."""
    plain_at = await connection.fetchval(PLAIN_AT, topic)
    return plain_at is None or plain_at + 2 * PLAIN_EVERY < since
