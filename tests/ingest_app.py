"""The ingest service as a test sees it: the real application over the real PostgreSQL log, called in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import asyncpg
import httpx
import orjson
from fastapi import FastAPI
from prometheus_client import CollectorRegistry

from services.ingest import app as ingest
from services.ingest.adapters import ADAPTERS
from services.ingest.adapters.base import Adapter
from services.ingest.published_keys import Fetch, fetch_over_https
from shared.auth import Authenticator
from shared.events import InboundEvent
from shared.keys import create_key
from shared.log.metrics import LogMetrics
from shared.log.postgres import postgres_log
from shared.log.protocol import INBOUND, Log, Outgoing, Position
from shared.service import Platform
from shared.settings import Settings
from shared.web import create_app

NOW = datetime(2026, 3, 3, 12, 0, tzinfo=UTC)
SECRET_KEY = bytes(range(32))

STRUCTURED = "application/cloudevents+json"
BATCH = "application/cloudevents-batch+json"


class StillClock:
    """A clock that stands still until it is set."""

    def __init__(self, now: datetime = NOW) -> None:
        self.time = now

    def now(self) -> datetime:
        return self.time


class SwitchableLog:
    """The real log, with a switch: `error` is raised instead of appending."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self.error: Exception | None = None

    async def append(self, topic: str, records: Sequence[Outgoing]) -> Sequence[Position]:
        if self.error is not None:
            raise self.error
        return await self._log.append(topic, records)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)


@dataclass
class Ingest:
    """A running ingest service: `client` calls it, `keys` are its keys by scope."""

    app: FastAPI
    client: httpx.AsyncClient
    platform: Platform
    log: SwitchableLog
    clock: StillClock
    keys: Mapping[str, str]

    async def post(
        self, content: bytes | object, media_type: str = STRUCTURED, key: str = "events:write", **headers: str
    ) -> httpx.Response:
        """POST /v1/events with a key of the given scope; `headers` with _ for -."""
        body = content if isinstance(content, bytes) else orjson.dumps(content)
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.client.post(
            "/v1/events",
            content=body,
            headers={"authorization": f"Bearer {self.keys[key]}", "content-type": media_type, **given},
        )

    async def status(self, source: str, id: str, key: str = "timeline:read") -> httpx.Response:
        return await self.client.get(
            "/v1/events/status",
            params={"source": source, "id": id},
            headers={"authorization": f"Bearer {self.keys[key]}"},
        )

    async def inbound(self) -> list[InboundEvent]:
        """Return what the inbound topic holds, in order of partitions and offsets."""
        rows = await self.platform.pool.fetch(
            """SELECT r.value FROM log.record AS r JOIN log.partition AS p ON p.id = r.partition_id
               WHERE p.topic = $1 ORDER BY p.partition, r."offset" """,
            self.platform.log.name(INBOUND),
        )
        return [InboundEvent.decode(row["value"]) for row in rows]


@asynccontextmanager
async def running_ingest(
    pool: asyncpg.Pool,
    settings: Settings,
    adapters: Mapping[str, Adapter] = ADAPTERS,
    fetch: Fetch = fetch_over_https,
    **log_options: Any,
) -> AsyncIterator[Ingest]:
    """Run the ingest service on `pool`; tenants acme and globex have keys. `fetch` stands for the web."""
    async with AsyncExitStack() as stack:
        log = SwitchableLog(await stack.enter_async_context(postgres_log(pool, retention=None, **log_options)))
        clock = StillClock()
        registry = CollectorRegistry()
        platform = Platform(
            settings=settings,
            clock=clock,
            pool=pool,
            log=log,
            auth=Authenticator(pool),
            registry=registry,
            log_metrics=LogMetrics(registry),
            secret_key=SECRET_KEY,
        )
        service = await ingest.build(platform, stack, adapters, fetch)
        app = create_app(platform, [replace(service, background=())])
        transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
        client = await stack.enter_async_context(httpx.AsyncClient(transport=transport, base_url="http://ingest.test"))
        yield Ingest(app, client, platform, log, clock, await _keys(pool))


async def _keys(pool: asyncpg.Pool) -> dict[str, str]:
    keys = {}
    async with pool.acquire() as connection:
        for scope in ("events:write", "timeline:read", "kpis:read", "admin"):
            keys[scope] = await create_key(connection, "acme", [scope])
        keys["globex"] = await create_key(connection, "globex", ["events:write", "timeline:read"])
    return keys


def an_event(id: str = "e1", type: str = "threadline.message.received", **data: Any) -> dict[str, Any]:
    """One valid structured event; `data` is put over its own data."""
    return {
        "specversion": "1.0",
        "id": id,
        "source": "/chat/acme",
        "type": type,
        "time": "2026-03-03T08:02:00Z",
        "data": {"channel": "chat", "customer": {"handles": [{"kind": "visitor", "value": "v-1"}]}, **data},
    }
