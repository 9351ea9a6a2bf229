"""How levels are read: their integral over a window, for occupancy, head count, hours signed in and hours open."""

from __future__ import annotations

from dataclasses import replace

from services.metrics.entries import SECOND
from services.metrics.reading.cells import Cells, Window
from services.metrics.reading.figures import Figures, Reader, ratio, reads
from services.metrics.reading.question import DAY, Fetch, Query


def _occupancy(query: Query, cells: Cells, window: Window) -> Figures:
    busy, on_queue = cells.integral("handling", window), cells.integral("on_queue", window)
    return ratio(busy / SECOND, on_queue / SECOND, 0)


def _turnover(query: Query, cells: Cells, window: Window) -> Figures:
    left = cells.n("agent_turnover_ratio")
    span = max(0, window.reached - window.start)
    heads = cells.integral("headcount", window) / span if span else 0.0
    days = span / DAY
    found = ratio(left * 365 / days if days else 0, heads, left)
    return replace(found, extra={"left": left})


def _turnover_fetches(query: Query) -> list[Fetch]:
    return [*reads(query, "agent_turnover_ratio"), *reads(query, "headcount", before=True)]


def _efficiency(query: Query, cells: Cells, window: Window) -> Figures:
    solved = cells.total("standing_resolutions")
    return ratio(solved, cells.integral("signed_in", window) / (3600 * SECOND), solved)


def _efficiency_fetches(query: Query) -> list[Fetch]:
    return [*reads(query, "standing_resolutions"), *reads(query, "signed_in", before=True)]


def _availability(query: Query, cells: Cells, window: Window) -> Figures:
    """Open time of the promised time, both from the channel's first word on."""
    opened = promised = 0
    for channel in {row.member.partition("\t")[0] for row in cells.rows}:
        changes = sorted(
            (row.window, row.member.endswith("\t1"))
            for row in cells.rows
            if row.n > 0 and row.member.partition("\t")[0] == channel
        )
        for index, (at, is_open) in enumerate(changes):
            until = changes[index + 1][0] if index + 1 < len(changes) else window.reached
            start, end = max(at, window.start), min(until, window.reached)
            if end > start:
                spent = query.rules.elapsed(start, end)
                promised += spent
                opened += spent if is_open else 0
    return ratio(opened / SECOND, promised / SECOND, 0)


def _availability_fetches(query: Query) -> list[Fetch]:
    borders = (min(0, query.start), query.end)
    group, filters = query.group_by, query.filters
    return [Fetch("", ("channel_availability_ratio",), borders, group, filters, members=True, instants=True)]


READERS: dict[str, Reader] = {
    "occupancy": Reader(lambda q: reads(q, "handling", "on_queue", before=True), _occupancy),
    "channel_availability_ratio": Reader(_availability_fetches, _availability),
    "agent_turnover_ratio": Reader(_turnover_fetches, _turnover),
    "agent_efficiency": Reader(_efficiency_fetches, _efficiency),
}
