"""Random histories held to the reference: whatever the order, the batches and the repetitions of their arrival.

THREADLINE_TEST_HISTORIES says how many are tried beside those that once went wrong (default 30); a failure names the
seed that shows it again.
"""

from __future__ import annotations

import asyncio
import os
import random
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from services.conversation import tables
from services.conversation.update import Outcome, put_events, resolve_again
from shared.events import InboundEvent
from tests.comparing import Reader, differences, places
from tests.histories import (
    SECRET,
    a_history,
    a_history_of_merges,
    a_history_of_neighbours,
    a_policy,
    arrivals,
    some_decisions,
    some_joins,
    some_taken_out,
)
from tests.integration.conversation.test_dialogues import dump

pytestmark = pytest.mark.usefixtures("many_checkpoints")

NOW = datetime(2026, 1, 1, tzinfo=UTC)
HISTORIES = int(os.environ.get("THREADLINE_TEST_HISTORIES", "30"))
ONCE_WRONG = [6, 14, 17, 39, 47, 58, 64, 115, 125, 141, 268, 530, 853, 10635, 20395, 30185, 90212]
DECISIONS_ONCE_WRONG = [70_092, 70_240, 70_325, 70_840]
TAKEN_OUT_ONCE_WRONG = [75_022]
MERGES_ONCE_WRONG = [111_929]
SEEDS = [*ONCE_WRONG, *range(20_000, 20_000 + HISTORIES)]
GROUPS = 4
WRITERS = 16


async def put(pool: asyncpg.Pool, tenant: str, events: list[InboundEvent]) -> Outcome:
    async with pool.acquire() as connection, connection.transaction():
        return await put_events(connection, tenant, events, SECRET, NOW)


async def decide_again(pool: asyncpg.Pool, tenant: str, **policy: object) -> Outcome:
    async with pool.acquire() as connection, connection.transaction():
        return await resolve_again(connection, tenant, SECRET, NOW, **policy)  # type: ignore[arg-type]


@pytest.mark.parametrize("group", range(GROUPS))
async def test_any_arrival_of_a_history_gives_what_the_rules_give_for_the_whole(pool: asyncpg.Pool, group: int) -> None:
    for seed in SEEDS[group::GROUPS]:
        chance, tenant, reader = random.Random(seed), f"tenant{seed}", Reader()
        policy = a_policy(chance)
        events = a_history(chance, tenant, chance.choice([4, 6, 8, 12, 20, 30]))
        reader.read((await decide_again(pool, tenant, policy=policy)).records)
        for batch in arrivals(chance, events):
            reader.read((await put(pool, tenant, batch)).records)
        got = await places(pool, tenant)
        assert differences(events, policy, got) == [], seed
        assert reader.places() == got, f"what the topic says, seed {seed}"
        await is_what_is_decided_from_scratch(pool, tenant, seed)


OVERLOOKED = f"""
SELECT p.leaf_id, p.conversation_id FROM conversation.participation p
JOIN conversation.conversation c ON c.tenant_id = $1 AND c.conversation_id = p.conversation_id
JOIN conversation.conversation k ON k.tenant_id = $1 AND k.conversation_id = c.canonical_id
WHERE p.tenant_id = $1 AND p.active_week < {tables.conversations.WEEK.format("k.last_entry_at")}
"""


async def is_what_is_decided_from_scratch(pool: asyncpg.Pool, tenant: str, seed: int) -> None:
    before = await dump(pool, tenant)
    assert await pool.fetch(OVERLOOKED, tenant) == [], f"conversations taken for ended while they go on, seed {seed}"
    outcome = await decide_again(pool, tenant)
    after = await dump(pool, tenant)
    for table, rows in before.items():
        assert after[table] == rows, (table, seed)
    assert outcome.moved == 0, seed


