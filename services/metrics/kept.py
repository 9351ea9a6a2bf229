"""Reading sums by channel: packed days, the sums by hour of what they leave, and pieces of hours from contributions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from services.metrics.buckets import NO_BUCKET, Strip, pooled
from services.metrics.closed_days import LONGEST_DAY, Gaps, Packed, unpack
from services.metrics.entries import HOUR
from services.metrics.reading.cells import Row
from services.metrics.reading.question import Fetch
from services.metrics.turns import beside
from shared.events import family_of
from shared.log.database import Connection

# Only days that lie in one window; bodies of others are not touched.
DAYS = """
SELECT s.series_id, s.name, d.starts, d.ends, width_bucket(d.starts, $5::bigint[]) - 1 AS win, d.body
FROM metrics.series AS s
LEFT JOIN metrics.day AS d ON d.tenant_id = s.tenant_id AND d.series_id = s.series_id
    AND d.starts >= $3 AND d.ends <= $4
    AND width_bucket(d.starts, $5::bigint[]) = width_bucket(d.ends - 1, $5::bigint[])
WHERE s.tenant_id = $1 AND s.name = ANY ($2)
ORDER BY s.series_id, d.starts
"""

# The buckets of a window and channel come as one row. OFFSET keeps a range of hours a range of the index.
ROLLED = """
SELECT y.series_id, y.win, y.channel, array_agg(y.bucket), array_agg(y.n), array_agg({total})
FROM ({cells}) AS y
GROUP BY 1, 2, 3
"""

HOURS = """
SELECT g.series_id, width_bucket(r.hour * {hour}::bigint, $2::bigint[]) - 1 AS win, r.channel, r.bucket, r.n, r.total
FROM unnest($3::integer[], $4::integer[], $5::integer[]) AS g(series_id, first, until)
CROSS JOIN LATERAL (
    SELECT hour, channel, bucket, n, total FROM metrics.rollup
    WHERE tenant_id = $1 AND series_id = g.series_id AND hour >= g.first AND hour < g.until{only}
    OFFSET 0
) AS r
UNION ALL
SELECT c.series_id, width_bucket(c.at, $2::bigint[]) - 1, coalesce(d.channel, ''), c.bucket, c.n, c.total
FROM unnest($6::integer[], $7::bigint[], $8::bigint[]) AS p(series_id, since, until)
CROSS JOIN LATERAL (
    SELECT series_id, at, dims_id, bucket, n, total FROM metrics.contribution
    WHERE tenant_id = $1 AND series_id = p.series_id AND at >= p.since AND at < p.until AND NOT due
    OFFSET 0
) AS c
JOIN metrics.dims AS d ON d.dims_id = c.dims_id AND d.tenant_id = $1
"""

# What counts only once it is due is in no sum by hour.
DUE = """
UNION ALL
SELECT c.series_id, width_bucket(c.at, $2::bigint[]) - 1, coalesce(d.channel, ''), c.bucket, c.n, c.total
FROM metrics.contribution AS c
JOIN metrics.dims AS d ON d.dims_id = c.dims_id AND d.tenant_id = c.tenant_id
WHERE c.tenant_id = $1 AND c.series_id = ANY ($9::integer[]) AND c.due
  AND c.at >= $10 AND c.at < $11 AND c.at <= $12
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

FROM_THE_BEGINNING = -(2**31) * HOUR

AT_ONCE = 32
"""Rows that are read before others get a turn, so that neither memory nor anybody's wait grows."""

MANY = 64
"""Days of one window and channel that are kept before they are added."""

MOST_PIECES = 100
"""With more pieces of hours than that, what lies in them is summed by the server."""


class Sums(NamedTuple):
    """The histogram of one series in one window on one channel, and the sums of it all."""

    series: str
    window: int
    channel: str | None
    strip: Strip
    n: int
    total: int


def covers(fetch: Fetch, as_of: int | None) -> bool:
    """Tell whether sums by channel answer a fetch."""
    by_channel = {*fetch.group_by, *fetch.filters} <= {"channel", "family", ""}
    return by_channel and not (fetch.members or fetch.instants or fetch.threshold or as_of is not None)


def short(fetch: Fetch) -> bool:
    """Tell whether the windows of a fetch are days at most, so that their hours are added where they are read."""
    return not fetch.before and all(end - start <= LONGEST_DAY for start, end in pairwise(fetch.edges))


async def by_channel(connection: Connection, tenant: str, fetch: Fetch, now: int) -> list[Sums]:
    """Read the sums that a fetch asks for, not yet in its groups."""
    sheet = _Sheet()
    gaps = await _days(connection, tenant, fetch, sheet)
    sql, arguments = _statement(tenant, fetch, now, sheet, gaps)
    found = await read(connection, sql, arguments)
    for series, window, channel, cells in found:
        sheet.add((series, window, channel), cells)
    return await beside(sheet.size(), sheet.sums)


