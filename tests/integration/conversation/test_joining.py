"""A wrong stitching put right by hand: entries and conversations joined, as events like any other."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from typing import Any

import asyncpg
import pytest

from services.conversation.joining import Join
from shared.entry_ids import entry_id_of
from shared.events import InboundEvent
from shared.settings import Settings
from tests.histories import BEGINNING, HOUR, SECRET
from tests.integration.conversation.test_histories import is_what_is_decided_from_scratch, put
from tests.timeline_app import Timelines, running_timelines


@pytest.fixture
async def timelines(pool: asyncpg.Pool, settings: Settings) -> AsyncIterator[Timelines]:
    async with running_timelines(pool, settings) as running:
        yield running


async def entries(timelines: Timelines, handle: str) -> dict[str, dict[str, Any]]:
    customer = await timelines.customer(handle)
    assert customer is not None
    found = (await timelines.get(f"/v1/customers/{customer['id']}/timeline", limit=200))["entries"]
    return {entry["event_id"]: entry for entry in found if entry["source"] != "/threadline"}


async def two_matters(timelines: Timelines) -> dict[str, dict[str, Any]]:
    """Two sessions of Ann's, open at once, and a mail that finds several open and so opens a third matter."""
    ann = "email:ann@home.example"
    await timelines.post(
        timelines.message("09:00:00", ann, contact_id="s1", thread={"ticket": "T-1"}),
        timelines.message("09:10:00", ann, contact_id="s2", thread={"ticket": "T-2"}),
        timelines.message("09:20:00", ann, channel="email", message_id="<m@home.example>"),
        timelines.message(
            "09:30:00", ann, channel="email", message_id="<n@home.example>", thread={"in_reply_to": "<m@home.example>"}
        ),
        timelines.message("09:40:00", ann, contact_id="s1"),
    )
    return await entries(timelines, ann)


async def test_what_is_joined_and_what_comes_later_by_its_key_are_in_one_place(timelines: Timelines) -> None:
    before = await two_matters(timelines)
    assert len({before[id_]["conversation_id"] for id_ in ("e1", "e2", "e3")}) == 3
    target = before["e1"]["conversation_id"]
    both = [before["e3"]["id"], before["e4"]["id"]]
    answer = await timelines.call(
        "POST", f"/v1/conversations/{target}/join", json={"entry_ids": both, "reason": "same parcel"}
    )
    assert answer.status_code == 200, answer.text
    assert answer.json()["conversation_id"] == target
    assert answer.json()["customer_id"] == before["e1"]["customer_id"]
    after = await entries(timelines, "email:ann@home.example")
    assert {id_: entry["conversation_id"] for id_, entry in after.items()} == {
        **dict.fromkeys(("e1", "e3", "e4", "e5"), target),
        "e2": before["e2"]["conversation_id"],
    }
    assert after["e3"]["stitched"] == {"rule": "joined", "key": f"conversation:{target}"}
    assert after["e3"]["version"] > before["e3"]["version"]
    # The id of the conversation that is no more leads to the one that holds its entries now.
    old = await timelines.get(f"/v1/conversations/{before['e3']['conversation_id']}")
    assert old["id"] == target
    # Later mail of that thread comes to the same place, and the decision is on the line with its reason.
    await timelines.post(
        timelines.message(
            "10:00:00", "email:ann@home.example", channel="email", thread={"in_reply_to": "<m@home.example>"}
        )
    )
    later = await entries(timelines, "email:ann@home.example")
    assert later["e6"]["conversation_id"] == target
    line = (await timelines.get(f"/v1/conversations/{target}/entries", limit=200))["entries"]
    decision = next(e for e in line if e["event_id"] == answer.json()["event_id"])
    assert decision["type"] == "threadline.conversation.joined"
    assert decision["extra"]["reason"] == "same parcel"


