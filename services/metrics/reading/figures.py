"""What a window comes to, and the plain shapes: counts, ratios, means. Ratios are divided last, 0/0 is null."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from services.metrics.buckets import NO_BUCKET, Histogram
from services.metrics.entries import SECOND
from services.metrics.reading.cells import Cells, Window
from services.metrics.reading.question import Fetch, Query


@dataclass(frozen=True)
class Figures:
    """What a window comes to. Times in seconds, money in major units, ratios 0–1."""

    numerator: float | None
    denominator: float | None
    count: int
    value: float | None = None
    p50: float | None = None
    p90: float | None = None
    min: float | None = None
    max: float | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    spread: Callable[[], float | None] = field(default=lambda: None, repr=False, compare=False)
    """Makes the deviation: few ask for it, and it costs as much as all the others."""

    @property
    def deviation(self) -> float | None:
        """Standard deviation of one value, from the histogram."""
        return self.spread()


def quotient(numerator: float | None, denominator: float | None) -> float | None:
    """Divide; None for 0/0 and whatever has no denominator."""
    return None if numerator is None or not denominator else numerator / denominator


def ratio(numerator: float, denominator: float, count: int | None = None, **extra: Any) -> Figures:
    """Return the figures of a quotient."""
    value = quotient(numerator, denominator)
    return Figures(plain(numerator), plain(denominator), int(denominator) if count is None else count, value,
                   extra=extra)  # fmt: skip


def plain(number: float) -> float:
    """Return a whole number as one."""
    return int(number) if float(number).is_integer() else number


@dataclass(frozen=True)
class Reader:
    """How one KPI is read."""

    fetches: Callable[[Query], Sequence[Fetch]]
    figures: Callable[[Query, Cells, Window], Figures]


def own(query: Query, **options: Any) -> list[Fetch]:
    """Return the fetch of the KPI's own series."""
    return [Fetch("", (query.series(),), query.edges, query.group_by, query.filters, **options)]


def reads(query: Query, *series: str, **options: Any) -> list[Fetch]:
    """Return the fetch of these series."""
    return [Fetch("", series, query.edges, query.group_by, query.filters, **options)]


def count_figures(query: Query, cells: Cells, window: Window) -> Figures:
    """Read a count."""
    n = cells.n(query.series())
    return Figures(n, n, n, n)


def ratio_figures(query: Query, cells: Cells, window: Window) -> Figures:
    """Read a share, with its classes where there are any."""
    series = query.series()
    found = ratio(cells.total(series), cells.n(series))
    return replace(found, extra=_distribution(cells, series))


def _distribution(cells: Cells, series: str) -> dict[str, Any]:
    found = classes(cells, series)
    return {"distribution": found} if found else {}


def classes(cells: Cells, series: str) -> dict[str, int]:
    """Return how many answers there are of each score."""
    found = cells.histogram(series).buckets
    return {str(b): n for b, (n, _) in sorted(found.items()) if b != NO_BUCKET and n}


def mean_figures(query: Query, cells: Cells, window: Window) -> Figures:
    """Read a mean, of durations with their quantiles."""
    series = query.series()
    n, total = cells.n(series), cells.total(series)
    timed = query.definition.unit == "s" or series.endswith("time_to_callback")
    if series == "transfer_ratio:mean":
        total *= SECOND
    histogram, seconds = cells.histogram(series), total / SECOND
    plain_figures = (plain(seconds), n, n, quotient(seconds, n))

    def spread() -> float | None:
        return in_seconds(histogram.deviation())

    if not timed:
        return Figures(*plain_figures, spread=spread, extra=_distribution(cells, series))
    return Figures(
        *plain_figures,
        p50=in_seconds(histogram.quantile(0.5)),
        p90=in_seconds(histogram.quantile(0.9)),
        min=in_seconds(histogram.lowest()),
        max=in_seconds(histogram.highest()),
        spread=spread,
        extra=_shares(query, histogram, n),
    )


def _shares(query: Query, histogram: Histogram, n: int) -> dict[str, Any]:
    if query.definition.id != "channel_switch_wait":
        return {}
    long = n - histogram.at_most(3600 * SECOND - 1)
    return {"share_3600s": quotient(long, n), "count_3600s": long}


def in_seconds(value: float | None) -> float | None:
    """Return µs (or millionths) as seconds (or points)."""
    return None if value is None else plain(value / SECOND)
