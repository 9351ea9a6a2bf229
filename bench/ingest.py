"""Accepted events per second over HTTP, singly and in batches of 100, beside a bare route on the same log.

`python -m bench.ingest [--kafka HOST:PORT] [--seconds S]` starts a real `threadline ingest` and a real bare server on
one database (and broker), loads them in turns from this process over loopback, and prints medians and their ratios.
The ratio to the bare route in the same run is the figure; events per second depend on the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from time import perf_counter
from urllib.parse import urlsplit

import orjson
import uvloop

from bench.report import Row, show
from shared import directory

KEY = "bench-key-" + "k" * 32
STRUCTURED = "application/cloudevents+json"
BATCH = "application/cloudevents-batch+json"
BATCH_SIZE = 100
ROUNDS = 3
CALLERS = 32


def an_event(number: int) -> dict[str, object]:
    """Return an event of about the size of a real chat message (700 bytes)."""
    return {
        "specversion": "1.0",
        "id": f"bench-{number}",
        "source": "/chat/bench",
        "type": "threadline.message.received",
        "time": "2026-03-03T08:02:00.123456Z",
        "datacontenttype": "application/json",
        "data": {
            "channel": "chat",
            "customer": {
                "handles": [
                    {"kind": "visitor", "value": f"v{number % 1000}", "verified": True},
                    {"kind": "email", "value": f"person{number % 1000}@example.com", "verified": False},
                ],
                "name": "Norman Minh",
            },
            "actor": {"type": "customer"},
            "message_id": f"chat-{number}",
            "contact_id": f"s{number % 5000}",
            "text": "Some criminal withdrew 300 dollars from an ATM using my lost debit card! " * 3,
        },
    }


def request(port: int, body: bytes, media_type: str) -> bytes:
    """Return a whole HTTP/1.1 request."""
    head = (
        f"POST /v1/events HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: Bearer {KEY}\r\n"
        f"Content-Type: {media_type}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def answer(reader: asyncio.StreamReader) -> int:
    """Read one answer to its end and return its status."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
    await reader.readexactly(length)
    return int(head[9:12])


async def load(port: int, batch: int, seconds: float) -> float:
    """Return events per second that the server accepts from callers who each wait for their 202 before the next."""
    done = 0
    end = perf_counter() + seconds

    async def caller(number: int) -> None:
        nonlocal done
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while perf_counter() < end:
            number += 1_000_000
            events = [an_event(number + n) for n in range(batch)]
            body, kind = (orjson.dumps(events), BATCH) if batch > 1 else (orjson.dumps(events[0]), STRUCTURED)
            writer.write(request(port, body, kind))
            status = await answer(reader)
            if status != 202:
                raise RuntimeError(f"the server answered {status}")
            done += batch
        writer.close()

    began = perf_counter()
    await asyncio.gather(*(caller(number * 1000) for number in range(CALLERS if batch == 1 else 4)))
    return done / (perf_counter() - began)


@contextmanager
def server(*command: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """Run a server until the end of the context."""
    process = subprocess.Popen(
        [sys.executable, *command], stdout=subprocess.PIPE, text=True, env={**os.environ, **environment}
    )
    try:
        yield process
    finally:
        process.terminate()
        process.wait(30)


def first_line(process: subprocess.Popen[str]) -> str:
    """Return the first line that the server prints. Raises RuntimeError where it ends instead."""
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise RuntimeError(f"the server ended with {process.wait()}")
    return line.strip()


async def measure(ports: dict[str, int], seconds: float) -> dict[tuple[str, int], float]:
    """Return the median rate by (server, batch size); the servers take turns, so that drift meets all alike."""
    rates: dict[tuple[str, int], list[float]] = {}
    for batch in (1, BATCH_SIZE):
        for port in ports.values():
            await load(port, batch, seconds / 2)  # warm
        for _ in range(ROUNDS):
            for name, port in ports.items():
                rates.setdefault((name, batch), []).append(await load(port, batch, seconds))
    return {key: statistics.median(values) for key, values in rates.items()}


def run(folder: Path, kafka: str | None, seconds: float) -> dict[tuple[str, int], float]:
    """Start both servers on one database and measure them."""
    environment = {"THREADLINE_BOOTSTRAP_KEY": KEY, "THREADLINE_LOG_LEVEL": "warning"}
    if kafka:
        environment["THREADLINE_KAFKA"] = kafka
    with ExitStack() as stack:
        command = ("-m", "services.cli.main", "ingest", "--data", str(folder), "--port", "0")
        ours = first_line(stack.enter_context(server(*command, **environment)))
        database = directory.offered(folder)
        assert database is not None
        options = ("--kafka", kafka) if kafka else ()
        bare = first_line(stack.enter_context(server("-m", "bench._bare_ingest", "--database", database, *options)))
        ports = {"bare": int(bare), "threadline": urlsplit(ours.rpartition(" ")[2]).port or 0}
        return uvloop.run(measure(ports, seconds))


def rows_of(log: str, kafka: str | None, seconds: float) -> list[Row]:
    """Measure over one log; four rows."""
    folder = directory.temporary("threadline-bench-")
    try:
        rates = run(folder, kafka, seconds)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    bare = "bare FastAPI + aiokafka" if kafka else "bare FastAPI + the same log"
    rows = []
    for batch, title in ((1, "singly"), (BATCH_SIZE, f"in batches of {BATCH_SIZE}")):
        name = f"accepted {title}, {log} log"
        rows.append(Row(name, rates["threadline", batch], "events/s", f"{bare}, {title}", rates["bare", batch]))
    rows.append(Row(name, rates["threadline", BATCH_SIZE], "events/s", f"{bare}, singly", rates["bare", 1]))
    return rows


def rows(seconds: float = 4.0, kafka: str | None = None) -> list[Row]:
    """Measure over PostgreSQL, and over Kafka: the broker given, or one started here where Java and Maven are."""
    measured = rows_of("PostgreSQL", None, seconds)
    if kafka is not None:
        return measured + rows_of("Kafka", kafka, seconds)
    if shutil.which("java") and shutil.which("mvn"):
        from tests.kafka_broker import broker

        with broker() as started:
            measured += rows_of("Kafka", started.bootstrap, seconds)
    return measured


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kafka", help="bootstrap server; without it one is started where Java and Maven are")
    parser.add_argument("--seconds", type=float, default=4.0, help="length of one round")
    arguments = parser.parse_args()
    show(rows(arguments.seconds, arguments.kafka))


if __name__ == "__main__":
    main()
