"""Keys that a provider publishes on the web, by which its deliveries are verified: fetched, kept, and renewed in time.

Two documents, both over https: OpenID metadata, which says where the keys are, and the keys (a JSON Web Key Set). What
cannot be fetched now may be later, so it is Retryable: a delivery is then neither taken nor refused.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from time import monotonic
from typing import Any

import httpx
import orjson

from services.ingest.adapters.base import Account, Adapter, KeySource, RawRequest, WithPublishedKeys
from shared.errors import Retryable
from shared.telemetry import logger

FRESH_S = 86_400.0
"""Keys are asked for again once a day, as Microsoft asks of everybody."""
STALE_S = 5 * 86_400.0
"""While their place is away, keys that were good stay good for so long."""
AGAIN_S = 60.0
"""A token with a key that is not among them makes us look again, at most so often: anybody may write such a token."""
BACK_OFF_S = 10.0
"""After a failure nothing is fetched for so long."""
TIMEOUT_S = 10.0
MAX_BYTES = 1024 * 1024

Fetch = Callable[[str], Awaitable[bytes]]
"""https URL → the document. Raises KeysUnavailable."""


class KeysUnavailable(Retryable):
    """The keys of a provider cannot be fetched now."""


@dataclass(slots=True)
class _Known:
    """What is known of one source. `keys` is None until it was fetched once."""

    keys: dict[str, Any] | None = None
    fetched_s: float = 0.0
    failed_s: float | None = None


class PublishedKeys:
    """The key sets of all sources, shared by all accounts. One per process."""

    def __init__(self, fetch: Fetch, clock_s: Callable[[], float] = monotonic) -> None:
        self._fetch = fetch
        self._clock_s = clock_s
        self._known: dict[str, _Known] = {}
        self._locks: dict[str, asyncio.Lock] = {}

    async def completed(self, adapter: Adapter, request: RawRequest, account: Account) -> Account:
        """Return the account with the keys that `request` has to be verified with. Raises KeysUnavailable."""
        source = adapter.key_source(request, account) if isinstance(adapter, WithPublishedKeys) else None
        return account if source is None else replace(account, keys=await self.of(source))

    async def of(self, source: KeySource) -> dict[str, Any]:
        """Return the JSON Web Key Set of a source. Raises KeysUnavailable where there is none to trust."""
        known = self._known.setdefault(source.metadata_url, _Known())
        if not self._is_due(known, source):
            return known.keys or {}
        async with self._locks.setdefault(source.metadata_url, asyncio.Lock()):
            # Whoever waited here finds what the one before fetched.
            if self._is_due(known, source):
                await self._renew(known, source)
        return known.keys or {}

    def _is_due(self, known: _Known, source: KeySource) -> bool:
        if known.keys is None:
            return True
        age_s = self._clock_s() - known.fetched_s
        return age_s > FRESH_S or (age_s > AGAIN_S and not _has(known.keys, source.key_id))

    async def _renew(self, known: _Known, source: KeySource) -> None:
        now_s = self._clock_s()
        try:
            if known.failed_s is not None and now_s - known.failed_s < BACK_OFF_S:
                raise KeysUnavailable("the provider's keys could not be fetched just now")
            known.keys, known.fetched_s, known.failed_s = await self._fetched(source.metadata_url), now_s, None
        except KeysUnavailable as error:
            if known.failed_s is None or now_s - known.failed_s >= BACK_OFF_S:
                known.failed_s = self._clock_s()
                logger().warning("a provider's keys cannot be fetched", url=source.metadata_url, error=str(error))
            still_good = known.keys is not None and now_s - known.fetched_s < STALE_S
            if not still_good or not _has(known.keys or {}, source.key_id):
                raise

    async def _fetched(self, metadata_url: str) -> dict[str, Any]:
        metadata = await self._document(metadata_url)
        keys_url = metadata.get("jwks_uri")
        if not isinstance(keys_url, str) or not keys_url.startswith("https://"):
            raise KeysUnavailable("the provider's metadata names no https address of keys")
        keys = (await self._document(keys_url)).get("keys")
        if not isinstance(keys, list) or not keys:
            raise KeysUnavailable("the provider publishes no keys")
        return {"keys": keys}

    async def _document(self, url: str) -> dict[str, Any]:
        try:
            document = orjson.loads(await self._fetch(url))
        except orjson.JSONDecodeError as error:
            raise KeysUnavailable("what the provider publishes is not JSON") from error
        if not isinstance(document, dict):
            raise KeysUnavailable("what the provider publishes is no JSON object")
        return document


def _has(keys: dict[str, Any], key_id: str | None) -> bool:
    return key_id is None or any(isinstance(key, dict) and key.get("kid") == key_id for key in keys.get("keys", ()))


async def fetch_over_https(url: str) -> bytes:
    """Fetch a document of at most 1 MiB, following nobody elsewhere. Raises KeysUnavailable."""
    body = bytearray()
    try:
        async with (
            asyncio.timeout(TIMEOUT_S),
            httpx.AsyncClient(timeout=TIMEOUT_S) as client,
            client.stream("GET", url, headers={"accept": "application/json"}) as response,
        ):
            if response.status_code != 200:
                raise KeysUnavailable(f"answered {response.status_code}")
            async for chunk in response.aiter_bytes():
                body += chunk
                if len(body) > MAX_BYTES:
                    raise KeysUnavailable(f"larger than {MAX_BYTES} bytes")
    except (httpx.HTTPError, httpx.InvalidURL, TimeoutError) as error:
        raise KeysUnavailable(f"cannot be fetched: {type(error).__name__}") from error
    return bytes(body)
