"""Random histories of a tenant, rich in what makes identity and stitching go wrong.

Few people share few handles, keys are named before they exist, and the times sit on the borders of the rules. A history
is a function of its seed.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from services.conversation.policy import Limits, Policy
from shared.entry_ids import entry_id_of
from shared.events import InboundEvent

SECRET = b"a secret of the tests"
BEGINNING = datetime(2026, 3, 1, 9, tzinfo=UTC)
SECOND, HOUR, DAY = timedelta(seconds=1), timedelta(hours=1), timedelta(days=1)
WINDOW, REOPEN = timedelta(hours=72), timedelta(days=28)
GHOST = UUID(int=7)

STEPS = [
    *[timedelta()] * 2, SECOND, 5 * SECOND, *[HOUR] * 4, 20 * HOUR, *[2 * DAY] * 2, WINDOW - SECOND, WINDOW,
    WINDOW + SECOND, 5 * DAY, REOPEN, REOPEN + SECOND,
]  # fmt: skip

HANDLES = [
    ("crm", "1"), ("crm", "2"), ("email", "ann@a.example"), ("email", "Ann+shop@a.example"), ("email", "bob@b.example"),
    ("email", "us@own.example"), ("phone", "+31612345671"), ("phone", "+31612345672"), ("phone", "+31612345670"),
    ("messenger", "p/1"), ("messenger", "p/2"), ("telegram", "b/1"), ("visitor", "v1"), ("visitor", "v2"),
    ("email", "noreply@own.example"), ("crm", "null"),
]  # fmt: skip

DECIDED_ABOUT = [
    "crm:1", "crm:2", "email:ann@a.example", "email:bob@b.example", "phone:+31612345671", "phone:+31612345672",
    "messenger:p/1", "messenger:p/2", "telegram:b/1", "contact:s1", "contact:s2",
]  # fmt: skip

MAILS = [f"<m{number}@x.example>" for number in range(6)]


def a_policy(chance: random.Random) -> Policy:
    return Policy(
        blocked=("phone:+31612345670",) if chance.random() < 0.5 else (),
        shared=("email:bob@b.example",) if chance.random() < 0.1 else (),
        limits=Limits(email=chance.choice([1, 2, 5]), phone=chance.choice([1, 5]), contact=chance.choice([2, 200])),
        degree_limit=chance.choice([2, 3, 20, 20]),
        own_addresses=("us@own.example",),
        open_window_s=chance.choice([0, 3600, *[259_200] * 8]),
    )


def a_history(chance: random.Random, tenant: str, length: int) -> list[InboundEvent]:
    """Return events of one tenant, in the order in which they happened as far as they have one."""
    at, events = BEGINNING, list[InboundEvent]()
    only = chance.choice([None, None, None, "mail", "chat", "call", "dm"])
    for number in range(length):
        at += chance.choice(STEPS)
        if events and chance.random() < 0.15:
            at = chance.choice(events).occurred_at + chance.choice([timedelta(), SECOND, WINDOW, REOPEN])
        kind = only or chance.choice(["chat", "mail", "mail", "call", "dm", "other"])
        type_, data = _MAKERS[kind](chance)
        if chance.random() < 0.12:
            data["conversation_id"] = _some_conversation(chance, tenant, length)
        source = chance.choice(["/a", "/a", "/b"])
        events.append(
            InboundEvent(tenant, source, f"e{number:02}", f"threadline.{type_}", at, at + chance.choice(STEPS), data)
        )
    return sorted(events, key=lambda event: event.occurred_at)


def arrivals(chance: random.Random, events: Sequence[InboundEvent]) -> Iterator[list[InboundEvent]]:
    """Yield batches in which each event arrives at least once: in order, nearly in order, or in any order."""
    manner = chance.choice(["ordered", "late", "shuffled"])
    queue = list(events)
    if manner == "shuffled":
        chance.shuffle(queue)
    if manner == "late":
        late = chance.sample(queue, min(len(queue), chance.choice([1, 2, 3])))
        queue = [event for event in queue if event not in late] + late
    for event in chance.sample(queue, len(queue) // 5):
        queue.insert(chance.randrange(len(queue) + 1), event)
    size = chance.choice([1, 1, 3, 8, len(queue)])
    while queue:
        count = chance.randint(1, size)
        yield queue[:count]
        queue = queue[count:]


def some_decisions(chance: random.Random, tenant: str, events: Sequence[InboundEvent]) -> list[InboundEvent]:
    """Return merges and splits by agents, at instants at and behind those of `events`."""
    found: list[InboundEvent] = []
    one, other = chance.sample(DECIDED_ABOUT, 2)
    for number in range(chance.choice([1, 2, 3])):
        # Now and then another word on the same two.
        if chance.random() < 0.7:
            one, other = chance.sample(DECIDED_ABOUT, 2)
        at = chance.choice(events).occurred_at + chance.choice([SECOND, HOUR, WINDOW])
        data = {"actor": {"type": "agent"}, "sides": [[one], [other]]}
        kind = chance.choice(["customer.merged", "customer.unmerged"])
        found.append(InboundEvent(tenant, "/threadline", f"d{number}", f"threadline.{kind}", at, at, data))
    return found


def a_history_of_merges(chance: random.Random, tenant: str, length: int) -> list[InboundEvent]:
    """Return what a few people write, each by an address of their own, until one by one they are found to be the same.

    Much asks for the open conversation, some matters are resolved, some mails go to many, and the word that makes two
    people one comes after what they wrote: as it mostly is.
    """
    people = [("email", "ann@a.example"), ("email", "bob@b.example"), ("phone", "+31612345671"), ("crm", "1")]
    at, events = BEGINNING, list[InboundEvent]()
    steps = [HOUR, 5 * HOUR, 20 * HOUR, 30 * HOUR, 2 * DAY, WINDOW - SECOND, WINDOW, WINDOW + SECOND, 5 * DAY, 20 * DAY]
    hurry = chance.choice([2, 5, len(steps)])
    mails = [f"<m{number}@x.example>" for number in range(3)]
    for number in range(length):
        at += chance.choice(steps[:hurry])
        one, other = chance.sample(people, 2)
        handles = [{"kind": one[0], "value": one[1]}]
        data: dict[str, Any] = {"channel": "sms", "customer": {"handles": handles}, "actor": {"type": "customer"}}
        source, kind = "/a", "message.received"
        match chance.choice(["text"] * 4 + ["mail", "mail", "answer", "offer", "chat", "end", "end", "same", "merge"]):
            case "mail":
                data |= {"channel": "email", "message_id": f"<own{number}@x.example>"}
            case "answer":
                parent = chance.choice([*mails, f"<own{chance.randrange(length)}@x.example>"])
                data |= {"channel": "email", "message_id": f"<own{number}@x.example>"}
                data["thread"] = {"in_reply_to": parent}
            case "offer":
                kind = "message.sent"
                data |= {"channel": "email", "message_id": chance.choice(mails), "actor": {"type": "agent"}}
            case "chat":
                data |= {"channel": "chat", "contact_id": f"s{chance.randrange(3)}"}
            case "end":
                kind = "conversation.resolved"
            case "same":
                kind = "customer.identified"
                data["customer"] = {"handles": [*handles, {"kind": other[0], "value": other[1]}]}
            case "merge":
                source, kind = "/threadline", chance.choice(["customer.merged"] * 3 + ["customer.unmerged"])
                data = {"actor": {"type": "agent"}, "sides": [[f"{kind_}:{value}"] for kind_, value in (one, other)]}
        events.append(InboundEvent(tenant, source, f"e{number:02}", f"threadline.{kind}", at, at, data))
    return events


def a_history_of_neighbours(chance: random.Random, tenant: str, length: int) -> list[InboundEvent]:
    """Return what a few people do within days of each other, on every channel, and agents' words that they are one.

    Nearly all that they have is open, or was, when they are found to be one; each goes on writing between two words.
    """
    people = [("email", "ann@a.example"), ("phone", "+31612345671"), ("crm", "1"), ("crm", "2"), ("messenger", "p/1")]
    at, events = BEGINNING, list[InboundEvent]()
    steps = [timedelta(), SECOND, HOUR, HOUR, 3 * HOUR, 5 * HOUR, chance.choice([20 * HOUR, WINDOW, REOPEN])]
    words = sorted(chance.sample(range(length // 2, length + 3), 3))
    mails = [f"<m{number}@x.example>" for number in range(chance.choice([6, 40]))]
    plain = chance.random() < 0.6
    for number in range(length + 3):
        at += chance.choice(steps)
        if number in words:
            one, other = (f"{kind}:{value}" for kind, value in chance.sample(people, 2))
            data: dict[str, Any] = {"actor": {"type": "agent"}, "sides": [[one], [other]]}
            type_, source = "customer.merged", "/threadline"
        else:
            maker = chance.choice(["chat", "mail", "mail", "call", "dm", "other", "other"])
            type_, data = _MAKERS[maker](chance)
            kind, value = chance.choice(people)
            data["customer"] = {"handles": [{"kind": kind, "value": value}]}
            if chance.random() < 0.1:
                del data["customer"]
            if data.get("message_id"):
                data["message_id"] = chance.choice(mails)
            if plain:
                for name in ("ticket", "callback_id", "handoff_token"):
                    data["thread"].pop(name, None)
                data.pop("subject", None)
            elif chance.random() < 0.05:
                data["conversation_id"] = _some_conversation(chance, tenant, length)
            if data.get("contact_id") and chance.random() < 0.7:
                # A session is one person's: else all are one from the start.
                data["contact_id"] += f"-{value}"
            source = chance.choice(["/a", "/b"])
        events.append(InboundEvent(tenant, source, f"e{number:02}", f"threadline.{type_}", at, at, data))
    return events


def some_joins(chance: random.Random, tenant: str, events: Sequence[InboundEvent]) -> list[InboundEvent]:
    """Return joins by agents, of entries and of whole conversations, and merges that integrations post."""
    found = []
    ids = [str(entry_id_of(SECRET, tenant, event.source, event.id)) for event in events]
    for number in range(chance.choice([1, 2, 3])):
        at = chance.choice(events).occurred_at + chance.choice([-HOUR, SECOND, HOUR, WINDOW])
        into, *others = chance.sample(ids, min(len(ids), 5))
        data: dict[str, Any] = {"actor": {"type": "agent"}, "into": into}
        source, kind = "/threadline", "conversation.joined"
        if chance.random() < 0.5:
            data["entry_ids"] = others[:2]
            if chance.random() < 0.5:
                data["kept"] = {others[0]: others[2:]}
        else:
            data["from"] = others[0]
            source, kind = chance.choice([(source, kind), ("/b", "conversation.merged")])
        found.append(InboundEvent(tenant, source, f"j{number}", f"threadline.{kind}", at, at, data))
    return found


def some_taken_out(chance: random.Random, tenant: str, events: Sequence[InboundEvent]) -> list[InboundEvent]:
    """Return joins of entries into a conversation of their own, and of some of them back or elsewhere."""
    found = []
    ids = [str(entry_id_of(SECRET, tenant, event.source, event.id)) for event in events]
    for number in range(chance.choice([1, 2, 3, 4])):
        at = chance.choice(events).occurred_at + chance.choice([SECOND, HOUR, WINDOW])
        moved = chance.sample(ids[:6], chance.choice([1, 2, 3]))
        into = chance.choice([moved[0], moved[0], moved[-1], chance.choice(ids)])
        kept = {chance.choice(ids): chance.sample(ids, 2)} if chance.random() < 0.5 else {}
        data = {"actor": {"type": "agent"}, "into": into, "entry_ids": moved, "kept": kept}
        found.append(InboundEvent(tenant, "/threadline", f"j{number}", "threadline.conversation.joined", at, at, data))
    return found


def _some_conversation(chance: random.Random, tenant: str, length: int) -> str:
    if chance.random() < 0.1:
        return str(GHOST)
    return str(entry_id_of(SECRET, tenant, chance.choice(["/a", "/a", "/b"]), f"e{chance.randrange(length):02}"))


def _person(chance: random.Random, data: dict[str, Any], pool: Sequence[tuple[str, str]], most: int = 3) -> None:
    count = chance.choice([0, 1, 1, 1, 2, most])
    given = [{"kind": kind, "value": value} for kind, value in chance.sample(pool, min(count, len(pool)))]
    if given:
        data["customer"] = {"handles": given}


def _actor(chance: random.Random) -> tuple[str, dict[str, str]]:
    """Return a message's type and actor."""
    kind = chance.choice(["customer", "customer", "customer", "agent", "agent", "bot", "automated"])
    return ("message.received" if kind == "customer" else "message.sent"), {"type": kind}


