"""The lane: events whose decision is large are decided beside the stream.

The stream sets such an event aside and goes on (`put_events`); until the lane has decided it, all is as if it had not
come. What the rules give does not depend on the order in which events come, so nothing else does either. What is set
aside stands in the database: it does not matter which process carries it out, nor when one dies.
Source: docs/decisions/0021-large-decisions-beside-the-stream.md
"""

from __future__ import annotations

import asyncio
import traceback
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from time import monotonic
from typing import Protocol

import asyncpg
import structlog

from services.conversation import tables
from services.conversation.beside import Decision, Overtaken, decide_beside, store
from services.conversation.consumer import GROUP, UNSTORABLE
from services.conversation.pace import Pace
from services.conversation.publishing import publish
from services.conversation.tables.aside import Aside
from services.conversation.update import Outcome, decide_aside
from shared.apart import apart
from shared.database.engine import connect, prepare_connection, transaction
from shared.database.retrying import TRIED_AGAIN, tried_again
from shared.entry_ids import entry_secret
from shared.errors import Rejected
from shared.log.protocol import INBOUND, QUARANTINE, TIMELINE, Log, Record
from shared.log.quarantine import Rejection, quarantine
from shared.log.waiting import being_cancelled, end, wait_at_most
from shared.service import Platform

LOOK_EVERY_S = 1.0
"""How often each process looks whether something is set aside, by itself."""
SOON_S = 0.02
"""How often it looks after it set something aside, until that is committed."""
SOON_TIMES = 100
COUNT_EVERY_S = 5.0
TRIES = 3
"""How often a decision may be overtaken before it is made while the tenant is held, lest it never be."""
PATIENCE_S = 900.0
"""Longest that one look and decision may take: a connection that is dead without a word must not stop the lane."""
AWAKE_EVERY_S = 5.0
AGAIN_S = 30.0
"""When what only a bug can have stopped is tried again: another version of the code may be running by then."""

log = structlog.get_logger("threadline.lane")


class Told(Protocol):
    """Who hears what the lane did, how much is set aside and for how long the oldest has been."""

    def count(self, outcome: Outcome) -> None: ...

    def show_aside(self, events: int, oldest_s: float) -> None: ...


