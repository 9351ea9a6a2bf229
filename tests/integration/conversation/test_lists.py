"""Lists of conversations, customers and hits: the same whether the latest suffice or all are asked."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from bench import persons
from services.conversation import search
from services.conversation.reading import conversations, customers
from services.conversation.reading.conversations import Inbox
from shared.database.engine import tenant_reader

PEOPLE = 2_600
"""More than the latest that are walked before all are asked."""

# Every third belongs to the one before, some were seen at the same time, and some leaves are nobody's.
LEAVES = """
INSERT INTO conversation.leaf (tenant_id, leaf_id, node, component_id, customer_id, last_seen_at, shown, name)
SELECT t, md5(t || p)::uuid, CASE WHEN p % 50 = 7 THEN 'anonymous:' ELSE 'email:' END || p || '@x.example', of, of,
       CASE WHEN p % 40 <> 3 THEN '2026-06-01T00:00:00Z'::timestamptz - p / 2 * interval '17 minutes' END,
       p || '@x.example', CASE WHEN p % 1000 = 999 THEN 'Rare Bird' ELSE 'Ann ' || p % 10 END
FROM unnest($1::text[]) AS t, generate_series(1, $2::integer) AS p,
    LATERAL (SELECT md5(t || p - (p % 3 = 2)::integer)::uuid AS of) AS o
"""

# What a list of customers says, as plainly as it can be asked.
PLAINLY = """
SELECT customer_id, max(last_seen_at) AS seen_at FROM conversation.leaf
WHERE tenant_id = $1 AND last_seen_at IS NOT NULL AND node NOT LIKE 'anonymous:%'
    AND ($2::text IS NULL OR name ILIKE ANY ($3) OR shown ILIKE ANY ($3) OR node ILIKE ANY ($3))
GROUP BY customer_id ORDER BY seen_at DESC, customer_id DESC
"""


def patterns(text: str | None) -> list[str]:
    """Return what finds a text: short ones where a word, a handle or its value begins."""
    short = text in ("9", "99", "99@x", "bI", "r", "n")
    return [f"{text}%", f"% {text}%", f"email:{text}%"] if short else [f"%{text}%"]


@pytest.mark.parametrize("text", [None, "ann 4", "RARE b", "99@x", "nobody", "9", "99", "bI", "r", "n"])
async def test_customers_are_listed_by_when_they_were_last_seen_over_pages_of_any_length(
    pool: asyncpg.Pool, text: str | None
) -> None:
    await pool.execute(LEAVES, [persons.TENANT, "another"], PEOPLE)
    wanted = [tuple(row) for row in await pool.fetch(PLAINLY, persons.TENANT, text, patterns(text))]
    async with tenant_reader(pool, persons.TENANT) as connection:
        for limit in (1_000, 190, 10_000):
            found: list[tuple[UUID, datetime]] = []
            while page := await customers.find_customers(connection, text, _last(found), limit):
                found += page
            assert found == wanted, limit


def _last(found: list[tuple[UUID, datetime]]) -> tuple[datetime, UUID] | None:
    return (found[-1][1], found[-1][0]) if found else None


READ = "SELECT seq_tup_read, idx_tup_fetch FROM pg_stat_xact_user_tables WHERE relid = 'conversation.leaf'::regclass"


@pytest.mark.parametrize(
    ("text", "found"), [("r", 40), ("ra", 40), ("b", 40), ("xq", 0), ("rar", 40), ("x9", 0), ("@", 0)]
)
async def test_what_few_are_called_is_found_without_reading_all_of_a_large_tenant(
    pool: asyncpg.Pool, text: str, found: int
) -> None:
    await pool.execute(LEAVES, [persons.TENANT], 40_000)
    await pool.execute("ANALYZE conversation.leaf")
    async with tenant_reader(pool, persons.TENANT) as connection:
        rows = await customers.find_customers(connection, text, None, 50)
        read = await connection.fetchrow(READ)
    assert len(rows) == found
    assert read["seq_tup_read"] == 0 and read["idx_tup_fetch"] < 4_000, dict(read)


async def test_who_reads_for_no_tenant_finds_nobody(pool: asyncpg.Pool) -> None:
    await pool.execute(LEAVES, [persons.TENANT], 30)
    async with tenant_reader(pool, "") as connection:
        assert await customers.find_customers(connection, None, None, 10) == []


AFTER = (persons.END, UUID(int=7))


@pytest.mark.parametrize(
    "wanted",
    [
        Inbox(),
        Inbox(after=AFTER),
        Inbox(state="open"),
        Inbox(state="open", after=AFTER, team="support", waiting=True),
        Inbox(assignee="ann"),
        Inbox(assignee="ann", after=AFTER),
    ],
)
async def test_an_inbox_is_read_in_the_order_of_an_index(pool: asyncpg.Pool, wanted: Inbox) -> None:
    asked: list[tuple[str, tuple[Any, ...]]] = []

    class Spy:
        async def fetch(self, statement: str, *arguments: Any) -> list[Any]:
            asked.append((statement, arguments))
            return []

    await conversations.inbox(Spy(), persons.TENANT, wanted)
    [(statement, arguments)] = asked
    async with tenant_reader(pool, persons.TENANT) as connection:
        # Few rows would be sorted, so say that sorting is dear: with no fitting index it is done all the same.
        await connection.execute("SET LOCAL enable_sort = off")
        rows = await connection.fetch(f"EXPLAIN {statement}", *arguments)
    plan = "\n".join(row[0] for row in rows)
    assert "Sort" not in plan and "Seq Scan" not in plan, plan


INDEXED = """
INSERT INTO conversation.search (tenant_id, entry_id, occurred_at, document)
SELECT tenant_id, entry_id, occurred_at, to_tsvector('simple', CASE
    WHEN event_id LIKE 'e3-_' THEN 'common common recent' WHEN event_id LIKE 'e3-9_' THEN 'common common rare'
    ELSE 'common word' END)
FROM conversation.entry
"""


ENTRIES_READ = """
SELECT seq_tup_read + idx_tup_fetch FROM pg_stat_xact_user_tables WHERE relid = 'conversation.entry'::regclass
"""


async def test_of_a_word_in_very_many_entries_the_newest_are_ranked_and_a_narrower_question_finds_the_rest(
    pool: asyncpg.Pool,
) -> None:
    await persons.crowd(pool, 0, 7_000)
    await pool.execute(INDEXED)
    customer_id = await pool.fetchval(persons.CUSTOMER_OF, persons.TENANT, "email:p3@crowd.example")
    early = persons.END - timedelta(weeks=90)

    async def found(connection: asyncpg.Connection, words: str, **narrowed: Any) -> list[str]:
        hits, _ = await search.find(connection, persons.TENANT, search.Question(words, 10, **narrowed))
        return [hit["entry"]["event_id"] for hit in hits]

    best_of_all = {f"e3-{n}" for n in range(90, 100)}
    async with tenant_reader(pool, persons.TENANT) as connection:
        before = await connection.fetchval(ENTRIES_READ)
        assert set(await found(connection, "common")) == {f"e3-{n}" for n in range(10)}
        assert await connection.fetchval(ENTRIES_READ) - before < 50
        assert set(await found(connection, "common", beyond=10)).isdisjoint(best_of_all)
        assert set(await found(connection, "common", until=early)) == best_of_all
        assert set(await found(connection, "rare")) == best_of_all
        assert best_of_all & set(await found(connection, "common", customer_id=customer_id, beyond=10))
        assert await found(connection, "common", kinds=("threadline.call.queued",)) == []
    async with tenant_reader(pool, "another") as connection:
        assert await found(connection, "common") == []
