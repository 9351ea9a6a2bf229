"""The ops page in a real browser, over a real server; and a real Prometheus that scrapes it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import httpx
import pytest
import yaml

from shared.settings import Settings
from tests.conftest import ROOT, needs
from tests.kpi_timeline import posted, records_of
from tests.metrics_app import Metrics, running_metrics
from tests.processes import free_port
from tests.serving import on_a_port

pytestmark = needs("shared_data")


@asynccontextmanager
async def serving(pool: asyncpg.Pool, settings: Settings) -> AsyncIterator[tuple[Metrics, str]]:
    """Serve the metrics application on a port."""
    async with running_metrics(pool, settings) as service, on_a_port(service.app) as url:
        yield service, url


async def take(service: Metrics, start: int, end: int) -> None:
    events = posted("events.jsonl")
    await service.take([r for n in range(start, end) for r in records_of(events[n], "t1", n + 2)])


@needs("chromium")
async def test_the_page_shows_kpis_that_move_and_breaks_no_policy(pool: asyncpg.Pool, settings: Settings) -> None:
    from playwright.async_api import async_playwright

    from tests.browser import chromium

    async with serving(pool, settings) as (service, url), async_playwright() as playwright:
        await take(service, 0, 33)
        browser = await playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        try:
            page = await browser.new_page()
            faults: list[str] = []
            page.on("pageerror", lambda error: faults.append(str(error)))
            page.on("console", lambda line: faults.append(line.text) if line.type == "error" else None)
            await page.goto(f"{url}/dashboard#key={service.keys['reader']}")
            await page.click("[data-window='7d']")
            value = page.locator("[data-kpi='messages_sent'] .value")
            await value.filter(has_text="4").wait_for()
            assert service.keys["reader"] not in page.url
            await take(service, 33, 35)
            await value.filter(has_text="5").wait_for()
            await page.click("[data-kpi='first_reply_time']")
            await page.locator("#detail td", has_text="e33").wait_for()
            assert faults == []
            await page.keyboard.press("Escape")
            await page.context.set_offline(True)
            await page.locator("#state", has_text="The figures are those of").wait_for()
            assert await value.inner_text() == "5", "what was read stays"
            await page.context.set_offline(False)
            await page.locator("#state", has_text="Live").wait_for()
        finally:
            await browser.close()


async def test_the_page_says_by_its_headers_that_nothing_foreign_may_run(
    pool: asyncpg.Pool, settings: Settings
) -> None:
    async with running_metrics(pool, settings) as service:
        page = await service.get("/ops", key=None)
        policy = page.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy
        assert "<script>" not in page.text and "style=" not in page.text
        assert (await service.get("/ops/static/../app.py", key=None)).status_code == 404
        assert (await service.get("/ops/static/nothing.js", key=None)).status_code == 404
        assert (await service.get("/ops/data", key=None)).status_code == 401
        assert (await service.get("/ops/data", key="reader", window="99y")).status_code == 422


@needs("prometheus")
async def test_a_real_prometheus_scrapes_the_key_s_tenant(
    pool: asyncpg.Pool, settings: Settings, open_folder: Path
) -> None:
    async with serving(pool, settings) as (service, url):
        await take(service, 0, 35)
        config = yaml.safe_load((ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text())
        config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
        config["rule_files"] = [str(ROOT / "deploy" / "prometheus" / name) for name in config["rule_files"]]
        scrape = config["scrape_configs"][0]
        (open_folder / "threadline.key").write_text(service.keys["scraper"])
        scrape["static_configs"][0]["targets"] = [url.removeprefix("http://")]
        (open_folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        port = free_port()
        prometheus = await asyncio.create_subprocess_exec(
            "prometheus",
            f"--config.file={open_folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={open_folder / 'tsdb'}",
            f"--web.listen-address=127.0.0.1:{port}",
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            asked = 'cs_messages_received_total{channel="chat"}'
            assert await eventually(f"http://127.0.0.1:{port}/api/v1/query", asked) == 2
            ratio = 'cs_abandonment_ratio{channel="all",window="7d"}'
            assert await eventually(f"http://127.0.0.1:{port}/api/v1/query", ratio) == pytest.approx(0.5)
        finally:
            prometheus.terminate()
            await asyncio.wait_for(prometheus.wait(), 30)


async def eventually(address: str, query: str) -> float:
    """Return the value of a query once Prometheus has one."""
    async with asyncio.timeout(60), httpx.AsyncClient(trust_env=False) as client:
        while True:
            try:
                answer = await client.get(address, params={"query": query})
                found = json.loads(answer.text)["data"]["result"]
                if found:
                    return float(found[0]["value"][1])
            except (httpx.TransportError, KeyError, ValueError):
                pass
            await asyncio.sleep(0.2)
