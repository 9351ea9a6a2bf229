"""`threadline verify`: every accepted event is where it belongs, with its files, and every KPI equals its recount."""

from __future__ import annotations

import asyncio
import sys
from contextlib import AsyncExitStack
from time import monotonic
from typing import Annotated

import typer
from rich.console import Console

from services.cli import ledger
from services.cli.kept_files import file_faults
from services.cli.platform import DataOption, on_database, open_platform, quiet_settings
from services.cli.recount import kpi_faults
from shared.entry_ids import entry_secret
from shared.errors import SetupError
from shared.log.outbox import RELAY_GROUP
from shared.log.protocol import TIMELINE
from shared.service import Platform
from shared.settings import Settings

# What the relay has not yet published (Kafka only: there the outbox is a topic in the database).
UNPUBLISHED = """
SELECT coalesce(sum(p.next_offset - coalesce(o.next_offset, p.first_offset)), 0)
FROM log.partition AS p
LEFT JOIN log."offset" AS o ON o.group_name = $2 AND o.topic = p.topic AND o.partition = p.partition
WHERE p.topic = $1
"""


def verify(
    data: DataOption = None,
    timeout: Annotated[
        float, typer.Option(min=0, help="Seconds to wait for the services to reach the log's end.")
    ] = 60,
    counts: Annotated[bool, typer.Option("--counts", help="Print what was counted, too.")] = False,
) -> None:
    """Check the ledger and recount every KPI. Silent where all is right; else a list and exit 1. Also beside `up`."""
    faults, counted = on_database(
        quiet_settings(data), "verify", lambda settings: _verify(settings, timeout), begun=True
    )
    if counts:
        print(" ".join(f"{name}={value}" for name, value in counted.items()))
    if faults:
        print("\n".join(faults))
        raise SetupError(f"{len(faults)} lines of faults, listed on stdout")


async def _verify(settings: Settings, timeout_s: float) -> tuple[list[str], dict[str, int]]:
    deadline = monotonic() + timeout_s
    console = Console(stderr=True)
    async with AsyncExitStack() as stack:
        platform = await open_platform(settings, stack, name="threadline verify")
        status = stack.enter_context(console.status("verifying")) if sys.stderr.isatty() else None

        def told(doing: str) -> None:
            if status is not None:
                status.update(doing)

        try:
            secret = entry_secret(platform.secret_key)
            found, counted = await ledger.check(
                platform.pool, platform.log, secret, deadline, told, lambda: _published(platform, deadline)
            )
            lines = [line for fault in found for line in fault.lines()]
            told("reading the files")
            lines += await file_faults(platform)
            told("recounting the KPIs")
            lines += await kpi_faults(platform)
        except ledger.NotDone as error:
            raise SetupError(f"cannot verify yet: {error}") from error
        return lines, dict(counted)


async def _published(platform: Platform, deadline: float) -> None:
    """Wait until the outbox is published. Raises NotDone."""
    if platform.settings.kafka is None:
        return
    topic = f"{platform.settings.topic_prefix}.{TIMELINE}"
    while left := await platform.pool.fetchval(UNPUBLISHED, topic, RELAY_GROUP):
        if monotonic() >= deadline:
            raise ledger.NotDone(f"{left} records of the outbox are not published")
        await asyncio.sleep(0.1)
