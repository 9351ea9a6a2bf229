"""Three processes on Kafka and PostgreSQL: each killed, frozen or cut off from what it stands on, in mid-stream."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from random import Random

import pytest

from shared.database.embedded import Server
from tests.conftest import needs
from tests.faults import traffic
from tests.faults.conftest import Ground
from tests.processes import Process, apart, stopped
from tests.waiting import until

pytestmark = [needs("kafka"), pytest.mark.timeout(600)]

KILLS = 5


@pytest.mark.parametrize("victim", ["ingest", "conversation", "metrics"])
async def test_one_service_killed_again_and_again_costs_nothing(ground: Ground, open_folder: Path, victim: str) -> None:
    posted = traffic.events(seed=81, people=90)
    moments = sorted(Random(victim).sample(range(1, len(posted) - traffic.BATCH), KILLS))
    async with apart(open_folder, ground.env) as system:
        poster, posting = await traffic.under_traffic(system, system.ingest, posted)
        process: Process = getattr(system, victim)
        for moment in moments:
            await poster.reached(moment)
            process.kill()
            await process.start()
        await posting
        await traffic.judge(system, posted)


async def test_frozen_process_that_wakes_too_late_changes_nothing(ground: Ground, open_folder: Path) -> None:
    posted = traffic.events(seed=82, people=80)
    half = len(posted) // 2
    zombie = Process(("conversation", "--data", str(open_folder)), open_folder, ground.env)
    async with apart(open_folder, ground.env) as system:
        try:
            await zombie.start()
            poster, posting = await traffic.under_traffic(system, system.ingest, posted[:half])
            await poster.reached(half // 2)
            with stopped(zombie):
                await posting
                # What the zombie held is done by the other one while it sleeps.
                system.verified()
            _, posting = await traffic.under_traffic(system, system.ingest, posted[half:])
            await posting
            await zombie.ready()
            await traffic.judge(system, posted)
        finally:
            zombie.stop()


async def test_broker_that_restarts_in_mid_stream_costs_nothing(ground: Ground, open_folder: Path) -> None:
    posted = traffic.events(seed=83, people=80)
    async with apart(open_folder, ground.env) as system:
        poster, posting = await traffic.under_traffic(system, system.ingest, posted)
        await poster.reached(len(posted) // 4)
        ground.broker.kill()
        ground.broker.start()  # back before a caller notices more than a pause
        await poster.reached(len(posted) // 2)
        ground.broker.kill()
        await poster.lost_a_try()  # away until ingest says so
        ground.broker.start()
        await posting
        await traffic.judge(system, posted)


async def _end_and_await_the_next(server: Server, how: signal.Signals) -> None:
    """End the database. Ingest goes on without it, so traffic alone would not tell when there is one again."""
    ended = server.pid
    os.kill(ended, how)
    await until(lambda: server.pid != ended, "the database is started again", limit_s=60.0)


async def test_database_that_restarts_in_mid_stream_costs_nothing(ground: Ground, open_folder: Path) -> None:
    posted = traffic.events(seed=84, people=80)
    async with apart(open_folder, ground.env) as system:
        poster, posting = await traffic.under_traffic(system, system.ingest, posted)
        for moment, how in ((len(posted) // 4, signal.SIGINT), (len(posted) // 2, signal.SIGKILL)):
            await poster.reached(moment)
            await _end_and_await_the_next(ground.server, how)
        await posting
        for process in system.processes:
            await process.ready()
        await traffic.judge(system, posted)
