"""Files and large data of events that never came are deleted, and nothing is that an event may still name."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from services.conversation.sweeping import AGE, Sweeper
from shared import attachments, blobs
from shared.attachments import File
from shared.errors import LogUnavailable
from shared.events import InboundEvent
from shared.settings import Settings
from tests.ingest_app import NOW, an_event, running_ingest
from tests.timeline_app import Timelines, running_timelines
from tests.waiting import until

CONTENT = base64.b64encode(b"what was in the file").decode()
LARGE = "x" * 300_000
LEFT = "SELECT event_id FROM ingest.attachment UNION ALL SELECT event_id FROM ingest.blob ORDER BY 1"


@pytest.fixture
async def timelines(pool: asyncpg.Pool, settings: Settings) -> AsyncIterator[Timelines]:
    async with running_timelines(pool, settings) as running:
        yield running


async def days_pass(pool: asyncpg.Pool, days: float) -> None:
    for table in ("attachment", "blob"):
        await pool.execute(f"UPDATE ingest.{table} SET kept_at = kept_at - $1::float * interval '1 day'", days)


async def swept(platform: Any) -> int:
    """Look twice: what is judged is what was there at the look before."""
    sweeper = Sweeper(platform)
    assert await sweeper.look() == 0
    return await sweeper.look()


async def left(pool: asyncpg.Pool) -> list[str]:
    return [row["event_id"] for row in await pool.fetch(LEFT)]


def with_file(event: dict[str, Any]) -> dict[str, Any]:
    event["data"]["attachments"] = [{"name": "a.bin", "content": CONTENT}]
    return event


async def test_what_was_kept_for_an_event_that_never_came_goes_once_nobody_can_send_it_any_more(
    pool: asyncpg.Pool, settings: Settings
) -> None:
    async with running_ingest(pool, settings) as ingest:
        ingest.clock.time = await pool.fetchval("SELECT now()")
        ingest.log.error = LogUnavailable("away")
        for event in (with_file(an_event("file")), an_event("large", text=LARGE)):
            assert (await ingest.post(event)).status_code == 503
        ingest.log.error = None
        await days_pass(pool, AGE.days - 1)
        assert (await swept(ingest.platform), await left(pool)) == (0, ["file", "large"])
        await days_pass(pool, 1.1)
        assert (await swept(ingest.platform), await left(pool)) == (2, [])


async def test_what_a_timeline_a_copy_or_the_quarantine_holds_is_left_alone(
    timelines: Timelines, pool: asyncpg.Pool
) -> None:
    mail = {"channel": "email", "message_id": "<copied@x.example>"}
    entry = with_file(timelines.message("09:00:00", "email:ann@x.example", **mail))
    copy = {**with_file(timelines.message("09:00:01", "email:ann@x.example", **mail)), "source": "/email/other"}
    large = timelines.message("09:00:02", "email:ann@x.example", text=LARGE)
    await timelines.post(entry, large)
    headers = {"authorization": f"Bearer {timelines.keys['acme']}", "content-type": "application/cloudevents+json"}
    assert (await timelines.client.post("/v1/events", json=copy, headers=headers)).status_code == 202
    await until(lambda: pool.fetchval("SELECT count(*) = 1 FROM conversation.copy"), "the copy is known")
    await attachments.put(pool, [File("acme", uuid4(), "/s", name, None, None, b"x") for name in ("held", "nobody's")])
    await pool.execute(
        "INSERT INTO log.quarantine (tenant_id, source, event_id, reason, value) VALUES ('acme', '/s', 'held', '', '')"
    )
    await days_pass(pool, AGE.days + 1)
    assert await swept(timelines.platform) == 1
    assert await left(pool) == sorted([entry["id"], copy["id"], large["id"], "held"])


async def test_tables_that_are_lost_and_wait_for_a_replay_lose_no_file(
    timelines: Timelines, pool: asyncpg.Pool
) -> None:
    said = with_file(timelines.message("09:00:00", "email:ann@x.example"))
    await timelines.post(said)
    await days_pass(pool, AGE.days + 1)
    assert await swept(timelines.platform) == 0
    await pool.execute("DELETE FROM conversation.entry")
    await days_pass(pool, 100)
    assert (await swept(timelines.platform), await left(pool)) == (0, [said["id"]])


async def test_an_event_that_is_in_the_log_and_on_no_timeline_yet_keeps_its_file(
    pool: asyncpg.Pool, settings: Settings
) -> None:
    async with running_ingest(pool, settings) as ingest:
        assert (await ingest.post(with_file(an_event("behind")))).status_code == 202
        ingest.clock.time = await pool.fetchval("SELECT now()")
        await days_pass(pool, AGE.days + 100)
        assert (await swept(ingest.platform), await left(pool)) == (0, ["behind"])


async def test_while_the_quarantine_holds_what_nobody_can_read_every_file_waits(
    timelines: Timelines, pool: asyncpg.Pool
) -> None:
    await attachments.put(pool, [File("acme", uuid4(), "/s", "left", None, None, b"x")])
    await days_pass(pool, AGE.days + 1)
    await pool.execute("INSERT INTO log.quarantine (reason, value) VALUES ('it is not JSON', '')")
    assert await swept(timelines.platform) == 0
    await pool.execute("UPDATE log.quarantine SET state = 'dropped'")
    assert await swept(timelines.platform) == 1


async def test_what_is_sent_again_late_is_waited_for_anew(pool: asyncpg.Pool, settings: Settings) -> None:
    async with running_ingest(pool, settings) as ingest:
        file = File("acme", uuid4(), "/s", "file", None, None, b"x")
        said = InboundEvent("acme", "/s", "large", "threadline.message.received", NOW, NOW, {"text": LARGE})
        large, payload = blobs.with_reference(said)
        for _ in range(2):
            await attachments.put(pool, [file])
            await blobs.put(pool, large, payload)
            await days_pass(pool, AGE.days - 0.5)
        ingest.clock.time = await pool.fetchval("SELECT now()")
        assert (await swept(ingest.platform), await left(pool)) == (0, ["file", "large"])
