"""The invariants of identity and stitching, each over random histories in random interleavings, on the real database.

A history arrives in any order, some of it twice, split over several consumers that work at once, each with connections
of its own as in processes of their own. THREADLINE_TEST_EXAMPLES says how many examples each invariant gets.

| invariant | shown by |
|---|---|
| 1 any order, any repetition: the same people, conversations, timelines | here; test_histories.py against a reference |
| 2 each event on one timeline, quarantined or erased | here; `threadline verify` in tests/e2e and tests/faults |
| 3 step by step is what is decided from scratch | here; test_histories.py, also with decisions of agents |
| 4 other bytes under a known id: the first stays | here |
| 5 no two crm ids; barred and weak handles change no grouping | here; tests/unit/test_identity.py |
| 6 a split undoes a merge, timelines and KPIs | test_undone.py; test_decisions.py for evidence that comes later |
| 7 writers who merge at once, readers meanwhile | test_writers.py |
| 8 an explicit key reaches its conversation | here |
| 9 72 hours to the second | here; tests/unit/test_stitching.py |
| 10 an escalated conversation shows all from before | here |
| 11 a tenant's output follows from its own events | here; test_tenants.py for row-level security |
| 12 a replay gives the same grouping, nobody erased comes back | here; test_erasing.py |
| 13 counts add up; every KPI equals its recount | here; `threadline verify`; tests/unit/test_kpi_reference.py |
"""

from __future__ import annotations

import asyncio
import os
import random
import re
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any, TypeVar

import asyncpg
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.conversation.policy import Policy
from services.conversation.reading.timelines import Page, conversation_entries, timeline
from services.conversation.update import put_events
from shared.database.engine import tenant_reader
from shared.entry_ids import entry_id_of
from shared.events import InboundEvent
from tests.comparing import places
from tests.histories import BEGINNING, HOUR, SECOND, SECRET, WINDOW, a_history, a_policy
from tests.integration.conversation.test_dialogues import dump
from tests.integration.conversation.test_histories import NOW, decide_again

T = TypeVar("T", bound=Callable[..., Any])
Name = tuple[str, str]
EXAMPLES = int(os.environ.get("THREADLINE_TEST_EXAMPLES", "6"))
LENGTHS = (4, 8, 16, 30)


def over_random_histories(test: T) -> T:
    """Give a test the argument `seed` of each example: of everything in it that is random."""
    steady = settings(
        max_examples=EXAMPLES,
        derandomize=True,
        deadline=None,
        database=None,
        # One database serves all examples: each has tenants of its own.
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )
    return steady(given(seed=st.integers(0, 2**32))(test))  # type: ignore[no-any-return]


async def begun(pool: asyncpg.Pool, tenant: str, policy: Policy) -> None:
    await decide_again(pool, tenant, policy=policy)