def _tokens(chance: random.Random, thread: dict[str, Any], likely: float) -> None:
    if chance.random() < likely:
        name, values = chance.choice(
            [("ticket", ["T-1", "T-2"]), ("ticket", ["T-1", "T-2"]), ("callback_id", ["b1"]), ("handoff_token", ["h1"])]
        )
        thread[name] = chance.choice(values)


def _chat(chance: random.Random) -> tuple[str, dict[str, Any]]:
    type_, actor = _actor(chance)
    data: dict[str, Any] = {"channel": "chat", "actor": actor, "contact_id": chance.choice(["s1", "s2", "s3", "s4"])}
    if chance.random() < 0.15:
        del data["contact_id"]
    _person(chance, data, HANDLES)
    if chance.random() < 0.3:
        type_ = chance.choice(
            ["customer.identified", "conversation.resolved", "conversation.escalated", "conversation.reopened",
             "survey.answered", "bot.handed_over", "conversation.opened", "message.status"]
        )  # fmt: skip
    thread: dict[str, Any] = {}
    _tokens(chance, thread, 0.15)
    if chance.random() < 0.1:
        thread["continues"] = chance.choice(["s1", "s2", "c1"])
    return type_, {**data, "thread": thread}


def _mail(chance: random.Random) -> tuple[str, dict[str, Any]]:
    type_, actor = _actor(chance)
    data: dict[str, Any] = {"channel": "email", "actor": actor}
    _person(chance, data, [handle for handle in HANDLES if handle[0] in ("email", "crm")], 2)
    thread: dict[str, Any] = {}
    if chance.random() < 0.8:
        data["message_id"] = chance.choice(MAILS)
    if chance.random() < 0.5:
        thread["in_reply_to"] = chance.choice([*MAILS, "yes", "(now) <m1@x.example>", "see <m2@x.example> please"])
    if chance.random() < 0.4:
        thread["references"] = chance.sample([*MAILS, "<yes>"], chance.choice([1, 2, 3]))
    if chance.random() < 0.05:
        thread["original_message_id"] = chance.choice(MAILS)
    if chance.random() < 0.15:
        data["headers"] = chance.choice([{"Auto-Submitted": "auto-replied"}, {"List-Id": "x"}, {"Return-Path": "<>"}])
    if chance.random() < 0.1:
        data["subject"] = f"Re: [#{chance.choice(['T-1', 'T-2'])}] it"
    _tokens(chance, thread, 0.2)
    return type_, {**data, "thread": thread}


