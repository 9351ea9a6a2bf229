"""From sums of contributions to the figures of a KPI: totals are pooled, ratios divided last, 0/0 is null.

A `Reader` names the series it needs (`fetches`) and makes figures out of what came back (`figures`); it does no I/O.
The same figures function makes a point, a group and the total, each from the sums of its own window, so a total can
never be an average of averages.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from services.metrics.buckets import BOUNDS, NO_BUCKET, Histogram, bucket_of
from services.metrics.business import Rules
from services.metrics.entries import SECOND
from services.metrics.kpis.definition import Definition, Shape
from services.metrics.kpis.money import per_major
from services.metrics.kpis.reply import NEVER
from services.metrics.windows import edges, hour_of_day, year_before

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


class Row(NamedTuple):
    """One sum as read. `window` is an instant in µs where the fetch asked for instants."""

    fetch: str
    series: str
    window: int
    group: tuple[str | None, ...]
    bucket: int
    member: str
    n: int
    total: int


class Window(NamedTuple):
    """[start, end) in µs, and the latest instant that has come (its end, or now)."""

    start: int
    end: int
    reached: int


class Cells:
    """The sums of one window and group, by series: to be read by a figures function."""

    __slots__ = ("before", "buckets", "members", "members_before", "rows")

    def __init__(self) -> None:
        self.buckets: dict[str, Histogram] = {}
        self.members: dict[str, dict[str, tuple[int, int]]] = {}
        self.before: dict[str, tuple[int, int]] = {}
        self.members_before: dict[str, dict[str, tuple[int, int]]] = {}
        self.rows: list[Row] = []

    def add(self, series: str, row: Row) -> None:
        """Add a sum to this window."""
        self.buckets.setdefault(series, Histogram()).add(row.bucket, row.n, row.total)
        if row.member:
            _put(self.members.setdefault(series, {}), row.member, row.n, row.total)

    def add_before(self, series: str, row: Row) -> None:
        """Add a sum that lies before this window."""
        n, total = self.before.get(series, (0, 0))
        self.before[series] = (n + row.n, total + row.total)
        if row.member:
            _put(self.members_before.setdefault(series, {}), row.member, row.n, row.total)

    def n(self, series: str) -> int:
        """Return Σn in the window."""
        found = self.buckets.get(series)
        return sum(n for n, _ in found.buckets.values()) if found else 0

    def total(self, series: str) -> int:
        """Return Σtotal in the window."""
        found = self.buckets.get(series)
        return sum(total for _, total in found.buckets.values()) if found else 0

    def histogram(self, series: str) -> Histogram:
        """Return the histogram of the window."""
        return self.buckets.get(series) or Histogram()

    def distinct(self, *series: str) -> set[str]:
        """Return the members that count in the window, of any of the series."""
        return {m for name in series for m, (n, _) in self.members.get(name, {}).items() if n > 0}

    def level(self, series: str) -> int:
        """Return the level at the window's end."""
        return self.before.get(series, (0, 0))[0] + self.n(series)

    def integral(self, series: str, window: Window) -> int:
        """Return the level summed over [start, reached)."""
        if window.reached <= window.start:
            return 0
        n, total = self.before.get(series, (0, 0))
        at_start = n * window.start - total
        at_end = (n + self.n(series)) * window.reached - (total + self.total(series))
        return at_end - at_start


def _put(members: dict[str, tuple[int, int]], member: str, n: int, total: int) -> None:
    old = members.get(member, (0, 0))
    members[member] = (old[0] + n, old[1] + total)


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
    deviation: float | None = None
    """Standard deviation of one value, from the histogram."""
    extra: Mapping[str, Any] = field(default_factory=dict)


def quotient(numerator: float | None, denominator: float | None) -> float | None:
    """Divide; None for 0/0 and whatever has no denominator."""
    return None if numerator is None or not denominator else numerator / denominator


def _ratio(numerator: float, denominator: float, count: int | None = None, **extra: Any) -> Figures:
    value = quotient(numerator, denominator)
    return Figures(_plain(numerator), _plain(denominator), int(denominator) if count is None else count, value,
                   extra=extra)  # fmt: skip


def _plain(number: float) -> float:
    return int(number) if float(number).is_integer() else number


@dataclass(frozen=True)
class Reader:
    """How one KPI is read."""

    fetches: Callable[[Query], Sequence[Fetch]]
    figures: Callable[[Query, Cells, Window], Figures]


def _own(query: Query, **options: Any) -> list[Fetch]:
    return [Fetch("", (query.series(),), query.edges, query.group_by, query.filters, **options)]


