"""The metrics service as a test sees it: the real application over the real PostgreSQL, called in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import asyncpg
import httpx
from fastapi import FastAPI
from prometheus_client import CollectorRegistry

from services.metrics import app as metrics
from services.metrics.consumer import MetricsConsumer
from shared.auth import Authenticator
from shared.events import TimelineRecord
from shared.keys import create_key
from shared.log.metrics import LogMetrics
from shared.log.postgres import postgres_log
from shared.service import Platform, Service
from shared.settings import Settings
from shared.web import create_app

NOW = datetime(2026, 3, 6, 12, 0, tzinfo=UTC)


class StillClock:
    """A clock that stands still until it is set."""

    def __init__(self, now: datetime = NOW) -> None:
        self.time = now

    def now(self) -> datetime:
        return self.time


@dataclass
class Metrics:
    """A metrics service: `get` asks it with a key, `take` gives it timeline records."""

    app: FastAPI
    client: httpx.AsyncClient
    platform: Platform
    clock: StillClock
    keys: Mapping[str, str]
    service: Service
    consumer: MetricsConsumer = field(default_factory=MetricsConsumer)

    async def take(self, records: Iterable[TimelineRecord]) -> None:
        """Do one batch."""
        async with self.platform.pool.acquire() as connection, connection.transaction():
            await self.consumer.apply(connection, records)

    async def get(self, path: str, key: str | None = "t1", accept: str | None = None, **params: Any) -> httpx.Response:
        """GET with the key named."""
        headers = {"authorization": f"Bearer {self.keys[key]}"} if key else {}
        if accept:
            headers["accept"] = accept
        return await self.client.get(path, params=params, headers=headers)

    async def put(self, path: str, body: Any, key: str | None = "t1") -> httpx.Response:
        """PUT JSON with the key named."""
        headers = {"authorization": f"Bearer {self.keys[key]}"} if key else {}
        return await self.client.put(path, json=body, headers=headers)

    async def kpi(self, kpi: str, **params: Any) -> dict[str, Any]:
        """GET a KPI that must be answered 200."""
        found = await self.get(f"/v1/kpis/{kpi}", **params)
        assert found.status_code == 200, found.text
        return dict(found.json())


@asynccontextmanager
async def running_metrics(pool: asyncpg.Pool, settings: Settings, now: datetime = NOW) -> AsyncIterator[Metrics]:
    """Run the metrics service on `pool`, without its loops; tenants t1 and t2 have admin keys."""
    async with AsyncExitStack() as stack:
        log = await stack.enter_async_context(postgres_log(pool, retention=None))
        clock, registry = StillClock(now), CollectorRegistry()
        platform = Platform(
            settings=settings,
            clock=clock,
            pool=pool,
            log=log,
            auth=Authenticator(pool),
            registry=registry,
            log_metrics=LogMetrics(registry),
            secret_key=bytes(range(32)),
        )
        service = await metrics.build(platform, stack)
        app = create_app(platform, [replace(service, background=())])
        transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
        client = await stack.enter_async_context(httpx.AsyncClient(transport=transport, base_url="http://metrics.test"))
        async with pool.acquire() as connection:
            keys = {
                "t1": await create_key(connection, "t1", ["admin"]),
                "t2": await create_key(connection, "t2", ["admin"]),
                "reader": await create_key(connection, "t1", ["kpis:read"]),
                "scraper": await create_key(connection, "t1", ["metrics:read"]),
                "writer": await create_key(connection, "t1", ["events:write"]),
            }
        yield Metrics(app, client, platform, clock, keys, service)
