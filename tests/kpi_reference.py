"""The KPIs once more: in batch, slowly and obviously, written from the catalogue and not from the service's code.

It works on plain events (dicts in the form of the worked example's `events.jsonl`) and knows nothing of buckets,
contributions or streams. `Reference.answer(kpi, start, end)` gives (numerator, denominator).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from fractions import Fraction
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo

Event = dict[str, Any]
Unit = tuple[datetime, Fraction | int | float, Fraction | int | float]
"""(where it lands, what it adds to the numerator, what to the denominator)"""

DAY = timedelta(days=1)
WEEK = timedelta(days=7)
SOCIAL = {"sms", "whatsapp", "messenger", "instagram", "telegram", "x", "line", "viber", "wechat"}


def at(event: Event) -> datetime:
    return datetime.fromisoformat(event["occurred_at"]).astimezone(UTC)


def order(event: Event) -> tuple[datetime, str, str]:
    return at(event), event["source"], event["event_id"]


def seconds(delta: timedelta) -> Fraction:
    return Fraction(delta // timedelta(microseconds=1), 1_000_000)


def is_message_in(e: Event) -> bool:
    return e["type"] == "message.received" and e.get("actor") != "auto"


def is_human_message(e: Event) -> bool:
    return e["type"] == "message.sent" and e.get("actor") == "human"


def is_answer(e: Event) -> bool:
    return is_human_message(e) or e["type"] == "call.answered"


def is_bot(e: Event) -> bool:
    return e["type"].startswith("bot.") or (e["type"] == "message.sent" and e.get("actor") == "bot")


CALL = ("call.queued", "call.answered", "call.held", "call.abandoned", "call.overflowed", "call.ended")


def in_contact(e: Event) -> bool:
    return e["type"] in CALL or (e["type"] in ("message.received", "message.sent") and e.get("actor") != "auto")


@dataclass
class Reference:
    """A whole history: events, who owns which leaf, which conversations are one, and the tenant's rules."""

    events: list[Event]
    owner: dict[str, str]
    canonical: dict[str, str] = field(default_factory=dict)
    zone: ZoneInfo = field(default_factory=lambda: ZoneInfo("UTC"))
    office: dict[str, list[tuple[str, str]]] | None = None
    sla: dict[str, Any] | None = None
    now: datetime = field(default_factory=lambda: datetime.now(UTC))
    known: dict[str, list[Unit]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.events = sorted(self.events, key=order)
        self.conversations: dict[str, list[Event]] = {}
        for e in self.events:
            if e.get("conversation_id"):
                name = self.canonical.get(e["conversation_id"], e["conversation_id"])
                self.conversations.setdefault(name, []).append(e)
        self.opened: dict[str, Event] = {}
        for name, events in self.conversations.items():
            first = self.opening(events)
            if first is not None:
                self.opened[name] = first

    # Time

    def business(self, start: datetime, end: datetime) -> Fraction:
        """Seconds of opening hours between two instants."""
        if end <= start:
            return Fraction(0)
        if self.office is None:
            return seconds(end - start)
        total = Fraction(0)
        day = start.astimezone(self.zone).date()
        while day <= end.astimezone(self.zone).date():
            for opens, closes in self.office.get(("mon", "tue", "wed", "thu", "fri", "sat", "sun")[day.weekday()], []):
                a = max(start, datetime.combine(day, time.fromisoformat(opens), self.zone).astimezone(UTC))
                b = min(end, datetime.combine(day, time.fromisoformat(closes), self.zone).astimezone(UTC))
                total += max(Fraction(0), seconds(b - a))
            day += DAY
        return total

    def due(self, start: datetime, limit_s: int, business: bool) -> datetime | None:
        """The first whole microsecond at which `limit_s` have passed; by bisection, because that is obvious."""
        if not business:
            return start + timedelta(seconds=limit_s)
        low, high = 0, 400 * 86_400 * 1_000_000
        if self.business(start, start + timedelta(microseconds=high)) < limit_s:
            return None
        while low < high:
            middle = (low + high) // 2
            if self.business(start, start + timedelta(microseconds=middle)) >= limit_s:
                high = middle
            else:
                low = middle + 1
        return start + timedelta(microseconds=low)

    # Conversations

    @staticmethod
    def opening(events: list[Event]) -> Event | None:
        answered = {e.get("contact_id") for e in events if e["type"] == "call.answered"}
        for e in events:
            if e["type"] in ("message.received", "message.sent") and e.get("actor") != "auto":
                return e
            if e["type"] in ("conversation.opened", "call.answered"):
                return e
            if e["type"] == "call.queued" and e.get("contact_id") in answered:
                return e
        return None

    def episodes(self, name: str) -> list[tuple[Event, Event | None, Event | None]]:
        """(what opened it, its resolution, the reopening after that)"""
        found: list[list[Event | None]] = []
        for e in self.conversations[name]:
            if e is self.opened[name]:
                found.append([e, None, None])
            if not found:
                continue
            resolved = found[-1][1]
            if e["type"] == "conversation.resolved" and resolved is None:
                found[-1][1] = e
            elif resolved is not None and (e["type"] == "conversation.reopened" or is_message_in(e)):
                found[-1][2] = e
                found.append([e, None, None])
        return [(a, b, c) for a, b, c in found if a is not None]

    def resolutions(self, name: str) -> list[tuple[Event, Event | None]]:
        return [(r, again) for _, r, again in self.episodes(name) if r is not None]

    def standing(self, name: str) -> Event | None:
        """The last resolution, unless it was reopened within 7 days."""
        done = self.resolutions(name)
        if not done:
            return None
        resolved, again = done[-1]
        return None if again is not None and at(again) - at(resolved) <= WEEK else resolved

    def by_customer(self, name: str) -> bool:
        first = next((e for e in self.conversations[name] if in_contact(e)), None)
        return first is None or not is_human_message(first)

    def first_reply(self, name: str) -> Event | None:
        if not self.by_customer(name):
            return None
        after = order(self.opened[name])
        return next((e for e in self.conversations[name] if is_answer(e) and order(e) >= after), None)

    def contacts(self, events: Iterable[Event]) -> list[list[Event]]:
        found: dict[str, list[Event]] = {}
        for e in events:
            if in_contact(e):
                found.setdefault(e["contact_id"], []).append(e)
        return sorted(found.values(), key=lambda contact: order(contact[0]))

    def between(self, name: str, start: Event, end: Event | None) -> list[Event]:
        return [
            e for e in self.conversations[name] if order(e) >= order(start) and (end is None or order(e) < order(end))
        ]

    def turns(self, name: str) -> tuple[list[tuple[datetime, datetime]], list[tuple[datetime, datetime | None]]]:
        """(spans in which a message waited, spans in which it was our turn)."""
        waits, turns = [], []
        waiting: datetime | None = None
        turn: datetime | None = None
        solved = {id(r) for r, _ in self.resolutions(name)}
        starts = {id(start) for start, _, _ in self.episodes(name)}
        is_open = False
        for e in self.conversations[name]:
            if id(e) in starts:
                is_open = True
                if turn is None and (e is not self.opened[name] or self.by_customer(name)):
                    turn = at(e)
            ends = id(e) in solved or (is_open and is_answer(e))
            if e["type"] == "conversation.pending" and is_open:
                ends = e.get("waiting_on") == "customer"
                if not ends and turn is None:
                    turn = at(e)
            if is_message_in(e):
                waiting = waiting or at(e)
                turn = turn or at(e)
            if ends:
                if waiting is not None:
                    waits.append((waiting, at(e)))
                if turn is not None:
                    turns.append((turn, at(e)))
                waiting = turn = None
            if id(e) in solved:
                is_open = False
        return waits, [*turns, *([(turn, None)] if turn is not None else [])]

    # Customers

    def of(self, customer: str) -> list[Event]:
        """A customer's events: whole conversations that begin with theirs, and their own elsewhere."""
        mine = []
        for e in self.events:
            name = self.canonical.get(e.get("conversation_id") or "", e.get("conversation_id"))
            if name in self.opened:
                if self.customer_of(name) == customer:
                    mine.append(e)
            elif e.get("customer_id") and self.owner[e["customer_id"]] == customer:
                mine.append(e)
        return mine

    def customer_of(self, name: str) -> str:
        return self.owner[self.conversations[name][0]["customer_id"]]

    def customers(self) -> list[str]:
        return sorted(set(self.owner.values()))

    def topic(self, name: str) -> str | None:
        return self.conversations[name][0].get("topic")

    def contact_topic(self, contact: list[Event]) -> str | None:
        told = next((e["topic"] for e in contact if e.get("topic")), None)
        name = self.canonical.get(contact[0].get("conversation_id") or "", contact[0].get("conversation_id"))
        return told if told is not None else (self.topic(name) if name in self.opened else None)

    def sessions(self, customer: str, *types: str) -> list[list[Event]]:
        found: dict[str, list[Event]] = {}
        for e in self.of(customer):
            if e["type"] in types:
                found.setdefault(e["session_id"], []).append(e)
        return list(found.values())

    def contacted(self, customer: str, after: datetime, until: datetime) -> bool:
        return any(after < at(contact[0]) <= until for contact in self.contacts(self.of(customer)))

    # Calls and surveys

    def calls(self) -> list[dict[str, Event]]:
        """One dict a call: the first event of each type (the last call.ended)."""
        found: dict[str, dict[str, Event]] = {}
        for e in self.events:
            if e["type"].startswith(("call.", "callback.")):
                call = found.setdefault(e["contact_id"], {})
                if e["type"] == "call.ended" or e["type"] not in call:
                    call[e["type"]] = e
                call.setdefault("all", []).append(e)  # type: ignore[arg-type,attr-defined]
        return list(found.values())

    def answers(self) -> list[tuple[Event, Event | None]]:
        """(the last answer of each survey and kind, the survey's sending)."""
        found: dict[tuple[str, str], tuple[Event, Event | None]] = {}
        for e in self.events:
            if e["type"] != "survey.answered":
                continue
            sent = next(
                (s for s in self.events if s["type"] == "survey.sent" and s["survey_id"] == e["survey_id"]), None
            )
            if sent is None or at(e) - at(sent) <= timedelta(days=30):
                found[(e["survey_id"], e["kind"])] = (e, sent)
        return list(found.values())

    # Answering

    def answer(self, kpi: str, start: datetime, end: datetime) -> tuple[float | None, float | None]:
        """Numerator and denominator of a KPI in [start, end)."""
        if kpi in WINDOWED:
            return WINDOWED[kpi](self, start, end)
        if kpi not in self.known:
            self.known[kpi] = list(UNITS[kpi](self))
        inside = [(num, den) for where, num, den in self.known[kpi] if start <= where < end and where <= self.now]
        return sum(n for n, _ in inside), sum(d for _, d in inside)


UNITS: dict[str, Callable[[Reference], Iterable[Unit]]] = {}
WINDOWED: dict[str, Callable[[Reference, datetime, datetime], tuple[float | None, float | None]]] = {}


def units(name: str) -> Callable[[Any], Any]:
    def register(function: Any) -> Any:
        UNITS[name] = function
        return function

    return register


def windowed(name: str) -> Callable[[Any], Any]:
    def register(function: Any) -> Any:
        WINDOWED[name] = function
        return function

    return register


def count(name: str, test: Callable[[Event], bool]) -> None:
    UNITS[name] = lambda r: [(at(e), 1, 1) for e in r.events if test(e)]


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
        due = breach(r, start, limit, business)
        if due is not None and (stop is None or due < stop):
            yield due, False
            return
        if stop is None:
            return
        used += r.business(start, stop) if business else seconds(stop - start)
    if resolved is not None:
        yield at(resolved), True


def breach(r: Reference, start: datetime, left: Fraction, business: bool) -> datetime | None:
    whole = timedelta(microseconds=int(left * 1_000_000))
    if not business:
        return start + whole
    low, high = 0, 400 * 86_400 * 1_000_000
    if r.business(start, start + timedelta(microseconds=high)) < left:
        return None
    while low < high:
        middle = (low + high) // 2
        if r.business(start, start + timedelta(microseconds=middle)) >= left:
            high = middle
        else:
            low = middle + 1
    return start + timedelta(microseconds=low)


@units("sla_attainment_ratio")
def _sla(r: Reference) -> Iterable[Unit]:
    return [(where, int(met), 1) for name in r.opened for where, met in sla_outcomes(r, name)]


# Calls


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


# What holds


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


# Sessions


@units("ivr_containment_ratio")
def _ivr(r: Reference) -> Iterable[Unit]:
    for customer in r.customers():
        for session in r.sessions(customer, "ivr.ended"):
            end = session[-1]
            again = r.contacted(customer, at(end), at(end) + DAY)
            yield at(end), int(end["outcome"] != "to_agent" and not again), 1


@units("containment_ratio")
def _containment(r: Reference) -> Iterable[Unit]:
    for customer in r.customers():
        for session in r.sessions(customer, "bot.answered", "bot.handed_over"):
            start, end = at(session[0]), at(session[-1])
            handed = any(e["type"] == "bot.handed_over" for e in session)
            name = r.canonical.get(session[0].get("conversation_id") or "", session[0].get("conversation_id"))
            done = name in r.opened and any(start <= at(e) <= start + DAY for e, _ in r.resolutions(name))
            yield start, int(done and not handed and not r.contacted(customer, end, end + DAY)), 1


@units("deflection_ratio")
def _deflection(r: Reference) -> Iterable[Unit]:
    for customer in r.customers():
        for session in r.sessions(customer, "selfservice.viewed", "selfservice.deflected"):
            start, end = at(session[0]), at(session[-1])
            yield start, int(not r.contacted(customer, start, end + DAY)), 1


@units("selfservice_first_ratio")
def _tried_first(r: Reference) -> Iterable[Unit]:
    for name in r.opened:
        views = [e for e in r.of(r.customer_of(name)) if e["type"] == "selfservice.viewed"]
        for start, _, _ in r.episodes(name):
            yield at(start), int(any(timedelta(0) <= at(start) - at(v) <= DAY for v in views)), 1


@windowed("portal_adoption_ratio")
def _portal(r: Reference, start: datetime, end: datetime) -> tuple[float, float]:
    viewing, active = set(), set()
    for c in r.customers():
        if any(e["type"] == "selfservice.viewed" and start <= at(e) < end for e in r.of(c)):
            viewing.add(c)
        if channels_in(r, c, start, end):
            active.add(c)
    return len(viewing), len(viewing | active)


@units("bot_share_ratio")
def _bot_share(r: Reference) -> Iterable[Unit]:
    for name in r.opened:
        for start, _, again in r.episodes(name):
            yield at(start), int(any(is_bot(e) for e in r.between(name, start, again))), 1


def suggestion(accepted: bool) -> Callable[[Reference], Iterable[Unit]]:
    def found(r: Reference) -> Iterable[Unit]:
        for name in r.opened:
            taken = {e["suggestion_id"] for e in r.conversations[name] if e["type"] == "suggestion.accepted"}
            for e in r.conversations[name]:
                if is_human_message(e):
                    told = e.get("suggestion_id")
                    yield at(e), int(told in taken if accepted else told is not None), 1

    return found


UNITS["ai_suggestion_ratio"] = suggestion(False)
UNITS["ai_suggestion_ratio?variant=accepted"] = suggestion(True)


# Surveys


def survey_units(name: str, kind: str, judge: Callable[[int], Any]) -> None:
    UNITS[name] = lambda r: [(at(e), judge(e["score"]), 1) for e, _ in r.answers() if e["kind"] == kind]


survey_units("csat_ratio", "csat", lambda s: int(s >= 4))
survey_units("csat_mean", "csat", lambda s: s)
survey_units("ces_mean", "ces", lambda s: s)
survey_units("high_effort_ratio", "ces", lambda s: int(s <= 2))
survey_units("high_effort_ratio?variant=some", "ces", lambda s: int(s <= 4))
survey_units("nps", "nps", lambda s: 100 * (int(s >= 9) - int(s <= 6)))


@units("csat_ratio?variant=cohort")
def _cohort(r: Reference) -> Iterable[Unit]:
    for answered, sent in r.answers():
        if answered["kind"] != "csat":
            continue
        about = None
        for e in (sent, answered):
            name = (
                r.canonical.get(e["conversation_id"], e["conversation_id"]) if e and e.get("conversation_id") else None
            )
            if e is not None and name in r.opened and about is None:
                about = (name, at(e))
        done = [x for x, _ in r.resolutions(about[0]) if at(x) <= about[1]] if about else []
        if done:
            yield at(done[-1]), int(answered["score"] >= 4), 1


@units("survey_asked_ratio")
def _asked(r: Reference) -> Iterable[Unit]:
    for name in r.opened:
        done = [e for e, _ in r.resolutions(name)]
        for index, resolved in enumerate(done):
            until = at(resolved) + timedelta(days=30)
            sent = [e for e in r.conversations[name] if e["type"] == "survey.sent" and at(resolved) <= at(e) <= until]
            if index + 1 < len(done):
                sent = [e for e in sent if at(e) < at(done[index + 1])]
            yield at(resolved), int(bool(sent)), 1


@units("survey_response_ratio")
def _response(r: Reference) -> Iterable[Unit]:
    answered = {(e["survey_id"], e["kind"]) for e, _ in r.answers()}
    seen = set()
    for e in r.events:
        if e["type"] == "survey.sent" and e["survey_id"] not in seen:
            seen.add(e["survey_id"])
            for kind in e["kinds"]:
                yield at(e), int((e["survey_id"], kind) in answered), 1


def mention(mood: str) -> Callable[[Reference], Iterable[Unit]]:
    def found(r: Reference) -> Iterable[Unit]:
        for name in r.opened:
            for contact in r.contacts(r.conversations[name]):
                if contact[0]["channel"] in SOCIAL:
                    yield at(contact[0]), int(any(e.get("sentiment") == mood for e in contact)), 1

    return found


UNITS["mention_ratio"] = mention("praise")
UNITS["mention_ratio?sentiment=complaint"] = mention("complaint")


# Money


def money(r: Reference, kind: str, start: datetime, end: datetime) -> Fraction:
    """Amounts in major units; periods in the tests are whole days, windows too, so they are in or out."""
    total = Fraction(0)
    amounts: dict[str, Event] = {}
    for e in (e for e in r.events if e["type"] == kind):
        name = e.get("corrects_event_id", e["event_id"])
        if "corrects_event_id" in e or name not in amounts:
            amounts[name] = e
    for last in amounts.values():
        a = datetime.fromisoformat(last["period_start"]) if "period_start" in last else at(last)
        b = datetime.fromisoformat(last["period_end"]) if "period_end" in last else None
        if start <= a < end:
            assert b is None or b <= end
            total += Fraction(last["amount_minor"], 100)
    return total


@windowed("cost_per_contact")
def _per_contact(r: Reference, start: datetime, end: datetime) -> tuple[Any, Any]:
    return money(r, "cost.recorded", start, end), sum(start <= at(e) < end for e in r.opened.values())


@windowed("cost_per_resolution")
def _per_resolution(r: Reference, start: datetime, end: datetime) -> tuple[Any, Any]:
    solved = [r.standing(name) for name in r.opened]
    return money(r, "cost.recorded", start, end), sum(e is not None and start <= at(e) < end for e in solved)


@windowed("cost_per_minute")
def _per_minute(r: Reference, start: datetime, end: datetime) -> tuple[Any, Any]:
    spent = sum((s for where, s, _ in call_handling(r) if start <= where < end), Fraction(0))
    for e in r.events:
        name = r.canonical.get(e.get("conversation_id") or "", e.get("conversation_id"))
        if is_human_message(e) and name in r.opened and start <= at(e) < end:
            spent += e.get("handle_s", 0)
    return money(r, "cost.recorded", start, end), spent / 60


@windowed("cost_to_revenue_ratio")
def _to_revenue(r: Reference, start: datetime, end: datetime) -> tuple[Any, Any]:
    return money(r, "cost.recorded", start, end), money(r, "revenue.recorded", start, end)


# Coming and going


@windowed("customer_churn_ratio")
def _churn(r: Reference, start: datetime, end: datetime) -> tuple[float, float]:
    base = lost = 0
    for c in r.customers():
        if here_at(r, c, start):
            base += 1
            lost += not here_at(r, c, end)
    return lost, base


def here_at(r: Reference, customer: str, when: datetime) -> bool:
    """Whether they are a customer just before `when`; one who churned without a start was one all along."""
    steps = [e for e in r.of(customer) if e["type"] in ("customer.started", "customer.churned")]
    before = [e for e in steps if at(e) < when]
    if before:
        return before[-1]["type"] == "customer.started"
    return bool(steps) and steps[0]["type"] == "customer.churned"


@windowed("churn_after_bad_ratio")
def _after_bad(r: Reference, start: datetime, end: datetime) -> tuple[float, float]:
    customers = left = 0
    for c in r.customers():
        mine = r.of(c)
        # A customer's experience is what they said themselves, also where somebody else answered later.
        bad = [at(e) for e, _ in Reference(mine, r.owner).answers() if e["kind"] == "csat" and e["score"] <= 2]
        for name in r.opened:
            if r.customer_of(name) == c:
                bad += [where for where, met in sla_outcomes(r, name) if not met and where <= r.now]
        bad = [when for when in bad if start <= when < end]
        gone = [at(e) for e in mine if e["type"] == "customer.churned"]
        customers += bool(bad)
        left += any(timedelta(0) <= g - b <= timedelta(days=30) for b in bad for g in gone)
    return left, customers


@units("remedy_choice_ratio")
def _remedy(r: Reference) -> Iterable[Unit]:
    return [(at(e), int(e["kind"] == "replacement"), 1) for e in r.events if e["type"] == "remedy.chosen"]


@windowed("spend_after_ratio")
def _spend(r: Reference, start: datetime, end: datetime) -> tuple[Any, Any]:
    sums: dict[bool, dict[str, Fraction]] = {True: {}, False: {}}
    for c in r.customers():
        for e in r.of(c):
            if e["type"] == "revenue.recorded" and start <= at(e) < end:
                side = sums[bool(e["exposure"])]
                side[c] = side.get(c, Fraction(0)) + Fraction(e["amount_minor"], 100)
    means = [sum(side.values(), Fraction(0)) / len(side) if side else None for side in (sums[True], sums[False])]
    return means[0], means[1]


# Levels


def spans(r: Reference, states: set[str]) -> list[tuple[datetime, datetime]]:
    found = []
    agents = {e["agent_id"] for e in r.events if e["type"] == "agent.status"}
    for agent in agents:
        mine = [e for e in r.events if e["type"] == "agent.status" and e["agent_id"] == agent]
        for index, e in enumerate(mine):
            end = min(at(mine[index + 1]) if index + 1 < len(mine) else r.now, at(e) + DAY)
            if e["state"] in states:
                found.append((at(e), end))
    return found


def overlap(parts: Iterable[tuple[datetime, datetime]], start: datetime, end: datetime) -> Fraction:
    return sum((max(Fraction(0), seconds(min(b, end) - max(a, start))) for a, b in parts), Fraction(0))


@windowed("occupancy")
def _occupancy(r: Reference, start: datetime, end: datetime) -> tuple[Any, Any]:
    end = min(end, r.now)
    busy = overlap(spans(r, {"interacting"}), start, end)
    return busy, busy + overlap(spans(r, {"available", "on_queue"}), start, end)


@windowed("agent_efficiency")
def _efficiency(r: Reference, start: datetime, end: datetime) -> tuple[Any, Any]:
    signed_in = overlap(spans(r, {"interacting", "available", "on_queue", "busy"}), start, min(end, r.now))
    solved = [r.standing(name) for name in r.opened]
    return sum(e is not None and start <= at(e) < end for e in solved), signed_in / 3600


@windowed("agent_turnover_ratio")
def _turnover(r: Reference, start: datetime, end: datetime) -> tuple[Any, Any]:
    stop = max(start, min(end, r.now))
    heads, left = Fraction(0), 0
    for agent in {e["agent_id"] for e in r.events if e["type"] in ("agent.joined", "agent.left")}:
        since: datetime | None = None
        for e in r.events:
            if e.get("agent_id") != agent:
                continue
            if e["type"] == "agent.joined":
                since = since or at(e)
            elif e["type"] == "agent.left":
                left += start <= at(e) < end
                if since is not None:
                    heads += overlap([(since, at(e))], start, stop)
                since = None
        if since is not None:
            heads += overlap([(since, stop)], start, stop)
    span = seconds(stop - start)
    if not span:
        return 0, 0
    return Fraction(left * 365 * 86_400) / span, heads / span


@windowed("channel_availability_ratio")
def _availability(r: Reference, start: datetime, end: datetime) -> tuple[Any, Any]:
    stop, opened, promised = min(end, r.now), Fraction(0), Fraction(0)
    said = [e for e in r.events if e["type"] == "channel.availability"]
    for channel in {e["channel"] for e in said}:
        mine = [e for e in said if e["channel"] == channel]
        for index, e in enumerate(mine):
            until = at(mine[index + 1]) if index + 1 < len(mine) else stop
            spent = r.business(max(at(e), start), min(until, stop))
            promised += spent
            opened += spent if e["open"] else 0
    return opened, promised


@windowed("channel_growth_ratio")
def _growth(r: Reference, start: datetime, end: datetime) -> tuple[Any, Any]:
    def year_ago(when: datetime) -> datetime:
        local = when.astimezone(r.zone)
        return local.replace(year=local.year - 1).astimezone(UTC)

    starts = [at(c[0]) for c in all_contacts(r)]
    now = sum(start <= s < end for s in starts)
    last = sum(year_ago(start) <= s < year_ago(end) for s in starts)
    return now - last, last


def local_days(first: date, days: int, zone: ZoneInfo) -> list[tuple[datetime, datetime]]:
    """The local days as instants."""
    borders = [datetime.combine(first + timedelta(days=n), time(0), zone).astimezone(UTC) for n in range(days + 1)]
    return list(pairwise(borders))
