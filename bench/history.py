"""`threadline import` of a generated mailbox into a running `threadline up`: mails/s accepted, and until on timelines.

The import is a process of its own, as for a person who types it; both share the machine with PostgreSQL. The base is
what reading the mbox and making the events takes alone, in one process, without a server.
"""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

import orjson

from bench import ground, mailbox
from bench.report import Row, show
from services.cli.ledger import CONVERSATION_GROUP, wait_for_end
from services.ingest.importers import mbox
from services.ingest.importers.events import mail_account, mail_event
from shared.log.protocol import INBOUND

MAILS = 10_000
LAST = 200
"""Mails at the end of the mailbox that are looked for afterwards."""
LIMIT_S = 600
_DONE = re.compile(r"(\d+) of \1 imported in ([\d.]+) s")


async def measure(mails: int = MAILS) -> Sequence[Row]:
    """Import once and wait for the timelines."""
    async with ground.folder() as path, asyncio.timeout(LIMIT_S):
        box = path / "mailbox"
        with box.open("wb") as file:
            size_bytes = mailbox.write(file, mails)
        alone_s, last = _alone(box)
        async with ground.up(path) as up, ground.beside(path) as looking:
            began = time.perf_counter()
            took_s, peak_kib = await asyncio.to_thread(_import, box, up)
            # Told by the offsets: to ask for mails one by one took half a second when all were there already.
            end = time.monotonic() + LIMIT_S
            await wait_for_end(looking.pool, looking.log, CONVERSATION_GROUP, INBOUND, end, 0.02)
            whole_s = time.perf_counter() - began
            await _on_timelines(up, last)
    alone = "reading and making events alone"
    return [
        Row("import: accepted", mails / took_s, "mails/s", alone, mails / alone_s),
        Row("import: until on timelines", mails / whole_s, "mails/s", alone, mails / alone_s),
        Row("import: its peak memory", peak_kib / 1024, "MiB", "the mailbox", size_bytes / 2**20),
    ]


def _alone(box: Path) -> tuple[float, list[str]]:
    """Read and make events without posting them; return the seconds and the last ids."""
    account, ids = mail_account("import", (mailbox.DESK,)), []
    began = time.perf_counter()
    with box.open("rb") as file:
        for piece in mbox.read(file):
            ids = [*ids[1 - LAST :], mail_event(piece, account, datetime.now(UTC)).event]
    return time.perf_counter() - began, [orjson.loads(event)["id"] for event in ids]


def _import(box: Path, up: ground.Up) -> tuple[float, int]:
    """Run the command; return the seconds that it tells and its peak memory in KiB."""
    command = (*ground.COMMAND, "import", "mbox", str(box), "--url", up.url, "--own", mailbox.DESK)
    environment = {**os.environ, "THREADLINE_KEY": up.key}
    with subprocess.Popen(command, cwd=ground.ROOT, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        told = process.stdout.read()
        _, _, usage = os.wait4(process.pid, 0)
        process.returncode = 0
    done = _DONE.search(told)
    if done is None:
        raise RuntimeError(f"the import did not take everything: {told[-300:]}")
    return float(done[2]), usage.ru_maxrss


async def _on_timelines(up: ground.Up, ids: Sequence[str]) -> None:
    """Check that the last mails are where the offsets say that they are."""
    source = quote("/email_raw/import")
    async with up.client() as client:
        for one in ids:
            answer = await client.get(f"/v1/events/status?source={source}&id={quote(one)}")
            if answer.json().get("status") != "on_timeline":
                raise RuntimeError(f"{one}: {answer.status_code} {answer.text[:300]}")


def rows() -> Sequence[Row]:
    """Measure, and return the rows."""
    return asyncio.run(measure())


if __name__ == "__main__":
    show(rows())
