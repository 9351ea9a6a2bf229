"""Composition root of the ingest service."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import AsyncExitStack
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from itertools import count
from time import monotonic

from fastapi import APIRouter

from services.ingest import attachment_routes
from services.ingest.adapters import ADAPTERS
from services.ingest.adapters.base import Adapter
from services.ingest.channel_routes import add_channel_routes
from services.ingest.channels import Channels
from services.ingest.intake import Intake
from services.ingest.keeping import FORGET_EXPIRED
from services.ingest.limits import Pressure
from services.ingest.metrics import IngestMetrics
from services.ingest.published_keys import Fetch, PublishedKeys, fetch_over_https
from services.ingest.routes import EventsEndpoint, add_events_routes
from services.ingest.webhooks import MAX_BODY_BYTES, WebhookEndpoint, add_webhook_routes
from services.ingest.widget import add_widget_routes
from shared.accepted import TAKER, settle
from shared.database.engine import translated
from shared.database.statistics import analyse_for_ever
from shared.errors import DatabaseUnavailable
from shared.log.protocol import INBOUND
from shared.service import Platform, Service
from shared.telemetry import logger

SETTLE_EVERY_S = 0.5
IDLE_TURNS = 60


async def build(
    platform: Platform,
    stack: AsyncExitStack,
    adapters: Mapping[str, Adapter] = ADAPTERS,
    fetch: Fetch = fetch_over_https,
) -> Service:
    """Return the ingest service: its routes, and the loop that keeps the memory of accepted events short.

    `fetch` gets what providers publish on the web.
    """
    metrics = IngestMetrics(platform.registry)
    pressure = Pressure(platform.settings.ingest_pressure_bytes)
    metrics.held_bytes.set_function(lambda: pressure.held_bytes)
    intake = Intake(platform.log, platform.pool, platform.accepted, metrics, platform.secret_key)
    channels = Channels(platform.pool, platform.secret_key)
    # One flat router: each level of nesting is searched for every request.
    router = APIRouter()
    endpoint = EventsEndpoint(platform, intake, metrics, pressure)
    add_events_routes(router, endpoint, platform.settings.topic_prefix, _version())
    attachment_routes.add_attachment_routes(router, platform, pressure, metrics)
    keys = PublishedKeys(fetch)
    webhooks = WebhookEndpoint(platform, channels, adapters, intake, metrics, pressure, keys)
    doors = add_webhook_routes(router, webhooks)
    add_channel_routes(router, platform, channels, adapters)
    add_widget_routes(router, channels)
    # A route is compared with every request for one behind it: the two that take nearly all of them come first.
    router.routes.sort(key=lambda route: (getattr(route, "methods", None), getattr(route, "path", "")) not in DOORS)
    return Service(
        name="ingest",
        router=router,
        background=[
            partial(settle_for_ever, platform),
            partial(analyse_for_ever, platform.pool, ("ingest", "log")),
        ],
        body_limits={"/v1/webhooks/": MAX_BODY_BYTES, attachment_routes.PATH: attachment_routes.MAX_BODY_BYTES},
        doors=doors,
    )


DOORS = ({"POST"}, "/v1/events"), ({"POST"}, "/v1/webhooks/{provider}/{token}")


async def settle_for_ever(platform: Platform) -> None:
    """Write down what waits too long and forget what is done, twice a second; a database away is waited for."""
    name = platform.log.name(INBOUND)
    for turn in count():
        await asyncio.sleep(SETTLE_EVERY_S)
        # An idle process looks now and then too: one that was killed may have left rows that are done.
        if not len(platform.accepted) and turn % IDLE_TURNS:
            continue
        try:
            await settle(platform.pool, platform.accepted, TAKER, name, monotonic())
            if turn % IDLE_TURNS == 0:
                with translated():
                    await platform.pool.execute(FORGET_EXPIRED, platform.clock.now())
        except DatabaseUnavailable as error:
            logger().warning("accepted events cannot be written down", error=str(error))


def _version() -> str:
    try:
        return version("threadline")
    except PackageNotFoundError:
        return "0"
