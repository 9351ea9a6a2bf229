"""Outgoing webhooks on the real database and log, to real receivers: told once the timeline has it, lost by nobody."""

from __future__ import annotations

from typing import Any

import asyncpg
import pytest

from services.conversation.webhooks import sender
from shared.settings import Settings
from tests.integration.conversation.webhooks.desk import (
    SENT,
    listed,
    pending,
    put,
    reply,
    shown,
    taken,
    until_as_time_passes,
)
from tests.receiver import HANG, HELD, Receiver, receiving
from tests.timeline_app import Timelines, running_timelines
from tests.waiting import until


async def test_an_agents_reply_reaches_the_integration_that_delivers_it_signed_and_as_the_api_shows_it(
    timelines: Timelines, receiver: Receiver
) -> None:
    made = await put(timelines, receiver.url())
    await timelines.post(timelines.message("09:00:00", "email:ann@example.com", text="Where is it?"))
    await timelines.post(reply(timelines, "09:05:00", "email:ann@example.com", "On its way", ticket="T-1"))
    await taken(receiver, 1)
    (body,) = receiver.verified_by(made["secret"])
    customer = await timelines.customer("email:ann@example.com")
    assert customer is not None
    assert body["type"] == SENT and body["data"]["customer_id"] == customer["id"]
    timeline = await timelines.get(f"/v1/customers/{customer['id']}/timeline", kind=SENT)
    whole = timeline["entries"][0]
    assert {**body["data"]["entry"], "via": "identity", "customer_id": customer["id"]} == whole
    await pending(timelines, 0)
    (delivered,) = await listed(timelines, "delivered")
    one = await timelines.get(f"/v1/webhook-endpoints/desk/deliveries/{delivered['webhook_id']}")
    assert one["webhook_id"] == receiver.taken[0].id and [a["status"] for a in one["tries"]] == [204]


async def test_a_reply_too_large_for_the_topic_is_told_as_any_other(timelines: Timelines, receiver: Receiver) -> None:
    await put(timelines, receiver.url())
    text, thread = "long " * 100_000, {"in_reply_to": "q1@example.com"}
    said = reply(timelines, "09:05:00", "email:ann@example.com", text, channel="email", subject="Re: it", thread=thread)
    await timelines.post(said)
    await taken(receiver, 1)
    told = receiver.taken[0].json["data"]
    assert told["entry"]["text"] == text.strip() or told["entry"]["text"] == text
    assert (told["entry"]["subject"], told["message"]["thread"]) == ("Re: it", thread) and "left_out" not in told
    whole = (await timelines.get(f"/v1/customers/{told['customer_id']}/timeline", kind=SENT))["entries"][0]
    assert {**told["entry"], "via": "identity", "customer_id": told["customer_id"]} == whole

    await timelines.post(
        reply(timelines, "09:06:00", "email:ann@example.com", "2", html="x" * 1_500_000, channel="email")
    )
    await taken(receiver, 2)
    told = receiver.taken[1].json["data"]
    assert told["entry"]["text"] == "2" and "html" not in told["entry"] and told["left_out"] == ["html"]


async def test_failing_receiver_gets_everything_in_order_per_customer_once_it_is_back(
    timelines: Timelines, receiver: Receiver
) -> None:
    receiver.answer = lambda _: 503
    await put(timelines, receiver.url())
    for number in range(4):
        for name in ("ann", "bob"):
            at = f"09:0{number}:00"
            await timelines.post(reply(timelines, at, f"email:{name}@example.com", f"{name} {number}"))
    await until_as_time_passes(timelines, lambda: len(receiver.seen) >= 3, "three attempts failed")
    assert (await shown(timelines))["last_error"] == "answered 503"
    receiver.answer = lambda _: 204
    await until_as_time_passes(timelines, lambda: len(receiver.taken) == 8, "all eight taken")
    for name in ("ann", "bob"):
        assert [t for t in receiver.texts() if t.startswith(name)] == [f"{name} {number}" for number in range(4)]
    assert len({delivery.id for delivery in receiver.taken}) == 8
    again = [delivery for delivery in receiver.seen if delivery.id == receiver.seen[0].id]
    assert len(again) > 1 and len({delivery.body for delivery in again}) == 1


