"""From the sums that were read to points and the pooled total.

The same figures function makes a point, a group and the total, each from the sums of its own window, so a total can
never be an average of averages.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from services.metrics.kpis.definition import Shape
from services.metrics.reading import contacts, levels, members, money, volume, waiting
from services.metrics.reading.cells import Cells, Row, Window
from services.metrics.reading.figures import (
    Figures,
    Reader,
    count_figures,
    mean_figures,
    own,
    ratio_figures,
)
from services.metrics.reading.question import Fetch, Query
from services.metrics.windows import MOST_IN_ALL, TooManyPoints

SPECIAL: dict[str, Reader] = {
    **volume.READERS,
    **waiting.READERS,
    **contacts.READERS,
    **levels.READERS,
    **members.READERS,
    **money.READERS,
}

_PLAIN = {
    Shape.counted: Reader(own, count_figures),
    Shape.ratio: Reader(own, ratio_figures),
    Shape.mean: Reader(own, mean_figures),
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
    """Make the answer of `query` out of what its fetches brought. Raises TooManyPoints."""
    reader = reader_of(query)
    sheet = _Sheet(query, {fetch.name: fetch for fetch in reader.fetches(query)})
    for row in rows:
        sheet.add(row)
    groups = sheet.groups()
    if len(groups) * (len(query.edges) - 1) > MOST_IN_ALL:
        raise TooManyPoints(len(groups))
    points = [
        Point(
            window.start,
            window.end,
            dict(zip(query.group_by, group, strict=False)),
            reader.figures(query, cells, window),
        )
        for group in groups
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
