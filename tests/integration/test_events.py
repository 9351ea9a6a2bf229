"""`POST /v1/events` and the status of what was posted, on the real log in the real PostgreSQL."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import httpx
import orjson
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from shared.accepted import TAKER, settle
from shared.blobs import resolved
from shared.entry_ids import entry_id_of, entry_secret
from shared.errors import LogUnavailable, Rejected
from shared.log.protocol import INBOUND
from shared.settings import Settings
from tests.ingest_app import BATCH, NOW, SECRET_KEY, STRUCTURED, Ingest, an_event, running_ingest


@pytest.fixture
async def ingest(pool: asyncpg.Pool, settings: Settings) -> AsyncIterator[Ingest]:
    async with running_ingest(pool, settings) as running:
        yield running


def problem(response: httpx.Response, status: int) -> dict[str, Any]:
    """Return the problem that the answer is, after checking that it is one."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = response.json()
    assert body["status"] == status and body["title"]
    return body


def pointers(body: dict[str, Any]) -> list[str]:
    return [fault["pointer"] for fault in body["errors"]]


# What is taken


async def test_a_structured_event_is_in_the_log_when_it_is_acknowledged(ingest: Ingest) -> None:
    response = await ingest.post(an_event(text="hello", weight=41))
    assert response.status_code == 202
    assert response.json() == {"accepted": [{"source": "/chat/acme", "id": "e1"}]}
    (event,) = await ingest.inbound()
    assert (event.tenant, event.id, event.received_at) == ("acme", "e1", NOW)
    assert event.occurred_at == datetime(2026, 3, 3, 8, 2, tzinfo=UTC)
    assert event.data == an_event(text="hello", weight=41)["data"]


async def test_a_batch_is_taken_whole_and_named_in_its_order(ingest: Ingest) -> None:
    response = await ingest.post([an_event(f"e{n}") for n in range(1_000)], BATCH)
    assert response.status_code == 202
    assert [item["id"] for item in response.json()["accepted"]] == [f"e{n}" for n in range(1_000)]
    assert [event.id for event in await ingest.inbound()] == [f"e{n}" for n in range(1_000)]


async def test_an_empty_batch_is_taken(ingest: Ingest) -> None:
    response = await ingest.post(b"[]", BATCH)
    assert (response.status_code, response.json()) == (202, {"accepted": []})


async def test_a_binary_event_is_read_from_its_headers(ingest: Ingest) -> None:
    event = an_event()
    headers = {f"ce_{name}": event[name] for name in ("specversion", "id", "source", "type", "time")}
    response = await ingest.post(event["data"], "application/json", **headers)
    assert response.status_code == 202
    (taken,) = await ingest.inbound()
    assert (taken.id, taken.data) == ("e1", event["data"])


async def test_the_same_event_again_is_202_again(ingest: Ingest) -> None:
    for _ in range(2):
        assert (await ingest.post(an_event())).status_code == 202


async def test_the_tenant_is_the_keys_whatever_the_event_says(ingest: Ingest) -> None:
    await ingest.post({**an_event(tenant="acme"), "tenant": "acme", "receivedat": "x", "dataref": "x"}, key="globex")
    (event,) = await ingest.inbound()
    assert (event.tenant, event.received_at, event.dataref) == ("globex", NOW, None)


async def test_events_of_one_sender_go_to_one_partition(ingest: Ingest) -> None:
    def by(value: str, n: int) -> dict[str, Any]:
        return an_event(f"{n}", customer={"handles": [{"kind": "email", "value": value}]})

    spelled = ["Ann@Example.com", " ann+shop@example.com", "ann@example.com"]
    await ingest.post([by(value, n) for n, value in enumerate(spelled)], BATCH)
    rows = await ingest.platform.pool.fetch("SELECT DISTINCT partition_id, key FROM log.record")
    assert [row["key"] for row in rows] == [b"acme\0email:ann@example.com"]