async def test_delivery_that_is_choked_on_holds_back_its_own_customer_alone(
    timelines: Timelines, receiver: Receiver
) -> None:
    receiver.answer = lambda delivery: 422 if delivery.entry["text"] == "ann 0" else 204
    await put(timelines, receiver.url())
    await timelines.post(reply(timelines, "09:00:00", "email:ann@example.com", "ann 0"))
    await timelines.post(reply(timelines, "09:01:00", "email:ann@example.com", "ann 1"))
    for number in range(3):
        await timelines.post(reply(timelines, f"09:0{number}:30", "email:bob@example.com", f"bob {number}"))
    await taken(receiver, 3)
    assert receiver.texts() == ["bob 0", "bob 1", "bob 2"]
    await pending(timelines, 2)


async def test_deliveries_that_are_choked_on_hold_back_nobody_else_however_many_they_are(
    timelines: Timelines, receiver: Receiver
) -> None:
    receiver.answer = lambda delivery: 500 if delivery.entry["text"] == "bad" else 204
    await put(timelines, receiver.url())
    for number in range(12):
        await timelines.post(reply(timelines, "09:00:00", f"email:p{number}@example.com", "bad"))
    pool = timelines.platform.pool

    async def each_was_tried() -> bool:
        await pool.execute("UPDATE conversation.webhook_endpoint SET paused_until = NULL")
        return bool(await pool.fetchval("SELECT count(*) FROM conversation.webhook_delivery WHERE attempts > 0") == 12)

    await until(each_was_tried, "each was tried")
    await pool.execute("UPDATE conversation.webhook_endpoint SET failures = 0, paused_until = NULL")
    for number in range(3):
        await pool.execute("UPDATE conversation.webhook_lane SET due_at = now() WHERE leased_until IS NULL")
        await timelines.post(reply(timelines, f"09:0{number}:30", "email:bob@example.com", f"bob {number}"))
        await taken(receiver, number + 1)
    await until(lambda: len({one.id for one in receiver.seen[12:]}) >= 12, "they were tried again")
    about = await shown(timelines)
    assert (about["failures"], about["paused_until"], about["dead"]) == (0, None, 0)


async def test_posts_that_one_restart_breaks_off_are_one_failure_of_the_receiver(
    timelines: Timelines, receiver: Receiver
) -> None:
    receiver.answer = lambda _: HELD if not receiver.released.is_set() else 503 if len(receiver.seen) <= 9 else 204
    await put(timelines, receiver.url())
    for number in range(10):
        await timelines.post(reply(timelines, "09:00:00", f"email:p{number}@example.com", f"n {number}"))
    await until(lambda: receiver.at_once == 8, "eight posts are under way")
    receiver.released.set()
    await until(lambda: len(receiver.seen) >= 9, "it was asked whether it is back")
    # Twice in a row, and not nine times: that would be minutes.
    await until(lambda: len(receiver.taken) == 10, "all ten taken")


async def test_attempts_before_their_time_cost_none(timelines: Timelines, receiver: Receiver) -> None:
    receiver.answer = lambda _: 400
    await put(timelines, receiver.url())
    await timelines.post(reply(timelines, "09:00:00", "email:ann@example.com", "bad"))
    for time in range(12):
        await until(lambda time=time: len(receiver.seen) > time, "tried once more")  # type: ignore[misc]
        await until(lambda: _settled(timelines), "and settled")
        await put(timelines, receiver.url())  # whoever changes an endpoint has it tried at once
    (waits,) = await listed(timelines, "pending")
    assert waits["attempts"] == 1


async def _settled(timelines: Timelines) -> bool:
    free = "SELECT leased_until IS NULL FROM conversation.webhook_lane"
    return bool(await timelines.platform.pool.fetchval(free))


@pytest.mark.parametrize("status", [410, 503, 400])
async def test_what_the_former_place_answers_late_is_not_held_against_the_new_one(
    timelines: Timelines, receiver: Receiver, status: int
) -> None:
    async with receiving() as former:
        former.answer = lambda _: status if former.released.is_set() else HELD
        await put(timelines, former.url())
        await timelines.post(reply(timelines, "09:00:00", "email:ann@example.com", "hello"))
        await until(lambda: former.at_once == 1, "the former place is asked")
        await put(timelines, receiver.url())
        former.released.set()
        await until(lambda: receiver.taken, "the new place has it", 4)
        about = await shown(timelines)
        assert (about["enabled"], about["failures"], about["last_error"]) == (True, 0, None)


