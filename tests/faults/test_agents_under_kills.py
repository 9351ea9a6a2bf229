"""Agents merge, split, join, erase and change the policy while messages come in and the process is killed."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import httpx
import pytest

from tests.faults import traffic
from tests.kafka_broker import Broker
from tests.processes import System, up
from tests.waiting import until

KILLS = 4
SEEDS = [int(seed) for seed in os.environ.get("THREADLINE_TEST_SEEDS", "85").split(",")]
"""More of them, separated by commas, for a longer attack."""
PAUSE_S = 0.1
POLICIES: list[dict[str, Any]] = [{"open_window_s": 0}, {"degree_limit": 5}, {}]


class Agents:
    """Decides at random about customers and conversations until stopped; `answers` counts (decision, status)."""

    def __init__(self, system: System, seed: int) -> None:
        self.answers: Counter[tuple[str, int]] = Counter()
        self._url, self._key = system.ingest.url, system.key(traffic.TENANT)
        self._chance = Random(seed)

    @asynccontextmanager
    async def at_work(self) -> AsyncIterator[None]:
        working = asyncio.create_task(self._work())
        yield
        working.cancel()
        with suppress(asyncio.CancelledError):
            await working

    def have_answers(self, count: int) -> bool:
        return self.answers.total() >= count

    def have_decided_all(self) -> bool:
        return all(self.answers[what, 200] for what in ("merge", "split", "join", "erase", "policy"))

    async def _work(self) -> None:
        headers = {"authorization": f"Bearer {self._key}"}
        while True:
            try:
                async with httpx.AsyncClient(
                    base_url=self._url, headers=headers, timeout=20, trust_env=False
                ) as client:
                    while True:
                        await self._decide(client)
                        await asyncio.sleep(PAUSE_S)
            except (httpx.HTTPError, KeyError):  # it was killed just then, or is about to start: not JSON we know
                await asyncio.sleep(PAUSE_S)

    async def _decide(self, client: httpx.AsyncClient) -> None:
        people = (await client.get("/v1/customers")).json()["customers"]
        matters = (await client.get("/v1/conversations")).json()["conversations"]
        if len(people) < 3 or len(matters) < 3:
            return
        (one, other), (here, there) = self._chance.sample(people, 2), self._chance.sample(matters, 2)
        handle = self._chance.choice(one["handles"] or [{"kind": "email", "value": "nobody@home.example"}])
        split = {"handles": [f"{handle['kind']}:{handle['value']}"]}
        what, method, path, body = self._chance.choice([
            ("merge", "POST", f"/v1/customers/{one['id']}/merge", {"with": other["id"]}),
            ("merge", "POST", f"/v1/customers/{one['id']}/merge", {"with": other["id"]}),
            ("split", "POST", f"/v1/customers/{one['id']}/split", split),
            ("join", "POST", f"/v1/conversations/{here['id']}/join", {"conversation_id": there["id"]}),
            ("erase", "DELETE", f"/v1/customers/{one['id']}", None),
            ("policy", "PUT", "/v1/identity/policy", self._chance.choice(POLICIES)),
        ])  # fmt: skip
        answer = await client.request(method, path, json=body)
        self.answers[what, answer.status_code] += 1


@pytest.fixture(params=["postgres", "kafka"])
def log_env(request: pytest.FixtureRequest) -> dict[str, str]:
    """The settings that name the log."""
    if request.param == "postgres":
        return {}
    broker: Broker = request.getfixturevalue("own_broker")
    return {"THREADLINE_KAFKA": broker.bootstrap, "THREADLINE_ENCRYPT_LOG": "true"}


@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", SEEDS)
async def test_what_agents_decide_among_kills_leaves_nothing_lost_and_every_number_right(
    open_folder: Path, log_env: dict[str, str], seed: int
) -> None:
    posted = traffic.events(seed=seed, people=70)
    chance = Random(seed)
    moments = sorted(chance.sample(range(1, len(posted) - traffic.BATCH), KILLS))
    async with up(open_folder, log_env) as system:
        agents = Agents(system, seed)
        async with agents.at_work():
            poster, posting = await traffic.under_traffic(system, system.ingest, posted)
            for number, moment in enumerate(moments, start=1):
                await poster.reached(moment)
                await until(partial(agents.have_answers, 4 * number), "some decisions between kills", 120.0)
                if chance.random() < 0.3:
                    assert system.ingest.stop() == 0
                else:
                    system.ingest.kill()
                await system.ingest.start()
            await posting
            await until(agents.have_decided_all, "each kind of decision was made once", 180.0)
        assert not [answer for answer in agents.answers if answer[1] >= 500 and answer[1] != 503], agents.answers
        system.verified()
        # All of it again: what was erased stays erased, what is there stays as it is.
        _, posting = await traffic.under_traffic(system, system.ingest, posted)
        await posting
        system.verified()
