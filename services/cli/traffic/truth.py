"""Who is who and which conversation is which, found from the posted events by the rules alone.

The keys, handles and contacts of one simulated person never meet those of another (a shared browser is weak
evidence), so each person is worked out alone, slowly and obviously. Nothing here is shared with the services: it is
what they are compared with.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from services.cli.traffic.events import Event

OPEN_WINDOW_S = 72 * 3600.0
SESSIONS = frozenset({"chat", "phone"})
STRENGTH = {"crm": 0, "email": 1, "messenger": 2, "instagram": 2, "phone": 3}
_TICKET = re.compile(r"\[#(T-\d+)\]")


def truth(events: Iterable[Event], tenant: str, seed: int) -> dict[str, Any]:
    """Return the truth document for the events that were acknowledged (each once)."""
    people: dict[int | None, list[Event]] = defaultdict(list)
    for event in events:
        people[event.person].append(event)
    clusters: dict[str, str] = {}
    told: dict[str, dict[str, Any]] = {}
    for number, theirs in people.items():
        if number is None:
            told.update((_name(tenant, event), _nobodys(event)) for event in theirs)
            continue
        known, lines = _one_person(theirs, tenant)
        clusters.update(known)
        told.update(lines)
    summary = {
        "seed": seed,
        "customers": len([number for number in people if number is not None]),
        "clusters": len(set(clusters.values())),
        "conversations": len({line["conversation"] for line in told.values() if line["conversation"]}),
        "events": len(told),
        "undecidable": sum(not line["decidable"] for line in told.values()),
        "by_channel": dict(Counter(str(event.data.get("channel")) for theirs in people.values() for event in theirs)),
    }
    return {
        "summary": summary,
        "policy": {tenant: {"own_addresses": ["support@shop.example"]}},
        "clusters": clusters,
        "events": told,
    }


def _nobodys(event: Event) -> dict[str, Any]:
    return {
        "event": event.id,
        "customer": None,
        "cluster": None,
        "conversation": None,
        "rule": "none",
        "decidable": True,
        "by_rules": None,
    }


def _one_person(events: Sequence[Event], tenant: str) -> tuple[dict[str, str], dict[str, dict[str, Any]]]:
    ordered = sorted(events, key=lambda event: (event.at, event.source, event.id))
    groups = _groups(ordered, None)
    placed = list(_placed(ordered, tenant))
    main: dict[str, str] = {}
    for event, found, _ in placed:
        if found and event.matter:
            main.setdefault(event.matter, found)
    owner = {found: matter for matter, found in reversed(list(main.items()))}
    lines = {}
    for event, found, rule in placed:
        node = _node(event)
        same = found is None or (main.get(event.matter or "") == found and owner.get(found) == event.matter)
        lines[_name(tenant, event)] = {
            "event": event.id,
            "customer": f"p-{event.person}",
            "cluster": f"{tenant}|{groups[node]}" if node else None,
            "conversation": event.matter if found else None,
            "rule": rule,
            "decidable": same,
            "by_rules": found,
            **({"reply_text": event.reply_text} if event.reply_text is not None else {}),
            **({} if same else {"why": "nothing in the events ties it to what came before"}),
        }
    return {f"{tenant}|{node}": f"{tenant}|{group}" for node, group in groups.items()}, lines


def _placed(ordered: Sequence[Event], tenant: str) -> Iterator[tuple[Event, str | None, str]]:
    """Yield each event with its conversation by the rules (named by its first event) and the rule."""
    answered = {event.data.get("contact_id") for event in ordered if event.type == "threadline.call.answered"}
    bound: dict[str, str] = {}
    talks: dict[str, _Talk] = {}
    for event in ordered:
        found, rule = _by_keys(event, bound, talks)
        opens = _opens(event, answered)
        if found is None and (opens or event.type.startswith("threadline.conversation.")):
            found, rule = _by_window(event, ordered, talks)
        if found is None and opens:
            found, rule = _name(tenant, event), "new"
            talks[found] = _Talk()
        if found is None:
            yield event, None, "none"
            continue
        for _, key in _keys(event):
            bound[key] = found
        talks[found].take(event)
        yield event, found, rule


class _Talk:
    """A conversation as far as the rules look at it."""

    def __init__(self) -> None:
        self.resolved, self.last, self.owners = False, 0.0, set[str]()

    def take(self, event: Event) -> None:
        if (event.data.get("actor") or {}).get("type") != "automated":
            self.last = event.at
        if event.type == "threadline.conversation.resolved":
            self.resolved = True
        elif event.type == "threadline.message.received":
            self.resolved = False
        node = _node(event)
        if node:
            self.owners.add(node)


def _by_keys(event: Event, bound: Mapping[str, str], talks: Mapping[str, _Talk]) -> tuple[str | None, str]:
    for rule, key in _keys(event):
        found = bound.get(key)
        if found and (rule != "dm_thread" or event.at - talks[found].last <= OPEN_WINDOW_S):
            return found, rule
    return None, "none"


def _by_window(event: Event, ordered: Sequence[Event], talks: Mapping[str, _Talk]) -> tuple[str | None, str]:
    node = _node(event)
    if node is None:
        return None, "none"
    fresh = {name: talk for name, talk in talks.items() if not talk.resolved and event.at - talk.last <= OPEN_WINDOW_S}
    if not fresh:
        return None, "none"
    groups = _groups(ordered, event.at + OPEN_WINDOW_S)
    me = groups.get(node, node)
    mine = [name for name, talk in fresh.items() if any(groups.get(owner, owner) == me for owner in talk.owners)]
    return (mine[0], "open-window") if len(mine) == 1 else (None, "none")


def _opens(event: Event, answered: set[Any]) -> bool:
    if event.type in ("threadline.message.received", "threadline.message.sent"):
        return True
    return event.type == "threadline.call.queued" and event.data.get("contact_id") in answered


def _keys(event: Event) -> Iterator[tuple[str, str]]:
    """Yield (rule, key) in the order in which keys decide."""
    thread = event.data.get("thread") or {}
    for name in ("handoff_token", "callback_id"):
        if name in thread:
            yield name, f"{name}:{thread[name]}"
    ticket = thread.get("ticket")
    if ticket is None and event.data.get("channel") == "email":
        shown = _TICKET.search(event.data.get("subject") or "")
        ticket = shown and shown.group(1)
    if ticket:
        yield "ticket", f"ticket:{ticket}"
    if event.data.get("channel") == "email" and event.type.startswith("threadline.message."):
        for name in (
            event.data.get("message_id"),
            thread.get("in_reply_to"),
            *reversed(thread.get("references") or ()),
        ):
            if name:
                yield "mail", f"mail:{name}"
    elif event.data.get("channel") == "email" and "in_reply_to" in thread:
        yield "mail", f"mail:{thread['in_reply_to']}"
    for name, value in (("session", event.data.get("contact_id")), ("continues", thread.get("continues"))):
        if value:
            yield name, f"contact:{value}"
    if "dm_thread" in thread:
        yield "dm_thread", f"dm:{thread['dm_thread']}"


def _handles(event: Event) -> list[str]:
    """Return the handles of an event that can link, in matching form, strongest first."""
    given = (event.data.get("customer") or {}).get("handles") or ()
    usable = [
        (STRENGTH[one["kind"]], f"{one['kind']}:{_matching(one)}")
        for one in given
        if one["kind"] in STRENGTH and one["value"] != "anonymous"
    ]
    return [handle for _, handle in sorted(usable)]


def _matching(handle: Mapping[str, Any]) -> str:
    value = str(handle["value"])
    if handle["kind"] == "email":
        local, _, domain = value.lower().partition("@")
        return f"{local.partition('+')[0]}@{domain}"
    return value


def _contact(event: Event) -> str | None:
    contact = event.data.get("contact_id")
    return f"contact:{contact}" if contact and event.data.get("channel") in SESSIONS else None


def _node(event: Event) -> str | None:
    """Return the handle or contact that owns the entry; None where the truth does not say."""
    handles = _handles(event)
    return handles[0] if handles else _contact(event)


def _groups(events: Iterable[Event], until: float | None) -> dict[str, str]:
    """Return node → group by the evidence with at ≤ `until`; a group is named by its smallest node."""
    parent: dict[str, str] = {}

    def root(node: str) -> str:
        parent.setdefault(node, node)
        while parent[node] != node:
            node = parent[node]
        return node

    for event in events:
        if until is not None and event.at > until:
            continue
        contact = _contact(event)
        nodes = _handles(event) + ([contact] if contact else [])
        for node in nodes:
            one, other = sorted((root(nodes[0]), root(node)))
            parent[other] = one
    return {node: root(node) for node in list(parent)}


def _name(tenant: str, event: Event) -> str:
    return f"{tenant}|{event.source}|{event.id}"
