"""The lane beside the stream of a running service: what callers, checks and whoever repeats themselves see of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime
from time import monotonic
from typing import Any

import asyncpg
import httpx
import pytest
from prometheus_client import CollectorRegistry
from pydantic import SecretStr

from services.cli import ledger
from services.conversation import tables
from services.conversation.auditing import Audit
from services.conversation.batch import Limits, Outcome
from services.conversation.beside import Decision, decide_beside
from services.conversation.entries import digest_of
from services.conversation.lane import TRIES, Lane
from services.conversation.update import put_events
from shared.auth import Authenticator
from shared.clock import SystemClock
from shared.entry_ids import entry_id_of, entry_secret
from shared.events import InboundEvent
from shared.log.metrics import LogMetrics
from shared.log.postgres import PostgresLog, postgres_log
from shared.service import Platform
from shared.settings import Settings
from tests.histories import BEGINNING, HOUR, SECRET
from tests.integration.conversation.test_histories import is_what_is_decided_from_scratch
from tests.integration.conversation.test_lane import decide, nothing_is_aside, put
from tests.timeline_app import SECRET_KEY, Timelines, running_timelines
from tests.waiting import until

SMALL = Limits(leaves=1, entries=2000)
SESSIONS = 104
ALONE = "SELECT pg_advisory_lock(hashtextextended('aside:acme', 0))"
FREE = "SELECT pg_advisory_unlock(hashtextextended('aside:acme', 0))"


def said(name: str, hours: int, *handles: str, text: str = "x") -> InboundEvent:
    at = BEGINNING + hours * HOUR
    given = [dict(zip(("kind", "value"), handle.split(":", 1), strict=True)) for handle in handles]
    data = {"channel": "sms", "actor": {"type": "customer"}, "customer": {"handles": given}, "text": text}
    return InboundEvent("acme", "/x", name, "threadline.message.received", at, at, data)


ANN, CALLER = "email:ann@a.example", "phone:+31612345671"


@pytest.fixture
def settings(settings: Settings, database: str) -> Settings:
    """As a process has them, with the database's address: the lane decides in a thread of its own."""
    return settings.model_copy(update={"database_url": SecretStr(database)})


async def two_people(pool: asyncpg.Pool) -> None:
    await put(pool, "acme", [said("a", 1, ANN), said("b", 2, CALLER)], SMALL)


async def test_what_is_set_aside_changes_nothing_until_it_is_decided_and_then_everything(pool: asyncpg.Pool) -> None:
    await two_people(pool)
    both = said("both", 3, ANN, CALLER)
    outcome = await put(pool, "acme", [both, said("c", 4, ANN)], SMALL)
    assert (outcome.new, len(outcome.aside)) == (1, 1)
    entries = "SELECT event_id FROM conversation.entry WHERE cause_id IS NULL ORDER BY 1"
    customers = "SELECT count(DISTINCT customer_id) FROM conversation.leaf"
    assert [row[0] for row in await pool.fetch(entries)] == ["a", "b", "c"]
    assert await pool.fetchval(customers) == 2
    decided = await decide(pool, "acme")
    assert decided is not None
    assert decided.new == 1
    assert [row[0] for row in await pool.fetch(entries)] == ["a", "b", "both", "c"]
    assert await pool.fetchval(customers) == 1
    assert await decide(pool, "acme") is None
    await nothing_is_aside(pool, "acme")


async def test_what_is_set_aside_is_known_when_it_comes_again_and_the_first_of_two_stays(pool: asyncpg.Pool) -> None:
    await two_people(pool)
    both, other = said("both", 3, ANN, CALLER), said("both", 3, ANN, CALLER, text="other")
    first = await put(pool, "acme", [both, both, other], SMALL)
    assert (len(first.aside), first.repeated, first.conflicts, first.new) == (1, 1, 1, 0)
    again = await put(pool, "acme", [other, both], SMALL)
    assert (len(again.aside), again.repeated, again.conflicts) == (0, 1, 1)
    await decide(pool, "acme")
    after = await put(pool, "acme", [other, both], SMALL)
    assert (after.repeated, after.conflicts) == (1, 1)
    stored = await pool.fetchrow("SELECT data, digest FROM conversation.entry WHERE event_id = 'both'")
    assert (stored["data"]["text"], stored["digest"]) == ("x", digest_of(both))
    assert await pool.fetchval("SELECT data ->> 'text' FROM conversation.conflict") == "other"


