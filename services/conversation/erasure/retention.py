"""Forget by age: who has not been heard of for long enough is erased, as if somebody had asked for it."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import structlog

from services.conversation.erasure.erasing import forget_quiet
from shared.database.engine import transaction
from shared.database.retrying import tried_again
from shared.entry_ids import entry_secret
from shared.log.protocol import INBOUND, TIMELINE
from shared.service import Platform

LOOK_EVERY_S = 600.0
AT_ONCE = 100
"""How many customers one transaction erases: the tenant's stream waits for so long."""

TENANTS = "SELECT tenant_id FROM conversation.tenant_state ORDER BY 1"

log = structlog.get_logger("threadline.retention")


async def forget_for_ever(platform: Platform, age: timedelta) -> None:
    """Erase whoever was quiet for `age`, now and then, for the life of the process."""
    while True:
        with tried_again(log, "forgetting waits for the database"):
            await forget_once(platform, age)
        await asyncio.sleep(LOOK_EVERY_S)


async def forget_once(platform: Platform, age: timedelta) -> int:
    """Erase whoever was quiet for `age`, of all tenants; return how many customers that were."""
    secret, forgotten = entry_secret(platform.secret_key), 0
    for (tenant,) in await platform.pool.fetch(TENANTS):
        while True:
            now = platform.clock.now()
            async with transaction(platform.pool) as connection:
                count = await forget_quiet(connection, platform.log, tenant, secret, now - age, now, AT_ONCE)
            if not count:
                break
            platform.log.wake(TIMELINE)
            platform.log.wake(INBOUND)
            forgotten += count
            log.info("customers forgotten by age", tenant=tenant, customers=count)
    return forgotten
