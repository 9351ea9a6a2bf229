"""`threadline up` and the single services: one process, one event loop, one port."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import importlib
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated

import typer

from services.cli.platform import DataOption, Reached, reach_database, with_secret
from services.cli.stopping import Stop
from shared import collector
from shared.errors import SetupError
from shared.settings import Settings, load

ALL = ("ingest", "conversation", "metrics")

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
    stop = Stop()
    with (
        listening(settings.host, settings.port) as listener,
        _imported(names) as imported,
        reach_database(settings, command, lasting=True, alone=command == "up", checkpoint=stop.check) as reached,
    ):
        sealed = with_secret(reached.settings, database_is_ours=settings.database_url is None)
        imported()
        stop.check()
        _run_process(command, names, Reached(sealed, reached.server), listener, stop, ready)


@contextmanager
def _imported(names: Sequence[str]) -> Iterator[Callable[[], None]]:
    """Import what the process needs while the database starts, which takes about as long.

    The database is started by this thread, the main one, because the server ends with the thread that started it.
    """

    def work() -> None:
        # What is wrong with a module is raised again, and told, where it is imported for use.
        with contextlib.suppress(Exception):
            importlib.import_module("services.cli.process")
            for name in names:
                importlib.import_module(f"services.{name}.app")

    def imported() -> None:
        thread.join()
        collector.settle()

    gc.disable()  # while importing, nothing becomes garbage that is worth the looking
    # A daemon, so that a start that fails or is interrupted does not wait for modules that nobody will use.
    thread = threading.Thread(target=work, name="imports", daemon=True)
    thread.start()
    yield imported


def _run_process(
    command: str,
    names: Sequence[str],
    reached: Reached,
    listener: socket.socket,
    stop: Stop,
    ready: Callable[[str], None] | None,
) -> None:
    from services.cli import process
    from shared.telemetry import configure_logging

    settings = reached.settings
    json_lines = settings.log_format == "json" or (settings.log_format == "auto" and not sys.stderr.isatty())
    configure_logging(settings.log_level, json_lines=json_lines)
    running = process.run(command, names, reached, listener, stop, ready)
    try:
        import uvloop
    except ImportError:  # where it has no wheel
        asyncio.run(running)
    else:
        uvloop.run(running)


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