async def test_after_the_last_attempt_it_is_a_dead_letter_the_next_go_on_and_a_replay_brings_it_back(
    timelines: Timelines, receiver: Receiver
) -> None:
    receiver.answer = lambda delivery: 400 if delivery.entry["text"] == "bad" else 204
    await put(timelines, receiver.url())
    await timelines.post(reply(timelines, "09:00:00", "email:ann@example.com", "bad"))
    await timelines.post(reply(timelines, "09:01:00", "email:ann@example.com", "good"))
    await until_as_time_passes(timelines, lambda: receiver.texts() == ["good"], "the next one taken")
    (dead,) = await listed(timelines, "dead")
    assert dead["attempts"] == 10 and dead["last_error"] == "answered 400"
    receiver.answer = lambda _: 204
    path = "/v1/webhook-endpoints/desk/replay"
    unknown = await timelines.call("POST", path, json={"ids": ["nothing", dead["webhook_id"]]})
    assert unknown.status_code == 404 and "nothing was sent" in unknown.json()["detail"]
    future = await timelines.call("POST", path, json={"since": "2999-01-01T00:00:00Z"})
    assert future.json() == {"replayed": 0}
    since = await timelines.call("POST", path, json={"since": "2020-01-01T00:00:00Z"})
    assert since.json() == {"replayed": 1}
    await taken(receiver, 2)
    assert receiver.taken[-1].id == dead["webhook_id"] and receiver.texts() == ["good", "bad"]


async def test_hanging_receiver_holds_up_nobody_else_and_is_not_called_more_than_it_may(
    timelines: Timelines, receiver: Receiver
) -> None:
    async with receiving() as slow:
        slow.answer = lambda _: HANG
        await put(timelines, slow.url(), "slow")
        await put(timelines, receiver.url())
        for number in range(12):
            await timelines.post(reply(timelines, f"09:00:{number:02}", f"email:p{number}@example.com", f"n {number}"))
        await taken(receiver, 12)
        await until(lambda: len(slow.seen) >= 1, "the slow one was called")
        assert not slow.taken and slow.most_at_once <= 8
        slow.answer = lambda _: 200
        slow.released.set()
        await until_as_time_passes(timelines, lambda: len(slow.taken) == 12, "the slow one has all of its own")


async def test_slow_endpoints_of_one_tenant_leave_room_for_another_however_many_they_are(
    timelines: Timelines, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sender, "AT_ONCE", 8)
    monkeypatch.setattr(sender, "TENANT_AT_ONCE", 4)
    receiver.answer = lambda delivery: HANG if delivery.path.startswith("/slow") else 204
    for number in range(6):
        await put(timelines, receiver.url(f"/slow{number}"), f"slow{number}", enabled=False)
    for number in range(3):
        await timelines.post(reply(timelines, "09:00:00", f"email:p{number}@example.com", f"n {number}"))
    await put(timelines, receiver.url("/quick"), tenant="globex")
    for number in range(6):
        await put(timelines, receiver.url(f"/slow{number}"), f"slow{number}")
    await until(lambda: receiver.at_once == 4, "as many hang as may")
    await timelines.post(reply(timelines, "09:00:00", "email:ann@example.com", "globex's"), tenant="globex")
    await taken(receiver, 1)
    assert receiver.texts() == ["globex's"] and receiver.most_at_once <= 4 + 1
    # The second half of their room goes to one post at an endpoint: those that are quick get their turn.
    await until(lambda: len({one.path for one in receiver.seen}) == 7, "each of the slow ones is asked")


async def test_a_clean_stop_leaves_nothing_in_hand_that_the_next_process_would_have_to_wait_for(
    pool: asyncpg.Pool, settings: Settings, receiver: Receiver
) -> None:
    # What dies with posts under way is taken by others after 310 s.
    patient = settings.model_copy(update={"webhook_allowed_networks": "127.0.0.1/32", "webhook_timeout_s": 300.0})
    everything = {f"{person} {number}" for person in range(3) for number in range(2)}
    receiver.answer = lambda _: HANG
    async with running_timelines(pool, patient) as stopped:
        await put(stopped, receiver.url())
        for said in sorted(everything):
            await stopped.post(reply(stopped, f"09:00:0{said[2]}", f"email:p{said[0]}@example.com", said))
        await until(lambda: len(receiver.seen) == 3, "a post of each person's is under way")
    receiver.answer = lambda _: 204
    async with running_timelines(pool, patient):
        await until(lambda: set(receiver.texts()) == everything, "all of it arrived")
    assert all(receiver.texts().index(f"{person} 0") < receiver.texts().index(f"{person} 1") for person in range(3))
    assert {one.id for one in receiver.seen} == {one.id for one in receiver.taken}


