"""The stream against its recomputation, entity by entity and to the last digit.

The recount starts from the newest version of every entry and shares no state with the stream; both are read in one
snapshot, so it may run beside a busy consumer.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from time import monotonic
from typing import NamedTuple

import asyncpg
import orjson

from services.metrics.buckets import Contributions, Dims, Key, difference
from services.metrics.closed_days import unpack as unpack_day
from services.metrics.entries import unpack
from services.metrics.evaluation import Ref, Timeline, recount
from shared import agreements
from shared.database.engine import translated
from shared.log.database import Connection

MARKED = "SELECT tenant_id FROM metrics.tenant WHERE reevaluate_after IS NOT NULL ORDER BY 1"
RULES_LIMIT_S = 60.0

PATIENCE_S = 3600.0
"""Longest that one statement may take here; those that serve callers have to be quicker."""

TENANTS = "SELECT tenant_id FROM metrics.tenant ORDER BY 1"

ALL_ENTRIES = "SELECT body FROM metrics.entry WHERE tenant_id = $1 AND body IS NOT NULL"
ALL_LEAVES = "SELECT leaf_id::text, customer_id::text FROM metrics.leaf WHERE tenant_id = $1"
ALL_CONVERSATIONS = "SELECT conversation_id::text, canonical_id::text FROM metrics.conversation WHERE tenant_id = $1"

ALL_CONTRIBUTIONS = """
SELECT x.kind, x.key, s.name, c.at, d.channel, d.team, d.agent, d.segment, d.language,
       c.bucket, c.member, c.due, c.n, c.total
FROM (
    SELECT entity_id, series_id, at, dims_id, bucket, member, due, sum(n)::bigint AS n, sum(total)::bigint AS total
    FROM metrics.contribution WHERE tenant_id = $1
    GROUP BY 1, 2, 3, 4, 5, 6, 7
    HAVING sum(n) <> 0 OR sum(total) <> 0
) AS c
JOIN metrics.entity AS x ON x.entity_id = c.entity_id
JOIN metrics.series AS s ON s.series_id = c.series_id
JOIN metrics.dims AS d ON d.dims_id = c.dims_id
"""


class Wrong(NamedTuple):
    """An entity whose stored contributions are not what its entries say: stored − recounted."""

    tenant: str
    ref: Ref
    difference: Contributions

    def lines(self) -> Iterator[str]:
        """Yield a line for each KPI series that is wrong."""
        for key, (n, total) in sorted(self.difference.items(), key=lambda cell: cell[0][:2]):
            yield (
                f"kpi {key.series}: {self.tenant} {self.ref.kind} {self.ref.key} at {key.at}: "
                f"the stream has {n:+d} (total {total:+d}) against the recount"
            )


# The sums by hour against the contributions they are sums of.
WRONG_HOURS = """
SELECT s.name, x.hour, x.channel, x.bucket, sum(x.n)::bigint, sum(x.total)
FROM (
    SELECT series_id, hour, channel, bucket, n, total FROM metrics.rollup WHERE tenant_id = $1
    UNION ALL
    SELECT c.series_id, floor(c.at / 3600000000.0)::integer, coalesce(d.channel, ''), c.bucket, -c.n, -c.total
    FROM metrics.contribution AS c JOIN metrics.dims AS d ON d.dims_id = c.dims_id
    WHERE c.tenant_id = $1 AND NOT c.due
) AS x
JOIN metrics.series AS s ON s.series_id = x.series_id
GROUP BY 1, 2, 3, 4
HAVING sum(x.n) <> 0 OR sum(x.total) <> 0
"""


async def wrong_hours(connection: Connection, tenant: str) -> list[str]:
    """Return a line for each sum by hour that is not the sum of its contributions."""
    return [
        f"kpi {name}: {tenant}: the sum of hour {hour} on {channel or 'no channel'} is off by {n:+d} (total {total:+})"
        for name, hour, channel, _, n, total in await connection.fetch(WRONG_HOURS, tenant, timeout=PATIENCE_S)
    ]


# Packed days against the contributions they are sums of.
OF_DAYS = """
SELECT c.series_id, y.starts, coalesce(d.channel, ''), c.bucket, sum(c.n)::bigint, sum(c.total)
FROM unnest($2::integer[], $3::bigint[], $4::bigint[]) AS y(series_id, starts, ends)
JOIN metrics.contribution AS c
    ON c.tenant_id = $1 AND c.series_id = y.series_id AND c.at >= y.starts AND c.at < y.ends AND NOT c.due
