"""What outgoing webhooks tell of corrections, merges and erasures, and what becomes of what waits meanwhile."""

from __future__ import annotations

from tests.integration.conversation.webhooks.desk import (
    SENT,
    listed,
    pending,
    put,
    reply,
    taken,
    until_as_time_passes,
)
from tests.receiver import Receiver
from tests.timeline_app import Timelines
from tests.waiting import until


async def test_correction_is_an_event_of_its_own_and_is_not_the_reply_again(
    timelines: Timelines, receiver: Receiver
) -> None:
    await put(timelines, receiver.url(), event_types=[f"{SENT}*"])
    ann, her = "visitor:v1", "email:ann@example.com"
    await timelines.post(reply(timelines, "09:00:00", ann, "hello", contact_id="s1"))
    await taken(receiver, 1)
    # An earlier message of the session brings the reply into another conversation.
    await timelines.post(timelines.message("08:00:00", her, contact_id="s1", channel="email", thread={"ticket": "T-9"}))
    await pending(timelines, 0)
    entry = receiver.taken[0].entry
    for later in receiver.taken[1:]:
        assert later.json["type"] == f"{SENT}.updated" and later.entry["id"] == entry["id"]
        assert later.entry["version"] > entry["version"] and later.id != receiver.taken[0].id


async def test_a_derived_line_that_changes_hands_is_told_as_the_api_shows_it(
    timelines: Timelines, receiver: Receiver
) -> None:
    await put(timelines, receiver.url(), event_types=["threadline.conversation.escalated*"])
    ann, matter = "email:ann@example.com", {"ticket": "T-1"}
    await timelines.post(timelines.message("09:00:00", ann, channel="email", thread=matter))
    await timelines.post(timelines.message("09:05:00", ann, channel="sms", thread=matter))
    await taken(receiver, 1)
    # Somebody else wrote before: the matter, and what follows from it, is theirs.
    carl = "email:carl@example.com"
    await timelines.post(timelines.message("08:00:00", carl, channel="email", thread=matter))
    await taken(receiver, 2)
    told = receiver.taken[1].json["data"]
    path = f"/v1/customers/{told['customer_id']}/timeline"
    (shown_,) = (await timelines.get(path, kind="threadline.conversation.escalated"))["entries"]
    assert {**told["entry"], "via": "identity", "customer_id": told["customer_id"]} == shown_


async def test_what_waits_follows_its_customer_through_a_merge_and_keeps_the_order(
    timelines: Timelines, receiver: Receiver
) -> None:
    receiver.answer = lambda _: 503
    await put(timelines, receiver.url())
    await timelines.post(reply(timelines, "09:00:00", "email:ann@example.com", "one"))
    await timelines.post(reply(timelines, "09:01:00", "phone:+31612345678", "two"))
    both = timelines.message("09:02:00", "email:ann@example.com", "phone:+31612345678", type="customer.identified")
    await timelines.post(both)
    await timelines.post(reply(timelines, "09:03:00", "phone:+31612345678", "three"))

    async def one_lane() -> bool:
        return bool(
            await timelines.platform.pool.fetchval(
                "SELECT count(*) = 3 AND count(DISTINCT customer_id) = 1 FROM conversation.webhook_delivery"
            )
        )

    await until(one_lane, "all three wait in one lane")
    receiver.answer = lambda _: 204
    await until_as_time_passes(timelines, lambda: len(receiver.taken) == 3, "all taken")
    assert receiver.texts() == ["one", "two", "three"]
    await pending(timelines, 0)


async def test_a_delivery_that_is_just_being_moved_or_erased_holds_up_no_other(
    timelines: Timelines, receiver: Receiver
) -> None:
    await put(timelines, receiver.url(), enabled=False)
    await timelines.post(reply(timelines, "09:00:00", "email:ann@example.com", "ann's"))
    await pending(timelines, 1)
    async with timelines.platform.pool.acquire() as connection:
        async with connection.transaction():
            await connection.execute("SELECT FROM conversation.webhook_delivery FOR UPDATE")
            await put(timelines, receiver.url())
            await timelines.post(reply(timelines, "09:01:00", "email:bob@example.com", "bob's"))
            await taken(receiver, 1)
            assert receiver.texts() == ["bob's"]
        await taken(receiver, 2)


async def test_what_waits_of_an_erased_person_vanishes_and_that_it_is_gone_is_told(
    timelines: Timelines, receiver: Receiver
) -> None:
    receiver.answer = lambda _: 503
    await put(timelines, receiver.url(), event_types=[f"{SENT}*"])
    await timelines.post(reply(timelines, "09:00:00", "email:ann@example.com", "forget me"))
    await timelines.post(reply(timelines, "09:00:00", "email:bob@example.com", "keep me"))
    await until(lambda: receiver.seen, "tried")
    await pending(timelines, 2)
    customer = await timelines.customer("email:ann@example.com")
    assert customer is not None
    erased = await timelines.call("DELETE", f"/v1/customers/{customer['id']}")
    assert erased.status_code == 200, erased.text
    receiver.answer = lambda _: 204
    await until_as_time_passes(timelines, lambda: len(receiver.taken) == 2, "the other and the removal taken")
    await pending(timelines, 0)
    told = {delivery.json["type"]: delivery.entry for delivery in receiver.taken}
    assert told[SENT]["text"] == "keep me"
    assert told[f"{SENT}.deleted"]["deleted"] and "forget" not in str(told)
    bodies = await timelines.platform.pool.fetch("SELECT body FROM conversation.webhook_event")
    assert not any(b"forget" in row["body"] or b"ann@" in row["body"] for row in bodies)


