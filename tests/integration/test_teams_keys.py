"""A Teams bot over HTTP: Microsoft's keys are fetched, change, and may be away; nothing genuine is lost by it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import asyncpg
import httpx
import orjson
import pytest

from services.ingest.published_keys import KeysUnavailable
from shared.settings import Settings
from tests.contract.adapters.providers import NOW
from tests.contract.adapters.test_teams import ACTIVITY, KEY, OTHER_KEY, a_token, jwks
from tests.ingest_app import Ingest, running_ingest


class Microsoft:
    """What stands at Microsoft's addresses; `published` None: nothing answers there."""

    published: bytes | None = None

    async def fetch(self, url: str) -> bytes:
        if self.published is None:
            raise KeysUnavailable("away")
        if url.endswith("/openidconfiguration"):
            return orjson.dumps({"jwks_uri": "https://login.botframework.com/v1/.well-known/keys"})
        assert url == "https://login.botframework.com/v1/.well-known/keys"
        return self.published


@pytest.fixture
def microsoft() -> Microsoft:
    return Microsoft()


@pytest.fixture
async def ingest(pool: asyncpg.Pool, settings: Settings, microsoft: Microsoft) -> AsyncIterator[Ingest]:
    async with running_ingest(pool, settings, fetch=microsoft.fetch) as running:
        running.clock.time = NOW
        yield running


async def test_delivery_is_taken_once_its_keys_can_be_fetched_and_a_forged_one_never(
    ingest: Ingest, microsoft: Microsoft, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.ingest.published_keys.BACK_OFF_S", 0.0)
    headers = {"authorization": f"Bearer {ingest.keys['admin']}"}
    body = {"secrets": ["nothing is signed with it"], "options": {"app_id": "app1"}}
    put = await ingest.client.put("/v1/channels/teams/bot", json=body, headers=headers)

    async def deliver(token: str) -> httpx.Response:
        given = {"authorization": f"Bearer {token}", "content-type": "application/json"}
        return await ingest.client.post(put.json()["webhook_path"], content=ACTIVITY, headers=given)

    away = await deliver(a_token())
    assert away.status_code == 503 and away.headers["retry-after"]
    # What is no token at all is refused without anybody being asked.
    assert (await deliver("a.b.c")).status_code == 403
    microsoft.published = orjson.dumps(jwks(KEY))
    assert (await deliver(a_token())).status_code == 200
    assert (await deliver(a_token(OTHER_KEY))).status_code == 403
    assert (await deliver(a_token(aud="another"))).status_code == 403
    assert [event.id for event in await ingest.inbound()] == ["c:1"]
    # The keys change; the new one has a name that was not known.
    monkeypatch.setattr("services.ingest.published_keys.AGAIN_S", 0.0)
    renamed = {"keys": [{**jwks(OTHER_KEY)["keys"][0], "kid": "k2"}]}
    microsoft.published = orjson.dumps(renamed)
    assert (await deliver(a_token(OTHER_KEY, header={"alg": "RS256", "kid": "k2"}))).status_code == 200
    microsoft.published = None
    assert (await deliver(a_token(OTHER_KEY, header={"alg": "RS256", "kid": "k3"}))).status_code == 503
    assert (await deliver(a_token(OTHER_KEY, header={"alg": "RS256", "kid": "k2"}))).status_code == 200