async def test_what_agents_decide_at_any_moment_gives_what_deciding_from_scratch_gives(pool: asyncpg.Pool) -> None:
    for seed in {*DECISIONS_ONCE_WRONG, *range(70_000, 70_000 + HISTORIES // 2)}:
        chance, tenant, reader = random.Random(seed), f"tenant{seed}", Reader()
        reader.read((await decide_again(pool, tenant, policy=a_policy(chance))).records)
        events = a_history(chance, tenant, chance.choice([6, 12, 20]))
        events += chance.choice([some_decisions, some_joins])(chance, tenant, events)
        for batch in arrivals(chance, sorted(events, key=lambda event: event.occurred_at)):
            reader.read((await put(pool, tenant, batch)).records)
        got = await places(pool, tenant)
        assert reader.places() == {name: got[name] for name in got if name[0] != "/threadline"}, seed
        await is_what_is_decided_from_scratch(pool, tenant, seed)


async def test_what_agents_take_out_at_any_moment_gives_what_deciding_from_scratch_gives(pool: asyncpg.Pool) -> None:
    for seed in {*TAKEN_OUT_ONCE_WRONG, *range(75_000, 75_000 + HISTORIES // 2)}:
        chance, tenant, reader = random.Random(seed), f"tenant{seed}", Reader()
        reader.read((await decide_again(pool, tenant, policy=a_policy(chance))).records)
        events = a_history(chance, tenant, chance.choice([6, 12, 20]))
        events += some_taken_out(chance, tenant, events)
        for batch in arrivals(chance, sorted(events, key=lambda event: event.occurred_at)):
            reader.read((await put(pool, tenant, batch)).records)
        got = await places(pool, tenant)
        assert reader.places() == {name: got[name] for name in got if name[0] != "/threadline"}, seed
        await is_what_is_decided_from_scratch(pool, tenant, seed)


async def test_people_found_to_be_one_give_what_deciding_from_scratch_gives_at_every_step(pool: asyncpg.Pool) -> None:
    for seed in {*MERGES_ONCE_WRONG, *range(110_000, 110_000 + HISTORIES)}:
        chance, tenant, reader = random.Random(seed), f"tenant{seed}", Reader()
        events = a_history_of_merges(chance, tenant, chance.choice([10, 20, 40]))
        await decide_again(pool, tenant, policy=a_policy(chance))
        late = set(chance.sample(range(len(events)), chance.choice([0, 0, 0, 1, 2])))
        ordered = [event for number, event in enumerate(events) if number not in late]
        for event in [*ordered, *(events[number] for number in late)]:
            reader.read((await put(pool, tenant, [event])).records)
            if event.type.startswith("threadline.customer."):
                await is_what_is_decided_from_scratch(pool, tenant, seed)
        got = await places(pool, tenant)
        assert reader.places() == {name: got[name] for name in got if name[0] != "/threadline"}, seed
        await is_what_is_decided_from_scratch(pool, tenant, seed)


async def test_neighbours_found_to_be_one_give_what_deciding_from_scratch_gives_at_every_step(
    pool: asyncpg.Pool,
) -> None:
    for seed in range(150_000, 150_000 + HISTORIES):
        chance, tenant, reader = random.Random(seed), f"tenant{seed}", Reader()
        await decide_again(pool, tenant, policy=a_policy(chance))
        events = a_history_of_neighbours(chance, tenant, chance.choice([12, 25, 40]))
        if chance.random() < 0.2:
            events.append(events.pop(chance.randrange(len(events) - 1)))
        for event in events:
            reader.read((await put(pool, tenant, [event])).records)
            if event.type == "threadline.customer.merged":
                await is_what_is_decided_from_scratch(pool, tenant, seed)
        got = await places(pool, tenant)
        assert reader.places() == {name: got[name] for name in got if name[0] != "/threadline"}, seed


NAMED, TOGETHER, APART = "customer.identified", "customer.merged", "customer.unmerged"


@pytest.mark.parametrize(
    "words",
    [
        [(0, NAMED), (240, APART)],
        [(0, NAMED), (3, APART), (240, TOGETHER)],
        [(0, TOGETHER), (240, APART)],
        [(0, APART), (240, TOGETHER)],
        [(0, TOGETHER), (240, TOGETHER)],
    ],
)
async def test_an_agents_later_word_on_the_same_two_also_changes_what_the_earlier_one_did(
    pool: asyncpg.Pool, words: list[tuple[int, str]]
) -> None:
    ann, caller = {"kind": "email", "value": "ann@a.example"}, {"kind": "phone", "value": "+31612345671"}

    def event(name: str, hours: int, kind: str, **data: object) -> InboundEvent:
        at = NOW + timedelta(hours=hours)
        return InboundEvent("acme", "/x", name, f"threadline.{kind}", at, at, data)

    # Two messages that are of one matter only where their writers are one customer.
    events = [
        event("mail", 1, "message.received", channel="email", customer={"handles": [ann]}),
        event("text", 2, "message.received", channel="sms", customer={"handles": [caller]}),
    ]
    sides = [[f"{one['kind']}:{one['value']}"] for one in (ann, caller)]
    for hours, kind in words:
        events.append(event(f"{kind}{hours}", hours, kind, customer={"handles": [ann, caller]}, sides=sides))
    for one in sorted(events, key=lambda event: event.occurred_at):
        await put(pool, "acme", [one])
    await is_what_is_decided_from_scratch(pool, "acme", 0)


async def test_sixteen_writers_at_once_end_in_the_right_groups_without_a_deadlock(pool: asyncpg.Pool) -> None:
    chance = random.Random(16)
    tenants = ["one", "two", "three"]
    histories = {tenant: a_history(chance, tenant, 60) for tenant in tenants}
    policies = {tenant: a_policy(chance) for tenant in tenants}
    for tenant in tenants:
        await decide_again(pool, tenant, policy=policies[tenant])
    # Every event comes twice, by different writers; half of all goes to one tenant.
    queue = [event for tenant in tenants for event in histories[tenant] * 2]
    chance.shuffle(queue)
    shares = [queue[number::WRITERS] for number in range(WRITERS)]

    async def write(share: list[InboundEvent], seed: int) -> None:
        own = random.Random(seed)
        while share:
            batch, share = share[: (size := own.randint(1, 6))], share[size:]
            async with pool.acquire() as connection, connection.transaction():
                # As the consumer does it: several tenants in one transaction, in one order over all writers.
                for tenant in sorted({event.tenant for event in batch}):
                    mine = [event for event in batch if event.tenant == tenant]
                    await put_events(connection, tenant, mine, SECRET, NOW)

    async with asyncio.timeout(120):
        await asyncio.gather(*(write(share, seed) for seed, share in enumerate(shares)))
    for tenant in tenants:
        assert differences(histories[tenant], policies[tenant], await places(pool, tenant)) == []
        assert (await decide_again(pool, tenant)).moved == 0


async def test_another_tenants_events_change_no_byte_of_the_first_ones(pool: asyncpg.Pool) -> None:
    chance = random.Random(7)
    events = a_history(chance, "first", 30)
    await put(pool, "first", events)
    before = await dump(pool, "first")
    for event in events:
        other = InboundEvent(
            "second", event.source, event.id, event.type, event.occurred_at, event.received_at, event.data
        )
        await put(pool, "second", [other])
    assert await dump(pool, "first") == before
