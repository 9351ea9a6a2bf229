"""Who stays, who goes, and over how many channels they come."""

from __future__ import annotations

from services.metrics.buckets import Dims, Sink
from services.metrics.customer import Customer
from services.metrics.entries import SECOND, Entry
from services.metrics.facts import DAY
from services.metrics.kpis.definition import DAY_S, TENANT, Definition, Entity, Shape
from services.metrics.kpis.resolution import sla_outcomes
from shared.business import Rules

BAD_CSAT = 2 * SECOND
BEGINNING = 0
"""Since when somebody is a customer whose start nobody posted (1970)."""


def coming_and_going(customer: Customer, rules: Rules, sink: Sink) -> None:
    """Up where a customer started, down where they churned; one who churned without a start was there all along."""
    here = False
    for index, entry in enumerate(customer.of("customer.started", "customer.churned")):
        if entry.type == "customer.started":
            if not here:
                sink.step("customer_base", entry.at, customer.dims, 1, (entry,), member=customer.id)
            here = True
            continue
        if index == 0:
            at = min(BEGINNING, entry.at - 1)
            sink.step("customer_base", at, customer.dims, 1, (entry,), member=customer.id)
            here = True
        if here:
            sink.step("customer_base", entry.at, customer.dims, -1, (entry,), member=customer.id)
        here = False


def after_bad(customer: Customer, rules: Rules, sink: Sink) -> None:
    """A bad experience (satisfaction ≤ 2 or a broken promise) and whether the customer left within 30 days."""
    bad = [(a.answered.at, a.answered, False) for a in customer.answers if a.kind == "csat" and a.points <= BAD_CSAT]
    for c in customer.conversations:
        bad.extend((at, c.opening, True) for _, at, met, _ in sla_outcomes(c, rules) if not met)
    churned = customer.of("customer.churned")
    for at, entry, due in bad:
        gone = next((e for e in churned if 0 <= e.at - at <= 30 * DAY), None)
        why = (entry, gone)
        left = int(gone is not None)
        sink.add("churn_after_bad_ratio", at, customer.dims, 1, left, why, member=customer.id, due=due)


def chosen(entry: Entry, rules: Rules, sink: Sink) -> None:
    """Whether the remedy chosen was a replacement."""
    if entry.type == "remedy.chosen":
        hit = int(entry.data.get("kind") == "replacement")
        sink.add("remedy_choice_ratio", entry.at, Dims(segment=entry.segment), 1, hit, (entry,))


DEFINITIONS = (
    Definition(
        "multichannel_3to5_ratio", "Share of customers who used three to five channels",
        "customers with 3–5 channels / customers", "1", "down", "window", TENANT, Shape.special,
        reads=("contact_customers",), benchmark="49%", benchmark_source="0 1",
    ),
    Definition(
        "customer_churn_ratio", "Share of the customers at the window's start who left in it; net: less new ones",
        "churned of starting base / starting base", "1", "down", "churned", TENANT, Shape.special,
        ((Entity.customer, coming_and_going),), parameters={"variant": ("net",)}, reads=("customer_base",),
        benchmark="below growth, stable; +5% a month", benchmark_source="4 2",
    ),
    Definition(
        "churn_after_bad_ratio", "Share of customers with a bad experience who left within 30 days",
        "churn ≤ 30 d after satisfaction ≤ 2 or a breach / such customers", "1", "down", "bad event", TENANT,
        Shape.special, ((Entity.customer, after_bad),), ttl_s=30 * DAY_S, benchmark="1 in 3; 56%",
        benchmark_source="0 1 3",
    ),
    Definition(
        "remedy_choice_ratio", "Share of the remedies chosen that were replacements", "chose replacement / chose", "1",
        "none", "chosen", TENANT, Shape.ratio, ((Entity.entry, chosen),), benchmark="named without a figure",
        benchmark_source="2",
    ),
)  # fmt: skip
