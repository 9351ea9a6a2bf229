"""The bytes of files that came with events: kept in the database, and named by a URL in the event's data.

They are committed before the record is appended, so a record never names a file that is not there. Sending the same
event again finds the same rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from hmac import digest
from typing import TYPE_CHECKING, NamedTuple
from uuid import UUID

from shared.database.engine import translated

if TYPE_CHECKING:
    import asyncpg

# A repetition is the same row. Where its event was not taken yet, that is waited for anew.
PUT = """
INSERT INTO ingest.attachment AS a (tenant_id, attachment_id, source, event_id, name, media_type, content)
VALUES ($1, $2, $3, $4, $5, $6, $7)
ON CONFLICT (tenant_id, attachment_id) DO UPDATE SET kept_at = now()
    WHERE NOT a.settled AND a.kept_at < now() - interval '1 day'
"""

LOAD = "SELECT name, media_type, content FROM ingest.attachment WHERE tenant_id = $1 AND attachment_id = $2"


class File(NamedTuple):
    """One file as it is kept, a row of the table: whose event it came with, and its bytes."""

    tenant: str
    attachment_id: UUID
    source: str
    event_id: str
    name: str | None
    media_type: str | None
    content: bytes


def attachment_secret(secret_key: bytes) -> bytes:
    """Derive the key of attachments' ids from the installation's secret key."""
    return digest(secret_key, b"threadline attachment ids", "sha256")


def attachment_id(secret: bytes, tenant: str, source: str, event_id: str, place: int, sha256: str) -> UUID:
    """Return the id of the file at `place` of an event's attachments: the same each time, and nobody's to guess."""
    message = "\0".join((tenant, source, event_id, str(place), sha256))
    return UUID(bytes=digest(secret, message.encode("utf-8", "surrogatepass"), "sha256")[:16])


async def put(pool: asyncpg.Pool, files: Sequence[File]) -> None:
    """Keep files durably, all in one statement or none. Raises DatabaseUnavailable."""
    with translated():
        await pool.executemany(PUT, files)


async def load(connection: asyncpg.Connection, tenant: str, id_: UUID) -> asyncpg.Record | None:
    """Return name, media_type and content of a file, or None where there is none."""
    return await connection.fetchrow(LOAD, tenant, id_)
