"""Work that keeps the processor busy for long is done in a thread, so that everybody else gets turns meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")

MUCH = 2000
"""Points or sums from which on a thread is worth it: about ten milliseconds."""


async def beside(size: int, function: Callable[..., T], *arguments: Any) -> T:
    """Return what `function` returns; `size` says how much it has to do."""
    if size < MUCH:
        return function(*arguments)
    return await asyncio.to_thread(function, *arguments)