@pytest.mark.parametrize("text", ["a\0b", "\ud800", "x\udfff\0"])
async def test_nul_and_lone_surrogates_become_replacement_characters(ingest: Ingest, text: str) -> None:
    body = json.dumps({**an_event(text=text, **{text: [text]}), "subject": text}).encode()
    assert (await ingest.post(body)).status_code == 202
    (event,) = await ingest.inbound()
    clean = event.data["text"]
    assert "\ufffd" in clean and "\0" not in clean
    assert event.data[clean] == [clean] and event.subject == clean


async def test_large_data_goes_to_a_blob_and_comes_back_whole(ingest: Ingest) -> None:
    event = an_event(text="é" * 400_000)
    for _ in range(2):
        assert (await ingest.post(event)).status_code == 202
    by_reference = await ingest.inbound()
    assert [(record.data, bool(record.dataref)) for record in by_reference] == [({}, True), ({}, True)]
    pool = ingest.platform.pool
    assert await pool.fetchval("SELECT count(*) FROM ingest.blob") == 1
    async with pool.acquire() as connection:
        whole = await resolved(connection, by_reference)
        assert all(not isinstance(each, Rejected) and each.data == event["data"] for each in whole)
        await connection.execute("DELETE FROM ingest.blob")
        gone = await resolved(connection, by_reference)
    assert all(isinstance(each, Rejected) and "blob:" in each.reason for each in gone)


async def test_a_log_that_takes_less_than_thought_gets_references(pool: asyncpg.Pool, settings: Settings) -> None:
    async with running_ingest(pool, settings, max_record_bytes=2_000) as ingest:
        assert (await ingest.post([an_event("a"), an_event("b", text="x" * 5_000)], BATCH)).status_code == 202
        async with pool.acquire() as connection:
            events = await resolved(connection, await ingest.inbound())
        assert [len(event.data.get("text", "")) for event in events] == [0, 5_000]


async def test_every_delivery_of_the_dialogues_is_taken_or_refused_as_it_should(
    ingest: Ingest, shared_data: Path
) -> None:
    ingest.clock.time = datetime(2025, 6, 1, tzinfo=UTC)
    taken = 0
    for line in (shared_data / "dialogues" / "deliveries.jsonl").read_text().splitlines():
        delivery = json.loads(line)
        if delivery["expect"] == "accepted" and taken >= 50:
            continue
        response = await ingest.post(delivery["body"].encode())
        if delivery["expect"] == "accepted":
            assert response.status_code == 202, response.text
            taken += 1
        elif delivery["expect"] == "refused":
            body = problem(response, response.status_code)
            assert 400 <= response.status_code < 500 and (body["detail"] and body["errors"][0]["pointer"])


async def test_the_worked_example_of_the_kpis_is_taken(ingest: Ingest, shared_data: Path) -> None:
    ingest.clock.time = datetime(2026, 3, 5, tzinfo=UTC)
    lines = (shared_data / "kpis" / "worked_example.jsonl").read_bytes().splitlines()
    response = await ingest.post(b"[" + b",".join(lines) + b"]", BATCH)
    assert response.status_code == 202 and len(response.json()["accepted"]) == 35


# What is refused


async def test_no_key_is_401_and_a_wrong_scope_403(ingest: Ingest) -> None:
    body = orjson.dumps(an_event())
    headers = {"content-type": STRUCTURED}
    assert "Bearer" in problem(await ingest.client.post("/v1/events", content=body, headers=headers), 401)["detail"]
    headers["authorization"] = "Bearer tl_" + "x" * 43
    problem(await ingest.client.post("/v1/events", content=body, headers=headers), 401)
    assert "events:write" in problem(await ingest.post(body, key="timeline:read"), 403)["detail"]
    assert await ingest.inbound() == []


async def test_a_body_that_is_not_json_is_told_where(ingest: Ingest) -> None:
    body = problem(await ingest.post(b"{not json"), 400)
    assert "line 1 column 2" in body["detail"] and pointers(body) == ["#"]


