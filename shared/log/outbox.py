"""The outbox: what a consumer emits is stored with its state, and published to Kafka afterwards.

On the PostgreSQL log there is nothing to do: emitting appends to the topic itself, in the same transaction. On Kafka
`Log.emit` appends to a topic of the same name in the database, and a relay, which is an ordinary consumer of that topic
(shared/log/runner.py), publishes it in order and moves its offset on in the transaction during which it publishes.

Read once, this gives: nothing is published that was not committed; nothing committed is forgotten; order per key is
kept; only one relay publishes a partition at a time, since it holds the partition's offset locked while it does. After
a crash between Kafka's acknowledgement and the relay's commit the last batch is published again: readers drop what they
have by version (shared/events.py), so that a repeated older version changes nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import asyncpg

from shared.log.database import Connection
from shared.log.metrics import LogMetrics
from shared.log.postgres import PostgresLog
from shared.log.protocol import Log, Outgoing, Record
from shared.log.quarantine import Rejection
from shared.log.runner import Handler, Runner, RunnerSettings

RELAY_GROUP = "relay"


async def emit(log: Log, connection: Connection, topic: str, records: Sequence[Outgoing]) -> None:
    """Emit `records` with what the caller's transaction stores; see Log.emit. A runner wakes the readers itself."""
    await log.emit(connection, topic, records)


class Relay:
    """Publishes the outbox of some topics for the life of the process, together with its peers in other processes."""

    def __init__(
        self,
        store: PostgresLog,
        target: Log,
        pool: asyncpg.Pool,
        topics: Sequence[str],
        *,
        settings: RunnerSettings | None = None,
        metrics: LogMetrics | None = None,
    ) -> None:
        self._target = target
        self.runners = {
            topic: Runner(store, pool, RELAY_GROUP, topic, self._publisher(topic), settings=settings, metrics=metrics)
            for topic in topics
        }

    def _publisher(self, topic: str) -> Handler:
        async def publish(connection: Connection, records: Sequence[Record]) -> Sequence[Rejection]:
            await self._target.append(topic, [Outgoing(record.key, record.value, record.headers) for record in records])
            return ()

        return publish

    async def run(self) -> None:
        """Relay until `stop`, or until cancelled."""
        await asyncio.gather(*(runner.run() for runner in self.runners.values()))

    def stop(self) -> None:
        """Let what is being published be committed, then return from `run`."""
        for runner in self.runners.values():
            runner.stop()

    async def faults(self) -> dict[str, str]:
        """Return what keeps the relay from publishing; for the log's check."""
        return {name: text for runner in self.runners.values() for name, text in (await runner.ready()).items()}
