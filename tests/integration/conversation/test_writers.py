"""Writers who merge at random, at once: the right groups, and nobody hears of a deadlock."""

from __future__ import annotations

import asyncio
import random
from datetime import timedelta

import asyncpg

from services.conversation.policy import Limits, Policy
from services.conversation.reading.timelines import Page, timeline
from services.conversation.update import put_events
from shared.database.engine import tenant_reader
from shared.events import InboundEvent
from tests.histories import BEGINNING, SECRET
from tests.integration.conversation.test_histories import NOW, decide_again, put

CUSTOMERS = "SELECT DISTINCT customer_id FROM conversation.leaf WHERE tenant_id = $1"
WRITERS = 16
PEOPLE = 40


def a_link(tenant: str, number: int, one: str, other: str, *, by_hand: bool) -> InboundEvent:
    at = BEGINNING + timedelta(seconds=number)
    if by_hand:
        data = {"actor": {"type": "agent"}, "sides": [[one], [other]]}
        return InboundEvent(tenant, "/threadline", f"d{number}", "threadline.customer.merged", at, at, data)
    handles = [dict(zip(("kind", "value"), node.split(":", 1), strict=True)) for node in (one, other)]
    data = {"channel": "email", "customer": {"handles": handles}}
    return InboundEvent(tenant, "/a", f"e{number}", "threadline.message.received", at, at, data)


def partition(nodes: list[str], links: list[tuple[str, str]]) -> set[frozenset[str]]:
    group = {node: frozenset((node,)) for node in nodes}
    for one, other in links:
        union = group[one] | group[other]
        group.update(dict.fromkeys(union, union))
    return set(group.values())


async def test_sixteen_writers_who_merge_at_random_end_in_the_right_partition(pool: asyncpg.Pool) -> None:
    for seed in range(2):
        chance, tenants = random.Random(seed), [f"acme{seed}", f"globex{seed}"]
        wide = Policy(limits=Limits(email=PEOPLE), degree_limit=PEOPLE)
        nodes = [f"email:p{number}@x.example" for number in range(PEOPLE)]
        wanted, queue = {}, list[InboundEvent]()
        for tenant in tenants:
            await decide_again(pool, tenant, policy=wide)
            # Chains as well as stars: A–B and B–C come at once by different hands.
            links = [(one, other) for one, other in (chance.sample(nodes, 2) for _ in range(PEOPLE // 2))]
            links += [(nodes[n], nodes[n + 1]) for n in range(10, 20)]
            wanted[tenant] = partition(nodes, links)
            queue += [a_link(tenant, n, *pair, by_hand=chance.random() < 0.5) for n, pair in enumerate(links)]
            queue += [a_link(tenant, 1000 + n, node, node, by_hand=False) for n, node in enumerate(nodes)]
        queue *= 2
        chance.shuffle(queue)

        async def write(share: list[InboundEvent]) -> None:
            for event in share:
                async with pool.acquire() as connection, connection.transaction():
                    await put_events(connection, event.tenant, [event], SECRET, NOW)

        async with asyncio.timeout(120):
            await asyncio.gather(*(write(queue[number::WRITERS]) for number in range(WRITERS)))
        for tenant in tenants:
            rows = await pool.fetch(
                "SELECT array_agg(node) FROM conversation.leaf WHERE tenant_id = $1 GROUP BY customer_id", tenant
            )
            assert {frozenset(row[0]) for row in rows} == wanted[tenant]
            flat = await pool.fetchval(
                "SELECT count(*) FROM conversation.leaf l JOIN conversation.leaf c "
                "ON c.tenant_id = l.tenant_id AND c.leaf_id = l.customer_id "
                "WHERE l.tenant_id = $1 AND c.customer_id <> c.leaf_id",
                tenant,
            )
            assert flat == 0


async def test_a_reader_meets_each_entry_once_while_people_merge_and_come_apart(pool: asyncpg.Pool) -> None:
    tenant, pair = "acme", ("email:ann@x.example", "phone:+31612345678")
    said = [a_link(tenant, n, pair[n % 2], pair[n % 2], by_hand=False) for n in range(20)]
    await put(pool, tenant, said)
    expected = sorted(event.id for event in said)

    async def merge_and_split() -> None:
        for number in range(20):
            kind = "unmerged" if number % 2 else "merged"
            at = BEGINNING + timedelta(days=1, seconds=number)
            data = {"actor": {"type": "agent"}, "sides": [[pair[0]], [pair[1]]]}
            decision = InboundEvent(tenant, "/threadline", f"d{number}", f"threadline.customer.{kind}", at, at, data)
            await put(pool, tenant, [decision])

    writing = asyncio.ensure_future(merge_and_split())
    seen = set()
    while not writing.done():
        async with tenant_reader(pool, tenant) as connection:
            rows = await connection.fetch(CUSTOMERS, tenant)
            lines = [await timeline(connection, tenant, row[0], Page(limit=200, own_only=True)) for row in rows]
        found = [e["event_id"] for line, _ in lines for e in line if e["type"].endswith("message.received")]
        assert sorted(found) == expected
        seen.add(len(rows))
    await writing
    assert seen == {1, 2}
