"""The conversation service: events in, timelines out."""

from __future__ import annotations

from contextlib import AsyncExitStack
from datetime import timedelta
from functools import partial

from fastapi import APIRouter, Depends

from services.conversation.auditing import watch_for_ever
from services.conversation.batch import Limits
from services.conversation.console import console_router
from services.conversation.consumer import GROUP, InboundConsumer
from services.conversation.erasure.retention import forget_for_ever
from services.conversation.lane import Lane
from services.conversation.metrics import ConversationMetrics, LedgerMetrics
from services.conversation.routes.attachments import attachments_router
from services.conversation.routes.conversations import conversations_router
from services.conversation.routes.customers import customers_router
from services.conversation.routes.erasing import erasing_router
from services.conversation.routes.identity import identity_router
from services.conversation.routes.joining import joining_router
from services.conversation.routes.parameters import writable
from services.conversation.routes.policy import policy_router
from services.conversation.routes.search import search_router
from services.conversation.routes.stream import stream_router
from services.conversation.routes.visitor_stream import visitor_stream_router
from services.conversation.search import Indexer
from services.conversation.slices import Slices
from services.conversation.streaming import Tail
from services.conversation.sweeping import Sweeper
from services.conversation.visitors import Visitors
from services.conversation.webhooks.app import build_webhooks
from shared.database.statistics import analyse_for_ever
from shared.entry_ids import entry_secret
from shared.log.protocol import INBOUND, TIMELINE
from shared.log.record_keys import forget_for_ever as forget_keys
from shared.log.runner import Runner, RunnerSettings
from shared.service import Platform, Service

GAP_S = 0.01
"""From one small batch to the next, so that in dense traffic a batch takes several events."""
STREAM_MEMORY_S = 7 * 86_400.0
"""How long a stream can be resumed, in seconds."""


async def build(platform: Platform, stack: AsyncExitStack) -> Service:
    """Build the service: the consumer of the inbound topic, the agent API and the agent's page."""
    settings = platform.settings
    metrics = ConversationMetrics(platform.registry)
    lane = Lane(platform, metrics)
    limits = Limits(settings.lane_leaves, settings.lane_entries)
    consumer = InboundConsumer(platform.log, platform.clock, entry_secret(platform.secret_key), lane, limits)
    slices = Slices(platform, metrics)
    runner = Runner(
        platform.log,
        platform.pool,
        GROUP,
        INBOUND,
        consumer,
        emits=(TIMELINE,),
        settings=RunnerSettings(
            batch_max_records=settings.batch_max_records, rejection_limit=settings.rejection_limit, gap_s=GAP_S
        ),
        metrics=platform.log_metrics,
        clock=platform.clock,
    )
    stack.callback(runner.stop)
    platform.precedence.claim(lambda: runner.behind)
    tail = Tail(platform.pool)
    router = APIRouter(dependencies=[Depends(writable)])
    parts = (customers_router, attachments_router, conversations_router, joining_router, identity_router)
    for part in (*parts, erasing_router, console_router):
        router.include_router(part(platform))
    router.include_router(policy_router(platform, slices))
    indexer = Indexer(platform.pool, platform.precedence.taken)
    router.include_router(search_router(platform, indexer))
    router.include_router(stream_router(platform, tail))
    visitors = Visitors(platform.pool, tail)
    stack.callback(visitors.close)
    router.include_router(visitor_stream_router(platform, visitors))
    forgetting = []
    if settings.forget_after_s is not None:
        forgetting.append(partial(forget_for_ever, platform, timedelta(seconds=settings.forget_after_s)))
    if settings.kafka is not None:
        forgetting.append(partial(forget_keys, platform.pool, timedelta(seconds=settings.log_retention_s)))
    webhooks = await build_webhooks(platform, stack)
    router.include_router(webhooks.router)
    return Service(
        name="conversation",
        router=router,
        background=(
            runner.run,
            tail.run,
            slices.run,
            lane.run,
            partial(tail.prune_for_ever, STREAM_MEMORY_S),
            indexer.run,
            Sweeper(platform).run,
            partial(watch_for_ever, platform, LedgerMetrics(platform.registry)),
            partial(analyse_for_ever, platform.pool, ("conversation", "privacy")),
            *forgetting,
            *webhooks.background,
        ),
        ready=(runner.ready, *webhooks.ready),
        pages={"customers on one line": "/console"},
    )
