"""Random histories of a few people who write on everything they have, and of agents who say who is one and who is not.

Each person has several addresses that their first words name together, sessions and threads of their own, and matters
that are mostly still open when an agent says that two of them are one. What was made one is later taken apart again,
with what came in between. Mails to many, tickets, tokens, automatic mail and calls lie between them. A history is a
function of its seed.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from services.conversation.policy import Limits, Policy
from shared.events import InboundEvent
from tests.histories import BEGINNING, HOUR, REOPEN, SECOND, WINDOW

ADDRESSES = [
    ["crm:1", "email:ann@a.example", "phone:+31612345671"],
    ["email:bob@b.example", "phone:+31612345672", "messenger:p/2"],
    ["email:cem@c.example", "telegram:b/3"],
    ["crm:4", "phone:+31612345674"],
    ["email:eve@e.example"],
    ["visitor:v2"],
]

STEPS = [timedelta(), SECOND, 300 * SECOND, *[HOUR] * 4, *[4 * HOUR] * 2]
LEAPS = [20 * HOUR, 30 * HOUR, WINDOW - SECOND, WINDOW, WINDOW + SECOND, 6 * 24 * HOUR, REOPEN, REOPEN + SECOND]
WHAT = [
    *["text"] * 4, *["chat"] * 5, *["mail"] * 4, *["reply"] * 4, *["agent"] * 3, *["resolve"] * 4, *["call"] * 2,
    *["dm"] * 2, "offer", "answer", "identify", "automatic", "ticket", "token", "survey", "nobody",
]  # fmt: skip


@dataclass
class _Person:
    name: str
    handles: list[str]
    session: int = 0
    mails: list[str] = field(default_factory=list)


class _Tangle:
    """One history in the making: its clock, its people and what was written.

    `plain`: without what makes a merge decide all again that both did: tickets, tokens, mails to many, threads in one.
    """

    def __init__(self, chance: random.Random, tenant: str, plain: bool) -> None:
        self.chance, self.tenant, self.plain = chance, tenant, plain
        self.at: datetime = BEGINNING
        self.events: list[InboundEvent] = []
        count = chance.choice([2, 2, 3, 4, 5])
        self.people = [_Person(chr(97 + n), list(handles)) for n, handles in enumerate(ADDRESSES[:count])]
        if chance.random() < 0.25:
            self.people.append(_Person("v", list(ADDRESSES[-1])))
        for person in self.people:
            del person.handles[chance.randint(1, 3) :]
        self.made_one: list[tuple[list[str], list[str]]] = []
        self.offers = 0

    def put(self, kind: str, data: dict[str, Any], source: str = "/a", name: str = "e") -> None:
        id_ = f"{name}{len(self.events):02}"
        self.events.append(InboundEvent(self.tenant, source, id_, f"threadline.{kind}", self.at, self.at, data))

    def said(self, person: _Person, channel: str, actor: str = "customer", **data: Any) -> None:
        kind = "message.received" if actor == "customer" else "message.sent"
        handles = self.chance.sample(person.handles, self.chance.choice([1, 1, 1, min(2, len(person.handles))]))
        self.put(kind, {"channel": channel, "actor": {"type": actor}, "customer": _named(handles), **data})

    def step(self, what: str) -> None:
        chance, person = self.chance, self.chance.choice(self.people)
        session = f"{person.name}{person.session}"
        match what:
            case "text":
                self.said(person, chance.choice(["sms", "web"]))
            case "chat":
                if chance.random() < 0.4:
                    person.session += 1
                    session = f"{person.name}{person.session}"
                self.said(person, "chat", chance.choice(["customer", "customer", "agent", "bot"]), contact_id=session)
            case "mail":
                self.said(person, "email", **self.mail(person))
            case "reply" if person.mails:
                thread: dict[str, Any] = {"in_reply_to": chance.choice(person.mails)}
                if chance.random() < 0.2 and not self.plain:
                    thread = {"references": chance.sample(person.mails, min(2, len(person.mails)))}
                whose = person if chance.random() < 0.85 else chance.choice(self.people)
                self.said(whose, "email", chance.choice(["customer", "agent"]), thread=thread, **self.mail(person))
            case "agent" if person.mails and chance.random() < 0.5:
                data = {"channel": "email", "actor": {"type": "agent"}, **self.mail(person)}
                self.put("message.sent", data | {"thread": {"in_reply_to": chance.choice(person.mails)}})
            case "agent":
                self.said(person, "sms", "agent")
            case "resolve":
                data = {"customer": _named(person.handles[:1]), "actor": {"type": "agent"}}
                if chance.random() < 0.4:
                    data |= {"channel": "chat", "contact_id": session}
                self.put(chance.choice(["conversation.resolved"] * 5 + ["conversation.assigned"]), data)
            case "call":
                data = {"channel": "phone", "contact_id": f"c{session}", "customer": _named(person.handles[-1:])}
                for kind in chance.choice([["queued"], ["queued", "answered"], ["queued", "abandoned"], ["answered"]]):
                    self.put(f"call.{kind}", data)
                    self.at += SECOND
            case "dm":
                self.said(person, "messenger", thread={"dm_thread": f"d{person.name}"})
            case "offer" if not self.plain:
                self.offers += 1
                for other in chance.sample(self.people, 2):
                    self.said(other, "email", "agent", message_id=f"<offer{self.offers}@x.example>")
            case "answer" if self.offers:
                parent = f"<offer{chance.randint(1, self.offers)}@x.example>"
                self.said(person, "email", thread={"in_reply_to": parent}, **self.mail(person))
            case "identify":
                names = chance.sample(person.handles, min(2, len(person.handles)))
                data = {"customer": _named(names)}
                if chance.random() < 0.5:
                    data["contact_id"] = session
                self.put("customer.identified", data)
            case "automatic":
                headers = {"Auto-Submitted": "auto-replied"}
                self.said(person, "email", "automated", headers=headers, **self.mail(person))
            case "ticket" if not self.plain:
                self.said(person, "email", thread={"ticket": f"T-{chance.choice([1, 2])}"}, **self.mail(person))
            case "token" if not self.plain:
                token = {"handoff_token": f"h{chance.choice([1, 2])}"}
                self.said(person, chance.choice(["chat", "email", "sms"]), thread=token)
            case "survey":
                self.put("survey.answered", {"customer": _named(person.handles[:1]), "score": 4})
            case "nobody":
                self.put("message.received", {"channel": "web", "customer": _named(["visitor:v1"])})
            case _:
                self.said(person, "sms")

    def mail(self, person: _Person) -> dict[str, Any]:
        person.mails.append(f"<{person.name}{len(self.events)}@x.example>")
        return {"message_id": person.mails[-1]}

    def word(self) -> None:
        """An agent says that two are one, or that what was made one is not."""
        chance = self.chance
        if self.made_one and chance.random() < 0.45:
            one, other = sides = chance.choice(self.made_one)
            if chance.random() < 0.6:
                self.made_one.remove(sides)
            rest = [handle for person in self.people for handle in person.handles if handle not in other]
            one = one if chance.random() < 0.7 else chance.sample(rest, min(2, len(rest)))
            kind = "customer.unmerged"
        else:
            first, second = chance.sample(self.people, 2)
            one, other = list(first.handles), list(second.handles)
            if chance.random() < 0.3:
                one, other = one[:1], other[-1:]
            self.made_one.append((one, other))
            kind = "customer.merged"
        self.put(kind, {"actor": {"type": "agent"}, "sides": [one, other]}, "/threadline", "w")


def _named(handles: Sequence[str]) -> dict[str, Any]:
    split = [handle.partition(":") for handle in handles]
    return {"handles": [{"kind": kind, "value": value} for kind, _, value in split]}


def a_policy(chance: random.Random) -> Policy:
    """Return a policy under which agents' words mostly count, and sometimes meet a limit or a barred handle."""
    if chance.random() < 0.5:
        return Policy()
    return Policy(
        blocked=("phone:+31612345671",) if chance.random() < 0.2 else (),
        shared=("email:bob@b.example",) if chance.random() < 0.2 else (),
        limits=Limits(email=chance.choice([1, 2, 5]), contact=chance.choice([2, 3, 200])),
        degree_limit=chance.choice([2, 20, 20]),
        open_window_s=chance.choice([3600, 86_400, 259_200, 259_200]),
        follow_up_window_s=chance.choice([86_400, 2_419_200]),
    )


