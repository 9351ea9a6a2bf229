"""Outgoing webhooks, put together: the consumer of the timeline topic, the sender, their API."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from fastapi import APIRouter

from services.conversation.routes.webhooks import webhooks_router
from services.conversation.webhooks.addresses import networks
from services.conversation.webhooks.consumer import GROUP, TimelineConsumer
from services.conversation.webhooks.endpoints import Endpoints
from services.conversation.webhooks.metrics import WebhookMetrics
from services.conversation.webhooks.sender import Sender, SenderSettings
from services.conversation.webhooks.transport import open_transport
from shared.errors import SetupError
from shared.log.protocol import TIMELINE
from shared.log.runner import Runner, RunnerSettings
from shared.service import Platform, Ready

LEASE_BEYOND_TIMEOUT_S = 10.0
"""A post ends at its time-out; what follows is one small transaction, which gets this long."""


@dataclass(frozen=True, slots=True)
class Webhooks:
    """What the conversation service runs for outgoing webhooks."""

    router: APIRouter
    background: Sequence[Callable[[], Awaitable[Any]]]
    ready: Sequence[Ready]


async def build_webhooks(platform: Platform, stack: AsyncExitStack) -> Webhooks:
    """Build it. Raises SetupError where the setting of allowed networks cannot be read."""
    settings = platform.settings
    try:
        allowed = networks(settings.webhook_allowed_networks)
    except ValueError as error:
        raise SetupError(f"THREADLINE_WEBHOOK_ALLOWED_NETWORKS: {error}") from None
    transport = await stack.enter_async_context(open_transport(allowed, settings.webhook_timeout_s))
    endpoints = Endpoints(platform.pool, platform.secret_key, platform.clock)
    sending = SenderSettings(settings.webhook_timeout_s + LEASE_BEYOND_TIMEOUT_S, settings.webhook_retention_s)
    sender = Sender(
        platform.pool, endpoints, transport, platform.clock, WebhookMetrics(platform.registry), sending, _version()
    )
    consumer = TimelineConsumer(sender.wake, platform.precedence.taken)
    runner = Runner(
        platform.log,
        platform.pool,
        GROUP,
        TIMELINE,
        consumer,
        settings=RunnerSettings(
            batch_max_records=settings.batch_max_records,
            rejection_limit=settings.rejection_limit,
            gap_s=consumer.gap_s,
            gives_way=consumer.gives_way,
        ),
        metrics=platform.log_metrics,
        clock=platform.clock,
    )
    stack.callback(runner.stop)
    router = webhooks_router(endpoints, sender, allowed, platform.clock)
    return Webhooks(router, (runner.run, sender.run, sender.watch), (runner.ready,))


def _version() -> str:
    try:
        return version("threadline")
    except PackageNotFoundError:
        return "0"
