"""What an agent decides about people, as events: who is one person, and who is not."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

from services.conversation.identity import Node, kind_of
from shared.events import DERIVED_SOURCE, TYPE_PREFIX, InboundEvent

NAMED = 60
"""Most nodes that one side of a decision names: more sessions follow from the handles by the evidence."""


class Undecidable(ValueError):
    """The decision contradicts itself; the message tells the agent why."""


def merge(
    tenant: str, one: Sequence[Node], other: Sequence[Node], reason: str | None, actor: dict[str, Any], now: datetime
) -> InboundEvent:
    """Return the event by which two customers, given by their nodes, are one. Raises Undecidable."""
    if not one or not other:
        raise Undecidable("a customer without a handle and without a session cannot be merged")
    accounts = {node for node in (*one, *other) if kind_of(node) == "crm"}
    if len(accounts) > 1:
        raise Undecidable("both have a crm id, and two crm ids are never one person; split one off first")
    return _event("customer.merged", tenant, telling(one), telling(other), reason, actor, now)


def split(
    tenant: str, nodes: Sequence[Node], off: Sequence[Node], reason: str | None, actor: dict[str, Any], now: datetime
) -> InboundEvent:
    """Return the event by which `off` is another person than the rest of a customer's `nodes`. Raises Undecidable.

    Sessions go with the handles that the evidence ties them to, so only handles are told apart; where one side is
    sessions alone, those are.
    """
    taken = set(off)
    rest = [node for node in nodes if node not in taken]
    handles = [node for node in rest if kind_of(node) not in ("contact", "anonymous")] or rest
    if not handles:
        raise Undecidable("these are all the handles there are; leave at least one behind")
    return _event("customer.unmerged", tenant, list(off), handles, reason, actor, now)


def telling(nodes: Sequence[Node]) -> list[Node]:
    """Return the nodes that stand for a customer: the handles, or the sessions where there are no handles."""
    handles = [node for node in nodes if kind_of(node) not in ("contact", "anonymous")]
    return (handles or sorted(nodes))[:NAMED]


def _event(
    kind: str,
    tenant: str,
    one: Sequence[Node],
    other: Sequence[Node],
    reason: str | None,
    actor: dict[str, Any],
    now: datetime,
) -> InboundEvent:
    data: dict[str, Any] = {"actor": actor, "sides": [list(one), list(other)]}
    if reason:
        # What no database text can hold becomes the replacement character, as in any other event.
        data["reason"] = reason.replace("\0", "\ufffd").encode("utf-8", "replace").decode()
    id_: UUID = uuid4()
    return InboundEvent(tenant, DERIVED_SOURCE, f"{kind}:{id_}", TYPE_PREFIX + kind, now, now, data)
