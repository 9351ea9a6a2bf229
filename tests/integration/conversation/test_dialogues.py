"""Real dialogues put on the timeline in many orders and batch sizes: always the same people and conversations."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from services.conversation import tables
from services.conversation.update import Outcome, put_events, resolve_again
from shared.events import InboundEvent
from tests.conftest import needs
from tests.dialogues import Dialogues, event_of, faults, first_of_each, key_of

pytestmark = needs("shared_data")
SECRET = b"a secret of the tests"
NOW = datetime(2026, 1, 1, tzinfo=UTC)
ORDERS, IN_SMALL_BATCHES = 20, 3


@pytest.fixture(scope="module")
def dialogues(shared_data: Path) -> Dialogues:
    return Dialogues.load(shared_data / "dialogues")


async def put(pool: asyncpg.Pool, tenant: str, events: Sequence[InboundEvent]) -> Outcome:
    async with pool.acquire() as connection, connection.transaction():
        return await put_events(connection, tenant, events, SECRET, NOW)


async def set_policy(pool: asyncpg.Pool, dialogues: Dialogues, tenant: str) -> None:
    async with pool.acquire() as connection, connection.transaction():
        await resolve_again(connection, tenant, SECRET, NOW, dialogues.policy(tenant))


def batches(events: Sequence[InboundEvent], size: Iterable[int]) -> Iterable[Sequence[InboundEvent]]:
    start = 0
    for count in size:
        if start >= len(events):
            return
        yield events[start : start + count]
        start += count


STATE = """
SELECT e.tenant_id || '|' || e.source || '|' || e.event_id AS key, l.customer_id,
       coalesce(c.canonical_id, e.conversation_id) AS conversation_id