@pytest.mark.parametrize("name", ["specversion", "id", "source", "type", "time", "data"])
async def test_a_missing_attribute_is_pointed_at(ingest: Ingest, name: str) -> None:
    event = an_event()
    del event[name]
    body = problem(await ingest.post(event), 422)
    assert body["errors"] == [{"pointer": f"#/{name}", "detail": body["errors"][0]["detail"]}]


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"type": "threadline.message.invented"}, "#/type"),
        ({"time": "2199-01-01T00:00:00Z"}, "#/time"),
        (
            {"data": {"customer": {"handles": [{"kind": "email", "value": {"$ne": 1}}]}}},
            "#/data/customer/handles/0/value",
        ),
    ],
)
async def test_what_cannot_be_taken_is_pointed_at(ingest: Ingest, change: dict[str, Any], pointer: str) -> None:
    assert pointers(problem(await ingest.post({**an_event(), **change}), 422)) == [pointer]
    assert await ingest.inbound() == []


async def test_one_bad_item_refuses_the_batch_with_one_error_each(ingest: Ingest) -> None:
    batch = [an_event(f"e{n}") for n in range(20)]
    batch[17] = an_event("e17", channel=7, text=8)
    batch[3] = {**an_event("e3"), "time": "soon"}
    batch[5] = ["no event"]  # type: ignore[call-overload]
    assert pointers(problem(await ingest.post(batch, BATCH), 422)) == ["#/3/time", "#/5", "#/17/data/channel"]
    assert await ingest.inbound() == []


async def test_1001_events_are_too_many(ingest: Ingest) -> None:
    assert "1001" in problem(await ingest.post([an_event()] * 1_001, BATCH), 413)["detail"]


async def test_6_mib_are_too_much_with_and_without_a_declared_length(ingest: Ingest) -> None:
    body = b" " * (6 * 1024 * 1024)

    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(body), 65_536):
            yield body[start : start + 65_536]

    problem(await ingest.post(body, BATCH), 413)
    headers = {"authorization": f"Bearer {ingest.keys['events:write']}", "content-type": BATCH}
    problem(await ingest.client.post("/v1/events", content=chunks(), headers=headers), 413)


async def test_another_media_type_is_415(ingest: Ingest) -> None:
    assert STRUCTURED in problem(await ingest.post(an_event(), "application/xml"), 415)["detail"]


async def test_a_log_that_is_away_is_503_with_the_time_to_come_back(ingest: Ingest) -> None:
    ingest.log.error = LogUnavailable("no broker")
    response = await ingest.post(an_event())
    problem(response, 503)
    assert int(response.headers["retry-after"]) > 0
    ingest.log.error = None
    assert problem(await ingest.status("/chat/acme", "e1"), 404)
    assert (await ingest.post(an_event())).status_code == 202


async def test_a_rate_that_somebody_set_is_429_with_the_time_to_come_back(
    pool: asyncpg.Pool, settings: Settings
) -> None:
    async with running_ingest(pool, settings.model_copy(update={"ingest_rate_limit": 1.0})) as ingest:
        assert (await ingest.post([an_event()] * 1_000, BATCH)).status_code == 202
        response = await ingest.post(an_event())
        problem(response, 429)
        assert int(response.headers["retry-after"]) >= 1
        assert (await ingest.post(an_event(), key="globex")).status_code == 202


async def test_the_handshake_of_web_hooks_is_answered(ingest: Ingest) -> None:
    response = await ingest.client.options("/v1/events", headers={"WebHook-Request-Origin": "sender.example"})
    assert response.status_code in (200, 204)
    assert response.headers["webhook-allowed-origin"] == "sender.example"
    assert "POST" in response.headers["allow"]


# What became of it


async def test_an_accepted_event_is_accepted_until_somebody_takes_it(ingest: Ingest) -> None:
    await ingest.post(an_event())
    body = (await ingest.status("/chat/acme", "e1")).json()
    assert body == {
        "status": "accepted",
        "customer_id": None,
        "conversation_id": None,
        "entry_id": None,
        "reason": None,
    }
    assert (await ingest.status("/chat/acme", "e1", key="events:write")).status_code == 200
    problem(await ingest.status("/chat/acme", "e1", key="kpis:read"), 403)
    problem(await ingest.status("/chat/acme", "e1", key="globex"), 404)


