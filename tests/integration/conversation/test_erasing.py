"""Erasure as a function of the event set: what stays is what the rules give for the events that stay."""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from services.conversation.batch import Batch
from services.conversation.erasure import erasing
from services.conversation.erasure.erasing import erase_customer, replay
from services.conversation.publishing import publish
from services.conversation.update import put_events
from shared.entry_ids import entry_id_of
from shared.events import InboundEvent, TimelineRecord
from shared.log.postgres import PostgresLog, postgres_log
from shared.tombstones import erasure_of, is_erasure
from tests.comparing import Reader, differences, places
from tests.histories import BEGINNING, DAY, HOUR, SECRET, a_history, a_policy, arrivals, some_decisions
from tests.integration.conversation.test_histories import decide_again, is_what_is_decided_from_scratch

pytestmark = pytest.mark.usefixtures("many_checkpoints")

HISTORIES = int(os.environ.get("THREADLINE_TEST_HISTORIES", "30")) // 3
ONCE_WRONG = [110_019, 110_034, 110_055, 110_068, 110_128, 114_165]
SEEDS = [*ONCE_WRONG, *range(110_200, 110_200 + HISTORIES)]

VALUES = """
SELECT r.value FROM log.record r JOIN log.partition p ON p.id = r.partition_id WHERE p.topic = 'threadline.' || $1
ORDER BY r.appended_at, r.partition_id, r."offset"
"""
OWNER_OF = "SELECT node FROM conversation.entry JOIN conversation.leaf USING (tenant_id, leaf_id) WHERE event_id = $1"
POSTED = "SELECT event_id FROM conversation.entry WHERE cause_id IS NULL"
ERASED = "SELECT digest FROM privacy.tombstone WHERE tenant_id = $1 AND kind = 'e'"
CUSTOMERS = """
SELECT min(node), customer_id FROM conversation.leaf WHERE tenant_id = $1 AND NOT shared GROUP BY 2 ORDER BY 1
"""


async def put(pool: asyncpg.Pool, log: PostgresLog, tenant: str, events: Sequence[InboundEvent]) -> None:
    async with pool.acquire() as connection, connection.transaction():
        outcome = await put_events(connection, tenant, events, SECRET, events[0].received_at)
        await publish(log, connection, outcome.records)


async def erase_somebody(
    pool: asyncpg.Pool, log: PostgresLog, tenant: str, chance: random.Random, now: datetime
) -> UUID | None:
    async with pool.acquire() as connection, connection.transaction():
        customers = [row[1] for row in await connection.fetch(CUSTOMERS, tenant)]
        if not customers:
            return None
        return await erase_customer(connection, log, tenant, SECRET, chance.choice(customers), now)


async def erasures_in(pool: asyncpg.Pool, tenant: str) -> list[InboundEvent]:
    events = [InboundEvent.decode(row["value"]) for row in await pool.fetch(VALUES, "inbound.v1")]
    return [event for event in events if event.tenant == tenant and is_erasure(event)]


async def erased(pool: asyncpg.Pool, tenant: str) -> set[UUID]:
    return {row["digest"] for row in await pool.fetch(ERASED, tenant)}


def left(events: Sequence[InboundEvent], gone: set[UUID]) -> list[InboundEvent]:
    return [e for e in events if entry_id_of(SECRET, e.tenant, e.source, e.id) not in gone]


async def forget_all(pool: asyncpg.Pool) -> None:
    for table in (
        "conversation.leaf", "conversation.link", "conversation.sighting", "conversation.entry", "conversation.binding",
        "conversation.conversation", "conversation.participation", "conversation.conflict", "conversation.change",
        "conversation.search", "conversation.copy", "conversation.checkpoint", "privacy.tombstone", "privacy.erasure",
        "privacy.finding",
    ):  # fmt: skip
        await pool.execute(f"TRUNCATE {table}")


async def test_after_an_erasure_the_rest_is_what_the_rules_give_for_the_rest(pool: asyncpg.Pool) -> None:
    async with postgres_log(pool, retention=None) as log:
        for seed in SEEDS:
            chance, tenant = random.Random(seed), f"tenant{seed}"
            policy = a_policy(chance)
            await decide_again(pool, tenant, policy=policy)
            events = a_history(chance, tenant, chance.choice([4, 8, 12, 20, 30]))
            for batch in arrivals(chance, events):
                await put(pool, log, tenant, batch)
            now = events[-1].occurred_at + DAY
            for _ in range(chance.choice([1, 1, 2, 3])):
                await erase_somebody(pool, log, tenant, chance, now)
                gone = await erased(pool, tenant)
                got = await places(pool, tenant)
                rest = left(events, gone)
                assert differences(rest, policy, got) == [] if rest else not got, seed
                await is_what_is_decided_from_scratch(pool, tenant, seed)
            reader = Reader()
            lines = [TimelineRecord.decode(row["value"]) for row in await pool.fetch(VALUES, "timeline.v1")]
            reader.read(line for line in lines if line.tenant == tenant)
            assert reader.places() == await places(pool, tenant), f"what the topic says, seed {seed}"
            # The same again changes nothing.
            await put(pool, log, tenant, events)
            for event in await erasures_in(pool, tenant):
                async with pool.acquire() as connection, connection.transaction():
                    await replay(connection, log, tenant, SECRET, [erasure_of(event)], now)
            assert await places(pool, tenant) == got


