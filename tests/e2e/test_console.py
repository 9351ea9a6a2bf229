"""The agent's page in a real browser: signed in by a link, one customer over channels, live, under its policy."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any, Literal

import pytest
from playwright.async_api import Locator, Page, Request, Route, async_playwright

from tests.browser import chromium
from tests.conftest import needs
from tests.cut_off import line_to
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


async def post(
    system: System, name: str, kind: str, handles: list[dict[str, Any]], tenant: str = TENANT, **data: Any
) -> None:
    """Post one event that happens now."""
    customer = {"handles": handles, **({"name": data.pop("called")} if "called" in data else {})}
    event = {
        "specversion": "1.0", "id": name, "source": "/console/test", "type": f"threadline.{kind}",
        "time": datetime.now(UTC).isoformat(), "data": {**data, "customer": customer, "actor": {"type": "customer"}},
    }  # fmt: skip
    async with system.client(tenant, system.ingest) as client:
        answer = await client.post("/v1/events", json=event)
        assert answer.status_code == 202, answer.text


@pytest.fixture
async def page(system: System) -> AsyncIterator[Page]:
    """A browser page; anything that breaks the content security policy or throws fails the test."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=chromium(), args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
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


async def shown(system: System, page: Page, **hash_: str) -> None:
    """Open a customer, signed in."""
    await page.goto("about:blank")
    rest = "".join(f"&{name}={value}" for name, value in hash_.items())
    await page.goto(f"{system.conversation.url}/console#key={system.key(TENANT)}{rest}")
    await page.wait_for_selector(".bubble" if hash_ else ".person", timeout=PATIENCE_MS)


async def test_file_that_is_kept_is_saved_by_a_click_and_a_strangers_address_is_no_link(
    system: System, page: Page
) -> None:
    content = b"<script>alert(1)</script>"
    files = [
        {"name": "röntgen.html", "media_type": "text/html", "content": base64.b64encode(content).decode()},
        {"name": "theirs", "url": "https://files.example/1"},
    ]
    await post(
        system,
        "files",
        "message.received",
        channel="email",
        handles=[{"kind": "email", "value": "ann@mail.example"}],
        text="See there",
        attachments=files,
        message_id="<files@mail.example>",
    )
    await page.goto(f"{system.conversation.url}/console#key={system.key(TENANT)}&customer={await customer_of(system)}")
    await page.wait_for_selector(".files a", timeout=PATIENCE_MS)
    assert await page.locator(".files li").all_inner_texts() == ["röntgen.html", "theirs"]
    assert await page.locator(".files a").count() == 1
    async with page.expect_download(timeout=PATIENCE_MS) as download:
        await page.click(".files a")
    saved = await download.value
    assert saved.suggested_filename == "röntgen.html"
    assert (await saved.path()).read_bytes() == content


async def test_columns_scroll_and_the_page_around_them_does_not(system: System, page: Page) -> None:
    await page.set_viewport_size({"width": 1400, "height": 400})
    await shown(system, page, customer=await customer_of(system))
    inner, outer = await page.evaluate(
        "() => [document.getElementById('main'), document.documentElement].map(e => e.scrollHeight - e.clientHeight)"
    )
    assert inner > 0, "the line is longer than the window, so that there is something to see"
    assert outer == 0


async def test_news_come_by_the_stream_and_over_a_broken_line_each_once(system: System, page: Page) -> None:
    mail = {"kind": "email", "value": "cut@mail.example", "verified": True}
    await post(system, "c0", "message.received", channel="email", handles=[mail], text="before", called="Cut Off")
    asked: list[str] = []
    resumed: list[str | None] = []

    def note(request: Request) -> None:
        if "/timeline?" in request.url:
            asked.append(request.url)
        if "/v1/stream" in request.url:
            resumed.append(request.headers.get("last-event-id"))

    page.on("request", note)
    async with line_to(system.conversation.port) as line, system.client(TENANT, system.conversation) as client:
        system.verified()
        found = (await client.get("/v1/customers", params={"handle": "email:cut@mail.example"})).json()["customers"]
        await page.goto(f"http://127.0.0.1:{line.port}/console#key={system.key(TENANT)}&customer={found[0]['id']}")
        await until(lambda: shows(page, 1), "what there was", PATIENCE_S)
        await post(system, "c1", "message.received", channel="email", handles=[mail], text="live")
        await until(lambda: shows(page, 2), "what comes", PATIENCE_S)

        line.break_off()
        await page.wait_for_selector("#away:visible", timeout=PATIENCE_MS)
        for number in (2, 3):
            await post(
                system, f"c{number}", "message.received", channel="email", handles=[mail], text=f"missed {number}"
            )
        line.cut = False
        await until(lambda: shows(page, 4), "what came meanwhile", PATIENCE_S)
        await page.wait_for_selector("#away", state="hidden", timeout=PATIENCE_MS)
    assert await page.locator(".bubble .text").all_inner_texts() == ["missed 3", "missed 2", "live", "before"]
    assert len(asked) == 1, "the timeline is read once; all else is told by the stream"
    assert resumed[0] is None and resumed[-1] is not None and resumed[-1].isdigit()


