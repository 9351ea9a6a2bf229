"""Large decisions are made beside the stream: whatever is set aside, and when it is decided, the end is the same.

THREADLINE_TEST_HISTORIES says how many random histories are tried (default 30); a failure names the seed that shows it
again. The limits are so low that most of what touches anything goes through the lane.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import suppress

import asyncpg
import pytest

from services.conversation import tables
from services.conversation.batch import Limits
from services.conversation.erasure.erasing import NobodysOwn
from services.conversation.update import Outcome, decide_aside, put_events
from shared.events import InboundEvent
from shared.log.postgres import postgres_log
from tests.comparing import Reader, differences, places
from tests.histories import (
    DAY,
    SECRET,
    a_history,
    a_history_of_merges,
    a_policy,
    arrivals,
    some_decisions,
    some_joins,
)
from tests.integration.conversation.test_erasing import erase_somebody, erased, left
from tests.integration.conversation.test_histories import (
    GROUPS,
    HISTORIES,
    NOW,
    is_what_is_decided_from_scratch,
)
from tests.integration.conversation.test_slices import another_policy, carry_out, change

SEEDS = range(130_000, 130_000 + 2 * HISTORIES)
AGENTS_SEEDS = range(140_000, 140_000 + HISTORIES)
ERASURES = range(150_000, 150_000 + HISTORIES // 2)


def low_limits(chance: random.Random) -> Limits:
    return Limits(leaves=chance.choice([1, 1, 2, 3, 100]), entries=chance.choice([1, 2, 4, 8, 2000]))


async def put(pool: asyncpg.Pool, tenant: str, events: Sequence[InboundEvent], limits: Limits) -> Outcome:
    async with pool.acquire() as connection, connection.transaction():
        return await put_events(connection, tenant, events, SECRET, NOW, limits)


async def decide(pool: asyncpg.Pool, tenant: str, most: int | None = None) -> Outcome | None:
    async with pool.acquire() as connection, connection.transaction():
        return await decide_aside(connection, tenant, SECRET, NOW, most)


async def nothing_is_aside(pool: asyncpg.Pool, tenant: str) -> None:
    assert await tables.aside.tenants(pool) == []
    assert await pool.fetchval("SELECT aside FROM conversation.tenant_state WHERE tenant_id = $1", tenant) in (0, None)


class ThroughTheLane:
    """One tenant whose events are set aside and decided in turns of chance."""

    def __init__(self, pool: asyncpg.Pool, seed: int) -> None:
        self.pool, self.seed, self.tenant = pool, seed, f"tenant{seed}"
        self.chance, self.reader = random.Random(seed), Reader()
        self.limits, self.policy = low_limits(self.chance), a_policy(self.chance)
        self.aside = 0

    async def take(self, events: Sequence[InboundEvent]) -> None:
        await change(self.pool, self.tenant, self.policy)
        assert await carry_out(self.pool, self.tenant, 1) is None, "there is nothing yet"
        for batch in self.batches(sorted(events, key=lambda event: event.occurred_at)):
            await self.between()
            outcome = await put(self.pool, self.tenant, batch, self.limits)
            self.aside += len(outcome.aside)
            self.reader.read(outcome.records)

    def batches(self, events: Sequence[InboundEvent]) -> Iterator[list[InboundEvent]]:
        return arrivals(self.chance, events)

    async def between(self) -> None:
        """Let the lane have its turn, or not."""
        if self.chance.random() < 0.4:
            await self.decide(self.chance.choice([1, 1, 3, None]))

    async def decide(self, most: int | None) -> bool:
        outcome = await decide(self.pool, self.tenant, most)
        if outcome is not None:
            self.reader.read(outcome.records)
        return outcome is not None

    async def finish(self) -> None:
        while await self.decide(self.chance.choice([1, 2, None])):
            pass
        await nothing_is_aside(self.pool, self.tenant)

    async def agrees(self) -> None:
        got = await places(self.pool, self.tenant)
        told = self.reader.places()
        assert told == {name: got[name] for name in told}, self.seed
        assert told.keys() >= {name for name in got if name[0] != "/threadline"}, self.seed
        await is_what_is_decided_from_scratch(self.pool, self.tenant, self.seed)


@pytest.mark.parametrize("group", range(GROUPS))
async def test_a_history_most_of_which_is_set_aside_ends_as_the_rules_give_for_the_whole(
    pool: asyncpg.Pool, group: int
) -> None:
    aside = 0
    for seed in SEEDS[group::GROUPS]:
        case = ThroughTheLane(pool, seed)
        events = a_history(case.chance, case.tenant, case.chance.choice([6, 12, 20, 30]))
        await case.take(events)
        await case.finish()
        assert differences(events, case.policy, await places(pool, case.tenant)) == [], seed
        await case.agrees()
        aside += case.aside
    assert aside > len(SEEDS[group::GROUPS])


@pytest.mark.parametrize("group", range(GROUPS))
async def test_words_of_agents_that_are_set_aside_end_as_deciding_from_scratch_gives(
    pool: asyncpg.Pool, group: int
) -> None:
    for seed in AGENTS_SEEDS[group::GROUPS]:
        case = ThroughTheLane(pool, seed)
        if seed % 2:
            events = a_history_of_merges(case.chance, case.tenant, case.chance.choice([10, 20, 40]))
        else:
            events = a_history(case.chance, case.tenant, case.chance.choice([6, 12, 20]))
            events += case.chance.choice([some_decisions, some_joins])(case.chance, case.tenant, events)
        await case.take(events)
        await case.finish()
        await case.agrees()


class WithPolicies(ThroughTheLane):
    """The same while the identity policy changes and is carried out in slices."""

    async def between(self) -> None:
        await super().between()
        if self.chance.random() < 0.2:
            self.policy = another_policy(self.chance)
            await change(self.pool, self.tenant, self.policy)
        if self.chance.random() < 0.3:
            await self.slice()

    async def slice(self) -> bool:
        outcome = await carry_out(self.pool, self.tenant, self.chance.choice([1, 3, 8]))
        if outcome is not None:
            self.reader.read(outcome.records)
        return outcome is not None

    async def finish(self) -> None:
        while await self.slice():
            pass
        await super().finish()


async def test_policies_that_change_while_something_is_set_aside_end_as_the_last_one_gives(pool: asyncpg.Pool) -> None:
    for seed in range(160_000, 160_000 + HISTORIES):
        case = WithPolicies(pool, seed)
        events = a_history(case.chance, case.tenant, case.chance.choice([6, 12, 20]))
        await case.take(events)
        await case.finish()
        assert differences(events, case.policy, await places(pool, case.tenant)) == [], seed
        await case.agrees()


async def test_an_erasure_first_decides_what_is_set_aside(pool: asyncpg.Pool) -> None:
    aside = 0
    async with postgres_log(pool, retention=None) as log:
        for seed in ERASURES:
            case = ThroughTheLane(pool, seed)
            events = a_history(case.chance, case.tenant, case.chance.choice([6, 12, 20]))
            await case.take(events)
            aside += len(await pool.fetch("SELECT FROM conversation.aside WHERE tenant_id = $1", case.tenant))
            now = max(event.occurred_at for event in events) + DAY
            with suppress(NobodysOwn):
                if await erase_somebody(pool, log, case.tenant, case.chance, now):
                    await nothing_is_aside(pool, case.tenant)
            await case.finish()
            rest = left(events, await erased(pool, case.tenant))
            got = await places(pool, case.tenant)
            assert differences(rest, case.policy, got) == [] if rest else not got, seed
            await is_what_is_decided_from_scratch(pool, case.tenant, seed)
    assert aside
