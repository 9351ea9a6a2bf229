"""Answers as JSON and CSV, and the catalogue."""

from __future__ import annotations

import csv
import io
from typing import Any

from services.metrics.entries import SECOND, instant
from services.metrics.kpis import DEFINITIONS
from services.metrics.kpis.definition import Definition
from services.metrics.reading.answering import Answer, Point
from services.metrics.reading.question import Query
from shared.events import rfc3339

FIGURES = ("value", "numerator", "denominator", "count", "p50", "p90", "min", "max")

DIRECTIONS = {"up": "higher is better", "down": "lower is better", "band": "inside a band", "none": "neutral"}


def catalogue() -> list[dict[str, Any]]:
    """Return every definition, as `GET /v1/kpis` shows it."""
    return [describe(definition) for definition in DEFINITIONS]


def describe(definition: Definition) -> dict[str, Any]:
    """Return one definition."""
    return {
        "id": definition.id,
        "meaning": definition.meaning,
        "formula": definition.formula,
        "unit": definition.unit,
        "direction": definition.direction,
        "lands_by": definition.lands,
        "dimensions": list(definition.dimensions),
        "parameters": {name: list(values) for name, values in definition.parameters.items()},
        "benchmark": definition.benchmark,
        "benchmark_source": _sources(definition.benchmark_source),
        "provisional_s": definition.ttl_s,
        "version": definition.version,
    }


def _sources(seeds: str | None) -> str | None:
    if seeds is None:
        return None
    words = seeds.split()
    return "seed articles " + ", ".join(words) if all(word.isdigit() for word in words) else seeds


def present(query: Query, found: Answer) -> dict[str, Any]:
    """Return an answer as JSON."""
    definition = query.definition
    shown: dict[str, Any] = {
        "kpi": definition.id,
        "unit": definition.unit,
        "version": definition.version,
        "tz": str(query.zone),
        "points": [_point(query, point) for point in found.points],
        "total": _point(query, found.total),
    }
    if "currency" in query.parameters:
        shown["currency"] = query.parameters["currency"]
    return shown


def _point(query: Query, point: Point) -> dict[str, Any]:
    figures = point.figures
    shown: dict[str, Any] = {"start": rfc3339(instant(point.start)), "end": rfc3339(instant(point.end))}
    shown["group"] = point.group
    for name in FIGURES:
        shown[name] = getattr(figures, name)
    shown["provisional"] = provisional(query, point.end)
    shown.update(figures.extra)
    return shown


def provisional(query: Query, end: int) -> bool:
    """Tell whether a window's value may still change by rule: it is not over, or within the KPI's time to live."""
    return end + query.definition.ttl_s * SECOND > query.now


def as_csv(query: Query, found: Answer) -> str:
    """Return the points of an answer as CSV, one line a point; amounts of money with a column for their currency."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\r\n")
    currency = {name: query.parameters[name] for name in ("currency",) if name in query.parameters}
    writer.writerow(["kpi", "unit", *currency, "start", "end", *query.group_by, *FIGURES, "provisional"])
    for point in found.points:
        shown = _point(query, point)
        labels = [_label(point.group.get(name)) for name in query.group_by]
        figures = ["" if shown[name] is None else shown[name] for name in FIGURES]
        head = [query.definition.id, query.definition.unit, *currency.values(), shown["start"], shown["end"]]
        writer.writerow([*head, *labels, *figures, str(shown["provisional"]).lower()])
    return out.getvalue()


def _label(text: str | None) -> str:
    """Return a label as a spreadsheet may safely open it: one that looks like a formula is quoted."""
    if text is None:
        return ""
    return "'" + text if text[:1] in "=+-@\t\r" else text
