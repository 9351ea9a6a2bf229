"""Choose and open the log that the settings name."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

import asyncpg

from shared.log.metrics import LogMetrics
from shared.log.outbox import Relay
from shared.log.postgres import postgres_log
from shared.log.protocol import INBOUND, QUARANTINE, TIMELINE, Log
from shared.log.sealed import SealedLog
from shared.log.waiting import end
from shared.settings import Settings

if TYPE_CHECKING:
    from shared.log.kafka import KafkaLog, KafkaOptions

EMITTED = (TIMELINE, QUARANTINE, INBOUND)
"""Topics that are emitted to with a transaction (to inbound only erasures); on Kafka each has a relay."""

OUTBOX_RETENTION = timedelta(hours=1)
"""What is published stays in the outbox for so long, for a look back."""

STOP_LIMIT_S = 3.0


async def open_log(
    settings: Settings, pool: asyncpg.Pool, stack: AsyncExitStack, metrics: LogMetrics | None = None
) -> Log:
    """Open the log for the life of `stack`: Kafka where `settings.kafka` is given, PostgreSQL where not.

    With `settings.encrypt_log` what it says of people is sealed; what was sealed before is read in any case.

    Opening waits for no broker: a log that is away is LogUnavailable for whoever uses it, and `check` says so.
    `metrics` is for the relay of the outbox.
    """
    inner = await _open_plain(settings, pool, stack, metrics)
    return SealedLog(inner, pool, settings.secret(), seals=settings.encrypt_log, lasting=settings.kafka is not None)


async def _open_plain(settings: Settings, pool: asyncpg.Pool, stack: AsyncExitStack, metrics: LogMetrics | None) -> Log:
    if settings.kafka is None:
        return await stack.enter_async_context(
            postgres_log(
                pool,
                prefix=settings.topic_prefix,
                partitions=settings.log_partitions,
                max_record_bytes=settings.max_record_bytes,
                timeout_s=settings.log_timeout_s,
                retention=timedelta(seconds=settings.log_retention_s),
            )
        )
    from shared.log.kafka import KafkaOptions  # a tenth of a second and 10 MB that only Kafka needs

    options = KafkaOptions(
        bootstrap=settings.kafka,
        prefix=settings.topic_prefix,
        partitions=settings.log_partitions,
        replication=settings.log_replication,
        retention=timedelta(seconds=settings.log_retention_s),
        max_record_bytes=settings.max_record_bytes,
        timeout_s=settings.log_timeout_s,
    )
    return await stack.enter_async_context(kafka_with_outbox(options, pool, metrics=metrics))


@asynccontextmanager
async def kafka_with_outbox(
    options: KafkaOptions,
    pool: asyncpg.Pool,
    *,
    topics: Sequence[str] = EMITTED,
    metrics: LogMetrics | None = None,
) -> AsyncIterator[KafkaLog]:
    """Open the Kafka log with its outbox in the database and the relay between them."""
    from shared.log.kafka import kafka_log

    async with (
        postgres_log(
            pool,
            prefix=f"outbox.{options.prefix}",
            partitions=options.partitions,
            max_record_bytes=options.max_record_bytes,
            timeout_s=options.timeout_s,
            retention=OUTBOX_RETENTION,
        ) as outbox,
        kafka_log(options, outbox) as log,
    ):
        relay = Relay(outbox, log, pool, topics, metrics=metrics)
        log.relay_faults = relay.faults
        task = asyncio.create_task(relay.run())
        try:
            yield log
        finally:
            relay.stop()
            await asyncio.wait({task}, timeout=STOP_LIMIT_S)
            await end(task)
