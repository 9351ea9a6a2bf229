"""The brief for whoever picks up: the whole story of a channel switch, on one waiting clock."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import asyncpg
import pytest

from shared.settings import Settings
from tests.timeline_app import Timelines, running_timelines

AGENT = {"type": "agent", "id": "agent-1", "name": "Bo", "team": "front"}


@pytest.fixture
async def timelines(pool: asyncpg.Pool, settings: Settings) -> AsyncIterator[Timelines]:
    async with running_timelines(pool, settings) as running:
        yield running


async def test_the_brief_tells_who_picks_up_what_happened_before_the_channel_switch(timelines: Timelines) -> None:
    message = timelines.message
    ann = ("crm:ann", "email:ann@x.example")
    ticket = {"ticket": "T-1"}
    transfer = {"from": "front", "to": "billing", "reason": "price"}
    await timelines.post(
        message("09:00:00", *ann, contact_id="s1", thread=ticket, text="Where is my order?", topic="delivery"),
        message("09:01:00", type="info.requested", actor=AGENT, contact_id="s1", field="order_number"),
        message("09:02:00", type="message.sent", actor=AGENT, contact_id="s1", text="What is its number?"),
        message("09:03:00", *ann, contact_id="s1", text="It is 42."),
        message("09:04:00", type="conversation.transferred", actor=AGENT, contact_id="s1", **transfer),
        message(
            "09:05:00", *ann, channel="email", message_id="<m1@x.example>", thread=ticket, text="Still waiting. And 42?"
        ),
    )
    customer = await timelines.customer("crm:ann")
    assert customer is not None
    brief = await timelines.get(f"/v1/customers/{customer['id']}/context", limit=3)
    assert brief["customer"] == customer
    summary = brief["summary"]
    assert summary["channels"] == ["chat", "email"]
    assert summary["started_at"] == "2026-03-02T09:00:00.000000Z"
    # One clock over the switch: she has waited since 09:03 on the chat, not since the mail.
    assert summary["waiting_since"] == "2026-03-02T09:03:00.000000Z"
    assert summary["last_customer_question"]["text"] == "Still waiting. And 42?"
    assert summary["unanswered"] is True
    assert summary["asked"] == [{"field": "order_number", "at": "2026-03-02T09:01:00.000000Z"}]
    assert [agent["id"] for agent in summary["agents"]] == ["agent-1"]
    assert [(row["to"], row["reason"]) for row in summary["transfers"]] == [("billing", "price")]
    assert [(row["from_channel"], row["to_channel"], row["acknowledged_at"]) for row in summary["escalations"]] == [
        ("chat", "email", None)
    ]
    assert summary["topics"] == ["delivery"]
    assert len(brief["entries"]) == 3

    await timelines.post(
        message("09:30:00", type="message.sent", actor=AGENT, channel="email", thread=ticket, text="It left today.")
    )
    summary = (await timelines.get(f"/v1/customers/{customer['id']}/context"))["summary"]
    assert summary["waiting_since"] is None
    assert summary["unanswered"] is False
    assert summary["escalations"][0]["acknowledged_at"] == "2026-03-02T09:30:00.000000Z"


async def test_the_brief_tells_the_surveys_of_the_customer_whatever_matter_they_are_about(timelines: Timelines) -> None:
    message = timelines.message

    def survey(at: str, who: str, score: int, contact: str) -> dict[str, Any]:
        told = {"survey_id": f"{who} {at}", "metric": "csat", "kind": "csat", "score": score, "scale": [1, 5]}
        return message(at, who, type="survey.answered", contact_id=contact, **told)

    await timelines.post(
        message("08:00:00", "crm:ann", contact_id="s1", text="Where is my order?"),
        message("08:10:00", type="conversation.resolved", actor=AGENT, contact_id="s1"),
        survey("08:20:00", "crm:ann", 2, "s1"),
        message("09:00:00", "crm:ann", contact_id="s2", text="And now?"),
        survey("09:20:00", "crm:ann", 5, "s2"),
        message("09:30:00", "crm:bo", contact_id="s3", text="Hello"),
        survey("09:40:00", "crm:bo", 1, "s3"),
    )
    ann = await timelines.customer("crm:ann")
    assert ann is not None
    brief = await timelines.get(f"/v1/customers/{ann['id']}/context", limit=1)
    assert [(row["score"], row["at"]) for row in brief["summary"]["surveys"]] == [
        (2, "2026-03-02T08:20:00.000000Z"),
        (5, "2026-03-02T09:20:00.000000Z"),
    ]


async def test_automatic_mail_is_nobodys_question_and_opens_nothing(timelines: Timelines) -> None:
    ann, bo = "email:ann@x.example", "email:bo@x.example"
    away = {"headers": {"Auto-Submitted": "auto-replied"}, "thread": {"in_reply_to": "<m@x>"}}
    news = {"headers": {"List-Id": "<news.x.example>"}}
    await timelines.post(
        timelines.message("09:00:00", ann, channel="email", message_id="<m@x>", text="Where is it?"),
        timelines.message("09:01:00", ann, channel="email", message_id="<a@x>", **away),
        timelines.message("09:02:00", ann, channel="email", message_id="<n@x>", **news),
        timelines.message("09:03:00", bo, channel="email", message_id="<o@x>", **news),
    )
    found = {handle: await timelines.customer(handle) for handle in (ann, bo)}
    assert found[ann] and found[bo]
    asked = await timelines.get(f"/v1/customers/{found[ann]['id']}/context")
    assert asked["summary"]["last_customer_question"]["text"] == "Where is it?"
    assert asked["summary"]["unanswered"] is True
    matter = asked["conversation"]["id"]
    assert found[ann]["open_conversations"] == asked["customer"]["open_conversations"] == [matter]
    told = await timelines.get(f"/v1/customers/{found[bo]['id']}/context")
    assert told["summary"]["last_customer_question"] is None
    assert found[bo]["open_conversations"] == told["customer"]["open_conversations"] == []
    assert [row["id"] for row in (await timelines.get("/v1/conversations", state="open"))["conversations"]] == [matter]
    others = (await timelines.get("/v1/conversations", state="resolved"))["conversations"]
    assert [(row["state"], row["resolved_at"]) for row in others] == [("resolved", None)] * 2
    # Until a person writes there.
    await timelines.post(
        timelines.message("09:10:00", bo, channel="email", message_id="<p@x>", thread={"in_reply_to": "<o@x>"})
    )
    assert (await timelines.get(f"/v1/conversations/{told['conversation']['id']}"))["state"] == "open"


async def test_a_customer_without_a_conversation_has_an_empty_brief(timelines: Timelines) -> None:
    await timelines.post(timelines.message("09:00:00", "crm:bo", "email:bo@x.example", type="customer.identified"))
    customer = await timelines.customer("crm:bo")
    assert customer is not None
    brief = await timelines.get(f"/v1/customers/{customer['id']}/context")
    assert brief["conversation"] is None
    assert brief["summary"]["last_customer_question"] is None
    assert brief["summary"]["unanswered"] is False


async def test_the_brief_says_until_when_an_answer_was_promised(timelines: Timelines, pool: asyncpg.Pool) -> None:
    agreed = {"first_reply_s": 600, "resolution_s": 3600, "clock": "calendar"}
    since = datetime(2026, 1, 1, tzinfo=UTC)
    put = "INSERT INTO metrics.sla (tenant_id, valid_from, body, set_at) VALUES ('acme', $1, $2, $1)"
    await pool.execute(put, since, agreed)
    await timelines.post(timelines.message("09:00:00", "crm:ann", contact_id="s1"))
    customer = await timelines.customer("crm:ann")
    assert customer is not None
    due = {
        "first_reply_due_at": "2026-03-02T09:10:00.000000Z",
        "resolution_due_at": "2026-03-02T10:00:00.000000Z",
        "breached": True,
    }
    brief = await timelines.get(f"/v1/customers/{customer['id']}/context")
    assert brief["sla"] == due
    id_ = brief["conversation"]["id"]
    assert (await timelines.get(f"/v1/conversations/{id_}"))["sla"] == due
    assert [row["sla"] for row in (await timelines.get("/v1/conversations"))["conversations"]] == [due]
    other = timelines.message("09:00:00", "crm:ann", contact_id="s1")
    await timelines.post(other, tenant="globex")
    found = (await timelines.get("/v1/conversations", tenant="globex"))["conversations"]
    assert [row["sla"]["first_reply_due_at"] for row in found] == [None]
