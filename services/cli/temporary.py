"""A Threadline that lives as long as a command: `threadline up` on a temporary folder, gone at the end."""

from __future__ import annotations

import asyncio
import ctypes
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from shared import directory
from shared.errors import SetupError

READY_S = 90.0
FAVOURITE_PORT = 8080
PR_SET_PDEATHSIG = 1


async def on_a_temporary_folder(prefix: str, port: int, course: Callable[[str, str], Awaitable[None]]) -> None:
    """Run `course` with the URL and the first key of a new Threadline until it ends or a signal comes; then clean up.

    Raises SetupError where Threadline does not start or ends early, and what `course` raises.
    """
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    folder = directory.temporary(prefix)
    try:
        async with running(folder, port) as (url, server):
            key = (folder / directory.ADMIN_KEY_FILE).read_text().strip()
            await either(course(url, key), stop, server)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


async def either(course: Any, stop: asyncio.Event, server: asyncio.subprocess.Process) -> None:
    """Run `course` until it ends, a signal comes, or the server ends (which is a failure)."""
    running, stopping, ending = (
        asyncio.ensure_future(course),
        asyncio.create_task(stop.wait()),
        asyncio.create_task(server.wait()),
    )
    try:
        await asyncio.wait({running, stopping, ending}, return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            running.result()
        elif ending.done() and not stop.is_set():
            raise SetupError(f"`threadline up` ended with exit code {ending.result()}")
    finally:
        for task in (running, stopping, ending):
            task.cancel()
        await asyncio.gather(running, stopping, ending, return_exceptions=True)


@asynccontextmanager
async def running(folder: Path, port: int) -> AsyncIterator[tuple[str, asyncio.subprocess.Process]]:
    """Run `threadline up` on `folder` as a child that dies with us. Raises SetupError where it does not start."""
    told = folder / "up.log"
    with told.open("wb") as out:
        server = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "services.cli.main", "up", "--data", str(folder), "--port", str(port),
            stdin=subprocess.DEVNULL, stdout=out, stderr=out, preexec_fn=_die_with_parent, start_new_session=True,
        )  # fmt: skip
    try:
        url = f"http://127.0.0.1:{port}"
        await _ready(url, server, told)
        yield url, server
    finally:
        if server.returncode is None:
            server.terminate()
            try:
                await asyncio.wait_for(server.wait(), 20)
            except TimeoutError:
                server.kill()
                await server.wait()


async def _ready(url: str, server: asyncio.subprocess.Process, told: Path) -> None:
    end = asyncio.get_running_loop().time() + READY_S
    async with httpx.AsyncClient(trust_env=False) as client:
        while asyncio.get_running_loop().time() < end:
            if server.returncode is not None:
                raise SetupError(f"`threadline up` did not start: {_last_line(told)}")
            try:
                if (await client.get(f"{url}/readyz", timeout=2)).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            await asyncio.sleep(0.05)
    raise SetupError(f"`threadline up` was not ready after {READY_S:.0f} s: {_last_line(told)}")


def _last_line(told: Path) -> str:
    lines = told.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it said nothing"


def _die_with_parent() -> None:
    """Let the kernel end this child when its parent is killed (Linux; elsewhere nothing happens)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def free_port() -> int:
    """Return a port that nobody listens on, 8080 where that is free. Raises SetupError."""
    for wanted in (FAVOURITE_PORT, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", wanted))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise SetupError("no free port to listen on")
