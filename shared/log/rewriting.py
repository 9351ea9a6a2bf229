"""Records of the PostgreSQL log changed in place: for erasure, and for nothing else."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from shared.erasures import PATIENCE_S
from shared.log.appender import partition_of
from shared.log.database import Connection
from shared.log.headers import decode_headers
from shared.log.protocol import Change, Record
from shared.tombstones import STUB_KEY

# Keys have no index, since no append is to pay for one: the partitions that may hold them are scanned. A CloudEvents id
# stands among the first bytes of a record that we wrote.
FOUND = """
SELECT partition_id, "offset", key, value, headers, appended_at FROM log.record
WHERE partition_id = ANY($1::integer[]) AND (
    key = ANY($2::bytea[])
    OR substring(value FROM position('"id":"'::bytea IN substring(value FROM 1 FOR 250)) + 6 FOR 36) = ANY($3::bytea[]))
"""

REWRITE = """
UPDATE log.record AS r SET key = n.key, value = n.value, headers = NULL
FROM unnest($1::integer[], $2::bigint[], $3::bytea[], $4::bytea[]) AS n (partition_id, place, key, value)
WHERE r.partition_id = n.partition_id AND r."offset" = n.place
"""

Row = tuple[int, int, bytes, bytes]
"""(partition's id, offset, key, value)"""


async def rewrite(
    connection: Connection,
    name: str,
    layout: Sequence[int],
    change: Change,
    keys: Collection[bytes],
    ids: Collection[str],
) -> int:
    """Rewrite the records of a topic that Log.rewrite names; return how many. `layout`: partition → its row's id."""
    wanted = range(len(layout)) if ids else sorted({partition_of(key, len(layout)) for key in keys})
    places = {layout[partition]: partition for partition in wanted}
    rows = []
    found = await connection.fetch(FOUND, list(places), list(keys), [id_.encode() for id_ in ids], timeout=PATIENCE_S)
    for id_, offset, key, value, headers, at in found:
        changed = change(Record(name, places[id_], offset, key, value, decode_headers(headers), at))
        if changed is not None:
            rows.append((id_, offset, *changed))
    await _store(connection, rows)
    return len(rows)


async def replace(connection: Connection, layout: Sequence[int], values: Mapping[tuple[int, int], bytes]) -> None:
    """Put other values, and no key, in the place of the records at (partition, offset)."""
    await _store(connection, [(layout[at[0]], at[1], STUB_KEY, value) for at, value in sorted(values.items())])


async def _store(connection: Connection, rows: Sequence[Row]) -> None:
    if rows:
        await connection.execute(REWRITE, *(list(column) for column in zip(*rows, strict=True)), timeout=PATIENCE_S)
