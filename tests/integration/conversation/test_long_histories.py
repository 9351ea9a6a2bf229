"""People with long histories: what an event or a reader does not need stays untouched, and nothing is overlooked."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from uuid import UUID

import asyncpg

from bench import persons
from services.conversation.policy import DEFAULT
from services.conversation.reading import timelines
from shared.database.engine import tenant_reader
from shared.events import InboundEvent

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
