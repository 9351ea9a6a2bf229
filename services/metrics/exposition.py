"""KPIs as Prometheus and OpenMetrics text, for one tenant (the key's).

- counters and histograms are facts in the order they arrived (they never fall): `cs_<id>_total`, and
  `cs_<id>_arrival_seconds`, since a name cannot be both a gauge and a histogram;
- windowed values are gauges that corrections move: `cs_<id>[_seconds|_ratio]{channel,window}` with `_numerator` and
  `_denominator`; the value of 0/0 is left out;
- `channel` is `all`, a family, or one of the eight busiest channels. Team, agent, segment and language are in the JSON
  only: the number of series must not grow with them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from zoneinfo import ZoneInfo

import asyncpg
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder

from services.metrics import kept, sums
from services.metrics.buckets import EXACT_S, bucket_of
from services.metrics.entries import SECOND
from services.metrics.kpis import BY_ID, DEFINITIONS
from services.metrics.kpis.definition import Definition, Shape
from services.metrics.reading.answering import Answer, reader_of
from services.metrics.reading.answering import answer as answer_of
from services.metrics.reading.cells import Row
from services.metrics.reading.question import Fetch, Query
from shared.business import Rules
from shared.database.engine import tenant_reader
from shared.events import family_of
from shared.log.database import Connection

WINDOWS = {"1h": 3600, "24h": 86_400, "7d": 604_800}
BUSIEST = 8
FAMILY_LABELS = ("chat", "email", "phone", "social", "self_service")

ARRIVALS = "SELECT kpi, channel, bucket, n, total FROM metrics.arrival WHERE tenant_id = $1"
CORRECTIONS = "SELECT kpi, reason, n FROM metrics.correction WHERE tenant_id = $1"
LATEST = "SELECT latest_at, recorded_at, late FROM metrics.tenant WHERE tenant_id = $1"
DRIFT = "SELECT checked_at, entities_checked, entities_wrong FROM metrics.drift WHERE tenant_id = $1"


def gauge_name(definition: Definition) -> str:
    """Return the name of a KPI's windowed gauge: in base units, ratios 0–1."""
    name = f"cs_{definition.id}"
    if definition.unit == "s" and not name.endswith("_seconds"):
        return f"{name}_seconds"
    if definition.unit == "1" and not name.endswith("_ratio"):
        return f"{name}_ratio"
    return name


def counts_arrivals(definition: Definition) -> bool:
    """Whether the KPI has a counter of facts in arrival order."""
    return definition.shape is Shape.counted or definition.id == "resolutions"


@dataclass(frozen=True)
class Snapshot:
    """What one scrape shows of a tenant."""

    gauges: Sequence[tuple[Definition, str, str, Answer]]
    """(definition, window, channel, answer)"""
    arrivals: Mapping[tuple[str, str], Mapping[int, tuple[int, int]]]
    corrections: Sequence[tuple[str, str, int]]
    watermark_s: float | None
    recorded_s: float | None
    late: int
    drift: tuple[float, int, int] | None = None
    currency: str = "EUR"
    extra: Sequence[Metric] = field(default_factory=tuple)


async def snapshot(pool: asyncpg.Pool, tenant: str, now: int) -> Snapshot:
    """Read everything a scrape of this tenant shows, from one snapshot of the database."""
    async with tenant_reader(pool, tenant) as connection:
        rules = await sums.rules_of(connection, tenant)
        currency = next(iter(await sums.currencies(connection, tenant)), "EUR")
        gauges = [
            gauge
            for window, length_s in WINDOWS.items()
            for gauge in await _gauges(connection, tenant, rules, now, window, length_s * SECOND, currency)
        ]
        arrivals: dict[tuple[str, str], dict[int, tuple[int, int]]] = {}
        for kpi, channel, bucket, n, total in await connection.fetch(ARRIVALS, tenant):
            arrivals.setdefault((kpi, channel), {})[bucket] = (n, int(total))
        corrections = [tuple(row) for row in await connection.fetch(CORRECTIONS, tenant)]
        seen = await connection.fetchrow(LATEST, tenant)
        drift = await connection.fetchrow(DRIFT, tenant)
    return Snapshot(
        gauges,
        arrivals,
        corrections,
        seen["latest_at"].timestamp() if seen and seen["latest_at"] else None,
        seen["recorded_at"].timestamp() if seen and seen["recorded_at"] else None,
        seen["late"] if seen else 0,
        (drift["checked_at"].timestamp(), drift["entities_checked"], drift["entities_wrong"]) if drift else None,
        currency,
    )


