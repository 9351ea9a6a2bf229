"""What is counted over the changes of a batch: sums by hour and channel, arrivals, corrections; without I/O."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from services.metrics.buckets import NO_BUCKET, Contributions, Key
from services.metrics.entries import HOUR
from services.metrics.evaluation import Ref
from services.metrics.kpis import BY_ID
from services.metrics.kpis.definition import Shape
from services.metrics.work import Work

ARRIVING = frozenset(d.id for d in BY_ID.values() if d.histogram or d.shape is Shape.counted or d.id == "resolutions")
"""Series of which facts are also counted in the order they arrive."""

Change = tuple[Work, Ref, Contributions]
"""What an entity contributes now, less what it contributed before."""

_MONEY = ("cost", "revenue")


class Tallies:
    """Counters of one batch over all its tenants."""

    def __init__(self) -> None:
        self.hours: dict[tuple[str, str, int, str, int], tuple[int, int]] = {}
        """(tenant, series, hour, channel, bucket) → (n, total), without what only counts once it is due."""
        self._arrivals: dict[tuple[str, str, str, int], tuple[int, int]] = {}
        self._corrections: dict[tuple[str, str, str], int] = {}

    def add(self, changes: Iterable[Change]) -> None:
        """Count some of the batch's changes."""
        for work, ref, cells in changes:
            self._by_hour(work.tenant, cells)
            self._facts(work, ref, cells)

    def arrivals(self) -> list[tuple[Any, ...]]:
        """Return rows (tenant, KPI, channel, bucket, n, total): facts that are new, by their first value."""
        return [(*place, n, total) for place, (n, total) in sorted(self._arrivals.items())]

    def corrections(self) -> list[tuple[Any, ...]]:
        """Return rows (tenant, KPI, reason, n): what was counted before and changed."""
        return [(*place, n) for place, n in sorted(self._corrections.items())]

    def _by_hour(self, tenant: str, cells: Contributions) -> None:
        hours = self.hours
        for (series, at, dims, bucket, _, due), cell in cells.items():
            if not due:
                place = (tenant, series, at // HOUR, dims[0] or "", bucket)
                old = hours.setdefault(place, cell)
                if old is not cell:
                    hours[place] = (old[0] + cell[0], old[1] + cell[1])

    def _facts(self, work: Work, ref: Ref, cells: Contributions) -> None:
        added: dict[str, list[tuple[Key, tuple[int, int]]]] = {}
        net: dict[str, int] = {}
        taken: set[str] = set()
        for key, cell in cells.items():
            series = key[0]
            if cell[0] < 0 or (cell[0] == 0 and cell[1] != 0 and not series.startswith(_MONEY)):
                taken.add(series.partition(":")[0])
            if series in ARRIVING:
                net[series] = net.get(series, 0) + cell[0]
                if cell[0] > 0:
                    added.setdefault(series, []).append((key, cell))
        for series in taken:
            if series in BY_ID:
                place = (work.tenant, series, work.touched[ref])
                self._corrections[place] = self._corrections.get(place, 0) + 1
        for series, found in added.items():
            self._arrive(work.tenant, series, found, net[series])

    def _arrive(self, tenant: str, series: str, found: list[tuple[Key, tuple[int, int]]], new: int) -> None:
        """Count the first `new` of the facts found, by time."""
        if len(found) > 1:
            found.sort(key=lambda cell: cell[0].at)
        for key, (n, total) in found:
            if new <= 0:
                return
            taken = min(n, new)
            new -= taken
            place = (tenant, series, key.dims.channel or "", key.bucket)
            old = self._arrivals.get(place, (0, 0))
            value = total // n * taken if key.bucket != NO_BUCKET else 0
            self._arrivals[place] = (old[0] + taken, old[1] + value)
