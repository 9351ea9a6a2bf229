"""The ledger judges what there was when the check began, and nothing that comes while it runs."""

from __future__ import annotations

from time import monotonic
from typing import Any

import asyncpg
import pytest

from services.cli import ledger
from shared.entry_ids import entry_secret
from shared.settings import Settings
from tests.timeline_app import Timelines, running_timelines


class BusyLog:
    """A log in which something new is on its timeline whenever it is asked where it begins or ends."""

    def __init__(self, timelines: Timelines) -> None:
        self._timelines = timelines
        self._log = timelines.platform.log
        self.came = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    async def _something_comes(self) -> None:
        # Earlier than all before it: it founds the conversation anew, and what followed from the last founder is gone.
        self.came += 1
        await self._timelines.post(self._timelines.message(f"09:{59 - self.came:02d}:00", "crm:ann", contact_id="c1"))

    async def begin_offsets(self, topic: str) -> Any:
        await self._something_comes()
        return await self._log.begin_offsets(topic)

    async def end_offsets(self, topic: str) -> Any:
        found = await self._log.end_offsets(topic)
        await self._something_comes()
        return found


async def test_what_comes_while_the_ledger_is_checked_is_no_fault(
    pool: asyncpg.Pool, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Metrics does not run here; whoever queues for webhooks reads the same topic.
    monkeypatch.setattr(ledger, "METRICS_GROUP", "webhooks")

    async def published() -> None: ...

    async with running_timelines(pool, settings) as timelines:
        await timelines.post(timelines.message("10:00:00", "crm:ann", contact_id="c1"))
        log, secret = BusyLog(timelines), entry_secret(timelines.platform.secret_key)
        faults, counts = await ledger.check(pool, log, secret, monotonic() + 60, lambda _: None, published)
        assert [line for fault in faults for line in fault.lines()] == []
        assert log.came >= 6 and counts["entries"] > counts["records"]
