"""Calls: waits, losses, holds, handling and call-backs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from fractions import Fraction
from typing import Any

from tests.reference.kpis.history import (
    UNITS,
    Event,
    Reference,
    Unit,
    at,
    is_human_message,
    order,
    seconds,
    units,
    windowed,
)


def call_outcome(call: dict[str, Event]) -> tuple[str, Event, timedelta] | None:
    """(answered, abandoned or short; the event; the wait)."""
    queued = call.get("call.queued")
    if queued is None:
        return None
    if "call.answered" in call:
        e = call["call.answered"]
        return "answered", e, max(timedelta(0), at(e) - at(queued))
    if "call.abandoned" in call and "call.overflowed" not in call and "callback.requested" not in call:
        e = call["call.abandoned"]
        wait = max(timedelta(0), at(e) - at(queued))
        return ("short" if wait < timedelta(seconds=5) else "abandoned"), e, wait
    return None


def call_units(name: str, pick: Callable[[str, timedelta], tuple[Any, Any] | None]) -> None:
    def found(r: Reference) -> Iterable[Unit]:
        for call in r.calls():
            outcome = call_outcome(call)
            if outcome is not None and (unit := pick(outcome[0], outcome[2])) is not None:
                yield at(outcome[1]), *unit

    UNITS[name] = found


TALLY = ("answered", "abandoned")
call_units(
    "service_level_ratio", lambda o, w: (int(o == "answered" and w.total_seconds() <= 20), 1) if o in TALLY else None
)
call_units("abandonment_ratio", lambda o, w: (int(o == "abandoned"), 1) if o in TALLY else None)
call_units("asa", lambda o, w: (seconds(w), 1) if o == "answered" else None)
call_units("short_abandons", lambda o, w: (1, 1) if o == "short" else None)
call_units("time_to_abandon", lambda o, w: (seconds(w), 1) if o == "abandoned" else None)


@windowed("patience_600s_ratio")
def _patience(r: Reference, start: datetime, end: datetime) -> tuple[float, float]:
    exits = []
    for call in r.calls():
        if "call.queued" not in call:
            continue
        names = ("call.answered", "call.overflowed", "callback.requested", "call.abandoned")
        leaving = next((call[name] for name in names if name in call), None)
        if leaving is None or not start <= at(leaving) < end:
            continue
        wait = max(timedelta(0), at(leaving) - at(call["call.queued"])).total_seconds()
        gave_up = leaving["type"] == "call.abandoned"
        if not (gave_up and wait < 5):
            exits.append((wait, gave_up))
    return sum(gave_up and wait <= 600 for wait, gave_up in exits), len(exits)


def held(call: dict[str, Any]) -> int:
    if "hold_s" in call["call.ended"]:
        return int(call["call.ended"]["hold_s"])
    return sum(e["duration_s"] for e in call["all"] if e["type"] == "call.held")


@units("hold_time")
def _hold(r: Reference) -> Iterable[Unit]:
    return [(at(c["call.ended"]), held(c), 1) for c in r.calls() if "call.answered" in c and "call.ended" in c]


def call_handling(r: Reference) -> list[Unit]:
    found = []
    for c in r.calls():
        if "call.answered" in c and "call.ended" in c:
            talk = max(Fraction(0), seconds(at(c["call.ended"]) - at(c["call.answered"])))
            found.append((at(c["call.ended"]), talk + c["call.ended"].get("wrap_s", 0), 1))
    return found


@units("aht")
def _aht(r: Reference) -> Iterable[Unit]:
    found = call_handling(r)
    for name in r.opened:
        done = r.resolutions(name)
        if not done:
            continue
        last = done[-1][0]
        for contact in r.contacts(r.conversations[name]):
            handled = [e["handle_s"] for e in contact if is_human_message(e) and "handle_s" in e]
            if handled and order(contact[0]) <= order(last):
                found.append((at(last), sum(handled), 1))
    return found


@units("callback_ratio")
def _callback(r: Reference) -> Iterable[Unit]:
    for call in r.calls():
        if "call.queued" in call:
            yield at(call["call.queued"]), 0, 1
        if "callback.requested" in call:
            yield at(call["callback.requested"]), 1, 0
