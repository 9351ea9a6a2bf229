"""Statements that the database works on while the next ones are made ready."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, TypeVar

from shared.log.waiting import end

T = TypeVar("T")

AT_A_TIME = 50
"""So many things are made ready before the event loop has its turn, and with it a connection that could do more."""


class Writing:
    """Carries statements out on one connection, each after the one before, while who gives them goes on.

    As a context it ends when all are done, and leaves nothing under way on the connection, however it ends.
    """

    def __init__(self) -> None:
        self._tasks: list[asyncio.Task[Any]] = []

    async def __aenter__(self) -> Writing:
        return self

    async def __aexit__(self, kind: object, *_: object) -> None:
        try:
            if kind is None and self._tasks:
                await self._tasks[-1]
        finally:
            await end(*self._tasks)

    def begin(self, statement: Callable[..., Awaitable[T]], *arguments: Any) -> asyncio.Task[T]:
        """Have `statement(*arguments)` awaited after all that came before; where one of those fails, it fails alike."""
        before = self._tasks[-1] if self._tasks else None

        async def run() -> T:
            if before is not None:
                await before
            return await statement(*arguments)

        task = asyncio.create_task(run())
        self._tasks.append(task)
        return task


def parts(things: Sequence[T]) -> Iterator[Sequence[T]]:
    """Yield `AT_A_TIME` of these after the other."""
    for start in range(0, len(things), AT_A_TIME):
        yield things[start : start + AT_A_TIME]


async def breathe() -> None:
    """Let the event loop have its turn."""
    await asyncio.sleep(0)
