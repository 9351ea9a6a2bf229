"""A visitor's stream: their own session and nothing else, with no gap and no repeat, by a ticket that ends."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import orjson
import pytest

from services.conversation.streaming import Tail
from services.conversation.visitors import Visitors
from shared.settings import Settings
from shared.visitor_tickets import STREAM_PATH, Ticket, make_ticket, ticket_key
from tests.timeline_app import SECRET_KEY, Timelines, running_timelines

Event = tuple[str, int | None, dict[str, Any]]
AGENT = {"type": "agent", "id": "a1", "name": "Bo"}


@pytest.fixture
async def timelines(pool: asyncpg.Pool, settings: Settings) -> AsyncIterator[Timelines]:
    async with running_timelines(pool, settings) as running:
        yield running


@pytest.fixture
async def visitors(pool: asyncpg.Pool) -> AsyncIterator[Visitors]:
    tail = Tail(pool)
    running = asyncio.ensure_future(tail.run())
    visitors = Visitors(pool, tail)
    yield visitors
    visitors.close()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


def a_ticket(session: str, tenant: str = "acme", **left: float) -> Ticket:
    return Ticket(tenant, session, datetime.now(UTC) + timedelta(**(left or {"hours": 1})))


def parsed(raw: bytes) -> Event:
    fields = dict(line.split(b": ", 1) for line in raw.strip().split(b"\n"))
    position = int(fields[b"id"]) if b"id" in fields else None
    return fields[b"event"].decode(), position, orjson.loads(fields[b"data"])


async def read(visitors: Visitors, session: str, after: int | None, lines: int, tenant: str = "acme") -> list[Event]:
    """Return events until `lines` lines and the position behind them have come."""
    found: list[Event] = []
    async with asyncio.timeout(30), aclosing(visitors.stream(a_ticket(session, tenant), after, 3600)) as events:
        async for raw in events:
            found.append(parsed(raw))
            if sum(name == "line" for name, _, _ in found) >= lines and found[-1][1] is not None:
                break
    return found


def said(events: list[Event]) -> list[str]:
    return [data["text"] for name, _, data in events if name == "line"]


async def test_a_page_that_comes_and_goes_has_every_line_once_and_no_others(
    visitors: Visitors, timelines: Timelines
) -> None:
    chance = random.Random(11)
    spoken = [
        timelines.message(
            f"09:{n // 60:02}:{n % 60:02}", f"visitor:v{n % 3}", contact_id=f"s{n % 3}", actor={"type": "customer"}
        )
        for n in range(60)
    ]

    async def post() -> None:
        for start in range(0, 60, 6):
            await timelines.post(*spoken[start : start + 6])

    posting = asyncio.ensure_future(post())
    seen: list[str] = []
    position: int | None = None
    while len(seen) < 20:
        part = await read(visitors, "s1", position, min(chance.randint(1, 3), 20 - len(seen)))
        seen += said(part)
        position = part[-1][1]
        assert not any(name == "reset" for name, _, _ in part)
    await posting
    assert seen == [event["data"]["text"] for event in spoken if event["data"]["contact_id"] == "s1"]
    # A page that knows nothing gets all of it.
    assert said(await read(visitors, "s1", None, 20)) == seen


async def test_answers_by_conversation_go_to_who_asked_last(visitors: Visitors, timelines: Timelines) -> None:
    first = timelines.message("09:00:00", "crm:1", contact_id="s1", text="from the first tab")
    await timelines.post(first)
    conversation = (await timelines.status(first))["conversation_id"]
    await timelines.post(
        timelines.message("09:01:00", type="message.sent", conversation_id=conversation, actor=AGENT, text="one"),
        timelines.message("09:02:00", "crm:1", contact_id="s2", text="from the second"),
        timelines.message("09:03:00", type="message.sent", conversation_id=conversation, actor=AGENT, text="two"),
    )
    assert said(await read(visitors, "s1", None, 2)) == ["from the first tab", "one"]
    assert said(await read(visitors, "s2", None, 2)) == ["from the second", "two"]


async def test_notes_other_channels_and_other_tenants_stay_out(visitors: Visitors, timelines: Timelines) -> None:
    await timelines.post(
        timelines.message("09:00:00", "crm:1", contact_id="s1", text="hello"),
        timelines.message("09:00:01", contact_id="s1", type="message.sent", actor=AGENT, text="a", internal=True),
        timelines.message(
            "09:00:02", contact_id="s1", type="message.sent", actor=AGENT, text="b", extra={"private": 1}
        ),
        timelines.message("09:00:03", contact_id="s1", type="message.sent", actor=AGENT, text="c", channel="email"),
        timelines.message("09:00:04", contact_id="s1", type="conversation.assigned", to_agent="a1", text="d"),
        timelines.message(
            "09:00:05", contact_id="s1", type="message.sent", actor=AGENT, html="<p>shown</p>", text=None
        ),
    )
    events = await read(visitors, "s1", None, 2)
    assert said(events) == ["hello", "shown"]
    (line,) = [data for name, _, data in events if name == "line" and data["from"] == "agent"]
    assert set(line) == {
        "id", "type", "from", "name", "text", "attachments", "message_id", "refers_to", "at", "sequence", "version",
    }  # fmt: skip
    assert said(await read(visitors, "s1", None, 0, "globex")) == []


async def test_unknown_position_is_a_reset_and_everything_again(visitors: Visitors, timelines: Timelines) -> None:
    await timelines.post(timelines.message("09:00:00", "crm:1", contact_id="s1", text="hello"))
    events = await read(visitors, "s1", 10_000, 1)
    assert [name for name, _, _ in events] == ["reset", "line", "position"]


async def test_stream_ends_with_its_ticket(visitors: Visitors, timelines: Timelines) -> None:
    async with asyncio.timeout(30):
        events = [parsed(raw) async for raw in visitors.stream(a_ticket("s1"), None, 0.2)]
    assert (events[0][0], events[-1][0]) == ("position", "ended")
    assert said(events) == []


async def test_eleventh_stream_of_a_session_ends_its_first(visitors: Visitors, timelines: Timelines) -> None:
    await timelines.post(timelines.message("09:00:00", "crm:1", contact_id="s1"))
    streams = [visitors.stream(a_ticket("s1"), None, 3600) for _ in range(11)]
    for stream in streams:
        await anext(stream)
    async with asyncio.timeout(30):
        assert [parsed(raw)[0] async for raw in streams[0]] == ["position"]
    for stream in streams[1:]:
        await stream.aclose()


@pytest.mark.parametrize(
    ("ticket", "origin", "status"),
    [
        (make_ticket(a_ticket("s1"), b"another key"), None, 401),
        (make_ticket(a_ticket("s1", seconds=-1), ticket_key(SECRET_KEY)), None, 401),
        ("", None, 401),
        ("a.b", None, 401),
        (make_ticket(a_ticket("s1"), ticket_key(SECRET_KEY)), "https://evil.example", 403),
    ],
    ids=["forged", "ended", "empty", "nonsense", "from another website"],
)
async def test_ticket_that_is_not_good_opens_nothing(
    timelines: Timelines, ticket: str, origin: str | None, status: int
) -> None:
    headers = {"origin": origin} if origin else {}
    answer = await timelines.client.get(STREAM_PATH, params={"ticket": ticket}, headers=headers)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert "access-control-allow-origin" not in answer.headers
