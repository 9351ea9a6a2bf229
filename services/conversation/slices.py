"""Beside the stream: what a changed policy may decide otherwise is decided again in slices.

The policy itself is in force at once. Each slice is a transaction of its own under the tenant's lock; between two, the
stream of that tenant has its turn. What is outstanding stands in the database, so it does not matter which process
carries it out, nor when one dies. Source: docs/decisions/0020-policies-in-slices.md
"""

from __future__ import annotations

import asyncio
from enum import Enum
from time import monotonic
from typing import Protocol

import structlog

from services.conversation import tables
from services.conversation.publishing import publish
from services.conversation.update import Outcome, renew_slice
from shared.database.engine import transaction
from shared.database.retrying import tried_again
from shared.entry_ids import entry_secret
from shared.log.protocol import TIMELINE
from shared.service import Platform

LOOK_EVERY_S = 1.0
"""How often each process looks whether something is outstanding."""
COUNT_EVERY_S = 5.0
BUSY_S = 0.02

log = structlog.get_logger("threadline.slices")


class Told(Protocol):
    """Who hears what slices did and how much is outstanding."""

    def count(self, outcome: Outcome) -> None: ...

    def show_outstanding(self, leaves: int) -> None: ...


class Slice(Enum):
    """What came of trying to carry out a slice."""

    DONE = "one is carried out, and more may be outstanding"
    BUSY = "another is at it"
    NONE_LEFT = "nothing is outstanding"


class Slices:
    """Carries out slices, one at a time for each tenant over all processes."""

    def __init__(self, platform: Platform, told: Told) -> None:
        self._platform = platform
        self._secret = entry_secret(platform.secret_key)
        self._entries = platform.settings.policy_slice
        self._told = told
        self._counted_at = -COUNT_EVERY_S

    async def carry_out(self, tenant: str, within_s: float) -> bool:
        """Carry out what is outstanding of a tenant for up to `within_s` seconds; tell whether nothing is left."""
        until = monotonic() + within_s
        while (came := await self._slice(tenant)) is not Slice.NONE_LEFT:
            if came is Slice.BUSY:
                await asyncio.sleep(BUSY_S)
            if monotonic() > until:
                return False
        return True

    async def run(self) -> None:
        """Carry out whatever is outstanding, for the life of the process. A database that is away is tried again."""
        while True:
            with tried_again(log, "slices wait for the database"):
                while tenants := await tables.renewals.tenants(self._platform.pool):
                    await self._show(tenants)
                    came = [await self._slice(tenant) for tenant in tenants]
                    if Slice.DONE not in came:
                        break
                else:
                    self._told.show_outstanding(0)
            await asyncio.sleep(LOOK_EVERY_S)

    async def _slice(self, tenant: str) -> Slice:
        platform, begun = self._platform, monotonic()
        async with transaction(platform.pool) as connection:
            if not await tables.renewals.alone(connection, tenant):
                return Slice.BUSY
            outcome = await renew_slice(connection, tenant, self._secret, platform.clock.now(), self._entries)
            if outcome is None:
                return Slice.NONE_LEFT
            await publish(platform.log, connection, outcome.records)
        platform.log.wake(TIMELINE)
        self._told.count(outcome)
        # As long a rest as the slice was, so that the stream has at least half of the time.
        await asyncio.sleep(monotonic() - begun)
        return Slice.DONE

    async def _show(self, tenants: list[str]) -> None:
        if monotonic() - self._counted_at >= COUNT_EVERY_S:
            self._told.show_outstanding(await tables.renewals.outstanding(self._platform.pool, tenants))
            self._counted_at = monotonic()