async def test_what_stayed_when_others_left_may_be_joined_later(timelines: Timelines) -> None:
    before = await two_matters(timelines)
    one, other = before["e1"]["conversation_id"], before["e2"]["conversation_id"]
    for moved in ("e3", "e4"):
        answer = await timelines.call(
            "POST", f"/v1/conversations/{one}/join", json={"entry_ids": [before[moved]["id"]]}
        )
        assert (answer.status_code, answer.json()["conversation_id"]) == (200, one)
    after = await entries(timelines, "email:ann@home.example")
    assert {after[id_]["conversation_id"] for id_ in ("e1", "e3", "e4", "e5")} == {one}
    # And out of it again, and to where it had never been.
    for into in (before["e4"]["id"], other):
        joined = {"entry_ids": [before["e4"]["id"]]}
        answer = await timelines.call("POST", f"/v1/conversations/{into}/join", json=joined)
        assert (answer.status_code, answer.json()["conversation_id"]) == (200, into)
        after = await entries(timelines, "email:ann@home.example")
        assert after["e4"]["conversation_id"] == into
        assert {after[id_]["conversation_id"] for id_ in ("e1", "e3", "e5")} == {one}


async def test_what_else_is_open_is_suggested_until_it_is_joined(timelines: Timelines) -> None:
    before = await two_matters(timelines)
    one, two, three = (before[id_]["conversation_id"] for id_ in ("e1", "e2", "e3"))
    shown = await timelines.get(f"/v1/conversations/{one}")
    assert [(row["conversation_id"], row["reason"]) for row in shown["suggestions"]] == [
        (three, "open_as_well"),
        (two, "open_as_well"),
    ]
    brief = await timelines.get(f"/v1/customers/{before['e1']['customer_id']}/context")
    assert brief["conversation"] == shown
    for other in (two, three):
        answer = await timelines.call("POST", f"/v1/conversations/{one}/join", json={"conversation_id": other})
        assert answer.status_code == 200, answer.text
    assert (await timelines.get(f"/v1/conversations/{one}"))["suggestions"] == []


async def test_a_whole_conversation_is_joined_and_the_one_that_it_is_joined_into_keeps_its_id(
    timelines: Timelines,
) -> None:
    before = await two_matters(timelines)
    target, other = before["e3"]["conversation_id"], before["e1"]["conversation_id"]
    answer = await timelines.call("POST", f"/v1/conversations/{target}/join", json={"conversation_id": other})
    assert answer.status_code == 200, answer.text
    assert answer.json()["conversation_id"] == target
    after = await entries(timelines, "email:ann@home.example")
    assert {after[id_]["conversation_id"] for id_ in ("e1", "e3", "e4", "e5")} == {target}
    assert after["e2"]["conversation_id"] == before["e2"]["conversation_id"]
    assert after["e1"]["stitched"] == after["e5"]["stitched"] == {"rule": "joined", "key": f"conversation:{other}"}
    assert after["e3"]["stitched"]["rule"] == "new"
    one, same = await timelines.get(f"/v1/conversations/{target}"), await timelines.get(f"/v1/conversations/{other}")
    assert one == same
    assert one["merged_ids"] == [other]
    assert one["opened_at"] == before["e1"]["occurred_at"]
    assert {contact["id"] for contact in one["contacts"]} == {"s1"}


async def test_a_conversation_whose_first_entry_is_joined_elsewhere_keeps_its_id(timelines: Timelines) -> None:
    ann = "email:ann@home.example"
    await timelines.post(
        timelines.message("09:00:00", ann, channel="email", message_id="<m@home.example>"),
        timelines.message("09:10:00", ann, contact_id="s1"),
        timelines.message("09:20:00", ann, contact_id="s1"),
        timelines.message("09:30:00", "phone:+31201234567", contact_id="s2"),
    )
    before = await entries(timelines, ann)
    callers = await entries(timelines, "phone:+31201234567")
    old, target = before["e1"]["conversation_id"], callers["e4"]["conversation_id"]
    assert {entry["conversation_id"] for entry in before.values()} == {old}
    answer = await timelines.call("POST", f"/v1/conversations/{target}/join", json={"entry_ids": [before["e1"]["id"]]})
    assert answer.status_code == 200, answer.text
    after = await entries(timelines, ann)
    assert [after[id_]["conversation_id"] for id_ in ("e1", "e2", "e3")] == [target, old, old]
    assert (await timelines.get(f"/v1/conversations/{old}"))["entries"] == 2
    assert (await timelines.get(f"/v1/conversations/{target}"))["id"] == target
    # And back again.
    answer = await timelines.call("POST", f"/v1/conversations/{old}/join", json={"entry_ids": [before["e1"]["id"]]})
    assert answer.status_code == 200, answer.text
    back = await entries(timelines, ann)
    assert {back[id_]["conversation_id"] for id_ in ("e1", "e2", "e3")} == {old}


