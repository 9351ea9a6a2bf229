"""Long work on a loop of its own: the caller's goes on meanwhile, and hears what came of it."""

from __future__ import annotations

import asyncio
import sys
import threading

import pytest

from shared.apart import apart
from tests.waiting import until


async def test_the_callers_loop_goes_on_while_something_computes_elsewhere() -> None:
    computing, enough = threading.Event(), threading.Event()

    async def compute() -> int:
        computing.set()
        assert enough.wait(20), "the caller's loop never had its turn"
        return threading.get_ident()

    working = asyncio.create_task(apart(compute))
    await until(computing.is_set, "it computes")
    enough.set()
    assert await working != threading.get_ident()


async def test_what_fails_there_fails_here_and_the_interpreter_switches_as_before() -> None:
    usual = sys.getswitchinterval()

    async def fail() -> None:
        assert sys.getswitchinterval() < usual
        raise LookupError("there")

    with pytest.raises(LookupError, match="there"):
        await apart(fail)
    assert sys.getswitchinterval() == usual


async def test_whoever_is_cancelled_waits_no_longer() -> None:
    begun, enough = threading.Event(), threading.Event()

    async def stay() -> None:
        begun.set()
        enough.wait(20)

    working = asyncio.create_task(apart(stay))
    await until(begun.is_set, "it has begun")
    working.cancel()
    async with asyncio.timeout(10):
        with pytest.raises(asyncio.CancelledError):
            await working
    enough.set()
