"""Traffic that goes on whatever dies: posted again until acknowledged, then compared with its truth."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from time import monotonic
from typing import Any

import asyncpg
import httpx

from services.cli.traffic.events import Event
from services.cli.traffic.mix import Mix
from services.cli.traffic.truth import truth
from services.cli.traffic.world import World, cloudevent, deliveries
from shared import directory
from tests.e2e.dialogues import Dialogues, differences
from tests.processes import Process, System

TENANT = "default"
BATCH = 25
PAUSE_S = 0.05
PATIENCE_S = 90.0
END = datetime(2026, 6, 1, tzinfo=UTC).timestamp()
DAYS = 20


def events(seed: int, people: int, mix: Mix | None = None) -> list[Event]:
    """Return lifelike deliveries with duplicates and late ones, the same for the same seed."""
    return list(deliveries(World(seed, people, END - DAYS * 86_400, END, mix or Mix(duplicates=0.05, late=0.05))))


@dataclass
class Poster:
    """Posts deliveries in order, each batch again and again until it is acknowledged."""

    url: str
    key: str
    deliveries: Sequence[Event]
    acknowledged: int = 0
    tries_lost: int = 0
    failed: bool = False
    _more: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def run(self) -> None:
        """Post everything. Raises AssertionError where a batch is refused, or not taken for a long time."""
        try:
            await self._post_all()
        except BaseException:
            async with self._more:
                self.failed = True
                self._more.notify_all()
            raise

    async def _post_all(self) -> None:
        async with httpx.AsyncClient(timeout=10, trust_env=False) as client:
            for start in range(0, len(self.deliveries), BATCH):
                some = self.deliveries[start : start + BATCH]
                await self._until_taken(client, some)
                async with self._more:
                    self.acknowledged += len(some)
                    self._more.notify_all()

    async def _until_taken(self, client: httpx.AsyncClient, some: Sequence[Event]) -> None:
        deadline, last = monotonic() + PATIENCE_S, "nothing was heard"
        while True:
            try:
                answer = await client.post(
                    f"{self.url}/v1/events",
                    json=[cloudevent(event) for event in some],
                    headers={
                        "Authorization": f"Bearer {self.key}",
                        "Content-Type": "application/cloudevents-batch+json",
                    },
                )
                if answer.status_code == 202:
                    return
                # While something restarts, only these two may be heard: "come again", never "no".
                assert answer.status_code in (429, 503), answer.text
                last = answer.text
            except httpx.TransportError as error:
                last = repr(error)
            assert monotonic() < deadline, f"not taken for {PATIENCE_S:.0f} s: {last}"
            async with self._more:
                self.tries_lost += 1
                self._more.notify_all()
            await asyncio.sleep(PAUSE_S)

    async def reached(self, count: int) -> None:
        """Return once `count` deliveries are acknowledged (or posting has failed: whoever awaits it hears why)."""
        async with self._more:
            await self._more.wait_for(lambda: self.acknowledged >= count or self.failed)

    async def lost_a_try(self) -> None:
        """Return once one more try was not acknowledged (or posting has failed). Raises AssertionError at its end."""
        async with self._more:
            before = self.tries_lost
            await self._more.wait_for(
                lambda: self.tries_lost > before or self.failed or self.acknowledged >= len(self.deliveries)
            )
            assert self.tries_lost > before or self.failed, "everything was taken without a lost try"


def as_dialogues(posted: Sequence[Event]) -> Dialogues:
    """Return what is true of these events, in the form of the shared dialogues."""
    first: dict[tuple[str, str], Event] = {}
    for event in posted:
        first.setdefault((event.source, event.id), event)
    told = truth(first.values(), TENANT, seed=0)
    return Dialogues([], told["policy"], told["clusters"], told["events"])


async def judge(system: System, posted: Sequence[Event]) -> None:
    """Everything acknowledged is there once, grouped as the truth says, and counted exactly."""
    system.verified()
    true = as_dialogues(posted)
    found = await stored(system)
    assert {what: wrong[:5] for what, wrong in differences(true, found).items() if wrong} == {}
    names = {(event.source, event.id): event for event in posted}
    received = sum(event.type == "threadline.message.received" for event in names.values())
    sent = sum(
        event.type == "threadline.message.sent" and event.data["actor"]["type"] == "agent" for event in names.values()
    )
    assert await total(system, "messages_received") == received
    assert await total(system, "messages_sent") == sent


# What GET /v1/events/status would say of every event, in one look: thousands of calls prove nothing more here.
STATUSES = """
SELECT e.tenant_id || '|' || e.source || '|' || e.event_id AS name, l.customer_id::text,
       coalesce(c.canonical_id, e.conversation_id)::text AS conversation_id
FROM conversation.entry AS e
JOIN conversation.leaf AS l ON l.tenant_id = e.tenant_id AND l.leaf_id = e.leaf_id
LEFT JOIN conversation.conversation AS c ON c.tenant_id = e.tenant_id AND c.conversation_id = e.conversation_id
WHERE e.source <> '/threadline'
"""


async def stored(system: System) -> dict[str, dict[str, Any]]:
    """Return customer and conversation of every entry, as the database has them."""
    url = system.cli_env.get("THREADLINE_DATABASE_URL") or directory.offered(system.ingest.folder)
    assert url is not None
    connection = await asyncpg.connect(url)
    try:
        return {row["name"]: {**row, "status": "on_timeline"} for row in await connection.fetch(STATUSES)}
    finally:
        await connection.close()


async def total(system: System, kpi: str) -> Any:
    """Return the value of a count over the whole span."""
    span = {"start": "2026-04-01T00:00:00Z", "end": "2026-08-01T00:00:00Z"}
    async with system.client(TENANT, system.metrics) as client:
        answer = await client.get(f"/v1/kpis/{kpi}", params=span)
        assert answer.status_code == 200, answer.text
        return answer.json()["total"]["value"]


async def under_traffic(system: System, process: Process, posted: Sequence[Event]) -> tuple[Poster, asyncio.Task[None]]:
    """Start posting `posted` to `process`; return the poster and its task."""
    poster = Poster(process.url, system.key(TENANT), posted)
    return poster, asyncio.create_task(poster.run())
