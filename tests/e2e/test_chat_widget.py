"""The chat widget in a real browser, inside the page of a website of another origin: talk, lose the network, return."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from hmac import new as hmac
from itertools import count
from typing import Any

import pytest
from playwright.async_api import Browser, FrameLocator, Page, async_playwright

from tests.browser import chromium
from tests.conftest import needs
from tests.cut_off import Line, line_to
from tests.processes import System, up_for_a_module
from tests.waiting import until

pytestmark = [needs("chromium"), pytest.mark.timeout(180)]

TENANT = "default"
SECRET = "the website's own secret, which signs its visitors"
PATIENCE_S = 40.0
_ids = count(1)


@pytest.fixture(scope="module")
async def system() -> AsyncIterator[System]:
    async with up_for_a_module("widget") as running:
        yield running


@pytest.fixture(scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        launched = await playwright.chromium.launch(
            executable_path=chromium(), args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        )
        yield launched
        await launched.close()


@dataclass
class Website:
    """A page of an origin that is not Threadline's; strict about what it loads."""

    url: str
    head: str = ""
    policy: str = "default-src 'none'"


@asynccontextmanager
async def website() -> AsyncIterator[Website]:
    """Serve a website until the end of the context."""
    site = Website("")

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        body = f"<!doctype html><html lang=en><title>Shop</title><h1>A shop</h1>{site.head}".encode()
        head = f"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Security-Policy: {site.policy}\r\n"
        writer.write(f"{head}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    site.url = f"http://localhost:{server.sockets[0].getsockname()[1]}"
    try:
        yield site
    finally:
        server.close()


async def a_chat(system: System, name: str, origins: list[str]) -> str:
    """Set up a chat account that these websites may show; return the last part of its webhook path."""
    async with system.client(TENANT, system.ingest) as client:
        body = {"secrets": [SECRET], "options": {"origins": origins}}
        answer = await client.put(f"/v1/channels/chat/{name}", json=body)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["webhook_path"]).rpartition("/")[2]


@dataclass
class Visit:
    """A visitor on the website: their page, the chat's frame in it, and the line to Threadline that can be cut."""

    system: System
    page: Page
    line: Line
    account: str

    @property
    def chat(self) -> FrameLocator:
        return self.page.frame_locator("iframe")

    async def open(self) -> None:
        await self.chat.locator("#launcher").click(timeout=PATIENCE_S * 1000)
        await self.chat.locator("#text").wait_for(timeout=PATIENCE_S * 1000)

    async def say(self, *texts: str) -> None:
        for text in texts:
            await self.chat.locator("#text").fill(text)
            await self.chat.locator("#text").press("Enter")

    async def texts(self) -> list[str]:
        return [text.strip() for text in await self.chat.locator("#lines .text").all_inner_texts()]

    async def shows(self, *texts: str) -> None:
        """Wait until the chat shows just these lines, in this order."""
        seen: list[str] = []

        async def there() -> bool:
            seen[:] = await self.texts()
            return seen == list(texts)

        try:
            await until(there, f"the chat shows {texts}", PATIENCE_S)
        except AssertionError as error:
            raise AssertionError(f"the chat shows {seen} and not {texts}") from error

    async def settled(self) -> None:
        """Wait until every message of the visitor was seen on the timeline."""

        async def none_on_the_way() -> bool:
            return await self.chat.locator("#lines .mine:not(.seen)").count() == 0

        await until(none_on_the_way, "every message is taken", PATIENCE_S)

    async def entries(self) -> list[dict[str, Any]]:
        """Return the messages that Threadline has of this account, oldest first."""
        entries: list[dict[str, Any]] = []
        async with self.system.client(TENANT, self.system.conversation) as client:
            for one in (await client.get("/v1/conversations", params={"limit": 50})).json()["conversations"]:
                entries += (await client.get(f"/v1/conversations/{one['id']}/entries")).json()["entries"]
        ours = [entry for entry in entries if entry["source"] == f"/chat/{self.account}"]
        return sorted(ours, key=lambda entry: (entry["occurred_at"], entry["extra"].get("sequence", 0)))

    async def has(self, count: int) -> bool:
        return len(await self.entries()) == count

    async def first_entry(self) -> dict[str, Any]:
        """Return the visitor's first message, once it is on its timeline."""

        async def there() -> bool:
            return bool(await self.entries())

        await until(there, "the visitor's message is on a timeline", PATIENCE_S)
        return (await self.entries())[0]


