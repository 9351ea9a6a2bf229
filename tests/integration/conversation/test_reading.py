"""Timelines and conversations as callers read them: pages that lose and repeat nothing, filters, ids, cursors."""

from __future__ import annotations

import base64
import random
from collections.abc import AsyncIterator
from dataclasses import astuple
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from uuid import uuid4

import asyncpg
import orjson
import pytest

from services.conversation.reading import timelines as pages
from services.conversation.reading.timelines import Cursor, Page
from services.conversation.update import put_events
from shared.database.engine import open_pool, tenant_reader
from shared.events import FAMILY, InboundEvent, parse_rfc3339
from shared.settings import Settings
from tests.comparing import places
from tests.histories import SECRET, a_history
from tests.timeline_app import Timelines, running_timelines
from tests.waiting import until

NOW = datetime(2026, 1, 1, tzinfo=UTC)
START = datetime(2026, 3, 2, 9, tzinfo=UTC)


@pytest.fixture
async def timelines(pool: asyncpg.Pool, settings: Settings) -> AsyncIterator[Timelines]:
    async with running_timelines(pool, settings) as running:
        yield running


async def put(pool: asyncpg.Pool, events: list[InboundEvent]) -> None:
    async with pool.acquire() as connection, connection.transaction():
        await put_events(connection, "acme", events, SECRET, NOW)


def a_chat(number: int, minutes: float, contact: str = "s1", **data: Any) -> InboundEvent:
    at = START + timedelta(minutes=minutes)
    said = {"channel": "chat", "contact_id": contact, "text": f"number {number}", **data}
    return InboundEvent("acme", "/chat/acme", f"n{number:03}", "threadline.message.received", at, at, said)


def order_of(entry: dict[str, Any]) -> tuple[datetime, str, str]:
    return parse_rfc3339(entry["occurred_at"]), entry["source"], entry["event_id"]


async def walked(timelines: Timelines, path: str, limit: int, **params: Any) -> list[dict[str, Any]]:
    """Read page by page towards the beginning."""
    entries: list[dict[str, Any]] = []
    before = None
    while True:
        page = await timelines.get(path, limit=limit, before=before, **params)
        assert len(page["entries"]) <= limit
        entries += page["entries"]
        if page["before"] is None:
            return entries
        assert page["entries"], "a page that leads on is never empty"
        before = page["before"]


async def walked_forward(timelines: Timelines, path: str, limit: int, after: str) -> list[dict[str, Any]]:
    """Read page by page towards the end; each page is newest first as always."""
    entries: list[dict[str, Any]] = []
    while True:
        page = await timelines.get(path, limit=limit, after=after)
        if not page["entries"]:
            assert page["after"] == after
            return entries
        entries += reversed(page["entries"])
        after = page["after"]


async def a_full_tenant(pool: asyncpg.Pool, seed: int) -> dict[str, set[tuple[str, str]]]:
    """Put a random history; return customer → the posted entries that their timeline must show."""
    await put(pool, a_history(random.Random(seed), "acme", 40))
    found = await places(pool, "acme")
    lines: dict[str, set[tuple[str, str]]] = {}
    for customer in {customer for customer, _ in found.values()}:
        part_of = {conversation for owner, conversation in found.values() if owner == customer and conversation}
        lines[str(customer)] = {name for name, (owner, at) in found.items() if owner == customer or at in part_of}
    return lines


@pytest.mark.parametrize("seed", [1, 16])
async def test_pages_of_any_size_show_each_entry_of_a_timeline_once_in_order(
    pool: asyncpg.Pool, timelines: Timelines, seed: int
) -> None:
    lines = await a_full_tenant(pool, seed)
    for customer, wanted in lines.items():
        path = f"/v1/customers/{customer}/timeline"
        whole = await walked(timelines, path, 200)
        posted = [(e["source"], e["event_id"]) for e in whole if e["source"] != "/threadline"]
        assert sorted(posted) == sorted(wanted)
        assert [order_of(e) for e in whole] == sorted((order_of(e) for e in whole), reverse=True)
        for limit in (1, 7):
            assert await walked(timelines, path, limit) == whole
        first = await timelines.get(path, limit=200)
        from_oldest = await walked_forward(timelines, path, 3, _cursor(whole[-1]))
        assert [whole[-1], *from_oldest] == whole[::-1]
        assert first["entries"] == whole


