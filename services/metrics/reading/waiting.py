"""How waiting against a limit is read: replies within a threshold, agreements, the patience of callers."""

from __future__ import annotations

from services.metrics.buckets import BOUNDS, bucket_of
from services.metrics.entries import SECOND
from services.metrics.kpis.reply import NEVER
from services.metrics.reading.cells import Cells, Window
from services.metrics.reading.figures import Figures, Reader, own, ratio, reads
from services.metrics.reading.question import DAY, Fetch, Query

DEFAULT_THRESHOLD = 900 * SECOND


def _within_fetches(query: Query) -> list[Fetch]:
    threshold = query.threshold or DEFAULT_THRESHOLD
    if not _by_business(query):
        return reads(query, "reply_within_ratio", threshold=threshold)
    back = _lookback(query)
    borders = (query.start - back, query.end)
    return [Fetch("", ("reply_within_ratio",), borders, query.group_by, query.filters, members=True, instants=True)]


def _lookback(query: Query) -> int:
    """How long before a window an opening may lie whose reply or due time falls into it."""
    threshold = query.threshold or DEFAULT_THRESHOLD
    return max(60 * DAY, 8 * threshold) if _by_business(query) else threshold


def _by_business(query: Query) -> bool:
    return query.parameters.get("clock") == "business" and bool(query.rules.schedules)


def landing(query: Query, opened_at: int, member: str) -> tuple[int | None, bool]:
    """Return where an opening counts for the threshold asked for (its reply or its due time), and whether in time."""
    threshold = query.threshold or DEFAULT_THRESHOLD
    business = query.parameters.get("clock") == "business"
    due = query.rules.after(opened_at, threshold) if business else opened_at + threshold
    replied = None if member == NEVER else int(member)
    if replied is not None and (due is None or replied <= due):
        return replied, True
    return (due if due is not None and due <= query.now else None), False


def lands_within(query: Query, opened_at: int, member: str) -> bool:
    """Tell whether an opening counts in the span of the query."""
    at, _ = landing(query, opened_at, member)
    return at is not None and query.start <= at < query.end


def _within(query: Query, cells: Cells, window: Window) -> Figures:
    if not _by_business(query):
        found = cells.histogram("reply_within_ratio").buckets
        hits, misses = found.get(1, (0, 0))[0], found.get(0, (0, 0))[0]
        return ratio(hits, hits + misses)
    hits = misses = 0
    for row in cells.rows:
        at, in_time = landing(query, row.window, row.member)
        if at is not None and window.start <= at < window.end:
            hits += row.n if in_time else 0
            misses += 0 if in_time else row.n
    return ratio(hits, hits + misses)


def _sla(query: Query, cells: Cells, window: Window) -> Figures:
    variant = query.parameters.get("variant")
    if variant is None:
        return ratio(cells.total("sla_attainment_ratio"), cells.n("sla_attainment_ratio"))
    n, total = cells.members.get("sla_attainment_ratio", {}).get(variant, (0, 0))
    return ratio(total, n)


def _patience(query: Query, cells: Cells, window: Window) -> Figures:
    """Kaplan–Meier over the histogram: at each bucket those who gave up, of those still waiting."""
    limit = query.threshold or 600 * SECOND
    buckets = sorted(cells.histogram("patience_600s_ratio").buckets.items())
    at_risk = sum(n for _, (n, _) in buckets)
    count, survival, gave_up = at_risk, 1.0, 0
    for index, (n, quit_here) in buckets:
        if at_risk <= 0 or BOUNDS[index] > BOUNDS[bucket_of(limit)]:
            break
        survival *= 1 - quit_here / at_risk
        gave_up += quit_here
        at_risk -= n
    value = None if count == 0 else 1 - survival
    return Figures(gave_up, count, count, value)


READERS: dict[str, Reader] = {
    "reply_within_ratio": Reader(_within_fetches, _within),
    "sla_attainment_ratio": Reader(lambda q: reads(q, "sla_attainment_ratio", members=True), _sla),
    "patience_600s_ratio": Reader(own, _patience),
}