async def test_what_a_rule_joined_wrongly_is_taken_out_into_a_conversation_of_its_own(timelines: Timelines) -> None:
    ann = "email:ann@home.example"
    await timelines.post(
        timelines.message("09:00:00", ann, contact_id="s1"),
        timelines.message("09:10:00", ann, channel="email", message_id="<m@home.example>"),
        timelines.message("09:20:00", ann, contact_id="s1"),
        timelines.message("09:30:00", ann, channel="email", thread={"in_reply_to": "<m@home.example>"}),
    )
    before = await entries(timelines, ann)
    one = before["e1"]["conversation_id"]
    assert before["e2"]["stitched"]["rule"] == "open_conversation"
    assert {entry["conversation_id"] for entry in before.values()} == {one}
    own, answer_id = before["e2"]["id"], before["e4"]["id"]
    answer = await timelines.call("POST", f"/v1/conversations/{own}/join", json={"entry_ids": [answer_id, own]})
    assert answer.status_code == 200, answer.text
    assert answer.json()["conversation_id"] == own
    after = await entries(timelines, ann)
    assert [after[id_]["conversation_id"] for id_ in ("e1", "e2", "e3", "e4")] == [one, own, one, own]
    assert after["e2"]["stitched"] == {"rule": "joined", "key": f"conversation:{own}"}
    line = (await timelines.get(f"/v1/conversations/{own}/entries"))["entries"]
    assert {entry["event_id"] for entry in line if entry["source"] != "/threadline"} == {"e2", "e4"}
    # What comes later by its keys comes there, and what is left is where it was.
    await timelines.post(
        timelines.message("10:00:00", ann, channel="email", thread={"in_reply_to": "<m@home.example>"}),
        timelines.message("10:10:00", ann, contact_id="s1"),
    )
    later = await entries(timelines, ann)
    assert [later[id_]["conversation_id"] for id_ in ("e5", "e6")] == [own, one]
    # And back, and out again.
    for target, ids in ((one, [own]), (own, [own])):
        answer = await timelines.call("POST", f"/v1/conversations/{target}/join", json={"entry_ids": ids})
        assert answer.status_code == 200, answer.text
        assert (await entries(timelines, ann))["e2"]["conversation_id"] == target


async def test_an_entry_that_was_joined_wrongly_by_hand_goes_back_where_it_had_been_alone(timelines: Timelines) -> None:
    before = await two_matters(timelines)
    target, alone = before["e1"]["conversation_id"], before["e2"]["conversation_id"]
    for into in (target, alone):
        answer = await timelines.call("POST", f"/v1/conversations/{into}/join", json={"entry_ids": [alone]})
        assert answer.status_code == 200, answer.text
        assert (await entries(timelines, "email:ann@home.example"))["e2"]["conversation_id"] == into
    # A whole conversation that became part of another cannot be taken out by the entry that founded it.
    whole = await timelines.call("POST", f"/v1/conversations/{target}/join", json={"conversation_id": alone})
    assert whole.status_code == 200, whole.text
    refused = await timelines.call("POST", f"/v1/conversations/{alone}/join", json={"entry_ids": [alone]})
    assert refused.status_code == 422
    assert "as a whole" in refused.text


async def test_two_conversations_that_an_integration_merges_are_one(timelines: Timelines) -> None:
    before = await two_matters(timelines)
    gone, into = before["e1"]["conversation_id"], before["e2"]["conversation_id"]
    data = {"from": gone, "into": into, "text": None}
    await timelines.post(timelines.message("11:00:00", type="conversation.merged", **data))
    after = await entries(timelines, "email:ann@home.example")
    assert {after[id_]["conversation_id"] for id_ in ("e1", "e2", "e5", "e6")} == {into}
    assert (await timelines.get(f"/v1/conversations/{gone}"))["id"] == into
    line = (await timelines.get(f"/v1/conversations/{into}/entries", limit=200))["entries"]
    assert [e["type"] for e in line if e["type"].endswith("merged")] == ["threadline.conversation.merged"]


async def test_conversations_merged_by_the_ids_of_the_integration_that_named_them(timelines: Timelines) -> None:
    await timelines.post(
        timelines.message("11:00:00", type="conversation.merged", **{"from": "desk-1", "into": "desk-2"}),
        timelines.message("09:00:00", "email:ann@home.example", conversation_id="desk-1"),
        timelines.message("09:10:00", "phone:+31201234567", conversation_id="desk-2"),
    )
    ann = (await entries(timelines, "email:ann@home.example"))["e2"]
    caller = (await entries(timelines, "phone:+31201234567"))["e3"]
    assert ann["conversation_id"] == caller["conversation_id"] == caller["id"]


