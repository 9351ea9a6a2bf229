"""`threadline up` killed in mid-stream: nothing acknowledged is lost, nothing counted twice, nothing left running."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from random import Random

import pytest

from tests.faults import traffic
from tests.processes import servers_of, up
from tests.waiting import until

KILLS = 10
SEED = 20_260_601


@pytest.mark.timeout(600)
async def test_ten_kills_at_random_moments_lose_and_double_nothing(open_folder: Path) -> None:
    posted = traffic.events(seed=71, people=110)
    rng = Random(SEED)
    moments = sorted(rng.sample(range(1, len(posted) - traffic.BATCH), KILLS))
    async with up(open_folder) as system:
        process = system.ingest
        poster, posting = await traffic.under_traffic(system, process, posted)
        for moment in moments:
            await poster.reached(moment)
            process.kill()
            await process.start()
        await posting
        await traffic.judge(system, posted)
        assert poster.tries_lost > 0, "no request ever met a dead process: the kills came between the requests"
        assert process.stop() == 0
    await until(lambda: not servers_of(open_folder), "every process that served the folder is gone")


@pytest.mark.timeout(120)
async def test_killed_up_leaves_a_folder_on_which_the_next_one_starts(open_folder: Path) -> None:
    async with up(open_folder) as system:
        process = system.ingest
        for _ in range(3):
            process.kill()
            await process.start()
        assert process.stop() == 0
    await until(lambda: not servers_of(open_folder), "every process that served the folder is gone")


@pytest.mark.timeout(180)
async def test_same_deliveries_twice_over_change_nothing(open_folder: Path) -> None:
    posted = traffic.events(seed=72, people=60)
    async with up(open_folder) as system:
        for _ in range(2):
            _, posting = await traffic.under_traffic(system, system.ingest, posted)
            await posting
        await traffic.judge(system, posted)


@pytest.mark.timeout(300)
async def test_own_database_killed_under_up_comes_back_and_loses_nothing(open_folder: Path) -> None:
    posted = traffic.events(seed=73, people=80)
    async with up(open_folder) as system:
        poster, posting = await traffic.under_traffic(system, system.ingest, posted)
        for moment, how in ((len(posted) // 4, signal.SIGKILL), (len(posted) // 2, signal.SIGINT)):
            await poster.reached(moment)
            os.kill(int((open_folder / "postgres" / "postmaster.pid").read_text().split()[0]), how)
        await posting
        await system.ingest.ready()
        await traffic.judge(system, posted)
