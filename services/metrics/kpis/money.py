"""What service costs and brings. Money is integers in minor units, never mixed over currencies.

An amount with a period is spread evenly over it, hour by hour, to the minor unit (the parts add up to the amount);
one without lands when it was recorded.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

from services.metrics.buckets import Dims, Sink
from services.metrics.customer import Customer
from services.metrics.entries import SECOND, Entry, micros, minor, text, when
from services.metrics.facts import DAY
from services.metrics.kpis.definition import NO_AGENT, TENANT, Definition, Entity, Shape
from shared.business import Rules

HOUR = 3600 * SECOND
_MOST_PARTS = 2000

DECIMALS = {
    "BIF": 0, "CLP": 0, "DJF": 0, "GNF": 0, "ISK": 0, "JPY": 0, "KMF": 0, "KRW": 0, "PYG": 0, "RWF": 0, "UGX": 0,
    "VND": 0, "VUV": 0, "XAF": 0, "XOF": 0, "XPF": 0, "BHD": 3, "IQD": 3, "JOD": 3, "KWD": 3, "LYD": 3, "OMR": 3,
    "TND": 3,
}  # fmt: skip
"""Digits of the minor unit where they are not two (ISO 4217)."""


def per_major(currency: str) -> int:
    """Return how many minor units make a major one."""
    return int(10 ** DECIMALS.get(currency, 2))


class Money:
    """One amount: its posting and its restatements, of which the last counts."""

    __slots__ = ("entries", "id")

    def __init__(self, id: str, entries: Sequence[Entry]) -> None:
        self.id = id
        self.entries = sorted(entries, key=lambda e: ("corrects_event_id" in e.data, e.recorded, e.order))

    @property
    def current(self) -> Entry | None:
        """The restatement recorded last, else the posting."""
        return self.entries[-1] if self.entries else None


def period_of(entry: Entry) -> tuple[int, int] | None:
    """Return the period an amount is for; a `period` may be a month, a day, or two instants."""
    start, end = when(entry.data, "period_start"), when(entry.data, "period_end")
    if start is None or end is None:
        start, end = _named_period(entry.data.get("period")) or (None, None)
    if start is None or end is None or end <= start:
        return None
    return start, end


def _named_period(period: Any) -> tuple[int, int] | None:
    if isinstance(period, dict):
        period = [period.get("start"), period.get("end")]
    if isinstance(period, list) and len(period) == 2:
        start, end = when({"at": period[0]}, "at"), when({"at": period[1]}, "at")
        return (start, end) if start is not None and end is not None else None
    if not isinstance(period, str):
        return None
    found = re.fullmatch(r"(\d{4})-(\d\d)(?:-(\d\d))?", period)
    if found is None:
        return None
    year, month, day = int(found[1]), int(found[2]), found[3]
    try:
        if day:
            start = micros(datetime(year, month, int(day), tzinfo=UTC))
            return start, start + DAY
        after = datetime(year + month // 12, month % 12 + 1, 1, tzinfo=UTC)
        return micros(datetime(year, month, 1, tzinfo=UTC)), micros(after)
    except (ValueError, OverflowError):
        return None


def spread(amount: int, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield (instant, part) of `amount` over [start, end): one part an hour (or longer), adding up to `amount`."""
    step = max(HOUR, -(-(end - start) // _MOST_PARTS // HOUR) * HOUR)
    at, given = start, 0
    while at < end:
        following = min(end, (at // step + 1) * step)
        until = amount * (following - start) // (end - start)
        if until != given:
            yield at, until - given
        at, given = following, until


def amounts(money: Money, rules: Rules, sink: Sink) -> None:
    """The parts of a cost or a revenue."""
    entry = money.current
    amount = minor(entry.data) if entry else None
    currency = text(entry.data.get("currency")) if entry else None
    if entry is None or amount is None or currency is None:
        return
    kind = "cost" if entry.type == "cost.recorded" else "revenue"
    dims = Dims(entry.channel, entry.team, None, entry.segment, entry.language)
    period = period_of(entry)
    for at, part in spread(amount, *period) if period else ((entry.at, amount),):
        sink.add(f"{kind}:{currency}", at, dims, 0, part, (entry,))


def spending(customer: Customer, rules: Rules, sink: Sink) -> None:
    """Revenue of a customer who was exposed (as told, else by self-service in the 30 days before) or was not."""
    for entry in customer.of("revenue.recorded"):
        amount, currency = minor(entry.data), text(entry.data.get("currency"))
        if amount is None or currency is None:
            continue
        told = entry.data.get("exposure")
        view = customer.view_before(entry.at, 30 * DAY)
        exposed = view is not None if told is None else told not in (False, 0, "", "none", "no", "false", "unexposed")
        side = "exposed" if exposed else "unexposed"
        series = f"spend_after_ratio:{side}:{currency}"
        sink.add(series, entry.at, customer.dims, 1, amount, (entry, view), member=customer.id)


CURRENCY: dict[str, tuple[str, ...]] = {"currency": ()}

DEFINITIONS = (
    Definition(
        "cost_per_contact", "Cost of a conversation opened", "Σ cost / conversations opened", "money", "down",
        "cost period", NO_AGENT, Shape.special, ((Entity.money, amounts),), parameters=CURRENCY,
        reads=("cost", "conversations_opened"), benchmark="named without a figure", benchmark_source="4",
    ),
    Definition(
        "cost_per_resolution", "Cost of a conversation resolved", "Σ cost / distinct resolved", "money", "down",
        "cost period", NO_AGENT, Shape.special, parameters=CURRENCY, reads=("cost", "standing_resolutions"),
        ttl_s=7 * 86_400, benchmark="15.56 (2.93–49.69)", benchmark_source="0 1",
    ),
    Definition(
        "cost_per_minute", "Cost of a minute of handling", "Σ cost / Σ handle minutes", "money", "down", "cost period",
        NO_AGENT, Shape.special, parameters=CURRENCY, reads=("cost", "handle_minutes"), benchmark="1.60",
        benchmark_source="0 1",
    ),
    Definition(
        "cost_to_revenue_ratio", "Cost of service as a share of revenue", "Σ cost / Σ revenue", "1", "down", "period",
        TENANT, Shape.special, parameters=CURRENCY, reads=("cost", "revenue"), benchmark="<10%", benchmark_source="4",
    ),
    Definition(
        "spend_after_ratio", "Revenue of an exposed customer against one who was not (a correlation)",
        "revenue per exposed / per unexposed customer", "1", "up", "revenue", TENANT, Shape.special,
        ((Entity.customer, spending),), parameters=CURRENCY, benchmark="89%, 93% spend more", benchmark_source="2",
    ),
)  # fmt: skip
