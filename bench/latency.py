"""From POST to readable on the timeline, at 200 events/s: p50 and p99, against the POST alone.

Events arrive at fixed instants whatever the answers do (open loop). One in twenty is watched: its customer's timeline
is asked again and again until the entry is on it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import orjson

from bench import ground
from bench.report import Row, quantile, show

RATE = 200
SECONDS = 20
WATCHED = 20
LIMIT_S = 120
PER_PERSON = 50
"""Entries read at each look: more than a person gets in the whole run, so that none is pushed off the page unseen."""
PEOPLE = 200
PAUSE_S = 0.005


async def measure() -> Sequence[Row]:
    """Post at the rate and watch."""
    async with ground.folder() as path, ground.up(path) as up:
        wire = ground.Wire(up)
        people = await _people(wire)
        posts: list[float] = []
        readable: list[float] = []
        began = time.perf_counter()
        async with asyncio.timeout(LIMIT_S), asyncio.TaskGroup() as tasks:
            for number in range(RATE * SECONDS):
                await asyncio.sleep(max(0.0, began + number / RATE - time.perf_counter()))
                watched = readable if number % WATCHED == 0 else None
                tasks.create_task(_one(wire, people, number, posts, watched))
        wire.close()
    alone = "the POST alone, same run"
    return [
        Row(
            f"POST to readable at {RATE} events/s, {name}",
            1e3 * quantile(readable, q),
            "ms",
            alone,
            1e3 * quantile(posts, q),
        )
        for name, q in (("p50", 0.5), ("p99", 0.99))
    ]


async def _people(wire: ground.Wire) -> Sequence[str]:
    """Let the people write once, so that each has a timeline; return their ids."""
    for number in range(PEOPLE):
        await _post(wire, _event(number, f"first-{number}"))
    ids = []
    for number in range(PEOPLE):
        while True:
            status, body = await wire.call("GET", f"/v1/customers?handle=email:p{number}@mail.example")
            if status == 200 and (found := orjson.loads(body)["customers"]):
                ids.append(found[0]["id"])
                break
            await asyncio.sleep(0.05)
    return ids


async def _post(wire: ground.Wire, event: dict[str, Any]) -> None:
    status, body = await wire.call("POST", "/v1/events", orjson.dumps(event), "application/cloudevents+json")
    if status != 202:
        raise RuntimeError(f"{status}: {body[:300]!r}")


async def _one(
    wire: ground.Wire, people: Sequence[str], number: int, posts: list[float], readable: list[float] | None
) -> None:
    event = _event(number % PEOPLE, f"event-{number}")
    began = time.perf_counter()
    await _post(wire, event)
    posts.append(time.perf_counter() - began)
    if readable is None:
        return
    wanted = f'"event_id":"{event["id"]}"'.encode()
    while True:
        _, page = await wire.call("GET", f"/v1/customers/{people[number % PEOPLE]}/timeline?limit={PER_PERSON}")
        if wanted in page:
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
