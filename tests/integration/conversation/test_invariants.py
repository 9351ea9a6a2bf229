"""The invariants of identity and stitching, each over random histories in random interleavings, on the real database.

A history arrives in any order, some of it twice, split over several processes that work on the database at once
(tests/consumers.py). THREADLINE_TEST_EXAMPLES says how many examples each invariant gets.

| invariant | shown by |
|---|---|
| 1 any order, any repetition: the same people, conversations, timelines | here; test_histories.py against a reference |
| 2 each event on one timeline, quarantined or erased | here; `threadline verify` in tests/e2e and tests/faults |
| 3 step by step is what is decided from scratch | here; test_histories.py, also with decisions of agents |
| 4 other bytes under a known id: the first stays | here |
| 5 no two crm ids; barred and weak handles change no grouping | here; tests/unit/test_identity.py |
| 6 a split undoes a merge, timelines and KPIs | here; test_undone.py with KPIs; test_decisions.py |
| 7 writers who merge at once, readers meanwhile | here; test_writers.py |
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
from collections.abc import Awaitable, Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any, TypeVar

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.conversation.deciding import telling
from services.conversation.policy import Limits, Policy
from services.conversation.reading.timelines import Page, conversation_entries, timeline
from shared.database.engine import tenant_reader
from shared.entry_ids import entry_id_of
from shared.events import DERIVED_SOURCE, InboundEvent
from shared.log.postgres import postgres_log
from tests.comparing import places
from tests.consumers import Consumers, Job, consumers
from tests.histories import BEGINNING, HOUR, SECOND, SECRET, WINDOW, a_history, a_policy
from tests.integration.conversation.test_dialogues import dump
from tests.integration.conversation.test_erasing import erase_somebody
from tests.integration.conversation.test_histories import NOW, decide_again
from tests.integration.conversation.test_undone import two_customers
from tests.integration.conversation.test_writers import a_link

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


@pytest.fixture(scope="module")
def processes() -> Iterator[Consumers]:
    """Three processes that live as long as these tests."""
    with consumers(3) as running:
        yield running


Deliver = Callable[[Iterable[InboundEvent], random.Random], Awaitable[None]]


@pytest.fixture
def deliver(database: str, processes: Consumers) -> Deliver:
    """Brings events in any order, a fifth of them twice, through one to three processes at once."""

    async def bring(events: Iterable[InboundEvent], chance: random.Random) -> None:
        every = list(events)
        queue = [*every, *chance.sample(every, len(every) // 5)]
        chance.shuffle(queue)
        count = chance.randint(1, len(processes))
        shares = [batches(queue[number::count], chance) for number in range(count)]
        await processes.work([Job(database, share, SECRET, NOW) for share in shares])

    return bring


def batches(share: list[InboundEvent], chance: random.Random) -> list[list[InboundEvent]]:
    cut = []
    while share:
        size = chance.choice([1, 2, 5, len(share)])
        cut.append(share[:size])
        share = share[size:]
    return cut


def moved_to(tenant: str, events: Iterable[InboundEvent]) -> list[InboundEvent]:
    """Return the same events as another tenant's; what they name by id is that tenant's too."""
    known = {str(entry_id_of(SECRET, e.tenant, e.source, e.id)): (e.source, e.id) for e in events}

    def renamed(data: dict[str, Any]) -> dict[str, Any]:
        named = known.get(str(data.get("conversation_id")))
        return {**data, "conversation_id": str(entry_id_of(SECRET, tenant, *named))} if named else data

    return [replace(event, tenant=tenant, data=renamed(event.data)) for event in events]


async def shape(pool: asyncpg.Pool, tenant: str) -> dict[Name, tuple[Hashable, Hashable]]:
    """Return for each event whom it shares a customer with, and the entry whose id its conversation has.

    What agents decided is left out.
    """
    found = {name: place for name, place in (await places(pool, tenant)).items() if name[0] != DERIVED_SOURCE}
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
    pool: asyncpg.Pool, deliver: Deliver, seed: int
) -> None:
    """Invariants 1, 2, 3, 12 and 13."""
    chance = random.Random(seed)
    policy, tenants = a_policy(chance), [f"one{seed}", f"two{seed}"]
    events = a_history(chance, tenants[0], chance.choice(LENGTHS))
    for tenant in tenants:
        await begun(pool, tenant, policy)
        await deliver(moved_to(tenant, events), chance)
    assert await shape(pool, tenants[0]) == await shape(pool, tenants[1])
    assert await derived(pool, tenants[0]) == await derived(pool, tenants[1])
    before = await dump(pool, tenants[0])
    await deliver(events, chance)
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
async def test_other_bytes_under_a_known_id_change_nothing_and_are_kept(
    pool: asyncpg.Pool, deliver: Deliver, seed: int
) -> None:
    """Invariant 4."""
    chance, tenant = random.Random(seed), f"tenant{seed}"
    await begun(pool, tenant, a_policy(chance))
    events = a_history(chance, tenant, chance.choice(LENGTHS))
    await deliver(events, chance)
    before = await dump(pool, tenant)
    others = [replace(event, data={**event.data, "text": f"other {n}"}) for n, event in enumerate(events)]
    others = [replace(event, occurred_at=event.occurred_at + chance.choice([-HOUR, HOUR])) for event in others]
    await deliver([*others, *events], chance)
    assert await dump(pool, tenant) == before
    kept = await pool.fetchval("SELECT count(*) FROM conversation.conflict WHERE tenant_id = $1", tenant)
    assert kept == len(events)


@over_random_histories
async def test_handles_that_identify_nobody_change_no_grouping(pool: asyncpg.Pool, deliver: Deliver, seed: int) -> None:
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
    await deliver(events, chance)
    added = [replace(event, data=with_useless(event.data)) for event in moved_to(barred, events)]
    await deliver(added, chance)
    seen = {node for group in await handles_by_customer(pool, plain) for node in group}
    grouped = {frozenset(group & seen) for group in await handles_by_customer(pool, barred)} - {frozenset()}
    assert grouped == await handles_by_customer(pool, plain)
    for tenant in (plain, barred):
        for group in await handles_by_customer(pool, tenant):
            assert sum(node.startswith("crm:") for node in group) <= 1


@over_random_histories
async def test_a_split_undoes_a_merge_in_whatever_order_both_arrive(
    pool: asyncpg.Pool, deliver: Deliver, seed: int
) -> None:
    """Invariant 6."""
    chance = random.Random(seed)
    policy, plain, undone = a_policy(chance), f"plain{seed}", f"undone{seed}"
    events = a_history(chance, plain, chance.choice(LENGTHS))
    for tenant in (plain, undone):
        await begun(pool, tenant, policy)
    await deliver(events, chance)
    pair = await two_customers(pool, plain, chance)
    at = chance.choice(events).occurred_at + chance.choice([-HOUR, HOUR])
    data = {"actor": {"type": "agent", "id": "a1"}, "sides": [telling(nodes) for nodes in pair or ()]}
    decided = [
        InboundEvent(undone, "/threadline", kind, f"threadline.customer.{kind}", at + n * SECOND, at, data)
        for n, kind in enumerate(("merged", "unmerged") if pair else ())
    ]
    await deliver([*moved_to(undone, events), *decided], chance)
    assert await shape(pool, undone) == await shape(pool, plain)


@over_random_histories
async def test_processes_that_link_a_chain_at_once_make_one_customer_and_no_reader_sees_an_entry_twice_or_not(
    pool: asyncpg.Pool, deliver: Deliver, seed: int
) -> None:
    """Invariant 7."""
    chance, tenant = random.Random(seed), f"tenant{seed}"
    await begun(pool, tenant, Policy(limits=Limits(email=20), degree_limit=20))
    nodes = [f"email:p{number}@x.example" for number in range(8)]
    said = [a_link(tenant, number, node, node, by_hand=False) for number, node in enumerate(nodes)]
    await deliver(said, chance)
    links = [
        a_link(tenant, 100 + number, nodes[number], nodes[number + 1], by_hand=chance.random() < 0.5)
        for number in range(7)
    ]
    names = sorted((event.source, event.id) for event in said)
    linking = asyncio.create_task(deliver(links, chance))
    while not linking.done():
        seen = [name for name in await all_timelines(pool, tenant) if name in names]
        assert sorted(seen) == names
    await linking
    assert await handles_by_customer(pool, tenant) == {frozenset(nodes)}


async def all_timelines(pool: asyncpg.Pool, tenant: str) -> list[Name]:
    """Return what is on all timelines as one reader sees them in one transaction."""
    async with tenant_reader(pool, tenant) as connection:
        rows = await connection.fetch("SELECT DISTINCT customer_id FROM conversation.leaf WHERE tenant_id = $1", tenant)
        lines = [(await timeline(connection, tenant, row[0], Page(limit=200, own_only=True)))[0] for row in rows]
    return [(entry["source"], entry["event_id"]) for line in lines for entry in line]


@over_random_histories
async def test_nobody_erased_comes_back_when_all_of_it_arrives_again(
    pool: asyncpg.Pool, deliver: Deliver, seed: int
) -> None:
    """Invariant 12."""
    chance, tenant = random.Random(seed), f"tenant{seed}"
    await begun(pool, tenant, a_policy(chance))
    events = a_history(chance, tenant, chance.choice(LENGTHS))
    await deliver(events, chance)
    async with postgres_log(pool, retention=None) as log:
        await erase_somebody(pool, log, tenant, chance, NOW)
    before = await dump(pool, tenant)
    await deliver(events, chance)
    assert await dump(pool, tenant) == before


@over_random_histories
async def test_an_explicit_key_reaches_its_conversation_before_after_and_without_its_parent(
    pool: asyncpg.Pool, deliver: Deliver, seed: int
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
    await deliver([*replies, *others], chance)
    found = await places(pool, tenant)
    assert len({found["/mail", reply.id][1] for reply in replies}) == 1


@over_random_histories
async def test_the_open_window_ends_by_event_time_to_the_second(
    pool: asyncpg.Pool, deliver: Deliver, seed: int
) -> None:
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
    await deliver(events, chance)
    found = {name: place[1] for name, place in (await places(pool, tenant)).items()}
    assert grouped_by(found) == grouped_by(expected)


def grouped_by(value_of: Mapping[Name, Hashable]) -> set[frozenset[Name]]:
    groups: dict[Hashable, set[Name]] = defaultdict(set)
    for name, value in value_of.items():
        groups[value].add(name)
    return {frozenset(group) for group in groups.values()}


@over_random_histories
async def test_an_escalated_conversation_shows_everything_from_before(
    pool: asyncpg.Pool, deliver: Deliver, seed: int
) -> None:
    """Invariant 10: to the reader of the conversation and to that of each customer who takes part."""
    chance, tenant = random.Random(seed), f"tenant{seed}"
    events = a_history(chance, tenant, 40)
    await deliver(events, chance)
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
async def test_a_tenants_answers_follow_from_its_own_events(pool: asyncpg.Pool, deliver: Deliver, seed: int) -> None:
    """Invariant 11."""
    chance = random.Random(seed)
    first, second = f"first{seed}", f"second{seed}"
    events = a_history(chance, first, chance.choice(LENGTHS))
    await deliver(events, chance)
    before, seen = await dump(pool, first), await answers(pool, first)
    theirs = [*moved_to(second, events), *a_history(chance, second, 10)]
    await deliver({(e.source, e.id): e for e in theirs}.values(), chance)
    await decide_again(pool, second, policy=a_policy(chance))
    assert await dump(pool, first) == before
    assert await answers(pool, first) == seen


async def answers(pool: asyncpg.Pool, tenant: str) -> list[Any]:
    rows = await pool.fetch(
        "SELECT DISTINCT customer_id FROM conversation.leaf WHERE tenant_id = $1 ORDER BY 1", tenant
    )
    async with tenant_reader(pool, tenant) as connection:
        return [await timeline(connection, tenant, row[0], Page(limit=200)) for row in rows]
