"""Makes deliveries: takes what is due in hand, posts it, settles what came of it. Any number of processes may.

A process that is stopped lets its posts come to an end for a moment, and gives back what it still has in hand. One that
dies leaves leases that run out, after which another posts the same again under the same id: at least once. While a
lease holds nobody else posts anything of that customer to that endpoint.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic
from uuid import uuid4

import asyncpg
import structlog

from services.conversation.webhooks import deliveries, signing
from services.conversation.webhooks.deliveries import Due, Settled
from services.conversation.webhooks.endpoints import Endpoint, Endpoints
from services.conversation.webhooks.events import TEST_TYPE, payload
from services.conversation.webhooks.metrics import WebhookMetrics
from services.conversation.webhooks.retrying import (
    SCHEDULE_S,
    Answer,
    attempt_counts,
    judge,
    next_attempt_s,
    pause_s,
    tells_of_endpoint,
)
from services.conversation.webhooks.transport import Transport
from shared.clock import Clock
from shared.database.engine import transaction, translated
from shared.errors import Retryable, SetupError
from shared.log.waiting import end, wait_at_most

PER_ENDPOINT = 8
"""Posts to one endpoint at a time, over all processes: a slow one keeps no more than these from the others."""
AT_ONCE = 256
"""Posts of one process at a time."""
TENANT_AT_ONCE = 128
"""Of these, the posts of one tenant: however many of its endpoints are slow, others have room."""
ENDPOINTS_AT_ONCE = 100
LOOK_EVERY_S = 0.25
SETTLE_TRIES = 5
STOP_S = 1.0
"""How long a stop waits for posts under way, and then for what is given back."""
WATCH_EVERY_S = 10.0
FORGET_EVERY_S = 600.0

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class SenderSettings:
    """`lease_s` must be longer than any post takes: what is not settled by then is posted again by somebody."""

    lease_s: float
    retention_s: float
    schedule: Sequence[float] = SCHEDULE_S
    per_endpoint: int = PER_ENDPOINT


def settled_by(due: Due, answer: Answer, schedule: Sequence[float], jitter: float) -> Settled:
    """Decide what becomes of a delivery that got `answer`."""
    verdict = judge(answer)
    if verdict.delivered:
        return Settled("d")
    if verdict.gone:
        # It waits as it is: whoever enables the endpoint again gets all that was missed.
        return Settled("p", reason=verdict.reason, counted=False, gone=True)
    blamed = tells_of_endpoint(due.last_status, verdict)
    pause = pause_s(due.failures + 1, answer, verdict) if blamed else None
    counted = attempt_counts(due.attempts, due.age_s, schedule)
    again_s = next_attempt_s(due.attempts + counted, answer, jitter, schedule)
    return Settled("p" if again_s is not None else "x", again_s or 0.0, verdict.reason, pause, blamed, counted)


class Sender:
    """Posts what is due for the life of the process."""

    def __init__(
        self,
        pool: asyncpg.Pool,
        endpoints: Endpoints,
        transport: Transport,
        clock: Clock,
        metrics: WebhookMetrics,
        settings: SenderSettings,
        version: str = "1",
    ) -> None:
        self._pool = pool
        self._endpoints = endpoints
        self._transport = transport
        self._clock = clock
        self._metrics = metrics
        self._settings = settings
        self._agent = f"Threadline/{version} (+webhooks)"
        self._woken = asyncio.Event()
        self._running: dict[asyncio.Task[None], Due] = {}

    def wake(self) -> None:
        """Look for work soon."""
        self._woken.set()

    async def run(self) -> None:
        """Send until cancelled."""
        try:
            while True:
                self._woken.clear()
                started = 0
                try:
                    started = await self._start_due()
                except Retryable as error:
                    log.warning("webhooks wait for the database", error=str(error))
                    await asyncio.sleep(1.0)
                if not started:
                    await wait_at_most(self._woken, LOOK_EVERY_S)
        finally:
            # Whoever ends a process may say so several times; what is in hand goes back all the same.
            stopping = asyncio.create_task(self._stop())
            while not stopping.done():
                with suppress(asyncio.CancelledError):
                    await asyncio.shield(stopping)

    async def _stop(self) -> None:
        """Let what is being posted come to its end for a moment; give back the rest, for others to take at once."""
        held = dict(self._running)
        if not held:
            return
        await asyncio.wait(held, timeout=STOP_S)
        left = [due for task, due in held.items() if not task.done() or task.cancelled() or task.exception()]
        await end(*held)
        try:
            async with asyncio.timeout(STOP_S), transaction(self._pool) as connection:
                await deliveries.give_back(connection, left)
        except (Retryable, TimeoutError) as error:
            log.warning("deliveries in hand are free only when their leases run out", error=type(error).__name__)

    async def test(self, endpoint: Endpoint) -> tuple[str, Answer]:
        """Post a test event to an endpoint now, whatever else waits; return its id and what came of it."""
        webhook_id = f"test-{uuid4()}"
        said = {"endpoint": endpoint.name, "message": "This is a test. Whoever can read and verify it is set up."}
        body = payload(TEST_TYPE, self._clock.now(), said)
        return webhook_id, await self._post(endpoint.url, endpoint.secrets, webhook_id, body)

    async def _start_due(self) -> int:
        if len(self._running) >= AT_ONCE:
            return 0
        theirs = Counter(due.tenant for due in self._running.values())
        full = [tenant for tenant, count in theirs.items() if count >= TENANT_AT_ONCE]
        with translated():
            async with self._pool.acquire() as connection:
                waiting = await deliveries.waiting_endpoints(connection, ENDPOINTS_AT_ONCE, full)
        started = 0
        for tenant, endpoint_id in waiting:
            room, at_once = self._room(theirs[tenant])
            if room <= 0:
                continue
            async with transaction(self._pool) as connection:
                taken = await deliveries.lease(connection, tenant, endpoint_id, at_once, room, self._settings.lease_s)
            for due in taken:
                task = asyncio.create_task(self._deliver(due))
                self._running[task] = due
                task.add_done_callback(self._done)
            theirs[tenant] += len(taken)
            started += len(taken)
        return started

    def _room(self, theirs: int) -> tuple[int, int]:
        """Return how many more posts of a tenant with so many may run here, and how many at one endpoint.

        That is one where it gets narrow: slow endpoints get out of the way of their tenant's quick ones, too.
        """
        room = min(AT_ONCE - len(self._running), TENANT_AT_ONCE - theirs)
        return room, self._settings.per_endpoint if 2 * theirs < TENANT_AT_ONCE else 1

    def _done(self, task: asyncio.Task[None]) -> None:
        self._running.pop(task, None)
        self._woken.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            # Its lease runs out and it is tried again; the text may quote somebody, so the log gets its kind only.
            log.error("a delivery broke off", error=type(error).__name__)

    async def _deliver(self, due: Due) -> None:
        try:
            secrets = self._endpoints.secrets_of(due.tenant, due.name, due.sealed)
        except SetupError as error:
            answer = Answer(None, str(error))
        else:
            answer = await self._post(due.url, secrets, due.webhook_id, due.body)
        settled = settled_by(due, answer, self._settings.schedule, random.random())  # noqa: S311  # jitter, not a secret
        await self._settle(due, answer, settled)
        self._metrics.count(answer, settled)
        if settled.state != "d":
            level = log.warning if settled.state == "x" or settled.gone else log.info
            told = {"tenant": due.tenant, "endpoint": due.name, "webhook_id": due.webhook_id, "reason": settled.reason}
            level("webhook not delivered", **told, attempt=due.attempts + 1, state=settled.state)

    async def _settle(self, due: Due, answer: Answer, settled: Settled) -> None:
        for attempt in range(SETTLE_TRIES):
            try:
                async with transaction(self._pool) as connection:
                    await deliveries.settle(connection, due, answer, settled)
                return
            except Retryable:
                if attempt == SETTLE_TRIES - 1:
                    raise
                await asyncio.sleep(0.2 * 2**attempt)

    async def _post(self, url: str, secrets: Sequence[signing.Secret], webhook_id: str, body: bytes) -> Answer:
        headers = {
            "content-type": "application/json",
            "user-agent": self._agent,
            **signing.headers_of(webhook_id, body, secrets, self._clock.now()),
        }
        return await self._transport.post(url, headers, body)

    # Looking after

    async def watch(self) -> None:
        """Keep the gauges of what waits, and forget what is older than the retention, until cancelled."""
        forgotten = -FORGET_EVERY_S
        while True:
            try:
                with translated():
                    row = await self._pool.fetchrow(deliveries.BACKLOG)
                self._metrics.show(row)
                if monotonic() - forgotten >= FORGET_EVERY_S:
                    await self._forget()
                    forgotten = monotonic()
            except Retryable as error:
                log.warning("the backlog of webhooks is not known", error=str(error))
            await asyncio.sleep(WATCH_EVERY_S)

    async def _forget(self) -> None:
        more = True
        while more:
            async with transaction(self._pool) as connection:
                more = await deliveries.forget(connection, self._settings.retention_s)
