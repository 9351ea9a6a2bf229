"""`threadline up` and the single services: one process, one event loop, one port."""

from __future__ import annotations

import asyncio
import errno
import importlib
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
import uvicorn

from services.cli.platform import DataOption, Reached, open_platform, reach_database, with_secret
from shared import directory, keys
from shared.database.migrate import migrate
from shared.errors import SetupError, ThreadlineError
from shared.service import Platform, Service
from shared.settings import Settings, load
from shared.telemetry import configure_logging, logger
from shared.web import create_app

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
ALL = ("ingest", "conversation", "metrics")
STOP_LIMIT_S = 3
"""Requests that are still running this long after a signal are cut off; event streams never end by themselves."""

HostOption = Annotated[str | None, typer.Option("--host", help="Address to listen on.", show_default=False)]
PortOption = Annotated[
    int | None,
    typer.Option("--port", min=0, max=65535, help="Port to listen on; 0 takes a free one.", show_default=False),
]


def up(data: DataOption = None, host: HostOption = None, port: PortOption = None) -> None:
    """Run ingest, conversation and metrics in one process on one port.

    Without THREADLINE_DATABASE_URL it runs its own PostgreSQL under the data directory; without THREADLINE_KAFKA the
    log is PostgreSQL too. Stops cleanly on SIGTERM and SIGINT.
    """
    serve("up", ALL, load(data=data, host=host, port=port))


def ingest(data: DataOption = None, host: HostOption = None, port: PortOption = None) -> None:
    """Run the ingest service alone."""
    serve("ingest", ["ingest"], load(data=data, host=host, port=port))


def conversation(data: DataOption = None, host: HostOption = None, port: PortOption = None) -> None:
    """Run the conversation service alone."""
    serve("conversation", ["conversation"], load(data=data, host=host, port=port))


def metrics(data: DataOption = None, host: HostOption = None, port: PortOption = None) -> None:
    """Run the metrics service alone."""
    serve("metrics", ["metrics"], load(data=data, host=host, port=port))


def serve(command: str, names: Sequence[str], settings: Settings, ready: Callable[[str], None] | None = None) -> None:
    """Run the services `names` until a signal comes. `ready` is called with the URL once requests are taken.

    Raises ThreadlineError with the one line that says why it could not start or go on.
    """
    json_lines = settings.log_format == "json" or (settings.log_format == "auto" and not sys.stderr.isatty())
    configure_logging(settings.log_level, json_lines=json_lines)
    # Until the loop listens for it: end through every context, so that a database just started is stopped.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with (
        listening(settings.host, settings.port) as listener,
        reach_database(settings, command, lasting=True, alone=command == "up") as reached,
    ):
        sealed = with_secret(reached.settings, database_is_ours=settings.database_url is None)
        _run(_main(command, names, Reached(sealed, reached.server), listener, ready))


def _run(main: Any) -> None:
    try:
        import uvloop
    except ImportError:  # where it has no wheel
        asyncio.run(main)
    else:
        uvloop.run(main)


@contextmanager
def listening(host: str, port: int) -> Iterator[socket.socket]:
    """Take the port, before anything slow is started. Raises SetupError where that is impossible."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (socket.gaierror, UnicodeError) as error:
        raise SetupError(f"the address {host} to listen on is not known; give another --host") from error
    with socket.socket(family, kind, protocol) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(address)
            # From here on callers wait a moment instead of being refused, and nobody else gets the port.
            listener.listen(2048)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise SetupError(f"port {port} of {host} is in use by another program; give another --port") from error
            reason = (error.strerror or str(error)).lower()
            raise SetupError(f"cannot listen on {host} port {port}: {reason}; give another --host or --port") from error
        yield listener


async def _main(
    command: str,
    names: Sequence[str],
    reached: Reached,
    listener: socket.socket,
    ready: Callable[[str], None] | None,
) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signum in STOP_SIGNALS:
        loop.add_signal_handler(signum, stop.set)
    settings = reached.settings
    await migrate(settings.dsn())
    async with AsyncExitStack() as stack:
        platform = await open_platform(settings, stack, name=f"threadline {command}")
        await _first_keys(platform, command)
        services = [await _build(name, platform, stack) for name in names]
        loops = [loop for service in services for loop in service.background]
        if reached.server is not None:
            loops.append(reached.server.supervise)

        def announce() -> None:
            url = _url(listener)
            _print_addresses(command, url, settings, services)
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
        for task in running:
            task.cancel()
        await asyncio.gather(*running, stopping, return_exceptions=True)
    for failed in [*served, *(task.exception() for task in ended if not task.cancelled())]:
        if isinstance(failed, ThreadlineError):
            raise failed
        if isinstance(failed, BaseException):
            logger().error("a part of the process failed", exc_info=failed)
            raise SetupError(f"stopped because a part failed: {type(failed).__name__}: {failed}") from failed
    if ended and not stop.is_set():
        raise SetupError("stopped because a background loop ended")


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    if host in ("0.0.0.0", "::"):  # noqa: S104 only compared
        host = "127.0.0.1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _print_addresses(command: str, url: str, settings: Settings, services: Sequence[Service]) -> None:
    lines = [f"Threadline ({command}) is ready at {url}"]
    lines += [f"  {title}: {url}{path}" for service in services for title, path in service.pages.items()]
    lines.append(f"  API description: {url}/openapi.json")
    if command == "up":
        lines.append(f"  first key: in {_shown(settings.data.expanduser().absolute() / directory.ADMIN_KEY_FILE)}")
    print("\n".join(lines), flush=True)


def _shown(path: Path) -> str:
    inside = os.path.relpath(path)
    return inside if not inside.startswith("..") else str(path)


async def _first_keys(platform: Platform, command: str) -> None:
    """Make the keys that settings and `up` promise: the bootstrap key, and the one in DIR/admin.key."""
    settings = platform.settings
    async with platform.pool.acquire() as connection:
        if settings.bootstrap_key is not None:
            await keys.ensure_bootstrap_key(connection, settings.bootstrap_key.get_secret_value())
        if command == "up":
            key = directory.admin_key(directory.prepare(settings.data), keys.new_key)
            await keys.create_key(connection, keys.DEFAULT_TENANT, [keys.ADMIN], label=keys.FIRST_LABEL, key=key)
