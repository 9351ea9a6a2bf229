"""Who is who and what belongs together, worked out slowly and plainly over a whole set of events.

This is what the fast, incremental services/conversation is held to. It shares no code with it beyond the matching form
of handles, keeps no state between calls and starts from the beginning each time, so that it can be compared with the
written rules sentence by sentence. It is far too slow to run for real.

Readings that the rules leave open, and that are taken here:
- A conversation that mail ids fuse is resolved when all its parts are; it was closed when the last of them was.
- A conversation with automatic mail alone has no activity: rule 4 never finds it, its age counts from its opening.
- What opens a conversation, and what speaks about one (conversation.*), may be placed by rule 4; nothing else is.
- A handle that turns out to be shared was shared all along, also in the eyes of rule 4.
- A visitor id identifies nobody: it owns an entry only where handle, session and conversation name no owner either.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import combinations

from services.conversation.policy import Policy
from shared import handles
from shared.events import COMINGS_AND_GOINGS, FAMILY, InboundEvent

Name = tuple[str, str]
"""(source, event id)."""

OPENING_TYPES = {"message.received", "message.sent", "conversation.opened", "call.answered"}
ABOUT_A_CONVERSATION = {
    "conversation.opened", "conversation.assigned", "conversation.transferred", "conversation.escalated",
    "conversation.pending", "conversation.resolved", "conversation.reopened",
}  # fmt: skip
STRENGTH = {"crm": 0, "email": 1, "phone": 3, "contact": 4}


@dataclass
class Placed:
    """The place of one event: the least node of its owner's group (or a name of its own), and its conversation."""

    customer: str = ""
    conversation: Name | None = None
    rule: str = "none"


@dataclass
class Conversation:
    """One conversation while the events are taken."""

    founder: InboundEvent
    entries: list[InboundEvent] = field(default_factory=list)
    last_activity: datetime | None = None
    resolved_at: datetime | None = None
    follow_up_of: Name | None = None

    @property
    def warm_at(self) -> datetime:
        return self.last_activity or self.founder.occurred_at

    @property
    def closed_at(self) -> datetime:
        return self.resolved_at or self.warm_at


def name_of(event: InboundEvent) -> Name:
    return event.source, event.id


def order_of(event: InboundEvent) -> tuple[datetime, str, str]:
    return event.occurred_at, event.source, event.id


# Reading one event ----------------------------------------------------------------------------------------------


def kind_of(event: InboundEvent) -> str:
    return event.type.removeprefix("threadline.")


def is_perpetual(event: InboundEvent) -> bool:
    return FAMILY.get(event.data.get("channel") or "") == "social"


def session_of(event: InboundEvent) -> str | None:
    """A contact is a session between one person and us on chat and phone only.

    Calls are on the phone without saying so, and an identification belongs to the contact that it names.
    """
    contact, channel = event.data.get("contact_id"), event.data.get("channel")
    untold = channel is None and (kind_of(event) == "customer.identified" or kind_of(event).startswith("call."))
    one_to_one = untold or channel in ("chat", "web", "phone")
    return f"contact:{contact}" if contact and one_to_one else None


def handles_of(event: InboundEvent, policy: Policy) -> list[str]:
    """Handles that may stand for a person, in matching form, visitors included."""
    given = (event.data.get("customer") or {}).get("handles") or []
    forms = [handles.matching(h["kind"], h["value"], event.region or policy.default_region) for h in given]
    return sorted({form for form in forms if form and form not in policy.barred})


def linking_handles(event: InboundEvent, policy: Policy) -> list[str]:
    return [handle for handle in handles_of(event, policy) if not handle.startswith("visitor:")]


def strength(node: str) -> int:
    return STRENGTH.get(node.partition(":")[0], 2)


