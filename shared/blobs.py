"""Event data too large for a record of the log: kept in the database, and named by the record.

The blob is committed before the record is appended, so a record never names one that is not there. Sending the same
event again finds the same blob.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from typing import TYPE_CHECKING
from uuid import UUID

import orjson

from shared.database.engine import translated
from shared.errors import Rejected
from shared.events import InboundEvent

if TYPE_CHECKING:
    import asyncpg

PREFIX = "blob:"

# The name follows from the event and its bytes, so a repetition is the same row. Where its event was not taken yet,
# that is waited for anew.
PUT = """
INSERT INTO ingest.blob AS b (tenant_id, blob_id, source, event_id, payload)
VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (tenant_id, blob_id) DO UPDATE SET kept_at = now()
    WHERE NOT b.settled AND b.kept_at < now() - interval '1 day'
"""

LOAD = """
SELECT b.tenant_id, b.blob_id, b.payload
FROM ingest.blob AS b JOIN unnest($1::text[], $2::uuid[]) AS wanted(tenant_id, blob_id) USING (tenant_id, blob_id)
"""


def with_reference(event: InboundEvent) -> tuple[InboundEvent, bytes]:
    """Return the event as the record carries it, its data taken out, and the bytes to `put` under its `dataref`."""
    payload = orjson.dumps(event.data)
    identity = b"\0".join(part.encode() for part in (event.tenant, event.source, event.id))
    name = UUID(bytes=sha256(identity + b"\0" + payload).digest()[:16])
    return replace(event, data={}, dataref=f"{PREFIX}{name}"), payload


async def put(pool: asyncpg.Pool, event: InboundEvent, payload: bytes) -> None:
    """Keep `payload` durably under the event's `dataref`. Raises DatabaseUnavailable."""
    with translated():
        await pool.execute(PUT, event.tenant, _blob_id(event), event.source, event.id, payload)


async def resolved(connection: asyncpg.Connection, events: Sequence[InboundEvent]) -> list[InboundEvent | Rejected]:
    """Return `events`, each that has a `dataref` with its data put back, in one statement for all.

    In the place of one whose blob is gone (erased) stands a Rejected with the reason.
    """
    wanted = [event for event in events if event.dataref is not None]
    if not wanted:
        return list(events)
    rows = await connection.fetch(LOAD, [event.tenant for event in wanted], [_blob_id(event) for event in wanted])
    found = {(row["tenant_id"], row["blob_id"]): row["payload"] for row in rows}
    return [event if event.dataref is None else _put_back(event, found) for event in events]


def _put_back(event: InboundEvent, found: dict[tuple[str, UUID], bytes]) -> InboundEvent | Rejected:
    payload = found.get((event.tenant, _blob_id(event)))
    if payload is None:
        return Rejected(f"the event's data is gone: there is no {event.dataref}")
    return replace(event, data=orjson.loads(payload), dataref=None)


def _blob_id(event: InboundEvent) -> UUID:
    try:
        return UUID((event.dataref or "").removeprefix(PREFIX))
    except ValueError:
        # A name that nobody can have put: it is looked up and not found.
        return UUID(int=0)