def _reads(query: Query, *series: str, **options: Any) -> list[Fetch]:
    return [Fetch("", series, query.edges, query.group_by, query.filters, **options)]


# Plain shapes


def _count_figures(query: Query, cells: Cells, window: Window) -> Figures:
    n = cells.n(query.series())
    return Figures(n, n, n, n)


def _ratio_figures(query: Query, cells: Cells, window: Window) -> Figures:
    series = query.series()
    found = _ratio(cells.total(series), cells.n(series))
    classes = _classes(cells, series)
    return replace(found, extra={"distribution": classes}) if classes else found


def _classes(cells: Cells, series: str) -> dict[str, int]:
    found = cells.histogram(series).buckets
    return {str(b): n for b, (n, _) in sorted(found.items()) if b != NO_BUCKET and n}


def _mean_figures(query: Query, cells: Cells, window: Window) -> Figures:
    series = query.series()
    n, total = cells.n(series), cells.total(series)
    timed = query.definition.unit == "s" or series.endswith("time_to_callback")
    if series == "transfer_ratio:mean":
        total *= SECOND
    found = _ratio(total / SECOND, n, n)
    histogram = cells.histogram(series)
    if not timed:
        classes = _classes(cells, series)
        return replace(found, deviation=_s(histogram.deviation()), extra={"distribution": classes} if classes else {})
    return replace(
        found,
        p50=_s(histogram.quantile(0.5)),
        p90=_s(histogram.quantile(0.9)),
        min=_s(histogram.lowest()),
        max=_s(histogram.highest()),
        deviation=_s(histogram.deviation()),
        extra=_shares(query, histogram, n),
    )


def _shares(query: Query, histogram: Histogram, n: int) -> dict[str, Any]:
    if query.definition.id != "channel_switch_wait":
        return {}
    long = n - histogram.at_most(3600 * SECOND - 1)
    return {"share_3600s": quotient(long, n), "count_3600s": long}


def _s(value: float | None) -> float | None:
    return None if value is None else _plain(value / SECOND)


# Volume


def _resolutions(query: Query, cells: Cells, window: Window) -> Figures:
    distinct = query.parameters.get("variant") == "distinct"
    n = len(cells.distinct("resolutions")) if distinct else cells.n("resolutions")
    return Figures(n, n, n, n)


def _backlog(query: Query, cells: Cells, window: Window) -> Figures:
    open_now = cells.level("backlog")
    since = dict(cells.members_before.get("backlog", {}))
    for member, (n, total) in cells.members.get("backlog", {}).items():
        _put(since, member, n, total)
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
        *_reads(query, "backlog", members=True, before=True),
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
        return _ratio(len(cells.distinct("contact_customers")), len(cells.distinct("all/contact_customers")))
    return _ratio(cells.n("contacts"), cells.n("all/contacts"))


def _growth_fetches(query: Query) -> list[Fetch]:
    before = tuple(year_before(at, query.zone) for at in query.edges)
    return [
        *_reads(query, "contacts"),
        Fetch("last", ("contacts",), before, query.group_by, query.filters),
    ]


def _growth(query: Query, cells: Cells, window: Window) -> Figures:
    now, last = cells.n("contacts"), cells.n("last/contacts")
    return _ratio(now - last, last, now)


# Replies


def _within_fetches(query: Query) -> list[Fetch]:
    threshold = query.threshold or DEFAULT_THRESHOLD
    if not _by_business(query):
        return _reads(query, "reply_within_ratio", threshold=threshold)
    back = _lookback(query)
    borders = (query.start - back, query.end)
    return [Fetch("", ("reply_within_ratio",), borders, query.group_by, query.filters, members=True, instants=True)]


def _lookback(query: Query) -> int:
    """How long before a window an opening may lie whose reply or due time falls into it."""
    threshold = query.threshold or DEFAULT_THRESHOLD
    return max(60 * DAY, 8 * threshold) if _by_business(query) else threshold


def _by_business(query: Query) -> bool:
    return query.parameters.get("clock") == "business" and bool(query.rules.schedules)


DEFAULT_THRESHOLD = 900 * SECOND


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
        return _ratio(hits, hits + misses)
    hits = misses = 0
    for row in cells.rows:
        at, in_time = landing(query, row.window, row.member)
        if at is not None and window.start <= at < window.end:
            hits += row.n if in_time else 0
            misses += 0 if in_time else row.n
    return _ratio(hits, hits + misses)


