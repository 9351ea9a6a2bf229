"""Agents' words on people who have much open, step by step: each equals deciding all from nothing.

THREADLINE_TEST_HISTORIES says how many histories are tried (default 30); a failure names the seed that shows it again.
"""

from __future__ import annotations

import os
import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

import asyncpg
import pytest

from services.conversation import deciding, joining
from services.conversation.update import put_events, resolve_again
from shared.events import DECISIONS, JOINED, TYPE_PREFIX, InboundEvent
from tests.comparing import Reader, entry_id, places
from tests.histories import SECRET
from tests.integration.conversation.test_dialogues import dump
from tests.integration.conversation.test_histories import OVERLOOKED
from tests.tangles import a_policy, a_tangle, as_it_comes

pytestmark = pytest.mark.usefixtures("many_checkpoints")

NOW = datetime(2026, 1, 1, tzinfo=UTC)
TANGLES = int(os.environ.get("THREADLINE_TEST_HISTORIES", "30"))
WORDS = {TYPE_PREFIX + name for name in (*DECISIONS, JOINED)}
GROUPS = 3


@pytest.mark.parametrize("group", range(GROUPS))
async def test_each_word_of_an_agent_among_open_matters_gives_what_deciding_from_nothing_gives(
    pool: asyncpg.Pool, group: int
) -> None:
    for seed in range(group, TANGLES, GROUPS):
        await follow(pool, seed)


async def follow(pool: asyncpg.Pool, seed: int) -> None:
    """Put one history and compare after each batch with a word of an agent, and at the end."""
    chance, tenant, reader = random.Random(seed), f"tangle{seed}", Reader()
    await put(pool, tenant, [], reader, a_policy(chance))
    meddles = chance.choice([0.0, 0.05, 0.2])
    batches = as_it_comes(chance, a_tangle(chance, tenant, chance.choice([20, 35, 60])))
    for number, batch in enumerate(batches):
        if number > len(batches) // 4 and chance.random() < meddles:
            batch = [*batch, *await a_word_on_what_is_there(pool, tenant, chance, number)]
        await put(pool, tenant, batch, reader)
        if number == len(batches) - 1 or any(event.type in WORDS for event in batch):
            await is_what_is_decided_from_nothing(pool, tenant, f"seed {seed}, batch {number}")
    got = await places(pool, tenant)
    assert reader.places() == {name: got[name] for name in got if name[0] != "/threadline"}, f"topic, seed {seed}"


NODES = """
SELECT array_agg(node ORDER BY node) FROM conversation.leaf WHERE tenant_id = $1 AND customer_id IN (
    SELECT customer_id FROM conversation.leaf JOIN conversation.entry USING (tenant_id, leaf_id) WHERE tenant_id = $1)
GROUP BY customer_id ORDER BY 1
"""
CONVERSATIONS = """
SELECT conversation_id FROM conversation.conversation WHERE tenant_id = $1 AND canonical_id = conversation_id ORDER BY 1
"""
POSTED = "SELECT entry_id FROM conversation.entry WHERE tenant_id = $1 AND source <> '/threadline' ORDER BY 1"
LAST = "SELECT max(occurred_at) FROM conversation.entry WHERE tenant_id = $1"


