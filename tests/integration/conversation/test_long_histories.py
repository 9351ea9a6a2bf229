"""People with long histories: what an event or a reader does not need stays untouched, and nothing is overlooked."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from uuid import UUID

import asyncpg
import pytest

from bench import persons
from services.conversation.policy import DEFAULT
from services.conversation.reading import timelines
from services.conversation.update import resolve_again
from shared.database.engine import tenant_reader
from shared.events import InboundEvent
from tests.comparing import places
from tests.integration.conversation.test_dialogues import dump

WRITTEN_AGAIN = """
SELECT e.event_id, e.occurred_at FROM conversation.change c JOIN conversation.entry e USING (tenant_id, entry_id)
WHERE c.tenant_id = $1 AND c.kind = 'c'
"""


async def test_a_merge_writes_nothing_again_that_is_older_than_the_open_window(pool: asyncpg.Pool) -> None:
    # The large customer's last matter is open; the small one wrote within the window, and long before it.
    await persons.live(pool, "large", 610, 10)
    await persons.put(pool, [a_text("old", persons.END - timedelta(days=30)), a_text("new", persons.END)])
    before = await pool.fetchval("SELECT count(*) FROM conversation.past_entry")
    handles = {"handles": [{"kind": "email", "value": "large@mail.example"}]}
    mail = {"channel": "email", "message_id": "<1@large.example>", "customer": handles}
    await persons.put(pool, [persons.event("mail", "message.received", persons.END - timedelta(hours=1), mail)])
    bound = await bindings(pool)
    outcome = await persons.put(pool, [persons.merged("m", "email:large@mail.example", "phone:+31612345678")])
    assert outcome.new == 1
    written = {row["event_id"]: row["occurred_at"] for row in await pool.fetch(WRITTEN_AGAIN, persons.TENANT)}
    assert "new" in written, "what was said within the window joins the matter that is open"
    assert min(written.values()) >= persons.END - DEFAULT.open_window
    assert await pool.fetchval("SELECT count(*) FROM conversation.past_entry") - before <= len(written) + 2
    touched = {row["event_id"] for row in bound - await bindings(pool)}
    assert "mail" not in written
    assert touched <= written.keys(), "what is decided again as before binds its keys as before, and is not written"


async def test_a_merge_decides_nothing_again_where_who_joins_has_nothing_open(pool: asyncpg.Pool) -> None:
    await persons.live(pool, "large", 610, 10)
    await persons.put(pool, [a_text("old", persons.END - timedelta(days=7))])
    before = await versions(pool)
    await persons.put(pool, [persons.merged("m", "email:large@mail.example", "phone:+31612345678")])
    assert await customers(pool) == 1
    assert await versions(pool) == before
    await is_what_is_decided_from_scratch(pool)


async def test_a_merge_decides_again_from_where_one_side_may_meet_what_the_other_has_open(pool: asyncpg.Pool) -> None:
    await persons.live(pool, "large", 610, 10, days=30)
    await persons.put(pool, [a_text("new", persons.END - timedelta(hours=10))])
    before = await versions(pool)
    await persons.put(pool, [persons.merged("m", "email:large@mail.example", "phone:+31612345678")])
    touched = {row["conversation_id"] for row in before - await versions(pool)}
    assert touched, "what was open when both wrote is decided again"
    last = await pool.fetchval(
        "SELECT min(last_entry_at) FROM conversation.conversation WHERE conversation_id = ANY ($1::uuid[])", touched
    )
    assert last >= persons.END - timedelta(hours=10)
    await is_what_is_decided_from_scratch(pool)


@pytest.mark.parametrize("others", [0, 1], ids=["alone", "with another event in its batch"])
async def test_a_merge_decides_again_only_the_matters_in_which_an_answer_is_another_one(
    pool: asyncpg.Pool, others: int
) -> None:
    # A day and a quarter before the end somebody wrote into what is now a matter of the large one. That was resolved
    # before the next one began, which is as it was though it is younger.
    await persons.live(pool, "large", 610, 10, days=30)
    await persons.put(pool, [a_text("new", persons.END - timedelta(hours=30))])
    before = await versions(pool)
    word = persons.merged("m", "email:large@mail.example", "phone:+31612345678")
    outcome = await persons.put(pool, [word, *[a_text("later", persons.END + timedelta(days=9))] * others])
    assert (outcome.new, outcome.moved) == (1 + others, 1)
    touched = {row["conversation_id"] for row in before - await versions(pool)}
    younger = {row["conversation_id"] for row in before if row["opened_at"] > persons.END - timedelta(hours=30)}
    assert len(touched) == 2
    assert younger
    assert touched.isdisjoint(younger)
    await is_what_is_decided_from_scratch(pool)


async def test_a_merge_moves_an_answer_to_what_the_other_one_was_sent_with_many_however_long_ago(
    pool: asyncpg.Pool,
) -> None:
    def mail(name: str, kind: str, days: int, person: str, **data: object) -> InboundEvent:
        handles = {"handles": [{"kind": "email", "value": f"{person}@x.example"}]}
        told = {"channel": "email", "message_id": f"<{name}@x.example>", "customer": handles, **data}
        return persons.event(f"{name}-{person}", f"message.{kind}", persons.END - timedelta(days=days), told)

    sent = [mail("offer", "sent", 20, person) for person in ("ann", "bob", "cem")]
    answer = mail("yes", "received", 1, "private", thread={"in_reply_to": "<offer@x.example>"})
    await persons.put(pool, [*sent, answer])
    before = await conversation_of(pool, answer)
    assert before != await conversation_of(pool, sent[0])
    await persons.put(pool, [persons.merged("m", "email:private@x.example", "email:ann@x.example")])
    assert await conversation_of(pool, answer) == await conversation_of(pool, sent[0])
    await is_what_is_decided_from_scratch(pool)


async def is_what_is_decided_from_scratch(pool: asyncpg.Pool) -> None:
    before = await dump(pool, persons.TENANT)
    async with pool.acquire() as connection, connection.transaction():
        await resolve_again(connection, persons.TENANT, persons.SECRET, persons.END)
    assert await dump(pool, persons.TENANT) == before


async def conversation_of(pool: asyncpg.Pool, event: InboundEvent) -> UUID | None:
    found = await places(pool, persons.TENANT)
    return found[event.source, event.id][1]


async def customers(pool: asyncpg.Pool) -> int:
    count: int = await pool.fetchval(
        "SELECT count(DISTINCT l.customer_id) FROM conversation.leaf l JOIN conversation.entry USING (leaf_id)"
    )
    return count


async def versions(pool: asyncpg.Pool) -> set[asyncpg.Record]:
    """Return every version of a conversation and of who takes part in it that is stored."""
    return set(
        await pool.fetch(
            "SELECT conversation_id, c.opened_at, c.xmin::text, p.leaf_id, p.xmin::text AS written "
            "FROM conversation.conversation c JOIN conversation.participation p USING (tenant_id, conversation_id)"
        )
    )


async def bindings(pool: asyncpg.Pool) -> set[asyncpg.Record]:
    """Return every version of a binding that is stored."""
    return set(await pool.fetch("SELECT event_id, key, xmin::text FROM conversation.binding"))


def a_text(name: str, at: object) -> InboundEvent:
    handles = {"handles": [{"kind": "phone", "value": "+31612345678"}]}
    return persons.event(name, "message.received", at, {"channel": "sms", "customer": handles})  # type: ignore[arg-type]


async def test_pages_of_any_size_show_what_others_said_weeks_before(pool: asyncpg.Pool) -> None:
    def mail(name: str, person: str, week: int, parent: str | None = None) -> InboundEvent:
        data = {
            "channel": "email",
            "message_id": f"<{name}@x.example>",
            "thread": {"in_reply_to": f"<{parent}@x.example>"} if parent else {},
            "customer": {"handles": [{"kind": "email", "value": f"{person}@x.example"}]},
        }
        return persons.event(name, "message.received", persons.END + timedelta(weeks=week), data)

    told = [
        mail("a", "ann", 0), mail("b", "bob", 1, "a"), mail("c", "ann", 2), mail("d", "ann", 3), mail("e", "ann", 5),
        mail("f", "bob", 4, "b"), mail("g", "ann", 7, "e"),
    ]  # fmt: skip
    for event in told:
        await persons.put(pool, [event])
    ann = await pool.fetchval(persons.CUSTOMER_OF, persons.TENANT, "email:ann@x.example")
    async with tenant_reader(pool, persons.TENANT) as connection:
        for limit in (1, 2, 3, 50):
            assert await names(connection, ann, timelines.Page(limit=limit)) == list("gefdcba"), limit
            first = timelines.Page(limit=limit, after=timelines.Cursor(told[0].occurred_at, "/bench", ""))
            assert await names(connection, ann, first) == list("abcdfeg"), limit


async def names(connection: asyncpg.Connection, customer_id: UUID, page: timelines.Page) -> list[str]:
    """Return the names of what is on this page and all that follow it, back or forward in time."""
    seen: list[str] = []
    while True:
        entries, more = await timelines.timeline(connection, persons.TENANT, customer_id, page)
        entries = entries if page.after is None else entries[::-1]
        seen += [entry["event_id"] for entry in entries if entry["source"] == "/bench"]
        if not more:
            return seen
        last = timelines.Cursor.decode(timelines.cursor_of(entries[-1]))
        page = replace(page, after=last) if page.after else replace(page, before=last)