async def test_a_log_read_again_in_any_order_into_nothing_erases_the_same(pool: asyncpg.Pool) -> None:
    async with postgres_log(pool, retention=None) as log:
        for seed in SEEDS:
            chance, tenant = random.Random(seed), f"tenant{seed}"
            policy = a_policy(chance)
            await decide_again(pool, tenant, policy=policy)
            events = a_history(chance, tenant, chance.choice([6, 12, 20]))
            if chance.random() < 0.6:
                decided = widened(chance, some_decisions(chance, tenant, events))
                events = sorted([*events, *decided], key=lambda e: e.occurred_at)
            middle = chance.randrange(1, len(events))
            for batch in arrivals(chance, events[:middle]):
                await put(pool, log, tenant, batch)
            await erase_somebody(pool, log, tenant, chance, events[middle - 1].occurred_at)
            for batch in arrivals(chance, events[middle:]):
                await put(pool, log, tenant, batch)
            gone, got = await erased(pool, tenant), await places(pool, tenant)
            await is_what_is_decided_from_scratch(pool, tenant, seed)
            replayed = [*events, *await erasures_in(pool, tenant)]
            await forget_all(pool)
            for batch in arrivals(chance, replayed):
                for event in batch:
                    if is_erasure(event):
                        async with pool.acquire() as connection, connection.transaction():
                            await replay(connection, log, tenant, SECRET, [erasure_of(event)], event.occurred_at)
                if posted := [event for event in batch if not is_erasure(event)]:
                    await put(pool, log, tenant, posted)
            assert await erased(pool, tenant) == gone, seed
            again = await places(pool, tenant)
            assert {name: c for name, (_, c) in again.items()} == {name: c for name, (_, c) in got.items()}, seed
            assert _groups(again) == _groups(got), seed
            await is_what_is_decided_from_scratch(pool, tenant, seed)


def widened(chance: random.Random, decided: Sequence[InboundEvent]) -> list[InboundEvent]:
    """Return agents' words of which some name several handles on a side."""
    named = sorted({node for event in decided for side in event.data["sides"] for node in side})
    found = []
    for event in decided:
        one, other = event.data["sides"]
        more = chance.choice(named)
        if chance.random() < 0.4 and more not in (*one, *other):
            one, other = ([*one, more], other) if chance.random() < 0.5 else (one, [*other, more])
        found.append(replace(event, data={**event.data, "sides": [one, other]}))
    return found


async def test_who_an_agent_merged_is_erased_without_deciding_the_tenant_again(
    pool: asyncpg.Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def too_much(_: Batch) -> Batch:
        raise AssertionError("everything is decided again")

    monkeypatch.setattr(erasing, "_decide_everything", too_much)

    def told(number: int, *nodes: str, kind: str = "message.received") -> InboundEvent:
        at = BEGINNING + number * HOUR
        if kind != "message.received":
            data = {"actor": {"type": "agent"}, "sides": [[node] for node in nodes]}
            return InboundEvent("acme", "/threadline", f"d{number}", f"threadline.{kind}", at, at, data)
        handles = [dict(zip(("kind", "value"), node.split(":", 1), strict=True)) for node in nodes]
        data = {"channel": "chat", "customer": {"handles": handles}, "text": "Hello"}
        return InboundEvent("acme", "/a", f"e{number}", f"threadline.{kind}", at, at, data)

    ann, her_phone, bo, cy = "email:ann@x.example", "phone:+31612345678", "email:bo@x.example", "email:cy@x.example"
    events = [
        told(0, ann), told(1, her_phone), told(2, bo), told(3, cy), told(4, ann, her_phone, kind="customer.merged"),
        told(5, ann, her_phone, kind="customer.unmerged"), told(6, her_phone, ann, kind="customer.merged"),
        told(7, bo, cy, kind="customer.merged"), told(8, bo),
    ]  # fmt: skip
    async with postgres_log(pool, retention=None) as log:
        await put(pool, log, "acme", events)
        async with pool.acquire() as connection, connection.transaction():
            hers = await connection.fetchval("SELECT customer_id FROM conversation.leaf WHERE node = $1", ann)
            assert await erase_customer(connection, log, "acme", SECRET, hers, events[-1].occurred_at + DAY)
    assert {name for _, name in await places(pool, "acme")} == {"e2", "e3", "d7", "e8"}
    await is_what_is_decided_from_scratch(pool, "acme", 0)


def _groups(got: dict[tuple[str, str], tuple[UUID, UUID | None]]) -> set[frozenset[tuple[str, str]]]:
    found: dict[UUID, set[tuple[str, str]]] = {}
    for name, (customer, _) in got.items():
        found.setdefault(customer, set()).add(name)
    return {frozenset(names) for names in found.values()}


async def test_what_only_a_browser_said_is_found_where_it_came_to_lie_later(pool: asyncpg.Pool) -> None:
    at = datetime(2026, 3, 2, 9, tzinfo=UTC)

    def event(name: str, minutes: int, kind: str, **data: Any) -> InboundEvent:
        when = at + minutes * timedelta(minutes=1)
        return InboundEvent("acme", "/x", name, f"threadline.{kind}", when, when, data)

    call = event("call", 0, "call.answered", channel="phone", contact_id="c1")
    founder = str(entry_id_of(SECRET, "acme", "/x", "call"))
    browser = {"handles": [{"kind": "visitor", "value": "v1"}]}
    said = event("said", 5, "message.received", channel="chat", customer=browser, conversation_id=founder)
    async with postgres_log(pool, retention=None) as log:
        # Whose it is shows only once the call is there, which is another person's.
        await put(pool, log, "acme", [said])
        await put(pool, log, "acme", [call])
        assert await pool.fetchval(OWNER_OF, "said") == "contact:c1"
        browsing = await pool.fetchval("SELECT customer_id FROM conversation.leaf WHERE node = 'visitor:v1'")
        async with pool.acquire() as connection, connection.transaction():
            assert await erase_customer(connection, log, "acme", SECRET, browsing, at + DAY)
        assert [row[0] for row in await pool.fetch(POSTED)] == ["call"]
        await is_what_is_decided_from_scratch(pool, "acme", 0)