async def test_many_messages_that_say_the_same_of_two_people_wait_together(pool: asyncpg.Pool) -> None:
    await two_people(pool)
    events = [said(f"both{number}", 3 + number, ANN, CALLER) for number in range(50)]
    outcome = await put(pool, "acme", [*events, said("c", 90, "email:bo@b.example")], SMALL)
    assert (outcome.new, len(outcome.aside)) == (1, 50)
    decided = await decide(pool, "acme")
    assert decided is not None
    assert decided.new == 50


async def test_a_new_session_of_somebody_with_many_is_no_large_decision(pool: asyncpg.Pool) -> None:
    chats = [said(str(number), number, ANN) for number in range(12)]
    for number, chat in enumerate(chats):
        chat.data.update(channel="chat", contact_id=f"s{number}")
    for chat in chats:
        assert (await put(pool, "acme", [chat], Limits(leaves=5, entries=2000))).new == 1
    await nothing_is_aside(pool, "acme")


async def test_two_people_who_come_together_over_a_new_session_are_regrouped_by_all_that_say_so(
    pool: asyncpg.Pool,
) -> None:
    await two_people(pool)
    anns, theirs, own = said("anns", 3, ANN), said("theirs", 4, CALLER), said("own", 5, ANN)
    for event, session in ((anns, "s1"), (theirs, "s1"), (own, "s2")):
        event.data.update(channel="chat", contact_id=session)
    outcome = await put(pool, "acme", [anns, theirs, own], SMALL)
    assert outcome.aside >= {entry_id_of(SECRET, "acme", "/x", name) for name in ("anns", "theirs")}
    await decide(pool, "acme")
    assert await pool.fetchval("SELECT count(DISTINCT customer_id) FROM conversation.leaf") == 1
    await is_what_is_decided_from_scratch(pool, "acme", 0)


async def test_a_late_message_into_a_long_matter_is_set_aside_and_those_in_order_are_not(pool: asyncpg.Pool) -> None:
    limits = Limits(leaves=100, entries=20)
    await put(pool, "acme", [said(f"e{number}", number, ANN) for number in range(2, 40)], limits)
    late, next_, other = said("late", 1, ANN), said("next", 41, ANN), said("other", 1, CALLER)
    outcome = await put(pool, "acme", [late, next_, other], limits)
    late_id = entry_id_of(SECRET, "acme", "/x", "late")
    assert (outcome.new, outcome.aside) == (2, {late_id})
    await decide(pool, "acme")
    founded = await pool.fetch("SELECT FROM conversation.conversation WHERE conversation_id = $1", late_id)
    assert founded, "the late one opened the conversation"


async def test_verify_waits_for_what_is_set_aside_when_it_begins(pool: asyncpg.Pool) -> None:
    await ledger.wait_for_lane(pool, monotonic())
    await two_people(pool)
    await put(pool, "acme", [said("both", 3, ANN, CALLER)], SMALL)
    with pytest.raises(ledger.NotDone, match="1 events are set aside"):
        await ledger.wait_for_lane(pool, monotonic(), 0.01)
    waiting = asyncio.create_task(ledger.wait_for_lane(pool, monotonic() + 30, 0.01))
    await decide(pool, "acme")
    await waiting


@asynccontextmanager
async def busy_lane(pool: asyncpg.Pool) -> AsyncIterator[None]:
    """Keep the lane of acme busy, as if another process had it."""
    async with pool.acquire() as connection:
        await connection.execute(ALONE)
        try:
            yield
        finally:
            await connection.execute(FREE)


async def somebody_with_many_sessions(app: Timelines) -> tuple[dict[str, Any], dict[str, Any]]:
    chats = [
        app.message(f"09:{number // 60:02}:{number % 60:02}", "email:ann@home.example", contact_id=f"chat-{number}")
        for number in range(SESSIONS)
    ]
    await app.post(*chats, app.message("09:05:00", "phone:+31201234567", channel="sms"))
    ann, caller = await app.customer("email:ann@home.example"), await app.customer("phone:+31201234567")
    assert ann is not None
    assert caller is not None
    return ann, caller


