"""Waiting with a limit, and ending tasks for certain."""

from __future__ import annotations

import asyncio
from typing import Any


async def wait_at_most(event: asyncio.Event, seconds: float) -> None:
    """Return when `event` is set or `seconds` have passed.

    Not asyncio.wait_for: in Python 3.11 it swallows a cancellation that comes together with the event.
    """
    try:
        async with asyncio.timeout(max(0.0, seconds)):
            await event.wait()
    except TimeoutError:
        pass


def being_cancelled() -> bool:
    """Tell whether the running task was asked to end.

    A loop that tries again after errors has to ask: when closing a broken connection raises, that error takes the place
    of the CancelledError that was on its way.
    """
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def end(*tasks: asyncio.Task[Any]) -> None:
    """Cancel `tasks` and wait until they have ended; what they raise is not of interest any more."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
