"""Choose and open the log that the settings name."""

from __future__ import annotations

from contextlib import AsyncExitStack
from datetime import timedelta

import asyncpg

from shared.errors import SetupError
from shared.log.postgres import postgres_log
from shared.log.protocol import Log
from shared.settings import Settings


async def open_log(settings: Settings, pool: asyncpg.Pool, stack: AsyncExitStack) -> Log:
    """Open the log for the life of `stack`: Kafka where `settings.kafka` is given, PostgreSQL where not.

    Opening waits for nothing: a log that is away is LogUnavailable for whoever uses it, and `check` says so.
    """
    if settings.kafka is not None:
        raise SetupError("the Kafka log is not built yet")
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
