"""A process killed while it carries out a changed policy: the next one goes on where that was."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest

from shared import directory
from tests.faults import traffic
from tests.processes import System, up
from tests.waiting import until

ENV = {"THREADLINE_POLICY_SLICE": "100"}
POLICIES: list[dict[str, Any]] = [{"open_window_s": 0, "degree_limit": 1}, {"limits": {"contact": 1}}, {}]
OUTSTANDING = """
SELECT count(*) FILTER (WHERE l.renewal < s.renewal) AS left, count(*) FILTER (WHERE l.renewal = s.renewal) AS done
FROM conversation.leaf l JOIN conversation.tenant_state s USING (tenant_id) WHERE tenant_id = $1 AND s.renewal = $2
"""


async def put(system: System, policy: dict[str, Any]) -> None:
    """Ask for a policy; the process may be dead before it answers."""
    headers = {"authorization": f"Bearer {system.key(traffic.TENANT)}"}
    with suppress(httpx.HTTPError):
        async with httpx.AsyncClient(base_url=system.ingest.url, timeout=20, trust_env=False) as client:
            answer = await client.put("/v1/identity/policy", json=policy, headers=headers)
            assert answer.status_code == 200, answer.text


async def ask(folder: Path, query: str, *arguments: object) -> asyncpg.Record:
    url = directory.offered(folder)
    assert url is not None
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchrow(query, *arguments)
    finally:
        await connection.close()


async def in_the_midst(folder: Path, version: int) -> bool:
    """Tell whether some of what a policy touches is carried out, and some is not."""
    left, done = await ask(folder, OUTSTANDING, traffic.TENANT, version)
    return bool(left and done)


async def nothing_is_outstanding(folder: Path) -> bool:
    (count,) = await ask(folder, "SELECT count(*) FROM conversation.tenant_state WHERE renewed < renewal")
    return not count


@pytest.mark.timeout(300)
async def test_kills_between_slices_leave_nothing_undone_and_the_last_policy_everywhere(open_folder: Path) -> None:
    posted = traffic.events(seed=91, people=90)
    half = len(posted) // 2
    async with up(open_folder, ENV) as system:
        _, posting = await traffic.under_traffic(system, system.ingest, posted[:half])
        await posting
        system.verified()
        _, posting = await traffic.under_traffic(system, system.ingest, posted[half:])
        for version, policy in enumerate(POLICIES, start=1):
            asked = asyncio.create_task(put(system, policy))
            await until(partial(in_the_midst, open_folder, version), "some slices are carried out, some are not", 90.0)
            system.ingest.kill()
            await asked
            await system.ingest.start()
        await posting
        await until(partial(nothing_is_outstanding, open_folder), "all is carried out", 120.0)
        # The last policy is the one that the truth assumes, so all has to be as if there had been no other.
        await traffic.judge(system, posted)
