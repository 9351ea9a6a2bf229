"""A sealed log that cannot change what it holds: what an agent decided about the erased is unreadable with all keys."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from services.conversation.routes import erasing
from shared.events import DECISIONS, TYPE_PREFIX, TimelineRecord
from shared.log.protocol import INBOUND, QUARANTINE, TIMELINE, Log
from shared.settings import Settings
from tests.conftest import needs
from tests.kafka_broker import Broker
from tests.timeline_app import SECRET_KEY, Timelines, running_timelines
from tests.topics import records_of

pytestmark = needs("kafka")


@pytest.fixture
async def timelines(
    pool: asyncpg.Pool, settings: Settings, kafka_broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Timelines]:
    monkeypatch.setattr(erasing, "COUNTED_S", 0.01)  # there is no metrics service here to wait for
    sealed = {
        "kafka": kafka_broker.bootstrap, "topic_prefix": f"test-{uuid4().hex[:8]}", "log_partitions": 2,
        "secret_key": base64.b64encode(SECRET_KEY).decode(), "encrypt_log": True,
    }  # fmt: skip
    async with running_timelines(pool, Settings(_env_file=None, data=settings.data, **sealed)) as running:
        yield running


async def telling(log: Log, needle: str) -> dict[str, int]:
    """Return how many records of each topic have this word in them."""
    return {
        topic: sum(needle in repr((r.key, r.value, r.headers)) for r in await records_of(log, topic))
        for topic in (INBOUND, TIMELINE, QUARANTINE)
    }


async def test_what_an_agent_decided_about_somebody_erased_since_is_unreadable(timelines: Timelines) -> None:
    async def of(handle: str) -> str:
        found = await timelines.customer(handle)
        assert found is not None
        return str(found["id"])

    async def done(method: str, path: str, **body: Any) -> Any:
        answer = await timelines.call(method, path, json=body or None)
        assert answer.status_code == 200, answer.text
        return answer.json()

    for number, who in enumerate(("ann", "bo", "dinah")):
        await timelines.post(timelines.message(f"09:0{number}:00", f"email:{who}@x.example", text=f"I am {who}"))
    ann = await of("email:ann@x.example")
    for who in ("bo", "dinah"):
        await done("POST", f"/v1/customers/{ann}/merge", **{"with": await of(f"email:{who}@x.example")})
    # Bo's, who stays, and it names Dinah, who will go.
    await done("POST", f"/v1/customers/{ann}/split", handles=["email:bo@x.example"], reason="Bo is not dinah")
    await done("POST", f"/v1/customers/{ann}/split", handles=["email:dinah@x.example"])
    opened = await timelines.get(f"/v1/customers/{await of('email:bo@x.example')}/timeline", kind="message.received")
    hers = await timelines.get(f"/v1/customers/{await of('email:dinah@x.example')}/timeline", kind="message.received")
    await done("POST", f"/v1/conversations/{opened['entries'][0]['conversation_id']}/join",
               entry_ids=[hers["entries"][0]["id"]], reason="both wrote of it")  # fmt: skip
    log = timelines.platform.log
    before = await telling(log, "dinah")
    assert before[INBOUND] >= 4 and before[TIMELINE] >= 4

    receipt = await done("DELETE", f"/v1/customers/{await of('email:dinah@x.example')}")
    assert [receipt["topics"][topic]["state"] for topic in (INBOUND, TIMELINE)] == ["unreadable"] * 2
    assert await telling(log, "dinah") == {INBOUND: 0, TIMELINE: 0, QUARANTINE: 0}

    # What is left of the agent's word is told again, and about those who stay.
    told = [TimelineRecord.decode(record.value) for record in await records_of(log, TIMELINE)]
    newest = {line.key: line for line in sorted(told, key=lambda line: line.version) if line.kind == "entry"}
    decided = [line for line in newest.values() if line.body.get("type") in {TYPE_PREFIX + kind for kind in DECISIONS}]
    left = sorted(line.body["data"]["sides"] for line in decided if not line.deleted)
    assert left == [
        [["email:ann@x.example"], ["email:bo@x.example"]],
        [["email:bo@x.example"], ["email:ann@x.example"]],
    ]
