"""From a request's parameters to a Query: everything that may be wrong with them is said at once."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from services.metrics.entries import micros
from services.metrics.kpis import BY_ID
from services.metrics.kpis.definition import Definition
from services.metrics.reading.question import DIMENSIONS, Query
from services.metrics.windows import STEPS, TooManyPoints, edges
from shared.business import Rules
from shared.problems import Fault, Problem, not_found
from shared.timestamps import read_rfc3339

DAY_US = 86_400_000_000
MOST_SPAN_US = 100 * 366 * DAY_US
_LOST_PLUS = re.compile(r" (\d\d:\d\d)$")

COMMON = frozenset({"start", "end", "step", "tz", "group_by", "as_of", *DIMENSIONS})
PAGING = frozenset({"limit", "cursor"})


def definition_of(kpi: str) -> Definition:
    """Return a definition. Raises Problem 404."""
    found = BY_ID.get(kpi)
    if found is None:
        raise not_found(f"KPI as {kpi[:80]!r}; GET /v1/kpis lists them")
    return found


def once(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return a query's parameters by name; several `group_by` are one list, in order.

    Any other that comes with two values would be answered for one of them alone. Raises Problem 422.
    """
    found: dict[str, str] = {}
    twice = {}
    for name, value in pairs:
        if name == "group_by" and name in found:
            found[name] += f",{value}"
        elif found.setdefault(name, value) != value:
            twice[name] = Fault(f"#/query/{name}", "is given twice with different values: ask for one after the other")
    if twice:
        detail = "some parameters of the query are not valid; see errors"
        raise Problem(422, "Not valid", detail, errors=list(twice.values()))
    return found


def zone_of(name: str) -> ZoneInfo:
    """Return an IANA time zone. Raises ValueError with a sentence."""
    try:
        if not name or len(name) > 64 or name.startswith(("/", ".")) or "\0" in name:
            raise ValueError(name)
        return ZoneInfo(name)
    except (ValueError, ZoneInfoNotFoundError, OSError) as error:
        raise ValueError("is not a time zone of the IANA database, such as Europe/Amsterdam") from error


@dataclass
class _Reading:
    """The parameters of one request, and what is wrong with them so far."""

    definition: Definition
    given: Mapping[str, str]
    faults: list[Fault] = field(default_factory=list)

    def wrong(self, name: str, detail: str) -> None:
        self.faults.append(Fault(f"#/query/{name}", detail))

    def instant(self, name: str, default: int) -> int:
        text = self.given.get(name)
        if text is None:
            return default
        try:
            # An unescaped + in a query string arrives as a space.
            return micros(read_rfc3339(_LOST_PLUS.sub(r"+\1", text.strip())))
        except ValueError as error:
            self.wrong(name, str(error))
            return default

    def dimensions(self) -> tuple[tuple[str, ...], dict[str, str]]:
        allowed = self.definition.dimensions
        group_by = tuple(dict.fromkeys(filter(None, self.given.get("group_by", "").split(","))))
        for name in group_by:
            if name not in allowed:
                self.wrong("group_by", f"{name[:40]!r} is not a dimension of this KPI; it has {', '.join(allowed)}")
        filters = {name: self.given[name] for name in DIMENSIONS if name in self.given}
        for name in filters:
            if name not in allowed:
                self.wrong(name, f"this KPI has no such dimension; it has {', '.join(allowed)}")
        return group_by, filters

    def parameters(self) -> dict[str, str]:
        found = {}
        for name, value in self.given.items():
            if name in COMMON or name in PAGING:
                continue
            if name not in self.definition.parameters:
                names = sorted({*COMMON, *self.definition.parameters})
                self.wrong(name, f"this KPI has no such parameter; it has {', '.join(names)}")
                continue
            allowed = self.definition.parameters[name]
            if allowed and value not in allowed:
                self.wrong(name, f"must be one of {', '.join(allowed)}")
            elif name == "currency" and not re.fullmatch("[A-Z]{3}", value):
                self.wrong(name, "must be a currency by its three capitals of ISO 4217, such as EUR")
            elif name == "threshold_s" and not _threshold(value):
                self.wrong(name, "must be a number of seconds above 0, at most 31622400")
            else:
                found[name] = value
        return found


def _threshold(value: str) -> bool:
    return re.fullmatch(r"\d{1,8}(\.\d{1,6})?", value) is not None and 0 < float(value) <= 31_622_400


def query_of(kpi: str, given: Mapping[str, str], rules: Rules, now: int, currency: str | None = None) -> Query:
    """Return the query that the parameters ask for; without start the last 24 hours, without end until now.

    `now` is the service's clock (µs), `currency` the one to take where none is asked for. Raises Problem (404 for an
    unknown KPI, 422 with all faults).
    """
    reading = _Reading(definition_of(kpi), given)
    as_of = reading.instant("as_of", 0) if "as_of" in given else None
    clock = now if as_of is None else min(now, as_of)
    end = reading.instant("end", clock)
    start = reading.instant("start", end - DAY_US)
    zone = ZoneInfo("UTC")
    try:
        zone = zone_of(given.get("tz", rules.timezone))
    except ValueError as error:
        reading.wrong("tz", str(error))
    step = given.get("step")
    if step is not None and step not in STEPS:
        reading.wrong("step", f"must be one of {', '.join(STEPS)}")
    if start >= end:
        reading.wrong("end", "must be after start")
    elif end - start > MOST_SPAN_US:
        reading.wrong("start", "the span is longer than 100 years")
    group_by, filters = reading.dimensions()
    parameters = reading.parameters()
    borders: list[int] = [start, end]
    if not reading.faults:
        try:
            borders = edges(start, end, step, zone)
            if kpi == "arrivals_by_hour":
                edges(start, end, "1h", zone)
        except TooManyPoints as error:
            reading.wrong("step", str(error))
    if reading.faults:
        raise Problem(422, "Not valid", "some parameters of the query are not valid; see errors", errors=reading.faults)
    if currency is not None and "currency" in reading.definition.parameters:
        parameters.setdefault("currency", currency)
    return Query(reading.definition, tuple(borders), zone, clock, group_by, filters, parameters, rules, as_of)
