"""Money, per contact, resolution and minute."""

from __future__ import annotations

from datetime import datetime
from fractions import Fraction
from typing import Any

from tests.reference.kpis.calls import call_handling
from tests.reference.kpis.history import Event, Reference, at, is_human_message, windowed


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