JOIN metrics.dims AS d ON d.dims_id = c.dims_id
GROUP BY 1, 2, 3, 4
HAVING sum(c.n) <> 0 OR sum(c.total) <> 0
"""

DAYS_AFTER = """
SELECT s.name, d.series_id, d.starts, d.ends, d.body
FROM metrics.day AS d JOIN metrics.series AS s ON s.series_id = d.series_id
WHERE d.tenant_id = $1 AND (d.series_id, d.starts) > ($2, $3)
ORDER BY d.series_id, d.starts LIMIT $4
"""

DAYS_AT_ONCE = 500


async def wrong_days(connection: Connection, tenant: str) -> list[str]:
    """Return a line for each packed day that is not the sum of its contributions."""
    wrong, after = [], (0, 0)
    while days := await connection.fetch(DAYS_AFTER, tenant, *after, DAYS_AT_ONCE):
        wrong += await compare_days(connection, tenant, days)
        after = (days[-1]["series_id"], days[-1]["starts"])
    return wrong


async def compare_days(connection: Connection, tenant: str, days: Sequence[asyncpg.Record]) -> list[str]:
    """Return a line for each of these packed days (columns of DAYS_AFTER) that is wrong."""
    spans = [list(column) for column in zip(*[day[1:4] for day in days], strict=True)]
    ought: dict[tuple[int, int], dict[tuple[str, int], tuple[int, int]]] = {}
    for series, starts, channel, bucket, n, total in await connection.fetch(
        OF_DAYS, tenant, *spans, timeout=PATIENCE_S
    ):
        ought.setdefault((series, starts), {})[channel, bucket] = (n, int(total))
    wrong = []
    for name, series, starts, _, body in days:
        if body is not None:
            have = {
                (channel, bucket): cell
                for channel, strip, _, _ in unpack_day(body)
                for bucket, *numbers in zip(*strip, strict=True)
                if (cell := tuple(numbers)) != (0, 0)
            }
            if have != ought.get((series, starts), {}):
                wrong.append(f"kpi {name}: {tenant}: the packed day from {starts} on is not what its contributions are")
    return wrong


async def streamed(connection: Connection, tenant: str) -> dict[Ref, Contributions]:
    """Return the stored contributions of every entity of a tenant."""
    found: dict[Ref, Contributions] = {}
    async for row in connection.cursor(ALL_CONTRIBUTIONS, tenant, prefetch=5000, timeout=PATIENCE_S):
        kind, key, series, at, *labels, bucket, member, due, n, total = row
        found.setdefault(Ref(kind, key), {})[Key(series, at, Dims(*labels), bucket, member, due)] = (n, total)
    return found


async def recounted(connection: Connection, tenant: str) -> dict[Ref, Contributions]:
    """Return the contributions of every entity of a tenant, from its entries."""
    entries = [unpack(orjson.loads(row[0])) for row in await connection.fetch(ALL_ENTRIES, tenant, timeout=PATIENCE_S)]
    customers = dict(await connection.fetch(ALL_LEAVES, tenant, timeout=PATIENCE_S))
    canonical = dict(await connection.fetch(ALL_CONVERSATIONS, tenant, timeout=PATIENCE_S))
    rules = (await agreements.rules(connection, [tenant]))[tenant]
    return recount(Timeline(entries, customers, canonical), rules)


async def compare(connection: Connection, tenant: str) -> list[Wrong]:
    """Return the entities that differ. `connection` must be in a transaction that sees one snapshot."""
    have = await streamed(connection, tenant)
    ought = await recounted(connection, tenant)
    wrong = []
    for ref in sorted(have.keys() | ought.keys()):
        changed = difference(have.get(ref, {}), ought.get(ref, {}))
        if changed:
            wrong.append(Wrong(tenant, ref, changed))
    return wrong


async def _wait_for_rules(pool: asyncpg.Pool) -> list[str]:
    """Wait until no change of opening hours or agreements is still being worked in; say which are after a minute."""
    deadline = monotonic() + RULES_LIMIT_S
    while marked := [row[0] for row in await pool.fetch(MARKED)]:
        if monotonic() > deadline:
            return [f"kpi rules: {tenant}: not everything is evaluated again since they changed" for tenant in marked]
        await asyncio.sleep(0.2)
    return []


async def drift(pool: asyncpg.Pool) -> AsyncIterator[str]:
    """Yield a line for each streaming KPI value that differs from its recomputation, over all tenants."""
    with translated():
        for line in await _wait_for_rules(pool):
            yield line
        async with pool.acquire() as connection, connection.transaction(isolation="repeatable_read", readonly=True):
            for tenant in [row[0] for row in await connection.fetch(TENANTS)]:
                for wrong in await compare(connection, tenant):
                    for line in wrong.lines():
                        yield line
                for line in [*await wrong_hours(connection, tenant), *await wrong_days(connection, tenant)]:
                    yield line
