"""Reading sums of contributions from the database, as one tenant sees them (row-level security is on)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import asyncpg

from services.metrics.buckets import NO_BUCKET
from services.metrics.entries import HOUR
from services.metrics.reading.answering import Answer, answer, reader_of
from services.metrics.reading.cells import Row
from services.metrics.reading.question import DIMENSIONS, Fetch, Query
from shared import agreements
from shared.business import Rules
from shared.database.engine import tenant_reader
from shared.events import family_of
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

# The same from the sums by hour: whole hours inside a window from there, hours that a border splits ($7, $8: from, to)
# and what counts only once it is due from the contributions. The buckets of a window and channel come as one row.
ROLLED = """
SELECT s.name, p.win, p.channel, p.buckets, p.numbers, p.totals
FROM (
    SELECT y.series_id, y.win, y.channel, array_agg(y.bucket) AS buckets, array_agg(y.n) AS numbers,
           array_agg({total}) AS totals
    FROM ({cells}) AS y
    GROUP BY 1, 2, 3
) AS p
JOIN metrics.series AS s ON s.series_id = p.series_id AND s.tenant_id = $1
"""

CELLS = """
SELECT r.series_id, width_bucket(r.hour * {hour}::bigint, $6::bigint[]) - 1 AS win, r.channel, r.bucket, r.n, r.total
FROM metrics.rollup AS r
WHERE r.tenant_id = $1 AND r.series_id = ANY ({series})
  AND r.hour >= $9 AND r.hour < $10 AND NOT r.hour = ANY ($11::integer[]){only}
UNION ALL
SELECT c.series_id, width_bucket(c.at, $6::bigint[]) - 1, coalesce(d.channel, ''), c.bucket, c.n, c.total
FROM unnest($7::bigint[], $8::bigint[]) AS p(since, until)
JOIN metrics.contribution AS c ON c.tenant_id = $1 AND c.series_id = ANY ({series})
    AND c.at >= p.since AND c.at < p.until AND NOT c.due
JOIN metrics.dims AS d ON d.dims_id = c.dims_id AND d.tenant_id = c.tenant_id
UNION ALL
SELECT c.series_id, width_bucket(c.at, $6::bigint[]) - 1, coalesce(d.channel, ''), c.bucket, c.n, c.total
FROM metrics.contribution AS c
JOIN metrics.dims AS d ON d.dims_id = c.dims_id AND d.tenant_id = c.tenant_id
WHERE c.tenant_id = $1 AND c.series_id = ANY ({series}) AND c.due
  AND c.at >= $3 AND c.at < $4 AND c.at <= $5
"""

# The hours of a day have few buckets in common: adding them here costs more than it leaves out, so they are added where
# they are read, and only longer windows are summed by the server.
SUMMED = """
SELECT x.series_id, x.win, x.channel, x.bucket, sum(x.n)::bigint AS n, sum(x.total) AS total
FROM ({cells}) AS x
GROUP BY 1, 2, 3, 4
"""

# Numbers of any size cost ten times as much to read: what does not fit (levels of far windows) is null, and read again.
SMALL = "CASE WHEN abs(y.total) < 9000000000000000000 THEN y.total::bigint END"
ANY_SIZE = "y.total"

# Of an opening with a threshold ($6): answered in time or not, and where that counts (null: not due yet).
IN_TIME = "(nullif(c.member, '-')::bigint <= c.at + $6::bigint IS TRUE)::integer"
LANDING = """CASE WHEN nullif(c.member, '-')::bigint <= c.at + $6::bigint THEN nullif(c.member, '-')::bigint
WHEN c.at + $6::bigint <= $5 THEN c.at + $6::bigint END"""

SERIES = "ARRAY(SELECT series_id FROM metrics.series WHERE tenant_id = $1 AND name = ANY ($2))"

MOST_SPLIT_HOURS = 60
"""Above this many hours that borders split, reading contributions alone is as cheap."""

LONGEST_DAY = 25 * HOUR
"""The day on which summer time ends."""

AT_ONCE = 32
"""Windows of a channel that are read before others get a turn, so that neither memory nor anybody's wait grows."""

NOTHING = (0, 0)

FROM_THE_BEGINNING = -(2**62)

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


def rolled(fetch: Fetch, as_of: int | None) -> bool:
    """Tell whether a fetch can be answered from the sums by hour."""
    by_channel = {*fetch.group_by, *fetch.filters} <= {"channel", "family", ""}
    if not by_channel or fetch.members or fetch.instants or fetch.threshold or as_of is not None:
        return False
    return len(_split_hours(fetch)) <= MOST_SPLIT_HOURS