async def test_what_waits_of_a_word_about_several_says_nothing_any_more_of_who_was_erased(
    timelines: Timelines, receiver: Receiver
) -> None:
    await put(timelines, receiver.url(), event_types=["threadline.customer.*merged"])
    ann, dan = "email:ann@example.com", "email:dan@example.com"
    await timelines.post(timelines.message("09:00:00", ann))
    await timelines.post(timelines.message("09:00:00", "phone:+31612345678", dan, type="customer.identified"))
    one, two = await timelines.customer(ann), await timelines.customer(dan)
    assert one and two
    receiver.answer = lambda _: (500, {})
    merged = {"with": two["id"], "reason": "Dan told me so"}
    assert (await timelines.call("POST", f"/v1/customers/{one['id']}/merge", json=merged)).status_code == 200
    await until(lambda: any("Dan" in one.body.decode() for one in receiver.seen), "their word was tried")
    both = await timelines.customer(ann)
    split = {"handles": [dan], "reason": "no"}
    assert both and (await timelines.call("POST", f"/v1/customers/{both['id']}/split", json=split)).status_code == 200
    apart = await timelines.customer(dan)
    assert apart and (await timelines.call("DELETE", f"/v1/customers/{apart['id']}")).status_code == 200
    bodies = [row["body"] for row in await timelines.platform.pool.fetch("SELECT body FROM conversation.webhook_event")]
    assert not any(b"dan@" in body or b"Dan" in body for body in bodies)
    receiver.answer, before = lambda _: 204, len(receiver.seen)
    word = '"sides":[["email:ann@example.com"],["phone:+31612345678"]]'
    await until_as_time_passes(timelines, lambda: any(word in one.body.decode() for one in receiver.taken), "told")
    assert not any("dan@" in one.body.decode().lower() for one in receiver.seen[before:])


async def test_what_waits_of_a_line_that_followed_from_an_erased_persons_and_is_no_more_vanishes(
    timelines: Timelines, receiver: Receiver
) -> None:
    await put(timelines, receiver.url(), event_types=["threadline.conversation.escalated*"])
    receiver.answer = lambda _: 503
    ann = "email:ann@example.com"
    await timelines.post(timelines.message("09:00:00", ann))
    await timelines.post(timelines.message("09:05:00", ann, channel="sms", contact_id="thread-of-ann"))
    await pending(timelines, 1)
    # It was solved in between, as is known now: no matter went from one channel to another.
    solved = {"type": "conversation.resolved", "actor": {"type": "agent", "id": "bo"}}
    await timelines.post(timelines.message("09:02:00", ann, **solved))
    await pending(timelines, 2)
    customer = await timelines.customer(ann)
    assert customer and (await timelines.call("DELETE", f"/v1/customers/{customer['id']}")).status_code == 200
    rows = await timelines.platform.pool.fetch("SELECT type, body FROM conversation.webhook_event")
    assert [row["type"] for row in rows] == ["threadline.conversation.escalated.deleted"]
    assert b"thread-of-ann" not in rows[0]["body"]


async def test_a_merge_by_evidence_is_told_and_what_waits_of_it_vanishes_with_the_person(
    timelines: Timelines, receiver: Receiver
) -> None:
    await put(timelines, receiver.url(), event_types=["threadline.customer.*merged"])
    ann, phone = "email:ann@example.com", "phone:+31612345678"
    await timelines.post(timelines.message("09:00:00", ann), timelines.message("09:01:00", phone, channel="phone"))
    one, other = await timelines.customer(ann), await timelines.customer(phone)
    assert one is not None and other is not None
    await timelines.post(timelines.message("09:02:00", ann, phone, type="customer.identified"))
    await taken(receiver, 1)
    both = await timelines.customer(ann)
    assert both is not None
    lost = ({one["id"], other["id"]} - {both["id"]}).pop()
    (told,) = (delivery.json for delivery in receiver.taken)
    assert told["type"] == "threadline.customer.merged"
    handle = ann if lost == one["id"] else phone
    change = {"was": lost, "became": both["id"], "handle": handle}
    assert told["data"] == {"customer_id": both["id"], "change": change}

    receiver.answer = lambda _: 503
    await timelines.call("PUT", "/v1/identity/policy", json={"shared": [phone]})
    await pending(timelines, 1)
    (waits,) = await listed(timelines, "pending")
    assert (waits["type"], waits["entry_id"]) == ("threadline.customer.unmerged", None)
    for handle in (ann, phone):
        if (someone := await timelines.customer(handle)) is not None:
            await timelines.call("DELETE", f"/v1/customers/{someone['id']}")
    assert await timelines.platform.pool.fetchval("SELECT count(*) FROM conversation.webhook_event") == 0
