"""Reading sums from the database, as one tenant sees them (row-level security is on): by channel from sums that are
kept (kept.py), whatever else from contributions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import asyncpg

from services.metrics.kept import FROM_THE_BEGINNING, by_channel, covers, grouped
from services.metrics.reading.answering import Answer, answer, reader_of
from services.metrics.reading.cells import Row
from services.metrics.reading.question import DIMENSIONS, Fetch, Query
from services.metrics.turns import beside
from services.metrics.windows import TooMuch
from shared import agreements
from shared.business import Rules
from shared.database.engine import tenant_reader
from shared.log.database import Connection

# What a query may read: dimensions come from a fixed list, values are always parameters.
SUMS = """
SELECT s.name, {window}, {groups}, {bucket}, {member}, sum(c.n)::bigint, sum(c.total)
FROM metrics.contribution AS c
JOIN metrics.series AS s ON s.series_id = c.series_id AND s.tenant_id = c.tenant_id
JOIN metrics.dims AS d ON d.dims_id = c.dims_id AND d.tenant_id = c.tenant_id
WHERE c.tenant_id = $1
  AND c.series_id = ANY ({series})
  AND c.at >= $3 AND c.at < $4 AND (NOT c.due OR c.at <= $5){conditions}
GROUP BY 1, 2, 3, 4, 5
HAVING sum(c.n) <> 0 OR sum(c.total) <> 0
"""

# Of an opening with a threshold ($6): answered in time or not, and where that counts (null: not due yet).
IN_TIME = "(nullif(c.member, '-')::bigint <= c.at + $6::bigint IS TRUE)::integer"
LANDING = """CASE WHEN nullif(c.member, '-')::bigint <= c.at + $6::bigint THEN nullif(c.member, '-')::bigint
WHEN c.at + $6::bigint <= $5 THEN c.at + $6::bigint END"""

SERIES = "ARRAY(SELECT series_id FROM metrics.series WHERE tenant_id = $1 AND name = ANY ($2))"

CURRENCIES = """
SELECT split_part(s.name, ':', 2) AS currency, count(*) AS n
FROM metrics.series AS s
JOIN metrics.rollup AS r ON r.tenant_id = s.tenant_id AND r.series_id = s.series_id
WHERE s.tenant_id = $1 AND (s.name LIKE 'cost:%' OR s.name LIKE 'revenue:%')
GROUP BY 1 ORDER BY 2 DESC, 1
"""


def statement(tenant: str, fetch: Fetch, now: int, as_of: int | None) -> tuple[str, list[Any]]:
    """Return the SQL of a fetch, and its arguments."""
    start = FROM_THE_BEGINNING if fetch.before else fetch.edges[0]
    arguments: list[Any] = [tenant, list(fetch.series), start - (fetch.threshold or 0), fetch.edges[-1], now]
    conditions, place, bucket = "", "c.at", "c.bucket"
    if fetch.threshold is not None:
        arguments += [fetch.threshold, fetch.edges[0]]
        place, bucket = LANDING, IN_TIME
        conditions = f" AND {LANDING} >= $7 AND {LANDING} < $4"
    for name, value in fetch.filters.items():
        assert name in DIMENSIONS
        arguments.append(value)
        conditions += f" AND d.{name} = ${len(arguments)}"
    if as_of is not None:
        arguments.append(as_of)
        conditions += f" AND c.recorded_at <= ${len(arguments)}"
    if fetch.instants:
        window = "c.at"
    else:
        arguments.append(list(fetch.edges))
        window = f"width_bucket({place}, ${len(arguments)}::bigint[]) - 1"
    assert all(name in DIMENSIONS or name == "" for name in fetch.group_by)
    columns = ", ".join(f"d.{name}" if name else "NULL::text" for name in fetch.group_by)
    groups = f"ARRAY[{columns}]::text[]" if columns else "ARRAY[]::text[]"
    member = "c.member" if fetch.members else "''::text"
    return SUMS.format(
        series=SERIES, window=window, bucket=bucket, groups=groups, member=member, conditions=conditions
    ), arguments


MOST_SUMS = 500_000
"""Sums of contributions that one question may read: about a quarter of a gigabyte."""

AT_ONCE = 1000
"""Sums that are read before others get a turn."""

INSTEAD = "ask for a shorter span, or group and filter by channel and family alone, for which sums are kept"


async def rows(
    connection: Connection, tenant: str, fetch: Fetch, now: int, as_of: int | None, most: int | None = None
) -> list[Row]:
    """Read what a fetch asks for. Raises TooMuch where that are more than `most` sums."""
    if covers(fetch, as_of):
        return grouped(fetch, await by_channel(connection, tenant, fetch, now))
    sql, arguments = statement(tenant, fetch, now, as_of)
    found: list[Row] = []
    async for series, window, group, bucket, member, n, total in connection.cursor(sql, *arguments, prefetch=AT_ONCE):
        found.append(Row(fetch.name, series, window, tuple(group), bucket, member, n, int(total)))
        if most is not None and len(found) > most:
            raise TooMuch(f"more than {most} sums have to be read; {INSTEAD}")
    return found


async def ask(connection: Connection, tenant: str, query: Query, most: int | None = None) -> Answer:
    """Answer one query in the reader's transaction. Raises TooMuch; `most` bounds the sums that a fetch reads."""
    found: list[Row] = []
    for fetch in reader_of(query).fetches(query):
        found += await rows(connection, tenant, fetch, query.now, query.as_of, most)
    size = len(found) + len(query.edges)
    return await beside(size, answer, query, found)


async def rules_of(connection: Connection, tenant: str) -> Rules:
    """Return the tenant's schedules and agreements."""
    return (await agreements.rules(connection, [tenant]))[tenant]


async def currencies(connection: Connection, tenant: str) -> list[str]:
    """Return the currencies of the tenant's amounts, the most used first."""
    return [row[0] for row in await connection.fetch(CURRENCIES, tenant)]


async def answer_all(pool: asyncpg.Pool, tenant: str, queries: Iterable[Query]) -> Sequence[Answer]:
    """Answer queries from one snapshot."""
    async with tenant_reader(pool, tenant) as connection:
        return [await ask(connection, tenant, query) for query in queries]