def _cursor(entry: dict[str, Any]) -> str:
    parts = [entry["occurred_at"], entry["source"], entry["event_id"]]
    return base64.urlsafe_b64encode(orjson.dumps(parts)).decode().rstrip("=")


@pytest.mark.parametrize("seed", [3, 8])
async def test_a_page_over_many_leaves_leaves_nothing_out_wherever_it_starts(pool: asyncpg.Pool, seed: int) -> None:
    rng = random.Random(seed)
    ann = {"handles": [{"kind": "email", "value": "ann@a.example"}]}
    # Some chats were long, some short, most are over; much happens at the same instant.
    chats = [(f"s{number}", rng.uniform(0, 100), rng.choice([2, 9, 30])) for number in range(8)]
    events = [a_chat(number, 0, contact, customer=ann) for number, (contact, _, _) in enumerate(chats)]
    for contact, begin, count in chats:
        minutes = [int(begin + rng.expovariate(0.3)) for _ in range(count)]
        events += [a_chat(len(events) + number, minute, contact) for number, minute in enumerate(minutes)]
    await put(pool, events)
    [customer] = {row[0] for row in await pool.fetch("SELECT DISTINCT customer_id FROM conversation.leaf")}
    assert await pool.fetchval("SELECT count(DISTINCT leaf_id) FROM conversation.entry") == 9
    async with tenant_reader(pool, "acme") as connection:

        async def read(page: Page) -> list[tuple[datetime, str, str]]:
            entries, more = await pages.timeline(connection, "acme", customer, page)
            assert more == (len(within(page)) > page.limit)
            return [order_of(entry) for entry in entries]

        def within(page: Page) -> list[tuple[datetime, str, str]]:
            return [
                place
                for place in whole
                if (page.before is None or place < astuple(page.before))
                and (page.after is None or place > astuple(page.after))
                and (page.since is None or place[0] >= page.since)
                and (page.until is None or place[0] < page.until)
            ]

        rows = await pool.fetch("SELECT occurred_at, source, event_id FROM conversation.entry")
        whole = sorted((tuple(row) for row in rows), reverse=True)
        for _ in range(150):
            bounds = dict.fromkeys(rng.sample(["before", "after", "since", "until"], rng.choice([0, 1, 1, 2])))
            for name in bounds:
                at = rng.choice(whole)
                bounds[name] = Cursor(*at) if name in ("before", "after") else at[0]
            page = Page(limit=rng.choice([1, 3, 10, 50]), own_only=rng.random() < 0.5, **bounds)
            forward = page.after is not None and page.before is None
            wanted = within(page)[-page.limit :] if forward else within(page)[: page.limit]
            assert await read(page) == wanted, page


async def test_entries_that_arrive_between_two_pages_shift_none_of_the_others(
    pool: asyncpg.Pool, timelines: Timelines
) -> None:
    ann = {"handles": [{"kind": "email", "value": "ann@a.example"}]}
    await put(pool, [a_chat(number, 10 * number, customer=ann) for number in range(20)])
    customer = await timelines.customer("email:ann@a.example")
    assert customer is not None
    path, seen, before, fresh = f"/v1/customers/{customer['id']}/timeline", [], None, 100
    while True:
        page = await timelines.get(path, limit=3, before=before)
        seen += [entry["event_id"] for entry in page["entries"] if entry["source"] != "/threadline"]
        before = page["before"]
        if before is None:
            break
        # One newer than all, one behind the page just read, of the same instant as another.
        await put(pool, [a_chat(fresh, 1000 + fresh, customer=ann), a_chat(fresh + 1, 190, customer=ann)])
        fresh += 2
    known = [name for name in seen if name < "n100"]
    assert known == [f"n{number:03}" for number in reversed(range(20))]
    assert len(seen) == len(set(seen))