async def test_receiver_that_answers_410_is_disabled_and_gets_all_that_it_missed_once_it_is_enabled(
    timelines: Timelines, receiver: Receiver
) -> None:
    receiver.answer = lambda _: 410
    await put(timelines, receiver.url())
    await timelines.post(reply(timelines, "09:00:00", "email:ann@example.com", "first"))

    async def disabled() -> bool:
        return not (await shown(timelines))["enabled"]

    await until(disabled, "the endpoint is disabled")
    assert "410" in (await shown(timelines))["disabled_reason"]
    receiver.answer = lambda _: 204
    await timelines.post(reply(timelines, "09:01:00", "email:ann@example.com", "second"))

    await pending(timelines, 2)
    assert len(receiver.seen) == 1
    enabled = await put(timelines, receiver.url())
    assert enabled["enabled"] and enabled["disabled_reason"] is None and "secret" not in enabled
    await taken(receiver, 2)
    assert receiver.texts() == ["first", "second"]


async def test_receiver_that_moves_is_not_followed_and_loses_nothing_once_its_new_url_is_known(
    timelines: Timelines, receiver: Receiver
) -> None:
    async with receiving() as elsewhere:
        receiver.answer = lambda _: (307, {"location": elsewhere.url()})
        await put(timelines, receiver.url())
        await timelines.post(reply(timelines, "09:00:00", "email:ann@example.com", "moved"))
        await until(lambda: receiver.seen, "the old place was asked")

        async def told() -> bool:
            return "redirect" in ((await shown(timelines))["last_error"] or "")

        await until(told, "the redirect is told")
        assert not elsewhere.seen
        await put(timelines, elsewhere.url())
        await taken(elsewhere, 1)


async def test_retry_after_is_honoured_for_the_whole_endpoint(timelines: Timelines, receiver: Receiver) -> None:
    receiver.answer = lambda _: (429, {"retry-after": "3600"})
    await put(timelines, receiver.url())
    await timelines.post(reply(timelines, "09:00:00", "email:ann@example.com", "ann"))
    await until(lambda: receiver.seen, "it was asked")

    async def paused() -> float:
        row = await timelines.platform.pool.fetchrow(
            "SELECT extract(epoch FROM paused_until - now())::float8 AS pause, "
            "(SELECT extract(epoch FROM min(due_at) - now())::float8 FROM conversation.webhook_lane) AS due "
            "FROM conversation.webhook_endpoint"
        )
        return min(row["pause"] or 0.0, row["due"] or 0.0)

    await until(lambda: _above(paused, 3500), "endpoint and delivery wait an hour")


async def _above(measure: Any, limit: float) -> bool:
    return bool(await measure() > limit)


async def test_endpoint_that_comes_back_gets_what_waited_for_later_attempts_at_once(
    timelines: Timelines, receiver: Receiver
) -> None:
    await put(timelines, receiver.url())
    receiver.answer = lambda _: 503
    for number in range(3):
        await timelines.post(reply(timelines, "09:00:00", f"email:p{number}@example.com", f"n {number}"))
    pool = timelines.platform.pool

    async def all_tried() -> bool:
        await pool.execute("UPDATE conversation.webhook_endpoint SET paused_until = now() WHERE paused_until > now()")
        return bool(await pool.fetchval("SELECT count(*) FROM conversation.webhook_delivery WHERE attempts > 0") == 3)

    await until(all_tried, "each was tried and waits")
    await pool.execute("UPDATE conversation.webhook_lane SET due_at = now() + interval '1 hour'")
    receiver.answer = lambda _: 204
    await timelines.post(reply(timelines, "09:01:00", "email:new@example.com", "new"))
    await pool.execute("UPDATE conversation.webhook_endpoint SET paused_until = now()")
    await taken(receiver, 4)
