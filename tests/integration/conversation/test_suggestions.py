"""Who else may be the same person: suggested with reasons and a score, and never merged by itself."""

from __future__ import annotations

from collections.abc import AsyncIterator

import asyncpg
import pytest

from shared.settings import Settings
from tests.timeline_app import Timelines, running_timelines

ANN = "email:ann.jansen@home.example"


@pytest.fixture
async def timelines(pool: asyncpg.Pool, settings: Settings) -> AsyncIterator[Timelines]:
    async with running_timelines(pool, settings) as running:
        yield running


async def id_of(timelines: Timelines, handle: str) -> str:
    found = await timelines.customer(handle)
    assert found is not None
    return str(found["id"])


async def suggested(timelines: Timelines, handle: str, *others: str) -> dict[str, tuple[float, list[str]]]:
    """Return {other: (score, reasons)} of those suggested for whoever has `handle`, in their order."""
    names = {await id_of(timelines, other): other for other in others}
    shown = await timelines.get(f"/v1/customers/{await id_of(timelines, handle)}/identity")
    return {names[row["customer_id"]]: (row["score"], row["reasons"]) for row in shown["suggestions"]}


async def test_each_reason_is_told_the_likeliest_first_and_nobody_is_merged(timelines: Timelines) -> None:
    others = (
        "email:ann.jansen@work.example",
        "email:an.jansen@home.example",
        "email:ann.jansen@hoem.example",
        "crm:7",
        "crm:8",
        "email:guest@other.example",
    )
    work, slip, domain, colleague, namesake, writer = others
    acme = {"attributes": {"company": "Acme BV"}}
    ann = {"name": "Ann Jansen", **acme}
    await timelines.post(
        timelines.message("09:00:00", ANN, channel="email", message_id="<m@x>", customer=ann),
        timelines.message("09:01:00", work, channel="email", message_id="<n@x>"),
        timelines.message("09:02:00", slip, channel="email", message_id="<o@x>"),
        timelines.message("09:03:00", domain, channel="email", message_id="<p@x>"),
        timelines.message("09:04:00", colleague, customer={"name": "ann jansen", "attributes": {"company": "ACME bv"}}),
        timelines.message("09:05:00", namesake, customer={"name": "Ann Jansen", "attributes": {"company": "Globex"}}),
        timelines.message("09:06:00", writer, channel="email", message_id="<q@x>", thread={"in_reply_to": "<m@x>"}),
        # Same company, another name: a colleague.
        timelines.message("09:07:00", "crm:9", customer={"name": "Bo", **acme}),
        # Another mailbox altogether.
        timelines.message("09:08:00", "email:ann@home.example", channel="email", message_id="<r@x>"),
    )
    # Another tenant's namesakes are nobody here.
    await timelines.post(timelines.message("09:09:00", ANN, work, customer={"name": "Ann Jansen"}), tenant="globex")
    assert await suggested(timelines, ANN, *others) == {
        colleague: (0.6, ["same_name_and_company"]),
        writer: (0.6, ["same_conversation"]),
        work: (0.4, ["same_mailbox_name"]),
        namesake: (0.4, ["same_name"]),
        domain: (0.7, ["near_handle", "same_mailbox_name"]),
        slip: (0.3, ["near_handle"]),
    }
    scores = [score for score, _ in (await suggested(timelines, ANN, *others)).values()]
    assert scores == sorted(scores, reverse=True)
    assert len({await id_of(timelines, handle) for handle in (ANN, *others)}) == 1 + len(others)
    # It is as near from the other side.
    assert ANN in await suggested(timelines, slip, ANN, domain, *others)


async def test_digits_changed_over_are_suggested_and_the_telephone_next_door_is_not(timelines: Timelines) -> None:
    await timelines.post(
        timelines.message("09:00:00", "phone:+31612345678", channel="sms"),
        timelines.message("09:01:00", "phone:+31612354678", channel="sms"),
        timelines.message("09:02:00", "phone:+31612345679", channel="sms"),
    )
    found = await suggested(timelines, "phone:+31612345678", "phone:+31612354678", "phone:+31612345679")
    assert found == {"phone:+31612354678": (0.3, ["near_handle"])}


async def test_whom_an_agent_told_apart_is_suggested_no_more(timelines: Timelines) -> None:
    other = "email:an.jansen@home.example"
    await timelines.post(timelines.message("09:00:00", ANN), timelines.message("09:01:00", other))
    assert await suggested(timelines, ANN, other)
    ann = await id_of(timelines, ANN)
    body = {"with": await id_of(timelines, other)}
    assert (await timelines.call("POST", f"/v1/customers/{ann}/merge", json=body)).status_code == 200
    assert await suggested(timelines, ANN) == {}
    answer = await timelines.call("POST", f"/v1/customers/{ann}/split", json={"handles": [other]})
    assert answer.status_code == 200, answer.text
    assert await suggested(timelines, ANN, other) == await suggested(timelines, other, ANN) == {}
