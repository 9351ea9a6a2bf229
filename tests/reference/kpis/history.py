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

    def due(self, start: datetime, limit_s: int | Fraction, business: bool) -> datetime | None:
        """The first whole microsecond at which `limit_s` have passed; by bisection, because that is obvious."""
        if not business:
            return start + timedelta(microseconds=int(limit_s * 1_000_000))
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


def local_days(first: date, days: int, zone: ZoneInfo) -> list[tuple[datetime, datetime]]:
    """The local days as instants."""
    borders = [datetime.combine(first + timedelta(days=n), time(0), zone).astimezone(UTC) for n in range(days + 1)]
    return list(pairwise(borders))
