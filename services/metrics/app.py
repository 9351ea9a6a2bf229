"""Composition root of the metrics service."""

from __future__ import annotations

from contextlib import AsyncExitStack
from functools import partial

from fastapi import APIRouter

from services.metrics.checking import check_for_ever
from services.metrics.consumer import MetricsConsumer
from services.metrics.dashboard import dashboard_router
from services.metrics.entries import micros
from services.metrics.exposition import encode, snapshot
from services.metrics.packing import pack_for_ever
from services.metrics.revision import reevaluate_for_ever
from services.metrics.routes import kpi_router
from services.metrics.rules_routes import rules_router
from shared.auth import Principal
from shared.database.statistics import analyse_for_ever
from shared.log.protocol import TIMELINE
from shared.log.runner import Runner, RunnerSettings
from shared.scrape import Shown, scrape_router
from shared.service import Platform, Service

GROUP = "metrics"
BATCH_MAX_RECORDS = 5000
GAP_S = 0.1
"""Between two small batches: numbers may be this much behind, and what they cost beside other work falls by half."""


async def build(platform: Platform, stack: AsyncExitStack) -> Service:
    """Return the metrics service: its routes, and the consumer of the timeline topic."""
    consumer = MetricsConsumer()
    runner = Runner(
        platform.log,
        platform.pool,
        GROUP,
        TIMELINE,
        consumer.handle,
        settings=RunnerSettings(
            batch_max_records=BATCH_MAX_RECORDS,
            rejection_limit=platform.settings.rejection_limit,
            gap_s=GAP_S,
            gives_way=platform.precedence.taken,
        ),
        metrics=platform.log_metrics,
        clock=platform.clock,
    )
    stack.callback(runner.stop)

    async def revise() -> None:
        await reevaluate_for_ever(platform.pool, platform.clock)

    async def check() -> None:
        await check_for_ever(platform.pool, platform.clock)

    async def pack() -> None:
        await pack_for_ever(platform.pool, platform.clock)

    router = APIRouter()
    router.include_router(kpi_router(platform))
    router.include_router(rules_router(platform))
    router.include_router(scrape_router(platform, "KPIs and service metrics for Prometheus", _with_kpis(platform)))
    router.include_router(dashboard_router(platform))
    return Service(
        name="metrics",
        router=router,
        background=[runner.run, revise, check, pack, partial(analyse_for_ever, platform.pool, ("metrics",))],
        ready=[runner.ready],
        pages={"KPIs": "/ops"},
        scraped=True,
    )


def _with_kpis(platform: Platform) -> Shown:
    """Show the KPIs of the key's tenant beside this process's metrics."""

    async def shown(principal: Principal | None, accept: str) -> tuple[bytes, str]:
        now = micros(platform.clock.now())
        kpis = await snapshot(platform.pool, principal.tenant, now) if principal else None
        return encode(kpis, platform.registry, accept)

    return shown
