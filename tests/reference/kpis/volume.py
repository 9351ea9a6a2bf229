"""How much comes, from where, and where a journey begins."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime

from tests.reference.kpis.history import (
    CALL,
    DAY,
    UNITS,
    Event,
    Reference,
    Unit,
    at,
    count,
    is_human_message,
    is_message_in,
    order,
    units,
    windowed,
)

count("messages_received", is_message_in)
count("messages_sent", is_human_message)


@units("conversations_opened")
def _opened(r: Reference) -> Iterable[Unit]:
    return [(at(e), 1, 1) for e in r.opened.values()]


@units("resolutions")
def _resolutions(r: Reference) -> Iterable[Unit]:
    return [(at(e), 1, 1) for name in r.opened for e, _ in r.resolutions(name)]


@windowed("resolutions?variant=distinct")
def _distinct(r: Reference, start: datetime, end: datetime) -> tuple[float, float]:
    n = sum(any(start <= at(e) < end for e, _ in r.resolutions(name)) for name in r.opened)
    return n, n


@units("resolution_ratio")
def _resolution_ratio(r: Reference) -> Iterable[Unit]:
    return [(at(e), int(r.standing(name) is not None), 1) for name, e in r.opened.items()]


@windowed("backlog")
def _backlog(r: Reference, start: datetime, end: datetime) -> tuple[float, float]:
    level = 0
    for name in r.opened:
        for opened, resolved, _ in r.episodes(name):
            level += int(at(opened) < end) - int(resolved is not None and at(resolved) < end)
    return level, sum(start <= at(e) < end for e in r.opened.values())


def all_contacts(r: Reference) -> list[list[Event]]:
    inside = [c for name in r.opened for c in r.contacts(r.conversations[name]) if c[0]["type"] not in CALL]
    calls: dict[str, list[Event]] = {}
    for e in r.events:
        if e["type"] in CALL:
            calls.setdefault(e["contact_id"], []).append(e)
    starts = [[next((e for e in c if e["type"] == "call.queued"), c[0])] for c in calls.values()]
    return inside + starts


@units("arrivals_by_hour")
def _arrivals(r: Reference) -> Iterable[Unit]:
    return [(at(c[0]), 1, 1) for c in all_contacts(r)]


@windowed("channel_mix_ratio?channel=email")
def _mix(r: Reference, start: datetime, end: datetime) -> tuple[float, float]:
    inside = [c[0] for c in all_contacts(r) if start <= at(c[0]) < end]
    return sum(e["channel"] == "email" for e in inside), len(inside)


@windowed("channel_mix_ratio?channel=email&variant=distinct")
def _mix_distinct(r: Reference, start: datetime, end: datetime) -> tuple[float, float]:
    found = {c: {e["channel"] for e in channels_in(r, c, start, end)} for c in r.customers()}
    return sum("email" in used for used in found.values()), sum(bool(used) for used in found.values())


def channels_in(r: Reference, customer: str, start: datetime, end: datetime) -> list[Event]:
    return [c[0] for c in r.contacts(r.of(customer)) if start <= at(c[0]) < end]


@windowed("multichannel_3to5_ratio")
def _multichannel(r: Reference, start: datetime, end: datetime) -> tuple[float, float]:
    counts = [len({e["channel"] for e in channels_in(r, c, start, end)}) for c in r.customers()]
    return sum(3 <= n <= 5 for n in counts), sum(n > 0 for n in counts)


def journey(variant: str) -> Callable[[Reference], Iterable[Unit]]:
    def found(r: Reference) -> Iterable[Unit]:
        for name in r.opened:
            mine = r.of(r.customer_of(name))
            for start, _, _ in r.episodes(name):
                touches = [
                    e
                    for e in mine
                    if e["type"] in ("selfservice.viewed", "message.received", "call.queued", "ivr.ended")
                    and e.get("actor") != "auto"
                    and order(e) < order(start)
                    and at(start) - at(e) <= DAY
                ]
                first = touches[0] if touches else start
                hit = {
                    "phone": first.get("channel") == "phone",
                    "web": first["type"].startswith("selfservice.") or first.get("channel") in ("chat", "web"),
                    "mobile": first.get("device") == "mobile",
                }[variant]
                yield at(first), int(hit), 1

    return found


UNITS["journey_start_ratio"] = journey("web")
UNITS["journey_start_ratio?variant=phone"] = journey("phone")
UNITS["journey_start_ratio?variant=mobile"] = journey("mobile")
