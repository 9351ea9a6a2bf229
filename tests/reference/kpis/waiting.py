"""Waiting and answering, on the calendar and on the business clock."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime
from fractions import Fraction

from tests.reference.kpis.history import (
    DAY,
    UNITS,
    Event,
    Reference,
    Unit,
    at,
    is_answer,
    is_message_in,
    order,
    seconds,
    units,
)


def reply_time(business: bool, handover: bool) -> Callable[[Reference], Iterable[Unit]]:
    def found(r: Reference) -> Iterable[Unit]:
        for name, opened in r.opened.items():
            reply = r.first_reply(name)
            if reply is None:
                continue
            start: Event | None = opened
            if handover:
                before = [
                    e for e in r.conversations[name] if e["type"] == "bot.handed_over" and order(e) < order(reply)
                ]
                start = before[-1] if before else None
            if start is not None:
                passed = r.business(at(start), at(reply)) if business else seconds(at(reply) - at(start))
                yield at(reply), passed, 1

    return found


UNITS["first_reply_time"] = reply_time(False, False)
UNITS["first_reply_time?clock=business"] = reply_time(True, False)
UNITS["first_reply_time?variant=from_handover"] = reply_time(False, True)


def responses(business: bool) -> Callable[[Reference], Iterable[Unit]]:
    def found(r: Reference) -> Iterable[Unit]:
        for name in r.opened:
            events = r.conversations[name]
            borders = [e for e in events if is_answer(e)] + [e for e, _ in r.resolutions(name)]
            for reply in (e for e in events if is_answer(e)):
                last = max((order(b) for b in borders if order(b) < order(reply)), default=None)
                waiting = [
                    e
                    for e in events
                    if is_message_in(e) and order(e) < order(reply) and (last is None or order(e) > last)
                ]
                if waiting:
                    start = at(waiting[0])
                    yield at(reply), r.business(start, at(reply)) if business else seconds(at(reply) - start), 1

    return found


UNITS["response_time"] = responses(False)
UNITS["response_time?clock=business"] = responses(True)


@units("ack_time")
def _ack(r: Reference) -> Iterable[Unit]:
    for name, opened in r.opened.items():
        acks = [e for e in r.conversations[name] if e["type"] == "acknowledgement.sent" and order(e) > order(opened)]
        if acks:
            yield at(acks[0]), seconds(at(acks[0]) - at(opened)), 1


def within(limit_s: int, business: bool) -> Callable[[Reference], Iterable[Unit]]:
    def found(r: Reference) -> Iterable[Unit]:
        for name, opened in r.opened.items():
            if not r.by_customer(name):
                continue
            due, reply = r.due(at(opened), limit_s, business), r.first_reply(name)
            if reply is not None and (due is None or at(reply) <= due):
                yield at(reply), 1, 1
            elif due is not None:
                yield due, 0, 1

    return found


UNITS["reply_within_ratio?threshold_s=900"] = within(900, False)
UNITS["reply_within_ratio?threshold_s=5000"] = within(5000, False)
UNITS["reply_within_ratio?threshold_s=14400&clock=business"] = within(14_400, True)


@units("messages_before_reply")
def _before(r: Reference) -> Iterable[Unit]:
    for name in r.opened:
        reply = r.first_reply(name)
        if reply is not None and reply["type"] == "message.sent":
            inbound = [e for e in r.conversations[name] if is_message_in(e) and order(e) < order(reply)]
            yield at(reply), len(inbound), 1


@units("unanswered_ratio")
def _unanswered(r: Reference) -> Iterable[Unit]:
    for name, opened in r.opened.items():
        if r.by_customer(name):
            reply = r.first_reply(name)
            yield at(opened) + DAY, int(reply is None or at(reply) > at(opened) + DAY), 1


def first_resolution(business: bool) -> Callable[[Reference], Iterable[Unit]]:
    def found(r: Reference) -> Iterable[Unit]:
        for name, opened in r.opened.items():
            if resolved := r.episodes(name)[0][1]:
                start, end = at(opened), at(resolved)
                yield end, r.business(start, end) if business else seconds(end - start), 1

    return found


UNITS["first_resolution_time"] = first_resolution(False)
UNITS["first_resolution_time?clock=business"] = first_resolution(True)


@units("full_resolution_time")
def _full(r: Reference) -> Iterable[Unit]:
    for name, opened in r.opened.items():
        if (resolved := r.standing(name)) is not None:
            yield at(resolved), seconds(at(resolved) - at(opened)), 1


def requester_wait(business: bool) -> Callable[[Reference], Iterable[Unit]]:
    def found(r: Reference) -> Iterable[Unit]:
        for name in r.opened:
            if (resolved := r.standing(name)) is not None:
                spans = [(a, b) for a, b in r.turns(name)[0] if b <= at(resolved)]
                total = sum((r.business(a, b) if business else seconds(b - a) for a, b in spans), Fraction(0))
                yield at(resolved), total, 1

    return found


UNITS["requester_wait_time"] = requester_wait(False)
UNITS["requester_wait_time?clock=business"] = requester_wait(True)


def sla_outcomes(r: Reference, name: str) -> Iterable[tuple[datetime, bool]]:
    """(where it lands, met) of the two promises."""
    opened = r.opened[name]
    if r.sla is None or not r.by_customer(name):
        return
    business = r.sla["clock"] == "business"
    due, reply = r.due(at(opened), r.sla["first_reply_s"], business), r.first_reply(name)
    if reply is not None and (due is None or at(reply) <= due):
        yield at(reply), True
    elif due is not None:
        yield due, False
    resolved = r.episodes(name)[0][1]
    used = Fraction(0)
    for start, end in r.turns(name)[1]:
        if resolved is not None and start >= at(resolved):
            break
        stop = end if end is not None else None
        if resolved is not None:
            stop = min(at(resolved), stop) if stop is not None else at(resolved)
        limit = r.sla["resolution_s"] - used
        due = r.due(start, limit, business)
        if due is not None and (stop is None or due < stop):
            yield due, False
            return
        if stop is None:
            return
        used += r.business(start, stop) if business else seconds(stop - start)
    if resolved is not None:
        yield at(resolved), True


@units("sla_attainment_ratio")
def _sla(r: Reference) -> Iterable[Unit]:
    return [(where, int(met), 1) for name in r.opened for where, met in sla_outcomes(r, name)]