async def merge_that_waits(
    app: Timelines, pool: asyncpg.Pool, one: dict[str, Any], other: dict[str, Any]
) -> asyncio.Task[httpx.Response]:
    """Merge two over HTTP; return the call, which is under way, once the merge is set aside."""
    merging = asyncio.create_task(app.call("POST", f"/v1/customers/{one['id']}/merge", json={"with": other["id"]}))

    async def is_aside() -> bool:
        return await tables.aside.tenants(pool) == ["acme"]

    await until(is_aside, "the merge is set aside")
    return merging


async def test_a_merge_of_more_than_a_hundred_sessions_is_answered_once_it_shows(
    pool: asyncpg.Pool, settings: Settings
) -> None:
    async with running_timelines(pool, settings) as app:
        ann, caller = await somebody_with_many_sessions(app)
        async with busy_lane(pool):
            merging = await merge_that_waits(app, pool, ann, caller)
            event_id = await pool.fetchval("SELECT event_id FROM conversation.aside")
            # The stream of the same tenant goes on, and nothing is half merged.
            await app.post(app.message("10:00:00", "email:ann@home.example", channel="sms"))
            assert await app.status({"source": "/threadline", "id": event_id}) == {
                "status": "accepted", "customer_id": None, "conversation_id": None, "entry_id": None, "reason": None,
            }  # fmt: skip
            assert (await app.get(f"/v1/customers/{caller['id']}"))["id"] == caller["id"]
            audit = Audit(pool, app.platform.log, entry_secret(app.platform.secret_key))
            assert await audit.look(0.0) > 0
            assert audit.missing == {}
            assert not merging.done()
        answer = await merging
        assert answer.status_code == 200, answer.text
        assert answer.json()["event_id"] == event_id
        for one in (ann, caller):
            assert (await app.get(f"/v1/customers/{one['id']}"))["id"] == answer.json()["customer_id"]
        split = await app.call(
            "POST", f"/v1/customers/{ann['id']}/split", json={"handles": ["phone:+31201234567"], "reason": "not hers"}
        )
        assert split.status_code == 200, split.text
        assert (await app.get(f"/v1/customers/{caller['id']}"))["id"] == caller["id"]
        headers = {"authorization": f"Bearer {app.keys['acme']}"}
        metrics = (await app.client.get("/metrics", headers=headers)).text
        assert 'threadline_conversation_events_total{outcome="aside"} 2.0' in metrics
        await nothing_is_aside(pool, "acme")


async def test_erasing_somebody_whose_merge_waits_erases_both(pool: asyncpg.Pool, settings: Settings) -> None:
    async with running_timelines(pool, settings) as app:
        ann, caller = await somebody_with_many_sessions(app)
        async with busy_lane(pool):
            merging = await merge_that_waits(app, pool, ann, caller)
            gone = await app.call("DELETE", f"/v1/customers/{ann['id']}")
            assert gone.status_code == 200, gone.text
            await nothing_is_aside(pool, "acme")
            merging.cancel()
        for one in (ann, caller):
            assert (await app.call("GET", f"/v1/customers/{one['id']}")).status_code == 404
        assert await app.customer("phone:+31201234567") is None


class Quiet:
    def count(self, outcome: Outcome) -> None:
        self.last = outcome

    def show_aside(self, events: int, oldest_s: float) -> None:
        self.shown = (events, oldest_s)


async def test_what_turns_out_to_be_unreadable_goes_to_quarantine_and_the_rest_is_decided(
    pool: asyncpg.Pool, settings: Settings
) -> None:
    async with running_timelines(pool, settings) as app:
        secret = entry_secret(app.platform.secret_key)
        async with busy_lane(pool), pool.acquire() as connection, connection.transaction():
            await tables.tenants.lock_tenant(connection, "acme")
            events = [said("a", 1, ANN), said("poison", 2), said("c", 3, CALLER)]
            events[1].data["customer"] = 7
            rows = [(entry_id_of(secret, "acme", e.source, e.id), digest_of(e), e) for e in events]
            await tables.aside.put(connection, "acme", rows, BEGINNING)
            await tables.aside.note_records(connection, "acme", [(rows[1][0], b"k", 3, 17)])
        lane = Lane(app.platform, Quiet())
        async with asyncio.timeout(30):
            await lane.drain()
        held = await pool.fetch('SELECT source, event_id, key, partition, "offset", reason FROM log.quarantine')
        assert [tuple(row)[:5] for row in held] == [("/x", "poison", b"k", 3, 17)]
        assert "cannot be read" in held[0]["reason"]
        assert await app.customer(ANN) is not None
        assert await app.customer(CALLER) is not None
        await nothing_is_aside(pool, "acme")


