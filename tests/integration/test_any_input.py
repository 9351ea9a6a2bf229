"""Whatever is posted, nothing is answered 5xx or takes a second, and the database takes all that was accepted."""

from __future__ import annotations

import random
import time
from collections.abc import AsyncIterator

import asyncpg
import httpx
import pytest

from shared.settings import Settings
from tests.contract.adapters.providers import NOW, PROVIDERS, Provider, Signing
from tests.contract.adapters.recorded import recorded
from tests.fuzz.targets import EVENTS, MEDIA
from tests.fuzz.words import WORDS, seeds
from tests.ingest_app import Ingest, running_ingest
from tests.integration.test_providers import an_account

BODIES = 25
RECORDED = recorded()


@pytest.fixture
async def ingest(pool: asyncpg.Pool, settings: Settings) -> AsyncIterator[Ingest]:
    async with running_ingest(pool, settings) as running:
        running.clock.time = NOW
        yield running


def damaged(body: bytes, chance: random.Random) -> bytes:
    """Replace, cut out or repeat a few pieces of `body`."""
    for _ in range(chance.randint(1, 4)):
        at = chance.randint(0, len(body))
        what = chance.choice(
            (b"", chance.choice(WORDS), chance.randbytes(3), body[at : at + 40] * chance.randint(2, 50))
        )
        body = body[:at] + what + body[at + chance.randint(0, 8) :]
    return body


async def checked(ingest: Ingest, path: str, body: bytes, headers: list[tuple[str, str]]) -> httpx.Response:
    raw = [(name.encode("latin-1"), value.encode("latin-1", "replace")) for name, value in headers]
    began = time.thread_time()
    response = await ingest.client.post(path, content=body, headers=raw)
    assert time.thread_time() - began < 1.0, body[:300]
    assert response.status_code < 500, (response.text, body[:300])
    return response


async def test_any_delivery_is_taken_kept_or_refused(ingest: Ingest) -> None:
    for provider in PROVIDERS.values():
        await take_any_delivery(ingest, provider)


async def take_any_delivery(ingest: Ingest, provider: Provider) -> None:
    chance = random.Random(provider.name)
    path = await an_account(ingest, provider)
    signings = [record.signing for record in RECORDED if record.provider is provider]
    answered = set()
    for number in range(BODIES):
        signing = chance.choice(signings)
        media = signing.content_type if number % 4 else chance.choice(MEDIA)
        try:
            request = provider.sign(Signing(damaged(signing.body, chance), media), provider.secrets[0])
        except (UnicodeError, IndexError):
            continue
        query = request.query.encode("latin-1", "replace").decode("latin-1")
        response = await checked(ingest, f"{path}?{query}", request.body, list(request.headers.items()))
        answered.add(response.status_code)
    assert answered & {200, 202}, f"{provider.name}: some of it is taken"


async def test_any_events_are_taken_or_refused(ingest: Ingest) -> None:
    chance, posted = random.Random(1), [seed[4:] for seed in seeds("events")]
    answered = set()
    for number in range(10 * BODIES):
        body = chance.choice(posted)
        if number % 5:
            body = damaged(body, chance)
        if number % 3 == 0:
            body = b"[" + body + b"," + damaged(body, chance) + b"]"
        media = EVENTS[1] if number % 3 == 0 else chance.choice(EVENTS)
        headers = [("authorization", f"Bearer {ingest.keys['events:write']}"), ("content-type", media)]
        if number % 4 == 0:
            word = chance.choice(WORDS).decode("latin-1").replace("\r", "").replace("\n", "").replace("\0", "")
            headers += [("ce-specversion", "1.0"), ("ce-id", word), ("ce-source", "/a"), ("ce-type", word)]
        answered.add((await checked(ingest, "/v1/events", body, headers)).status_code)
    assert {202, 400, 422} <= answered