def _sla(query: Query, cells: Cells, window: Window) -> Figures:
    variant = query.parameters.get("variant")
    if variant is None:
        return _ratio(cells.total("sla_attainment_ratio"), cells.n("sla_attainment_ratio"))
    n, total = cells.members.get("sla_attainment_ratio", {}).get(variant, (0, 0))
    return _ratio(total, n)


# Calls


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


def _escalation_fetches(query: Query) -> list[Fetch]:
    filters = dict(query.filters)
    if "from_channel" in query.parameters:
        filters["channel"] = query.parameters["from_channel"]
    return [Fetch("", _escalation_series(query), query.edges, query.group_by, filters)]


def _escalation_series(query: Query) -> tuple[str, ...]:
    to = query.parameters.get("to_channel")
    return ("escalation_ratio",) if to is None else ("escalation_ratio", f"escalation_ratio:{to}")


def _escalation(query: Query, cells: Cells, window: Window) -> Figures:
    return _ratio(cells.total(_escalation_series(query)[-1]), cells.n("escalation_ratio"))


def _mention_fetches(query: Query) -> list[Fetch]:
    return [Fetch("", (_mention_series(query),), query.edges, query.group_by, {**query.filters, "family": "social"})]


def _mention_series(query: Query) -> str:
    return f"mention_ratio:{query.parameters.get('sentiment', 'praise')}"


def _mention(query: Query, cells: Cells, window: Window) -> Figures:
    series = _mention_series(query)
    return _ratio(cells.total(series), cells.n(series))


# Levels


def _occupancy(query: Query, cells: Cells, window: Window) -> Figures:
    busy, on_queue = cells.integral("handling", window), cells.integral("on_queue", window)
    return _ratio(busy / SECOND, on_queue / SECOND, 0)


def _turnover(query: Query, cells: Cells, window: Window) -> Figures:
    left = cells.n("agent_turnover_ratio")
    span = max(0, window.reached - window.start)
    heads = cells.integral("headcount", window) / span if span else 0.0
    days = span / DAY
    found = _ratio(left * 365 / days if days else 0, heads, left)
    return replace(found, extra={"left": left})


def _turnover_fetches(query: Query) -> list[Fetch]:
    return [*_reads(query, "agent_turnover_ratio"), *_reads(query, "headcount", before=True)]


def _efficiency(query: Query, cells: Cells, window: Window) -> Figures:
    solved = cells.total("standing_resolutions")
    return _ratio(solved, cells.integral("signed_in", window) / (3600 * SECOND), solved)


def _efficiency_fetches(query: Query) -> list[Fetch]:
    return [*_reads(query, "standing_resolutions"), *_reads(query, "signed_in", before=True)]


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
    return _ratio(opened / SECOND, promised / SECOND, 0)


def _availability_fetches(query: Query) -> list[Fetch]:
    borders = (min(0, query.start), query.end)
    group, filters = query.group_by, query.filters
    return [Fetch("", ("channel_availability_ratio",), borders, group, filters, members=True, instants=True)]


# Distinct members


def _blocked(query: Query, cells: Cells, window: Window) -> Figures:
    blocked = cells.distinct("system_blocked_ratio")
    return _ratio(len(blocked), len(blocked | cells.distinct("agents_active")))


def _portal(query: Query, cells: Cells, window: Window) -> Figures:
    viewing = cells.distinct("portal_adoption_ratio")
    return _ratio(len(viewing), len(viewing | cells.distinct("contact_customers")))


def _channels_fetches(query: Query) -> list[Fetch]:
    group = (*query.group_by, "channel")
    return [Fetch("by channel", ("contact_customers",), query.edges, group, query.filters, members=True)]


def _channels(query: Query, cells: Cells, window: Window) -> Figures:
    used: dict[str, dict[str | None, int]] = {}
    for row in cells.rows:
        channels = used.setdefault(row.member, {})
        channels[row.group[-1]] = channels.get(row.group[-1], 0) + row.n
    counts = [sum(n > 0 for n in channels.values()) for channels in used.values()]
    customers = sum(count > 0 for count in counts)
    by_count = {str(n): counts.count(n) for n in sorted(set(counts)) if n}
    return _ratio(sum(3 <= count <= 5 for count in counts), customers, customers, distribution=by_count)


