"""Windows of a query: half-open, cut by the tenant's calendar, with days of 23 and 25 hours where DST says so."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from services.metrics.entries import instant, micros

STEPS = ("1m", "5m", "15m", "1h", "1d", "1w", "1M")
MOST_POINTS = 20_000
MOST_IN_ALL = 100_000
"""Points of one answer, over all groups."""

_MINUTES = {"1m": 1, "5m": 5, "15m": 15, "1h": 60}
_MINUTE = 60_000_000


class TooMuch(ValueError):
    """A question costs more than one may; the message says what to ask instead."""


class TooManyPoints(TooMuch):
    """The step makes more points than one answer may have."""

    def __init__(self, groups: int = 1) -> None:
        many = f"in {groups} groups more than {MOST_IN_ALL}" if groups > 1 else f"more than {MOST_POINTS}"
        instead = "a longer step, a shorter span or fewer groups" if groups > 1 else "a longer step or a shorter span"
        super().__init__(f"the step makes {many} points; take {instead}")


def edges(start: int, end: int, step: str | None, zone: ZoneInfo) -> list[int]:
    """Return the window borders from `start` to `end` (µs), both included; inner ones lie on the zone's calendar.

    Hours and minutes follow local wall time, so that in a zone off by 30 minutes an hour starts at its own :00; over a
    DST change they stay as long as they are. Weeks start on Monday. Raises TooManyPoints.
    """
    if step is None:
        return [start, end]
    found = [start]
    at = start
    while True:
        at = _next(at, step, zone)
        if at >= end:
            break
        found.append(at)
        if len(found) > MOST_POINTS:
            raise TooManyPoints
    found.append(end)
    return found


def _next(at: int, step: str, zone: ZoneInfo) -> int:
    if step in _MINUTES:
        return _next_minutes(at, _MINUTES[step], zone)
    local = instant(at).astimezone(zone)
    day = local.date()
    if step == "1d":
        following = day + timedelta(days=1)
    elif step == "1w":
        following = day + timedelta(days=7 - day.weekday())
    elif step == "1M":
        following = date(day.year + day.month // 12, day.month % 12 + 1, 1)
    else:
        raise ValueError(f"unknown step {step}")
    return midnight(following, zone)


def _next_minutes(at: int, minutes: int, zone: ZoneInfo) -> int:
    offset = instant(at).astimezone(zone).utcoffset() or timedelta(0)
    shift = int(offset.total_seconds()) * 1_000_000
    length = minutes * _MINUTE
    return ((at + shift) // length + 1) * length - shift


def midnight(day: date, zone: ZoneInfo) -> int:
    """Return the first instant of a local day (µs): where DST skips midnight, the first that exists."""
    wall = datetime.combine(day, time(0), zone)
    at = wall.astimezone(UTC)
    if at.astimezone(zone).date() < day:
        at += timedelta(hours=1)
    return micros(at)


def following_midnight(at: int, zone: ZoneInfo) -> int:
    """Return the first instant of the local day after the one in which `at` lies (µs)."""
    return _next(at, "1d", zone)


def year_before(at: int, zone: ZoneInfo) -> int:
    """Return the same local wall time a year earlier (µs); 29 February becomes 28 February."""
    local = instant(at).astimezone(zone)
    try:
        before = local.replace(year=local.year - 1, fold=0)
    except ValueError:
        before = local.replace(year=local.year - 1, day=28, fold=0)
    return micros(before.astimezone(UTC))


def local_hours(start: int, end: int, zone: ZoneInfo) -> list[int]:
    """Return the instants in (start, end) at which a local hour begins. Raises TooManyPoints."""
    return edges(start, end, "1h", zone)[1:-1]


def hour_of_day(at: int, zone: ZoneInfo) -> int:
    """Return the local hour 0–23 at `at`."""
    return instant(at).astimezone(zone).hour