async def a_word_on_what_is_there(
    pool: asyncpg.Pool, tenant: str, chance: random.Random, number: int
) -> list[InboundEvent]:
    """Return what an agent says who looks at customers and conversations as they are now; nothing where none can be."""
    agent = {"type": "agent"}
    async with pool.acquire() as connection:
        at = await connection.fetchval(LAST, tenant) + timedelta(seconds=1)
        customers: list[list[str]] = [row[0] for row in await connection.fetch(NODES, tenant)]
        conversations: list[UUID] = [row[0] for row in await connection.fetch(CONVERSATIONS, tenant)]
        posted: list[UUID] = [row[0] for row in await connection.fetch(POSTED, tenant)]
        try:
            match chance.choice(["merge", "merge", "split", "split", "some", "whole", "out"]):
                case "merge" if len(customers) > 1:
                    event = deciding.merge(tenant, *chance.sample(customers, 2), None, agent, at)
                case "split":
                    nodes = chance.choice(customers)
                    handles = deciding.telling(nodes)
                    off = chance.sample(handles, chance.randint(1, max(1, len(handles) - 1)))
                    event = deciding.split(tenant, nodes, off, None, agent, at)
                case "some" if conversations:
                    into, ids = chance.choice(conversations), chance.sample(posted, min(3, len(posted)))
                    event = (await joining.some(connection, tenant, into, ids)).event(tenant, None, agent, at)
                case "whole" if len(conversations) > 1:
                    wanted = await joining.whole(connection, tenant, *chance.sample(conversations, 2))
                    event = wanted.event(tenant, None, agent, at)
                case "out":
                    ids = [id_ for id_ in chance.sample(posted, min(3, len(posted))) if id_ not in conversations]
                    if not ids:
                        return []
                    wanted = await joining.of_their_own(connection, tenant, ids[0], ids)
                    event = wanted.event(tenant, None, agent, at)
                case _:
                    return []
        except (deciding.Undecidable, joining.Unjoinable):
            return []
    return [replace(event, id=f"{event.id.partition(':')[0]}{number}")]


async def put(
    pool: asyncpg.Pool, tenant: str, events: list[InboundEvent], reader: Reader, policy: object = None
) -> None:
    async with pool.acquire() as connection, connection.transaction():
        if policy is not None:
            reader.read((await resolve_again(connection, tenant, SECRET, NOW, policy)).records)  # type: ignore[arg-type]
        if events:
            reader.read((await put_events(connection, tenant, events, SECRET, NOW)).records)


async def is_what_is_decided_from_nothing(pool: asyncpg.Pool, tenant: str, where: str) -> None:
    """Compare what is stored with deciding all again, and leave what is stored as it is."""
    before = await dump(pool, tenant)
    assert await pool.fetch(OVERLOOKED, tenant) == [], f"conversations taken for ended while they go on, {where}"
    async with pool.acquire() as connection:
        again = connection.transaction()
        await again.start()
        try:
            outcome = await resolve_again(connection, tenant, SECRET, NOW)
            after = await dump(connection, tenant)
        finally:
            await again.rollback()
    for table, rows in before.items():
        assert after[table] == rows, f"{table}, {where}"
    assert outcome.moved == 0, where


@pytest.mark.parametrize("joined", [False, True], ids=["alone", "after their matters were made one"])
async def test_a_browser_that_an_agent_says_is_somebodys_changes_nothing_of_their_matters(
    pool: asyncpg.Pool, *, joined: bool
) -> None:
    def said(number: int, **data: object) -> InboundEvent:
        return InboundEvent("acme", "/a", f"e{number}", "threadline.message.received", hour(number), hour(number), data)

    def hour(number: int) -> datetime:
        return NOW + timedelta(hours=number)

    ann, browser = ({"handles": [{"kind": k, "value": v}]} for k, v in (("crm", "4"), ("visitor", "v2")))
    one, other, next_ = said(1, customer=ann), said(2, customer=browser), said(3, customer=ann)
    events = [one, other, next_]
    agent: dict[str, object] = {"actor": {"type": "agent"}}
    if joined:
        agents = agent | {"into": entry_id(other), "from": entry_id(one)}
        events.append(InboundEvent("acme", "/threadline", "j", TYPE_PREFIX + JOINED, hour(4), hour(4), agents))
    agents = agent | {"sides": [["crm:4"], ["visitor:v2"]]}
    events.append(InboundEvent("acme", "/threadline", "w", "threadline.customer.merged", hour(5), hour(5), agents))
    for event in events:
        await put(pool, "acme", [event], Reader())
    found = {name: place for (_, name), place in (await places(pool, "acme")).items()}
    assert len({found[name][0] for name in ("e1", "e2", "e3")}) == 1
    assert found["e3"] == found["e1"]
    assert (found["e2"] == found["e1"]) == joined
    await is_what_is_decided_from_nothing(pool, "acme", "at the end")
