"""`as_of`: a timeline as it was known at an earlier instant."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from bench import persons
from services.conversation.reading.timelines import Cursor, Page, cursor_of, timeline
from services.conversation.update import put_events
from shared.database.engine import tenant_reader
from shared.events import InboundEvent, parse_rfc3339
from shared.settings import Settings
from tests.histories import SECRET, a_history, a_policy, arrivals, some_decisions, some_joins
from tests.integration.conversation.test_histories import decide_again
from tests.timeline_app import Timelines, running_timelines

BEGINNING = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
async def timelines(pool: asyncpg.Pool, settings: Settings) -> AsyncIterator[Timelines]:
    async with running_timelines(pool, settings) as running:
        yield running


async def put(pool: asyncpg.Pool, tenant: str, events: Sequence[InboundEvent], now: datetime) -> None:
    async with pool.acquire() as connection, connection.transaction():
        await put_events(connection, tenant, events, SECRET, now)


DERIVED_FOR_ANOTHER = 81_012
"""A part of a conversation in which only one customer spoke, with a line that was derived for another."""

Pages = Sequence[Sequence[dict[str, Any]]]


async def all_timelines(
    pool: asyncpg.Pool, tenant: str, way: int, at: datetime | None, customers: Sequence[UUID] = ()
) -> dict[UUID, Pages]:
    """Return every customer's timeline, asked for in one of several ways."""
    if at is None:
        rows = await pool.fetch("SELECT DISTINCT customer_id FROM conversation.leaf WHERE tenant_id = $1", tenant)
        customers = [row[0] for row in rows]
    async with tenant_reader(pool, tenant) as connection:
        return {customer: await asked(connection, tenant, customer, way, at) for customer in customers}


