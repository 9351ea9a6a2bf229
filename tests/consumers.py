"""Consumers of inbound events as processes of their own, which work on one database at once.

They are started once for many tests, and forked by nobody: each imports the code anew and opens its own connections.
A job is a share of events in batches; each batch is one transaction, as the runner does it.
"""

from __future__ import annotations

import asyncio
import ctypes
import multiprocessing
import signal
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from datetime import datetime
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import NamedTuple

import asyncpg

from services.conversation.update import put_events
from shared.database.engine import open_pool
from shared.events import InboundEvent
from shared.settings import Settings

PATIENCE_S = 60.0


class Job(NamedTuple):
    """What one process is to put on timelines, in this order."""

    database: str
    batches: Sequence[Sequence[InboundEvent]]
    secret: bytes
    now: datetime


async def put_batch(
    connection: asyncpg.Connection, events: Sequence[InboundEvent], secret: bytes, now: datetime
) -> None:
    """Put a batch on timelines, tenant by tenant in order, inside the caller's transaction."""
    for tenant in sorted({event.tenant for event in events}):
        await put_events(connection, tenant, [event for event in events if event.tenant == tenant], secret, now)


class Consumers:
    """Processes that wait for jobs."""

    def __init__(self, lines: Sequence[Connection]) -> None:
        self._lines = lines

    def __len__(self) -> int:
        return len(self._lines)

    async def work(self, jobs: Sequence[Job]) -> None:
        """Let as many processes as there are jobs do them, all at once. Raises what one of them raised."""
        lines = self._lines[: len(jobs)]
        for line, job in zip(lines, jobs, strict=True):
            line.send(job)
        answers = await asyncio.gather(*(asyncio.to_thread(_answer, line) for line in lines))
        for failed in answers:
            if failed is not None:
                raise AssertionError(f"a consumer failed: {failed}")


def _answer(line: Connection) -> str | None:
    assert line.poll(PATIENCE_S), f"a consumer did not answer for {PATIENCE_S:.0f} s"
    failed: str | None = line.recv()
    return failed


@contextmanager
def consumers(count: int) -> Iterator[Consumers]:
    """Start `count` processes and end them afterwards."""
    context = multiprocessing.get_context("spawn")
    lines: list[Connection] = []
    processes: list[BaseProcess] = []
    try:
        for _ in range(count):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs,), daemon=True)
            process.start()
            theirs.close()
            lines.append(ours)
            processes.append(process)
        yield Consumers(lines)
    finally:
        for line in lines:
            line.close()
        for process in processes:
            process.join(10)
            process.kill()


def _serve(line: Connection) -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: a test run that is killed leaves nobody behind
    asyncio.run(_work_for_ever(line))


async def _work_for_ever(line: Connection) -> None:
    async with AsyncExitStack() as stack:
        database, pool = "", None
        while True:
            try:
                job: Job = await asyncio.to_thread(line.recv)
            except EOFError:
                return
            try:
                if pool is None or job.database != database:
                    if pool is not None:
                        pool.terminate()  # its database is gone
                    database, pool = job.database, await stack.enter_async_context(_opened(job.database))
                for batch in job.batches:
                    async with pool.acquire() as connection, connection.transaction():
                        await put_batch(connection, batch, job.secret, job.now)
            except Exception as error:
                line.send(repr(error))
            else:
                line.send(None)


@asynccontextmanager
async def _opened(database: str) -> AsyncIterator[asyncpg.Pool]:
    async with open_pool(Settings(_env_file=None), database) as pool:
        try:
            yield pool
        finally:
            pool.terminate()
