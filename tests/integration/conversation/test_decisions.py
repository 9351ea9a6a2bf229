"""What agents decide about people: merges that come apart again without a trace, splits that last."""

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


async def line(timelines: Timelines, customer_id: str) -> list[tuple[str, str | None, str]]:
    """Return (event, conversation, via) of the posted entries of a customer, newest first."""
    entries = (await timelines.get(f"/v1/customers/{customer_id}/timeline", limit=200))["entries"]
    return [(e["event_id"], e["conversation_id"], e["via"]) for e in entries if e["source"] != "/threadline"]


async def two_people(timelines: Timelines) -> tuple[dict[str, Any], dict[str, Any]]:
    await timelines.post(
        timelines.message("09:00:00", "email:ann@home.example", channel="email", message_id="<1@home.example>"),
        timelines.message("09:05:00", "phone:+31201234567", contact_id="call-1", channel="phone"),
        timelines.message(
            "09:06:00", type="message.sent", actor={"type": "agent"}, contact_id="call-1", channel="phone"
        ),
    )
    ann, caller = await timelines.customer("email:ann@home.example"), await timelines.customer("phone:+31201234567")
    assert ann is not None
    assert caller is not None
    assert ann["id"] != caller["id"]
    return ann, caller


async def test_a_merge_makes_one_customer_and_both_ids_answer(timelines: Timelines) -> None:
    ann, caller = await two_people(timelines)
    answer = await timelines.call(
        "POST", f"/v1/customers/{ann['id']}/merge", json={"with": caller["id"], "reason": "she said so on the phone"}
    )
    assert answer.status_code == 200, answer.text
    survivor = answer.json()["customer_id"]
    assert survivor in (ann["id"], caller["id"])
    one, other = await timelines.get(f"/v1/customers/{ann['id']}"), await timelines.get(f"/v1/customers/{caller['id']}")
    assert one == other
    assert one["id"] == survivor
    assert one["merged_ids"] == [({ann["id"], caller["id"]} - {survivor}).pop()]
    assert {handle["kind"] for handle in one["handles"]} == {"email", "phone"}
    assert len(await line(timelines, survivor)) == 3


async def test_split_restores_both_timelines_and_later_evidence_does_not_undo_it(timelines: Timelines) -> None:
    ann, caller = await two_people(timelines)
    before = {person["id"]: await line(timelines, person["id"]) for person in (ann, caller)}
    await timelines.call("POST", f"/v1/customers/{ann['id']}/merge", json={"with": caller["id"]})
    # While they are one, the next mail without any thread joins the open call: rule 4.
    await timelines.post(timelines.message("10:00:00", "email:ann@home.example", channel="email"))
    during = await timelines.customer("email:ann@home.example")
    assert during is not None
    answer = await timelines.call(
        "POST", f"/v1/customers/{during['id']}/split", json={"handles": ["phone: 31201234567"], "reason": "not her"}
    )
    assert answer.status_code == 200, answer.text
    for person in (ann, caller):
        assert (await timelines.get(f"/v1/customers/{person['id']}"))["id"] == person["id"]
        now = await line(timelines, person["id"])
        assert [row for row in now if row[0] != "e4"] == before[person["id"]]
    assert [row[0] for row in await line(timelines, ann["id"])] == ["e4", "e1"]
    await timelines.post(
        timelines.message("11:00:00", "email:ann@home.example", "phone:+31201234567", type="customer.identified")
    )
    one, other = await timelines.customer("email:ann@home.example"), await timelines.customer("phone:+31201234567")
    assert one is not None
    assert other is not None
    assert (one["id"], other["id"]) == (ann["id"], caller["id"])


async def test_deciding_who_is_who_is_no_sight_of_them_and_the_decider_is_no_agent_of_theirs(
    timelines: Timelines,
) -> None:
    ann, caller = await two_people(timelines)
    decided = await timelines.call("POST", f"/v1/customers/{ann['id']}/merge", json={"with": caller["id"]})
    one = await timelines.get(f"/v1/customers/{decided.json()['customer_id']}")
    assert one["last_seen_at"] == "2026-03-02T09:06:00.000000Z"
    await timelines.call("POST", f"/v1/customers/{one['id']}/split", json={"handles": ["phone:+31201234567"]})
    call_id = caller["open_conversations"][0]
    joined = await timelines.call(
        "POST", f"/v1/conversations/{ann['open_conversations'][0]}/join", json={"conversation_id": call_id}
    )
    assert joined.status_code == 200, joined.text
    for person in (ann, caller):
        now = await timelines.get(f"/v1/customers/{person['id']}")
        assert now["handles"] == person["handles"]
        assert (now["first_seen_at"], now["last_seen_at"]) == (person["first_seen_at"], person["last_seen_at"])
        brief = await timelines.get(f"/v1/customers/{person['id']}/context")
        assert brief["summary"]["agents"] == []