async def test_brief_says_who_waits_since_when_and_why_this_is_one_person(system: System, page: Page) -> None:
    await shown(system, page, customer=await customer_of(system))
    clock = page.locator(".customer .clock time")
    waiting = await clock.inner_text()
    await until(lambda: ticks(clock, waiting), "the clock goes on", PATIENCE_S)
    assert "not answered" in await page.inner_text(".brief")
    why = await page.inner_text("#about")
    assert "crm" not in why, "in words, not in codes"
    assert "customer no. c-console = ann@mail.example" in why.replace("\n", " ") and "/console/test · 2" in why


async def ticks(clock: Locator, before: str) -> bool:
    return await clock.inner_text() != before


async def test_two_customers_become_one_by_a_button_and_two_again_by_undo(system: System, page: Page) -> None:
    one, other = ({"kind": "email", "value": f"{name}@merge.example", "verified": True} for name in ("kim", "k.berg"))
    await post(system, "m1", "message.received", channel="email", handles=[one], text="From home", called="Kim Berg")
    await post(system, "m2", "message.received", channel="email", handles=[other], text="From work", called="K. Berg")
    system.verified()
    async with system.client(TENANT, system.conversation) as client:
        found = (await client.get("/v1/customers", params={"handle": "email:kim@merge.example"})).json()["customers"]
    await shown(system, page, customer=found[0]["id"])
    await page.click("#merge")
    assert await page.locator("#decide button[type=submit]").is_disabled()
    await page.fill("#other", "k.berg@merge.example")
    await page.check("#decide .choose input", timeout=PATIENCE_MS)
    await page.fill("#decide input[type=text]", "said so on the phone")
    await page.click("#decide button[type=submit]")
    await until(lambda: shows(page, 2), "both messages on one line", PATIENCE_S)
    await page.locator("#about", has_text="said so on the phone").wait_for(timeout=PATIENCE_MS)
    await page.click("#undo")
    await until(lambda: shows(page, 1), "two lines again", PATIENCE_S)
    assert await page.locator("#decide[open]").count() == 0
    system.verified()  # what agents decide is on a timeline too


async def test_who_cannot_be_taken_apart_so_is_told_why_beside_the_button(system: System, page: Page) -> None:
    await shown(system, page, customer=await customer_of(system))
    await page.click("#split")
    button, why = page.locator("#decide button[type=submit]"), page.locator("#decide [role=status]")
    boxes = page.locator("#decide .choose input")
    assert await button.is_disabled() and "Tick what is" in await why.inner_text()
    for box in await boxes.all():
        await box.check()
    assert await button.is_disabled() and "leave at least one" in await why.inner_text()
    # Whoever hears the page is told so with the button, too.
    assert await button.get_attribute("aria-describedby") == await why.get_attribute("id")
    await boxes.first.uncheck()
    assert await button.is_enabled() and await why.inner_text() == ""
    await page.click("#decide-cancel")


async def test_what_the_service_refuses_is_said_where_it_was_asked(system: System, page: Page) -> None:
    crm = {"kind": "crm", "value": "c-other", "verified": True}
    await post(system, "x1", "message.received", channel="email", handles=[crm], text="Hello", called="Other Crm")
    system.verified()
    await shown(system, page, customer=await customer_of(system))
    await page.click("#merge")
    await page.fill("#other", "crm:c-other")
    await page.check("#decide .choose input", timeout=PATIENCE_MS)
    await page.click("#decide button[type=submit]")
    await page.locator("#decide-fault", has_text="two crm ids are never one person").wait_for(timeout=PATIENCE_MS)
    await page.click("#decide-cancel")
    assert await page.inner_text(".customer h1") == "Ann Maas"


async def test_unknown_customer_and_a_lost_network_are_said_in_words(system: System, page: Page) -> None:
    await page.goto(
        f"{system.conversation.url}/console#key={system.key(TENANT)}&customer=00000000-0000-0000-0000-000000000001"
    )
    await page.locator(".welcome", has_text="There is no such customer").wait_for(timeout=PATIENCE_MS)
    await shown(system, page, customer=await customer_of(system))
    await page.context.set_offline(True)
    await page.locator("#live", has_text="No connection").wait_for(timeout=PATIENCE_MS)
    assert await page.locator(".bubble").count() > 0, "what was read stays"
    await page.context.set_offline(False)
    await page.locator("#live", has_text="Live").wait_for(timeout=PATIENCE_MS)