async def asked(
    connection: asyncpg.Connection, tenant: str, customer: UUID, way: int, at: datetime | None
) -> list[list[dict[str, Any]]]:
    async def page(**wanted: Any) -> tuple[list[dict[str, Any]], bool]:
        return await timeline(connection, tenant, customer, Page(**{"limit": 200, "as_of": at, **wanted}))

    whole, _ = await page()
    pages = [whole]
    if way == 1:
        pages.append((await page(own_only=True))[0])
    elif way == 2:
        pages += [(await page(kinds=("message.received",), limit=2))[0], (await page(channels=("chat",), limit=3))[0]]
    elif whole:
        # In small steps to the oldest and back to the newest.
        found, cursor, more = list[dict[str, Any]](), None, True
        while more:
            some, more = await page(limit=3, before=cursor)
            found += some
            cursor = Cursor.decode(cursor_of(some[-1]))
        assert found == whole
        back, cursor, more = [whole[-1]], Cursor.decode(cursor_of(whole[-1])), True
        while more:
            some, more = await page(limit=2, after=cursor)
            back = [*some, *back]
            cursor = Cursor.decode(cursor_of(some[0])) if some else cursor
        assert back == whole
        middle = whole[len(whole) // 2]
        pages.append((await page(since=parse_rfc3339(middle["occurred_at"]), limit=2))[0])
        if middle["conversation_id"]:
            pages.append((await page(conversation_id=UUID(middle["conversation_id"]), limit=2))[0])
    return pages


async def test_what_was_known_at_each_moment_can_be_read_for_ever(pool: asyncpg.Pool) -> None:
    for seed in (*range(80_000, 80_008), DERIVED_FOR_ANOTHER):
        chance, tenant = random.Random(seed), f"tenant{seed}"
        await decide_again(pool, tenant, policy=a_policy(chance))
        events = a_history(chance, tenant, chance.choice([8, 12, 20]))
        events += chance.choice([some_decisions, some_joins])(chance, tenant, events)
        chance.shuffle(events)
        now, known = BEGINNING, {}
        for batch in arrivals(chance, events):
            now += timedelta(minutes=1)
            await put(pool, tenant, batch, now)
            way = chance.randrange(4)
            known[now] = way, await all_timelines(pool, tenant, way, None)
        for at, (way, then) in known.items():
            instant = at + timedelta(seconds=chance.choice([0, 59]))
            again = await all_timelines(pool, tenant, way, instant, list(then))
            for customer, pages in then.items():
                assert again[customer] == pages, (seed, at, customer)


LIFE = 3_000
READ = """
SELECT sum(seq_tup_read)::integer AS scanned, sum(idx_tup_fetch)::integer AS read FROM pg_stat_xact_user_tables
WHERE schemaname = 'conversation' AND relname IN ('entry', 'past_entry')
"""


async def test_a_page_of_the_past_reads_a_page_and_not_a_life(pool: asyncpg.Pool) -> None:
    await persons.live(pool, "kim", LIFE, 20)
    await persons.live(pool, "bo", 200, 2)
    then = datetime(2026, 6, 1, tzinfo=UTC)  # when all of it was recorded
    customer = await pool.fetchval(persons.CUSTOMER_OF, persons.TENANT, "email:kim@mail.example")
    # What came since: another is the same person, and an old mail is late.
    word = persons.merged("word", "email:kim@mail.example", "email:bo@mail.example")
    late = persons.event("late", "message.received", persons.END - timedelta(hours=2), persons_said("kim"))
    async with pool.acquire() as connection, connection.transaction():
        await put_events(connection, persons.TENANT, [word, late], persons.SECRET, then + timedelta(hours=2))
    await pool.execute("ANALYZE")
    for wanted in (
        Page(as_of=then),
        Page(as_of=then, own_only=True),
        Page(as_of=then, until=then - timedelta(days=300)),
    ):
        async with tenant_reader(pool, persons.TENANT) as connection:
            before = await connection.fetchrow(READ)
            entries, more = await timeline(connection, persons.TENANT, customer, wanted)
            scanned, read = (b - a for a, b in zip(before, await connection.fetchrow(READ), strict=True))
        assert len(entries) == 50 and more and not any(entry["event_id"] in ("late", "word") for entry in entries)
        assert scanned == 0 and read < LIFE / 5, (scanned, read)


def persons_said(name: str) -> dict[str, Any]:
    handles = [{"kind": "email", "value": f"{name}@mail.example"}]
    return {"channel": "email", "text": "late", "customer": {"handles": handles}, "actor": {"type": "customer"}}


async def test_a_page_of_the_past_knows_nothing_of_what_came_later(timelines: Timelines) -> None:
    ann, phone = "email:ann@home.example", "phone:+31612345678"
    await timelines.post(
        timelines.message("09:00:00", ann, contact_id="s1"), timelines.message("09:01:00", phone, contact_id="s2")
    )
    one, other = await timelines.customer(ann), await timelines.customer(phone)
    assert one and other
    line = (await timelines.get(f"/v1/customers/{one['id']}/timeline"))["entries"]
    then = max(entry["recorded_at"] for entry in line)
    merged = await timelines.call("POST", f"/v1/customers/{one['id']}/merge", json={"with": other["id"]})
    assert merged.status_code == 200
    await timelines.post(timelines.message("08:00:00", ann, contact_id="s1", text="late"))
    for id_, text in ((one["id"], "said at 09:00:00"), (other["id"], "said at 09:01:00")):
        page = await timelines.get(f"/v1/customers/{id_}/timeline", as_of=then, kind="message.received")
        assert (page["customer_id"], [entry["text"] for entry in page["entries"]]) == (id_, [text])
        assert page["entries"][0]["customer_id"] == id_
    now = await timelines.get(f"/v1/customers/{one['id']}/timeline", kind="message.received")
    assert len(now["entries"]) == 3
    # Pages of the past lead on as those of the present do.
    first = await timelines.get(f"/v1/customers/{one['id']}/timeline", as_of=then, limit=1)
    second = await timelines.get(f"/v1/customers/{one['id']}/timeline", as_of=then, limit=1, before=first["before"])
    assert [e["id"] for e in (*first["entries"], *second["entries"])] == [entry["id"] for entry in line]
    # Before anything was known there was nothing.
    before = await timelines.get(f"/v1/customers/{one['id']}/timeline", as_of="2020-01-01T00:00:00Z")
    assert before["entries"] == []
    page = await timelines.call("GET", f"/v1/customers/{one['id']}/timeline", tenant="globex", as_of=then)
    assert page.status_code == 404


@pytest.mark.parametrize("as_of", ["yesterday", "2026-03-02", "2026-03-02T09:00:00", "2999-01-01T00:00:00Z", "\0"])
async def test_an_instant_that_is_none_or_not_past_is_refused(timelines: Timelines, as_of: str) -> None:
    await timelines.post(timelines.message("09:00:00", "crm:1"))
    customer = await timelines.customer("crm:1")
    assert customer
    answer = await timelines.call("GET", f"/v1/customers/{customer['id']}/timeline", as_of=as_of)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"] == "#/query/as_of"
