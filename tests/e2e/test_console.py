"""The agent's page in a real browser: signed in by a link, one customer over channels, live, under its policy."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest
from playwright.async_api import Page, async_playwright

from tests.conftest import needs
from tests.processes import System, up_for_a_module
from tests.waiting import until

pytestmark = [needs("chromium"), pytest.mark.timeout(180)]

TENANT = "default"
PATIENCE_MS = 30_000
PATIENCE_S = PATIENCE_MS / 1000


@pytest.fixture(scope="module")
async def system() -> AsyncIterator[System]:
    """A running Threadline that knows one customer, seen on the chat and by mail."""
    async with up_for_a_module("console") as running:
        chat = {"kind": "visitor", "value": "v-console", "verified": True}
        crm = {"kind": "crm", "value": "c-console", "verified": True}
        mail = {"kind": "email", "value": "ann@mail.example", "verified": True}
        await post(
            running,
            "1",
            "message.received",
            channel="chat",
            contact_id="chat-1",
            handles=[chat],
            text="Where is it?",
            called="Ann Maas",
        )
        await post(running, "2", "customer.identified", channel="chat", contact_id="chat-1", handles=[chat, crm, mail])
        await post(
            running,
            "3",
            "message.received",
            channel="email",
            handles=[mail],
            text="<img src=x onerror=alert(1)> by mail",
            subject="My parcel",
            message_id="<3@mail.example>",
        )
        running.verified()
        yield running


async def post(system: System, name: str, kind: str, handles: list[dict[str, Any]], **data: Any) -> None:
    """Post one event that happens now."""
    customer = {"handles": handles, **({"name": data.pop("called")} if "called" in data else {})}
    event = {
        "specversion": "1.0", "id": name, "source": "/console/test", "type": f"threadline.{kind}",
        "time": datetime.now(UTC).isoformat(), "data": {**data, "customer": customer, "actor": {"type": "customer"}},
    }  # fmt: skip
    async with system.client(TENANT, system.ingest) as client:
        answer = await client.post("/v1/events", json=event)
        assert answer.status_code == 202, answer.text


@pytest.fixture
async def page(system: System) -> AsyncIterator[Page]:
    """A browser page; anything that breaks the content security policy or throws fails the test."""
    program = next(path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name)))
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=program, args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        )
        opened = await browser.new_page()
        faults: list[str] = []
        opened.on("pageerror", lambda error: faults.append(str(error)))
        opened.on(
            "console", lambda message: faults.append(message.text) if "Content Security" in message.text else None
        )
        yield opened
        await browser.close()
        assert faults == []


async def customer_of(system: System) -> str:
    async with system.client(TENANT, system.conversation) as client:
        found = (await client.get("/v1/customers", params={"handle": "crm:c-console"})).json()["customers"]
    return str(found[0]["id"])


async def test_link_signs_in_and_shows_one_line_over_both_channels(system: System, page: Page) -> None:
    key, customer = system.key(TENANT), await customer_of(system)
    await page.goto(f"{system.conversation.url}/console#key={key}&customer={customer}")
    await page.wait_for_selector(".bubble", timeout=PATIENCE_MS)
    assert key not in page.url
    assert await page.inner_text(".customer h1") == "Ann Maas"
    texts = await page.locator(".bubble .text").all_inner_texts()
    assert texts == ["<img src=x onerror=alert(1)> by mail", "Where is it?"], "newest first, and only ever as text"
    assert await page.locator(".bubble img").count() == 0
    badges = await page.locator(".customer .badge").all_inner_texts()
    assert {badge.strip() for badge in badges} >= {"Chat", "E-mail"}


async def shows(page: Page, messages: int) -> bool:
    # Not by wait_for_function: it evaluates text, which the page's policy forbids.
    return await page.locator(".bubble").count() == messages


async def says_what_is_wrong(page: Page) -> bool:
    return bool(await page.inner_text("#key-fault"))


async def test_new_message_appears_by_itself(system: System, page: Page) -> None:
    await page.goto(f"{system.conversation.url}/console#key={system.key(TENANT)}&customer={await customer_of(system)}")
    await page.wait_for_selector(".bubble", timeout=PATIENCE_MS)
    before = await page.locator(".bubble").count()
    mail = {"kind": "email", "value": "ann@mail.example", "verified": True}
    await post(
        system,
        "late",
        "message.received",
        channel="email",
        handles=[mail],
        text="Still nothing",
        message_id="<4@mail.example>",
    )
    await until(lambda: shows(page, before + 1), "the new message appears", PATIENCE_S)
    assert await page.locator(".bubble .text").first.inner_text() == "Still nothing"


async def test_search_finds_by_name_and_by_address(system: System, page: Page) -> None:
    await page.goto(f"{system.conversation.url}/console#key={system.key(TENANT)}")
    await page.wait_for_selector(".person", timeout=PATIENCE_MS)
    for typed in ("Maas", "ann@mail.example", "crm:c-console"):
        await page.fill("#query", typed)
        await page.wait_for_selector("#people-title:text('Found')", timeout=PATIENCE_MS)
        await page.wait_for_selector(".person .name:text('Ann Maas')", timeout=PATIENCE_MS)
    await page.fill("#query", "nobody of that name")
    await page.wait_for_selector("#people-note:visible", timeout=PATIENCE_MS)


async def test_without_a_session_the_page_asks_for_a_key_and_refuses_a_wrong_one(system: System, page: Page) -> None:
    await page.goto(f"{system.conversation.url}/console")
    await page.wait_for_selector("#sign-in[open]", timeout=PATIENCE_MS)
    await page.fill("#key", "not-a-key")
    await page.click("#sign-in button")
    await until(lambda: says_what_is_wrong(page), "the page says what is wrong", PATIENCE_S)
    await page.fill("#key", system.key(TENANT))
    await page.click("#sign-in button")
    await page.wait_for_selector(".person", timeout=PATIENCE_MS)


async def test_page_has_no_inline_script_and_a_strict_policy(system: System) -> None:
    async with system.client(TENANT, system.conversation) as client:
        answer = await client.get("/console")
        assert answer.status_code == 200
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "<script>" not in answer.text
        assert " onclick=" not in answer.text
        assert (await client.get("/console/static/..%2f__init__.py")).status_code == 404
        assert (await client.get("/console/static/app.js")).headers["content-type"].startswith("text/javascript")
