"""A call told by webhooks is one line of one contact, the same in whatever order its deliveries come."""

from __future__ import annotations

from collections.abc import AsyncIterator
from random import Random
from typing import Any

import asyncpg
import httpx
import pytest

from shared.settings import Settings
from tests.contract.adapters.providers import FORM, PROVIDERS, Signing
from tests.timeline_app import Timelines, running_timelines
from tests.unit.test_call_timelines import CALLS, Delivery, drafts_of
from tests.waiting import until

WHO_ANSWERED = ["client:bbb", "client:ccc"]


@pytest.fixture
async def timelines(pool: asyncpg.Pool, settings: Settings) -> AsyncIterator[Timelines]:
    async with running_timelines(pool, settings) as running:
        yield running


async def line_of(timelines: Timelines, deliveries: list[Delivery], provider: str, tenant: str) -> list[dict[str, Any]]:
    """Post deliveries as the provider does; return the caller's timeline, oldest first, once all of it is there."""
    known = PROVIDERS[provider]
    body = {"secrets": list(known.secrets[:1]), "public_url": "https://hooks.acme.example/in"}
    put = await timelines.call("PUT", f"/v1/channels/{provider}/pbx", tenant=tenant, json=body)
    for request, _ in deliveries:
        kind = request.headers.get("content-type") or FORM
        signed = known.sign(Signing(request.body, kind, request.query), known.secrets[0])
        path = f"{put.json()['webhook_path']}?{signed.query or 'a=1'}"
        answer: httpx.Response = await timelines.client.post(
            path, content=signed.body, headers=list(signed.headers.items())
        )
        assert answer.status_code == 200, answer.text

    async def settled() -> bool:
        statuses = [
            await timelines.get("/v1/events/status", tenant=tenant, source=f"/{provider}/pbx", id=id_)
            for id_ in drafts_of(deliveries)
        ]
        return all(one["status"] == "on_timeline" for one in statuses)

    await until(settled, "the call is on its timeline", 30)
    customer = await timelines.customer("phone:+31612345678", tenant)
    assert customer is not None
    found = await timelines.get(f"/v1/customers/{customer['id']}/timeline", tenant=tenant, limit=200)
    return list(reversed(found["entries"]))


def told(entries: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    """Return what a line says, without ids and times that differ between tenants."""
    conversations = {id_: number for number, id_ in enumerate(dict.fromkeys(one["conversation_id"] for one in entries))}
    return [
        (one["type"], one["occurred_at"], one["contact_id"], conversations[one["conversation_id"]], one["actor"])
        for one in entries
    ]


@pytest.mark.parametrize(
    ("provider", "name"),
    [("asterisk", "asterisk: hold, blind transfer, second agent"),
     ("twilio", "rings one agent after another, cold transfer")],
)  # fmt: skip
async def test_call_is_one_contact_in_any_order_of_its_deliveries(
    timelines: Timelines, provider: str, name: str
) -> None:
    deliveries = list(CALLS[name][0])
    # Every delivery here carries its own time.
    assert all(
        draft.time is not None and "time_estimated" not in draft.data for draft in drafts_of(deliveries).values()
    )
    straight = await line_of(timelines, deliveries, provider, "acme")
    shuffled = Random(3).sample(deliveries, len(deliveries))
    assert shuffled != deliveries
    mixed = await line_of(timelines, [*shuffled, *deliveries[:3]], provider, "globex")
    assert told(mixed) == told(straight)
    assert {one["contact_id"] for one in straight if one["source"] != "/threadline"} == {straight[-1]["contact_id"]}
    kinds = [one["type"].removeprefix("threadline.") for one in straight]
    assert kinds.count("conversation.opened") == 1 and "call.queued" in kinds and "call.answered" in kinds
    opened = next(one for one in straight if one["type"] == "threadline.conversation.opened")
    assert opened["extra"] == {"initiator": "customer"}, "who rings begins"
    answers = [one["call"] for one in straight if one["type"] == "threadline.call.answered"]
    assert [answer["agent_id"] for answer in answers] == (["Ann", "Bob"] if provider == "asterisk" else WHO_ANSWERED)
    assert provider == "twilio" or answers[0]["wait_s"] == 12
