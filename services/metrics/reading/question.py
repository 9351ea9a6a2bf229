"""A question about one KPI, and what has to be read to answer it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from zoneinfo import ZoneInfo

from services.metrics.entries import SECOND
from services.metrics.kpis.definition import Definition
from shared.business import Rules

DIMENSIONS = ("channel", "family", "team", "agent", "segment", "language")

DAY = 86_400 * SECOND

_DEFAULT_VARIANTS = {"journey_start_ratio": "web"}


@dataclass(frozen=True)
class Query:
    """One question about one KPI; instants in µs. `edges` are the window borders, `now` the service's clock."""

    definition: Definition
    edges: tuple[int, ...]
    zone: ZoneInfo
    now: int
    group_by: tuple[str, ...] = ()
    filters: Mapping[str, str] = field(default_factory=dict)
    parameters: Mapping[str, str] = field(default_factory=dict)
    rules: Rules = field(default_factory=Rules)
    as_of: int | None = None

    @property
    def start(self) -> int:
        return self.edges[0]

    @property
    def end(self) -> int:
        return self.edges[-1]

    @property
    def threshold(self) -> int | None:
        """The parameter `threshold_s` in µs."""
        given = self.parameters.get("threshold_s")
        return None if given is None else round(float(given) * SECOND)

    def series(self) -> str:
        """Return the KPI's own series for the variant and clock asked for."""
        name = self.definition.id
        variant = self.parameters.get("variant", _DEFAULT_VARIANTS.get(name))
        if variant is not None:
            name += f":{variant}"
        if self.parameters.get("clock") == "business" and self.rules.schedules:
            name += ":business"
        return name


@dataclass(frozen=True)
class Fetch:
    """What to read: sums by (series, window, group, bucket), and by member where `members`.

    Windows are counted from 0; with `before`, everything before the first border is window −1. `name` tells two
    fetches of one query apart; a series that ends in `*` stands for all that begin so.
    """

    name: str
    series: tuple[str, ...]
    edges: tuple[int, ...]
    group_by: tuple[str, ...]
    filters: Mapping[str, str]
    members: bool = False
    before: bool = False
    instants: bool = False
    """Whether each contribution's own instant is wanted (in place of its window)."""
    threshold: int | None = None
    """Of openings: they land at their reply or, after this many µs, when due; bucket 1 is in time, bucket 0 late."""