async def test_gauges_show_what_is_set_aside_and_for_how_long(pool: asyncpg.Pool, settings: Settings) -> None:
    async with running_timelines(pool, settings) as app:
        ann, caller = await somebody_with_many_sessions(app)
        quiet = Quiet()
        async with busy_lane(pool):
            merging = asyncio.create_task(
                app.call("POST", f"/v1/customers/{ann['id']}/merge", json={"with": caller["id"]})
            )
            lane = Lane(app.platform, quiet)

            async def shown() -> bool:
                lane._counted_at = float("-inf")
                await lane._show()
                return quiet.shown[0] == 1 and quiet.shown[1] > 0

            await until(shown, "the merge is shown")
        assert (await merging).status_code == 200
        lane._counted_at = float("-inf")
        await lane._show()
        assert quiet.shown == (0, 0.0)


def a_lane(pool: asyncpg.Pool, settings: Settings, log: PostgresLog) -> Lane:
    """The lane of a process that does nothing else; its entries' ids are made as those of the histories."""
    registry = CollectorRegistry()
    given = (Authenticator(pool), registry, SECRET_KEY, LogMetrics(registry))
    lane = Lane(Platform(settings, SystemClock(), pool, log, *given), Quiet())
    lane._secret = SECRET
    return lane


async def test_what_is_overtaken_again_and_again_is_decided_while_the_tenant_is_held(
    pool: asyncpg.Pool, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with postgres_log(pool, retention=None) as log:
        await two_people(pool)
        assert len((await put(pool, "acme", [said("both", 3, ANN, CALLER)], SMALL)).aside) == 1
        looks = 0

        async def decide_and_be_overtaken(
            connection: asyncpg.Connection, tenant: str, secret: bytes, now: datetime, most: int
        ) -> Decision | None:
            nonlocal looks
            decision = await decide_beside(connection, tenant, SECRET, now, most)
            looks += 1
            async with connection.transaction():
                assert (await put_events(connection, tenant, [said(f"m{looks}", 3 + looks, ANN)], SECRET, now)).new == 1
            return decision

        monkeypatch.setattr("services.conversation.lane.decide_beside", decide_and_be_overtaken)
        lane = a_lane(pool, settings, log)
        await lane.drain()
        assert looks == TRIES
        await nothing_is_aside(pool, "acme")
        await is_what_is_decided_from_scratch(pool, "acme", 0)


async def test_a_bug_in_what_one_tenant_has_set_aside_stops_neither_the_process_nor_the_others(
    pool: asyncpg.Pool,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with postgres_log(pool, retention=None) as log:
        for tenant in ("acme", "globex"):
            events = [replace(event, tenant=tenant) for event in (said("a", 1, ANN), said("b", 2, CALLER))]
            await put(pool, tenant, events, SMALL)
            both = replace(said("both", 3, ANN, CALLER), tenant=tenant)
            assert len((await put(pool, tenant, [both], SMALL)).aside) == 1
            await put(pool, tenant, [replace(said("c", 4, ANN), tenant=tenant)], SMALL)

        async def fail_for_acme(connection: asyncpg.Connection, tenant: str, *given: Any) -> Decision | None:
            if tenant == "acme":
                raise KeyError("what somebody wrote")
            return await decide_beside(connection, tenant, *given)

        monkeypatch.setattr("services.conversation.lane.decide_beside", fail_for_acme)
        lane = a_lane(pool, settings, log)
        await lane._look()
        assert await tables.aside.tenants(pool) == ["acme"]
        assert await tables.touched.any_of(pool, "acme") is False, "what was touched does not pile up"
        # Where it is written depends on whether a test before it, in this process, has set the log up.
        told = capsys.readouterr().out + caplog.text
        assert "the lane stands still on a bug" in told
        assert "what somebody wrote" not in told
        monkeypatch.undo()
        lane._not_before.clear()
        await lane._look()
        assert await tables.aside.tenants(pool) == []
