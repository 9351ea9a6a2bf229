"""Waiting on conditions, never on time."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from time import monotonic


async def until(condition: Callable[[], object | Awaitable[object]], what: str, limit_s: float = 20.0) -> None:
    """Return when `condition` holds; fail with `what` when it does not within `limit_s` seconds."""
    deadline = monotonic() + limit_s
    while True:
        result = condition()
        if inspect.isawaitable(result):
            result = await result
        if result:
            return
        assert monotonic() < deadline, f"waited {limit_s} s in vain: {what}"
        await asyncio.sleep(0.01)
