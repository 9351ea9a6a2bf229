"""Timelines go before what is made of them: KPIs wait while the stream of the same process is behind."""

from __future__ import annotations

import asyncio

import asyncpg

from shared.log.offsets import lag
from shared.log.protocol import TIMELINE, Outgoing
from shared.settings import Settings
from tests.metrics_app import Metrics, running_metrics
from tests.timeline_app import running_timelines
from tests.waiting import until


async def test_kpis_give_way_to_timelines(pool: asyncpg.Pool, settings: Settings) -> None:
    first = True
    async with running_metrics(pool, settings) as metrics:
        metrics.platform.precedence.claim(lambda: first)
        consuming = asyncio.ensure_future(metrics.service.background[0]())
        try:
            await metrics.platform.log.append(TIMELINE, [Outgoing(b"1", b"no line")])
            await until(lambda: _all_read(metrics, pool), "the first is read")
            await metrics.platform.log.append(TIMELINE, [Outgoing(b"2", b"no line")])
            await asyncio.sleep(0.3)
            assert not await _all_read(metrics, pool)
            first = False
            await until(lambda: _all_read(metrics, pool), "the second is read")
        finally:
            consuming.cancel()
            await asyncio.gather(consuming, return_exceptions=True)


async def _all_read(metrics: Metrics, pool: asyncpg.Pool) -> bool:
    return not any((await lag(pool, metrics.platform.log, "metrics", TIMELINE)).values())


async def test_timelines_go_first_while_many_events_wait(pool: asyncpg.Pool, settings: Settings) -> None:
    async with running_timelines(pool, settings) as timelines:
        told = list[bool]()

        async def watch() -> None:
            while True:
                told.append(timelines.platform.precedence.taken())
                await asyncio.sleep(0)

        watching = asyncio.create_task(watch())
        await timelines.post(timelines.message("09:00:00", "email:ann@example.com"))
        assert not any(told)
        messages = [timelines.message("09:00:01", f"email:{number}@example.com") for number in range(400)]
        await timelines.post(*messages)
        watching.cancel()
        assert any(told)
        await until(lambda: not timelines.platform.precedence.taken(), "nobody goes first any more")