def is_automatic(event: InboundEvent, policy: Policy) -> bool:
    data = event.data
    if (data.get("actor") or {}).get("type") == "automated":
        return True
    if data.get("channel") != "email" or kind_of(event) not in ("message.received", "message.sent"):
        return False
    given = [
        h["value"].strip().lower() for h in (data.get("customer") or {}).get("handles", []) if h["kind"] == "email"
    ]
    if kind_of(event) == "message.received" and any(address in policy.own_addresses for address in given):
        return True
    headers = {key.lower(): value.lower() for key, value in (data.get("headers") or {}).items()}
    return (
        headers.get("auto-submitted", "no") != "no"
        or headers.get("content-type", "").startswith("multipart/report")
        or headers.get("return-path") == "<>"
        or any(key.startswith("list-") for key in headers)
        or headers.get("precedence") == "bulk"
        or "x-auto-response-suppress" in headers
    )


def tokens_of(event: InboundEvent) -> list[str]:
    thread = event.data.get("thread") or {}
    tickets = [thread["ticket"]] if thread.get("ticket") else []
    if not tickets:
        tickets = re.findall(r"\[#(T-[A-Za-z0-9_-]+)\]", event.data.get("subject") or "")
    found = [f"handoff:{thread['handoff_token']}"] if thread.get("handoff_token") else []
    found += [f"callback:{thread['callback_id']}"] if thread.get("callback_id") else []
    return found + [f"ticket:{ticket}" for ticket in tickets]


def tickets_of(event: InboundEvent) -> set[str]:
    return {token for token in tokens_of(event) if token.startswith("ticket:")}


def mails_of(event: InboundEvent) -> list[str]:
    """Own id, In-Reply-To, References (the nearest relative first), original message id."""
    thread = event.data.get("thread") or {}
    own = event.data.get("message_id") if event.data.get("channel") == "email" else None
    named = [own, thread.get("in_reply_to"), *reversed(thread.get("references") or [])]
    named.append(thread.get("original_message_id"))
    ids = [re.sub(r"\([^()]*\)", "", written).strip() for written in named if written]
    return [f"mail:{id}" for id in ids if re.fullmatch(r"<[^<>\s@]+@[^<>\s@]+>", id)]


def sessions_of(event: InboundEvent) -> list[str]:
    thread = event.data.get("thread") or {}
    return [f"contact:{value}" for value in (event.data.get("contact_id"), thread.get("continues")) if value]


def dm_of(event: InboundEvent) -> list[str]:
    thread = event.data.get("thread") or {}
    return [f"dm:{thread['dm_thread']}"] if thread.get("dm_thread") else []


# Section 1: identity --------------------------------------------------------------------------------------------


@dataclass
class Identity:
    """Groups of nodes, and the handles that are shared because too many others were named with them."""

    group: Mapping[str, frozenset[str]]
    shared: frozenset[str]

    def customer(self, node: str) -> str:
        return min(self.group.get(node, {node}))


def shared_handles(events: Iterable[InboundEvent], policy: Policy) -> frozenset[str]:
    """Return the phones and addresses that were named with too many others to be one person's."""
    partners: dict[str, set[str]] = defaultdict(set)
    for event in events:
        for a, b in combinations(linking_handles(event, policy), 2):
            partners[a].add(b)
            partners[b].add(a)
    return frozenset(
        node
        for node, others in partners.items()
        if node.partition(":")[0] in ("phone", "email") and len(others) > policy.degree_limit
    )


def identity(events: Iterable[InboundEvent], policy: Policy, shared: frozenset[str]) -> Identity:
    """Resolve all the evidence of these events."""
    earliest: dict[tuple[str, str], datetime] = {}
    for event in events:
        session = session_of(event)
        nodes = sorted({*linking_handles(event, policy), *([session] if session else [])} - shared)
        for pair in combinations(nodes, 2):
            earliest[pair] = min(earliest.get(pair, event.occurred_at), event.occurred_at)
    group: dict[str, frozenset[str]] = {node: frozenset({node}) for pair in earliest for node in pair}
    for a, b in sorted(earliest, key=lambda pair: (max(map(strength, pair)), earliest[pair], pair)):
        union = group[a] | group[b]
        if group[a] != group[b] and not over_a_limit(union, policy):
            group.update(dict.fromkeys(union, union))
    return Identity(group, shared)