class Lane:
    """Decides what is set aside, one worker at a time for each tenant over all processes."""

    def __init__(self, platform: Platform, told: Told) -> None:
        self._platform = platform
        self._secret = entry_secret(platform.secret_key)
        self._told = told
        self._nudged = asyncio.Event()
        self._counted_at = -COUNT_EVERY_S
        self._paces = defaultdict[str, Pace](Pace)
        self._not_before: dict[str, float] = {}
        """Tenant → when to try again, on the monotonic clock, where its lane stands still."""

    def count(self, outcome: Outcome) -> None:
        """Hear what a batch of the stream did, and pass it on; what it set aside is about to be committed."""
        self._told.count(outcome)
        if outcome.aside:
            self._nudged.set()

    async def run(self) -> None:
        """Decide whatever is set aside, for the life of the process. A database that is away is tried again."""
        while True:
            with tried_again(log, "the lane waits for the database"):
                await self._look()
                await self._show()
            await wait_at_most(self._nudged, LOOK_EVERY_S)
            if self._nudged.is_set():
                self._nudged.clear()
                with tried_again(log, "the lane waits for the database"):
                    await self._committed()

    async def drain(self) -> None:
        """Return once nothing is set aside of any tenant. Raises DatabaseUnavailable."""
        while tenants := await tables.aside.tenants(self._platform.pool):
            if not any([await self._step(tenant) for tenant in tenants]):
                await asyncio.sleep(SOON_S)

    async def _committed(self) -> None:
        """Wait until what was set aside is committed, or for as long as that may take."""
        for _ in range(SOON_TIMES):
            if await tables.aside.tenants(self._platform.pool):
                return
            await asyncio.sleep(SOON_S)

    async def _look(self) -> None:
        while tenants := await tables.aside.tenants(self._platform.pool):
            await self._show()
            if not any([await self._safely(tenant) for tenant in tenants]):
                return

    async def _safely(self, tenant: str) -> bool:
        """Do a step; a bug in what one tenant has set aside stops neither this process nor other tenants."""
        if monotonic() < self._not_before.get(tenant, 0.0):
            return False
        try:
            return await self._step(tenant)
        except TRIED_AGAIN:
            raise
        except Exception as error:
            if being_cancelled():
                raise
            # The text of an unknown error may carry somebody's message: the log gets its class and place only.
            where = [f"{frame.name}:{frame.lineno}" for frame in traceback.extract_tb(error.__traceback__)[-6:]]
            log.error("the lane stands still on a bug", tenant=tenant, error=type(error).__name__, where=where)
            self._not_before[tenant] = monotonic() + AGAIN_S
            return False

    async def _step(self, tenant: str) -> bool:
        """Decide some of what a tenant has set aside; tell whether anything was done."""
        async with self._alone(tenant) as alone:
            if not alone:
                return False
            await self._forget_touched(tenant)
            try:
                return await self._decide(tenant)
            except Rejected:
                # Which one it was is only known of one alone; that one goes to quarantine.
                return await self._decide_first(tenant)

    @asynccontextmanager
    async def _alone(self, tenant: str) -> AsyncIterator[bool]:
        """Be the only one who carries out a tenant's lane, and say whether that was possible.

        Two at once would do no harm, only the same work. The transaction is one that a frozen process loses.
        """
        async with transaction(self._platform.pool) as connection:
            if not await tables.aside.alone(connection, tenant):
                yield False
                return
            awake = asyncio.create_task(_keep_awake(connection))
            try:
                yield True
            finally:
                await end(awake)

    async def _forget_touched(self, tenant: str) -> None:
        """Forget what was touched before this step: nobody asks, and where steps fail it would grow for ever."""
        if await tables.touched.any_of(self._platform.pool, tenant):
            async with transaction(self._platform.pool) as connection:
                held = await tables.tenants.lock_tenant(connection, tenant)
                await tables.touched.clear(connection, tenant, held.version)

    async def _decide(self, tenant: str) -> bool:
        pace = self._paces[tenant]
        for _ in range(TRIES):
            begun = monotonic()
            decision = await self._decide_beside(tenant, pace.together)
            if decision is None:
                break
            try:
                await self._store(partial(store, decision=decision))
            except Overtaken:
                pace.overtaken(len(decision.events), monotonic() - begun)
            else:
                pace.took(len(decision.events), monotonic() - begun)
                return True
        done = await self._decide_under_lock(tenant, pace.together)
        if not done:
            del self._paces[tenant]
        return done

    async def _decide_beside(self, tenant: str, most: int) -> Decision | None:
        """Decide on a snapshot: in a thread with a connection of its own, as it may compute for seconds."""
        platform = self._platform

        async def decide(connection: asyncpg.Connection) -> Decision | None:
            return await decide_beside(connection, tenant, self._secret, platform.clock.now(), most)

        if platform.settings.database_url is None:  # within tests: the pool is all that is known of the database
            async with platform.pool.acquire() as connection:
                return await decide(connection)

        async def decide_there() -> Decision | None:
            async with asyncio.timeout(PATIENCE_S):
                connection = await connect(platform.settings.dsn())
                try:
                    await prepare_connection(connection)
                    return await decide(connection)
                finally:
                    connection.terminate()  # it has nothing to say any more

        return await apart(decide_there)

    async def _decide_under_lock(self, tenant: str, most: int) -> bool:
        """Decide while the tenant is held: for what was overtaken again and again, and under a policy that is new."""
        return await self._store(partial(decide_aside, tenant=tenant, secret=self._secret, most=most))

    async def _store(self, storing: Callable[..., Awaitable[Outcome | None]]) -> bool:
        platform, begun = self._platform, monotonic()
        async with transaction(platform.pool) as connection:
            try:
                outcome = await storing(connection, now=platform.clock.now())
            except UNSTORABLE as error:
                raise Rejected(f"the database cannot hold this event ({type(error).__name__})") from error
            if outcome is None:
                return False
            await publish(platform.log, connection, outcome.records)
        platform.log.wake(TIMELINE)
        self._told.count(outcome)
        # As long a rest as the tenant was held, so that the stream has at least half of the time.
        await asyncio.sleep(monotonic() - begun)
        return True

    async def _decide_first(self, tenant: str) -> bool:
        try:
            return await self._decide_under_lock(tenant, 1)
        except Rejected as error:
            async with transaction(self._platform.pool) as connection:
                await tables.tenants.lock_tenant(connection, tenant)
                rows = await tables.aside.first(connection, tenant, 1)
                await tables.aside.take(connection, tenant, [row.entry_id for row in rows])
                await reject(connection, self._platform.log, rows, error.reason)
            self._platform.log.wake(QUARANTINE)
            return bool(rows)

    async def _show(self) -> None:
        if monotonic() - self._counted_at < COUNT_EVERY_S:
            return
        self._counted_at = monotonic()
        count, oldest = await tables.aside.waiting(self._platform.pool)
        age = (self._platform.clock.now() - oldest).total_seconds() if oldest else 0.0
        self._told.show_aside(count, max(age, 0.0))


async def reject(connection: asyncpg.Connection, log_: Log, rows: Sequence[Aside], reason: str) -> None:
    """Put events that were set aside into quarantine, under the place of the records that carried them."""
    rejections = []
    for row in rows:
        event, place = row.event, (row.partition, row.offset)
        record = Record(INBOUND, *place, row.key, event.encode(), (), row.set_aside_at)
        rejections.append(Rejection(record, reason, event.tenant, event.source, event.id))
    await quarantine(connection, log_, GROUP, INBOUND, rejections)


async def _keep_awake(connection: asyncpg.Connection) -> None:
    """Let the server know that this process lives: it ends a transaction in which nothing happens."""
    while True:
        await asyncio.sleep(AWAKE_EVERY_S)
        await connection.execute("SELECT 1")
