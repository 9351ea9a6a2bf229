"""Work that computes for long, on an event loop of its own in a thread: the process's own loop goes on meanwhile."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

T = TypeVar("T")

SWITCH_S = 0.0005
"""How long the thread may keep the interpreter when the process's own loop wants it. By default it is ten times that,
which a batch would wait after each of its statements."""


async def apart(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Return what `work` comes to, run in a thread; one at a time in a process.

    It may use nothing that belongs to the caller's loop. Cancelled, it is left to end by itself and nobody hears of it.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if done.done():
            return
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(result)  # type: ignore[arg-type]  # what `work` returned

    def run() -> None:
        result, failed = None, None
        try:
            result = asyncio.run(work())
        except BaseException as error:
            failed = error
        with suppress(RuntimeError):  # the caller's loop is gone, and so is everybody who asked
            loop.call_soon_threadsafe(settle, result, failed)

    usual = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_S)
    try:
        # A daemon: a process that stops does not wait for it.
        threading.Thread(target=run, name="apart", daemon=True).start()
        return await done
    finally:
        sys.setswitchinterval(usual)
