"""Who follows, blocks, opens the chat or leaves it stands on the timeline; it is no message and moves nothing else."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import orjson
import pytest

from shared.settings import Settings
from tests.contract.adapters.providers import PROVIDERS, Signing
from tests.timeline_app import Timelines, running_timelines
from tests.waiting import until

LINE = PROVIDERS["line"]
MINUTE_MS = 60_000
BEGIN_MS = 1_772_531_880_000


@pytest.fixture
async def timelines(pool: asyncpg.Pool, settings: Settings) -> AsyncIterator[Timelines]:
    async with running_timelines(pool, settings) as running:
        yield running


def happened(number: int, kind: str, **more: Any) -> dict[str, Any]:
    return {
        "type": kind, "mode": "active", "timestamp": BEGIN_MS + number * MINUTE_MS, "webhookEventId": f"0{number}",
        "deliveryContext": {"isRedelivery": False}, "source": {"type": "user", "userId": "U4af"}, **more,
    }  # fmt: skip


async def line_of(timelines: Timelines, happenings: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Deliver, and return the person's timeline, oldest first."""
    put = await timelines.call("PUT", "/v1/channels/line/shop", json={"secrets": list(LINE.secrets[:1])})
    signed = LINE.sign(Signing(orjson.dumps({"destination": "U0", "events": happenings})), LINE.secrets[0])
    answer = await timelines.client.post(
        put.json()["webhook_path"], content=signed.body, headers=list(signed.headers.items())
    )
    assert answer.status_code == 200, answer.text

    async def there() -> bool:
        states = [
            await timelines.get("/v1/events/status", source="/line/shop", id=one["webhookEventId"])
            for one in happenings
        ]
        return all(state["status"] == "on_timeline" for state in states)

    await until(there, "all of it is on the timeline", 30)
    customer = await timelines.customer("line:U0/U4af")
    assert customer is not None
    found = await timelines.get(f"/v1/customers/{customer['id']}/timeline", limit=200)
    return list(reversed(found["entries"]))


async def test_a_follower_is_a_customer_before_a_word_was_said(timelines: Timelines) -> None:
    (entry,) = await line_of(timelines, [happened(1, "follow", follow={"isUnblocked": False})])
    assert (entry["type"], entry["direction"]) == ("threadline.customer.subscribed", "in")
    assert (entry["conversation_id"], entry["text"], entry["extra"]["how"]) == (None, None, "follow")
    assert (await timelines.get("/v1/conversations"))["conversations"] == []


async def test_a_block_amid_a_conversation_is_no_activity_and_answers_nothing(timelines: Timelines) -> None:
    said = {"id": "444", "type": "text", "quoteToken": "q", "text": "Where is it?"}
    entries = await line_of(
        timelines, [happened(1, "follow"), happened(2, "message", message=said), happened(9, "unfollow")]
    )
    kinds = [entry["type"].removeprefix("threadline.") for entry in entries]
    assert kinds.count("message.received") == 1
    assert [kind for kind in kinds if kind.startswith("customer.")] == ["customer.subscribed", "customer.unsubscribed"]
    (conversation,) = (await timelines.get("/v1/conversations"))["conversations"]
    message = next(entry for entry in entries if entry["type"].endswith("message.received"))
    assert conversation["last_activity_at"] == message["occurred_at"] == conversation["waiting_since"]
    assert conversation["state"] == "open"