async def answer(system: System, text: str, kind: str = "message.sent", **data: Any) -> None:
    """Post what an agent wrote."""
    event = {
        "specversion": "1.0", "id": f"agent-{next(_ids)}", "source": "/desk/widget", "type": f"threadline.{kind}",
        "time": datetime.now(UTC).isoformat(),
        "data": {"channel": "chat", "text": text, "actor": {"type": "agent", "id": "a1", "name": "Bo"}, **data},
    }  # fmt: skip
    async with system.client(TENANT, system.ingest) as client:
        taken = await client.post("/v1/events", json=event)
        assert taken.status_code == 202, taken.text


@asynccontextmanager
async def visiting(
    system: System, browser: Browser, account: str, attributes: str = "", *, allowed: bool = True
) -> AsyncIterator[Visit]:
    """Open a website that has the chat in it. A script error or a broken content security policy fails the test."""
    faults: list[str] = []
    async with website() as site, line_to(system.ingest.port) as line:
        token = await a_chat(system, account, [site.url if allowed else "https://another.example"])
        home = f"http://127.0.0.1:{line.port}"
        site.policy = f"default-src 'none'; script-src {home}; frame-src {home}"
        site.head = f'<script src="{home}/widget.js" data-account="{token}" {attributes} async></script>'
        context = await browser.new_context()
        page = await context.new_page()
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda said: faults.append(said.text) if "Content Security" in said.text else None)
        await page.goto(site.url)
        yield Visit(system, page, line, account)
        await context.close()
    assert bool(faults) is not allowed, faults


async def test_visitor_and_agent_talk_live(system: System, browser: Browser) -> None:
    async with visiting(system, browser, "live", 'data-title="Acme helps"') as visit:
        await visit.open()
        assert await visit.chat.locator("#title").inner_text() == "Acme helps"
        await visit.say("Where is my parcel?", "<b>It</b> was due yesterday")
        await visit.shows("Where is my parcel?", "<b>It</b> was due yesterday")
        await visit.settled()
        entry = await visit.first_entry()
        await answer(system, "On its way: https://acme.example/t/1", contact_id=entry["contact_id"], message_id="b-1")
        await answer(system, "Anything else?", conversation_id=entry["conversation_id"])
        said = ["Where is my parcel?", "<b>It</b> was due yesterday", "On its way: https://acme.example/t/1"]
        await visit.shows(*said, "Anything else?")
        assert await visit.chat.locator("#lines a").get_attribute("href") == "https://acme.example/t/1"
        assert await visit.chat.locator("#lines .theirs .who").first.inner_text() == "Bo"
        await answer(system, "It is here", "message.edited", contact_id=entry["contact_id"], refers_to="b-1")
        await visit.shows(*said[:2], "It is here", "Anything else?")
        # After a reload the same session goes on: what was said is there again, once.
        await visit.page.reload()
        await visit.open()
        await visit.shows(*said[:2], "It is here", "Anything else?")


async def test_lost_network_loses_and_doubles_nothing(system: System, browser: Browser) -> None:
    async with visiting(system, browser, "away") as visit:
        await visit.open()
        await visit.say("one")
        await visit.settled()
        contact = (await visit.first_entry())["contact_id"]
        await answer(system, "first answer", contact_id=contact)
        await visit.shows("one", "first answer")

        # The server takes what is written, and its answer gets lost: it is sent again, and counts once.
        visit.line.one_way = True
        await visit.say("two")
        await until(lambda: visit.has(2), "the server took what it could not answer", PATIENCE_S)
        visit.line.break_off()
        await visit.say("three", "four")
        await answer(system, "said meanwhile", contact_id=contact)
        await visit.chat.locator("#connection:visible").wait_for(timeout=PATIENCE_S * 1000)
        visit.line.cut = visit.line.one_way = False

        await visit.settled()
        expected = ["one", "first answer", "two", "said meanwhile", "three", "four"]
        await visit.shows(*expected)
        assert [entry["text"] for entry in await visit.entries()] == ["one", "two", "three", "four"]

        # Connections that break one after another, while both sides talk.
        for number in range(3):
            visit.line.hang_up()
            await answer(system, f"answer {number}", contact_id=contact)
            expected.append(f"answer {number}")
            await visit.shows(*expected)
        system.verified()