def a_tangle(chance: random.Random, tenant: str, length: int) -> list[InboundEvent]:
    """Return about `length` events in the order in which they happened, agents' words between them."""
    tangle = _Tangle(chance, tenant, plain=chance.random() < 0.6)
    for person in tangle.people:
        tangle.put("customer.identified", {"customer": _named(person.handles), "contact_id": f"{person.name}0"})
    leap = chance.choice([0.0, 0.03, 0.1])
    words = chance.choice([0.08, 0.15, 0.25])
    while len(tangle.events) < length:
        tangle.at += chance.choice(LEAPS) if chance.random() < leap else chance.choice(STEPS)
        draw = chance.random()
        if len(tangle.events) > length // 3 and draw < words:
            tangle.word()
        else:
            tangle.step(chance.choice(WHAT))
    return tangle.events


def as_it_comes(chance: random.Random, events: Sequence[InboundEvent]) -> list[list[InboundEvent]]:
    """Return the events in batches: mostly one at a time and in order, a few late, a few twice."""
    queue = list(events)
    for event in chance.sample(queue, chance.choice([0, 0, 0, 1, 2, 4])):
        place = queue.index(event)
        queue.remove(event)
        queue.insert(min(len(queue), place + chance.choice([1, 3, 10, 60])), event)
    for event in chance.sample(queue, chance.choice([0, 0, 3])):
        queue.insert(chance.randrange(len(queue) + 1), event)
    most, batches = chance.choice([1, 1, 1, 2, 5]), []
    while queue:
        count = chance.randint(1, most)
        batches.append(queue[:count])
        queue = queue[count:]
    return batches
