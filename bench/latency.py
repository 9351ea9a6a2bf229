"""From POST to readable on the timeline, at 200 events/s: p50 and p99, against the POST alone.

Events arrive at fixed instants whatever the answers do (open loop). One in ten is watched: its customer's timeline is
asked again and again until the entry is on it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import httpx

from bench import ground
from bench.report import Row, quantile, show

RATE = 200
SECONDS = 30
WATCHED = 10
PEOPLE = 200
PAUSE_S = 0.003


async def measure() -> Sequence[Row]:
    """Post for half a minute and watch."""
    async with ground.folder() as path, ground.up(path) as up, up.client() as client:
        people = await _people(client)
        posts: list[float] = []
        readable: list[float] = []
        began = time.perf_counter()
        async with asyncio.TaskGroup() as tasks:
            for number in range(RATE * SECONDS):
                await asyncio.sleep(max(0.0, began + number / RATE - time.perf_counter()))
                watched = readable if number % WATCHED == 0 else None
                tasks.create_task(_one(client, people, number, posts, watched))
    alone = "the POST alone, same run"
    return [
        Row(
            f"POST to readable at {RATE} events/s, p50",
            1e3 * quantile(readable, 0.5),
            "ms",
            alone,
            1e3 * quantile(posts, 0.5),
        ),
        Row(
            f"POST to readable at {RATE} events/s, p99",
            1e3 * quantile(readable, 0.99),
            "ms",
            alone,
            1e3 * quantile(posts, 0.99),
        ),
    ]


async def _people(client: httpx.AsyncClient) -> Sequence[str]:
    """Let the people write once, so that each has a timeline; return their ids."""
    for number in range(PEOPLE):
        (await client.post("/v1/events", json=_event(number, f"first-{number}"))).raise_for_status()
    ids = []
    for number in range(PEOPLE):
        while True:
            found = (await client.get("/v1/customers", params={"handle": f"email:p{number}@mail.example"})).json()
            if found.get("customers"):
                ids.append(found["customers"][0]["id"])
                break
            await asyncio.sleep(0.05)
    return ids


async def _one(
    client: httpx.AsyncClient, people: Sequence[str], number: int, posts: list[float], readable: list[float] | None
) -> None:
    event = _event(number % PEOPLE, f"event-{number}")
    began = time.perf_counter()
    (await client.post("/v1/events", json=event)).raise_for_status()
    posts.append(time.perf_counter() - began)
    if readable is None:
        return
    while True:
        page = (await client.get(f"/v1/customers/{people[number % PEOPLE]}/timeline", params={"limit": 5})).json()
        if any(entry["event_id"] == event["id"] for entry in page["entries"]):
            readable.append(time.perf_counter() - began)
            return
        await asyncio.sleep(PAUSE_S)


def _event(person: int, name: str) -> dict[str, Any]:
    return {
        "specversion": "1.0", "id": name, "source": "/email/bench", "type": "threadline.message.received",
        "time": datetime.now(UTC).isoformat().replace("+00:00", "Z"),
        "data": {
            "channel": "email", "actor": {"type": "customer"}, "subject": "Where is my parcel?",
            "text": "It should have come. " * 8,
            "customer": {"handles": [{"kind": "email", "value": f"p{person}@mail.example", "verified": False}]},
            "message_id": f"<{name}@mail.example>",
        },
    }  # fmt: skip


def rows() -> Sequence[Row]:
    """Measure, and return the rows."""
    return asyncio.run(measure())


if __name__ == "__main__":
    show(rows())
