"""How amounts are read: cost over what it bought, in one currency that is never mixed with another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from services.metrics.entries import SECOND
from services.metrics.kpis.money import per_major
from services.metrics.reading.cells import Cells, Window
from services.metrics.reading.figures import Figures, Reader, quotient, ratio, reads
from services.metrics.reading.question import Fetch, Query


def currency_of(query: Query) -> str:
    """Return the currency asked for; the route has filled it in."""
    return query.parameters.get("currency", "EUR")


def _cost(query: Query, cells: Cells, denominator: float) -> Figures:
    currency = currency_of(query)
    found = ratio(cells.total(f"cost:{currency}") / per_major(currency), denominator)
    return replace(found, extra={"currency": currency})


def _per_contact(query: Query, cells: Cells, window: Window) -> Figures:
    return _cost(query, cells, cells.n("conversations_opened"))


def _per_resolution(query: Query, cells: Cells, window: Window) -> Figures:
    return _cost(query, cells, cells.n("standing_resolutions"))


def _per_minute(query: Query, cells: Cells, window: Window) -> Figures:
    return _cost(query, cells, cells.total("handle_minutes") / SECOND / 60)


def _to_revenue(query: Query, cells: Cells, window: Window) -> Figures:
    currency = currency_of(query)
    return _cost(query, cells, cells.total(f"revenue:{currency}") / per_major(currency))


def _cost_fetches(other: str) -> Callable[[Query], list[Fetch]]:
    def fetches(query: Query) -> list[Fetch]:
        currency = currency_of(query)
        return reads(query, f"cost:{currency}", f"{other}:{currency}" if other == "revenue" else other)

    return fetches


def _spend(query: Query, cells: Cells, window: Window) -> Figures:
    currency = currency_of(query)
    sides = []
    for side in ("exposed", "unexposed"):
        series = f"spend_after_ratio:{side}:{currency}"
        sides.append(quotient(cells.total(series) / per_major(currency), len(cells.distinct(series))))
    extra = {"currency": currency}
    return Figures(sides[0], sides[1], cells.n(f"spend_after_ratio:exposed:{currency}"), quotient(*sides), extra=extra)


def _spend_fetches(query: Query) -> list[Fetch]:
    currency = currency_of(query)
    series = tuple(f"spend_after_ratio:{side}:{currency}" for side in ("exposed", "unexposed"))
    return reads(query, *series, members=True)


READERS: dict[str, Reader] = {
    "cost_per_contact": Reader(_cost_fetches("conversations_opened"), _per_contact),
    "cost_per_resolution": Reader(_cost_fetches("standing_resolutions"), _per_resolution),
    "cost_per_minute": Reader(_cost_fetches("handle_minutes"), _per_minute),
    "cost_to_revenue_ratio": Reader(_cost_fetches("revenue"), _to_revenue),
    "spend_after_ratio": Reader(_spend_fetches, _spend),
}