async def test_identity_says_why_and_what_was_refused(timelines: Timelines) -> None:
    ann, caller = await two_people(timelines)
    decision = {"with": caller["id"], "reason": "same voice"}
    await timelines.call("POST", f"/v1/customers/{ann['id']}/merge", json=decision)
    survivor = (await timelines.get(f"/v1/customers/{ann['id']}"))["id"]
    why = await timelines.get(f"/v1/customers/{survivor}/identity")
    rules = {(link["a"], link["b"]): link["rule"] for link in why["links"]}
    assert rules == {
        ("contact:call-1", "phone:+31201234567"): "named_together",
        ("email:ann@home.example", "phone:+31201234567"): "manual_merge",
    }
    assert [(row["op"], row["reason"]) for row in why["history"]] == [("merge", "same voice")]
    await timelines.call("POST", f"/v1/customers/{survivor}/split", json={"handles": ["email:ann@home.example"]})
    why = await timelines.get(f"/v1/customers/{ann['id']}/identity")
    assert [(row["a"], row["b"], row["reason"]) for row in why["refused"]] == []
    assert [(row["a"], row["b"]) for row in why["do_not_link"]] == [("email:ann@home.example", "phone:+31201234567")]
    # What the split took back was decided all the same, and on either side that is told.
    for person in (ann, caller):
        history = (await timelines.get(f"/v1/customers/{person['id']}/identity"))["history"]
        assert [(row["op"], row["reason"]) for row in history] == [("merge", "same voice"), ("split", None)]
    await timelines.post(
        timelines.message("11:00:00", "email:ann@home.example", "phone:+31201234567", type="customer.identified")
    )
    why = await timelines.get(f"/v1/customers/{ann['id']}/identity")
    assert [(row["a"], row["b"], row["reason"]) for row in why["refused"]] == [
        ("email:ann@home.example", "phone:+31201234567", "do_not_link")
    ]


@pytest.mark.parametrize(
    ("path", "body", "status", "says"),
    [
        ("/v1/customers/{ann}/merge", {"with": "{ann}"}, 422, "same customer"),
        ("/v1/customers/{ann}/merge", {"with": "no-id"}, 404, "no such customer"),
        ("/v1/customers/{ann}/merge", {"with": "00000000-0000-0000-0000-000000000000"}, 404, "no such customer"),
        ("/v1/customers/{ann}/merge", {}, 422, "required"),
        ("/v1/customers/{ann}/split", {"handles": ["phone:+31201234567"]}, 422, "not a handle of this customer"),
        ("/v1/customers/{ann}/split", {"handles": ["email:ann@home.example"]}, 422, "leave at least one"),
        ("/v1/customers/{ann}/split", {"handles": []}, 422, "at least 1"),
        ("/v1/customers/{ann}/split", {"handles": ["nonsense"]}, 422, "kind:value"),
        ("/v1/customers/nobody/split", {"handles": ["email:ann@home.example"]}, 404, "no such customer"),
    ],
)
async def test_decisions_that_cannot_be_are_refused_and_change_nothing(
    timelines: Timelines, path: str, body: dict[str, Any], status: int, says: str
) -> None:
    ann, caller = await two_people(timelines)
    filled = {key: value.format(ann=ann["id"]) if isinstance(value, str) else value for key, value in body.items()}
    answer = await timelines.call("POST", path.format(ann=ann["id"]), json=filled)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert says in answer.text
    assert await timelines.get(f"/v1/customers/{ann['id']}") == ann
    assert await timelines.get(f"/v1/customers/{caller['id']}") == caller


async def test_two_crm_ids_are_never_merged_not_even_by_hand(timelines: Timelines) -> None:
    await timelines.post(
        timelines.message("09:00:00", "crm:1", "email:a@x.example"), timelines.message("09:01:00", "crm:2")
    )
    one, other = await timelines.customer("crm:1"), await timelines.customer("crm:2")
    assert one is not None
    assert other is not None
    answer = await timelines.call("POST", f"/v1/customers/{one['id']}/merge", json={"with": other["id"]})
    assert answer.status_code == 409
    assert "crm" in answer.json()["detail"]


async def test_another_tenants_customer_does_not_exist(timelines: Timelines) -> None:
    ann, _ = await two_people(timelines)
    for method, path, body in (
        ("GET", "", None),
        ("GET", "/timeline", None),
        ("GET", "/identity", None),
        ("POST", "/merge", {"with": ann["id"]}),
        ("POST", "/split", {"handles": ["email:ann@home.example"]}),
    ):
        answer = await timelines.call(method, f"/v1/customers/{ann['id']}{path}", tenant="globex", json=body)
        assert answer.status_code == 404, path
