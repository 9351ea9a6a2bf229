"""Agents' words on people who have much open, step by step: each equals deciding all from nothing.

THREADLINE_TEST_HISTORIES says how many histories are tried (default 30); a failure names the seed that shows it again.
"""

from __future__ import annotations

import os
import random
from datetime import UTC, datetime

import asyncpg
import pytest

from services.conversation.update import put_events, resolve_again
from shared.events import DECISIONS, JOINED, TYPE_PREFIX, InboundEvent
from tests.comparing import Reader, places
from tests.histories import SECRET
from tests.integration.conversation.test_dialogues import dump
from tests.integration.conversation.test_histories import OVERLOOKED
from tests.tangles import a_policy, a_tangle, as_it_comes

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
    batches = as_it_comes(chance, a_tangle(chance, tenant, chance.choice([20, 35, 60])))
    for number, batch in enumerate(batches):
        await put(pool, tenant, batch, reader)
        if number == len(batches) - 1 or any(event.type in WORDS for event in batch):
            await is_what_is_decided_from_nothing(pool, tenant, f"seed {seed}, batch {number}")
    got = await places(pool, tenant)
    assert reader.places() == {name: got[name] for name in got if name[0] != "/threadline"}, f"topic, seed {seed}"


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
