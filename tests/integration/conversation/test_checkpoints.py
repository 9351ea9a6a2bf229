"""Long conversations are told anew from a checkpoint: less is read, and nothing that may be otherwise is overlooked.

That they make no difference is shown by random histories, with a checkpoint every two or three entries, compared with
what is decided from nothing, checkpoints included: test_histories.py, test_tangles.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from bench import persons
from services.conversation import checkpoints, tables
from services.conversation.entries import Entry
from services.conversation.update import resolve_again
from shared.events import InboundEvent
from tests.integration.conversation.test_dialogues import dump

ENTRIES = 1_000
GAP = timedelta(minutes=30)
MADE = "SELECT entries, at FROM conversation.checkpoint WHERE tenant_id = $1 ORDER BY at"


def said(number: float, who: str = "ann", **data: Any) -> InboundEvent:
    """Return what somebody said in a thread that nobody ever resolves."""
    at = persons.END + GAP * (number - ENTRIES)
    thread = {"channel": "whatsapp", "text": "Still no answer.", "thread": {"dm_thread": "t"}, "contact_id": "c"}
    handles = {"handles": [{"kind": "email", "value": f"{who}@mail.example"}]}
    return persons.event(f"{who}-{number}", "message.received", at, {**thread, "customer": handles, **data})


@pytest.fixture
async def endless(pool: asyncpg.Pool) -> asyncpg.Pool:
    """A customer with one conversation of ENTRIES, in the order in which they were said."""
    told = [said(number) for number in range(ENTRIES)]
    for start in range(0, ENTRIES, 130):
        await persons.put(pool, told[start : start + 130])
    return pool


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[Entry]:
    """What is read of entries from before the instant from which conversations are decided again."""
    found: list[Entry] = []
    real = tables.entries.entries_between

    async def entries_between(
        connection: asyncpg.Connection, tenant: str, wanted: Sequence[tuple[UUID, datetime, datetime]]
    ) -> list[Entry]:
        found.extend(entries := await real(connection, tenant, wanted))
        return entries

    monkeypatch.setattr(tables.entries, "entries_between", entries_between)
    return found


async def is_what_is_decided_from_nothing(pool: asyncpg.Pool) -> None:
    before = await dump(pool, persons.TENANT)
    async with pool.acquire() as connection, connection.transaction():
        await resolve_again(connection, persons.TENANT, persons.SECRET, persons.END)
    after = await dump(pool, persons.TENANT)
    assert len(before["checkpoint"]) > 5
    for table, rows in before.items():
        assert after[table] == rows, table


async def test_a_late_event_reads_no_more_than_comes_between_two_checkpoints(
    endless: asyncpg.Pool, read: list[Entry]
) -> None:
    assert [row["entries"] for row in await endless.fetch(MADE, persons.TENANT)] == [*range(100, ENTRIES + 1, 100)]
    await persons.put(endless, [said(950.5)])
    assert 0 < len(read) < checkpoints.EVERY
    assert [row["entries"] for row in await endless.fetch(MADE, persons.TENANT)] == [*range(100, ENTRIES + 1, 100)]
    await is_what_is_decided_from_nothing(endless)


async def test_a_merge_reads_no_more_than_comes_between_two_checkpoints(
    endless: asyncpg.Pool, read: list[Entry]
) -> None:
    other = {"channel": "sms", "thread": {}, "contact_id": None}
    await persons.put(endless, [said(979.5, "bob", **other), said(990.5, "bob", **other)])
    outcome = await persons.put(endless, [persons.merged("m", "email:ann@mail.example", "email:bob@mail.example")])
    assert outcome.moved == 2, "what the other said joins what was open"
    assert 0 < len(read) < checkpoints.EVERY
    await is_what_is_decided_from_nothing(endless)


async def test_checkpoints_behind_a_late_event_are_made_anew(endless: asyncpg.Pool, read: list[Entry]) -> None:
    await persons.put(endless, [said(449.5)])
    made = await endless.fetch(MADE, persons.TENANT)
    assert [row["entries"] for row in made] == [*range(100, ENTRIES + 1, 100)]
    assert made[3]["at"] == said(399).occurred_at, "before it they are as they were"
    assert made[4]["at"] == said(498).occurred_at, "behind it the same number comes an entry earlier"
    read.clear()
    await persons.put(endless, [said(960.5)])
    assert 0 < len(read) < checkpoints.EVERY
    await is_what_is_decided_from_nothing(endless)


async def test_who_takes_part_since_before_a_checkpoint_still_does(endless: asyncpg.Pool) -> None:
    await persons.put(endless, [said(50.5, "bob")])
    theirs = "SELECT count(*) FROM conversation.participation WHERE tenant_id = $1"
    assert await endless.fetchval(theirs, persons.TENANT) == 2
    await persons.put(endless, [said(970.5)])
    assert await endless.fetchval(theirs, persons.TENANT) == 2
    await is_what_is_decided_from_nothing(endless)


async def test_what_names_an_entry_from_before_a_checkpoint_finds_its_conversation(endless: asyncpg.Pool) -> None:
    first = await endless.fetchval("SELECT entry_id FROM conversation.entry WHERE event_id = 'ann-120'")
    word = {"channel": "email", "thread": {}, "contact_id": None, "conversation_id": str(first)}
    await persons.put(endless, [said(970.25, "eve", **word)])
    where = "SELECT DISTINCT conversation_id FROM conversation.entry WHERE tenant_id = $1 AND cause_id IS NULL"
    assert len(await endless.fetch(where, persons.TENANT)) == 1
    await is_what_is_decided_from_nothing(endless)


async def test_conversations_from_before_checkpoints_get_theirs_when_they_are_told_anew(
    endless: asyncpg.Pool, read: list[Entry]
) -> None:
    await endless.execute("DELETE FROM conversation.checkpoint")
    await persons.put(endless, [said(950.5)])
    assert len(read) > 900
    read.clear()
    await persons.put(endless, [said(952.5)])
    assert 0 < len(read) < checkpoints.EVERY
    await is_what_is_decided_from_nothing(endless)
