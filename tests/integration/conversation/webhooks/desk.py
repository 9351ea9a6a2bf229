"""An endpoint `desk` and what it is told, for the tests of webhooks."""

from __future__ import annotations

from typing import Any

from tests.receiver import Receiver
from tests.timeline_app import Timelines
from tests.waiting import until

SENT = "threadline.message.sent"

# Days pass: whatever waits to be tried again is due, whoever is left alone is not any more.
TIME_PASSES = """
UPDATE conversation.webhook_endpoint SET paused_until = NULL;
UPDATE conversation.webhook_delivery SET created_at = created_at - interval '4 days' WHERE leased_until IS NULL;
UPDATE conversation.webhook_lane SET due_at = now() WHERE leased_until IS NULL;
"""


async def put(timelines: Timelines, url: str, name: str = "desk", tenant: str = "acme", **settings: Any) -> Any:
    answer = await timelines.call(
        "PUT", f"/v1/webhook-endpoints/{name}", tenant=tenant, json={"event_types": [SENT], "url": url, **settings}
    )
    assert answer.status_code == 200, answer.text
    return answer.json()


async def shown(timelines: Timelines, name: str = "desk") -> Any:
    return await timelines.get(f"/v1/webhook-endpoints/{name}")


async def listed(timelines: Timelines, state: str, name: str = "desk") -> list[Any]:
    found: list[Any] = (await timelines.get(f"/v1/webhook-endpoints/{name}/deliveries", state=state))["deliveries"]
    return found


def reply(timelines: Timelines, at: str, handle: str, text: str, **data: Any) -> dict[str, Any]:
    """An agent's reply to a customer."""
    return timelines.message(at, handle, type="message.sent", text=text, actor={"type": "agent", "id": "bo"}, **data)


async def taken(receiver: Receiver, count: int) -> None:
    await until(lambda: len(receiver.taken) >= count, f"{count} deliveries taken")


async def pending(timelines: Timelines, count: int) -> None:
    async def so_many() -> bool:
        return bool((await shown(timelines))["pending"] == count)

    await until(so_many, f"{count} pending")


async def until_as_time_passes(timelines: Timelines, condition: Any, what: str) -> None:
    async def later() -> bool:
        await timelines.platform.pool.execute(TIME_PASSES)
        return bool(condition())

    await until(later, what, 40)
