"""Packed days as bytes, and what they leave to be read by hour."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from services.metrics.buckets import NO_BUCKET, Strip
from services.metrics.closed_days import Gaps, Packed, pack, unpack
from services.metrics.entries import HOUR

numbers = st.integers(-(2**40), 2**40)
strips = st.dictionaries(st.integers(NO_BUCKET, 3000), st.tuples(numbers, numbers), min_size=1).map(
    lambda cells: Strip(sorted(cells), [cells[b][0] for b in sorted(cells)], [cells[b][1] for b in sorted(cells)])
)


@given(st.dictionaries(st.text(max_size=20), strips, max_size=4))
def test_what_is_packed_is_unpacked(channels: dict[str, Strip]) -> None:
    body = pack(channels)
    assert body is not None
    found = [Packed(name, Strip(*map(list, strip)), n, total) for name, strip, n, total in unpack(body)]
    assert found == [Packed(c, s, sum(s.numbers), sum(s.totals)) for c, s in sorted(channels.items())]


def test_what_needs_more_than_64_bits_is_not_packed() -> None:
    assert pack({"chat": Strip([1], [1], [2**63])}) is None
    assert pack({"chat": Strip([1, 2], [1, 1], [2**62, 2**62])}) is None
    assert pack({"chat": Strip([1, 2], [1, 1], [2**63 - 1, -(2**63)])}) is not None


instants = st.integers(0, 200).map(lambda n: n * HOUR // 4)


@given(st.lists(instants, min_size=2, max_size=12, unique=True), st.lists(instants, max_size=8, unique=True))
def test_gaps_are_all_that_days_leave_once_and_no_hour_lies_in_two_windows(
    borders: list[int], midnights: list[int]
) -> None:
    """Days are every second stretch between the midnights; they need not lie in one window here."""
    edges, midnights = sorted(borders), sorted(m for m in midnights if min(borders) <= m <= max(borders))
    days = list(zip(midnights[0::2], midnights[1::2], strict=False))
    gaps = Gaps()
    gaps.leave(7, edges[0], edges[-1], edges, days)
    read = [(first * HOUR, until * HOUR) for _, first, until in gaps.hours] + [(a, b) for _, a, b in gaps.pieces]
    for quarter in range(edges[0], edges[-1], HOUR // 4):
        times = sum(since <= quarter < until for since, until in read)
        assert times == (not any(starts <= quarter < ends for starts, ends in days))
    assert all(edges[0] <= since < until <= edges[-1] for since, until in read)
    for _, first, until in gaps.hours:
        assert not any(first * HOUR < edge < until * HOUR and edge % HOUR for edge in edges)
