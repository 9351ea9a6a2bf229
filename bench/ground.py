"""What measurements stand on: a running `threadline up`, or a migrated database of their own, both temporary."""

from __future__ import annotations

import asyncio
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from services.cli.platform import open_platform, reach_database, with_secret
from shared import collector, directory
from shared.database.migrate import migrate
from shared.service import Platform
from shared.settings import Settings

ROOT = Path(__file__).resolve().parent.parent
COMMAND = (sys.executable, "-m", "services.cli.main")


@dataclass
class Up:
    """A running `threadline up`: its address, first key, process and how long it took to be ready, in seconds."""

    url: str
    key: str
    process: subprocess.Popen[bytes]
    started_s: float

    def client(self) -> httpx.AsyncClient:
        """Return a client with the first key."""
        headers = {"Authorization": f"Bearer {self.key}"}
        return httpx.AsyncClient(base_url=self.url, headers=headers, timeout=30, trust_env=False)


class Wire:
    """A caller that costs little: plain HTTP/1.1 over kept connections, lest its own work be measured."""

    def __init__(self, up: Up) -> None:
        self.port = int(up.url.rpartition(":")[2])
        self.key = up.key
        self.idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def call(self, method: str, path: str, body: bytes = b"", media: str = "") -> tuple[int, bytes]:
        """Make one call; return the status and the body of its answer."""
        kind = f"Content-Type: {media}\r\n" if media else ""
        head = (
            f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\nAuthorization: Bearer {self.key}\r\n"
            f"{kind}Content-Length: {len(body)}\r\n\r\n"
        )
        while True:
            kept = bool(self.idle)
            reader, writer = self.idle.pop() if kept else await asyncio.open_connection("127.0.0.1", self.port)
            writer.write(head.encode() + body)
            try:
                answer = await reader.readuntil(b"\r\n\r\n")
                break
            except (asyncio.IncompleteReadError, ConnectionError):
                # The server closes what was idle too long; every call here may be repeated.
                writer.close()
                if not kept:
                    raise
        length = next(int(one[15:]) for one in answer.lower().split(b"\r\n") if one.startswith(b"content-length:"))
        content = await reader.readexactly(length)
        self.idle.append((reader, writer))
        return int(answer[9:12]), content

    def close(self) -> None:
        """Close every idle connection."""
        for _, writer in self.idle:
            writer.close()


@asynccontextmanager
async def folder() -> AsyncIterator[Path]:
    """A temporary folder that the database server can enter."""
    path = directory.temporary("threadline-bench-")
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@asynccontextmanager
async def up(path: Path) -> AsyncIterator[Up]:
    """Run `threadline up` on `path`."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    began = time.perf_counter()
    process = spawn(path, port)
    try:
        url = f"http://127.0.0.1:{port}"
        await ready(url, process, path / "up.log")
        yield Up(url, (path / directory.ADMIN_KEY_FILE).read_text().strip(), process, time.perf_counter() - began)
    finally:
        process.terminate()
        process.wait(30)


def spawn(path: Path, port: int) -> subprocess.Popen[bytes]:
    """Start `threadline up` on `path`; what it prints goes to up.log there."""
    command = [*COMMAND, "up", "--data", str(path), "--port", str(port)]
    with (path / "up.log").open("ab") as out:
        return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=out, stderr=out)


async def ready(url: str, process: subprocess.Popen[bytes], told: Path | None = None) -> None:
    """Wait until /readyz says yes (or, without one, until anything answers)."""
    end = time.perf_counter() + 90
    async with httpx.AsyncClient(trust_env=False) as client:
        while time.perf_counter() < end:
            if process.poll() is not None:
                raise RuntimeError(f"the process ended with {process.returncode}; see {told}")
            try:
                if (await client.get(url + "/readyz", timeout=2)).status_code in (200, 404):
                    return
            except httpx.TransportError:
                pass
            await asyncio.sleep(0.005)
    raise RuntimeError("not ready after 90 s")


@asynccontextmanager
async def platform() -> AsyncIterator[Platform]:
    """The platform of a service in this process, on an embedded database of its own."""
    from contextlib import AsyncExitStack

    async with folder() as path, AsyncExitStack() as stack:
        settings = Settings(_env_file=None, data=path)
        reached = stack.enter_context(reach_database(settings, "bench", lasting=True))
        sealed = with_secret(reached.settings, database_is_ours=True)
        await migrate(sealed.dsn())
        collector.settle()  # as a service does
        yield await open_platform(sealed, stack, name="threadline bench")


@asynccontextmanager
async def beside(path: Path) -> AsyncIterator[Platform]:
    """The platform of this process beside the `threadline up` that runs on `path`."""
    from contextlib import AsyncExitStack

    async with AsyncExitStack() as stack:
        reached = stack.enter_context(reach_database(Settings(_env_file=None, data=path), "bench", begun=True))
        sealed = with_secret(reached.settings, database_is_ours=True)
        yield await open_platform(sealed, stack, name="threadline bench")


def memory_bytes(pid: int) -> int:
    """Return the proportional memory of a process and of all its children, in bytes (Linux)."""
    total = 0
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            total += int(line.split()[1]) * 1024
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            total += memory_bytes(int(child))
    return total
