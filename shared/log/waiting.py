"""Waiting with a limit."""

from __future__ import annotations

import asyncio


async def wait_at_most(event: asyncio.Event, seconds: float) -> None:
    """Return when `event` is set or `seconds` have passed.

    Not asyncio.wait_for: in Python 3.11 it swallows a cancellation that comes together with the event.
    """
    try:
        async with asyncio.timeout(max(0.0, seconds)):
            await event.wait()
    except TimeoutError:
        pass
