"""Merges and splits of people, told to the readers of the timeline topic as they happen, whoever decided them."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import asyncpg

from shared.events import InboundEvent, TimelineRecord
from tests.histories import BEGINNING
from tests.integration.conversation.test_histories import put


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
