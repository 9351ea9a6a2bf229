"""What a KPI's definition is made of. Catalogue, documents, dashboards and Prometheus names are generated from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from services.metrics.buckets import Sink
from shared.business import Rules

ALL = ("channel", "family", "team", "agent", "segment", "language")
NO_AGENT = ("channel", "family", "team", "segment", "language")
TENANT = ("segment",)
TEAM = ("team",)

DAY_S = 86_400


class Entity(StrEnum):
    """What contributions are computed from, each as a whole: the unit of re-evaluation and of receipts."""

    conversation = "conversation"
    call = "call"
    survey = "survey"
    customer = "customer"
    agent = "agent"
    agent_day = "agent_day"
    money = "money"
    entry = "entry"


class Shape(StrEnum):
    """How the sums of a KPI's contributions are read."""

    counted = "counted"
    """Σn"""
    ratio = "ratio"
    """Σtotal / Σn"""
    mean = "mean"
    """Σtotal / Σn, totals in millionths (µs of a duration, millionths of a point); durations with a histogram"""
    special = "special"
    """read by a function of its own, see services/metrics/reading"""


Contribute = Callable[[Any, Rules, Sink], None]


@dataclass(frozen=True)
class Definition:
    """One KPI. `contributes` are its pure functions, by the entity they read (a KPI may be a quotient of two kinds).

    `unit` is n (count), s (seconds), 1 (ratio), p (points) or money (major units of one currency). `direction` is
    up (higher is better), down, band or none. `ttl_s` is how long after a window's end its values may still change by
    rule (they are provisional until then). `benchmark_source` are the seeds of the catalogue.
    """

    id: str
    meaning: str
    formula: str
    unit: str
    direction: str
    lands: str
    dimensions: tuple[str, ...]
    shape: Shape
    contributes: tuple[tuple[Entity, Contribute], ...] = ()
    version: int = 1
    benchmark: str | None = None
    benchmark_source: str | None = None
    parameters: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """name → allowed values; an empty tuple allows any."""
    ttl_s: int = 0
    histogram: bool = False
    """Whether its contributions carry a duration histogram (p50, p90, min, max)."""
    reads: tuple[str, ...] = ()
    """Series it reads besides its own."""

    @property
    def clocks(self) -> bool:
        """Whether there is a business-hours variant."""
        return "clock" in self.parameters


CLOCK = {"clock": ("calendar", "business")}


def timed(
    sink: Sink, rules: Rules, series: str, at: int, dims: Any, start: int, end: int, why: tuple[Any, ...] = ()
) -> None:
    """Add the duration from `start` to `end` by the calendar and, where the tenant has opening hours, by business time.

    Where it has none both clocks agree, and a reader of the business series falls back to the calendar's.
    """
    sink.time(series, at, dims, end - start, why)
    if rules.schedules:
        sink.time(f"{series}:business", at, dims, rules.elapsed(start, end), why)
