"""A split undoes a merge: timelines and all numbers are as if it had never been; what stood before is still told."""

from __future__ import annotations

import random
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from services.conversation.deciding import telling
from services.conversation.reading.timelines import Page, timeline
from services.conversation.update import put_events
from services.metrics.consumer import MetricsConsumer
from services.metrics.entries import micros
from shared.database.engine import tenant_reader
from shared.events import InboundEvent
from tests.histories import DAY, SECRET, a_history, a_policy
from tests.integration.conversation.test_histories import NOW, decide_again, put

pytestmark = pytest.mark.usefixtures("many_checkpoints")

# All that numbers are made of. When it was recorded tells of the way, not of the result.
NUMBERS = """
SELECT s.name, c.at, d.channel, d.team, d.agent, d.segment, d.language, c.bucket, c.due, c.member,
       sum(c.n) AS n, sum(c.total) AS total
FROM metrics.contribution c
JOIN metrics.series s ON s.tenant_id = c.tenant_id AND s.series_id = c.series_id
JOIN metrics.dims d ON d.tenant_id = c.tenant_id AND d.dims_id = c.dims_id
WHERE c.tenant_id = $1 AND c.recorded_at <= $2
GROUP BY 1, 2, 3, 4, 5, 6, 7, 8, 9, 10 HAVING sum(c.n) <> 0 OR sum(c.total) <> 0
"""


async def take(pool: asyncpg.Pool, tenant: str, events: list[InboundEvent]) -> None:
    outcome = await put(pool, tenant, events)
    async with pool.acquire() as connection, connection.transaction():
        await MetricsConsumer().apply(connection, outcome.records)


async def numbers(pool: asyncpg.Pool, tenant: str, as_of: datetime = NOW) -> list[Any]:
    return sorted((tuple(row) for row in await pool.fetch(NUMBERS, tenant, micros(as_of))), key=repr)


async def lines(pool: asyncpg.Pool, tenant: str) -> dict[UUID, list[dict[str, Any]]]:
    rows = await pool.fetch("SELECT DISTINCT customer_id FROM conversation.leaf WHERE tenant_id = $1", tenant)
    found = {}
    async with tenant_reader(pool, tenant) as connection:
        for row in rows:
            page, _ = await timeline(connection, tenant, row[0], Page(limit=200))
            own = [entry for entry in page if entry["event_id"] not in ("merge", "split")]
            found[row[0]] = [{k: v for k, v in entry.items() if k not in ("version", "recorded_at")} for entry in own]
    return found


async def two_customers(pool: asyncpg.Pool, tenant: str, chance: random.Random) -> list[list[str]] | None:
    """Return the nodes of two customers who may be merged, or None where there are none."""
    rows = await pool.fetch(
        "SELECT array_agg(node ORDER BY node) FROM conversation.leaf WHERE tenant_id = $1 AND NOT shared "
        "AND node !~ '^(anonymous|visitor):' GROUP BY customer_id ORDER BY 1",
        tenant,
    )
    people = [row[0] for row in rows]
    pairs = [
        [one, other]
        for index, one in enumerate(people)
        for other in people[index + 1 :]
        if sum(node.startswith("crm:") for node in (*one, *other)) < 2
    ]
    return chance.choice(pairs) if pairs else None


async def test_a_split_restores_both_timelines_and_every_number(pool: asyncpg.Pool) -> None:
    merged = counted_otherwise = 0
    for seed in range(90_000, 90_012):
        chance, tenant = random.Random(seed), f"tenant{seed}"
        await decide_again(pool, tenant, policy=a_policy(chance))
        events = a_history(chance, tenant, 24)
        await take(pool, tenant, events)
        pair = await two_customers(pool, tenant, chance)
        if pair is None:
            continue
        before, told = await lines(pool, tenant), await numbers(pool, tenant)
        assert told
        sides = [telling(nodes) for nodes in pair]
        # Now, as agents decide, or long ago in the midst of what happened.
        at = events[-1].occurred_at + chance.choice([-20 * DAY, DAY])
        for kind, id_ in (("merged", "merge"), ("unmerged", "split")):
            data = {"actor": {"type": "agent", "id": "a1"}, "sides": sides}
            decision = InboundEvent(tenant, "/threadline", id_, f"threadline.customer.{kind}", at, at, data)
            await take(pool, tenant, [decision])
            if kind == "merged":
                merged += await lines(pool, tenant) != before
                counted_otherwise += await numbers(pool, tenant) != told
        assert await lines(pool, tenant) == before, seed
        assert await numbers(pool, tenant) == told, seed
    assert merged > 6
    assert counted_otherwise


async def test_what_stood_at_an_instant_is_what_the_changes_recorded_by_then_come_to(pool: asyncpg.Pool) -> None:
    corrected = 0
    for seed in range(91_000, 91_006):
        chance, tenant = random.Random(seed), f"tenant{seed}"
        await decide_again(pool, tenant, policy=a_policy(chance))
        events, at, stood = a_history(chance, tenant, 20), NOW - timedelta(days=1), list[tuple[datetime, list[Any]]]()
        chance.shuffle(events)
        for event in events:
            at += timedelta(seconds=1)
            async with pool.acquire() as connection, connection.transaction():
                records = (await put_events(connection, tenant, [event], SECRET, at)).records
            chance.shuffle(records)
            # They are of several partitions: what corrects what is counted already may come by itself.
            for record in records:
                async with pool.acquire() as connection, connection.transaction():
                    await MetricsConsumer().apply(connection, [record])
            stood.append((at, await numbers(pool, tenant)))
        for at, told in stood:
            assert await numbers(pool, tenant, as_of=at) == told, (seed, at)
        corrected += await pool.fetchval("SELECT sum(n) FROM metrics.correction WHERE tenant_id = $1", tenant) or 0
    assert corrected > 10
