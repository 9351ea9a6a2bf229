"""Starting and closing a client of aiokafka, whatever it is in the middle of."""

from __future__ import annotations

import asyncio
from operator import attrgetter
from typing import Any

import structlog
from aiokafka.admin import AIOKafkaAdminClient

from shared.log.kafka_errors import translated
from shared.log.waiting import end

CLOSE_LIMIT_S = 3.0

log = structlog.get_logger(__name__)


async def start_client(client: Any) -> None:
    """Start `client`; where that fails or is cut short, close what it had opened."""
    try:
        await client.start()
    except BaseException:
        await close_client(client)
        raise


async def close_client(client: Any) -> None:
    """Close `client`, in an orderly way where that is soon done, else by force."""
    close = client.close if isinstance(client, AIOKafkaAdminClient) else client.stop
    try:
        with translated():
            async with asyncio.timeout(CLOSE_LIMIT_S):
                await close()
    except Exception as error:
        log.info("a Kafka client is closed by force", error=type(error).__name__)
        await _force_closed(client)


INNER_TASKS = (
    "_coordinator._coordination_task",
    "_coordinator._heartbeat_task",
    "_fetcher._fetch_task",
    "_sender._sender_task",
)
"""Where aiokafka 0.14 keeps the tasks that would try for ever; it has no public way to end them."""


async def _force_closed(client: Any) -> None:
    """End what an interrupted `stop` leaves running; an idempotent producer would try to send for ever."""
    found = (attrgetter(path)(client) for path in INNER_TASKS if _has(client, path))
    await end(*(task for task in found if task is not None))
    inner = getattr(client, "_client", None) or getattr(client, "client", None)
    if inner is not None:
        try:
            with translated():
                async with asyncio.timeout(CLOSE_LIMIT_S):
                    await inner.close()
        except Exception as error:
            log.info("a Kafka connection was left to the system", error=type(error).__name__)


def _has(client: Any, path: str) -> bool:
    try:
        attrgetter(path)(client)
    except AttributeError:
        return False
    return True