@pytest.mark.parametrize(
    ("path", "body", "status", "says"),
    [
        ("{one}", {}, 422, "either entry_ids or conversation_id"),
        ("{one}", {"entry_ids": ["{entry}"], "conversation_id": "{other}"}, 422, "either entry_ids or"),
        ("{one}", {"entry_ids": []}, 422, "at least 1"),
        ("{one}", {"entry_ids": ["nothing"]}, 404, "no such entry"),
        ("{one}", {"entry_ids": ["00000000-0000-0000-0000-000000000000"]}, 404, "#/entry_ids/0"),
        ("{one}", {"entry_ids": ["{entry}"]}, 422, "in this conversation already"),
        ("{one}", {"entry_ids": ["{derived}"]}, 422, "made this entry from another"),
        ("{one}", {"conversation_id": "{one}"}, 422, "the same conversation"),
        ("{one}", {"conversation_id": "00000000-0000-0000-0000-000000000000"}, 404, "no such conversation"),
        ("nothing", {"conversation_id": "{other}"}, 404, "no such conversation"),
    ],
)
async def test_joins_that_cannot_be_are_refused_and_change_nothing(
    timelines: Timelines, path: str, body: dict[str, Any], status: int, says: str
) -> None:
    before = await two_matters(timelines)
    one = before["e1"]["conversation_id"]
    line = (await timelines.get(f"/v1/conversations/{one}/entries", limit=200))["entries"]
    known = {
        "one": one,
        "other": before["e2"]["conversation_id"],
        "entry": before["e1"]["id"],
        "derived": next(e["id"] for e in line if e["source"] == "/threadline"),
    }
    filled = {
        name: [v.format(**known) for v in value] if isinstance(value, list) else value.format(**known)
        for name, value in body.items()
    }
    answer = await timelines.call("POST", f"/v1/conversations/{path.format(**known)}/join", json=filled)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert says in answer.text
    assert await entries(timelines, "email:ann@home.example") == before
    there = await timelines.call("POST", f"/v1/conversations/{one}/join", tenant="globex", json=filled)
    assert there.status_code in (404, 422)


# --- whatever the order ----------------------------------------------------------------------------------------------


def a_matter(tenant: str) -> list[InboundEvent]:
    """Two sessions and a mail thread of one person, and a join of each kind."""
    ann = {"customer": {"handles": [{"kind": "email", "value": "ann@home.example"}]}}

    def said(number: int, hours: int, **data: Any) -> InboundEvent:
        at = BEGINNING + hours * HOUR
        return InboundEvent(tenant, "/x", f"e{number}", "threadline.message.received", at, at, {**ann, **data})

    events = [
        said(0, 0, channel="chat", contact_id="s1", thread={"ticket": "T-0"}),
        said(1, 1, channel="chat", contact_id="s2", thread={"ticket": "T-1"}),
        said(2, 2, channel="email", message_id="<a@x.example>"),
        said(3, 3, channel="email", message_id="<b@x.example>", thread={"in_reply_to": "<a@x.example>"}),
        said(4, 4, channel="chat", contact_id="s1"),
        said(5, 5, channel="chat", contact_id="s3", thread={"ticket": "T-3"}),
        said(6, 6, channel="chat", contact_id="s2"),
    ]
    ids = [entry_id_of(SECRET, tenant, event.source, event.id) for event in events]
    joins = [
        Join(ids[1], BEGINNING, entries=(ids[2],)),
        Join(ids[5], BEGINNING + 7 * HOUR, entries=(ids[0],), kept=((ids[0], (ids[4],)),)),
        Join(ids[5], BEGINNING + 8 * HOUR, whole=ids[1]),
        Join(ids[0], BEGINNING + 9 * HOUR, entries=(ids[2], ids[3])),
        # What a session bound, into a conversation of its own, out of it and, with another, into it again.
        Join(ids[6], BEGINNING + 10 * HOUR, entries=(ids[6],)),
        Join(ids[0], BEGINNING + 11 * HOUR, entries=(ids[6],)),
        Join(ids[6], BEGINNING + 12 * HOUR, entries=(ids[6], ids[3])),
    ]
    said_so = []
    for number, join in enumerate(joins):
        event = join.event(tenant, None, {"type": "agent"}, join.at)
        said_so.append(
            InboundEvent(
                tenant, event.source, f"j{number}", event.type, join.at, join.at + timedelta(days=1), event.data
            )
        )
    return events + said_so