async def _gauges(
    connection: Connection, tenant: str, rules: Rules, now: int, window: str, length: int, currency: str
) -> list[tuple[Definition, str, str, Answer]]:
    """Return the windowed values: all KPIs in total, and by family and busiest channel where they have one."""
    base = Query(BY_ID["messages_received"], (now - length, now + 1), ZoneInfo("UTC"), now, rules=rules)
    total = {d.id: replace(base, definition=d, parameters=_defaults(d, currency)) for d in DEFINITIONS}
    by_channel = {d.id: replace(total[d.id], group_by=("channel",)) for d in DEFINITIONS if "channel" in d.dimensions}
    by_family = {d: replace(q, group_by=("family",)) for d, q in by_channel.items()}
    queries = [*total.values(), *by_channel.values(), *by_family.values()]
    answers = iter(await ask_together(connection, tenant, queries))
    found = [(d, window, "all", next(answers)) for d in DEFINITIONS]
    split = {kpi: next(answers) for kpi in by_channel}
    busiest = _busiest(split["messages_received"])
    for kpi in by_family:
        found += [(BY_ID[kpi], window, name, one) for name, one in _split(next(answers), "family", FAMILY_LABELS)]
        found += [(BY_ID[kpi], window, name, one) for name, one in _split(split[kpi], "channel", busiest)]
    return found


def _defaults(definition: Definition, currency: str) -> dict[str, str]:
    return {"currency": currency} if "currency" in definition.parameters else {}


def _busiest(received: Answer) -> list[str]:
    """Return the busiest channels whose name is not a family's: a family's series shows those."""
    counts = {p.group["channel"] or "": p.figures.count for p in received.points}
    names = sorted((c for c in counts if c and c not in FAMILY_LABELS), key=lambda c: (-counts[c], c))
    return names[:BUSIEST]


def _split(answer: Answer, dimension: str, names: Iterable[str]) -> Iterator[tuple[str, Answer]]:
    wanted = set(names)
    for point in answer.points:
        name = point.group[dimension]
        if name in wanted:
            yield str(name), Answer([point], point)


async def ask_together(connection: Connection, tenant: str, queries: Sequence[Query]) -> list[Answer]:
    """Answer queries of one span, with one statement for all whose fetches are alike.

    Sums by hour are read once by channel, whatever they are grouped by.
    """
    alike: dict[tuple[Any, ...], list[tuple[int, Fetch]]] = {}
    for i, query in enumerate(queries):
        for fetch in reader_of(query).fetches(query):
            alike.setdefault(_kind(fetch), []).append((i, fetch))
    found: list[list[Row]] = [[] for _ in queries]
    for group in alike.values():
        names = sorted({series for _, fetch in group for series in fetch.series})
        joined = replace(group[0][1], series=tuple(names))
        read = await _read(connection, tenant, joined, queries[0].now)
        for i, fetch in group:
            for series in fetch.series:
                found[i] += read(fetch, series)
    return [answer_of(query, rows) for query, rows in zip(queries, found, strict=True)]


def _kind(fetch: Fetch) -> tuple[Any, ...]:
    filters = tuple(fetch.filters.items())
    if kept.covers(fetch, None):
        return "by hour", fetch.edges, filters, fetch.before
    return fetch.edges, fetch.group_by, filters, fetch.members, fetch.before, fetch.instants, fetch.threshold


async def _read(connection: Connection, tenant: str, joined: Fetch, now: int) -> Callable[[Fetch, str], list[Row]]:
    """Read what many fetches ask for; return how one of them takes its part of a series."""
    if kept.covers(joined, None):
        hours: dict[str, list[kept.Sums]] = {}
        for one in await kept.by_channel(connection, tenant, joined, now):
            hours.setdefault(one.series, []).append(one)
        return lambda fetch, series: kept.grouped(fetch, hours.get(series, ()))
    rows: dict[str, list[Row]] = {}
    for row in await sums.rows(connection, tenant, joined, now, None):
        rows.setdefault(row.series, []).append(row)
    return lambda fetch, series: [row._replace(fetch=fetch.name) for row in rows.get(series, ())]


# Text


class Families:
    """A collector of metric families made before."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = list(families)

    def collect(self) -> Iterator[Metric]:
        """Yield them."""
        yield from self._families


def encode(snapshot: Snapshot | None, service: CollectorRegistry | None, accept: str) -> tuple[bytes, str]:
    """Return the exposition and its content type, as the `Accept` header asks."""
    registry = CollectorRegistry()
    if snapshot is not None:
        registry.register(Families(families_of(snapshot)))
    encoder, content_type = choose_encoder(accept)
    body: bytes = encoder(registry)
    if service is not None:
        own: bytes = encoder(service)
        # OpenMetrics ends with one `# EOF`.
        body = body.removesuffix(b"# EOF\n") + own
    return body, content_type


def families_of(snapshot: Snapshot) -> Iterator[Metric]:
    """Yield the metric families of a tenant's KPIs."""
    by_kpi: dict[str, list[tuple[str, str, Answer]]] = {}
    for definition, window, channel, answer in snapshot.gauges:
        by_kpi.setdefault(definition.id, []).append((window, channel, answer))
    for definition in DEFINITIONS:
        yield from _gauge_families(definition, by_kpi.get(definition.id, ()), snapshot.currency)
        if counts_arrivals(definition):
            yield _counter(definition, snapshot.arrivals)
        elif definition.histogram:
            yield _histogram(definition, snapshot.arrivals)
    corrections = CounterMetricFamily(
        "cs_corrections", "Contributions counted before and corrected since, by cause.", labels=("kpi", "reason")
    )
    for kpi, reason, n in snapshot.corrections:
        corrections.add_metric((kpi, reason), n)
    yield corrections
    yield CounterMetricFamily("cs_late", "Events more than 35 days behind the watermark.", value=snapshot.late)
    if snapshot.watermark_s is not None:
        help_text = "Event time of the latest entry counted, seconds since 1970."
        yield GaugeMetricFamily("cs_watermark_timestamp_seconds", help_text, value=snapshot.watermark_s)
    if snapshot.recorded_s is not None:
        help_text = "When the newest entry counted was put on its timeline, seconds since 1970."
        yield GaugeMetricFamily("cs_recorded_timestamp_seconds", help_text, value=snapshot.recorded_s)
    if snapshot.drift is not None:
        checked_at, checked, wrong = snapshot.drift
        yield GaugeMetricFamily("cs_drift_entities", "Entities whose KPIs differ from the recount.", value=wrong)
        yield GaugeMetricFamily("cs_drift_checked_entities", "Entities the last drift check recounted.", value=checked)
        help_text = "When the last drift check ended, seconds since 1970."
        yield GaugeMetricFamily("cs_drift_checked_timestamp_seconds", help_text, value=checked_at)


