"""Endpoints of outgoing webhooks: put, changed, rotated, tried, deleted, and each tenant's own."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
import pytest
from standardwebhooks.webhooks import Webhook

from services.conversation.webhooks.consumer import TimelineConsumer
from tests.integration.conversation.webhooks.desk import SENT, put, reply, shown, taken
from tests.receiver import HANG, Delivery, Receiver, receiving
from tests.timeline_app import Timelines
from tests.waiting import until


async def test_rotation_signs_with_both_secrets_and_each_receiver_may_change_when_it_likes(
    timelines: Timelines, receiver: Receiver
) -> None:
    old = (await put(timelines, receiver.url()))["secret"]
    answer = await timelines.call("POST", "/v1/webhook-endpoints/desk/rotate", json={"overlap_s": 3600})
    new = answer.json()["secret"]
    assert (await shown(timelines))["secrets"] == 2
    await timelines.post(reply(timelines, "09:00:00", "email:ann@example.com", "both"))
    await taken(receiver, 1)
    assert receiver.verified_by(old) == receiver.verified_by(new)
    row = await timelines.platform.pool.fetchval("SELECT sealed FROM conversation.webhook_endpoint")
    assert old.encode() not in row and new.encode() not in row


async def test_test_delivery_says_what_the_receiver_answered(timelines: Timelines, receiver: Receiver) -> None:
    secret = (await put(timelines, receiver.url()))["secret"]
    good = (await timelines.call("POST", "/v1/webhook-endpoints/desk/test")).json()
    assert good["delivered"] and good["status"] == 204
    assert receiver.verified_by(secret)[0]["type"] == "threadline.webhook.test"
    receiver.answer = lambda _: HANG
    bad = (await timelines.call("POST", "/v1/webhook-endpoints/desk/test")).json()
    assert not bad["delivered"] and bad["reason"] == "no answer within 1 s"


async def test_endpoint_hears_nothing_of_before_it_was_made_though_the_consumer_comes_to_it_later(
    timelines: Timelines, receiver: Receiver
) -> None:
    await put(timelines, receiver.url("/young"), "young")
    await put(timelines, receiver.url("/old"), "old")
    await timelines.platform.pool.execute(
        "UPDATE conversation.webhook_endpoint SET created_at = now() + interval '1 hour' WHERE name = 'young'"
    )
    await timelines.post(reply(timelines, "09:00:00", "email:ann@example.com", "before"))
    await taken(receiver, 1)
    assert receiver.taken[0].path == "/old"
    assert (await timelines.get("/v1/webhook-endpoints/young/deliveries"))["deliveries"] == []


async def test_where_nobody_listens_the_topic_is_read_in_few_batches_and_when_timelines_do_not_wait(
    timelines: Timelines, receiver: Receiver, pool: asyncpg.Pool
) -> None:
    consumer = TimelineConsumer(lambda: None, lambda: True)

    async def after_a_batch() -> tuple[bool, bool]:
        async with pool.acquire() as connection, connection.transaction():
            await consumer(connection, ())
        return consumer.gap_s() > 0, consumer.gives_way()

    assert await after_a_batch() == (True, True)
    await put(timelines, receiver.url())
    assert await after_a_batch() == (False, False)
    await timelines.call("DELETE", "/v1/webhook-endpoints/desk")
    assert await after_a_batch() == (True, True)
    assert not TimelineConsumer(lambda: None, lambda: False).gives_way()


async def test_deleted_endpoint_leaves_nothing_that_waits(timelines: Timelines, receiver: Receiver) -> None:
    receiver.answer = lambda _: 503
    await put(timelines, receiver.url())
    await timelines.post(reply(timelines, "09:01:00", "email:ann@example.com", "waits"))
    await until(lambda: receiver.seen, "it was tried")
    assert (await timelines.call("DELETE", "/v1/webhook-endpoints/desk")).status_code == 204
    assert (await timelines.call("GET", "/v1/webhook-endpoints/desk")).status_code == 404
    assert await timelines.platform.pool.fetchval("SELECT count(*) FROM conversation.webhook_lane") == 0


async def test_endpoint_that_several_make_at_once_has_the_one_secret_that_was_shown(
    timelines: Timelines, receiver: Receiver
) -> None:
    for number in range(10):
        name = f"twin{number}"
        made = await asyncio.gather(*(put(timelines, receiver.url(f"/{which}"), name) for which in range(4)))
        (secret,) = (one["secret"] for one in made if "secret" in one)
        await timelines.call("POST", f"/v1/webhook-endpoints/{name}/test")
        assert Webhook(secret).verify(receiver.taken[-1].body, receiver.taken[-1].headers)


@pytest.mark.parametrize("call", ["DELETE", "PUT"])
async def test_endpoint_changed_or_deleted_while_an_attempt_is_settled_waits_its_turn_and_no_more(
    timelines: Timelines, receiver: Receiver, call: str
) -> None:
    receiver.answer = lambda _: HANG
    await put(timelines, receiver.url())
    await timelines.post(reply(timelines, "09:01:00", "email:ann@example.com", "waits"))
    await until(lambda: receiver.seen, "it was tried")
    pool = timelines.platform.pool

    async def waiting(count: int) -> bool:
        waiters = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = $1"
        return bool(await pool.fetchval(waiters, "Lock") >= count)

    async with pool.acquire() as connection, connection.transaction():
        await connection.execute("SELECT FROM conversation.webhook_lane FOR UPDATE")
        receiver.answer = lambda _: 204
        receiver.released.set()
        await until(lambda: waiting(1), "the attempt is half settled")
        body = {"url": receiver.url(), "event_types": [SENT]} if call == "PUT" else None
        change = asyncio.ensure_future(timelines.call(call, "/v1/webhook-endpoints/desk", json=body))
        await until(lambda: waiting(2), "the change waits for it")
    assert (await change).status_code in (200, 204)


async def test_another_tenant_sees_and_hears_nothing(timelines: Timelines, receiver: Receiver) -> None:
    await put(timelines, receiver.url())
    async with receiving() as other:
        await put(timelines, other.url(), tenant="globex")
        await timelines.post(reply(timelines, "09:00:00", "email:ann@example.com", "acme's"))
        await taken(receiver, 1)
        delivery: Delivery = receiver.taken[0]
        assert (await timelines.call("GET", "/v1/webhook-endpoints", tenant="globex")).json()["endpoints"][0][
            "pending"
        ] == 0
        for method, path in (
            ("GET", f"desk/deliveries/{delivery.id}"),
            ("GET", "another"),
            ("DELETE", "another"),
            ("POST", "another/test"),
            ("POST", "another/rotate"),
            ("GET", "another/deliveries"),
        ):
            await put(timelines, receiver.url(), "another")
            answer = await timelines.call(method, f"/v1/webhook-endpoints/{path}", tenant="globex")
            assert answer.status_code == 404, (method, path)
        assert not other.seen


@pytest.mark.parametrize(
    "body, pointer",
    [
        ({}, "#/url"),
        ({"url": "http://93.184.216.34/"}, "#/url"),
        ({"url": "https://10.1.2.3/hook"}, "#/url"),
        ({"url": "https://x.example/", "event_types": ["threadline.nothing.such"]}, "#/event_types"),
        ({"url": "https://x.example/", "event_types": []}, "#/event_types"),
        ({"url": "https://x.example/", "channels": ["\0"]}, "#/channels/0"),
        ({"url": "https://x.example/", "sources": ["/email", "\0"]}, "#/sources/1"),
        ({"url": "https://x.example/", "secret": "hunter2-hunter2"}, "#/secret"),
        ({"url": "https://x.example/", "max_age_s": -1}, "#/max_age_s"),
        ({"url": "https://x.example/", "colour": "red"}, "#/colour"),
    ],
)
async def test_what_cannot_be_an_endpoint_is_refused_with_a_pointer(
    timelines: Timelines, body: dict[str, Any], pointer: str
) -> None:
    answer = await timelines.call("PUT", "/v1/webhook-endpoints/desk", json=body)
    assert answer.status_code == 422 and answer.headers["content-type"] == "application/problem+json"
    assert [fault["pointer"] for fault in answer.json()["errors"]] == [pointer]
    assert "hunter2" not in answer.text
    assert (await timelines.call("GET", "/v1/webhook-endpoints/desk")).status_code == 404


async def test_calls_without_the_scope_and_with_a_bad_body_change_nothing(timelines: Timelines) -> None:
    await put(timelines, "https://help.example.com/hook")
    base = "/v1/webhook-endpoints/desk"
    for path, body in (
        ("replay", {}),
        ("replay", {"ids": ["a"], "since": "2026-01-01T00:00:00Z"}),
        ("replay", {"since": "yesterday"}),
        ("rotate", {"secret": "whsec_short"}),
        ("rotate", {"overlap_s": 10**9}),
    ):
        assert (await timelines.call("POST", f"{base}/{path}", json=body)).status_code == 422, (path, body)
    assert (await timelines.call("GET", f"{base}/deliveries", cursor="x")).status_code == 422
    assert (await timelines.client.get(base)).status_code == 401
