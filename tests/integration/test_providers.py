"""Every recorded delivery of every provider, over HTTP: what is answered is in the log or in the quarantine."""

from __future__ import annotations

from collections.abc import AsyncIterator
from uuid import uuid4

import asyncpg
import httpx
import pytest

from shared.errors import LogUnavailable
from shared.settings import Settings
from tests.contract.adapters.providers import NOW, PROVIDERS, Provider
from tests.contract.adapters.recorded import recorded
from tests.ingest_app import Ingest, running_ingest

RECORDED = recorded()


@pytest.fixture
async def ingest(pool: asyncpg.Pool, settings: Settings) -> AsyncIterator[Ingest]:
    async with running_ingest(pool, settings) as running:
        running.clock.time = NOW
        yield running


async def an_account(ingest: Ingest, provider: Provider) -> str:
    """Make the provider's account, both secrets active, and return its webhook path."""
    body = {
        "secrets": list(provider.secrets[:2]),
        "public_url": "https://hooks.acme.example/in?a=1",
        "own_addresses": list(provider.own_addresses),
        "default_region": "NL",
        "options": dict(provider.options),
    }
    response = await ingest.client.put(
        f"/v1/channels/{provider.name}/acme", json=body, headers={"authorization": f"Bearer {ingest.keys['admin']}"}
    )
    assert response.status_code == 200, response.text
    return str(response.json()["webhook_path"])


@pytest.mark.parametrize("name", PROVIDERS)
async def test_what_a_provider_sends_is_in_the_log_or_the_quarantine(ingest: Ingest, name: str) -> None:
    provider = PROVIDERS[name]
    path = await an_account(ingest, provider)
    # While the log is away nothing is said to be taken, and nothing is remembered that would make it a repetition.
    genuine = next(one for one in RECORDED if one.provider is provider and one.document["events"])
    ingest.log.error = LogUnavailable("away")
    request = provider.sign(genuine.signing, provider.secrets[0])
    target = f"{path}?{request.query}" if request.query else path
    away = await ingest.client.post(target, content=request.body, headers=list(request.headers.items()))
    assert away.status_code == 503 and away.headers["retry-after"]
    ingest.log.error = None
    assert await ingest.inbound() == []

    expected, held = set(), set()
    for number, record in enumerate(one for one in RECORDED if one.provider is provider):
        request = provider.sign(record.signing, provider.secrets[number % 2])
        response: httpx.Response = await ingest.client.post(
            f"{path}?{request.query}" if request.query else path,
            content=request.body,
            headers=[(key, value) for key, value in request.headers.items()],
        )
        assert response.status_code == record.document["answer"]["status"], response.text
        if name not in ("chat", "mailgun"):
            assert response.text == record.document["answer"]["body"]
        if name == "mailgun" and number:
            # All of them carry one token: the second is a duplicate whatever it says.
            continue
        expected |= {(event["id"], event["type"]) for event in record.document["events"]}
        held |= {part["dedupe_key"] for part in record.document["quarantined"]}
    taken = await ingest.inbound()
    assert {(event.id, event.type) for event in taken} == expected
    assert {event.source for event in taken} <= {f"/{name}/acme"}
    rows = await ingest.platform.pool.fetch("SELECT event_id, source, reason FROM log.quarantine")
    assert {row["event_id"] for row in rows} == held
    assert all(row["source"] == f"/{name}/acme" and row["reason"] for row in rows)


async def test_browser_may_speak_from_the_websites_of_the_account_only(ingest: Ingest) -> None:
    path = await an_account(ingest, PROVIDERS["chat"])
    ours = await ingest.client.options(path, headers={"origin": "https://www.acme.example"})
    assert (ours.status_code, ours.headers["access-control-allow-origin"]) == (204, "https://www.acme.example")
    theirs = await ingest.client.options(path, headers={"origin": "https://evil.example"})
    assert "access-control-allow-origin" not in theirs.headers


async def test_chat_session_that_sends_too_much_is_told_when_to_come_back(ingest: Ingest) -> None:
    body = {"secrets": ["secret"], "options": {"events_per_minute": 3, "origins": ["https://www.acme.example"]}}
    headers = {"authorization": f"Bearer {ingest.keys['admin']}"}
    put = await ingest.client.put("/v1/channels/chat/bounded", json=body, headers=headers)
    path = put.json()["webhook_path"]
    session = (await ingest.client.get(path, params={"nonce": "0123456789abcdef012345"})).json()

    async def say(count: int) -> httpx.Response:
        events = [{"type": "message", "client_message_id": str(uuid4()), "text": "x"} for _ in range(count)]
        origin = {"origin": "https://www.acme.example"}
        return await ingest.client.post(path, json={"token": session["token"], "events": events}, headers=origin)

    assert (await say(3)).status_code == 202
    refused = await say(1)
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "20")
    assert refused.headers["access-control-allow-origin"] == "https://www.acme.example"
    assert len(await ingest.inbound()) == 3


async def test_chat_page_may_be_shown_by_the_websites_of_its_account_only(ingest: Ingest) -> None:
    origins = ["https://www.acme.example", "http://localhost:3000", "*", "https://a.example; script-src *"]
    body = {"secrets": ["secret"], "options": {"origins": origins}}
    headers = {"authorization": f"Bearer {ingest.keys['admin']}"}
    put = await ingest.client.put("/v1/channels/chat/shown", json=body, headers=headers)
    token = put.json()["webhook_path"].rpartition("/")[2]
    page = await ingest.client.get(f"/chat/{token}")
    policy = page.headers["content-security-policy"]
    assert policy.endswith("frame-ancestors 'self' https://www.acme.example http://localhost:3000")
    assert "default-src 'none'" in policy and "unsafe" not in policy
    assert "<script>" not in page.text
    assert (await ingest.client.get("/chat/nobody")).status_code == 404
    assert (await ingest.client.get("/chat/static/..%2f__init__.py")).status_code == 404
    assert (await ingest.client.get("/widget.js")).headers["content-type"].startswith("text/javascript")
