"""Contributions: the group elements that every KPI is a sum of.

A contribution is (series, instant, dimensions, bucket, member, due) → (n, total), both signed integers. Adding and
subtracting them is exact and the order does not matter, so a late event, a reopening, a merge or a split is
`new − old` and nothing special. What `n` and `total` mean is said by the shape of the KPI's definition:

- counts: `n` facts; ratios: `total` of `n`; means: `total` (µs or millionths of a point) over `n`;
- durations also carry a histogram: `bucket` is the index of the log-spaced bucket that holds the value. A bucket keeps
  the sum of its values beside their number, so its mean is known exactly: a quantile is off by less than the bucket's
  width of 1 %, and exact where the bucket holds one value;
- distinct counts: `member` says who; a member counts once while its `n` is positive;
- levels (backlog, head count, open intervals): `n` is the step up or down and `total` = n × instant, so that the level
  and its integral over any window are sums too;
- deadlines: `due` contributions count from their own instant on by the service's clock, and not before.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from itertools import accumulate
from typing import NamedTuple

from services.metrics.entries import SECOND, Entry

EXACT_S = (
    1, 5, 10, 20, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14_400, 28_800, 43_200, 86_400, 259_200, 604_800,
)  # fmt: skip
"""Durations that are bucket bounds, so that "≤ 20 s" is read exactly; the bounds of Prometheus histograms."""

NO_BUCKET = -1


class Dims(NamedTuple):
    """What a contribution can be grouped and filtered by; the family follows from the channel."""

    channel: str | None = None
    team: str | None = None
    agent: str | None = None
    segment: str | None = None
    language: str | None = None


NO_DIMS = Dims()


def without_agent(dims: Dims) -> Dims:
    """Return the same place without the agent."""
    channel, team, _, segment, language = dims
    return _new(Dims, (channel, team, None, segment, language))


class Key(NamedTuple):
    """Where a contribution lands. `at` is in microseconds since 1970 UTC."""

    series: str
    at: int
    dims: Dims
    bucket: int = NO_BUCKET
    member: str = ""
    due: bool = False


Contributions = dict[Key, tuple[int, int]]

_new = tuple.__new__


def _bounds() -> list[int]:
    """Upper bounds in µs: 0, then 10 ms to 20 years, each less than 1 % above the one before, with the exact ones."""
    steps = math.ceil(math.log(20 * 366 * 86_400 * 100) / math.log(1.0098))
    grid = {round(10_000 * 1.0098**i) for i in range(steps + 1)}
    return sorted({0, *grid, *(s * SECOND for s in EXACT_S)})


BOUNDS = _bounds()


def bucket_of(value: int) -> int:
    """Return the index of the first bound that is ≥ `value` (µs)."""
    return min(bisect_left(BOUNDS, value), len(BOUNDS) - 1)


class Sink:
    """Collects contributions of one entity; with `evidence` also the entries each one is made of."""

    __slots__ = ("cells", "evidence")

    def __init__(self, evidence: bool = False) -> None:
        self.cells: Contributions = {}
        self.evidence: dict[Key, list[Entry]] | None = {} if evidence else None

    def add(
        self,
        series: str,
        at: int,
        dims: Dims,
        n: int = 1,
        total: int = 0,
        why: Iterable[Entry | None] = (),
        bucket: int = NO_BUCKET,
        member: str = "",
        due: bool = False,
    ) -> None:
        """Add (n, total) to one cell."""
        # Key(…) costs twice as much, and this is the busiest line of the service.
        key = _new(Key, (series, at, dims, bucket, member, due))
        cell = (n, total)
        old = self.cells.setdefault(key, cell)
        if old is not cell:
            self.cells[key] = (old[0] + n, old[1] + total)
        if self.evidence is not None:
            self.evidence.setdefault(key, []).extend(entry for entry in why if entry is not None)

    def time(self, series: str, at: int, dims: Dims, value: int, why: Iterable[Entry | None] = ()) -> None:
        """Add one duration (µs)."""
        self.add(series, at, dims, 1, value, why, bucket=bucket_of(value))

    def step(
        self, series: str, at: int, dims: Dims, n: int, why: Iterable[Entry | None] = (), member: str = "",
        due: bool = False,
    ) -> None:  # fmt: skip
        """Let a level rise (or fall) by `n` at `at`."""
        self.add(series, at, dims, n, n * at, why, member=member, due=due)


def difference(new: Mapping[Key, tuple[int, int]], old: Mapping[Key, tuple[int, int]]) -> Contributions:
    """Return new − old without the cells that are zero."""
    if not old:
        # The usual case: an entity that is new. Copying is several times cheaper than putting keys in one by one.
        changed = dict(new)
        for key in [key for key, cell in new.items() if cell == (0, 0)]:
            del changed[key]
        return changed
    changed = {}
    for key, cell in new.items():
        before = old.get(key)
        if before is None:
            if cell != (0, 0):
                changed[key] = cell
        elif before != cell:
            changed[key] = (cell[0] - before[0], cell[1] - before[1])
    for key, cell in old.items():
        if key not in new and cell != (0, 0):
            changed[key] = (-cell[0], -cell[1])
    return changed


class _Cells(NamedTuple):
    buckets: Sequence[int]
    numbers: Sequence[int]
    totals: Sequence[int]


class Strip(_Cells):
    """Cells side by side: each bucket once, in order, and n and total of each."""

    @cached_property
    def positive(self) -> bool:
        """Whether all cells hold something: none was taken back by more than there was."""
        return not self.numbers or min(self.numbers) > 0

    @cached_property
    def ranks(self) -> list[int]:
        """How many values lie before each cell, and how many in all. A window's histogram and the total share them."""
        return list(accumulate(self.numbers, initial=0))

    def cell(self, bucket: int) -> tuple[int, int]:
        """Return n and total of a bucket."""
        place = bisect_left(self.buckets, bucket)
        there = place < len(self.buckets) and self.buckets[place] == bucket
        return (self.numbers[place], self.totals[place]) if there else (0, 0)


