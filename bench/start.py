"""Cold start and idle memory of `threadline up`, against a bare FastAPI application under uvicorn."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from bench import ground
from bench.report import Row, show

BARE = """
import socket, sys, fastapi, uvicorn
app = fastapi.FastAPI()
uvicorn.run(app, port=int(sys.argv[1]), log_level="error")
"""
IDLE_S = 5.0


async def measure() -> Sequence[Row]:
    """Start each once cold (new folder) and once again, and look at the memory when nothing happens."""
    bare_s, bare_bytes = await _bare()
    async with ground.folder() as path:
        async with ground.up(path) as first:
            cold_s = first.started_s
        async with ground.up(path) as again:
            warm_s = again.started_s
            await asyncio.sleep(IDLE_S)
            idle = ground.memory_bytes(again.process.pid) + _server_bytes(path.name, again.process.pid)
    bare = "bare FastAPI under uvicorn"
    return [
        Row("start on a new folder (initdb, migrations)", cold_s, "s", bare, bare_s),
        Row("start on the same folder again", warm_s, "s", bare, bare_s),
        Row("idle memory, PostgreSQL included (PSS)", idle / 2**20, "MiB", bare, bare_bytes / 2**20),
    ]


async def _bare() -> tuple[float, int]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    began = time.perf_counter()
    process = _spawn_bare(port)
    try:
        await ground.ready(f"http://127.0.0.1:{port}", process)
        took = time.perf_counter() - began
        return took, ground.memory_bytes(process.pid)
    finally:
        process.terminate()
        process.wait(30)


def _spawn_bare(port: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", BARE, str(port)], cwd=ground.ROOT)


def _server_bytes(folder: str, parent: int) -> int:
    """Return the memory of a PostgreSQL that serves `folder` without being a child of `parent`."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == parent:
            continue
        try:
            told = (entry / "cmdline").read_bytes().decode(errors="replace")
            status = (entry / "status").read_text()
        except OSError:
            continue
        if folder in told and "postgres" in told.split("\0")[0] and f"PPid:\t{parent}\n" not in status:
            return ground.memory_bytes(int(entry.name))
    return 0


def rows() -> Sequence[Row]:
    """Measure, and return the rows."""
    return asyncio.run(measure())


if __name__ == "__main__":
    show(rows())
