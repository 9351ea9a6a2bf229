"""Keys that a provider publishes: fetched once, renewed in time and for new ones, trusted while their place is away."""

from __future__ import annotations

import asyncio

import orjson
import pytest

from services.ingest.adapters.base import KeySource
from services.ingest.published_keys import (
    AGAIN_S,
    BACK_OFF_S,
    FRESH_S,
    STALE_S,
    KeysUnavailable,
    PublishedKeys,
    fetch_over_https,
)

METADATA, KEYS = "https://login.example/openid", "https://login.example/keys"


class Web:
    """The provider's place on the web, and a clock."""

    def __init__(self) -> None:
        self.now_s = 1_000.0
        self.names = ["k1"]
        self.pages: dict[str, bytes] = {}
        self.fetched: list[str] = []
        self.away = False
        self.keys = PublishedKeys(self.fetch, lambda: self.now_s)

    async def fetch(self, url: str) -> bytes:
        self.fetched.append(url)
        await asyncio.sleep(0)
        if self.away:
            raise KeysUnavailable("away")
        own = {METADATA: {"issuer": "i", "jwks_uri": KEYS}, KEYS: {"keys": [{"kid": name} for name in self.names]}}
        return self.pages.get(url) or orjson.dumps(own[url])

    async def names_for(self, key: str | None = "k1") -> list[str]:
        return [one["kid"] for one in (await self.keys.of(KeySource(METADATA, key)))["keys"]]


@pytest.fixture
def web() -> Web:
    return Web()


async def test_keys_are_fetched_once_however_many_ask(web: Web) -> None:
    assert await asyncio.gather(*(web.names_for() for _ in range(20))) == [["k1"]] * 20
    assert web.fetched == [METADATA, KEYS]
    web.now_s += FRESH_S - 1
    assert await web.names_for() == ["k1"] and len(web.fetched) == 2
    web.now_s += 2
    web.names = ["k2"]
    assert await web.names_for("k2") == ["k2"] and len(web.fetched) == 4


async def test_new_key_is_looked_for_but_not_at_every_forgery(web: Web) -> None:
    await web.names_for()
    web.names = ["k1", "k2"]
    assert await web.names_for("k2") == ["k1"], "looked up just now"
    web.now_s += AGAIN_S + 1
    assert await web.names_for("k2") == ["k1", "k2"]
    for number in range(50):
        await web.names_for(f"forged-{number}")
    assert len(web.fetched) == 4


async def test_place_that_is_away_is_told_apart_from_a_key_that_is_none(web: Web) -> None:
    web.away = True
    with pytest.raises(KeysUnavailable):
        await web.names_for()
    with pytest.raises(KeysUnavailable):
        await web.names_for()
    assert len(web.fetched) == 1, "not asked again at once"
    web.away = False
    web.now_s += BACK_OFF_S
    assert await web.names_for() == ["k1"]


async def test_known_keys_outlive_an_absence_for_some_days(web: Web) -> None:
    await web.names_for()
    web.away = True
    web.now_s += STALE_S - 1
    assert await web.names_for() == ["k1"]
    # Whether a key that is new has been published cannot be said now.
    with pytest.raises(KeysUnavailable):
        await web.names_for("k2")
    web.now_s += 2
    with pytest.raises(KeysUnavailable):
        await web.names_for()


@pytest.mark.parametrize(
    ("url", "page"),
    [
        (METADATA, b"<html>"),
        (METADATA, b"[]"),
        (METADATA, b"{}"),
        (METADATA, b'{"jwks_uri": "http://login.example/keys"}'),
        (METADATA, b'{"jwks_uri": 3}'),
        (KEYS, b'{"keys": []}'),
        (KEYS, b'{"keys": "k1"}'),
        (KEYS, b"nothing"),
    ],
)
async def test_documents_that_say_nothing_are_no_keys(web: Web, url: str, page: bytes) -> None:
    web.pages[url] = page
    with pytest.raises(KeysUnavailable):
        await web.names_for()


@pytest.mark.parametrize("url", ["https://127.0.0.1:1/x", "http://[", "https://\0/"])
async def test_what_cannot_be_fetched_is_retryable(url: str) -> None:
    with pytest.raises(KeysUnavailable):
        await fetch_over_https(url)