def over_a_limit(nodes: Iterable[str], policy: Policy) -> bool:
    counts: dict[str, int] = defaultdict(int)
    for node in nodes:
        counts[node.partition(":")[0]] += 1
    return any(count > policy.limit(kind) for kind, count in counts.items())


def owning_node(event: InboundEvent, policy: Policy, shared: frozenset[str]) -> str | None:
    session = session_of(event)
    nodes = {*linking_handles(event, policy), *([session] if session else [])} - shared
    return min(nodes, key=lambda node: (strength(node), node), default=None)


def weak_node(event: InboundEvent, policy: Policy) -> str | None:
    return min((handle for handle in handles_of(event, policy) if handle.startswith("visitor:")), default=None)


# Section 3: conversations ---------------------------------------------------------------------------------------


def copies_of(events: Iterable[InboundEvent]) -> dict[Name, list[InboundEvent]]:
    """Return all events of each mail that has several, by the name of the first of them, in their order."""
    mails: dict[tuple[str, ...], list[InboundEvent]] = defaultdict(list)
    for event in sorted(events, key=order_of):
        own = mails_of(event)[:1] if event.data.get("channel") == "email" and event.data.get("message_id") else []
        if own and kind_of(event) in ("message.received", "message.sent"):
            named = given_handles(event) if kind_of(event) == "message.sent" else []
            addresses = [handle for handle in named if handle.startswith("email:")]
            to = min(addresses or named, default="")
            mails[own[0], kind_of(event), to].append(event)
    return {name_of(found[0]): found for found in mails.values()}


def given_handles(event: InboundEvent) -> list[str]:
    given = (event.data.get("customer") or {}).get("handles") or []
    return [form for h in given if (form := handles.matching(h["kind"], h["value"], "NL"))]


