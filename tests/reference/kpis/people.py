"""Customers who go, and what remedies cost."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from fractions import Fraction
from typing import Any

from tests.reference.kpis.history import Reference, Unit, at, units, windowed
from tests.reference.kpis.waiting import sla_outcomes


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