FROM conversation.entry e
JOIN conversation.leaf l USING (tenant_id, leaf_id)
LEFT JOIN conversation.conversation c USING (tenant_id, conversation_id)
WHERE e.tenant_id = $1 AND e.cause_id IS NULL
"""


async def found_faults(pool: asyncpg.Pool, dialogues: Dialogues, tenant: str) -> dict[str, Any]:
    rows = await pool.fetch(STATE, tenant)
    customers = {row["key"]: row["customer_id"] for row in rows}
    conversations = {row["key"]: row["conversation_id"] for row in rows}
    missing = [key for key in dialogues.truth["events"] if key.startswith(f"{tenant}|") and key not in customers]
    return {"missing": missing} if missing else faults(dialogues.truth, customers, conversations, tenant)


async def test_dialogues_in_arrival_order_give_the_true_customers_and_conversations(
    pool: asyncpg.Pool, dialogues: Dialogues
) -> None:
    for tenant in dialogues.tenants:
        await set_policy(pool, dialogues, tenant)
        for batch in batches(dialogues.events(tenant), iter(lambda: 50, None)):
            await put(pool, tenant, batch)
        assert await found_faults(pool, dialogues, tenant) == {}


@pytest.mark.parametrize("seed", range(ORDERS))
async def test_dialogues_in_any_order_and_batches_give_the_true_customers_and_conversations(
    pool: asyncpg.Pool, dialogues: Dialogues, seed: int
) -> None:
    tenant, chance = "acme", random.Random(seed)
    await set_policy(pool, dialogues, tenant)
    events = first_of_each(dialogues.events(tenant))
    chance.shuffle(events)
    # Small batches take long, and so only a few orders come in such.
    sizes = [1, 3, 20, 200, 700] if seed < IN_SMALL_BATCHES else [200, 700]
    for batch in batches(events, iter(lambda: chance.choice(sizes), None)):
        await put(pool, tenant, batch)
    assert await found_faults(pool, dialogues, tenant) == {}


async def test_the_same_deliveries_again_change_nothing(pool: asyncpg.Pool, dialogues: Dialogues) -> None:
    tenant = "globex"
    await set_policy(pool, dialogues, tenant)
    await put(pool, tenant, dialogues.events(tenant))
    before = await dump(pool, tenant)
    again = await put(pool, tenant, dialogues.events(tenant))
    assert (again.new, again.moved, again.records) == (0, 0, [])
    assert await dump(pool, tenant) == before


async def test_a_policy_that_comes_after_the_events_gives_what_it_would_have_given_before(
    pool: asyncpg.Pool, dialogues: Dialogues
) -> None:
    tenant = "acme"
    for batch in batches(dialogues.events(tenant), iter(lambda: 300, None)):
        await put(pool, tenant, batch)
    await set_policy(pool, dialogues, tenant)
    assert await found_faults(pool, dialogues, tenant) == {}


@pytest.mark.parametrize("seed", range(3))
async def test_what_was_decided_step_by_step_equals_what_is_decided_from_scratch(
    pool: asyncpg.Pool, dialogues: Dialogues, seed: int
) -> None:
    tenant, chance = "acme", random.Random(seed)
    await set_policy(pool, dialogues, tenant)
    events = first_of_each(dialogues.events(tenant))
    # Arrival order, with a tenth of all events late.
    late = chance.sample(events, len(events) // 10)
    gone = {key_of(event) for event in late}
    events = [event for event in events if key_of(event) not in gone] + late
    for batch in batches(events, iter(lambda: chance.choice([5, 50, 300]), None)):
        await put(pool, tenant, batch)
    before = await dump(pool, tenant)
    async with pool.acquire() as connection, connection.transaction():
        outcome = await resolve_again(connection, tenant, SECRET, NOW)
    after = await dump(pool, tenant)
    for table, rows in before.items():
        assert after[table] == rows, table
    assert outcome.moved == 0


async def dump(pool: asyncpg.Pool, tenant: str) -> dict[str, list[Any]]:
    """Return all that must not depend on the path that led here."""
    queries = {
        "entry": "SELECT entry_id, leaf_id, conversation_id, cause_id, type, rule, stitch_key, automatic, "
        "by_conversation, CASE WHEN cause_id IS NOT NULL THEN data::text END "
        "FROM conversation.entry WHERE tenant_id = $1",
        "conversation": "SELECT conversation_id, canonical_id, merged_into, merged_at, opened_at, owner_leaf_id, "
        "last_entry_at, last_activity_at, resolved_at, tickets, follow_up_of, last_channel, channels, assignee, team, "
        "topic, waiting_since, entries FROM conversation.conversation WHERE tenant_id = $1",
        "checkpoint": "SELECT conversation_id, at, opened_at, owner_leaf_id, last_entry_at, last_activity_at, "
        "resolved_at, tickets, follow_up_of, last_channel, escalation_posted_to, channels, assignee, team, topic, "
        "waiting_since, entries, ARRAY(SELECT unnest(participants) ORDER BY 1) FROM conversation.checkpoint "
        "WHERE tenant_id = $1",
        "participation": "SELECT leaf_id, conversation_id FROM conversation.participation WHERE tenant_id = $1",
        "link": "SELECT a, b, occurred_at, source, event_id FROM conversation.link WHERE tenant_id = $1",
        "copy": "SELECT copy_id, entry_id, digest FROM conversation.copy WHERE tenant_id = $1",
        # linked_at is an upper bound only: it says when a look at the evidence can be spared.
        "leaf": "SELECT leaf_id, node, customer_id, shared, last_entry_at FROM conversation.leaf WHERE tenant_id = $1",
    }
    return {
        table: sorted((tuple(row) for row in await pool.fetch(query, tenant)), key=repr)
        for table, query in queries.items()
    }


async def test_a_policy_is_kept_with_its_version(pool: asyncpg.Pool, dialogues: Dialogues) -> None:
    await set_policy(pool, dialogues, "acme")
    async with pool.acquire() as connection:
        stored = await tables.tenants.get_policy(connection, "acme")
    assert stored.version == 1
    assert stored.policy == dialogues.policy("acme")


async def test_other_content_under_a_known_id_is_kept_beside_the_first(
    pool: asyncpg.Pool, dialogues: Dialogues
) -> None:
    delivery = next(d for d in dialogues.deliveries if d["expect"] == "accepted")
    tenant = delivery["tenant"]
    event = event_of(tenant, delivery["body"], delivery["at"])
    other = event_of(tenant, delivery["body"].replace("criminal", "stranger"), delivery["at"])
    assert other != event
    await put(pool, tenant, [event])
    outcome = await put(pool, tenant, [other, event])
    assert (outcome.new, outcome.repeated, outcome.conflicts) == (0, 1, 1)
    kept = await pool.fetchval("SELECT data ->> 'text' FROM conversation.entry WHERE tenant_id = $1", tenant)
    assert kept == event.data["text"]
    assert await pool.fetchval("SELECT data ->> 'text' FROM conversation.conflict") == other.data["text"]
