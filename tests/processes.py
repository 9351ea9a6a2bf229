"""Threadline as real processes, for tests that treat it as a stranger would: by its command and its public API."""

from __future__ import annotations

import asyncio
import ctypes
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from shared import directory

ROOT = Path(__file__).resolve().parent.parent
COMMAND = (sys.executable, "-c", "from services.cli.main import main; main()")
START_S = 60.0


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _end_with_parent() -> None:
    # A test run that is killed must not leave servers behind: PR_SET_PDEATHSIG.
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)


def environment(given: Mapping[str, str]) -> dict[str, str]:
    """The environment of a process of ours: nothing of THREADLINE_ but what is given."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("THREADLINE_") or k == "THREADLINE_POSTGRES_BIN"}
    return {**kept, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", **given}


def run(
    *arguments: str, env: Mapping[str, str] | None = None, timeout_s: float = 120
) -> subprocess.CompletedProcess[str]:
    """Run one `threadline` command to its end."""
    return subprocess.run(
        [*COMMAND, *arguments], cwd=ROOT, env=environment(env or {}), capture_output=True, text=True, timeout=timeout_s
    )


class DidNotStart(AssertionError):
    """The process ended, or was not ready in time; carries what it printed."""


@dataclass
class Process:
    """One `threadline` process, its port and what it prints."""

    arguments: Sequence[str]
    folder: Path
    env: Mapping[str, str] = field(default_factory=dict)
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def output(self) -> Path:
        return self.folder / f"{self.arguments[0]}-{self.port}.out"

    def spawn(self) -> None:
        """Start the process without waiting until it is ready."""
        assert self.process is None or self.process.poll() is not None, "already running"
        with self.output.open("ab") as out:
            self.process = subprocess.Popen(
                [*COMMAND, *self.arguments, "--port", str(self.port)], cwd=ROOT, env=environment(self.env),
                stdin=subprocess.DEVNULL, stdout=out, stderr=out, preexec_fn=_end_with_parent,
            )  # fmt: skip

    async def ready(self, timeout_s: float = START_S) -> None:
        """Wait until /readyz says yes. Raises DidNotStart."""
        assert self.process is not None
        deadline, last = time.monotonic() + timeout_s, "nothing"
        async with httpx.AsyncClient(trust_env=False) as client:
            while time.monotonic() < deadline:
                if self.process.poll() is not None:
                    raise DidNotStart(f"ended with {self.process.returncode}:\n{self.tail()}")
                try:
                    answer = await client.get(f"{self.url}/readyz", timeout=2)
                    if answer.status_code == 200:
                        return
                    last = answer.text
                except httpx.TransportError as error:
                    last = repr(error)
                await asyncio.sleep(0.05)
        raise DidNotStart(f"not ready after {timeout_s} s ({last}):\n{self.tail()}")

    async def start(self) -> None:
        """Start the process and wait until it is ready."""
        self.spawn()
        await self.ready()

    def signal(self, number: int) -> None:
        """Send a signal to this process alone."""
        assert self.process is not None
        self.process.send_signal(number)

    def kill(self) -> None:
        """kill -9, and wait for the end."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(30)

    def stop(self, timeout_s: float = 30) -> int:
        """SIGTERM, wait for a clean end and return the exit code; kill -9 when it does not come."""
        if self.process is None or self.process.poll() is not None:
            return self.process.returncode if self.process else 0
        self.process.send_signal(signal.SIGCONT)  # a stopped one would not hear
        self.process.terminate()
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(30)
            return -signal.SIGKILL

    def tail(self) -> str:
        """Return the end of what the process printed."""
        return self.output.read_text(errors="replace")[-4000:] if self.output.exists() else "(nothing printed)"


@dataclass(frozen=True)
class Answer:
    """One HTTP answer."""

    status_code: int
    headers: Mapping[str, str]
    content: bytes

    @property
    def text(self) -> str:
        return self.content.decode(errors="replace")

    def json(self) -> Any:
        return json.loads(self.content)


