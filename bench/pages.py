"""Reading one person: a timeline page over 1, 20 and 100 merged leaves, the brief, and both among many more entries.

Three people with 10,000 entries each, in none, 19 and 99 chats beside their address, are read again and again, by the
functions that the API calls, in the reader's transaction. The base of a page is a bare asyncpg query of the same shape:
the newest of each leaf and of those the newest, in the order of a timeline, with the columns of an entry, leaves known.
Then a crowd is
loaded around them, first 100,000 entries, then ten times as many, and so on up to THREADLINE_BENCH_ENTRIES (1,000,000
unless told otherwise; 10,000,000 takes some 10 GB of disk), and the same is read again.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any
from uuid import UUID

import asyncpg

from bench import ground, persons
from bench.report import Row, quantile, show
from services.conversation.entries import COLUMNS
from services.conversation.reading import briefs, timelines
from shared.database.engine import tenant_reader

ENTRIES = 10_000
SESSIONS = (0, 19, 99)
FEW, MANY = 100_000, int(os.environ.get("THREADLINE_BENCH_ENTRIES", "1000000"))
TIMES = 200
PAGE = 50

_COLUMNS = ", ".join("tenant_id" if name == "tenant" else name for name in COLUMNS)
BARE = f"""
SELECT e.* FROM unnest($2::uuid[]) AS l (leaf_id), LATERAL (
    SELECT {_COLUMNS} FROM conversation.entry
    WHERE tenant_id = $1 AND leaf_id = l.leaf_id
    ORDER BY occurred_at DESC, source DESC, event_id DESC LIMIT {PAGE + 1}) AS e
ORDER BY e.occurred_at DESC, e.source DESC, e.event_id DESC LIMIT {PAGE + 1}
"""

LEAVES = "SELECT leaf_id FROM conversation.leaf WHERE tenant_id = $1 AND customer_id = $2"


async def measure(entries: int = ENTRIES, few: int = FEW, many: int = MANY) -> Sequence[Row]:
    """Tell three lives and read them among ever more entries."""
    found: list[Row] = []
    async with ground.platform() as platform:
        pool = platform.pool
        people = {sessions: await persons.live(pool, f"p{sessions}", entries, sessions) for sessions in SESSIONS}
        loaded, next_person, wanted = 0, 0, few
        while wanted <= many:
            next_person = await persons.crowd(pool, next_person, wanted - loaded)
            await pool.execute("VACUUM (ANALYZE)", timeout=3600)
            found += await _read(pool, people, f"among {wanted:,} entries")
            loaded, wanted = wanted, wanted * 10
    return found


async def _read(pool: asyncpg.Pool, people: dict[int, UUID], where: str) -> list[Row]:
    rows = []
    for customer_id in people.values():
        leaves = [row["leaf_id"] for row in await pool.fetch(LEAVES, persons.TENANT, customer_id)]
        page, bare = await _timed(pool, _page(customer_id), _bare(leaves))
        name, base = f"page of {PAGE}, {len(leaves)} leaves, {where}, p50", "bare query of the same shape"
        rows.append(Row(name, quantile(page, 0.5), "ms", base, quantile(bare, 0.5)))
    [brief] = await _timed(pool, lambda c: briefs.context(c, persons.TENANT, people[SESSIONS[-1]], 20))
    rows.append(Row(f"brief of a customer with {ENTRIES:,} entries, {where}, p99", quantile(brief, 0.99), "ms"))
    return rows


Ask = Callable[[asyncpg.Connection], Awaitable[Any]]


def _page(customer_id: UUID) -> Ask:
    page = timelines.Page(limit=PAGE)
    return lambda c: timelines.timeline(c, persons.TENANT, customer_id, page)


def _bare(leaves: Sequence[UUID]) -> Ask:
    return lambda c: c.fetch(BARE, persons.TENANT, leaves)


async def _timed(pool: asyncpg.Pool, *asks: Ask) -> list[list[float]]:
    """Return how long each of TIMES readings took, in ms, in a reader's transaction opened before.

    What is compared takes turns, so that whatever else the machine does meets all of it alike.
    """
    took: list[list[float]] = [[] for _ in asks]
    async with tenant_reader(pool, persons.TENANT) as connection:
        for number in range(TIMES + 10):
            for ask, times in zip(asks, took, strict=True):
                began = time.perf_counter()
                await ask(connection)
                if number >= 10:
                    times.append(1e3 * (time.perf_counter() - began))
    return took


def rows() -> Sequence[Row]:
    """Measure, and return the rows."""
    return asyncio.run(measure())


if __name__ == "__main__":
    show(rows())