NOTHING = Strip((), (), ())

FEW = 1000
"""Up to so many cells a dict is the quicker way to add them."""


def pooled(strips: Iterable[tuple[Sequence[int], Sequence[int], Sequence[int]]]) -> Strip:
    """Return what (buckets, numbers, totals) come to, in whatever order they are, without what comes to nothing."""
    strips = list(strips)
    if sum([len(buckets) for buckets, _, _ in strips]) <= FEW:
        return _pooled_few(strips)
    numbers, totals = _none(), _none()
    # NO_BUCKET is −1: the last place of a list.
    for strip in strips:
        for bucket, n, total in zip(*strip, strict=True):
            numbers[bucket] += n
            totals[bucket] += total
    places = [b for b in range(NO_BUCKET, len(BOUNDS)) if numbers[b] or totals[b]]
    return Strip(places, [numbers[b] for b in places], [totals[b] for b in places])


def _none() -> list[int]:
    return [0] * (len(BOUNDS) - NO_BUCKET)


def _pooled_few(strips: Iterable[tuple[Sequence[int], Sequence[int], Sequence[int]]]) -> Strip:
    cells: dict[int, tuple[int, int]] = {}
    put = cells.setdefault
    for buckets, numbers, totals in strips:
        for bucket, cell in zip(buckets, zip(numbers, totals, strict=True), strict=True):
            old = put(bucket, cell)
            if old is not cell:
                cells[bucket] = (old[0] + cell[0], old[1] + cell[1])
    kept = [bucket for bucket in sorted(cells) if cells[bucket] != (0, 0)]
    return Strip(kept, [cells[b][0] for b in kept], [cells[b][1] for b in kept]) if kept else NOTHING


