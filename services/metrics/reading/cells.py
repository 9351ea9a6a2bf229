"""Sums as read, and those of one window and group side by side: what figures are made of."""

from __future__ import annotations

from typing import NamedTuple

from services.metrics.buckets import Histogram, Strip


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
    strip: Strip | None = None
    """Where a whole histogram was read at once: its cells; `n` and `total` are their sums then."""


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
        found = self.buckets.get(series)
        if found is None:
            found = self.buckets[series] = Histogram()
        if row.strip is not None:
            found.merge(row.strip, row.n, row.total)
        else:
            found.add(row.bucket, row.n, row.total)
        if row.member:
            put(self.members.setdefault(series, {}), row.member, row.n, row.total)

    def add_before(self, series: str, row: Row) -> None:
        """Add a sum that lies before this window."""
        n, total = self.before.get(series, (0, 0))
        self.before[series] = (n + row.n, total + row.total)
        if row.member:
            put(self.members_before.setdefault(series, {}), row.member, row.n, row.total)

    def n(self, series: str) -> int:
        """Return Σn in the window."""
        found = self.buckets.get(series)
        return found.n if found else 0

    def total(self, series: str) -> int:
        """Return Σtotal in the window."""
        found = self.buckets.get(series)
        return found.total if found else 0

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


def put(members: dict[str, tuple[int, int]], member: str, n: int, total: int) -> None:
    """Add a sum to a member's."""
    old = members.get(member, (0, 0))
    members[member] = (old[0] + n, old[1] + total)
