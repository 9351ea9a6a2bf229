"""The bulk of events: what is kept in tables of its own beside the log (shared/blobs.py, shared/attachments.py)."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import asyncpg

FORGET = """
WITH given AS (SELECT * FROM unnest($2::text[], $3::text[]) AS g (source, event_id)),
blobs AS (
    DELETE FROM ingest.blob AS b USING given AS g
    WHERE b.tenant_id = $1 AND b.source = g.source AND b.event_id = g.event_id RETURNING 1),
files AS (
    DELETE FROM ingest.attachment AS a USING given AS g
    WHERE a.tenant_id = $1 AND a.source = g.source AND a.event_id = g.event_id RETURNING 1)
SELECT (SELECT count(*) FROM blobs) AS blobs, (SELECT count(*) FROM files) AS attachments
"""


class Bulk(NamedTuple):
    """How much there was."""

    blobs: int
    attachments: int


async def forget(connection: asyncpg.Connection, tenant: str, said: Collection[tuple[str, str]]) -> Bulk:
    """Delete the large data and the files of events, each given as (source, id); return how much there was."""
    if not said:
        return Bulk(0, 0)
    sources, ids = [source for source, _ in said], [id_ for _, id_ in said]
    return Bulk(*await connection.fetchrow(FORGET, tenant, sources, ids))
