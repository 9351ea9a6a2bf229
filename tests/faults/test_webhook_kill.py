"""Outgoing webhooks through `kill -9` of the process that sends them: every event arrives, under one id, in order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.processes import System, up
from tests.receiver import HANG, Delivery, Reply, receiving
from tests.waiting import until

PEOPLE, EACH = 4, 15
ENV = {"THREADLINE_WEBHOOK_ALLOWED_NETWORKS": "127.0.0.1/32", "THREADLINE_WEBHOOK_TIMEOUT_S": "1"}


def reply(person: int, number: int) -> dict[str, Any]:
    return {
        "specversion": "1.0",
        "id": f"r{person}-{number}",
        "source": "/email/desk",
        "type": "threadline.message.sent",
        "time": f"2026-03-02T09:{number:02}:00Z",
        "data": {
            "channel": "email",
            "customer": {"handles": [{"kind": "email", "value": f"p{person}@example.com"}]},
            "actor": {"type": "agent", "id": "bo"},
            "text": f"{person} {number}",
        },
    }


@pytest.mark.timeout(240)
async def test_kill_of_the_sender_in_the_midst_of_posts_loses_nothing_and_repeats_under_the_same_id(
    open_folder: Path,
) -> None:
    async with receiving() as receiver, up(open_folder, ENV) as system:
        url = receiver.url()
        stuck: list[Delivery] = []

        def hang_at_the_third(delivery: Delivery) -> Reply:
            if len(receiver.seen) % 3 == 0:
                stuck.append(delivery)
                return HANG
            return 204

        receiver.answer = hang_at_the_third
        await set_up(system, url)
        await post(system, range(EACH))
        await until(lambda: len(stuck) >= 2 and len(receiver.taken) >= 3, "posts are under way", 60)
        system.ingest.kill()
        receiver.answer = lambda _: 204
        await system.ingest.start()
        everything = {f"{person} {number}" for person in range(PEOPLE) for number in range(EACH)}
        await until(lambda: set(receiver.texts()) == everything, "every reply arrived", 90)
        for person in range(PEOPLE):
            mine = [text for text in dict.fromkeys(receiver.texts()) if text.startswith(f"{person} ")]
            assert mine == [f"{person} {number}" for number in range(EACH)]
        ids = {delivery.entry["text"]: delivery.id for delivery in receiver.seen}
        assert all(ids[delivery.entry["text"]] == delivery.id for delivery in receiver.seen)
        assert {delivery.id for delivery in stuck} <= {delivery.id for delivery in receiver.taken}
        system.verified()


async def set_up(system: System, url: str) -> None:
    async with system.client("default", system.ingest) as client:
        settings = {"url": url, "event_types": ["threadline.message.sent"]}
        answer = await client.put("/v1/webhook-endpoints/desk", json=settings)
        assert answer.status_code == 200, answer.text


async def post(system: System, numbers: range) -> None:
    async with system.client("default", system.ingest) as client:
        for number in numbers:
            batch = [reply(person, number) for person in range(PEOPLE)]
            kind = {"content-type": "application/cloudevents-batch+json"}
            answer = await client.post("/v1/events", json=batch, headers=kind)
            assert answer.status_code == 202, answer.text
