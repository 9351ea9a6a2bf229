"""How volumes are read: distinct resolutions, the backlog and its age, hours of the day, shares of channels, growth."""

from __future__ import annotations

import math
from collections.abc import Sequence

from services.metrics.entries import SECOND
from services.metrics.reading.cells import Cells, Window, put
from services.metrics.reading.figures import Figures, Reader, ratio, reads
from services.metrics.reading.question import Fetch, Query
from services.metrics.windows import edges, hour_of_day, year_before


def _resolutions(query: Query, cells: Cells, window: Window) -> Figures:
    distinct = query.parameters.get("variant") == "distinct"
    n = len(cells.distinct("resolutions")) if distinct else cells.n("resolutions")
    return Figures(n, n, n, n)


def _backlog(query: Query, cells: Cells, window: Window) -> Figures:
    open_now = cells.level("backlog")
    since = dict(cells.members_before.get("backlog", {}))
    for member, (n, total) in cells.members.get("backlog", {}).items():
        put(since, member, n, total)
    ages = sorted((window.reached - total // n) / SECOND for n, total in since.values() if n > 0)
    return Figures(
        open_now,
        cells.n("conversations_opened"),
        open_now,
        open_now,
        p50=_rank(ages, 0.5),
        p90=_rank(ages, 0.9),
        min=ages[0] if ages else None,
        max=ages[-1] if ages else None,
    )


def _rank(ordered: Sequence[float], q: float) -> float | None:
    return ordered[max(0, math.ceil(q * len(ordered)) - 1)] if ordered else None


def _backlog_fetches(query: Query) -> list[Fetch]:
    return [
        *reads(query, "backlog", members=True, before=True),
        Fetch("opened", ("conversations_opened",), query.edges, query.group_by, query.filters),
    ]


def _arrivals_fetches(query: Query) -> list[Fetch]:
    hours = edges(query.start, query.end, "1h", query.zone)
    borders = tuple(sorted({*hours, *query.edges}))
    return [Fetch("", ("contacts",), borders, query.group_by, query.filters)]


def _arrivals(query: Query, cells: Cells, window: Window) -> Figures:
    by_hour = {str(hour): 0 for hour in range(24)}
    for row in cells.rows:
        by_hour[str(hour_of_day(row.window, query.zone))] += row.n
    n = sum(by_hour.values())
    return Figures(n, n, n, n, extra={"distribution": by_hour})


def _mix_fetches(query: Query) -> list[Fetch]:
    distinct = query.parameters.get("variant") == "distinct"
    series = ("contact_customers",) if distinct else ("contacts",)
    over = {k: v for k, v in query.filters.items() if k not in ("channel", "family")}
    group = tuple(g if g not in ("channel", "family") else "" for g in query.group_by)
    return [
        Fetch("", series, query.edges, query.group_by, query.filters, members=distinct),
        Fetch("all", series, query.edges, group, over, members=distinct),
    ]


def _mix(query: Query, cells: Cells, window: Window) -> Figures:
    if query.parameters.get("variant") == "distinct":
        return ratio(len(cells.distinct("contact_customers")), len(cells.distinct("all/contact_customers")))
    return ratio(cells.n("contacts"), cells.n("all/contacts"))


def _growth_fetches(query: Query) -> list[Fetch]:
    before = tuple(year_before(at, query.zone) for at in query.edges)
    return [
        *reads(query, "contacts"),
        Fetch("last", ("contacts",), before, query.group_by, query.filters),
    ]


def _growth(query: Query, cells: Cells, window: Window) -> Figures:
    now, last = cells.n("contacts"), cells.n("last/contacts")
    return ratio(now - last, last, now)


READERS: dict[str, Reader] = {
    "resolutions": Reader(
        lambda q: reads(q, "resolutions", members=q.parameters.get("variant") == "distinct"), _resolutions
    ),
    "backlog": Reader(_backlog_fetches, _backlog),
    "arrivals_by_hour": Reader(_arrivals_fetches, _arrivals),
    "channel_mix_ratio": Reader(_mix_fetches, _mix),
    "channel_growth_ratio": Reader(_growth_fetches, _growth),
}