async def deliver(pool: asyncpg.Pool, events: Sequence[InboundEvent], chance: random.Random) -> None:
    """Bring events in any order, a fifth of them twice, through several consumers at once."""
    queue = [*events, *chance.sample(list(events), len(events) // 5)]
    chance.shuffle(queue)
    consumers = chance.randint(1, 4)

    async def consume(share: list[InboundEvent], own: random.Random) -> None:
        while share:
            size = own.choice([1, 2, 5, len(share)])
            batch, share = share[:size], share[size:]
            async with pool.acquire() as connection, connection.transaction():
                for tenant in sorted({event.tenant for event in batch}):
                    mine = [event for event in batch if event.tenant == tenant]
                    await put_events(connection, tenant, mine, SECRET, NOW)

    shares = [queue[number::consumers] for number in range(consumers)]
    async with asyncio.timeout(60):
        await asyncio.gather(*(consume(share, random.Random(chance.random())) for share in shares))


def moved_to(tenant: str, events: Iterable[InboundEvent]) -> list[InboundEvent]:
    """Return the same events as another tenant's; what they name by id is that tenant's too."""
    known = {str(entry_id_of(SECRET, e.tenant, e.source, e.id)): (e.source, e.id) for e in events}

    def renamed(data: dict[str, Any]) -> dict[str, Any]:
        named = known.get(str(data.get("conversation_id")))
        return {**data, "conversation_id": str(entry_id_of(SECRET, tenant, *named))} if named else data

    return [replace(event, tenant=tenant, data=renamed(event.data)) for event in events]


async def shape(pool: asyncpg.Pool, tenant: str) -> dict[Name, tuple[Hashable, Hashable]]:
    """Return for each entry whom it shares a customer with, and the entry whose id its conversation has."""
    found = await places(pool, tenant)
    together: dict[Hashable, set[Name]] = defaultdict(set)
    for name, (customer, _) in found.items():
        together[customer].add(name)
    founders = {entry_id_of(SECRET, tenant, *name): name for name in found}
    return {name: (frozenset(together[who]), founders.get(where, where)) for name, (who, where) in found.items()}


async def derived(pool: asyncpg.Pool, tenant: str) -> set[tuple[str, str]]:
    """Return of each entry that follows from another which that is, and what it says, ids by their entries' names."""
    named = {str(entry_id_of(SECRET, tenant, *name)): "/".join(name) for name in await places(pool, tenant)}
    rows = await pool.fetch(
        "SELECT event_id, data FROM conversation.entry WHERE tenant_id = $1 AND cause_id IS NOT NULL", tenant
    )
    id_ = re.compile("|".join(named) or "-")
    return {
        tuple(id_.sub(lambda m: named[m[0]], text) for text in (row[0], str(sorted(row[1].items())))) for row in rows
    }


async def handles_by_customer(pool: asyncpg.Pool, tenant: str) -> set[frozenset[str]]:
    rows = await pool.fetch(
        "SELECT array_agg(node) FROM conversation.leaf WHERE tenant_id = $1 AND node !~ '^(visitor|anonymous):' "
        "GROUP BY customer_id",
        tenant,
    )
    return {frozenset(row[0]) for row in rows}


@over_random_histories
async def test_any_order_and_repetition_give_the_same_and_a_replay_changes_nothing(
    pool: asyncpg.Pool, seed: int
) -> None:
    """Invariants 1, 2, 3, 12 and 13."""
    chance = random.Random(seed)
    policy, tenants = a_policy(chance), [f"one{seed}", f"two{seed}"]
    events = a_history(chance, tenants[0], chance.choice(LENGTHS))
    for tenant in tenants:
        await begun(pool, tenant, policy)
        await deliver(pool, moved_to(tenant, events), chance)
    assert await shape(pool, tenants[0]) == await shape(pool, tenants[1])
    assert await derived(pool, tenants[0]) == await derived(pool, tenants[1])
    before = await dump(pool, tenants[0])
    await deliver(pool, events, chance)
    assert await dump(pool, tenants[0]) == before
    assert (await decide_again(pool, tenants[0])).moved == 0
    assert await dump(pool, tenants[0]) == before
    await each_event_is_on_one_timeline(pool, tenants[0], events)


async def each_event_is_on_one_timeline(pool: asyncpg.Pool, tenant: str, events: Sequence[InboundEvent]) -> None:
    copies = await pool.fetch("SELECT source, event_id FROM conversation.copy WHERE tenant_id = $1", tenant)
    rows = await pool.fetch("SELECT DISTINCT customer_id FROM conversation.leaf WHERE tenant_id = $1", tenant)
    own: list[Name] = []
    async with tenant_reader(pool, tenant) as connection:
        for row in rows:
            page, more = await timeline(connection, tenant, row[0], Page(limit=200, own_only=True))
            assert not more
            own += [(entry["source"], entry["event_id"]) for entry in page if entry["source"] != "/threadline"]
    # Sum over customers = accepted − copies, and none of them twice.
    assert len(own) == len(events) - len(copies)
    assert sorted([*own, *((row[0], row[1]) for row in copies)]) == sorted((e.source, e.id) for e in events)


@over_random_histories
async def test_other_bytes_under_a_known_id_change_nothing_and_are_kept(pool: asyncpg.Pool, seed: int) -> None:
    """Invariant 4."""
    chance, tenant = random.Random(seed), f"tenant{seed}"
    await begun(pool, tenant, a_policy(chance))
    events = a_history(chance, tenant, chance.choice(LENGTHS))
    await deliver(pool, events, chance)
    before = await dump(pool, tenant)
    others = [replace(event, data={**event.data, "text": f"other {n}"}) for n, event in enumerate(events)]
    others = [replace(event, occurred_at=event.occurred_at + chance.choice([-HOUR, HOUR])) for event in others]
    await deliver(pool, [*others, *events], chance)
    assert await dump(pool, tenant) == before
    kept = await pool.fetchval("SELECT count(*) FROM conversation.conflict WHERE tenant_id = $1", tenant)
    assert kept == len(events)


@over_random_histories
async def test_handles_that_identify_nobody_change_no_grouping(pool: asyncpg.Pool, seed: int) -> None:
    """Invariant 5."""
    chance = random.Random(seed)
    policy = a_policy(chance).model_copy(
        update={"blocked": ("phone:+31612340000",), "shared": ("email:all@x.example",)}
    )
    plain, barred = f"plain{seed}", f"barred{seed}"
    events = a_history(chance, plain, chance.choice(LENGTHS))
    useless = [
        {"kind": "phone", "value": "+31612340000"}, {"kind": "email", "value": "all@x.example"},
        {"kind": "visitor", "value": "v9"}, {"kind": "crm", "value": "undefined"},
        {"kind": "email", "value": "no-reply@x.example"}, {"kind": "email", "value": "us@own.example"},
    ]  # fmt: skip

    def with_useless(data: dict[str, Any]) -> dict[str, Any]:
        known = (data.get("customer") or {}).get("handles", [])
        given = [*known, *chance.sample(useless, chance.randint(0, 3))]
        chance.shuffle(given)
        return {**data, "customer": {"handles": given}}

    for tenant in (plain, barred):
        await begun(pool, tenant, policy)
    await deliver(pool, events, chance)
    added = [replace(event, data=with_useless(event.data)) for event in moved_to(barred, events)]
    await deliver(pool, added, chance)
    seen = {node for group in await handles_by_customer(pool, plain) for node in group}
    grouped = {frozenset(group & seen) for group in await handles_by_customer(pool, barred)} - {frozenset()}
    assert grouped == await handles_by_customer(pool, plain)
    for tenant in (plain, barred):
        for group in await handles_by_customer(pool, tenant):
            assert sum(node.startswith("crm:") for node in group) <= 1


@over_random_histories
async def test_an_explicit_key_reaches_its_conversation_before_after_and_without_its_parent(
    pool: asyncpg.Pool, seed: int
) -> None:
    """Invariant 8."""
    chance, tenant = random.Random(seed), f"tenant{seed}"
    ids = [f"<k{number}@thread.example>" for number in range(5)]
    replies = []
    for number, own in enumerate(ids):
        earlier = ids[:number]
        thread: dict[str, Any] = {"references": earlier[-2:], "in_reply_to": earlier[-1]} if earlier else {}
        data = {"channel": "email", "message_id": own, "thread": thread}
        at = BEGINNING + number * HOUR
        replies.append(InboundEvent(tenant, "/mail", own, "threadline.message.received", at, at, data))
    # One of them never comes; those who name it meet all the same.
    replies.remove(replies[chance.randrange(1, 4)])
    others = [event for event in a_history(chance, tenant, 12) if event.data.get("channel") != "email"]
    await deliver(pool, [*replies, *others], chance)
    found = await places(pool, tenant)
    assert len({found["/mail", reply.id][1] for reply in replies}) == 1


@over_random_histories
async def test_the_open_window_ends_by_event_time_to_the_second(pool: asyncpg.Pool, seed: int) -> None:
    """Invariant 9."""
    chance, tenant = random.Random(seed), f"tenant{seed}"
    customer = {"handles": [{"kind": "email", "value": "ann@a.example"}]}
    at, events, matter = BEGINNING, list[InboundEvent](), 0
    expected: dict[Name, int] = {}
    for number in range(10):
        gap = chance.choice([WINDOW - SECOND, WINDOW, WINDOW + SECOND])
        at += gap if events else timedelta()
        matter += gap > WINDOW and bool(events)
        received = at + timedelta(days=chance.randint(0, 5))
        data = {"channel": "chat", "customer": customer}
        events.append(InboundEvent(tenant, "/a", f"e{number}", "threadline.message.received", at, received, data))
        expected["/a", f"e{number}"] = matter
    await deliver(pool, events, chance)
    found = {name: place[1] for name, place in (await places(pool, tenant)).items()}
    assert grouped_by(found) == grouped_by(expected)


def grouped_by(value_of: Mapping[Name, Hashable]) -> set[frozenset[Name]]:
    groups: dict[Hashable, set[Name]] = defaultdict(set)
    for name, value in value_of.items():
        groups[value].add(name)
    return {frozenset(group) for group in groups.values()}


@over_random_histories
async def test_an_escalated_conversation_shows_everything_from_before(pool: asyncpg.Pool, seed: int) -> None:
    """Invariant 10: to the reader of the conversation and to that of each customer who takes part."""
    chance, tenant = random.Random(seed), f"tenant{seed}"
    events = a_history(chance, tenant, 40)
    await deliver(pool, events, chance)
    held: dict[Any, set[str]] = defaultdict(set)
    customers: dict[Any, set[Any]] = defaultdict(set)
    for (_, event_id), (customer, conversation) in (await places(pool, tenant)).items():
        held[conversation].add(event_id)
        customers[conversation].add(customer)
    escalated = await pool.fetch(
        "SELECT DISTINCT coalesce(c.canonical_id, e.conversation_id) FROM conversation.entry e "
        "JOIN conversation.conversation c USING (tenant_id, conversation_id) "
        "WHERE e.tenant_id = $1 AND e.type = 'threadline.conversation.escalated'",
        tenant,
    )
    async with tenant_reader(pool, tenant) as connection:
        for (id_,) in escalated:
            page, _ = await conversation_entries(connection, tenant, id_, Page(limit=200))
            assert held[id_] <= {entry["event_id"] for entry in page}
            for customer in customers[id_]:
                line, _ = await timeline(connection, tenant, customer, Page(limit=200))
                assert held[id_] <= {entry["event_id"] for entry in line}


@over_random_histories
async def test_a_tenants_answers_follow_from_its_own_events(pool: asyncpg.Pool, seed: int) -> None:
    """Invariant 11."""
    chance = random.Random(seed)
    first, second = f"first{seed}", f"second{seed}"
    events = a_history(chance, first, chance.choice(LENGTHS))
    await deliver(pool, events, chance)
    before, seen = await dump(pool, first), await answers(pool, first)
    theirs = [*moved_to(second, events), *a_history(chance, second, 10)]
    await deliver(pool, {(e.source, e.id): e for e in theirs}.values(), chance)  # type: ignore[arg-type]
    await decide_again(pool, second, policy=a_policy(chance))
    assert await dump(pool, first) == before
    assert await answers(pool, first) == seen


async def answers(pool: asyncpg.Pool, tenant: str) -> list[Any]:
    rows = await pool.fetch(
        "SELECT DISTINCT customer_id FROM conversation.leaf WHERE tenant_id = $1 ORDER BY 1", tenant
    )
    async with tenant_reader(pool, tenant) as connection:
        return [await timeline(connection, tenant, row[0], Page(limit=200)) for row in rows]