def _churn(query: Query, cells: Cells, window: Window) -> Figures:
    before = cells.members_before.get("customer_base", {})
    base = {member for member, (n, _) in before.items() if n > 0}
    inside = cells.members.get("customer_base", {})
    if query.parameters.get("variant") == "net":
        return _ratio(-sum(n for n, _ in inside.values()), len(base), len(base))
    lost = sum(before[m][0] + inside[m][0] <= 0 for m in base if m in inside)
    started = sum(1 for m, (n, _) in inside.items() if m not in base and n > 0)
    return _ratio(lost, len(base), len(base), new=started)


def _after_bad(query: Query, cells: Cells, window: Window) -> Figures:
    members = cells.members.get("churn_after_bad_ratio", {})
    customers = [total for n, total in members.values() if n > 0]
    return _ratio(sum(total > 0 for total in customers), len(customers))


def _nps(query: Query, cells: Cells, window: Window) -> Figures:
    n = cells.n("nps")
    found = _ratio(100 * cells.total("nps"), n, n, distribution=_classes(cells, "nps"))
    deviation = cells.histogram("nps").deviation()
    return replace(found, deviation=None if deviation is None else 100 * deviation)


# Money


def currency_of(query: Query) -> str:
    """Return the currency asked for; the route has filled it in."""
    return query.parameters.get("currency", "EUR")


def _cost(query: Query, cells: Cells, denominator: float) -> Figures:
    currency = currency_of(query)
    found = _ratio(cells.total(f"cost:{currency}") / per_major(currency), denominator)
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
        return _reads(query, f"cost:{currency}", f"{other}:{currency}" if other == "revenue" else other)

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
    return _reads(query, *series, members=True)


SPECIAL: dict[str, Reader] = {
    "resolutions": Reader(
        lambda q: _reads(q, "resolutions", members=q.parameters.get("variant") == "distinct"), _resolutions
    ),
    "backlog": Reader(_backlog_fetches, _backlog),
    "arrivals_by_hour": Reader(_arrivals_fetches, _arrivals),
    "channel_mix_ratio": Reader(_mix_fetches, _mix),
    "channel_growth_ratio": Reader(_growth_fetches, _growth),
    "reply_within_ratio": Reader(_within_fetches, _within),
    "sla_attainment_ratio": Reader(lambda q: _reads(q, "sla_attainment_ratio", members=True), _sla),
    "escalation_ratio": Reader(_escalation_fetches, _escalation),
    "patience_600s_ratio": Reader(_own, _patience),
    "mention_ratio": Reader(_mention_fetches, _mention),
    "occupancy": Reader(lambda q: _reads(q, "handling", "on_queue", before=True), _occupancy),
    "channel_availability_ratio": Reader(_availability_fetches, _availability),
    "agent_turnover_ratio": Reader(_turnover_fetches, _turnover),
    "agent_efficiency": Reader(_efficiency_fetches, _efficiency),
    "system_blocked_ratio": Reader(
        lambda q: _reads(q, "system_blocked_ratio", "agents_active", members=True), _blocked
    ),
    "portal_adoption_ratio": Reader(
        lambda q: _reads(q, "portal_adoption_ratio", "contact_customers", members=True), _portal
    ),
    "multichannel_3to5_ratio": Reader(_channels_fetches, _channels),
    "customer_churn_ratio": Reader(lambda q: _reads(q, "customer_base", members=True, before=True), _churn),
    "churn_after_bad_ratio": Reader(lambda q: _own(q, members=True), _after_bad),
    "nps": Reader(_own, _nps),
    "cost_per_contact": Reader(_cost_fetches("conversations_opened"), _per_contact),
    "cost_per_resolution": Reader(_cost_fetches("standing_resolutions"), _per_resolution),
    "cost_per_minute": Reader(_cost_fetches("handle_minutes"), _per_minute),
    "cost_to_revenue_ratio": Reader(_cost_fetches("revenue"), _to_revenue),
    "spend_after_ratio": Reader(_spend_fetches, _spend),
}

_PLAIN = {
    Shape.counted: Reader(_own, _count_figures),
    Shape.ratio: Reader(_own, _ratio_figures),
    Shape.mean: Reader(_own, _mean_figures),
}

_MEANS = frozenset({"transfer_ratio:mean", "callback_ratio:time_to_callback"})


def reader_of(query: Query) -> Reader:
    """Return how the KPI of `query` is read."""
    if query.series().removesuffix(":business") in _MEANS:
        return _PLAIN[Shape.mean]
    special = SPECIAL.get(query.definition.id)
    return special or _PLAIN[query.definition.shape]


RAW = frozenset({"arrivals_by_hour", "reply_within_ratio", "channel_availability_ratio", "multichannel_3to5_ratio"})
"""KPIs whose figures need the rows themselves."""


