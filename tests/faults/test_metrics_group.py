"""Three metrics processes on Kafka that are killed in turn while traffic goes on: no double, no gap."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.conftest import needs
from tests.faults import traffic
from tests.faults.conftest import Ground
from tests.processes import Process, apart

pytestmark = [needs("kafka"), pytest.mark.timeout(1800)]

KILLS = int(os.environ.get("THREADLINE_TEST_KILLS", "3"))
"""A long run by hand: THREADLINE_TEST_KILLS=20."""

PEOPLE = 20 * KILLS


async def test_three_metrics_processes_killed_in_turn_count_everything_once(ground: Ground, open_folder: Path) -> None:
    posted = traffic.events(seed=85, people=PEOPLE)
    moments = [len(posted) * (number + 1) // (KILLS + 1) for number in range(KILLS)]
    others = [Process(("metrics", "--data", str(open_folder)), open_folder, ground.env) for _ in range(2)]
    async with apart(open_folder, ground.env) as system:
        members = [system.metrics, *others]
        try:
            for one in others:
                await one.start()
            poster, posting = await traffic.under_traffic(system, system.ingest, posted)
            for number, moment in enumerate(moments):
                await poster.reached(moment)
                victim = members[number % len(members)]
                await victim.ready()
                victim.kill()
                victim.spawn()
            await posting
            for one in members:
                await one.ready()
            await traffic.judge(system, posted)
            for one in members:
                assert assignments(one) > 1, f"{one.output.name}: the group was never divided anew with it"
        finally:
            for one in others:
                one.stop()


def assignments(process: Process) -> int:
    """Return how often a process was given partitions, over all its lives."""
    return process.output.read_text().count("partitions assigned")
