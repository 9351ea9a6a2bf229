"""Reading one person: a timeline page over 1, 20 and 100 merged leaves and the brief, among ever more entries.

Three people with 10,000 entries each, in none, 19 and 99 chats beside their address, are read again and again: by the
functions that the API calls, in the reader's transaction, and as a whole over HTTP from a `threadline up` that has
nothing else to do. There they themselves are asked for, too, and a word that is in all that they wrote. A page is
compared, in the same transaction, with two bare asyncpg queries of the same shape: the newest of each leaf and of those
the newest, in the order of a timeline, with the columns of a page. The first is given the leaves, so PostgreSQL plans
it anew where they are few. The second is stricter: like the page's statement it looks the leaves up and is planned
once, and it tells the conversation that each entry belongs to now. Neither knows what others said in those
conversations.
Then a crowd is loaded around them, first 100,000 entries, then ten times as many, and so on up to
THREADLINE_BENCH_ENTRIES (1,000,000 unless told otherwise; 10,000,000 takes some 10 GB of disk), and the same is read
again.
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
from services.conversation.reading import briefs, timelines
from services.conversation.reading.shown import LINE
from shared.database.engine import tenant_reader
from shared.keys import create_key

ENTRIES = 10_000
SESSIONS = (0, 19, 99)
FEW, MANY = 100_000, int(os.environ.get("THREADLINE_BENCH_ENTRIES", "1000000"))
TIMES = 200
PAGE = 50

_ORDERED = f"ORDER BY e.occurred_at DESC, e.source DESC, e.event_id DESC LIMIT {PAGE + 1}"
BARE = f"""
SELECT e.* FROM unnest($2::uuid[]) AS l (leaf_id), LATERAL (
    SELECT {LINE} FROM conversation.entry e WHERE e.tenant_id = $1 AND e.leaf_id = l.leaf_id {_ORDERED}) AS e {_ORDERED}
"""
STRICT = f"""
SELECT e.*, c.canonical_id, c.merged_source FROM (
    SELECT e.* FROM conversation.leaf l, LATERAL (
        SELECT {LINE} FROM conversation.entry e WHERE e.tenant_id = $1 AND e.leaf_id = l.leaf_id {_ORDERED}) AS e
    WHERE l.tenant_id = $1 AND l.customer_id = $2 {_ORDERED}) AS e
LEFT JOIN conversation.conversation c ON c.tenant_id = $1 AND c.conversation_id = e.conversation_id {_ORDERED}
"""

LEAVES = "SELECT array_agg(leaf_id) FROM conversation.leaf WHERE tenant_id = $1 AND customer_id = $2"


async def measure(entries: int = ENTRIES, few: int = FEW, many: int = MANY) -> Sequence[Row]:
    """Tell three lives and read them among ever more entries."""
    found: list[Row] = []
    async with ground.folder() as path, ground.up(path) as up, ground.beside(path) as platform:
        pool = platform.pool
        async with pool.acquire() as connection:
            up.key = await create_key(connection, persons.TENANT, ["timeline:read"])
        wire = ground.Wire(up)
        people = {sessions: await persons.live(pool, f"p{sessions}", entries, sessions) for sessions in SESSIONS}
        loaded, next_person, wanted = 0, 0, few
        while wanted <= many:
            next_person = await persons.crowd(pool, next_person, wanted - loaded)
            await pool.execute("VACUUM (ANALYZE)", timeout=3600)
            found += await _read(pool, wire, people, f"among {wanted:,} entries")
            loaded, wanted = wanted, wanted * 10
        wire.close()
    return found


async def _read(pool: asyncpg.Pool, wire: ground.Wire, people: dict[int, UUID], where: str) -> list[Row]:
    rows = []
    for customer_id in people.values():
        leaves = await pool.fetchval(LEAVES, persons.TENANT, customer_id)
        bare, page, strict = await _timed(pool, _asking(BARE, leaves), _page(customer_id), _asking(STRICT, customer_id))
        name = f"page of {PAGE}, {len(leaves)} leaves, {where}, p50"
        for base, took in (("bare query of the same shape", bare), ("one that looks its leaves up", strict)):
            rows.append(Row(name, quantile(page, 0.5), "ms", base, quantile(took, 0.5)))
        rows += await _asked(wire, f"/v1/customers/{customer_id}/timeline", f"GET it, {len(leaves)} leaves, {where}")
        rows += await _asked(wire, f"/v1/customers/{customer_id}", f"GET the customer, {len(leaves)} leaves, {where}")
    last = people[SESSIONS[-1]]
    [brief] = await _timed(pool, lambda c: briefs.context(c, persons.TENANT, last, 20))
    rows.append(Row(f"brief of a customer with {ENTRIES:,} entries, {where}, p99", quantile(brief, 0.99), "ms"))
    rows += await _asked(wire, f"/v1/customers/{last}/context", f"GET it, {where}")
    return rows + await _asked(wire, "/v1/search?q=message", f"GET a search for a word of all three, {where}")


async def _asked(wire: ground.Wire, path: str, name: str) -> list[Row]:
    """Ask over HTTP, one question after the other."""
    took: list[float] = []
    for number in range(TIMES + 10):
        began = time.perf_counter()
        status, _ = await wire.call("GET", path)
        if number >= 10:
            took.append(1e3 * (time.perf_counter() - began))
        if status != 200:
            raise RuntimeError(f"{path} answered {status}")
    return [Row(f"  {name}, {label}", quantile(took, q), "ms") for label, q in (("p50", 0.5), ("p99", 0.99))]


Ask = Callable[[asyncpg.Connection], Awaitable[Any]]


def _page(customer_id: UUID) -> Ask:
    page = timelines.Page(limit=PAGE)
    return lambda c: timelines.timeline(c, persons.TENANT, customer_id, page)


def _asking(statement: str, whose: Any) -> Ask:
    return lambda c: c.fetch(statement, persons.TENANT, whose)


async def _timed(pool: asyncpg.Pool, *asks: Ask) -> list[list[float]]:
    """Return how long each of TIMES readings took, in ms, in a reader's transaction opened before.

    What is compared takes turns, so that whatever else the machine does meets all of it alike, and every other time the
    other way round: whoever comes second finds the processor's caches as the first left them.
    """
    took: list[list[float]] = [[] for _ in asks]
    async with tenant_reader(pool, persons.TENANT) as connection:
        for number in range(TIMES + 10):
            turn = list(zip(asks, took, strict=True))
            for ask, times in turn if number % 2 else reversed(turn):
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