async def test_an_unknown_event_is_404_and_a_question_without_id_422(ingest: Ingest) -> None:
    problem(await ingest.status("/chat/acme", "never"), 404)
    problem(await ingest.status("/chat/\0acme\udcff".encode("utf-8", "replace").decode(), "\0"), 404)
    body = problem(
        await ingest.client.get(
            "/v1/events/status", params={"source": "s"}, headers={"authorization": f"Bearer {ingest.keys['admin']}"}
        ),
        422,
    )
    assert pointers(body) == ["#/query/id"]


async def test_another_process_knows_what_waits_longer_than_a_moment(ingest: Ingest, settings: Settings) -> None:
    platform = ingest.platform
    await ingest.post(an_event())
    name = platform.log.name(INBOUND)
    async with running_ingest(platform.pool, settings) as other:
        problem(await other.status("/chat/acme", "e1"), 404)
        await settle(platform.pool, platform.accepted, TAKER, name, now_s=float("inf"))
        assert len(platform.accepted) == 0
        assert (await other.status("/chat/acme", "e1")).json()["status"] == "accepted"
        assert (await ingest.status("/chat/acme", "e1")).json()["status"] == "accepted"
        problem(await other.status("/chat/acme", "e1", key="globex"), 404)
        await _taken(platform.pool, name)
        await settle(platform.pool, other.platform.accepted, TAKER, name, now_s=0.0)
        assert await platform.pool.fetchval("SELECT count(*) FROM ingest.accepted") == 0


async def _taken(pool: asyncpg.Pool, name: str) -> None:
    """Say that the consumer has done all that the topic holds."""
    await pool.execute(
        """INSERT INTO log."offset" (group_name, topic, partition, next_offset)
           SELECT $1, topic, partition, next_offset FROM log.partition WHERE topic = $2""",
        TAKER,
        name,
    )


async def test_what_the_consumer_took_at_once_is_never_written_down(ingest: Ingest) -> None:
    platform = ingest.platform
    await ingest.post(an_event())
    await _taken(platform.pool, platform.log.name(INBOUND))
    await settle(platform.pool, platform.accepted, TAKER, platform.log.name(INBOUND), now_s=float("inf"))
    assert len(platform.accepted) == 0
    assert await platform.pool.fetchval("SELECT count(*) FROM ingest.accepted") == 0


async def test_a_quarantined_event_says_why(ingest: Ingest) -> None:
    await ingest.platform.pool.execute(
        """INSERT INTO log.quarantine (tenant_id, source, event_id, group_name, topic, partition, "offset", reason,
                                       value)
           VALUES ('acme', '/chat/acme', 'e1', 'conversation', 't', 0, 0, 'poison', '')"""
    )
    body = (await ingest.status("/chat/acme", "e1")).json()
    assert (body["status"], body["reason"]) == ("quarantined", "poison")
    problem(await ingest.status("/chat/acme", "e1", key="globex"), 404)


async def test_an_event_on_a_timeline_names_its_customer_conversation_and_entry(ingest: Ingest) -> None:
    entry_id = entry_id_of(entry_secret(SECRET_KEY), "acme", "/chat/acme", "e1")
    leaf_id, customer_id, conversation_id, survivor_id = uuid4(), uuid4(), uuid4(), uuid4()
    await _put_on_a_timeline(ingest.platform.pool, entry_id, leaf_id, customer_id, conversation_id, survivor_id)
    assert (await ingest.status("/chat/acme", "e1")).json() == {
        "status": "on_timeline",
        "customer_id": str(customer_id),
        "conversation_id": str(survivor_id),
        "entry_id": str(entry_id),
        "reason": None,
    }
    problem(await ingest.status("/chat/acme", "e1", key="globex"), 404)