class Point(NamedTuple):
    """One window of one group."""

    start: int
    end: int
    group: dict[str, str | None]
    figures: Figures


class Answer(NamedTuple):
    """The points of a query and its pooled total."""

    points: list[Point]
    total: Point


def answer(query: Query, rows: Iterable[Row]) -> Answer:
    """Make the answer of `query` out of what its fetches brought."""
    reader = reader_of(query)
    sheet = _Sheet(query, {fetch.name: fetch for fetch in reader.fetches(query)})
    for row in rows:
        sheet.add(row)
    points = [
        Point(
            window.start,
            window.end,
            dict(zip(query.group_by, group, strict=False)),
            reader.figures(query, cells, window),
        )
        for group in sheet.groups()
        for window, cells in zip(_windows(query), sheet.windows(group), strict=True)
    ]
    if query.group_by:
        points.sort(key=lambda p: (p.start, [(v is None, v or "") for v in p.group.values()]))
    whole = Window(query.start, query.end, max(query.start, min(query.end, query.now)))
    total = reader.figures(query, sheet.total(), whole)
    return Answer(points, Point(query.start, query.end, {}, total))


def labels(query: Query, group: tuple[str | None, ...]) -> dict[str, str | None]:
    """Return a group's values by dimension."""
    return dict(zip(query.group_by, group, strict=False))


def _windows(query: Query) -> list[Window]:
    borders = zip(query.edges, query.edges[1:], strict=False)
    return [Window(start, end, max(start, min(end, query.now))) for start, end in borders]


Group = tuple[str | None, ...]


class _Sheet:
    """Rows sorted into the cells of groups and windows."""

    def __init__(self, query: Query, fetches: Mapping[str, Fetch]) -> None:
        self.query = query
        self.fetches = fetches
        self.raw = query.definition.id in RAW and all(fetch.threshold is None for fetch in fetches.values())
        self.levels = any(fetch.before for fetch in fetches.values())
        self.everywhere = any(fetch.instants for fetch in fetches.values())
        """Whether each row may matter to every window (its own instant decides)."""
        self.own: dict[Group, dict[int, list[tuple[str, Row]]]] = {}
        self.shared: dict[Group, dict[int, list[tuple[str, Row]]]] = {}
        """What every group with the same values elsewhere is compared to (fetch "all")."""

    def add(self, row: Row) -> None:
        """Put a row where it belongs; a series of the fetches "last" and "all" is named with them."""
        name = f"{row.fetch}/{row.series}" if row.fetch in ("last", "all") else row.series
        index = 0 if self.everywhere else row.window
        if self.query.definition.id == "arrivals_by_hour":
            row = row._replace(window=self.fetches[row.fetch].edges[row.window])
            index = bisect_right(self.query.edges, row.window) - 1
        place = self.shared if row.fetch == "all" else self.own
        group = row.group[: len(self.query.group_by)]
        place.setdefault(group, {}).setdefault(index, []).append((name, row))

    def groups(self) -> list[Group]:
        """Return the groups to show: all that have anything, and without grouping the one that is everything."""
        return list(self.own) if self.query.group_by else [()]

    def windows(self, group: Group) -> Iterator[Cells]:
        """Yield the cells of each window of a group, in order."""
        own = self.own.get(group, {})
        over = tuple(
            None if name in ("channel", "family") else value
            for name, value in zip(self.query.group_by, group, strict=False)
        )
        running = Cells()
        self._put_before(running, own.get(-1, ()))
        for index in range(len(self.query.edges) - 1):
            cells = Cells()
            cells.before, cells.members_before = running.before, running.members_before
            rows = own.get(0 if self.everywhere else index, ())
            self._put(cells, rows)
            self._put(cells, self.shared.get(over, {}).get(index, ()))
            yield cells
            if self.levels:
                self._put_before(running, rows)

    def total(self) -> Cells:
        """Return the cells of all groups and windows together."""
        cells = Cells()
        for place in (self.own, self.shared):
            for found in place.values():
                for index, rows in found.items():
                    if index < 0:
                        self._put_before(cells, rows)
                    else:
                        self._put(cells, rows)
        return cells

    def _put(self, cells: Cells, rows: Iterable[tuple[str, Row]]) -> None:
        for name, row in rows:
            if self.raw:
                cells.rows.append(row)
            else:
                cells.add(name, row)

    def _put_before(self, cells: Cells, rows: Iterable[tuple[str, Row]]) -> None:
        for name, row in rows:
            cells.add_before(name, row)