def _call(chance: random.Random) -> tuple[str, dict[str, Any]]:
    data: dict[str, Any] = {"channel": "phone", "contact_id": chance.choice(["c1", "c2", "c3"])}
    _person(chance, data, [handle for handle in HANDLES if handle[0] in ("phone", "crm")], 2)
    thread: dict[str, Any] = {}
    _tokens(chance, thread, 0.2)
    if chance.random() < 0.1:
        thread["continues"] = chance.choice(["s1", "s2", "c1"])
    kinds = ["queued", "queued", "queued", "answered", "answered", "abandoned", "ended", "held"]
    return f"call.{chance.choice(kinds)}", {**data, "thread": thread}


def _dm(chance: random.Random) -> tuple[str, dict[str, Any]]:
    type_, actor = _actor(chance)
    channel = chance.choice(["messenger", "sms", "whatsapp", "telegram"])
    data: dict[str, Any] = {"channel": channel, "actor": actor}
    kinds = ("phone",) if channel in ("sms", "whatsapp") else ("messenger", "telegram")
    _person(chance, data, [handle for handle in HANDLES if handle[0] in kinds], 1)
    thread: dict[str, Any] = {}
    if chance.random() < 0.7:
        thread["dm_thread"] = chance.choice(["d1", "d2"])
    if chance.random() < 0.2:
        data["contact_id"] = chance.choice(["d1", "d3", "s1"])
    if chance.random() < 0.1:
        thread["continues"] = chance.choice(["s1", "s2"])
    _tokens(chance, thread, 0.15)
    return type_, {**data, "thread": thread}


def _other(chance: random.Random) -> tuple[str, dict[str, Any]]:
    """What has no channel of its own: identifications, what agents do, surveys."""
    data: dict[str, Any] = {}
    _person(chance, data, HANDLES, 4)
    thread: dict[str, Any] = {}
    _tokens(chance, thread, 0.2)
    types = ["customer.identified"] * 3 + ["conversation.resolved"] * 2 + ["survey.answered", "conversation.assigned"]
    return chance.choice(types), {**data, "thread": thread}


_MAKERS = {"chat": _chat, "mail": _mail, "call": _call, "dm": _dm, "other": _other}
