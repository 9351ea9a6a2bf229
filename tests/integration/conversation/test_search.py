"""Search: words find entries, ranked and marked, within one tenant only."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from shared.settings import Settings
from tests.timeline_app import Timelines, running_timelines


@pytest.fixture
async def timelines(pool: asyncpg.Pool, settings: Settings) -> AsyncIterator[Timelines]:
    async with running_timelines(pool, settings) as running:
        yield running


async def hits(timelines: Timelines, q: str, count: int, **narrowed: Any) -> list[dict[str, Any]]:
    """Return the hits, of which there are `count` at once: what is on a timeline is found."""
    found: list[dict[str, Any]] = (await timelines.get("/v1/search", q=q, **narrowed))["hits"]
    assert len(found) == count, q
    return found


async def test_words_find_entries_ranked_and_marked(timelines: Timelines) -> None:
    await timelines.post(
        timelines.message("09:00:00", "crm:1", text="my parcel & me are late", channel="chat"),
        timelines.message("09:01:00", "crm:2", channel="email", subject="Parcel parcel", text="where is my parcel?"),
        timelines.message("09:02:00", "crm:3", text="an invoice"),
    )
    best, other = await hits(timelines, "parcel", 2)
    assert best["entry"]["channel"] == "email"
    assert best["highlights"]["subject"] == "<mark>Parcel</mark> <mark>parcel</mark>"
    # Only the marks are markup.
    assert other["highlights"] == {"text": "my <mark>parcel</mark> &amp; me are late", "subject": None}
    assert best["score"] > other["score"]
    assert [hit["entry"]["channel"] for hit in await hits(timelines, "parcel", 1, channel="chat")] == ["chat"]
    assert [hit["entry"]["channel"] for hit in await hits(timelines, "parcel", 1, family="email")] == ["email"]
    assert await hits(timelines, "parcel", 1, channel="email", family="email")
    assert await hits(timelines, "parcel", 0, channel="chat", family="email") == []
    assert await hits(timelines, '"is my parcel"', 1)
    assert await hits(timelines, "parcel -late", 1)
    owner = best["entry"]["customer_id"]
    assert [hit["entry"]["id"] for hit in await hits(timelines, "parcel", 1, customer_id=owner)] == [
        best["entry"]["id"]
    ]


@pytest.mark.parametrize(
    ("text", "q", "marked"),
    [
        ("我的包裹没有到 请帮忙", "包裹", "我的<mark>包裹</mark>没有到 请帮忙"),
        ("我的包裹没有到 请帮忙", '"没有到 请" -荷物', "我的包裹<mark>没有到</mark> <mark>请</mark>帮忙"),
        ("荷物が届きません", "届き", "荷物が<mark>届き</mark>ません"),
        ("พัสดุของฉันยังไม่มา", "ของฉัน", "พัสดุ<mark>ของฉัน</mark>ยังไม่มา"),
        ("소포가 오지 않았어요", "소포", "<mark>소포</mark>가 오지 않았어요"),
        ("my iPhone手机坏了", "手机 iphone", "my <mark>iPhone手机</mark>坏了"),
        ("see https://acme.example/track?x=1&y=2 ok", "https://acme.example/track?x=1&y=2", None),
    ],
)
async def test_a_word_is_found_where_no_spaces_stand_around_it(
    timelines: Timelines, text: str, q: str, marked: str | None
) -> None:
    await timelines.post(
        timelines.message("09:00:00", "crm:1", text=text),
        # The same characters, the other way round.
        timelines.message("09:01:00", "crm:2", text=text[::-1]),
    )
    (hit,) = await hits(timelines, q, 1)
    assert hit["entry"]["text"] == text
    if marked:
        assert hit["highlights"]["text"] == marked
    assert await hits(timelines, f"{q} -{q}", 0) == []


async def test_pages_of_a_search_hold_each_hit_once(timelines: Timelines) -> None:
    await timelines.post(*(timelines.message(f"09:00:{n:02}", f"crm:{n}", text="lost key") for n in range(12)))
    await hits(timelines, "key", 12)
    seen: list[str] = []
    cursor = None
    while True:
        page = await timelines.get("/v1/search", q="key", limit=5, cursor=cursor)
        seen += [hit["entry"]["id"] for hit in page["hits"]]
        cursor = page["next"]
        if cursor is None:
            break
    assert len(seen) == len(set(seen)) == 12


async def test_a_page_of_a_search_is_full_although_some_entries_are_gone_whose_words_are_still_there(
    pool: asyncpg.Pool, timelines: Timelines
) -> None:
    await timelines.post(*(timelines.message(f"09:00:{n:02}", f"crm:{n}", text="lost key") for n in range(12)))
    found = [hit["entry"]["id"] for hit in await hits(timelines, "key", 12)]
    gone = found[1:4]
    await pool.execute("DELETE FROM conversation.entry WHERE entry_id = ANY ($1::uuid[])", gone)
    first = await timelines.get("/v1/search", q="key", limit=5)
    rest = await timelines.get("/v1/search", q="key", limit=5, cursor=first["next"])
    assert rest["next"] is None
    assert [hit["entry"]["id"] for hit in (*first["hits"], *rest["hits"])] == [id_ for id_ in found if id_ not in gone]
    assert len(first["hits"]) == 5


async def test_another_tenant_finds_nothing(timelines: Timelines) -> None:
    await timelines.post(timelines.message("09:00:00", "crm:1", text="the parcel"))
    await hits(timelines, "parcel", 1)
    assert (await timelines.get("/v1/search", tenant="globex", q="parcel"))["hits"] == []


@pytest.mark.parametrize(
    ("query", "pointer"),
    [({"q": ""}, "#/query/q"), ({"q": "x" * 10_000}, "#/query/q"), ({"q": "x", "cursor": "?"}, "#/query/cursor"),
     ({"q": "x", "since": "yesterday"}, "#/query/since"), ({"q": "x", "limit": 0}, "#/query/limit")],
)  # fmt: skip
async def test_a_search_that_cannot_be_is_refused(timelines: Timelines, query: dict[str, Any], pointer: str) -> None:
    answer = await timelines.call("GET", "/v1/search", **query)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"] == pointer