async def test_browser_that_goes_offline_sends_when_it_is_back_even_after_a_reload(
    system: System, browser: Browser
) -> None:
    async with visiting(system, browser, "offline") as visit:
        await visit.open()
        await visit.say("before")
        await visit.settled()
        await visit.page.context.set_offline(True)
        await visit.say("while offline")
        await visit.chat.locator("#lines .pending").wait_for(timeout=PATIENCE_S * 1000)
        await visit.chat.locator("#connection:visible").wait_for(timeout=PATIENCE_S * 1000)
        await visit.page.context.set_offline(False)
        await visit.settled()
        await visit.shows("before", "while offline")
        # Nothing gets through, and the page is left with something unsent.
        visit.line.cut = True
        visit.line.hang_up()
        await visit.say("left behind")
        await visit.chat.locator("#lines .pending").wait_for(timeout=PATIENCE_S * 1000)
        visit.line.cut = False
        await visit.page.reload()
        await visit.open()
        await visit.settled()
        await visit.shows("before", "while offline", "left behind")


async def test_what_one_tab_leaves_unsent_another_sends(system: System, browser: Browser) -> None:
    async with visiting(system, browser, "tabs") as visit:
        await visit.open()
        await visit.say("one")
        await visit.settled()
        other = Visit(system, await visit.page.context.new_page(), visit.line, visit.account)
        await other.page.goto(visit.page.url)
        await other.open()
        await other.shows("one")
        visit.line.cut = True
        visit.line.hang_up()
        for tab, text in ((other, "left behind in the second tab"), (visit, "written in the first tab")):
            await tab.say(text)
            await tab.chat.locator("#lines .pending").wait_for(timeout=PATIENCE_S * 1000)
        await other.page.close()
        visit.line.cut = False
        await visit.page.reload()
        await visit.open()

        async def all_there() -> bool:
            texts = sorted(await visit.texts())
            return texts == ["left behind in the second tab", "one", "written in the first tab"]

        await until(all_there, "the chat shows what both tabs wrote", PATIENCE_S)
        await visit.settled()
        assert len(await visit.entries()) == 3


async def test_visitor_sees_no_other_session_and_no_notes(system: System, browser: Browser) -> None:
    async with (
        visiting(system, browser, "ann") as ann,
        visiting(system, browser, "bea") as bea,
    ):
        for visit in (ann, bea):
            await visit.open()
            await visit.say(f"I am {visit.account}")
            await visit.settled()
        entry = await ann.first_entry()
        ours = {"contact_id": entry["contact_id"]}
        await answer(system, "note to colleagues", **ours, internal=True)
        way = {"from": "a1", "to": "a2", "reason": "x"}
        await answer(system, "handed over", "conversation.transferred", **ours, **way)
        await answer(system, "by mail", channel="email", conversation_id=entry["conversation_id"])
        await answer(system, "for Ann", **ours)
        await answer(system, "for Bea", contact_id=(await bea.first_entry())["contact_id"])
        await ann.shows("I am ann", "for Ann")
        await bea.shows("I am bea", "for Bea")


async def test_closed_chat_counts_what_came_meanwhile(system: System, browser: Browser) -> None:
    async with visiting(system, browser, "closed") as visit:
        await visit.open()
        await visit.say("hello")
        await visit.settled()
        await visit.page.keyboard.press("Escape")
        await visit.chat.locator("#panel").wait_for(state="hidden")
        frame = await visit.page.locator("iframe").bounding_box()
        assert frame is not None and frame["width"] < 100
        await answer(system, "are you there?", contact_id=(await visit.first_entry())["contact_id"])
        await visit.chat.locator("#unread:visible").wait_for(timeout=PATIENCE_S * 1000)
        assert await visit.chat.locator("#launcher").get_attribute("aria-label") == "Open the chat: 1 new message"


async def test_user_that_the_website_vouches_for_is_its_customer(system: System, browser: Browser) -> None:
    proof = hmac(SECRET.encode(), b"user:c-77", sha256).hexdigest()
    async with visiting(system, browser, "known", f'data-user="c-77" data-user-hash="{proof}"') as visit:
        await visit.open()
        await visit.say("it is me")
        await visit.settled()
        async with system.client(TENANT, system.conversation) as client:
            found = (await client.get("/v1/customers", params={"handle": "crm:c-77"})).json()["customers"]
        assert [handle["verified"] for handle in found[0]["handles"] if handle["kind"] == "crm"] == [True]


async def test_website_that_is_not_allowed_cannot_show_the_chat(system: System, browser: Browser) -> None:
    async with visiting(system, browser, "foreign", allowed=False) as visit:
        frame = visit.page.frames[-1]
        await until(lambda: frame.url.startswith("chrome-error"), "the browser refuses the frame", PATIENCE_S)
        assert await visit.chat.locator("#launcher").count() == 0
