"""One running process: the event loop with its services, from the first migration to the last answer."""

from __future__ import annotations

import asyncio
import importlib
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Any

import uvicorn

from services.cli.platform import Reached, open_platform
from services.cli.stopping import Stop
from shared import directory, keys
from shared.database.migrate import migrate
from shared.errors import SetupError, ThreadlineError
from shared.service import Platform, Service
from shared.settings import Settings
from shared.telemetry import logger
from shared.web import create_app

STOP_LIMIT_S = 3
"""Requests that are still running this long after a signal are cut off; event streams never end by themselves."""


async def run(
    command: str,
    names: Sequence[str],
    reached: Reached,
    listener: socket.socket,
    told: Stop,
    ready: Callable[[str], None] | None,
) -> None:
    """Run the services `names` on `listener` until a signal comes; `ready` is called with the URL once it is served.

    Raises ThreadlineError with the reason why it could not start or go on.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signum in told.signals():
        loop.add_signal_handler(signum, stop.set)
    told.check()  # what came before the loop listened
    settings = reached.settings
    await migrate(settings.dsn())
    async with AsyncExitStack() as stack:
        platform = await open_platform(settings, stack, name=f"threadline {command}")
        own_folder = command == "up" or reached.server is not None
        await _first_keys(platform, own_folder)
        services = [await _build(name, platform, stack) for name in names]
        loops = [loop for service in services for loop in service.background]
        if reached.server is not None:
            loops.append(reached.server.supervise)

        def announce() -> None:
            url = _url(listener)
            _tell_address(settings.data, url, names)
            _print_addresses(command, url, settings, services, own_folder)
            if ready is not None:
                ready(url)

        server = _Server(
            uvicorn.Config(
                create_app(platform, services),
                http="httptools",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=STOP_LIMIT_S,
                backlog=2048,
            ),
            announce,
        )
        await _until_stopped(server, listener, loops, stop)


async def _build(name: str, platform: Platform, stack: AsyncExitStack) -> Service:
    build = importlib.import_module(f"services.{name}.app").build
    service: Service = await build(platform, stack)
    return service


class _Server(uvicorn.Server):
    """uvicorn, told to stop by us: it would take the signals for itself and raise them again afterwards."""

    def __init__(self, config: uvicorn.Config, announce: Callable[[], None]) -> None:
        super().__init__(config)
        self.announce = announce

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.announce()


async def _until_stopped(
    server: _Server,
    listener: socket.socket,
    loops: Sequence[Callable[[], Any]],
    stop: asyncio.Event,
) -> None:
    """Serve until `stop` is set, or until a loop or the server ends by itself, which is a failure."""
    serving = asyncio.create_task(server.serve(sockets=[listener]), name="http")
    running = [asyncio.ensure_future(loop()) for loop in loops]
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait([serving, stopping, *running], return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopping.cancel()
        ended = [task for task in running if task.done()]
        # First no new requests, then no new work, then (the caller's stack) what both stand on.
        server.should_exit = True
        served = await asyncio.gather(serving, return_exceptions=True)
        await _end(running)
    for failed in [*served, *(task.exception() for task in ended if not task.cancelled())]:
        if isinstance(failed, ThreadlineError):
            raise failed
        if isinstance(failed, BaseException):
            logger().error("a part of the process failed", exc_info=failed)
            raise SetupError(f"stopped because a part failed: {type(failed).__name__}: {failed}") from failed
    if ended and not stop.is_set():
        raise SetupError("stopped because a background loop ended")


async def _end(tasks: Sequence[asyncio.Future[Any]]) -> None:
    """Cancel `tasks` and wait for them. Some libraries swallow a cancellation now and then, so it is said again."""
    for _ in range(STOP_LIMIT_S * 2):
        pending = [task for task in tasks if not task.done()]
        if not pending:
            return
        for task in pending:
            task.cancel()
        await asyncio.wait(pending, timeout=0.5)
    logger().warning("background loops did not end", count=sum(not task.done() for task in tasks))


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    if host in ("0.0.0.0", "::"):  # noqa: S104 only compared
        host = "127.0.0.1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _print_addresses(command: str, url: str, settings: Settings, services: Sequence[Service], own_folder: bool) -> None:
    lines = [f"Threadline ({command}) is up at {url}"]
    lines += [f"  {title}: {url}{path}" for service in services for title, path in service.pages.items()]
    lines.append(f"  API description: {url}/openapi.json")
    if own_folder:
        lines.append(f"  first key: in {_shown(settings.data.expanduser().absolute() / directory.ADMIN_KEY_FILE)}")
    print("\n".join(lines), flush=True)


def _tell_address(data: Path, url: str, names: Sequence[str]) -> None:
    """Let commands beside this process say where its webhooks are, where it holds the data directory."""
    folder = data.expanduser()
    holder = directory.holder_of(folder)
    if "ingest" in names and holder is not None and holder.pid == os.getpid():
        directory.serve_at(folder, url)


def _shown(path: Path) -> str:
    inside = os.path.relpath(path)
    return inside if not inside.startswith("..") else str(path)


async def _first_keys(platform: Platform, own_folder: bool) -> None:
    """Make the bootstrap key where the settings have one, and with a folder of its own the key in DIR/admin.key."""
    settings = platform.settings
    async with platform.pool.acquire() as connection:
        if settings.bootstrap_key is not None:
            await keys.ensure_bootstrap_key(connection, settings.bootstrap_key.get_secret_value())
        if own_folder:
            key = directory.admin_key(directory.prepare(settings.data), keys.new_key)
            await keys.create_key(connection, keys.DEFAULT_TENANT, [keys.ADMIN], label=keys.FIRST_LABEL, key=key)
