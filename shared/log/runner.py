"""The consumer loop: fetch, then one transaction of offset, state and what it emits, then the next.

What each failure does, and nothing else does anything:

- `Fenced` (another member did this work, or our own commit went through although its answer was lost): roll back, ask
  the stored offset again, go on from there. So a zombie changes nothing and a crash repeats nothing.
- `Retryable` and passing database errors: back off with jitter and try the same batch again, for ever, in order.
- `Rejected` for one record (returned as a Rejection): into quarantine in the same transaction, the partition goes on.
  `Rejected` raised for a batch: the batch is halved until the record is alone.
- A run of rejections above the limit, LogTruncated, any other error: commit nothing, stop, and let readiness say so.
"""

from __future__ import annotations

import asyncio
import random
import traceback
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from math import inf
from time import monotonic

import asyncpg
import structlog

from shared.clock import Clock, SystemClock
from shared.errors import Fenced, LogTruncated, LogUnavailable, Rejected, ThreadlineError
from shared.log.database import Connection, passes
from shared.log.metrics import Lag, LogMetrics
from shared.log.offsets import compare_and_set, starting_offset
from shared.log.precedence import PATIENCE_S
from shared.log.protocol import QUARANTINE, Consumer, Log, Record
from shared.log.quarantine import Rejection, quarantine
from shared.log.waiting import being_cancelled, end, wait_at_most

__all__ = ["Handler", "Lag", "Rejection", "Runner", "RunnerSettings"]

Handler = Callable[[Connection, Sequence[Record]], Awaitable[Sequence[Rejection]]]
"""Does the work of a batch inside the runner's transaction; never commits. Returns the records that never will work."""

