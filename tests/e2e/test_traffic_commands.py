"""`threadline simulate` and `threadline demo`, as somebody at a terminal uses them."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from playwright.async_api import async_playwright

from tests.browser import chromium
from tests.conftest import needs
from tests.e2e.dialogues import Dialogues, differences
from tests.faults import traffic
from tests.processes import COMMAND, ROOT, System, environment, free_port, run, up_for_a_module
from tests.waiting import until

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
async def system() -> AsyncIterator[System]:
    """A running Threadline."""
    async with up_for_a_module("traffic") as running:
        yield running


def simulate(system: System, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run("simulate", "--url", system.ingest.url, "--key", system.key(traffic.TENANT), *arguments)


async def test_what_simulate_posted_is_found_as_its_truth_says(system: System, tmp_path: Path) -> None:
    file = tmp_path / "truth.json"
    done = simulate(system, "--customers", "30", "--seed", "501", "--truth", str(file))
    assert done.returncode == 0, done.stderr
    told = json.loads(file.read_text())
    assert told["summary"]["customers"] == 30
    system.verified()
    true = Dialogues([], told["policy"], told["clusters"], told["events"])
    found = await traffic.stored(system)
    assert {what: wrong[:5] for what, wrong in differences(true, found).items() if wrong} == {}


async def test_live_traffic_keeps_its_rate_and_ends_in_time(system: System, tmp_path: Path) -> None:
    file = tmp_path / "truth.json"
    done = simulate(system, "--rate", "30", "--duration", "4", "--seed", "502", "--truth", str(file))
    assert done.returncode == 0, done.stderr
    # A busy machine may start late; it may not make up events.
    assert 40 <= len(json.loads(file.read_text())["events"]) <= 150


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--key", "nobody's"], 1, "does not take events with this key"),
        (["--url", f"http://127.0.0.1:{free_port()}", "--key", "any"], 1, "nothing answers at"),
        (["--mix", "nonsense=1", "--key", "any"], 2, "nonsense"),
        ([], 2, "no key"),
    ],
)
def test_simulate_says_in_one_line_what_is_wrong(system: System, arguments: list[str], code: int, words: str) -> None:
    done = run("simulate", "--url", system.ingest.url, *arguments)
    assert done.returncode == code
    assert words in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_simulate_shows_every_figure_of_its_mix() -> None:
    done = run("simulate", "--show-mix")
    assert done.returncode == 0
    assert "escalate_chat_email" in done.stdout


def test_demo_shows_customers_over_several_channels_and_leaves_nothing() -> None:
    done = run("demo", "--once", "--port", str(free_port()), "--customers", "60", timeout_s=240)
    assert done.returncode == 0, done.stderr
    assert re.search(r"/console#key=tl_[\w-]+$", done.stdout, re.M)
    assert re.search(
        r"\((\w+, ){2,}\w+\)\s+http://127\.0\.0\.1:\d+/console#key=[\w-]+&customer=[0-9a-f-]{36}", done.stdout
    )


async def test_demo_ends_cleanly_when_interrupted(tmp_path: Path) -> None:
    out = tmp_path / "demo.out"
    process = start_demo(out)
    try:
        await until(lambda: "Live traffic goes on" in out.read_text(), "the demo goes live", 120)
        children = children_of(process.pid)
        assert children
        process.send_signal(signal.SIGINT)
        await until(lambda: process.poll() is not None, "the demo ends", 40)
        await until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in children), "its server ends, too")
    finally:
        if process.poll() is None:
            process.kill()


@needs("chromium")
async def test_demo_tells_where_to_chat_and_what_is_said_there_is_on_a_timeline(tmp_path: Path) -> None:
    out = tmp_path / "demo.out"
    process = start_demo(out)
    try:
        await until(lambda: "Live traffic goes on" in out.read_text(), "the demo goes live", 120)
        found = re.search(r"^  chat as a visitor +((http://[\w.:]+)/chat/[\w-]+)$", out.read_text(), re.M)
        key = re.search(r"calls of your own: (\S+)", out.read_text())
        assert found and key, out.read_text()
        async with async_playwright() as playwright:
            browser = await playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
            page = await browser.new_page()
            refused: list[str] = []
            page.on("console", lambda told: refused.append(told.text) if told.type == "error" else None)
            await page.goto(found[1])
            await page.locator("#text").fill("Is anybody there?")
            await page.locator("#text").press("Enter")
            await page.locator("#lines .text", has_text="Is anybody there?").wait_for()
            headers = {"Authorization": f"Bearer {key[1]}"}
            async with httpx.AsyncClient(base_url=found[2], headers=headers, trust_env=False) as client:

                async def on_a_timeline() -> bool:
                    hits = (await client.get("/v1/search", params={"q": "anybody there"})).json()["hits"]
                    return any(hit["entry"]["source"] == "/chat/demo" for hit in hits)

                await until(on_a_timeline, "what was said in the chat is on a timeline")
            assert refused == []
            await browser.close()
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(40)


def start_demo(out: Path) -> subprocess.Popen[bytes]:
    """Start a small demo that goes on until it is told to end."""
    with out.open("wb") as file:
        return subprocess.Popen(
            [*COMMAND, "demo", "--port", str(free_port()), "--customers", "20", "--days", "1"],
            cwd=ROOT, env=environment({}), stdin=subprocess.DEVNULL, stdout=file, stderr=file,
        )  # fmt: skip


def children_of(pid: int) -> list[int]:
    """Return the pids of the children of a process, and theirs."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            found += [int(child), *children_of(int(child))]
    return found