class Caller:
    """One kept connection to one service for one tenant: for thousands of calls, which httpx makes ten times dearer."""

    def __init__(self, process: Process, key: str) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", process.port, timeout=60)
        self.headers = {"Authorization": f"Bearer {key}"}

    def call(self, method: str, path: str, body: bytes | None = None, content_type: str | None = None) -> Answer:
        """Make one call and return its answer."""
        headers = {**self.headers, **({"Content-Type": content_type} if content_type else {})}
        self.connection.request(method, path, body, headers)
        answer = self.connection.getresponse()
        named = {name.lower(): value for name, value in answer.getheaders()}
        return Answer(answer.status, named, answer.read())

    def __enter__(self) -> Caller:
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()


@dataclass
class System:
    """A running Threadline: where its services answer, its processes, and keys for tenants."""

    ingest: Process
    conversation: Process
    metrics: Process
    cli_env: Mapping[str, str]
    cli_data: Sequence[str]
    keys: dict[str, str] = field(default_factory=dict)

    @property
    def processes(self) -> list[Process]:
        return list({id(one): one for one in (self.ingest, self.conversation, self.metrics)}.values())

    def key(self, tenant: str) -> str:
        """Return an admin key for `tenant`, made on first use with `threadline keys create`."""
        if tenant not in self.keys:
            made = run("keys", "create", "--tenant", tenant, "--scope", "admin", *self.cli_data, env=self.cli_env)
            assert made.returncode == 0, made.stderr
            self.keys[tenant] = made.stdout.strip()
        return self.keys[tenant]

    def caller(self, tenant: str, process: Process) -> Caller:
        """Return a connection to one service for one tenant."""
        return Caller(process, self.key(tenant))

    def client(self, tenant: str, process: Process, **options: Any) -> httpx.AsyncClient:
        """Return a client of one service for one tenant."""
        return httpx.AsyncClient(
            base_url=process.url, headers={"Authorization": f"Bearer {self.key(tenant)}"}, timeout=30, trust_env=False,
            **options,
        )  # fmt: skip

    def verify(self, timeout_s: int = 60) -> subprocess.CompletedProcess[str]:
        """Run `threadline verify`."""
        return run("verify", "--timeout", str(timeout_s), *self.cli_data, env=self.cli_env, timeout_s=timeout_s + 120)

    def verified(self, timeout_s: int = 120) -> None:
        """`threadline verify`, which first waits for the log's end, has nothing to say."""
        checked = self.verify(timeout_s)
        said = checked.stdout + checked.stderr
        assert checked.returncode == 0 and not said, said


@asynccontextmanager
async def up(folder: Path, env: Mapping[str, str] | None = None) -> AsyncIterator[System]:
    """Run `threadline up` on `folder`; whatever still runs at the end is stopped."""
    process = Process(("up", "--data", str(folder)), folder, env or {})
    system = System(process, process, process, env or {}, ("--data", str(folder)))
    try:
        await process.start()
        yield system
    except BaseException:
        print(process.tail())  # pytest shows it with the failure
        raise
    finally:
        process.stop()


@asynccontextmanager
async def up_for_a_module(name: str, env: Mapping[str, str] | None = None) -> AsyncIterator[System]:
    """Run `threadline up` on a new folder, gone afterwards: for fixtures that several tests share."""
    folder = directory.temporary(f"threadline {name} ")
    try:
        async with up(folder, env) as system:
            yield system
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@asynccontextmanager
async def apart(folder: Path, env: Mapping[str, str]) -> AsyncIterator[System]:
    """Run the three services as three processes on a given database and broker (`env`)."""
    one, two, three = (
        Process((name, "--data", str(folder)), folder, env) for name in ("ingest", "conversation", "metrics")
    )
    system = System(one, two, three, env, ("--data", str(folder)))
    try:
        for process in system.processes:
            process.spawn()
        for process in system.processes:
            await process.ready()
        yield system
    except BaseException:
        for process in system.processes:
            print(process.tail())
        raise
    finally:
        for process in system.processes:
            process.stop()


def servers_of(folder: Path) -> list[int]:
    """Return the pids of processes of this machine whose command line or working folder names `folder`."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            told = (entry / "cmdline").read_bytes().decode(errors="replace") + str((entry / "cwd").readlink())
        except OSError:
            continue
        if str(folder) in told:
            found.append(int(entry.name))
    return found


@contextmanager
def stopped(process: Process) -> Iterator[None]:
    """Freeze a process (SIGSTOP) inside the context."""
    process.signal(signal.SIGSTOP)
    try:
        yield
    finally:
        process.signal(signal.SIGCONT)