async def _put_on_a_timeline(
    pool: asyncpg.Pool, entry_id: UUID, leaf_id: UUID, customer_id: UUID, conversation_id: UUID, survivor_id: UUID
) -> None:
    await _insert(pool, "conversation.leaf", leaf_id=leaf_id, node="visitor:v-1", customer_id=customer_id,
                  component_id=leaf_id)  # fmt: skip
    await _insert(pool, "conversation.entry", entry_id=entry_id, occurred_at=NOW, received_at=NOW, recorded_at=NOW,
                  leaf_id=leaf_id, conversation_id=conversation_id, automatic=False, by_conversation=False,
                  source="/chat/acme", event_id="e1", type="threadline.message.received", rule="new", digest=b"",
                  data={})  # fmt: skip
    await _insert(pool, "conversation.conversation", conversation_id=conversation_id, canonical_id=survivor_id,
                  opened_at=NOW, opened_source="s", opened_event_id="e", last_entry_at=NOW, tickets=[], channels=[],
                  entries=1)  # fmt: skip


async def _insert(pool: asyncpg.Pool, table: str, **values: Any) -> None:
    values = {"tenant_id": "acme", **values}
    places = ", ".join(f"${n}" for n in range(1, len(values) + 1))
    await pool.execute(f"INSERT INTO {table} ({', '.join(values)}) VALUES ({places})", *values.values())


# Whatever comes


MEDIA_TYPES = st.sampled_from([STRUCTURED, BATCH, "application/json", "application/json; charset=utf-16", "", "x"])
PIECES = st.sampled_from(
    [b"{", b"}", b"[", b"]", b'"', b"\\ud800", b"\0", b"\xff", b",", b":", b"1e999", b"null", orjson.dumps(an_event())]
)


@hypothesis_settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    media_type=MEDIA_TYPES,
    body=st.lists(PIECES, max_size=6).map(b"".join) | st.binary(max_size=40),
    headers=st.dictionaries(
        st.sampled_from(["ce-id", "ce-specversion", "ce-type", "ce-time", "content-encoding", "traceparent"]),
        st.binary(max_size=12).filter(lambda value: not set(value) & set(b"\r\n\0")),
        max_size=3,
    ),
)
async def test_no_input_is_an_error_of_the_server(
    ingest: Ingest, media_type: str, body: bytes, headers: dict[str, bytes]
) -> None:
    request = ingest.client.build_request(
        "POST",
        "/v1/events",
        content=body,
        headers=[
            (b"authorization", f"Bearer {ingest.keys['events:write']}".encode()),
            (b"content-type", media_type.encode()),
            *((name.encode(), value) for name, value in headers.items()),
        ],
    )
    response = await ingest.client.send(request)
    assert response.status_code < 500, response.text
    if response.status_code != 202:
        assert response.json()["title"]


async def test_both_documents_describe_the_route_and_the_topics(ingest: Ingest) -> None:
    paths = (await ingest.client.get("/openapi.json")).json()["paths"]
    post = paths["/v1/events"]["post"]
    assert set(post["requestBody"]["content"]) == {STRUCTURED, BATCH, "application/json"}
    assert {"202", "400", "413", "415", "422", "429"} <= set(post["responses"])
    topics = (await ingest.client.get("/asyncapi.json")).json()
    assert topics["asyncapi"] == "3.0.0"
    assert [channel["address"] for channel in topics["channels"].values()] == [
        "threadline.inbound.v1", "threadline.timeline.v1", "threadline.quarantine.v1",
    ]  # fmt: skip
    assert list(_broken_references(topics, topics)) == []


def _broken_references(part: Any, document: Any) -> list[str]:
    if isinstance(part, list):
        return [broken for item in part for broken in _broken_references(item, document)]
    if not isinstance(part, dict):
        return []
    found = [broken for value in part.values() for broken in _broken_references(value, document)]
    reference = part.get("$ref")
    if isinstance(reference, str):
        target = document
        for step in reference.removeprefix("#/").split("/"):
            if step not in target:
                found.append(reference)
                break
            target = target[step]
    return found
