"""Retrying what is in quarantine, on the real database and log: it comes as if late, once, and nothing is lost."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import asyncpg
import orjson
import pytest

from services.cli.quarantine import retry_one
from services.ingest.adapters import ADAPTERS
from services.ingest.adapters.base import Account, Answer, Delivery, Draft, Plain, Quarantined, RawRequest
from services.ingest.again import account_of, read_again, request_of
from shared.errors import LogUnavailable, SetupError
from shared.log.protocol import INBOUND, TIMELINE, Record
from shared.log.quarantine import Rejection, quarantine
from shared.settings import Settings
from tests.ingest_app import NOW, Ingest, running_ingest


class Improving(Plain):
    """A provider of ours whose bodies are lists of names; only those in `understood` become events."""

    understood: frozenset[str] = frozenset()
    broken = False

    def verify(self, request: RawRequest, account: Account) -> None:
        """Anybody."""

    def parse(self, request: RawRequest, account: Account) -> Delivery:
        if self.broken:
            raise ZeroDivisionError
        names = orjson.loads(request.body)
        data: dict[str, Any] = {"channel": "chat", "text": request.query, "seen": request.headers.get("x-kind")}
        events = [
            Draft(name, "threadline.message.received", None, dict(data)) for name in names if name in self.understood
        ]
        parts = [Quarantined(f"unknown kind {name}", name) for name in names if name not in self.understood]
        return Delivery(Answer(200), tuple(events), tuple(parts))


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch) -> Improving:
    adapter = Improving()
    monkeypatch.setattr("services.ingest.adapters.ADAPTERS", {**ADAPTERS, "improving": adapter})
    return adapter


@pytest.fixture
async def ingest(pool: asyncpg.Pool, settings: Settings, provider: Improving) -> AsyncIterator[Ingest]:
    async with running_ingest(pool, settings, {"improving": provider, **ADAPTERS}) as running:
        yield running


async def deliver(ingest: Ingest, *names: str) -> None:
    headers = {"authorization": f"Bearer {ingest.keys['admin']}"}
    put = await ingest.client.put("/v1/channels/improving/a", json={"secrets": ["s"]}, headers=headers)
    body = orjson.dumps(names)
    sent = await ingest.client.post(
        put.json()["webhook_path"] + "?q=1", content=body, headers={"x-kind": "k", "authorization": "Basic c2VjcmV0"}
    )
    assert sent.status_code == 200


async def rows(ingest: Ingest) -> list[tuple[str, str]]:
    found = await ingest.platform.pool.fetch("SELECT event_id, state FROM log.quarantine ORDER BY event_id, state")
    return [tuple(row) for row in found]


async def the(ingest: Ingest, event_id: str, state: str = "held") -> UUID:
    found: UUID = await ingest.platform.pool.fetchval(
        "SELECT id FROM log.quarantine WHERE event_id = $1 AND state = $2", event_id, state
    )
    return found


async def test_a_delivery_comes_as_if_late_once_its_adapter_understands_it(ingest: Ingest, provider: Improving) -> None:
    await deliver(ingest, "new")
    kept_at = await ingest.platform.pool.fetchval("SELECT quarantined_at FROM log.quarantine")
    provider.understood = frozenset({"new"})
    assert await retry_one(ingest.platform, await the(ingest, "new"), required=True) is None
    (event,) = await ingest.inbound()
    assert (event.tenant, event.source, event.id) == ("acme", "/improving/a", "new")
    assert event.occurred_at == event.received_at == kept_at
    assert event.data == {"channel": "chat", "text": "q=1", "seen": "k", "time_estimated": True}
    assert await rows(ingest) == [("new", "retried")]
    with pytest.raises(SetupError, match="retried"):
        await retry_one(ingest.platform, await the(ingest, "new", "retried"), required=True)


async def test_what_is_still_not_understood_stays_held_with_the_reason_of_today(
    ingest: Ingest, provider: Improving
) -> None:
    await deliver(ingest, "new")
    assert await retry_one(ingest.platform, await the(ingest, "new"), required=True) == "unknown kind new"
    assert await rows(ingest) == [("new", "held")]
    assert await ingest.inbound() == []


async def test_parts_that_a_whole_delivery_hid_are_kept_for_themselves(ingest: Ingest, provider: Improving) -> None:
    provider.broken = True
    await deliver(ingest, "a", "b")
    ((whole, _),) = await rows(ingest)
    provider.broken, provider.understood = False, frozenset({"a"})
    assert await retry_one(ingest.platform, await the(ingest, whole), required=True) is None
    assert [event.id for event in await ingest.inbound()] == ["a"]
    assert await rows(ingest) == [("b", "held"), (whole, "retried")]


async def test_a_part_that_somebody_dropped_is_not_brought_back_by_its_neighbour(
    ingest: Ingest, provider: Improving
) -> None:
    await deliver(ingest, "a", "b")
    await ingest.platform.pool.execute("UPDATE log.quarantine SET state = 'dropped' WHERE event_id = 'b'")
    provider.understood = frozenset({"a"})
    assert await retry_one(ingest.platform, await the(ingest, "a"), required=True) is None
    assert await rows(ingest) == [("a", "retried"), ("b", "dropped")]


async def test_a_log_that_is_away_leaves_the_record_held(ingest: Ingest, provider: Improving) -> None:
    await deliver(ingest, "new")
    provider.understood = frozenset({"new"})
    ingest.log.error = LogUnavailable("away")
    with pytest.raises(LogUnavailable):
        await retry_one(ingest.platform, await the(ingest, "new"), required=True)
    assert await rows(ingest) == [("new", "held")]


async def reject(ingest: Ingest, topic: str, offset: int) -> None:
    log = ingest.platform.log
    record = Record(log.name(topic), 0, offset, b"key", b"value", (("h", b"\xff"),), NOW)
    async with ingest.platform.pool.acquire() as connection, connection.transaction():
        await quarantine(connection, log, "conversation", topic, [Rejection(record, "no", "acme", "/chat/x", "e1")])


@pytest.mark.parametrize("topic", [INBOUND, TIMELINE])
async def test_a_record_of_a_consumer_goes_on_its_topic_again_as_it_was(ingest: Ingest, topic: str) -> None:
    await reject(ingest, topic, 7)
    await reject(ingest, topic, 8)
    assert await retry_one(ingest.platform, await the(ingest, "e1"), required=True) is None
    found = await ingest.platform.pool.fetch(
        """SELECT r.key, r.value, r.headers FROM log.record AS r JOIN log.partition AS p ON p.id = r.partition_id
           WHERE p.topic = $1""",
        ingest.platform.log.name(topic),
    )
    assert [(row["key"], row["value"], orjson.loads(row["headers"])) for row in found] == [
        (b"key", b"value", [["h", "\xff"]])
    ]
    assert await rows(ingest) == [("e1", "retried"), ("e1", "retried")], "the same event twice is retried once"


async def test_a_record_of_another_log_stays_held(ingest: Ingest) -> None:
    await reject(ingest, INBOUND, 7)
    await ingest.platform.pool.execute("UPDATE log.quarantine SET topic = 'other.inbound.v1'")
    why = await retry_one(ingest.platform, await the(ingest, "e1"), required=True)
    assert why is not None and "other.inbound.v1" in why
    assert await rows(ingest) == [("e1", "held")]


def test_a_kept_request_is_read_as_it_came() -> None:
    headers = orjson.dumps([[":method", "POST"], [":query", "a=b"], ["x-a", "1"], ["x-a", "2"]])
    request = request_of(b"body", headers, NOW)
    assert (request.method, request.query, request.body, request.received_at) == ("POST", "a=b", b"body", NOW)
    assert request.headers.items() == (("x-a", "1"), ("x-a", "2"))
    assert account_of("acme", "/email_raw/help/desk@x").account == "help/desk@x"


def test_a_delivery_without_a_provider_or_without_a_find_stays_held() -> None:
    request = request_of(b"[]", None, NOW)
    account = account_of("acme", "/improving/a")
    assert read_again(None, request, account, "k").still == "there is no provider 'improving'"
    assert "finds nothing" in (read_again(Improving(), request, account, "k").still or "")


def test_a_real_adapter_reads_its_kept_delivery_without_the_credentials_that_were_not_kept() -> None:
    mail = b"From: a@example.com\nMessage-ID: <m@example.com>\n\nHi\n"
    found = read_again(ADAPTERS["email_raw"], request_of(mail, None, NOW), account_of("acme", "/email_raw/a"), "x")
    assert found.still is None
    assert [event.id for event, _ in found.events] == ["m@example.com"]
    assert base64.b64encode(b"secret") not in found.events[0][1]
