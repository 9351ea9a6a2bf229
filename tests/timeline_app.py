"""Ingest and conversation in this process on a real database: post events, read timelines."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import Any

import asyncpg
import httpx
from fastapi import FastAPI
from prometheus_client import CollectorRegistry

from services.conversation import app as conversation
from services.ingest import app as ingest
from shared.auth import Authenticator
from shared.clock import SystemClock
from shared.keys import create_key
from shared.log.metrics import LogMetrics
from shared.log.open import open_log
from shared.log.postgres import postgres_log
from shared.log.sealed import SealedLog
from shared.service import Platform
from shared.settings import Settings
from shared.web import create_app
from tests.waiting import until

SECRET_KEY = bytes(range(32))
BATCH = "application/cloudevents-batch+json"


@dataclass
class Timelines:
    """A running ingest and conversation service. `keys` are admin keys by tenant."""

    app: FastAPI
    client: httpx.AsyncClient
    platform: Platform
    keys: dict[str, str]
    _numbers: count[int] = field(default_factory=lambda: count(1))

    async def call(
        self, method: str, path: str, *, tenant: str = "acme", json: Any = None, **params: Any
    ) -> httpx.Response:
        given = {name: value for name, value in params.items() if value is not None}
        headers = {"authorization": f"Bearer {self.keys[tenant]}"}
        return await self.client.request(method, path, params=given, json=json, headers=headers)

    async def get(self, path: str, *, tenant: str = "acme", **params: Any) -> Any:
        """GET and return the JSON of a 200."""
        answer = await self.call("GET", path, tenant=tenant, **params)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def post(self, *events: dict[str, Any], tenant: str = "acme") -> None:
        """Post events and wait until each is on a timeline."""
        headers = {"authorization": f"Bearer {self.keys[tenant]}", "content-type": BATCH}
        answer = await self.client.post("/v1/events", json=list(events), headers=headers)
        assert answer.status_code == 202, answer.text
        for event in events:
            await until(partial(self._is_on_timeline, event, tenant), f"{event['id']} on a timeline")

    async def _is_on_timeline(self, event: dict[str, Any], tenant: str) -> bool:
        status = (await self.status(event, tenant))["status"]
        assert status in ("accepted", "on_timeline")
        return status == "on_timeline"

    async def status(self, event: dict[str, Any], tenant: str = "acme") -> dict[str, Any]:
        found: dict[str, Any] = await self.get(
            "/v1/events/status", tenant=tenant, source=event["source"], id=event["id"]
        )
        return found

    async def customer(self, handle: str, tenant: str = "acme") -> dict[str, Any] | None:
        """Return the customer with this handle, or None."""
        found = (await self.get("/v1/customers", tenant=tenant, handle=handle))["customers"]
        return found[0] if found else None

    def message(self, at: str, *handles: str, type: str = "message.received", **data: Any) -> dict[str, Any]:
        """One event of the day 2026-03-02 at `at` (HH:MM:SS), from `kind:value` handles."""
        given = [dict(zip(("kind", "value"), handle.split(":", 1), strict=True)) for handle in handles]
        data = {"channel": "chat", "text": f"said at {at}", **data}
        if given:
            data["customer"] = {"handles": given, **data.get("customer", {})}
        return {
            "specversion": "1.0",
            "id": f"e{next(self._numbers)}",
            "source": f"/{data['channel']}/acme",
            "type": f"threadline.{type}",
            "time": f"2026-03-02T{at}Z",
            "data": data,
        }


@asynccontextmanager
async def running_timelines(
    pool: asyncpg.Pool, settings: Settings, *, sealed: bool = False
) -> AsyncIterator[Timelines]:
    """Run both services on `pool`, consuming the inbound topic; tenants acme and globex have admin keys.

    `sealed`: as on Kafka with THREADLINE_ENCRYPT_LOG. On Kafka itself where the settings name a broker.
    """
    async with AsyncExitStack() as stack:
        if settings.kafka:
            log = await open_log(settings, pool, stack)
        else:
            log = await stack.enter_async_context(postgres_log(pool, retention=None))
            if sealed:
                log = SealedLog(log, pool, SECRET_KEY, seals=True, lasting=True)
        registry = CollectorRegistry()
        platform = Platform(
            settings, SystemClock(), pool, log, Authenticator(pool), registry, SECRET_KEY, LogMetrics(registry)
        )
        services = [await ingest.build(platform, stack), await conversation.build(platform, stack)]
        app = create_app(platform, services)
        client = await stack.enter_async_context(
            httpx.AsyncClient(
                transport=httpx.ASGITransport(app=app, raise_app_exceptions=False), base_url="http://threadline.test"
            )
        )
        async with pool.acquire() as connection:
            keys = {tenant: await create_key(connection, tenant, ["admin"]) for tenant in ("acme", "globex")}
        loops = [asyncio.ensure_future(loop()) for service in services for loop in service.background]
        try:
            yield Timelines(app, client, platform, keys)
        finally:
            for loop in loops:
                loop.cancel()
            await asyncio.gather(*loops, return_exceptions=True)
