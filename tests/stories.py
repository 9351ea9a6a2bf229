"""Which conversation, told as a story of a handful of events: what the tests of stitching have in common."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4, uuid5

from services.conversation.facts import facts_of
from services.conversation.people import People
from services.conversation.policy import Policy
from services.conversation.stitching import Placement, Stitcher
from shared.events import InboundEvent

START = datetime(2026, 3, 2, 9, tzinfo=UTC)
SECOND, HOUR, DAY = timedelta(seconds=1), timedelta(hours=1), timedelta(days=1)
WINDOW, REOPEN = 3 * DAY, 28 * DAY
NAMESPACE = UUID(int=1)
ANN, BOB = "email:ann@a.example", "email:bob@b.example"


def id_of(name: str) -> UUID:
    return uuid5(NAMESPACE, name)


@dataclass
class Story:
    """Events told one by one; `of` is the conversation of each, by the name of the event that opened it."""

    policy: Policy = field(default_factory=Policy)
    events: list[InboundEvent] = field(default_factory=list)

    def tell(
        self, name: str, after: timedelta = timedelta(), *who: str, type: str = "message.received", **data: Any
    ) -> Story:
        """Add the event `name`, so much after the beginning, about `who` (kind:value)."""
        if who:
            kinds = [handle.split(":", 1) for handle in who]
            data["customer"] = {"handles": [{"kind": kind, "value": value} for kind, value in kinds]}
        at = START + after
        self.events.append(InboundEvent("acme", "/s", name, f"threadline.{type}", at, at, data))
        return self

    def placements(self) -> dict[str, Placement]:
        facts = [facts_of(event, id_of(event.id), self.policy) for event in self.events]
        people = People(self.policy, uuid4)
        for fact in facts:
            for node in fact.nodes:
                people.leaf(node)
        people.linked = set(people.members)
        people.learn(people.evidence_of(facts).values())
        answered = frozenset(fact.contact for fact in facts if fact.type == "call.answered" and fact.contact)
        sent_to: dict[str, set[str | None]] = defaultdict(set)
        for fact in facts:
            if fact.sent_mail:
                sent_to[fact.sent_mail].add(fact.owner())
        bulk = frozenset(mail for mail, owners in sent_to.items() if len(owners) > 1)
        stitcher = Stitcher(self.policy, people.customers_at, answered, bulk)
        found: dict[str, Placement] = {}
        for fact in sorted(facts, key=lambda fact: fact.order):
            owner, person = people.owner(fact), people.person(fact)
            found[fact.order[2]] = stitcher.place(
                fact, owner.leaf_id if owner else None, person.leaf_id if person else None
            )
        self._canonical = dict(stitcher.canonical)
        return found

    @property
    def of(self) -> Mapping[str, str | None]:
        placements = self.placements()
        names = {id_of(event.id): event.id for event in self.events}
        ids = {name: placement.conversation_id for name, placement in placements.items()}
        return {name: names[self._canonical.get(id_, id_)] if id_ else None for name, id_ in ids.items()}

    def rule_of(self, name: str) -> str:
        return self.placements()[name].rule


def a_mail(number: int | str, *, answers: str | None = None, **more: Any) -> dict[str, Any]:
    """Fields of an e-mail with the id `<number@x>`, in reply to the one with the id `<answers@x>`."""
    thread = more.pop("thread", {})
    if answers:
        thread = {"in_reply_to": f"<{answers}@x>", **thread}
    return {"channel": "email", "message_id": f"<{number}@x>", "thread": thread, **more}


def a_chat(contact: str, **more: Any) -> dict[str, Any]:
    return {"channel": "chat", "contact_id": contact, **more}


def a_call(contact: str, **more: Any) -> dict[str, Any]:
    return {"channel": "phone", "contact_id": contact, **more}


def a_dm(thread: str | None = "d1", **more: Any) -> dict[str, Any]:
    return {"channel": "messenger", "thread": {"dm_thread": thread} if thread else {}, **more}
