"""How it is read where contacts went on, and what people said: escalations, praise and complaint, recommendation."""

from __future__ import annotations

from dataclasses import replace

from services.metrics.reading.cells import Cells, Window
from services.metrics.reading.figures import Figures, Reader, classes, own, ratio
from services.metrics.reading.question import Fetch, Query


def _escalation_fetches(query: Query) -> list[Fetch]:
    filters = dict(query.filters)
    if "from_channel" in query.parameters:
        filters["channel"] = query.parameters["from_channel"]
    return [Fetch("", _escalation_series(query), query.edges, query.group_by, filters)]


def _escalation_series(query: Query) -> tuple[str, ...]:
    to = query.parameters.get("to_channel")
    return ("escalation_ratio",) if to is None else ("escalation_ratio", f"escalation_ratio:{to}")


def _escalation(query: Query, cells: Cells, window: Window) -> Figures:
    return ratio(cells.total(_escalation_series(query)[-1]), cells.n("escalation_ratio"))


def _mention_fetches(query: Query) -> list[Fetch]:
    return [Fetch("", (_mention_series(query),), query.edges, query.group_by, {**query.filters, "family": "social"})]


def _mention_series(query: Query) -> str:
    return f"mention_ratio:{query.parameters.get('sentiment', 'praise')}"


def _mention(query: Query, cells: Cells, window: Window) -> Figures:
    series = _mention_series(query)
    return ratio(cells.total(series), cells.n(series))


def _nps(query: Query, cells: Cells, window: Window) -> Figures:
    n = cells.n("nps")
    found = ratio(100 * cells.total("nps"), n, n, distribution=classes(cells, "nps"))
    histogram = cells.histogram("nps")
    return replace(found, spread=lambda: _hundredfold(histogram.deviation()))


def _hundredfold(score: float | None) -> float | None:
    return None if score is None else 100 * score


READERS: dict[str, Reader] = {
    "escalation_ratio": Reader(_escalation_fetches, _escalation),
    "mention_ratio": Reader(_mention_fetches, _mention),
    "nps": Reader(own, _nps),
}