PLACES = """
SELECT e.event_id, e.rule, coalesce(c.canonical_id, e.conversation_id), e.conversation_id
FROM conversation.entry e LEFT JOIN conversation.conversation c USING (tenant_id, conversation_id)
WHERE e.tenant_id = $1 AND e.cause_id IS NULL ORDER BY e.event_id
"""


async def test_what_nobody_owns_follows_the_owner_of_all_that_was_joined_before_too(pool: asyncpg.Pool) -> None:
    def said(number: int, person: str, **data: Any) -> InboundEvent:
        handles = {"handles": [{"kind": "email", "value": f"{person}@home.example"}]}
        at, told = BEGINNING + number * HOUR, {"channel": "email", "message_id": f"<{number}@x.example>", **data}
        told |= {"customer": handles} if person else {}
        kind = "received" if person else "sent"
        return InboundEvent("t", "/x", f"e{number}", f"threadline.message.{kind}", at, at, told)

    events = [said(0, "cem"), said(1, "ann"), said(2, "bob"), said(3, "", thread={"in_reply_to": "<2@x.example>"})]
    ids = [entry_id_of(SECRET, "t", event.source, event.id) for event in events]
    # Bob's matter becomes part of Ann's, and then Cem's, which began before both.
    joins = [Join(ids[1], BEGINNING + number * HOUR, whole=ids[whole]) for number, whole in ((4, 2), (5, 0))]
    for event in [*events, *(join.event("t", None, {"type": "agent"}, join.at) for join in joins)]:
        await put(pool, "t", [event])
    owners = dict(await pool.fetch("SELECT event_id, leaf_id FROM conversation.entry WHERE cause_id IS NULL"))
    assert owners["e3"] == owners["e0"], "an answer to nobody is the customer's whose entry is the first"
    await is_what_is_decided_from_scratch(pool, "t", 0)


async def test_joins_in_any_order_and_in_batches_of_any_size_give_the_same(pool: asyncpg.Pool) -> None:
    results = []
    for seed in range(25):
        chance, tenant = random.Random(seed), f"t{seed}"
        events = a_matter("t")  # the ids of one tenant, so that results can be compared
        events = [InboundEvent(tenant, *_rest(event)) for event in events]
        renamed = _renamed(events, "t", tenant)
        chance.shuffle(renamed)
        renamed += chance.sample(renamed, 3)
        while renamed:
            count = chance.choice([1, 1, 2, 5, 11])
            await put(pool, tenant, renamed[:count])
            renamed = renamed[count:]
        names = {entry_id_of(SECRET, tenant, "/x", f"e{n}"): f"e{n}" for n in range(7)}
        rows = [tuple(names.get(cell, cell) for cell in row[:3]) for row in await pool.fetch(PLACES, tenant)]
        results.append(rows)
        await is_what_is_decided_from_scratch(pool, tenant, seed)
    assert all(result == results[0] for result in results)
    assert [row[:3] for row in results[0][:7]] == [
        ("e0", "joined", "e5"),
        ("e1", "new", "e5"),
        ("e2", "joined", "e0"),
        ("e3", "joined", "e6"),
        ("e4", "joined", "e0"),
        ("e5", "conversation_id", "e5"),
        ("e6", "joined", "e6"),
    ]


def _rest(event: InboundEvent) -> Sequence[Any]:
    return event.source, event.id, event.type, event.occurred_at, event.received_at, event.data


def _renamed(events: list[InboundEvent], old: str, new: str) -> list[InboundEvent]:
    """Let the joins name the entries of another tenant's copy of the events."""
    ids = {
        str(entry_id_of(SECRET, old, event.source, event.id)): str(entry_id_of(SECRET, new, event.source, event.id))
        for event in events
    }

    def put_right(value: Any) -> Any:
        if isinstance(value, dict):
            return {ids.get(name, name): put_right(inner) for name, inner in value.items()}
        if isinstance(value, list):
            return [put_right(inner) for inner in value]
        return ids.get(value, value) if isinstance(value, str) else value

    return [InboundEvent(*(new, *_rest(event)[:-1]), put_right(event.data)) for event in events]
