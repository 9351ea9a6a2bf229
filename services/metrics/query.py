"""Reading sums of contributions from the database, as one tenant sees them (row-level security is on)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import asyncpg

from services.metrics import store
from services.metrics.business import Rules
from services.metrics.reading import DIMENSIONS, Answer, Fetch, Query, Row, answer, reader_of
from shared.database.engine import tenant_reader
from shared.log.database import Connection

# What a query may read: dimensions come from a fixed list, values are always parameters.
SUMS = """
SELECT s.name, {window}, {groups}, c.bucket, {member}, sum(c.n)::bigint, sum(c.total)
FROM metrics.contribution AS c
JOIN metrics.series AS s ON s.series_id = c.series_id AND s.tenant_id = c.tenant_id
JOIN metrics.dims AS d ON d.dims_id = c.dims_id AND d.tenant_id = c.tenant_id
WHERE c.tenant_id = $1
  AND c.series_id = ANY (ARRAY(SELECT series_id FROM metrics.series WHERE tenant_id = $1 AND name = ANY ($2)))
  AND c.at >= $3 AND c.at < $4 AND (NOT c.due OR c.at <= $5){conditions}
GROUP BY 1, 2, 3, 4, 5
HAVING sum(c.n) <> 0 OR sum(c.total) <> 0
"""

FROM_THE_BEGINNING = -(2**62)

CURRENCIES = """
SELECT split_part(s.name, ':', 2) AS currency, count(*) AS n
FROM metrics.series AS s
JOIN metrics.contribution AS c ON c.tenant_id = s.tenant_id AND c.series_id = s.series_id
WHERE s.tenant_id = $1 AND (s.name LIKE 'cost:%' OR s.name LIKE 'revenue:%')
GROUP BY 1 ORDER BY 2 DESC, 1
"""


def statement(tenant: str, fetch: Fetch, now: int, as_of: int | None) -> tuple[str, list[Any]]:
    """Return the SQL of a fetch, and its arguments."""
    start = FROM_THE_BEGINNING if fetch.before else fetch.edges[0]
    arguments: list[Any] = [tenant, list(fetch.series), start, fetch.edges[-1], now]
    conditions = ""
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
        window = f"width_bucket(c.at, ${len(arguments)}::bigint[]) - 1"
    assert all(name in DIMENSIONS or name == "" for name in fetch.group_by)
    columns = ", ".join(f"d.{name}" if name else "NULL::text" for name in fetch.group_by)
    groups = f"ARRAY[{columns}]::text[]" if columns else "ARRAY[]::text[]"
    member = "c.member" if fetch.members else "''::text"
    return SUMS.format(window=window, groups=groups, member=member, conditions=conditions), arguments


async def rows(connection: Connection, tenant: str, fetch: Fetch, now: int, as_of: int | None) -> list[Row]:
    """Read what a fetch asks for."""
    sql, arguments = statement(tenant, fetch, now, as_of)
    found = await connection.fetch(sql, *arguments)
    return [
        Row(fetch.name, series, window, tuple(group), bucket, member, n, int(total))
        for series, window, group, bucket, member, n, total in found
    ]


async def ask(connection: Connection, tenant: str, query: Query) -> Answer:
    """Answer one query in the reader's transaction."""
    found: list[Row] = []
    for fetch in reader_of(query).fetches(query):
        found += await rows(connection, tenant, fetch, query.now, query.as_of)
    return answer(query, found)


async def rules_of(connection: Connection, tenant: str) -> Rules:
    """Return the tenant's schedules and agreements."""
    return (await store.rules(connection, [tenant]))[tenant]


async def currencies(connection: Connection, tenant: str) -> list[str]:
    """Return the currencies of the tenant's amounts, the most used first."""
    return [row[0] for row in await connection.fetch(CURRENCIES, tenant)]


async def answer_all(pool: asyncpg.Pool, tenant: str, queries: Iterable[Query]) -> Sequence[Answer]:
    """Answer queries from one snapshot."""
    async with tenant_reader(pool, tenant) as connection:
        return [await ask(connection, tenant, query) for query in queries]
