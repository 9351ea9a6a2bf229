"""What the CloudEvents SDK writes, ingest reads: all modes, as a sender who uses it would post."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import asyncpg
import httpx
import orjson
import pytest
from cloudevents.core.bindings import http
from cloudevents.core.bindings.http import HTTPMessage
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent

from shared.settings import Settings
from tests.ingest_app import Ingest, running_ingest

OCCURRED_AT = datetime(2026, 3, 3, 8, 2, 0, 250_000, UTC)
DATA = {
    "channel": "chat",
    "customer": {"handles": [{"kind": "email", "value": "Ann@Example.com", "verified": False}]},
    "text": 'Grüße, "quoted" 100 % \\ 👋',
    "order": 9_007_199_254_740_993,
}


@pytest.fixture
async def ingest(pool: asyncpg.Pool, settings: Settings) -> AsyncIterator[Ingest]:
    async with running_ingest(pool, settings) as running:
        yield running


def an_sdk_event(**attributes: Any) -> CloudEvent:
    given = {
        "specversion": "1.0",
        "id": 'm-1 "é" 50% 👋',
        "source": "/chat/acme",
        "type": "threadline.message.received",
        "time": OCCURRED_AT,
        "subject": "Où est mon colis ?",
        "datacontenttype": "application/json",
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "dataschema": "https://schemas.example/v1",
        "partitionkey": "k",
    }
    return CloudEvent(attributes={**given, **attributes}, data=DATA)


async def post(ingest: Ingest, message: HTTPMessage) -> httpx.Response:
    headers = {"authorization": f"Bearer {ingest.keys['events:write']}", **message.headers}
    return await ingest.client.post("/v1/events", content=message.body, headers=headers)


@pytest.mark.parametrize("write", [http.to_structured_event, http.to_binary_event])
async def test_an_event_of_the_sdk_arrives_as_it_was(ingest: Ingest, write: Any) -> None:
    response = await post(ingest, write(an_sdk_event()))
    assert response.status_code == 202, response.text
    assert response.json() == {"accepted": [{"source": "/chat/acme", "id": 'm-1 "é" 50% 👋'}]}
    (event,) = await ingest.inbound()
    assert (event.id, event.subject) == ('m-1 "é" 50% 👋', "Où est mon colis ?")
    assert event.occurred_at == OCCURRED_AT
    assert event.traceparent == "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    assert event.data == DATA


async def test_a_batch_of_the_sdks_events_arrives_in_order(ingest: Ingest) -> None:
    events = [http.to_structured_event(an_sdk_event(id=str(number))).body for number in range(10)]
    headers = {"content-type": "application/cloudevents-batch+json"}
    response = await post(ingest, HTTPMessage(headers, b"[" + b",".join(events) + b"]"))
    assert response.status_code == 202, response.text
    assert [event.id for event in await ingest.inbound()] == [str(number) for number in range(10)]


async def test_data_in_base64_arrives_as_the_json_that_it_is(ingest: Ingest) -> None:
    event = CloudEvent(attributes=an_sdk_event().get_attributes(), data=orjson.dumps(DATA))
    message = http.to_structured_event(event)
    assert b"data_base64" in message.body
    assert (await post(ingest, message)).status_code == 202
    assert (await ingest.inbound())[0].data == DATA


async def test_records_of_the_inbound_topic_are_cloudevents_to_the_sdk(ingest: Ingest) -> None:
    await post(ingest, http.to_structured_event(an_sdk_event()))
    value = await ingest.platform.pool.fetchval("SELECT value FROM log.record")
    event = JSONFormat().read(CloudEvent, value)
    assert event.get_id() == 'm-1 "é" 50% 👋'
    assert event.get_extension("tenant") == "acme"
    assert event.get_data() == DATA
