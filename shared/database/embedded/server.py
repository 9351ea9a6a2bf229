"""A running server: started, watched, started again when it dies, stopped."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from shared import directory as directories
from shared.database.embedded.account import Account, choose_account, die_with_parent, environment, identity
from shared.database.embedded.binaries import Binaries, find_binaries, reachable
from shared.database.embedded.cluster import (
    CLUSTER,
    USER,
    check_version,
    create_cluster,
    last_line,
    password_of,
    pid_file_lines,
)
from shared.database.embedded.leftovers import ORPHAN_LIMIT_S, STOP_LIMIT_S, stop_left_server
from shared.errors import SetupError

SERVER_LOG = "postgres.log"
DATABASE = "postgres"
"""The database that initdb makes: nobody else uses this cluster."""
START_LIMIT_S = 60.0
"""Crash recovery after a kill may read gigabytes of WAL; a cold start takes well under a second."""
LOG_LIMIT_BYTES = 10 * 1024 * 1024
CONFIGURATION: Mapping[str, str] = {
    # Durable: a commit that was answered survives a power cut.
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    # Sized for a laptop.
    "max_connections": "100",
    "shared_buffers": "128MB",
    "effective_cache_size": "1GB",
    "work_mem": "16MB",
    "maintenance_work_mem": "128MB",
    "wal_buffers": "16MB",
    "min_wal_size": "128MB",
    "max_wal_size": "2GB",
    "checkpoint_timeout": "10min",
    "random_page_cost": "1.1",
    # Statements here are short; compiling or splitting them over processes costs more than it gives, and parallel
    # workers need shared memory that containers often do not grant.
    "jit": "off",
    "max_parallel_workers_per_gather": "0",
    "autovacuum": "on",
    "autovacuum_naptime": "15s",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "datestyle": "ISO, YMD",
    "log_min_messages": "warning",
    "log_checkpoints": "off",
    "log_line_prefix": "%m [%p] ",
    # One door: loopback with a password.
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "password_encryption": "scram-sha-256",
}


@dataclass(slots=True)
class Server:
    """A running server. `url` is its address with the password: never print it."""

    url: str
    port: int
    cluster: Path
    _start: Callable[[], subprocess.Popen[bytes]]
    _process: subprocess.Popen[bytes] = field(repr=False)
    _stopping: bool = False

    @property
    def pid(self) -> int:
        """Process id of the postmaster."""
        return self._process.pid

    async def supervise(self, poll_s: float = 0.5) -> None:
        """Start the server again, on the same port, whenever it is gone. Runs until cancelled. Raises SetupError."""
        while True:
            await asyncio.sleep(poll_s)
            if not self._stopping and self._process.poll() is not None:
                # A thread of the default executor: it lives as long as the loop, and with it the server.
                self._process = await asyncio.to_thread(self._restart)

    def _restart(self) -> subprocess.Popen[bytes]:
        stop_left_server(self.cluster)
        return self._start()

    def stop(self) -> None:
        """Stop the server and wait for its end."""
        self._stopping = True
        for signum, limit_s in ((signal.SIGINT, STOP_LIMIT_S), (signal.SIGQUIT, 10.0), (signal.SIGKILL, 10.0)):
            if self._process.poll() is not None:
                return
            self._process.send_signal(signum)
            try:
                self._process.wait(limit_s)
            except subprocess.TimeoutExpired:
                continue


@contextmanager
def running(
    directory: Path,
    *,
    binaries: Path | None = None,
    overrides: Mapping[str, str] | None = None,
    checkpoint: Callable[[], None] = lambda: None,
) -> Iterator[Server]:
    """Run the server of `directory` (prepared and held by the caller) inside the context. Raises SetupError.

    `checkpoint` is called again and again while it starts; what it raises ends the start.

    Other processes find it through `shared.directory.offered`. Blocks for the start (under a second, 2 s the first
    time) and the stop. Must be entered from a thread that lives as long as the context: on Linux the server shuts down
    when that thread is gone.
    """
    programs = find_binaries(binaries)
    cluster = directory / CLUSTER
    account = choose_account(directory, cluster) if os.geteuid() == 0 else None
    programs = reachable(programs, directory, account)
    stop_left_server(cluster, checkpoint)
    password = password_of(directory, cluster)
    if not (cluster / "PG_VERSION").exists():
        create_cluster(directory, cluster, programs, account, password, checkpoint)
    check_version(cluster, programs)
    configuration = {**CONFIGURATION, **(overrides or {})}

    server: Server | None = None
    for attempt in range(5):
        port = _free_port()

        def start(port: int = port, checkpoint: Callable[[], None] = lambda: None) -> subprocess.Popen[bytes]:
            return _start(directory, cluster, programs, account, {**configuration, "port": str(port)}, checkpoint)

        try:
            process = start(checkpoint=checkpoint)
        except _PortTaken:
            if attempt == 4:
                raise
            continue  # somebody took the port between our look and the server's bind
        url = f"postgresql://{USER}:{password}@127.0.0.1:{port}/{DATABASE}"
        server = Server(url, port, cluster, start, process)
        break
    assert server is not None
    try:
        directories.offer(directory, server.url)
        yield server
    finally:
        server.stop()


class _PortTaken(SetupError):
    pass


def _start(
    directory: Path,
    cluster: Path,
    programs: Binaries,
    account: Account | None,
    configuration: Mapping[str, str],
    checkpoint: Callable[[], None],
) -> subprocess.Popen[bytes]:
    """Start the server and wait until it takes connections. Raises SetupError, _PortTaken."""
    settings = [part for name, value in configuration.items() for part in ("-c", f"{name}={value}")]
    log_path = directory / SERVER_LOG
    if log_path.exists() and log_path.stat().st_size > LOG_LIMIT_BYTES:
        log_path.replace(log_path.with_suffix(".log.1"))
    with log_path.open("ab") as log:
        begin = log.tell()
        process: subprocess.Popen[bytes] = subprocess.Popen(  # noqa: S603 our own command
            [programs.postgres, "-D", str(cluster), *settings],
            cwd="/",
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            umask=0o077,
            start_new_session=True,  # a Ctrl-C at the terminal is for us; we stop the server when we are done with it
            preexec_fn=die_with_parent(signal.SIGINT),  # a fast shutdown
            **identity(account),
        )
    deadline = time.monotonic() + START_LIMIT_S
    try:
        while not is_ready(cluster, process.pid):
            checkpoint()
            if process.poll() is not None:
                said = _tail(log_path, begin)
                if "could not bind" in said or "Address already in use" in said:
                    raise _PortTaken(f"PostgreSQL found no free port: {last_line(said)}")
                raise SetupError(f"PostgreSQL did not start: {last_line(said)} (see {log_path})")
            if time.monotonic() > deadline:
                raise SetupError(f"PostgreSQL did not get ready within {START_LIMIT_S:.0f} s (see {log_path})")
            time.sleep(0.01)
    except BaseException:
        if process.poll() is None:
            process.send_signal(signal.SIGQUIT)
            process.wait(ORPHAN_LIMIT_S)
        raise
    return process


def is_ready(cluster: Path, pid: int) -> bool:
    """Say whether the server with the id `pid` takes connections."""
    # The server's own word, which pg_ctl waits for as well: the eighth line of its pid file.
    lines = pid_file_lines(cluster)
    return len(lines) >= 8 and lines[0].strip() == str(pid) and lines[7].strip() == "ready"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _tail(path: Path, begin: int) -> str:
    with path.open("rb") as file:
        file.seek(begin)
        return file.read().decode(errors="replace")
