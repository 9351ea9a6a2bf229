"""Business time: how much of a span lies inside opening hours, by the schedule version in force at each instant.

A tenant without a schedule is always open, in UTC. Before the first version's `valid_from` that holds too.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

from shared.instants import instant, micros

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_LONGEST_SEARCH_DAYS = 3660

EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)
LATEST = datetime(2200, 1, 1, tzinfo=UTC)
"""Schedules and agreements start between these, and nobody is open after the later one: opening hours are walked
through day by day, and the calendar of the language ends in the year 9999 with an error."""


@dataclass(frozen=True)
class Schedule:
    """One version of the opening hours: weekday → spans of local wall time, valid from an instant on (µs)."""

    valid_from: int
    timezone: str
    rules: Mapping[str, Sequence[tuple[str, str]]]
    closed_dates: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Sla:
    """One version of the service level agreement; times in µs, None where nothing is promised."""

    valid_from: int
    first_reply: int | None
    resolution: int | None
    clock: str = "calendar"


@dataclass(frozen=True)
class Rules:
    """What of a tenant's settings decides KPIs: schedules and agreements, each sorted by `valid_from`."""

    schedules: tuple[Schedule, ...] = ()
    slas: tuple[Sla, ...] = ()
    _days: dict[tuple[int, int], tuple[int, tuple[tuple[int, int], ...]]] = field(
        default_factory=dict, compare=False, repr=False, hash=False
    )
    _years: dict[tuple[int, int], int] = field(default_factory=dict, compare=False, repr=False, hash=False)

    @property
    def timezone(self) -> str:
        """The tenant's zone: the newest schedule's, else UTC."""
        return self.schedules[-1].timezone if self.schedules else "UTC"

    def sla_at(self, at: int) -> Sla | None:
        """Return the agreement in force at `at`."""
        current = None
        for version in self.slas:
            if version.valid_from <= at:
                current = version
        return current

    def open_spans(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """Yield the open spans inside [start, end), in order."""
        for index, at, until in self._in_force(start, end):
            if index < 0:
                yield at, until
            else:
                yield from self._spans_of(index, at, until)

    def _in_force(self, start: int, end: int) -> Iterator[tuple[int, int, int]]:
        """Yield (schedule's index, from, until) over [start, end); index -1 is the time before the first one."""
        borders = [version.valid_from for version in self.schedules]
        at, end = start, min(end, _END)
        while at < end:
            index = bisect_right(borders, at) - 1
            until = min(end, borders[index + 1]) if index + 1 < len(borders) else end
            yield index, at, until
            at = until

    def _spans_of(self, index: int, start: int, end: int) -> Iterator[tuple[int, int]]:
        day = self._local_date(index, start) - timedelta(days=1)
        while True:
            midnight, spans = self._day(index, day.toordinal())
            if midnight >= end:
                return
            for opens, closes in spans:
                if closes > start and opens < end:
                    yield max(opens, start), min(closes, end)
            day += timedelta(days=1)

    def _day(self, index: int, ordinal: int) -> tuple[int, tuple[tuple[int, int], ...]]:
        cached = self._days.get((index, ordinal))
        if cached is None:
            cached = _open_spans_of_day(self.schedules[index], date.fromordinal(ordinal))
            if len(self._days) > 20_000:
                self._days.clear()
            self._days[(index, ordinal)] = cached
        return cached

    def elapsed(self, start: int, end: int) -> int:
        """Return the business time between two instants (µs); 0 when `end` is before `start`."""
        if not self.schedules:
            return max(0, end - start)
        return sum(
            until - at if index < 0 else self._open_within(index, at, until)
            for index, at, until in self._in_force(start, end)
        )

    def _open_within(self, index: int, start: int, end: int) -> int:
        """Return how much of [start, end) is open under one schedule; years that lie inside are added up once."""
        first, last = self._local_date(index, start).year + 1, self._local_date(index, end).year
        if first >= last:
            return sum(closes - opens for opens, closes in self._spans_of(index, start, end))
        before = self._spans_of(index, start, self._new_year(index, first))
        after = self._spans_of(index, self._new_year(index, last), end)
        ends = sum(closes - opens for spans in (before, after) for opens, closes in spans)
        return ends + sum(self._open_in_year(index, year) for year in range(first, last))

    def _open_in_year(self, index: int, year: int) -> int:
        known = self._years.get((index, year))
        if known is None:
            days = range(date(year, 1, 1).toordinal(), date(year + 1, 1, 1).toordinal())
            known = sum(closes - opens for day in days for opens, closes in self._day(index, day)[1])
            self._years[(index, year)] = known
        return known

    def _new_year(self, index: int, year: int) -> int:
        return self._day(index, date(year, 1, 1).toordinal())[0]

    def _local_date(self, index: int, at: int) -> date:
        return instant(at).astimezone(_zone(self.schedules[index].timezone)).date()

    def after(self, start: int, duration: int) -> int | None:
        """Return when `duration` of business time after `start` has passed; None if not within ten years."""
        if not self.schedules:
            return start + duration
        horizon = start + _LONGEST_SEARCH_DAYS * 86_400_000_000
        left = duration
        last = start
        for opens, closes in self.open_spans(start, horizon):
            if closes - opens >= left and left > 0:
                return opens + left
            if left <= 0:
                return last
            left -= closes - opens
            last = closes
        return None


_END = micros(LATEST)


def due(rules: Rules, sla: Sla, start: int, duration: int) -> int | None:
    """Return when what was promised within `duration` from `start` is due, by the agreement's clock."""
    return rules.after(start, duration) if sla.clock == "business" else start + duration


def used_up(rules: Rules, sla: Sla, turns: Iterable[tuple[int, int | None]], until: int | None) -> int | None:
    """Return when our turns used up the time promised for a resolution; None if they did not.

    `turns` are spans in which it was our turn, in order, the last one perhaps open; `until` is the resolution.
    """
    assert sla.resolution is not None
    left = sla.resolution
    for start, end in turns:
        if until is not None and start >= until:
            break
        at = due(rules, sla, start, left)
        stop = end if until is None else min(until, end if end is not None else until)
        if stop is None:
            return at
        if at is not None and at < stop:
            return at
        left -= rules.elapsed(start, stop) if sla.clock == "business" else stop - start
    return None


def _open_spans_of_day(schedule: Schedule, day: date) -> tuple[int, tuple[tuple[int, int], ...]]:
    """Return the instant of local midnight and the open spans of that local day, by their instants."""
    zone = _zone(schedule.timezone)
    midnight = micros(datetime.combine(day, time(0), zone).astimezone(UTC))
    if day.isoformat() in schedule.closed_dates:
        return midnight, ()
    spans = []
    for opens, closes in schedule.rules.get(DAYS[day.weekday()], ()):
        start, end = _instant_of(day, opens, zone), _instant_of(day, closes, zone)
        if end > start:
            spans.append((start, end))
    return midnight, tuple(sorted(spans))


def _instant_of(day: date, wall: str, zone: ZoneInfo) -> int:
    hours, _, minutes = wall.partition(":")
    hour = int(hours)
    if hour == 24:
        day, hour = day + timedelta(days=1), 0
    # A wall time that a DST change skips is read as what a clock not yet changed would show (fold=0).
    return micros(datetime.combine(day, time(hour, int(minutes or 0)), zone).astimezone(UTC))


@lru_cache(maxsize=512)
def _zone(name: str) -> ZoneInfo:
    return ZoneInfo(name)
