"""The stream: every change once, in order, also for a reader that comes and goes."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import aclosing, nullcontext, suppress
from dataclasses import replace
from typing import Any

import asyncpg
import orjson
import pytest

from services.conversation import streaming
from services.conversation.streaming import Tail, Wanted
from shared.events import InboundEvent
from shared.keys import create_key, revoke_key
from shared.settings import Settings
from tests.histories import a_history
from tests.integration.conversation.test_histories import put
from tests.timeline_app import Timelines, running_timelines

Event = tuple[str, int, dict[str, Any]]


@pytest.fixture
async def timelines(pool: asyncpg.Pool, settings: Settings) -> AsyncIterator[Timelines]:
    async with running_timelines(pool, settings) as running:
        yield running


@pytest.fixture
async def tail(pool: asyncpg.Pool) -> AsyncIterator[Tail]:
    tail = Tail(pool)
    running = asyncio.ensure_future(tail.run())
    yield tail
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


def parsed(raw: bytes) -> Event | None:
    if raw.startswith(b":"):
        return None
    fields = dict(line.split(b": ", 1) for line in raw.strip().split(b"\n"))
    return fields[b"event"].decode(), int(fields[b"id"]), orjson.loads(fields[b"data"])


async def read(
    pool: asyncpg.Pool, tail: Tail, wanted: Wanted, after: int | None, count: int, patience_s: float | None = None
) -> list[Event]:
    """Return the next `count` events, or those that come within `patience_s` where given."""
    found: list[Event] = []
    with suppress(TimeoutError) if patience_s else nullcontext():
        async with asyncio.timeout(patience_s or 30), aclosing(streaming.stream(pool, tail, wanted, after)) as events:
            async for raw in events:
                event = parsed(raw)
                if event is not None:
                    found.append(event)
                if len(found) >= count:
                    break
    return found


async def test_a_reader_who_comes_and_goes_a_hundred_times_under_load_has_every_entry_once(pool: asyncpg.Pool) -> None:
    """Three writers, late events among theirs that move others; the reader goes to either of two processes."""
    chance = random.Random(7)
    histories = [a_history(chance, "acme", 30) for _ in range(5)]
    events = [replace(e, source=f"{e.source}{n}") for n, history in enumerate(histories) for e in history]
    chance.shuffle(events)
    tails = [Tail(pool), Tail(pool)]
    running = [asyncio.ensure_future(tail.run()) for tail in tails]

    async def write(share: list[InboundEvent]) -> None:
        for start in range(0, len(share), 3):
            await put(pool, "acme", share[start : start + 3])

    writing = asyncio.gather(*(write(events[number::3]) for number in range(3)))
    seen: list[Event] = []
    visits = 0
    try:
        while not writing.done() or await last_position(pool) > len(seen):
            visits += 1
            wanted = Wanted("acme"), len(seen), chance.randint(1, 4)
            seen += await read(pool, chance.choice(tails), *wanted, patience_s=0.5 if writing.done() else 5)
        await writing
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
    assert visits >= 100
    assert [at for _, at, _ in seen] == list(range(1, len(seen) + 1))
    # What follows from others may cease to hold, and hold again as a new entry.
    told = Counter(e["id"] for kind, _, e in seen if kind == "entry" and e["source"] != "/threadline")
    assert set(told.values()) == {1}
    newest = {entry["id"]: entry for _, _, entry in seen}
    there = await pool.fetch("SELECT entry_id::text, version FROM conversation.entry WHERE tenant_id = 'acme'")
    assert {row[0]: row[1] for row in there} == {
        id_: entry["version"] for id_, entry in newest.items() if not entry.get("deleted")
    }
    assert any(kind == "correction" for kind, _, _ in seen)


async def last_position(pool: asyncpg.Pool) -> int:
    return int(await pool.fetchval("SELECT position FROM conversation.tenant_state WHERE tenant_id = 'acme'") or 0)


async def test_a_stream_of_one_customer_sends_nobody_elses_entries(
    pool: asyncpg.Pool, tail: Tail, timelines: Timelines
) -> None:
    await timelines.post(timelines.message("09:00:00", "crm:ann"), timelines.message("09:00:01", "crm:bo"))
    ann = await timelines.customer("crm:ann")
    assert ann is not None
    events = await read(pool, tail, Wanted("acme", customer_id=streaming.UUID(ann["id"])), 0, 2)
    assert {e["customer_id"] for _, _, e in events} == {ann["id"]}
    assert [e["type"] for _, _, e in events] == ["threadline.message.received", "threadline.conversation.opened"]


async def test_an_entry_that_moves_is_sent_as_a_correction(
    pool: asyncpg.Pool, tail: Tail, timelines: Timelines
) -> None:
    later = timelines.message("09:05:00", "email:ann@x.example", channel="email", thread={"ticket": "T-9"})
    earlier = timelines.message("09:00:00", "crm:1", thread={"ticket": "T-9"})
    await timelines.post(later)
    await timelines.post(earlier)
    events = await read(pool, tail, Wanted("acme"), 0, 5)
    kinds = [(kind, e.get("event_id", "").partition(":")[0], e.get("version")) for kind, _, e in events]
    assert ("correction", later["id"], 2) in kinds
    moved = next(e for kind, _, e in events if kind == "correction" and e.get("event_id") == later["id"])
    assert moved["conversation_id"] == (await timelines.status(earlier))["conversation_id"]


async def test_a_merge_tells_the_reader_to_start_over(pool: asyncpg.Pool, tail: Tail, timelines: Timelines) -> None:
    await timelines.post(timelines.message("09:00:00", "crm:ann"), timelines.message("09:00:01", "email:a@x.example"))
    ann, other = await timelines.customer("crm:ann"), await timelines.customer("email:a@x.example")
    assert ann is not None
    assert other is not None
    last = (await read(pool, tail, Wanted("acme"), 0, 4))[-1][1]
    reading = asyncio.ensure_future(read(pool, tail, Wanted("acme", customer_id=streaming.UUID(ann["id"])), last, 1))
    answer = await timelines.call("POST", f"/v1/customers/{ann['id']}/merge", json={"with": other["id"]})
    assert answer.status_code == 200
    assert [kind for kind, _, _ in await reading] == ["reset"]


async def test_who_comes_back_after_a_merge_or_split_is_told_to_start_over(
    pool: asyncpg.Pool, tail: Tail, timelines: Timelines
) -> None:
    await timelines.post(timelines.message("09:00:00", "crm:ann"), timelines.message("09:00:01", "email:a@x.example"))
    ann = await timelines.customer("crm:ann")
    assert ann is not None
    wanted = Wanted("acme", customer_id=streaming.UUID(ann["id"]))
    before = await last_position(pool)
    await timelines.post(timelines.message("09:00:02", "crm:ann"))
    # Nothing but entries of her own: all of them come.
    assert [kind for kind, _, _ in await read(pool, tail, wanted, before, 1)] == ["entry"]
    # One person by evidence, which no entry tells.
    await timelines.post(timelines.message("09:00:03", "crm:ann", "email:a@x.example"))
    last = await last_position(pool)
    told = await read(pool, tail, wanted, before, 2)
    assert [(kind, position) for kind, position, _ in told] == [("reset", before), ("entry", before + 1)]
    assert await read(pool, tail, wanted, last, 1, patience_s=0.5) == []
    body = {"handles": ["email:a@x.example"]}
    assert (await timelines.call("POST", f"/v1/customers/{ann['id']}/split", json=body)).status_code == 200
    assert [kind for kind, _, _ in await read(pool, tail, wanted, last, 1)] == ["reset"]


async def test_readers_of_a_conversation_hear_what_leaves_it_and_when_it_becomes_one_with_another(
    pool: asyncpg.Pool, tail: Tail, timelines: Timelines
) -> None:
    one, other = "email:a@x.example", "email:b@x.example"
    first = timelines.message("09:00:00", one, channel="email", message_id="<1@x>")
    second = timelines.message("09:01:00", other, channel="email", message_id="<2@x>")
    answer = timelines.message("09:02:00", other, channel="email", thread={"in_reply_to": "<2@x>"})
    await timelines.post(first, second, answer)
    stays, leaves = [(await timelines.status(event))["conversation_id"] for event in (first, second)]
    moved = (await timelines.status(answer))["entry_id"]
    wanted = Wanted("acme", conversation_id=streaming.UUID(leaves))
    before = await last_position(pool)
    joined = await timelines.call("POST", f"/v1/conversations/{stays}/join", json={"entry_ids": [moved]})
    assert joined.status_code == 200, joined.text
    customer = await timelines.customer(other)
    assert customer is not None
    for left in (wanted, Wanted("acme", customer_id=streaming.UUID(customer["id"]))):
        kind, _, told = (await read(pool, tail, left, before, 1))[0]
        assert (kind, told["id"], told["conversation_id"]) == ("correction", moved, stays)
    # Whatever becomes of it there is no news for those who read where it was.
    behind = await last_position(pool)
    back = await timelines.call("POST", f"/v1/conversations/{moved}/join", json={"entry_ids": [moved]})
    assert back.status_code == 200, back.text
    assert await read(pool, tail, wanted, behind, 1, patience_s=0.5) == []
    # Two that become one: to whoever reads now, and to whoever comes back later.
    position = await last_position(pool)
    reading = asyncio.ensure_future(read(pool, tail, wanted, position, 1))
    await asyncio.sleep(0)
    whole = await timelines.call("POST", f"/v1/conversations/{stays}/join", json={"conversation_id": leaves})
    assert whole.status_code == 200, whole.text
    assert [kind for kind, _, _ in await reading] == ["reset"]
    assert [kind for kind, _, _ in await read(pool, tail, wanted, position, 1)] == ["reset"]


async def test_a_position_from_nowhere_is_a_reset_and_nonsense_a_422(
    pool: asyncpg.Pool, tail: Tail, timelines: Timelines
) -> None:
    assert [kind for kind, _, _ in await read(pool, tail, Wanted("acme"), 10_000, 1)] == ["reset"]
    headers = {"authorization": f"Bearer {timelines.keys['acme']}", "last-event-id": "yesterday"}
    answer = await timelines.client.get("/v1/stream", headers=headers)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"] == "#/header/last-event-id"
    assert (await timelines.call("GET", "/v1/stream", customer_id=str(streaming.UUID(int=1)))).status_code == 404


async def test_a_stream_ends_when_its_key_is_revoked(pool: asyncpg.Pool, timelines: Timelines) -> None:
    async with pool.acquire() as connection:
        key = await create_key(connection, "acme", ["timeline:read"])
    headers = {"authorization": f"Bearer {key}"}
    # Remembered from now on: the stream begins, though the key is revoked before it does.
    assert (await timelines.client.get("/v1/customers", headers=headers)).status_code == 200
    streaming_now = asyncio.create_task(timelines.client.get("/v1/stream", headers=headers))
    async with pool.acquire() as connection:
        await revoke_key(connection, key)
    answer = await asyncio.wait_for(streaming_now, 5)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
    assert (await timelines.client.get("/v1/stream", headers=headers)).status_code == 401


async def test_a_stream_is_quiet_but_for_a_heartbeat_while_it_is_looked_whether_it_may_go_on(
    pool: asyncpg.Pool, tail: Tail, timelines: Timelines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming, "HEARTBEAT_S", 0.3)
    monkeypatch.setattr(streaming, "ALLOWED_EVERY_S", 0.02)
    looks = 0

    async def allowed() -> bool:
        nonlocal looks
        looks += 1
        return looks < 40

    clock = asyncio.get_running_loop().time
    begun, beats = clock(), []
    async for raw in streaming.stream(pool, tail, Wanted("acme"), None, allowed):
        assert raw == streaming.HEARTBEAT
        beats.append(clock() - begun)
    assert looks == 40
    assert 2 <= len(beats) <= 2 + (clock() - begun) / 0.3