async def test_page_of_an_empty_tenant_says_so_and_the_first_customer_shows_up_by_itself(
    system: System, page: Page
) -> None:
    await page.goto(f"{system.conversation.url}/console#key={system.key('empty')}")
    await page.locator("#people-note", has_text="Nobody has got in touch yet").wait_for(timeout=PATIENCE_MS)
    await page.locator("#live", has_text="Live").wait_for(timeout=PATIENCE_MS)
    mail = {"kind": "email", "value": "first@mail.example"}
    await post(system, "e1", "message.received", channel="email", handles=[mail], text="Hello?", tenant="empty")
    await page.locator(".person", has_text="first@mail.example").wait_for(timeout=PATIENCE_MS)
    assert not await page.locator("#people-note").is_visible()


async def test_reading_that_fails_is_made_up_for_without_anybody_doing_anything(system: System, page: Page) -> None:
    failing = True

    async def fail(route: Route) -> None:
        if failing:
            await route.fulfill(status=503, json={"title": "Away", "detail": "the database is away"})
        else:
            await route.continue_()

    await page.route("**/context", fail)
    customer = await customer_of(system)
    await page.goto(f"{system.conversation.url}/console#key={system.key(TENANT)}&customer={customer}")
    await page.locator(".welcome", has_text="the database is away").wait_for(timeout=PATIENCE_MS)
    failing = False
    await page.wait_for_selector(".bubble", timeout=PATIENCE_MS)
    failing = True
    mail = {"kind": "email", "value": "ann@mail.example", "verified": True}
    await post(system, "f1", "message.received", channel="email", handles=[mail], text="While it failed")
    await page.wait_for_selector("#away:visible", timeout=PATIENCE_MS)
    assert await page.locator(".bubble").count() > 0, "what was read stays"
    failing = False
    await page.locator(".bubble .text", has_text="While it failed").wait_for(timeout=PATIENCE_MS)
    await page.wait_for_selector("#away", state="hidden", timeout=PATIENCE_MS)


async def test_narrow_screen_shows_one_thing_at_a_time_and_keys_go_through_the_list(system: System, page: Page) -> None:
    await page.set_viewport_size({"width": 360, "height": 700})
    await shown(system, page)
    await page.locator(".person").first.focus()
    await page.keyboard.press("ArrowDown")
    assert await page.locator(".person:focus").count() == 1
    assert not await page.locator(".person").first.evaluate("one => one === document.activeElement")
    await page.keyboard.press("Enter")
    await page.wait_for_selector(".customer", timeout=PATIENCE_MS)
    assert not await page.locator("#people").is_visible()
    assert await page.evaluate("document.documentElement.scrollWidth") <= 360
    await page.click("#back")
    await page.wait_for_selector(".person:visible", timeout=PATIENCE_MS)
    await page.keyboard.press("/")
    assert await page.locator("#query:focus").count() == 1


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_every_word_stands_out_from_what_is_behind_it(
    system: System, page: Page, scheme: Literal["light", "dark"]
) -> None:
    await page.emulate_media(color_scheme=scheme)
    await shown(system, page, customer=await customer_of(system))
    assert await page.evaluate(FAINT) == []


FAINT = """() => {
  const canvas = Object.assign(document.createElement("canvas"), {width: 1, height: 1}).getContext("2d", {willReadFrequently: true});
  const over = (colours) => {
    canvas.clearRect(0, 0, 1, 1);
    for (const colour of colours) { canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1); }
    return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const light = (rgb) => rgb.map((part) => part / 255).map((c) => (c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, place) => sum + c * [0.2126, 0.7152, 0.0722][place], 0);
  const faint = [];
  for (const one of document.querySelectorAll("body *")) {
    if (![...one.childNodes].some((node) => node.nodeType === 3 && node.data.trim()) || !one.checkVisibility() || one.closest(".hidden, .skip, svg")) continue;
    const behind = [];
    for (let up = one; up; up = up.parentElement) behind.unshift(getComputedStyle(up).backgroundColor);
    const [a, b] = [light(over(behind)), light(over([...behind, getComputedStyle(one).color]))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) faint.push(`${one.className} ${one.textContent.slice(0, 30)} ${ratio.toFixed(2)}`);
  }
  return faint;
}"""  # noqa: E501


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
