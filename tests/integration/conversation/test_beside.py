"""Decisions made on a snapshot beside the stream: stored where nothing that they had to do with changed, else anew.

THREADLINE_TEST_HISTORIES says how many random interleavings are tried (default 30); a failure names the seed that shows
it again.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace

import asyncpg
import pytest

from services.conversation import tables
from services.conversation.batch import Limits
from services.conversation.beside import Decision, Overtaken, decide_beside, store
from services.conversation.erasure.erasing import NobodysOwn
from services.conversation.policy import Policy
from services.conversation.update import decide_aside, put_events
from shared.events import InboundEvent
from shared.log.postgres import postgres_log
from tests.comparing import differences, places
from tests.histories import DAY, SECRET, a_history, a_history_of_merges, some_decisions, some_joins
from tests.integration.conversation.test_erasing import erase_somebody
from tests.integration.conversation.test_histories import (
    GROUPS,
    HISTORIES,
    NOW,
    is_what_is_decided_from_scratch,
)
from tests.integration.conversation.test_lane import ThroughTheLane, WithPolicies, nothing_is_aside, put
from tests.integration.conversation.test_lane_service import ANN, CALLER, SMALL, said, two_people

SEEDS = range(170_000, 170_000 + 2 * HISTORIES)
AGENTS_SEEDS = range(180_000, 180_000 + HISTORIES)
LANES, WRITERS = 2, 4


async def decided(pool: asyncpg.Pool, tenant: str, most: int = 100) -> Decision | None:
    async with pool.acquire() as connection:
        return await decide_beside(connection, tenant, SECRET, NOW, most)


class Beside(ThroughTheLane):
    """One tenant of whom the lane decides beside what comes in: between its look and its word more may come."""

    decision: Decision | None = None
    stored = 0
    overtaken = 0

    def batches(self, events: Sequence[InboundEvent]) -> Iterator[list[InboundEvent]]:
        """Yield small batches, so that there is much between."""
        for batch in super().batches(events):
            while batch:
                count = self.chance.randint(1, 3)
                yield batch[:count]
                batch = batch[count:]

    async def between(self) -> None:
        if self.decision is None:
            self.decision = await decided(self.pool, self.tenant, self.chance.choice([1, 2, 100]))
        elif self.chance.random() < 0.5:
            await self.word()

    async def word(self) -> bool:
        decision, self.decision = self.decision, None
        if decision is None:
            return False
        try:
            async with self.pool.acquire() as connection, connection.transaction():
                outcome = await store(connection, decision, NOW)
        except Overtaken:
            self.overtaken += 1
            return True
        self.stored += decision.seen.version + 1 < await version(self.pool, self.tenant)
        self.reader.read(outcome.records)
        return True

    async def finish(self) -> None:
        await self.word()
        await super().finish()


async def version(pool: asyncpg.Pool, tenant: str) -> int:
    found: int = await pool.fetchval("SELECT version FROM conversation.tenant_state WHERE tenant_id = $1", tenant)
    return found


History = Callable[[random.Random, str], list[InboundEvent]]


def of_few(chance: random.Random, tenant: str) -> list[InboundEvent]:
    return a_history(chance, tenant, chance.choice([12, 20, 30]))


def of_groups(chance: random.Random, tenant: str) -> list[InboundEvent]:
    """Return what several groups of people do, each with names of its own, a few of them common to two."""
    events = []
    for group in range(3):
        for event in a_history(chance, tenant, chance.choice([8, 14])):
            own = _renamed(event.data, f"g{group}" if chance.random() < 0.95 else "g0")
            name = f"{group}-{event.id}"
            events.append(
                InboundEvent(tenant, event.source, name, event.type, event.occurred_at, event.received_at, own)
            )
    return sorted(events, key=lambda event: event.occurred_at)


def _renamed(value: object, mark: str, key: str = "") -> object:
    """Return data with every name that connects events made that of a group."""
    if isinstance(value, dict):
        return {name: _renamed(inner, mark, name) for name, inner in value.items()}
    if isinstance(value, list):
        return [_renamed(inner, mark, key) for inner in value]
    if not isinstance(value, str) or key in ("kind", "type", "channel", "conversation_id", "Auto-Submitted"):
        return value
    if key == "value":
        return value if value.startswith("+") else f"{mark}{value}"
    if "<" in value:
        return value.replace("<", f"<{mark}")
    return f"T-{mark}{value[2:]}" if value.startswith("T-") else f"{mark}{value}"


@pytest.mark.parametrize("group", range(GROUPS))
@pytest.mark.parametrize("history", [of_few, of_groups])
async def test_what_is_decided_on_a_snapshot_ends_as_the_rules_give_for_the_whole(
    pool: asyncpg.Pool, group: int, history: History
) -> None:
    stored = overtaken = 0
    for seed in SEEDS[group::GROUPS]:
        case = Beside(pool, seed)
        events = history(case.chance, case.tenant)
        await case.take(events)
        await case.finish()
        assert differences(events, case.policy, await places(pool, case.tenant)) == [], seed
        await case.agrees()
        stored, overtaken = stored + case.stored, overtaken + case.overtaken
    assert overtaken, "nothing was ever overtaken"
    assert stored, "nothing was ever stored after something else had come"


async def test_words_of_agents_decided_on_a_snapshot_end_as_deciding_from_scratch_gives(pool: asyncpg.Pool) -> None:
    for seed in AGENTS_SEEDS:
        case = Beside(pool, seed)
        if seed % 2:
            events = a_history_of_merges(case.chance, case.tenant, case.chance.choice([10, 20, 40]))
        else:
            events = of_groups(case.chance, case.tenant)
            events += case.chance.choice([some_decisions, some_joins])(case.chance, case.tenant, events)
        await case.take(events)
        await case.finish()
        await case.agrees()


class BesidePolicies(Beside, WithPolicies):
    """The same while the identity policy changes and is carried out in slices."""

    async def between(self) -> None:
        await Beside.between(self)
        if self.chance.random() < 0.3:
            await WithPolicies.between(self)


async def test_a_policy_or_a_slice_overtakes_what_was_decided_before_it(pool: asyncpg.Pool) -> None:
    for seed in range(190_000, 190_000 + HISTORIES):
        case = BesidePolicies(pool, seed)
        events = of_groups(case.chance, case.tenant)
        await case.take(events)
        await case.finish()
        assert differences(events, case.policy, await places(pool, case.tenant)) == [], seed
        await case.agrees()


async def test_an_erasure_overtakes_what_was_decided_before_it(pool: asyncpg.Pool) -> None:
    overtaken = 0
    async with postgres_log(pool, retention=None) as log:
        for seed in range(200_000, 200_000 + HISTORIES // 2):
            case = Beside(pool, seed)
            events = of_groups(case.chance, case.tenant)
            await case.take(events)
            case.decision = await decided(pool, case.tenant)
            overtaken += case.decision is not None
            now = max(event.occurred_at for event in events) + DAY
            with suppress(NobodysOwn):
                await erase_somebody(pool, log, case.tenant, case.chance, now)
            if case.decision is not None:
                with pytest.raises(Overtaken):
                    async with pool.acquire() as connection, connection.transaction():
                        await store(connection, case.decision, NOW)
            await nothing_is_aside(pool, case.tenant)
    assert overtaken


async def test_one_who_decided_long_ago_is_overtaken_whatever_was_forgotten_since(pool: asyncpg.Pool) -> None:
    await two_people(pool)
    await put(pool, "acme", [said("both", 3, ANN, CALLER)], SMALL)
    zombie = await decided(pool, "acme")
    assert zombie is not None
    async with pool.acquire() as connection, connection.transaction():
        await decide_aside(connection, "acme", SECRET, NOW)
    assert await pool.fetchval("SELECT count(*) FROM conversation.touched") == 0
    with pytest.raises(Overtaken):
        async with pool.acquire() as connection, connection.transaction():
            await store(connection, zombie, NOW)
    assert (await put(pool, "acme", [said("c", 4, ANN)], SMALL)).new == 1
    assert await pool.fetchval("SELECT count(*) FROM conversation.touched") == 0, "nobody asks"


async def test_a_message_for_others_does_not_overtake_and_one_of_the_same_people_does(pool: asyncpg.Pool) -> None:
    await two_people(pool)
    await put(pool, "acme", [said("both", 3, ANN, CALLER)], SMALL)
    first = await decided(pool, "acme")
    await put(pool, "acme", [said("c", 4, ANN)], SMALL)
    assert first is not None
    with pytest.raises(Overtaken):
        async with pool.acquire() as connection, connection.transaction():
            await store(connection, first, NOW)
    second = await decided(pool, "acme")
    await put(pool, "acme", [said("d", 5, "email:cy@c.example"), said("e", 6, "visitor:v9")], SMALL)
    assert second is not None
    async with pool.acquire() as connection, connection.transaction():
        outcome = await store(connection, second, NOW)
    assert outcome.new == 1
    await nothing_is_aside(pool, "acme")
    await is_what_is_decided_from_scratch(pool, "acme", 0)


async def is_overtaken_by(pool: asyncpg.Pool, aside: InboundEvent, event: InboundEvent) -> None:
    """What is decided about an event that is set aside does not hold once another one has come; made anew it does."""
    assert len((await put(pool, "acme", [aside], SMALL)).aside) == 1
    decision = await decided(pool, "acme")
    assert decision is not None
    assert (await put(pool, "acme", [event], SMALL)).new == 1
    with pytest.raises(Overtaken):
        async with pool.acquire() as connection, connection.transaction():
            await store(connection, decision, NOW)
    async with pool.acquire() as connection, connection.transaction():
        await decide_aside(connection, "acme", SECRET, NOW)
    await is_what_is_decided_from_scratch(pool, "acme", 0)


async def test_a_stranger_who_names_the_same_ticket_overtakes(pool: asyncpg.Pool) -> None:
    await two_people(pool)
    both, stranger = said("both", 4, ANN, CALLER), said("stranger", 3, "email:cy@c.example")
    for event in (both, stranger):
        event.data["thread"] = {"ticket": "T-9"}
    await is_overtaken_by(pool, both, stranger)


async def test_whoever_revives_a_matter_in_which_one_of_them_once_took_part_overtakes(pool: asyncpg.Pool) -> None:
    def mail(name: str, hours: int, who: str, **thread: str) -> InboundEvent:
        event = said(name, hours, who)
        event.data.update(channel="email", message_id=f"<{name}@x.example>", thread=thread)
        return event

    first, answer = mail("m1", 0, "email:bo@b.example"), mail("m2", 1, ANN, in_reply_to="<m1@x.example>")
    # The caller asks for an open matter; Bo's is long quiet when Ann is found to be the caller, until he goes on.
    await put(pool, "acme", [first, answer, said("text", 240, CALLER)], SMALL)
    merge = said("merge", 216)
    merge = replace(merge, type="threadline.customer.merged", data={"sides": [[ANN], [CALLER]]})
    await is_overtaken_by(pool, merge, mail("m3", 239, "email:bo@b.example", in_reply_to="<m2@x.example>"))
    row = await pool.fetchrow("SELECT rule, conversation_id FROM conversation.entry WHERE event_id = 'text'")
    assert row["rule"] == "open_conversation"


async def test_two_lanes_beside_writers_end_as_the_rules_give(pool: asyncpg.Pool) -> None:
    chance, tenant = random.Random(18), "acme"
    events = [event for number in range(4) for event in _numbered(of_groups(chance, tenant), number)]
    queue = events * 2
    chance.shuffle(queue)
    limits = Limits(leaves=1, entries=2)
    written = asyncio.Event()
    came: list[str] = []

    async def write(share: Sequence[InboundEvent], own: random.Random) -> None:
        while share:
            batch, share = share[: (size := own.randint(1, 4))], share[size:]
            async with pool.acquire() as connection, connection.transaction():
                await put_events(connection, tenant, batch, SECRET, NOW, limits)

    async def lane(own: random.Random) -> None:
        while not written.is_set() or await tables.aside.tenants(pool):
            decision = await decided(pool, tenant, own.choice([1, 3, 100]))
            if decision is not None:
                try:
                    async with pool.acquire() as connection, connection.transaction():
                        await store(connection, decision, NOW)
                    came.append("stored")
                except Overtaken:
                    came.append("overtaken")
            await asyncio.sleep(0.002)

    async def write_all() -> None:
        shares = (queue[number::WRITERS] for number in range(WRITERS))
        await asyncio.gather(*(write(share, random.Random(seed)) for seed, share in enumerate(shares)))
        written.set()

    async with asyncio.timeout(120):
        await asyncio.gather(write_all(), *(lane(random.Random(seed)) for seed in range(LANES)))
    assert {"stored", "overtaken"} <= set(came)
    await nothing_is_aside(pool, tenant)
    assert differences(events, await policy_of(pool, tenant), await places(pool, tenant)) == []
    await is_what_is_decided_from_scratch(pool, tenant, 18)


async def policy_of(pool: asyncpg.Pool, tenant: str) -> Policy:
    async with pool.acquire() as connection:
        return (await tables.tenants.get_policy(connection, tenant)).policy


def _numbered(events: Sequence[InboundEvent], number: int) -> list[InboundEvent]:
    mark = f"n{number}"
    return [
        InboundEvent(e.tenant, e.source, f"{mark}{e.id}", e.type, e.occurred_at, e.received_at, _renamed(e.data, mark))
        for e in events
    ]