MANY = 16
"""A batch that takes this part of what one may take is one of a consumer that does not keep up."""
FETCHING_S = 0.1
"""Longest that the next batch is being fetched, while it is not known yet whether more waits."""
LOOK_S = 0.02
"""Who gives way looks this often whether the others are done."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class RunnerSettings:
    """How a runner behaves.

    `idle_in_transaction_s`: a frozen process must not keep its partitions locked, so the server ends a transaction that
    does nothing for so long; a handler may not compute longer than this between two statements.
    `gap_s`: at least so long from the start of one small batch to the next, since many small ones cost far more than
    few larger ones. What comes after a pause is done at once. A function is asked after each batch.
    `gives_way`: while it says so, the next batch waits until the oldest record of it may be `PATIENCE_S` old.
    """

    batch_max_records: int = 2000
    max_wait_s: float = 1.0
    rejection_limit: int = 1000
    backoff_first_s: float = 0.1
    backoff_max_s: float = 2.0
    lag_period_s: float = 2.0
    idle_in_transaction_s: float = 15.0
    gap_s: float | Callable[[], float] = 0.0
    gives_way: Callable[[], bool] = lambda: False


class TooManyRejections(ThreadlineError):
    """A run of rejections above the limit: more likely the code is wrong than all the records."""


def run_of_rejections(before: int, records: Sequence[Record], rejected: set[tuple[int, int]]) -> tuple[int, int]:
    """Return (the run that is still open at the end, the longest run) after `records`, `before` being the open one."""
    current = longest = before
    for record in records:
        current = current + 1 if (record.partition, record.offset) in rejected else 0
        longest = max(longest, current)
    return current, longest


def halves(records: Sequence[Record]) -> tuple[Sequence[Record], Sequence[Record]]:
    """Split a batch, keeping the order of each partition."""
    middle = len(records) // 2
    return records[:middle], records[middle:]


def steps(records: Sequence[Record]) -> dict[int, tuple[int, int]]:
    """Return, per partition of a batch, the first offset and the one after the last."""
    result: dict[int, tuple[int, int]] = {}
    for record in records:
        first = result[record.partition][0] if record.partition in result else record.offset
        result[record.partition] = (first, record.offset + 1)
    return result


class Runner:
    """Runs one handler as one member of a consumer group. `run` is a background loop of a service."""

    def __init__(
        self,
        log: Log,
        pool: asyncpg.Pool,
        group: str,
        topic: str,
        handler: Handler,
        *,
        emits: Sequence[str] = (),
        settings: RunnerSettings | None = None,
        metrics: LogMetrics | None = None,
        clock: Clock | None = None,
    ) -> None:
        """`emits` names the topics that the handler emits to: their readers are woken after each commit."""
        self.group = group
        self.topic = topic
        self.records_done = 0
        self.records_quarantined = 0
        self.batches_done = 0
        self._log = log
        self._pool = pool
        self._handler = handler
        self._emits = emits
        self._settings = settings or RunnerSettings()
        self._metrics = metrics
        self._clock = clock or SystemClock()
        self._stopping = asyncio.Event()
        self._fault: str | None = None
        self._trouble: str | None = None
        self._behind_until = 0.0
        self._read_until: datetime | None = None
        self._run_of_rejections = 0
        self._next_offsets: dict[int, int] = {}
        self._lag: dict[int, Lag] = {}
        self._consumer: Consumer | None = None
        self._in_hand: dict[int, Record] = {}
        self._behind_since: dict[int, float] = {}
        self._labels = {"group": group, "topic": topic}

    # What others see

    async def ready(self) -> Mapping[str, str]:
        """Return the faults of this consumer, empty when it works; for /readyz."""
        fault = self._fault or self._trouble
        return {f"consumer {self.group}": fault} if fault else {}

    def lag(self) -> Mapping[int, Lag]:
        """Return the lag of the partitions owned here, as last measured (every `lag_period_s`)."""
        return dict(self._lag)

    @property
    def behind(self) -> bool:
        """Whether it does not keep up: what can be late gives way now."""
        return monotonic() < self._behind_until

    @property
    def stopped(self) -> bool:
        """Whether it stopped on a fault that needs a person."""
        return self._fault is not None

    def stop(self) -> None:
        """Let the batch in hand commit, then leave the group and return from `run`."""
        self._stopping.set()

    # The loop

    async def run(self) -> None:
        """Consume until `stop`. After a fault that needs a person it stands still and `ready` says why."""
        watch = asyncio.create_task(self._watch_lag())
        try:
            await self._consume_again_and_again()
        finally:
            await end(watch)

    async def _consume_again_and_again(self) -> None:
        attempt = 0
        while not self._stopping.is_set():
            before = self.batches_done
            try:
                async with self._log.consume(self.group, self.topic, self._starting_offset) as consumer:
                    await self._consume(consumer)
            except asyncio.CancelledError:
                if being_cancelled():
                    raise
                # Nobody asked us to end: a library let one of its own out. It must not end a consumer without a word.
                attempt += 1
                await self._back_off(attempt, LogUnavailable("the log's client cut its own work short"))
            except Exception as error:
                if being_cancelled():
                    raise asyncio.CancelledError from error
                if not passes(error):
                    self._stand_still(error)
                    await self._stopping.wait()
                    return
                attempt = 1 if self.batches_done > before else attempt + 1
                await self._back_off(attempt, error)

    def _stand_still(self, error: Exception) -> None:
        expected = isinstance(error, TooManyRejections | LogTruncated)
        # The text of an unknown error may carry somebody's message: the log gets its class and place only.
        self._fault = str(error) if expected else f"stopped on a bug ({type(error).__name__}); see the log"
        where = [f"{frame.name}:{frame.lineno}" for frame in traceback.extract_tb(error.__traceback__)[-6:]]
        log.error("consumer stopped", **self._labels, error=type(error).__name__, fault=self._fault, where=where)

    async def _starting_offset(self, topic: str, partition: int) -> int:
        offset = await starting_offset(self._pool, self._log, self.group, topic, partition)
        self._next_offsets[partition] = offset
        return offset

    def _gap_s(self) -> float:
        gap_s = self._settings.gap_s
        return gap_s() if callable(gap_s) else gap_s

    async def _consume(self, consumer: Consumer) -> None:
        """Do batch after batch. The next is fetched meanwhile where one took all that it may."""
        self._consumer = consumer
        ahead: asyncio.Task[Mapping[int, Sequence[Record]]] | None = None
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            while not self._stopping.is_set():
                if ahead is None:
                    await self._give_way()
                fetching = ahead or self._fetch(consumer)
                ahead = fetching  # so that whatever happens, the finally below ends it
                await asyncio.wait({fetching, stopping}, return_when=asyncio.FIRST_COMPLETED)
                if not fetching.done():
                    return
                ahead = None
                batch = fetching.result()
                self._trouble = None
                records = [record for partition in sorted(batch) for record in batch[partition]]
                if not records:
                    continue
                began = monotonic()
                self._read_until = min(of_one[-1].appended_at for of_one in batch.values() if of_one)
                many = len(records) >= self._settings.batch_max_records // MANY
                self._behind_until = inf if many else 0.0
                if len(records) >= self._settings.batch_max_records:
                    # Of fewer nothing was left: what has come since would be a small batch, and dear.
                    ahead = self._fetch(consumer)
                if not await self._do(consumer, records):
                    await end(*filter(None, [ahead]))
                    ahead = None
                    for partition in consumer.assigned() | batch.keys():
                        await consumer.rewind(partition)
                elif not many and (early_s := began + self._gap_s() - monotonic()) > 0:
                    await wait_at_most(self._stopping, early_s)
                if many:
                    self._behind_until = monotonic() + FETCHING_S
        finally:
            self._consumer, self._behind_until = None, 0.0
            stopping.cancel()
            await end(*filter(None, [ahead]))

    async def _give_way(self) -> None:
        """Wait while others go first, no longer than what waits here may."""
        if self._read_until is None or not self._settings.gives_way():
            return
        age_s = (self._clock.now() - self._read_until).total_seconds()
        end_s = monotonic() + PATIENCE_S - max(0.0, age_s)
        while self._settings.gives_way() and not self._stopping.is_set() and (left_s := end_s - monotonic()) > 0:
            await wait_at_most(self._stopping, min(left_s, LOOK_S))

    def _fetch(self, consumer: Consumer) -> asyncio.Task[Mapping[int, Sequence[Record]]]:
        return asyncio.create_task(consumer.fetch(self._settings.batch_max_records, self._settings.max_wait_s))

    async def _do(self, consumer: Consumer, records: Sequence[Record]) -> bool:
        """Commit `records`, trying again for as long as it takes; False where they have to be fetched anew."""
        self._in_hand = {record.partition: record for record in reversed(records)}
        try:
            return await self._settle(consumer, records)
        finally:
            self._in_hand = {}

    async def _settle(self, consumer: Consumer, records: Sequence[Record]) -> bool:
        attempt = 0
        rejected: Rejection | None = None
        while not self._stopping.is_set():
            started = monotonic()
            try:
                rejections = await self._commit(records, rejected)
            except Fenced as error:
                log.info("let go of a batch", **self._labels, reason=str(error))
                if self._metrics:
                    self._metrics.fenced.labels(**self._labels).inc()
                return False
            except Rejected as error:
                if len(records) > 1:
                    first, second = halves(records)
                    return await self._settle(consumer, first) and await self._settle(consumer, second)
                rejected = Rejection(records[0], error.reason, error.tenant, error.source, error.event_id)
            except Exception as error:
                if being_cancelled() or not passes(error):
                    raise
                attempt += 1
                await self._back_off(attempt, error)
            else:
                await self._done(consumer, records, rejections, monotonic() - started)
                return True
        return False

    async def _commit(self, records: Sequence[Record], rejected: Rejection | None = None) -> Sequence[Rejection]:
        """One transaction: offsets, what the handler does, quarantine. `rejected` takes the place of the handler."""
        name = self._log.name(self.topic)
        async with self._pool.acquire(timeout=10) as connection, connection.transaction():
            await compare_and_set(connection, self.group, name, steps(records), self._settings.idle_in_transaction_s)
            rejections = [rejected] if rejected else await self._handler(connection, records)
            run = self._judge(records, rejections)
            await quarantine(connection, self._log, self.group, self.topic, rejections)
        self._run_of_rejections = run
        return rejections

    def _judge(self, records: Sequence[Record], rejections: Sequence[Rejection]) -> int:
        """Return the run of rejections open after this batch. Raises TooManyRejections."""
        rejected = {(rejection.record.partition, rejection.record.offset) for rejection in rejections}
        current, longest = run_of_rejections(self._run_of_rejections, records, rejected)
        if longest > self._settings.rejection_limit:
            raise TooManyRejections(
                f"{longest} records in a row were rejected (limit {self._settings.rejection_limit}), the last because: "
                f"{rejections[-1].reason}; nothing of this batch was stored"
            )
        return current

    async def _done(
        self, consumer: Consumer, records: Sequence[Record], rejections: Sequence[Rejection], seconds: float
    ) -> None:
        """Account for a committed batch, wake the readers of what it emitted, and tell lag tools."""
        for topic in (*self._emits, QUARANTINE) if rejections else self._emits:
            self._log.wake(topic)
        reached = {partition: after for partition, (_, after) in steps(records).items()}
        self._next_offsets.update(reached)
        self._trouble = None
        self.batches_done += 1
        self.records_done += len(records)
        self.records_quarantined += len(rejections)
        if self._metrics:
            self._metrics.records.labels(**self._labels).inc(len(records))
            self._metrics.quarantined.labels(**self._labels).inc(len(rejections))
            self._metrics.batches.labels(**self._labels).observe(seconds)
        for rejection in rejections:
            where = {"partition": rejection.record.partition, "offset": rejection.record.offset}
            log.warning("record quarantined", **self._labels, **where, tenant=rejection.tenant)
        await consumer.report(reached)

    async def _back_off(self, attempt: int, error: Exception) -> None:
        """Wait before the next attempt: doubling, jittered, ended by `stop`."""
        limit = min(self._settings.backoff_first_s * 2 ** min(attempt - 1, 10), self._settings.backoff_max_s)
        pause_s = random.uniform(limit / 2, limit)  # noqa: S311  # jitter, not a secret
        self._trouble = f"waiting, attempt {attempt} failed ({type(error).__name__})"
        log.warning(
            "will try again", **self._labels, error=type(error).__name__, attempt=attempt, in_s=round(pause_s, 2)
        )
        if self._metrics:
            self._metrics.retries.labels(**self._labels).inc()
        await wait_at_most(self._stopping, pause_s)

    # Lag

    async def _watch_lag(self) -> None:
        while True:
            await asyncio.sleep(self._settings.lag_period_s)
            try:
                await self.measure_lag()
            except Exception as error:
                # The lag is unknown while the log is away; the loop above says that it is.
                log.debug("lag not measured", **self._labels, error=type(error).__name__)

    async def measure_lag(self) -> Mapping[int, Lag]:
        """Measure the lag of the partitions owned here now. Raises LogUnavailable."""
        ends = await self._log.end_offsets(self.topic)
        mine = self._consumer.assigned() if self._consumer else frozenset()
        self._lag = {
            partition: self._lag_of(partition, max(0, ends[partition] - self._next_offsets[partition]))
            for partition in sorted(mine & self._next_offsets.keys())
        }
        if self._metrics:
            self._metrics.show_lag(self.group, self.topic, self._lag)
        return self._lag

    def _lag_of(self, partition: int, records: int) -> Lag:
        """Return the lag, aged by the oldest record in hand, or else by how long we have seen it to be behind."""
        if records == 0:
            self._behind_since.pop(partition, None)
            return Lag(0, 0.0)
        since = self._behind_since.setdefault(partition, monotonic())
        oldest = self._in_hand.get(partition)
        age_s = (self._clock.now() - oldest.appended_at).total_seconds() if oldest else 0.0
        return Lag(records, max(age_s, monotonic() - since, 0.0))
