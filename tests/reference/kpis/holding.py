"""What holds: reopenings, first contact resolution, transfers, escalations, context."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime, timedelta

from tests.reference.kpis.history import (
    DAY,
    UNITS,
    WEEK,
    Event,
    Reference,
    Unit,
    at,
    is_answer,
    is_bot,
    is_human_message,
    order,
    seconds,
    units,
    windowed,
)


@units("reopen_ratio")
def _reopen(r: Reference) -> Iterable[Unit]:
    for name in r.opened:
        for resolved, again in r.resolutions(name):
            yield at(resolved), int(again is not None and at(again) - at(resolved) <= WEEK), 1


def fcr(gross: bool) -> Callable[[Reference], Iterable[Unit]]:
    def found(r: Reference) -> Iterable[Unit]:
        for name in r.opened:
            _, resolved, again = r.episodes(name)[0]
            if resolved is None:
                continue
            if not gross and any(e.get("fcr_eligible") is False for e in r.conversations[name]):
                continue
            used = [c for c in r.contacts(r.conversations[name]) if order(c[0]) <= order(resolved)]
            one = len(used) == 1 and any(is_answer(e) or is_bot(e) for e in used[0])
            reopened = again is not None and at(again) - at(resolved) <= WEEK
            back = any(
                order(c[0]) > order(resolved)
                and at(c[0]) - at(resolved) <= WEEK
                and r.contact_topic(c) == r.topic(name)
                for c in r.contacts(r.of(r.customer_of(name)))
            )
            yield at(resolved), int(one and not reopened and not back), 1

    return found


UNITS["fcr_net_ratio"] = fcr(False)
UNITS["fcr_net_ratio?variant=gross"] = fcr(True)


@units("repeat_contact_ratio")
def _repeat(r: Reference) -> Iterable[Unit]:
    for name, opened in r.opened.items():
        before = [
            resolved
            for other in r.opened
            if other != name and r.customer_of(other) == r.customer_of(name) and r.topic(other) == r.topic(name)
            for resolved, _ in r.resolutions(other)
            if timedelta(0) <= at(opened) - at(resolved) <= WEEK
        ]
        yield at(opened), int(bool(before)), 1


def per_episode(name: str, judge: Callable[[list[Event]], tuple[int, int] | None]) -> None:
    """Units of resolved episodes, judged by the events between their start and the next episode's."""

    def found(r: Reference) -> Iterable[Unit]:
        for conversation in r.opened:
            for start, resolved, again in r.episodes(conversation):
                if resolved is not None and (unit := judge(r.between(conversation, start, again))) is not None:
                    yield at(resolved), *unit

    UNITS[name] = found


def transfers(events: list[Event]) -> int:
    return sum(e["type"] == "conversation.transferred" for e in events)


def handled(events: list[Event]) -> bool:
    return any(is_answer(e) for e in events)


per_episode("transfer_ratio", lambda es: (int(transfers(es) > 0), 1) if handled(es) else None)
per_episode("transfer_ratio?variant=mean", lambda es: (transfers(es), 1) if handled(es) else None)


def asked_twice(events: list[Event]) -> bool:
    asked = [e["field"] for e in events if e["type"] == "info.requested"]
    return len(asked) != len(set(asked))


per_episode("info_repeated_ratio", lambda es: (int(asked_twice(es)), 1))
per_episode(
    "multi_system_ratio",
    lambda es: (int(len({e["system"] for e in es if e["type"] == "agent.context_viewed" and e.get("system")}) >= 2), 1),
)


def escalation(source: str | None, target: str | None) -> Callable[[Reference], Iterable[Unit]]:
    def found(r: Reference) -> Iterable[Unit]:
        for name in r.opened:
            contacts = r.contacts(r.conversations[name])
            for index, contact in enumerate(contacts):
                if not any(is_answer(e) for e in contact) or (source and contact[0]["channel"] != source):
                    continue
                start, moves = at(contact[0]), set()
                for e in r.conversations[name]:
                    posted = e["type"] == "conversation.escalated" and e["from_contact"] == contact[0]["contact_id"]
                    if posted and order(e) > order(contact[0]):
                        moves.add((e["to_channel"], at(e)))
                if index + 1 < len(contacts) and contacts[index + 1][0]["channel"] != contact[0]["channel"]:
                    moves.add((contacts[index + 1][0]["channel"], at(contacts[index + 1][0])))
                first = {to: min(when for name, when in moves if name == to) for to, _ in moves}
                soon = {to for to, when in first.items() if when - start <= WEEK}
                yield start, int(bool(soon) if target is None else target in soon), 1

    return found


UNITS["escalation_ratio"] = escalation(None, None)
UNITS["escalation_ratio?from_channel=chat&to_channel=email"] = escalation("chat", "email")
UNITS["escalation_ratio?from_channel=email&to_channel=phone"] = escalation("email", "phone")


@units("channel_switch_wait")
def _switch(r: Reference) -> Iterable[Unit]:
    for customer in r.customers():
        contacts = r.contacts(r.of(customer))
        for index, contact in enumerate(contacts):
            now, run = at(contact[0]), []
            for before in reversed(contacts[:index]):
                served = any(is_answer(e) and at(e) <= now for e in before)
                channel = before[0]["channel"]
                same_run = not run or channel == run[-1][0]["channel"]
                if served or channel == contact[0]["channel"] or not same_run or now - at(before[0]) > DAY:
                    break
                run.append(before)
            if run:
                yield now, seconds(now - at(run[-1][0])), 1


@units("context_available_ratio")
def _context(r: Reference) -> Iterable[Unit]:
    for name in r.opened:
        acts: dict[str, list[Event]] = {}
        for e in r.conversations[name]:
            if e.get("agent_id") and (is_human_message(e) or e["type"] in ("call.answered", "agent.context_viewed")):
                acts.setdefault(e["agent_id"], []).append(e)
        for mine in acts.values():
            seen = {s for e in mine for s in e.get("sections", ())}
            yield at(mine[0]), int({"profile", "orders", "history"} <= seen), 1


@windowed("system_blocked_ratio")
def _blocked(r: Reference, start: datetime, end: datetime) -> tuple[float, float]:
    inside = [e for e in r.events if start <= at(e) < end]
    blocked = {e["agent_id"] for e in inside if e["type"] == "agent.blocked"}
    active = {e["agent_id"] for e in inside if e["type"] == "agent.status"}
    for name in r.opened:
        firsts: dict[str, Event] = {}
        for e in r.conversations[name]:
            if e.get("agent_id") and (is_human_message(e) or e["type"] in ("call.answered", "agent.context_viewed")):
                firsts.setdefault(e["agent_id"], e)
        active |= {agent for agent, e in firsts.items() if start <= at(e) < end}
    return len(blocked), len(active | blocked)
