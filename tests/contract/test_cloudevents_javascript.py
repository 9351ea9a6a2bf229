"""What the CloudEvents SDK for JavaScript posts, ingest accepts: every mode, over a socket."""

from __future__ import annotations

import asyncio
import json
import subprocess
from pathlib import Path

import asyncpg
import pytest

from shared.settings import Settings
from tests.conftest import ROOT, needs
from tests.ingest_app import running_ingest
from tests.serving import on_a_port

FOLDER = ROOT / "tests" / "javascript"

pytestmark = needs("node")


@pytest.fixture(scope="module")
def installed() -> Path:
    """The folder with the locked packages in it; `npm ci` runs where they are missing or older than their lock."""
    marker, lock = FOLDER / "node_modules" / ".package-lock.json", FOLDER / "package-lock.json"
    if not marker.exists() or marker.stat().st_mtime < lock.stat().st_mtime:
        subprocess.run(["npm", "ci", "--no-progress"], cwd=FOLDER, check=True, timeout=240)
    return FOLDER


async def test_events_of_the_sdk_are_accepted_in_every_mode(
    pool: asyncpg.Pool, settings: Settings, installed: Path
) -> None:
    async with running_ingest(pool, settings) as ingest, on_a_port(ingest.app) as url:
        node = await asyncio.create_subprocess_exec(
            "node", "post.mjs", url, ingest.keys["events:write"], cwd=installed,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        out, complaints = await asyncio.wait_for(node.communicate(), 120)
        assert node.returncode == 0, complaints.decode()
        answers = [json.loads(line) for line in out.splitlines()]
        ids = [["binary"], ["structured"], ["batch-1", "batch-2"]]
        assert answers == [
            {"status": 202, "body": {"accepted": [{"source": "/chat/acme", "id": id} for id in some]}} for some in ids
        ]
        events = await ingest.inbound()
    assert [event.id for event in events] == ["binary", "structured", "batch-1", "batch-2"]
    for event in events:
        assert event.data["text"] == 'Grüße, "quoted" 100 % \\ 👋'
        assert event.data["customer"]["handles"][0]["value"] == "Ann@Example.com"
        assert event.subject == "Where is it?"
        assert event.occurred_at.isoformat() == "2026-03-03T08:02:00.250000+00:00"
        assert event.traceparent == "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