def _gauge_families(
    definition: Definition, found: Iterable[tuple[str, str, Answer]], currency: str
) -> Iterator[GaugeMetricFamily]:
    name, text = gauge_name(definition), f"{definition.meaning}."
    money = definition.unit == "money"
    labels = ("channel", "window", "currency") if money else ("channel", "window")
    parts = {
        "": GaugeMetricFamily(name, text, labels=labels),
        "_numerator": GaugeMetricFamily(f"{name}_numerator", f"Numerator of: {text}", labels=labels),
        "_denominator": GaugeMetricFamily(f"{name}_denominator", f"Denominator of: {text}", labels=labels),
    }
    spread = _spread_names(definition)
    for figure, spread_name in spread.items():
        help_text = f"{_SPREAD[figure]} of: {text}"
        parts[figure] = GaugeMetricFamily(spread_name, help_text, labels=labels)
    if counts_arrivals(definition):
        del parts[""]  # the counter has this name
    for window, channel, answer in found:
        figures = answer.total.figures
        place = (channel, window, currency) if money else (channel, window)
        shown = {"": figures.value, "_numerator": figures.numerator, "_denominator": figures.denominator}
        for suffix, value in (*shown.items(), *((figure, getattr(figures, figure)) for figure in spread)):
            if value is not None and suffix in parts:
                parts[suffix].add_metric(place, value)
    yield from parts.values()


_SPREAD = {"p50": "Median", "p90": "90th percentile", "max": "Maximum"}


def _spread_names(definition: Definition) -> dict[str, str]:
    """Return the names of the gauges of a duration's spread; of the backlog, of the ages."""
    base = "cs_backlog_age" if definition.id == "backlog" else gauge_name(definition).removesuffix("_seconds")
    if not definition.histogram and definition.id != "backlog":
        return {}
    return {figure: f"{base}_{figure}_seconds" for figure in _SPREAD}


Arrivals = Mapping[tuple[str, str], Mapping[int, tuple[int, int]]]


def _counter(definition: Definition, arrivals: Arrivals) -> CounterMetricFamily:
    family = CounterMetricFamily(
        f"cs_{definition.id}", f"{definition.meaning}, in the order they arrived.", labels=("channel",)
    )
    for channel, buckets in _by_label(definition.id, arrivals).items():
        family.add_metric((channel,), sum(n for n, _ in buckets.values()))
    return family


def _histogram(definition: Definition, arrivals: Arrivals) -> HistogramMetricFamily:
    base = gauge_name(definition).removesuffix("_seconds")
    family = HistogramMetricFamily(
        f"{base}_arrival_seconds", f"{definition.meaning}, in the order they arrived.", labels=("channel",)
    )
    for channel, buckets in _by_label(definition.id, arrivals).items():
        bounds = []
        for bound_s in EXACT_S:
            limit = bucket_of(bound_s * SECOND)
            bounds.append((str(float(bound_s)), sum(n for b, (n, _) in buckets.items() if b <= limit)))
        count = sum(n for n, _ in buckets.values())
        bounds.append(("+Inf", count))
        family.add_metric((channel,), bounds, sum(total for _, total in buckets.values()) / SECOND)
    return family


def _by_label(kpi: str, arrivals: Arrivals) -> dict[str, dict[int, tuple[int, int]]]:
    """Return label → buckets: families, and the eight busiest other channels."""
    own = {channel: buckets for (name, channel), buckets in arrivals.items() if name == kpi}
    others = sorted(
        (c for c in own if c and c not in FAMILY_LABELS), key=lambda c: (-sum(n for n, _ in own[c].values()), c)
    )
    found: dict[str, dict[int, tuple[int, int]]] = {}
    for channel, buckets in own.items():
        labels = {family_of(channel or None) or "none"}
        if channel in others[:BUSIEST]:
            labels.add(channel)
        for label in labels:
            place = found.setdefault(label, {})
            for bucket, (n, total) in buckets.items():
                old = place.get(bucket, (0, 0))
                place[bucket] = (old[0] + n, old[1] + total)
    return found