async def test_after_waits_at_the_newest_entry_and_then_shows_what_is_newer(
    pool: asyncpg.Pool, timelines: Timelines
) -> None:
    await put(pool, [a_chat(number, number) for number in range(3)])
    customer = await timelines.customer("contact:s1")
    assert customer is not None
    path = f"/v1/customers/{customer['id']}/timeline"
    newest = await timelines.get(path, limit=1)
    assert [entry["event_id"] for entry in newest["entries"]] == ["n002"]
    nothing = await timelines.get(path, after=newest["after"])
    assert (nothing["entries"], nothing["after"]) == ([], newest["after"])
    await put(pool, [a_chat(number, number) for number in range(3, 8)])
    page = await timelines.get(path, limit=2, after=nothing["after"])
    assert [entry["event_id"] for entry in page["entries"]] == ["n004", "n003"]
    between = await timelines.get(path, after=newest["after"], before=_cursor(page["entries"][0]))
    assert [entry["event_id"] for entry in between["entries"]] == ["n003"]


@pytest.mark.parametrize("seed", [4, 15])
async def test_filters_leave_just_what_they_name(pool: asyncpg.Pool, timelines: Timelines, seed: int) -> None:
    lines = await a_full_tenant(pool, seed)
    customer = max(lines, key=lambda id_: len(lines[id_]))
    path = f"/v1/customers/{customer}/timeline"
    whole = await walked(timelines, path, 200)
    middle = whole[len(whole) // 2]
    conversations = [entry["conversation_id"] for entry in whole if entry["conversation_id"]]

    async def shows(keeps: Any, **params: Any) -> None:
        assert await walked(timelines, path, 5, **params) == [entry for entry in whole if keeps(entry)], params

    for channel in ("chat", "email", "phone", "whatsapp"):
        await shows(lambda entry, c=channel: entry["channel"] == c, channel=channel)
    await shows(lambda entry: entry["channel"] in ("email", "sms"), channel="email,sms")
    for family in ("chat", "email", "phone", "social", "self_service"):
        await shows(lambda entry, f=family: FAMILY.get(entry["channel"]) == f, family=family)
    await shows(lambda entry: entry["type"] == "threadline.message.received", kind="message.received")
    await shows(lambda entry: entry["type"] == "threadline.message.sent", kind="threadline.message.sent")
    await shows(lambda entry: order_of(entry)[0] >= order_of(middle)[0], since=middle["occurred_at"])
    await shows(lambda entry: order_of(entry)[0] < order_of(middle)[0], until=middle["occurred_at"])
    await shows(lambda entry: entry["via"] == "identity", scope="own")
    await shows(lambda entry: entry["conversation_id"] == conversations[0], conversation_id=conversations[0])
    await shows(lambda entry: False, conversation_id=str(uuid4()))
    assert {entry["family"] for entry in whole} >= {"chat", "email", "phone"}, "a history that tests something"


async def test_every_id_that_a_merged_customer_ever_had_answers_with_the_survivor(
    pool: asyncpg.Pool, timelines: Timelines
) -> None:
    people = [{"handles": [{"kind": "email", "value": f"p{number}@a.example"}]} for number in range(3)]
    await put(pool, [a_chat(number, number, f"s{number}", customer=people[number]) for number in range(3)])
    ids = [(await timelines.customer(f"email:p{number}@a.example") or {})["id"] for number in range(3)]
    assert len(set(ids)) == 3
    for number in (1, 2):
        both = {"handles": [people[0]["handles"][0], people[number]["handles"][0]]}
        await put(pool, [a_chat(10 + number, 10 + number, "s9", customer=both)])
    answers = [await timelines.get(f"/v1/customers/{id_}") for id_ in ids]
    assert answers[0] == answers[1] == answers[2]
    assert sorted([answers[0]["id"], *answers[0]["merged_ids"]]) == sorted(ids)
    pages = [await timelines.get(f"/v1/customers/{id_}/timeline") for id_ in ids]
    assert pages[0] == pages[1] == pages[2]
    assert pages[0]["customer_id"] == answers[0]["id"]
    assert len([entry for entry in pages[0]["entries"] if entry["source"] != "/threadline"]) == 5
    assert {entry["customer_id"] for entry in pages[0]["entries"]} == {answers[0]["id"]}


async def test_a_conversation_answers_to_the_id_of_every_entry_that_founded_one(
    pool: asyncpg.Pool, timelines: Timelines
) -> None:
    def a_mail(number: int, **thread: Any) -> InboundEvent:
        at = START + timedelta(minutes=number)
        data = {"channel": "email", "message_id": f"<{number}@a.example>", "thread": thread}
        return InboundEvent("acme", "/email/acme", f"m{number}", "threadline.message.received", at, at, data)

    founded = []
    # The third was first to arrive, then the first turned out to found what it is part of.
    for mail in (a_mail(3, in_reply_to="<1@a.example>"), a_mail(2), a_mail(1)):
        await put(pool, [mail])
        rows = await pool.fetch("SELECT conversation_id FROM conversation.entry WHERE event_id = $1", mail.id)
        founded.append(str(rows[0][0]))
    await put(pool, [a_mail(4, references=["<1@a.example>", "<2@a.example>"])])
    answers = [await timelines.get(f"/v1/conversations/{id_}") for id_ in founded]
    assert answers[0] == answers[1] == answers[2]
    assert answers[0]["id"] == founded[2], "a conversation's id is its first entry's"
    assert answers[0]["entries"] == 4
    for id_ in founded:
        page = await timelines.get(f"/v1/conversations/{id_}/entries", limit=200, kind="message.received")
        assert [entry["event_id"] for entry in page["entries"]] == ["m4", "m3", "m2", "m1"]
        assert {entry["conversation_id"] for entry in page["entries"]} == {founded[2]}
    for limit in (1, 3):
        entries = await walked(timelines, f"/v1/conversations/{founded[0]}/entries", limit)
        assert entries == (await timelines.get(f"/v1/conversations/{founded[0]}/entries", limit=200))["entries"]


async def test_what_is_another_tenants_does_not_exist(pool: asyncpg.Pool, timelines: Timelines) -> None:
    await put(pool, [a_chat(1, 1)])
    customer = await timelines.customer("contact:s1")
    assert customer is not None
    entry = (await timelines.get(f"/v1/customers/{customer['id']}/timeline"))["entries"][0]
    for path in (
        f"/v1/customers/{customer['id']}",
        f"/v1/customers/{customer['id']}/timeline",
        f"/v1/customers/{customer['id']}/context",
        f"/v1/customers/{customer['id']}/identity",
        f"/v1/conversations/{entry['conversation_id']}",
        f"/v1/conversations/{entry['conversation_id']}/entries",
        f"/v1/conversations/{entry['id']}",
    ):
        await timelines.get(path)
        theirs = await timelines.call("GET", path, tenant="globex")
        assert (theirs.status_code, theirs.headers["content-type"]) == (404, "application/problem+json"), path
    assert await timelines.customer("contact:s1", tenant="globex") is None
    for unknown in (str(uuid4()), "x", "00000000", "%00"):
        assert (await timelines.call("GET", f"/v1/customers/{unknown}/timeline")).status_code == 404


def _packed(value: Any) -> str:
    return base64.urlsafe_b64encode(orjson.dumps(value)).decode().rstrip("=")


MALFORMED_CURSORS = [
    "x", "%%%", "é", "null", "a" * 5000, _packed(None), _packed({}), _packed([]), _packed(["2026-03-02T09:00:00Z"]),
    _packed(["yesterday", "/a", "1"]), _packed(["2026-03-02T09:00:00Z", 1, "1"]), _packed([1, "/a", "1"]),
    _packed(["2026-03-02T09:00:00Z", "/a", "1", "more"]), _packed(["0001-01-01T00:00:00+14:00", "/a", "1"]),
    _packed(["2026-03-02T09:00:00Z", "/a\0", "1"]), _packed(["2026-03-02", "/a", "1"]),
    base64.urlsafe_b64encode(b'["2026-03-02T09:00:00Z", "\\ud800", "1"]').decode(),
]  # fmt: skip


async def test_a_malformed_cursor_is_told_to_its_sender(pool: asyncpg.Pool, timelines: Timelines) -> None:
    await put(pool, [a_chat(1, 1)])
    customer = await timelines.customer("contact:s1")
    assert customer is not None
    timeline = f"/v1/customers/{customer['id']}/timeline"
    entry = (await timelines.get(timeline))["entries"][0]
    entries = f"/v1/conversations/{entry['conversation_id']}/entries"
    places = [(timeline, "before"), (timeline, "after"), (entries, "before"), (entries, "after")]
    places += [("/v1/customers", "cursor"), ("/v1/conversations", "cursor")]
    for cursor in MALFORMED_CURSORS:
        for path, name in places:
            answer = await timelines.call("GET", path, **{name: cursor})
            assert answer.status_code == 422, (cursor, path, answer.text)
            assert answer.json()["errors"][0]["pointer"] == f"#/query/{name}"


async def test_a_bad_parameter_is_told_to_its_sender(pool: asyncpg.Pool, timelines: Timelines) -> None:
    await put(pool, [a_chat(1, 1)])
    customer = await timelines.customer("contact:s1")
    assert customer is not None
    timeline = f"/v1/customers/{customer['id']}/timeline"
    bad = [
        (timeline, "limit", "0"), (timeline, "limit", "201"), (timeline, "limit", "x"),
        (timeline, "since", "yesterday"),
        (timeline, "until", "2026-03-02T09:00:00"), (timeline, "since", "0001-01-01T00:00:00+14:00"),
        (timeline, "until", "9999-12-31T23:59:59-14:00"), (timeline, "conversation_id", "x"),
        (timeline, "scope", "mine"), (timeline, "channel", "a\0b"), (timeline, "kind", "\0"),
        (timeline, "family", "chat,\0"), ("/v1/customers", "handle", "ann"), ("/v1/customers", "handle", "crm:a\0b"),
        ("/v1/customers", "handle", "contact:\0b"), ("/v1/customers", "q", "a\0"), ("/v1/conversations", "state", "x"),
        ("/v1/conversations", "assignee", "a\0b"), ("/v1/conversations", "team", "\0"),
        ("/v1/conversations", "channel", "\0"), ("/v1/conversations", "waiting", "perhaps"),
    ]  # fmt: skip
    for path, name, value in bad:
        answer = await timelines.call("GET", path, **{name: value})
        assert answer.status_code == 422, (path, name, value, answer.text)
        assert name in answer.json()["errors"][0]["pointer"]


async def test_what_is_posted_is_read(timelines: Timelines) -> None:
    """The way through the log: the other tests put events where the consumer would."""
    await timelines.post(timelines.message("09:00:00", "email:ann@a.example", contact_id="s1"))

    async def shown() -> bool:
        return await timelines.customer("email:ann@a.example") is not None

    await until(partial(shown), "the customer is found by the handle")


async def test_no_reader_waits_for_a_thread(
    pool: asyncpg.Pool, timelines: Timelines, monkeypatch: pytest.MonkeyPatch
) -> None:
    await put(pool, [a_chat(1, 0, customer={"handles": [{"kind": "email", "value": "ann@a.example"}]})])
    customer = await timelines.customer("email:ann@a.example")
    assert customer is not None
    [conversation] = customer["open_conversations"]
    # A route or a dependency that is no coroutine is handed to a thread and waited for: it took a sixth of a page.
    monkeypatch.setattr("anyio.to_thread.run_sync", None)
    person = f"/v1/customers/{customer['id']}"
    paths = (person, f"{person}/timeline", f"{person}/context", f"{person}/identity", f"{person}/export",
             f"/v1/conversations/{conversation}", f"/v1/conversations/{conversation}/entries")  # fmt: skip
    for path in paths:
        assert (await timelines.call("GET", path)).status_code == 200, path
    for path in ("/v1/customers", "/v1/conversations"):
        assert await timelines.get(path)
    assert (await timelines.get("/v1/search", q="number"))["hits"]


async def test_the_entries_of_a_conversation_are_narrowed_as_a_timeline_is(timelines: Timelines) -> None:
    ann = "email:ann@a.example"
    await timelines.post(
        timelines.message("09:00:00", ann, contact_id="s1"), timelines.message("10:00:00", ann, channel="email")
    )
    found = await timelines.customer(ann)
    assert found is not None
    path, kind = f"/v1/conversations/{found['open_conversations'][0]}/entries", "message.received"
    for narrowed, channels in (
        ({}, ["email", "chat"]), ({"family": "chat"}, ["chat"]), ({"since": "2026-03-02T10:00:00Z"}, ["email"]),
        ({"until": "2026-03-02T10:00:00Z"}, ["chat"]),
    ):  # fmt: skip
        entries = (await timelines.get(path, kind=kind, **narrowed))["entries"]
        assert [entry["channel"] for entry in entries] == channels, narrowed


async def test_handles_are_listed_once_and_numbers_with_their_country(timelines: Timelines) -> None:
    await timelines.post(
        timelines.message("09:00:00", "visitor:v1"),
        timelines.message("09:01:00", "phone:06 1234 5678", "email:Ann+shop@A.example", channel="sms"),
    )
    for asked, shown in (
        ("visitor:v1", [("visitor", "v1")]),
        ("phone:0612345678", [("email", "Ann+shop@A.example"), ("phone", "+31612345678")]),
    ):
        found = await timelines.customer(asked)
        assert found is not None
        assert sorted((handle["kind"], handle["value"]) for handle in found["handles"]) == shown


async def test_what_is_told_of_a_customer_is_the_same_in_any_order_of_arrival(timelines: Timelines) -> None:
    ticket = {"thread": {"ticket": "T-1"}}
    ann = timelines.message("09:00:00", "email:ann@x.example", channel="email", **ticket)
    bo = timelines.message("09:10:00", "email:bo@x.example", channel="chat", contact_id="c1", **ticket)
    # It names nobody: it lies with whoever began the conversation, and that is known when all has come.
    reply = timelines.message("09:20:00", type="message.sent", channel="sms", actor={"type": "agent"}, **ticket)
    told = []
    for tenant, order in (("acme", (ann, bo, reply)), ("globex", (bo, reply, ann))):
        for event in order:
            await timelines.post(event, tenant=tenant)
        found = [await timelines.customer(f"email:{name}@x.example", tenant) for name in ("ann", "bo")]
        told.append([(one["channels"], one["first_seen_at"], one["last_seen_at"]) for one in found if one])
    assert told[0] == told[1]
    assert [channels for channels, _, _ in told[0]] == [["email"], ["chat"]]


@pytest.mark.parametrize("microseconds", [0, 600_000, 120, 999_999])
async def test_times_are_in_utc_with_microseconds_whatever_the_database_has_as_its_zone(
    pool: asyncpg.Pool, settings: Settings, database: str, microseconds: int
) -> None:
    at = (START + timedelta(microseconds=microseconds)).replace(year=807)
    await put(
        pool, [InboundEvent("acme", "/chat/acme", "n", "threadline.message.received", at, at, {"channel": "chat"})]
    )
    name = await pool.fetchval("SELECT current_database()")
    await pool.execute(f"""ALTER DATABASE "{name}" SET timezone TO 'Asia/Kolkata'""")
    async with open_pool(settings, database) as later, tenant_reader(later, "acme") as connection:
        (customer_id,) = await connection.fetchrow("SELECT customer_id FROM conversation.leaf")
        entries, _ = await pages.timeline(connection, "acme", customer_id, Page())
    told = f"0807-03-02T09:00:00.{microseconds:06}Z"
    assert [entry["occurred_at"] for entry in entries if entry["source"] == "/chat/acme"] == [told]