class Histogram:
    """Buckets of one window: index → (n, total). Cells that were taken back are gone."""

    __slots__ = ("_filled", "_strips", "n", "total")

    def __init__(self) -> None:
        self.n = 0
        self.total = 0
        self._strips: list[Strip] = []
        self._filled: list[Strip] | None = None

    def add(self, bucket: int, n: int, total: int) -> None:
        """Add a cell."""
        self.merge(Strip((bucket,), (n,), (total,)), n, total)

    def merge(self, strip: Strip, n: int, total: int) -> None:
        """Add many cells, whose sums are `n` and `total`."""
        self._filled = None
        self.n += n
        self.total += total
        self._strips.append(strip)

    @property
    def buckets(self) -> dict[int, tuple[int, int]]:
        """Every bucket that is not nothing, in order."""
        buckets, numbers, totals = pooled(self._strips)
        return dict(zip(buckets, zip(numbers, totals, strict=True), strict=True))

    @property
    def filled(self) -> list[Strip]:
        """Strips of cells that hold something, which come to the histogram together.

        Of many cells in strips without a negative one these strips themselves: what is asked of them is looked up, and
        adding them would cost more than all else of an answer.
        """
        if self._filled is None:
            self._filled = self._fill()
        return self._filled

    def _fill(self) -> list[Strip]:
        strips = [strip for strip in self._strips if strip.buckets]
        if all(strip.positive for strip in strips) and (
            len(strips) < 2 or sum([len(strip.buckets) for strip in strips]) > FEW
        ):
            return strips
        kept = [cell for cell in zip(*pooled(strips), strict=True) if cell[1] > 0]
        return [Strip(*zip(*kept, strict=True))] if kept else []

    @property
    def count(self) -> int:
        """How many values they hold."""
        return sum([strip.ranks[-1] for strip in self.filled])

    def quantile(self, q: float) -> float | None:
        """Return the value at rank ceil(q·n), in the unit of the totals; None when empty.

        Within 1 % of the exact value (from 10 ms on); exact where its bucket holds one value (or equal ones).
        """
        count = self.count
        if not count:
            return None
        return self._mean(self._ranked(max(1, math.ceil(q * count))))

    def _ranked(self, rank: int) -> int:
        """Return the bucket that holds the value of a rank: the first up to which there are as many values."""
        ranked = [(strip.buckets, strip.ranks) for strip in self.filled]
        if len(ranked) == 1:
            ((buckets, ranks),) = ranked
            return buckets[min(bisect_left(ranks, rank) - 1, len(buckets) - 1)]
        low, high = self._ends()
        while low < high:
            middle = (low + high) // 2
            if sum([ranks[bisect_right(buckets, middle)] for buckets, ranks in ranked]) < rank:
                low = middle + 1
            else:
                high = middle
        return low

    def _ends(self) -> tuple[int, int]:
        """Return the first and the last bucket."""
        return min([s.buckets[0] for s in self.filled]), max([s.buckets[-1] for s in self.filled])

    def lowest(self) -> float | None:
        """Return the least value (of its bucket, the mean)."""
        return self._mean(min([strip.buckets[0] for strip in self.filled])) if self.filled else None

    def highest(self) -> float | None:
        """Return the greatest value (of its bucket, the mean)."""
        return self._mean(max([strip.buckets[-1] for strip in self.filled])) if self.filled else None

    def _mean(self, bucket: int) -> float:
        if len(self.filled) == 1:
            n, total = self.filled[0].cell(bucket)
            return total / n
        cells = [strip.cell(bucket) for strip in self.filled]
        return sum([total for _, total in cells]) / sum([n for n, _ in cells])

    def deviation(self) -> float | None:
        """Return the standard deviation of one value (n − 1), taking each bucket at its mean.

        None below two values, and where values were counted without a bucket: then nobody knows how far they lie apart.
        """
        cells, count = self.buckets, self.count
        if count < 2 or self._ends()[0] == NO_BUCKET:
            return None
        filled = [cell for cell in cells.values() if cell[0] > 0]
        mean = sum([total for _, total in filled]) / count
        return math.sqrt(sum([n * (total / n - mean) ** 2 for n, total in filled]) / (count - 1))

    def at_most(self, value: int) -> int:
        """Return how many values are ≤ `value` µs; exact where `value` is a bound."""
        limit = bucket_of(value)
        return sum(n for index, (n, _) in self.buckets.items() if index <= limit)
