"""A process killed while events are set aside: the next one decides them, and nothing is lost, doubled or half done."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from tests.faults import traffic
from tests.faults.test_policy_under_kills import ask
from tests.processes import up
from tests.waiting import until

KILLS = 4
# So low that every merge and most of what comes late is set aside.
ENV = {"THREADLINE_LANE_LEAVES": "1", "THREADLINE_LANE_ENTRIES": "3"}


async def something_is_aside(folder: Path) -> bool:
    (count,) = await ask(folder, "SELECT count(*) FROM conversation.aside")
    return bool(count)


@pytest.mark.timeout(300)
async def test_kills_while_events_are_set_aside_lose_none_and_leave_none_undecided(open_folder: Path) -> None:
    posted = traffic.events(seed=92, people=90)
    async with up(open_folder, ENV) as system:
        poster, posting = await traffic.under_traffic(system, system.ingest, posted)
        for kill in range(KILLS):
            await poster.reached((kill + 1) * len(posted) // (KILLS + 2))
            await until(partial(something_is_aside, open_folder), "something is set aside", 60.0)
            system.ingest.kill()
            await system.ingest.start()
        await posting
        await traffic.judge(system, posted)
        assert not await something_is_aside(open_folder)