class Stitching:
    """Takes a whole set of events in their one order. `entry_id` gives the public id of an event's entry."""

    def __init__(self, events: Sequence[InboundEvent], policy: Policy, entry_id: Callable[[InboundEvent], str]) -> None:
        self.evidence = list(events)
        self.copies = copies_of(events)
        extra = {name_of(copy) for found in self.copies.values() for copy in found[1:]}
        self.events = sorted((event for event in events if name_of(event) not in extra), key=order_of)
        self.policy = policy
        self.entry_id = entry_id
        self.bound: dict[str, Conversation] = {}
        self.conversations: list[Conversation] = []
        self.placed: dict[Name, Placed] = {name_of(event): Placed() for event in self.events}
        self.shared = shared_handles(events, policy)
        sent_to: dict[str, set[str]] = defaultdict(set)
        for event in self.events:
            node = self.owner(event, self.shared)
            if kind_of(event) == "message.sent" and event.data.get("channel") == "email" and node:
                sent_to[f"mail:{event.data.get('message_id')}"].add(node)
        self.bulk = {mail for mail, nodes in sent_to.items() if len(nodes) > 1}
        self.answered = {
            event.data["contact_id"]
            for event in self.events
            if kind_of(event) == "call.answered" and event.data.get("contact_id")
        }

    def of_all(self, event: InboundEvent) -> list[InboundEvent]:
        """An entry's event and the copies of its mail: the links of all count."""
        return self.copies.get(name_of(event), [event])

    def owner(self, event: InboundEvent, shared: frozenset[str]) -> str | None:
        nodes = (owning_node(copy, self.policy, shared) for copy in self.of_all(event))
        return next((node for node in nodes if node), None)

    def weak(self, event: InboundEvent) -> str | None:
        nodes = (weak_node(copy, self.policy) for copy in self.of_all(event))
        return next((node for node in nodes if node), None)

    def tokens(self, event: InboundEvent) -> list[str]:
        return [token for copy in self.of_all(event) for token in tokens_of(copy)]

    def mails(self, event: InboundEvent) -> list[str]:
        return list(dict.fromkeys(mail for copy in self.of_all(event) for mail in mails_of(copy)))

    def named(self, event: InboundEvent) -> str | None:
        ids = (copy.data.get("conversation_id") for copy in self.of_all(event))
        return next((id_ for id_ in ids if id_), None)

    def run(self) -> dict[Name, Placed]:
        for event in self.events:
            self.take(event)
        for conversation in self.conversations:
            for entry in conversation.entries:
                self.placed[name_of(entry)].conversation = name_of(conversation.founder)
        self.find_owners()
        return self.placed

    def take(self, event: InboundEvent) -> None:
        rule, conversation, follow_up_of = self.decide(event)
        if conversation is None and rule == "new":
            conversation = Conversation(event, follow_up_of=name_of(follow_up_of.founder) if follow_up_of else None)
            self.conversations.append(conversation)
        if conversation is None:
            return
        self.placed[name_of(event)].rule = rule
        conversation.entries.append(event)
        self.change_state(conversation, event)
        named = [f"conversation:{self.named(event)}"] if self.named(event) else []
        own = [f"conversation:{self.entry_id(copy)}" for copy in self.of_all(event)]
        for key in (*own, *named, *self.tokens(event), *self.mails_bound(event), *sessions_of(event), *dm_of(event)):
            self.bound[key] = conversation

    def mails_bound(self, event: InboundEvent) -> list[str]:
        """A bulk mail's id is bound for the person that the event is about, and for nobody else."""
        node = self.owner(event, self.shared) or self.weak(event)
        plain = [mail for mail in self.mails(event) if mail not in self.bulk]
        return plain + [f"{mail}|{node}" for mail in self.mails(event) if mail in self.bulk and node]

    def mails_asked(self, event: InboundEvent) -> list[str]:
        """And it is asked for with all handles of that person, as rule 4 knows them."""
        node = self.owner(event, self.shared) or self.weak(event)
        nodes = self.known_at(event).group.get(node, {node}) if node else set()
        asked: list[str] = []
        for mail in self.mails(event):
            asked += [f"{mail}|{other}" for other in sorted(nodes)] if mail in self.bulk else [mail]
        return asked

    def decide(self, event: InboundEvent) -> tuple[str, Conversation | None, Conversation | None]:
        """Return the rule, the conversation found, and the one that a new one would follow up."""
        mailed = self.merge_mails(event)
        dead: list[Conversation] = []
        own = [f"conversation:{self.entry_id(copy)}" for copy in self.of_all(event)]
        for key in [f"conversation:{self.named(event)}", *own]:
            if key in self.bound:
                return "conversation_id", self.bound[key], None
        for key in self.tokens(event):
            if key in self.bound:
                if self.is_live(self.bound[key], event):
                    return key.partition(":")[0], self.bound[key], None
                dead.append(self.bound[key])
        if mailed:
            return "mail", mailed, None
        dead += [self.bound[key] for key in self.mails_asked(event) if key in self.bound]
        for key in sessions_of(event):
            if key in self.bound and (not is_perpetual(event) or self.is_warm(self.bound[key], event)):
                return "session", self.bound[key], None
        for key in dm_of(event):
            if key in self.bound and self.is_warm(self.bound[key], event):
                return "dm", self.bound[key], None
        if not dead:
            found = self.open_conversation(event)
            if found is not None:
                return "open", found, None
        return ("new" if self.opens(event) else "none"), None, dead[0] if dead else None

    def is_live(self, conversation: Conversation, event: InboundEvent) -> bool:
        return event.occurred_at - conversation.closed_at <= self.policy.follow_up_window

    def is_warm(self, conversation: Conversation, event: InboundEvent) -> bool:
        return event.occurred_at - conversation.warm_at <= self.policy.open_window

    def opens(self, event: InboundEvent) -> bool:
        if kind_of(event) == "call.queued":
            return event.data.get("contact_id") in self.answered
        return kind_of(event) in OPENING_TYPES

    def merge_mails(self, event: InboundEvent) -> Conversation | None:
        """Make one of all live conversations whose mails this event names."""
        named = [self.bound[key] for key in self.mails_asked(event) if key in self.bound]
        live = [conversation for conversation in named if self.is_live(conversation, event)]
        if not live:
            return None
        first = min(live, key=lambda conversation: order_of(conversation.founder))
        for other in {id(c): c for c in live if c is not first}.values():
            self.merge(first, other)
        return first

    def merge(self, into: Conversation, other: Conversation) -> None:
        into.entries += other.entries
        activities = [at for at in (into.last_activity, other.last_activity) if at]
        into.last_activity = max(activities, default=None)
        both = into.resolved_at and other.resolved_at
        into.resolved_at = max(into.resolved_at, other.resolved_at) if both else None  # type: ignore[type-var]
        self.conversations.remove(other)
        self.bound = {key: into if bound is other else bound for key, bound in self.bound.items()}

    def open_conversation(self, event: InboundEvent) -> Conversation | None:
        """Rule 4."""
        placeable = self.opens(event) or kind_of(event) in ABOUT_A_CONVERSATION
        if is_automatic(event, self.policy) or not placeable or self.policy.open_window_s == 0:
            return None
        known = self.known_at(event)
        person = self.person(event, known, None)
        if person is None:
            return None
        found = [
            conversation
            for conversation in self.conversations
            if conversation.resolved_at is None
            and conversation.last_activity is not None
            and event.occurred_at - conversation.last_activity <= self.policy.open_window
            and any(self.person(entry, known, conversation) == person for entry in conversation.entries)
        ]
        if len(found) != 1:
            return None
        others = {key for key in self.bound if key.startswith("ticket:") and self.bound[key] is found[0]}
        return None if any(token.startswith("ticket:") for token in self.tokens(event)) and others else found[0]

    def person(self, event: InboundEvent, known: Identity, place: Conversation | None) -> str | None:
        """Whose an event is by what it says itself; in a conversation that another opened, a visitor is nobody."""
        node = self.owner(event, known.shared)
        if node is None and (place is None or place.founder is event):
            node = self.weak(event)
        return known.customer(node) if node else None

    def known_at(self, event: InboundEvent) -> Identity:
        """Who is one customer by the evidence up to the open window after an event."""
        soon = [other for other in self.evidence if other.occurred_at - event.occurred_at <= self.policy.open_window]
        return identity(soon, self.policy, self.shared)

    def change_state(self, conversation: Conversation, event: InboundEvent) -> None:
        if is_automatic(event, self.policy):
            return
        kind, at = kind_of(event), event.occurred_at
        if kind == "conversation.resolved":
            conversation.resolved_at = at
        reopens = kind == "message.received" and self.is_live(conversation, event)
        if reopens or kind == "conversation.reopened":
            conversation.resolved_at = None
        if kind != "message.status" and kind not in COMINGS_AND_GOINGS:
            conversation.last_activity = at

    # Owners ----------------------------------------------------------------------------------------------------------

    def find_owners(self) -> None:
        known = identity(self.evidence, self.policy, self.shared)
        for conversation in self.conversations:
            for entry in conversation.entries:
                node = self.owner(entry, known.shared)
                self.placed[name_of(entry)].customer = (
                    known.customer(node) if node else self.founding_customer(conversation, known)
                )
        for event in self.events:
            placed = self.placed[name_of(event)]
            if not placed.customer:
                owner = self.owner(event, known.shared) or self.weak(event)
                placed.customer = known.customer(owner) if owner else f"entry:{name_of(event)}"

    def founding_customer(self, conversation: Conversation, known: Identity) -> str:
        first = conversation.founder
        node = self.owner(first, known.shared) or self.weak(first)
        return known.customer(node) if node else f"entry:{name_of(first)}"


def stitch(
    events: Sequence[InboundEvent], policy: Policy, entry_id: Callable[[InboundEvent], str]
) -> dict[Name, Placed]:
    """Return the owner and the conversation of each event of one tenant; the order of `events` means nothing."""
    return Stitching(events, policy, entry_id).run()