def short(fetch: Fetch) -> bool:
    """Tell whether the windows of a fetch are days at most, so that their hours are added where they are read."""
    return not fetch.before and all(end - start <= LONGEST_DAY for start, end in pairwise(fetch.edges))


def _split_hours(fetch: Fetch) -> list[int]:
    return sorted({edge // HOUR for edge in fetch.edges if edge % HOUR})


def rolled_statement(tenant: str, fetch: Fetch, now: int, total: str = SMALL) -> tuple[str, list[Any]]:
    """Return the SQL of a fetch from the sums by hour, and its arguments."""
    start, end = fetch.edges[0], fetch.edges[-1]
    beginning = FROM_THE_BEGINNING if fetch.before else start
    split = _split_hours(fetch)
    since = [max(beginning, hour * HOUR) for hour in split]
    until = [min(end, (hour + 1) * HOUR) for hour in split]
    first = -(2**31) if fetch.before else -(-start // HOUR)
    arguments: list[Any] = [
        tenant, list(fetch.series), beginning, end, now, list(fetch.edges), since, until, first, end // HOUR, split,
    ]  # fmt: skip
    only = ""
    if "channel" in fetch.filters:
        arguments.append(fetch.filters["channel"])
        only = f" AND r.channel = ${len(arguments)}"
    cells = CELLS.format(only=only, series=SERIES, hour=HOUR)
    return ROLLED.format(total=total, cells=cells if short(fetch) else SUMMED.format(cells=cells)), arguments


async def rows(connection: Connection, tenant: str, fetch: Fetch, now: int, as_of: int | None) -> list[Row]:
    """Read what a fetch asks for."""
    if rolled(fetch, as_of):
        return grouped(fetch, await by_channel(connection, tenant, fetch, now))
    sql, arguments = statement(tenant, fetch, now, as_of)
    return [
        Row(fetch.name, series, window, tuple(group), bucket, member, n, int(total))
        for series, window, group, bucket, member, n, total in await connection.fetch(sql, *arguments)
    ]


class Sums(NamedTuple):
    """The histogram of one series in one window on one channel: bucket → (n, total), and the sums of it all."""

    series: str
    window: int
    channel: str | None
    cells: Mapping[int, tuple[int, int]]
    n: int
    total: int


async def by_channel(connection: Connection, tenant: str, fetch: Fetch, now: int) -> list[Sums]:
    """Read the sums by hour that a fetch asks for, not yet in its groups."""
    found = await _read(connection, *rolled_statement(tenant, fetch, now))
    if found is None:
        found = await _read(connection, *rolled_statement(tenant, fetch, now, ANY_SIZE))
    assert found is not None
    return found


async def _read(connection: Connection, sql: str, arguments: list[Any]) -> list[Sums] | None:
    """Return the sums; None if a total is too large for the statement."""
    found = []
    async for series, window, channel, buckets, numbers, totals in connection.cursor(sql, *arguments, prefetch=AT_ONCE):
        if None in totals:
            return None
        totals = list(map(int, totals))
        cells = added(buckets, numbers, totals)
        if cells:
            found.append(Sums(series, window, channel or None, cells, sum(numbers), sum(totals)))
    return found


def added(buckets: Sequence[int], numbers: Sequence[int], totals: Sequence[int]) -> dict[int, tuple[int, int]]:
    """Return bucket → (n, total), what has the same bucket added, without what comes to nothing."""
    cells = dict(zip(buckets, zip(numbers, totals, strict=True), strict=True))
    if len(cells) < len(buckets):
        cells = {}
        put = cells.setdefault
        for bucket, cell in zip(buckets, zip(numbers, totals, strict=True), strict=True):
            old = put(bucket, cell)
            if old is not cell:
                cells[bucket] = (old[0] + cell[0], old[1] + cell[1])
    if NOTHING in cells.values():
        return {bucket: cell for bucket, cell in cells.items() if cell != NOTHING}
    return cells


def grouped(fetch: Fetch, found: Iterable[Sums]) -> list[Row]:
    """Return the sums that pass a fetch's filters, in its groups."""
    rows = []
    for series, window, channel, cells, n, total in found:
        labels = {"channel": channel, "family": family_of(channel), "": None}
        if all(labels[name] == value for name, value in fetch.filters.items()):
            group = tuple([labels[name] for name in fetch.group_by])
            rows.append(Row(fetch.name, series, window, group, NO_BUCKET, "", n, total, cells))
    return rows


async def ask(connection: Connection, tenant: str, query: Query) -> Answer:
    """Answer one query in the reader's transaction."""
    found: list[Row] = []
    for fetch in reader_of(query).fetches(query):
        found += await rows(connection, tenant, fetch, query.now, query.as_of)
    return answer(query, found)


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
