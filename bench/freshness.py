"""From POST to the answer of the KPI API at 500 events/s on one machine: p50 and p99.

Batches of ten are posted at fixed instants whatever the answers do (open loop), from as many people as write at that
rate. One event in fifty is of a segment of its own; the API is asked for all segments again and again until each shows.
What is measured holds the POST, the timeline, the KPIs, the time between two looks and the look itself.
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

RATE = 500
BATCH = 10
SECONDS = 20
WATCHED = 50
PEOPLE = 2000
PAUSE_S = 0.05
LIMIT_S = 120
TARGET_MS = 2000


async def measure() -> Sequence[Row]:
    """Post at the rate, look, and return how long each watched event took."""
    async with ground.folder() as path, ground.up(path) as up:
        wire = ground.Wire(up)
        began_at = datetime.now(UTC)
        posted: dict[str, float] = {}
        seen: dict[str, float] = {}
        done = asyncio.Event()
        async with asyncio.timeout(LIMIT_S), asyncio.TaskGroup() as tasks:
            tasks.create_task(_look(wire, began_at, posted, seen, done))
            async with asyncio.TaskGroup() as posts:
                began = time.perf_counter()
                for number in range(0, RATE * SECONDS, BATCH):
                    await asyncio.sleep(max(0.0, began + number / RATE - time.perf_counter()))
                    posts.create_task(_post(wire, number, posted))
            spent = time.perf_counter() - began
            done.set()
        wire.close()
    took = [1e3 * (seen[name] - at) for name, at in posted.items()]
    return [
        Row(f"events/s posted, wanted {RATE}", RATE * SECONDS / spent, "events/s"),
        *(
            Row(f"POST to KPI at {RATE} events/s, {name}", quantile(took, q), "ms", "the limit", TARGET_MS)
            for name, q in (("p50", 0.5), ("p99", 0.99))
        ),
    ]


async def _post(wire: ground.Wire, first: int, posted: dict[str, float]) -> None:
    batch = [_event(number) for number in range(first, first + BATCH)]
    began = time.perf_counter()
    posted.update((_segment(number), began) for number in range(first, first + BATCH) if number % WATCHED == 0)
    status, body = await wire.call("POST", "/v1/events", orjson.dumps(batch), "application/cloudevents-batch+json")
    if status != 202:
        raise RuntimeError(f"{status}: {body[:300]!r}")


async def _look(
    wire: ground.Wire, start: datetime, posted: dict[str, float], seen: dict[str, float], done: asyncio.Event
) -> None:
    """Note when each segment shows, until all that were posted have."""
    path = f"/v1/kpis/messages_received?group_by=segment&start={_utc(start)}"
    while not (done.is_set() and posted.keys() <= seen.keys()):
        status, body = await wire.call("GET", path)
        if status != 200:
            raise RuntimeError(f"{status}: {body[:300]!r}")
        now = time.perf_counter()
        for point in orjson.loads(body)["points"]:
            if point["value"] and point["group"]["segment"]:
                seen.setdefault(point["group"]["segment"], now)
        await asyncio.sleep(PAUSE_S)


def _segment(number: int) -> str:
    return f"watched-{number}"


def _utc(at: datetime) -> str:
    return at.isoformat().replace("+00:00", "Z")


def _event(number: int) -> dict[str, Any]:
    person = number % PEOPLE
    data: dict[str, Any] = {
        "channel": "email", "actor": {"type": "customer"}, "subject": "Where is my parcel?",
        "text": "It should have come. " * 8, "message_id": f"<f{number}@mail.example>",
        "customer": {"handles": [{"kind": "email", "value": f"p{person}@mail.example", "verified": False}]},
    }  # fmt: skip
    if number % WATCHED == 0:
        data["segment"] = _segment(number)
    return {
        "specversion": "1.0", "id": f"f{number}", "source": "/email/bench", "type": "threadline.message.received",
        "time": _utc(datetime.now(UTC)), "data": data,
    }  # fmt: skip


def rows() -> Sequence[Row]:
    """Return the figures, for the table of all measurements."""
    return asyncio.run(measure())


if __name__ == "__main__":
    show(rows())
