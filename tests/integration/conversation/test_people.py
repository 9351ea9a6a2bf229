"""Merges and splits as readers of the timeline topic hear of them, and the handles that people are shown with."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import asyncpg
import pytest

from services.conversation.policy import Policy
from services.conversation.reading import customers
from shared.events import InboundEvent, TimelineRecord, rfc3339
from tests.histories import BEGINNING
from tests.integration.conversation.test_histories import decide_again, put


def an_event(number: int, type_: str = "customer.identified", **data: Any) -> InboundEvent:
    at = BEGINNING + timedelta(minutes=number)
    source = "/threadline" if type_ in ("customer.merged", "customer.unmerged") else "/chat/acme"
    return InboundEvent("acme", source, f"e{number}", f"threadline.{type_}", at, at, data)


def naming(number: int, *handles: str) -> InboundEvent:
    given = [dict(zip(("kind", "value"), handle.split(":", 1), strict=True)) for handle in handles]
    return an_event(number, "message.received", channel="chat", customer={"handles": given})


def changes(records: list[TimelineRecord]) -> dict[str, tuple[str | None, str | None, str]]:
    """Return node → (change, the customer before, the customer now) of the leaves in these records."""
    leaves = [record.body for record in records if record.kind == "leaf"]
    return {f"{b['kind']}:{b['value']}": (b.get("change"), b.get("was"), b["customer_id"]) for b in leaves}


async def test_readers_of_the_topic_hear_of_merges_by_evidence_and_of_splits(pool: asyncpg.Pool) -> None:
    first = await put(pool, "acme", [naming(1, "crm:1"), naming(2, "crm:1"), naming(3, "email:ann@home.example")])
    known = changes(first.records)
    assert {change for change, _, _ in known.values()} == {None}
    old, survivor = known["email:ann@home.example"][2], known["crm:1"][2]
    merged = await put(pool, "acme", [naming(4, "crm:1", "email:ann@home.example")])
    assert changes(merged.records) == {"email:ann@home.example": ("customer.merged", old, survivor)}
    sides = [["email:ann@home.example"], ["crm:1"]]
    split = await put(pool, "acme", [an_event(5, "customer.unmerged", actor={"type": "agent"}, sides=sides)])
    assert changes(split.records) == {"email:ann@home.example": ("customer.unmerged", survivor, old)}


async def shown(pool: asyncpg.Pool, handle: str) -> list[dict[str, Any]]:
    """Return the handles, as callers see them, of the customer whom this one identifies."""
    async with pool.acquire() as connection:
        (found,) = await customers.customers_by_handle(connection, "acme", handle.partition(":")[0], [handle])
        told = (await customers.customer(connection, "acme", found))["handles"]
    return sorted(told, key=lambda one: (one["kind"], one["value"]))


@pytest.mark.parametrize("barred", ["email:ann@home.example", "visitor:v1", "crm:1"])
@pytest.mark.parametrize("known_before", [True, False])
async def test_a_handle_that_a_policy_no_longer_bars_is_shown_as_if_it_had_never_been(
    pool: asyncpg.Pool, barred: str, *, known_before: bool
) -> None:
    said = [naming(number, "crm:1", "email:ann@home.example", "phone:+31612345678", "visitor:v1") for number in (2, 3)]
    if known_before:
        await put(pool, "acme", [naming(1, barred)])
    await decide_again(pool, "acme", policy=Policy(shared=(barred,)))
    for event in said:
        await put(pool, "acme", [event])
    await decide_again(pool, "acme", policy=Policy())
    if not known_before:
        await put(pool, "acme", [naming(1, barred)])
    found = await shown(pool, "phone:+31612345678")
    assert [f"{one['kind']}:{one['value']}" for one in found] == [
        "crm:1", "email:ann@home.example", "phone:+31612345678", "visitor:v1",
    ]  # fmt: skip
    seen = {(one["first_seen_at"], one["last_seen_at"]) for one in found if one["kind"] not in barred}
    assert seen == {(rfc3339(said[0].occurred_at), rfc3339(said[1].occurred_at))}
    (last,) = {one["last_seen_at"] for one in found if one["kind"] in barred}
    assert last == rfc3339(said[1].occurred_at)


@pytest.mark.parametrize("order", [(1, 2, 3), (1, 3, 2), (3, 1, 2)])
async def test_a_browser_is_verified_once_somebody_verified_it_in_whatever_order_it_was_seen(
    pool: asyncpg.Pool, order: Sequence[int]
) -> None:
    for number in order:
        event = naming(number, "crm:1", "visitor:v1")
        event.data["customer"]["handles"][1]["verified"] = number == 2
        await put(pool, "acme", [event])
    assert [one["verified"] for one in await shown(pool, "crm:1")] == [False, True]