def grouped(fetch: Fetch, found: Iterable[Sums]) -> list[Row]:
    """Return the sums that pass a fetch's filters, in its groups."""
    rows = []
    for series, window, channel, strip, n, total in found:
        labels = {"channel": channel, "family": family_of(channel), "": None}
        if all(labels[name] == value for name, value in fetch.filters.items()):
            group = tuple([labels[name] for name in fetch.group_by])
            rows.append(Row(fetch.name, series, window, group, NO_BUCKET, "", n, total, strip))
    return rows


Cells = tuple[Sequence[int], Sequence[int], Sequence[int]]
"""Buckets, n and total of each; a bucket may come more than once."""


class _Sheet:
    """What was read, by (series, window, channel)."""

    def __init__(self) -> None:
        self.names: dict[int, str] = {}
        self._packed: dict[tuple[int, int, str], Packed] = {}
        """Where there is one packed day and nothing else."""
        self._cells: dict[tuple[int, int, str], list[Cells]] = {}

    def put(self, place: tuple[int, int, str], packed: Packed) -> None:
        """Add a packed day."""
        if place in self._packed or place in self._cells:
            self.add(place, packed.strip)
        else:
            self._packed[place] = packed

    def add(self, place: tuple[int, int, str], cells: Cells) -> None:
        """Add cells."""
        found = self._cells.setdefault(place, [])
        packed = self._packed.pop(place, None)
        found += [cells] if packed is None else [packed.strip, cells]
        if len(found) > MANY:
            found[:] = [pooled(found)]

    def size(self) -> int:
        """Return how many places there are."""
        return len(self._packed) + len(self._cells)

    def sums(self) -> list[Sums]:
        """Return what there is, without what comes to nothing."""
        found = [
            Sums(self.names[series], window, channel or None, one.strip, one.n, one.total)
            for (series, window, channel), one in self._packed.items()
        ]
        for (series, window, channel), cells in self._cells.items():
            strip = pooled(cells)
            if strip.buckets:
                name = self.names[series]
                found.append(Sums(name, window, channel or None, strip, sum(strip.numbers), sum(strip.totals)))
        return found


async def _days(connection: Connection, tenant: str, fetch: Fetch, sheet: _Sheet) -> Gaps:
    """Read the packed days into a sheet; return what they leave."""
    beginning, end = FROM_THE_BEGINNING if fetch.before else fetch.edges[0], fetch.edges[-1]
    arguments = (tenant, list(fetch.series), beginning, end, list(fetch.edges))
    days: dict[int, list[tuple[int, int]]] = {}
    only = fetch.filters.get("channel")
    async for series, name, starts, ends, window, body in connection.cursor(DAYS, *arguments, prefetch=AT_ONCE):
        sheet.names[series] = name
        packed = days.setdefault(series, [])
        if body is not None:
            packed.append((starts, ends))
            for one in unpack(body):
                if only is None or one.channel == only:
                    sheet.put((series, window, one.channel), one)
    gaps = Gaps()
    for series, packed in days.items():
        gaps.leave(series, beginning, end, fetch.edges, packed)
    return gaps


def gap_arguments(gaps: Gaps) -> list[list[int]]:
    """Return gaps as arguments of HOURS: series, first and last hours, series, since and until of pieces."""
    hours, pieces = gaps.hours or [(0, 0, 0)], gaps.pieces or [(0, 0, 0)]
    return [*map(list, zip(*hours, strict=True)), *map(list, zip(*pieces, strict=True))]


def _statement(tenant: str, fetch: Fetch, now: int, sheet: _Sheet, gaps: Gaps) -> tuple[str, list[Any]]:
    """Return the SQL of what packed days leave, and its arguments."""
    beginning, end = FROM_THE_BEGINNING if fetch.before else fetch.edges[0], fetch.edges[-1]
    arguments: list[Any] = [
        tenant, list(fetch.edges), *gap_arguments(gaps), list(sheet.names), beginning, end, now,
    ]  # fmt: skip
    only = ""
    if "channel" in fetch.filters:
        arguments.append(fetch.filters["channel"])
        only = f" AND channel = ${len(arguments)}"
    cells = HOURS.format(only=only, hour=HOUR) + DUE
    few = short(fetch) and len(gaps.pieces) <= MOST_PIECES
    return cells if few else SUMMED.format(cells=cells), arguments


async def read(connection: Connection, cells: str, arguments: Sequence[Any]) -> list[tuple[int, int, str, Cells]]:
    """Return (series, window, channel, its cells) of a statement of cells."""
    found = await _read(connection, ROLLED.format(total=SMALL, cells=cells), arguments)
    if found is None:
        found = await _read(connection, ROLLED.format(total=ANY_SIZE, cells=cells), arguments)
    assert found is not None
    return found


async def _read(connection: Connection, sql: str, arguments: Sequence[Any]) -> list[tuple[int, int, str, Cells]] | None:
    """Return the same; None if a total is too large for the statement."""
    found: list[tuple[int, int, str, Cells]] = []
    async for series, window, channel, buckets, numbers, totals in connection.cursor(sql, *arguments, prefetch=AT_ONCE):
        if None in totals:
            return None
        found.append((series, window, channel, (buckets, numbers, list(map(int, totals)))))
    return found
