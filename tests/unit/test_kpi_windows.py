"""Windows over DST changes, business time by schedule versions, and histograms within one per cent."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.metrics.asking import zone_of
from services.metrics.buckets import BOUNDS, EXACT_S, FEW, Histogram, Key, Sink, Strip, bucket_of, difference, pooled
from services.metrics.buckets import NO_DIMS as NOWHERE
from services.metrics.entries import SECOND, instant, micros
from services.metrics.kpis import BY_ID
from services.metrics.kpis.money import spread
from services.metrics.reading.answering import answer
from services.metrics.reading.cells import Row
from services.metrics.reading.question import Query
from services.metrics.windows import MOST_POINTS, TooManyPoints, edges, year_before
from shared.business import Rules, Schedule
from tests.kpi_timeline import OFFICE

AMSTERDAM = ZoneInfo("Europe/Amsterdam")
HOUR = 3600 * SECOND


def at(text: str) -> int:
    return micros(datetime.fromisoformat(text))


def hours(borders: list[int]) -> list[float]:
    return [(b - a) / HOUR for a, b in pairwise(borders)]


def test_days_are_local_and_last_23_or_25_hours_where_the_clocks_change() -> None:
    spring = edges(at("2026-03-28T00:00:00+01:00"), at("2026-03-31T00:00:00+02:00"), "1d", AMSTERDAM)
    assert hours(spring) == [24, 23, 24]
    autumn = edges(at("2026-10-24T00:00:00+02:00"), at("2026-10-27T00:00:00+01:00"), "1d", AMSTERDAM)
    assert hours(autumn) == [24, 25, 24]


def test_a_day_whose_midnight_does_not_exist_begins_when_it_does() -> None:
    cairo = ZoneInfo("Africa/Cairo")  # on 24 April 2026 the clocks go from 00:00 to 01:00
    borders = edges(at("2026-04-23T00:00:00+02:00"), at("2026-04-26T00:00:00+03:00"), "1d", cairo)
    assert hours(borders) == [24, 23, 24]


def test_weeks_start_on_monday_and_months_on_the_first() -> None:
    weeks = edges(at("2026-03-04T12:00:00Z"), at("2026-03-20T00:00:00Z"), "1w", ZoneInfo("UTC"))
    assert [instant(b).strftime("%a %d %H") for b in weeks] == ["Wed 04 12", "Mon 09 00", "Mon 16 00", "Fri 20 00"]
    months = edges(at("2025-11-15T00:00:00Z"), at("2026-02-10T00:00:00Z"), "1M", ZoneInfo("UTC"))
    assert [instant(b).strftime("%Y-%m-%d") for b in months] == [
        "2025-11-15", "2025-12-01", "2026-01-01", "2026-02-01", "2026-02-10",
    ]  # fmt: skip


def test_hours_of_a_zone_off_by_thirty_minutes_begin_at_its_own_full_hours() -> None:
    borders = edges(at("2026-03-04T00:00:00Z"), at("2026-03-04T02:00:00Z"), "1h", ZoneInfo("Asia/Kolkata"))
    assert [instant(b).strftime("%H:%M") for b in borders] == ["00:00", "00:30", "01:30", "02:00"]


@settings(deadline=None)
@given(st.integers(0, 10**9), st.integers(1, 10**6), st.sampled_from(["1m", "5m", "15m", "1h", "1d", "1w", "1M"]))
def test_windows_follow_each_other_without_gap_from_start_to_end(start_s: int, length_s: int, step: str) -> None:
    start, end = start_s * SECOND, (start_s + length_s) * SECOND
    try:
        borders = edges(start, end, step, AMSTERDAM)
    except TooManyPoints:
        assert length_s > MOST_POINTS * 60
        return
    assert borders[0] == start and borders[-1] == end
    assert all(a < b for a, b in pairwise(borders))


def test_a_step_that_makes_too_many_points_is_refused_early() -> None:
    with pytest.raises(TooManyPoints):
        edges(0, 10**17, "1m", AMSTERDAM)


def test_a_step_may_not_make_more_points_over_all_groups_than_one_answer_holds() -> None:
    borders = tuple(edges(at("2026-01-01T00:00:00Z"), at("2026-01-14T00:00:00Z"), "1m", AMSTERDAM))
    query = Query(BY_ID["messages_sent"], borders, AMSTERDAM, borders[-1], group_by=("agent",))
    rows = [Row("", "messages_sent", 0, (f"g{n}",), -1, "", 1, 1) for n in range(6)]
    assert len(answer(query, rows[:5]).points) == 5 * (len(borders) - 1)
    with pytest.raises(TooManyPoints, match="in 6 groups more than 100000 points"):
        answer(query, rows)


def test_the_year_before_a_leap_day_is_its_eve() -> None:
    assert instant(year_before(at("2028-02-29T12:00:00Z"), ZoneInfo("UTC"))).strftime("%F %H") == "2027-02-28 12"


@pytest.mark.parametrize("name", ["", "Mars/Olympus", "/etc/passwd", "../UTC", "Europe", "x" * 1000, "UTC\0"])
def test_a_name_that_is_no_zone_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="not a time zone"):
        zone_of(name)


# Business time


def office(**more: object) -> Rules:
    return Rules((Schedule(0, "Europe/Amsterdam", OFFICE, **more),))  # type: ignore[arg-type]


def test_outside_hours_business_time_starts_at_opening_time() -> None:
    rules = office()
    assert rules.elapsed(at("2026-03-04T00:30:00+01:00"), at("2026-03-04T09:10:00+01:00")) == 600 * SECOND
    assert rules.elapsed(at("2026-03-06T16:00:00+01:00"), at("2026-03-09T10:00:00+01:00")) == 2 * HOUR  # a weekend
    assert rules.elapsed(at("2026-03-07T10:00:00+01:00"), at("2026-03-08T10:00:00+01:00")) == 0
    assert rules.elapsed(at("2026-03-04T12:00:00Z"), at("2026-03-04T11:00:00Z")) == 0


def test_closed_dates_and_a_dst_weekend_are_no_business_time() -> None:
    rules = office(closed_dates=frozenset({"2026-03-04"}))
    assert rules.elapsed(at("2026-03-03T16:00:00+01:00"), at("2026-03-05T10:00:00+01:00")) == 2 * HOUR
    always = Rules((Schedule(0, "Europe/Amsterdam", {"sun": [("00:00", "24:00")]}),))
    assert always.elapsed(at("2026-03-28T00:00:00Z"), at("2026-03-31T00:00:00Z")) == 23 * HOUR


def test_each_instant_is_judged_by_the_version_in_force() -> None:
    noon = at("2026-03-04T12:00:00+01:00")
    rules = Rules((Schedule(0, "Europe/Amsterdam", OFFICE), Schedule(noon, "Europe/Amsterdam", {})))
    assert rules.elapsed(at("2026-03-04T08:00:00+01:00"), at("2026-03-05T18:00:00+01:00")) == 3 * HOUR
    late = Rules((Schedule(noon, "Europe/Amsterdam", OFFICE),))  # before the first version: always open
    assert late.elapsed(at("2026-03-04T08:00:00+01:00"), at("2026-03-04T20:00:00+01:00")) == (4 + 5) * HOUR


@settings(deadline=None)
@given(st.integers(0, 14 * 86_400), st.integers(1, 60 * 3600))
def test_after_a_duration_exactly_that_much_business_time_has_passed(start_s: int, length_s: int) -> None:
    rules, start = office(), at("2026-03-23T00:00:00Z") + start_s * SECOND
    end = rules.after(start, length_s * SECOND)
    assert end is not None
    assert rules.elapsed(start, end) == length_s * SECOND
    assert rules.elapsed(start, end - 1) == length_s * SECOND - 1


@settings(deadline=None)
@given(st.integers(0, 9 * 366 * 86_400), st.integers(0, 5 * 366 * 86_400))
def test_years_added_up_are_the_sum_of_their_spans(start_s: int, length_s: int) -> None:
    rules, start = office(closed_dates=frozenset({"2027-01-01"})), at("2022-06-01T00:00:00Z") + start_s * SECOND
    end = start + length_s * SECOND
    assert rules.elapsed(start, end) == sum(closes - opens for opens, closes in rules.open_spans(start, end))


def test_business_time_is_told_at_the_calendars_ends_and_nobody_is_open_after_2200() -> None:
    rules, first, last = office(), at("0001-01-01T00:00:00Z"), at("9999-12-31T23:59:59Z")
    until_2200 = rules.elapsed(at("2199-12-31T00:00:00Z"), at("2200-01-01T00:00:00Z"))
    assert until_2200 == rules.elapsed(at("2199-12-31T00:00:00Z"), last) == 8 * HOUR
    assert rules.elapsed(first, last) > 230 * 200 * 8 * HOUR
    assert rules.after(last, SECOND) is None


def test_a_schedule_that_never_opens_has_no_due_time() -> None:
    assert Rules((Schedule(0, "UTC", {}),)).after(at("2026-03-04T12:00:00Z"), SECOND) is None


# Histograms and contributions


def test_benchmarks_are_bounds_and_neighbours_are_less_than_one_per_cent_apart() -> None:
    assert {s * SECOND for s in EXACT_S} <= set(BOUNDS)
    assert max(b / a for a, b in pairwise(BOUNDS[1:])) < 1.01
    for bound_s in EXACT_S:
        assert bucket_of(bound_s * SECOND) < bucket_of(bound_s * SECOND + 1)


@given(st.lists(st.integers(10_000, 10**14), min_size=1, max_size=60), st.sampled_from([0.0, 0.25, 0.5, 0.9, 1.0]))
def test_a_quantile_is_within_one_per_cent(values: list[int], q: float) -> None:
    histogram = Histogram()
    for value in values:
        histogram.add(bucket_of(value), 1, value)
    exact = sorted(values)[max(1, math.ceil(q * len(values))) - 1]
    assert histogram.quantile(q) == pytest.approx(exact, rel=0.01)


def test_one_value_is_read_back_exactly_and_nothing_is_null() -> None:
    histogram = Histogram()
    assert histogram.quantile(0.5) is None and histogram.lowest() is None
    histogram.add(bucket_of(123_456_789), 1, 123_456_789)
    assert histogram.quantile(0.5) == histogram.lowest() == histogram.highest() == 123_456_789
    histogram.add(bucket_of(123_456_789), -1, -123_456_789)
    assert histogram.quantile(0.5) is None


@given(st.lists(st.tuples(st.integers(-1, 4), st.integers(-2, 2), st.integers(-2, 2))))
def test_strips_are_added_by_bucket_and_what_comes_to_nothing_is_left_out(cells: list[tuple[int, int, int]]) -> None:
    """Few in one way and many in another: what is added comes to nothing with its opposite."""
    strips = [columns(cells[0::2]), columns(cells[1::2])]
    much = [(b % len(BOUNDS), n, total) for b in range(FEW) for n, total in ((1, b), (-1, -b))]
    for found in (pooled(strips), pooled([*strips, columns(much)])):
        assert list(found.buckets) == sorted(found.buckets)
        together = dict(zip(found.buckets, zip(found.numbers, found.totals, strict=True), strict=True))
        assert (0, 0) not in together.values()
        for bucket in {b for b, _, _ in cells} | together.keys():
            mine = [(n, total) for b, n, total in cells if b == bucket]
            assert together.get(bucket, (0, 0)) == (sum(n for n, _ in mine), sum(total for _, total in mine))


def columns(cells: Sequence[tuple[int, int, int]]) -> tuple[list[int], list[int], list[int]]:
    return [b for b, _, _ in cells], [n for _, n, _ in cells], [total for _, _, total in cells]


@pytest.mark.parametrize(("spread", "each", "least"), [(40, 15, -1), (400, 90, 1), (400, 90, 0), (400, 90, -1)])
def test_a_merged_histogram_reads_as_one_that_was_added_to_one_by_one(spread: int, each: int, least: int) -> None:
    """Few cells and many, of which those that none was taken back from are looked up and not added."""
    rng, merged, alone = random.Random(2), Histogram(), Histogram()
    for _ in range(20):
        part = {rng.randrange(spread): (rng.randrange(least, 4), rng.randrange(10**6)) for _ in range(each)}
        cells = [(bucket, *cell) for bucket, cell in sorted(part.items())]
        merged.merge(Strip(*columns(cells)), *map(sum, zip(*part.values(), strict=True)))
        for bucket, (n, total) in part.items():
            alone.add(bucket, n, total)
    assert (merged.n, merged.total, merged.buckets) == (alone.n, alone.total, alone.buckets)
    assert (merged.n, merged.total) == tuple(map(sum, zip(*alone.buckets.values(), strict=True)))
    values = [total / n for _, (n, total) in sorted(alone.buckets.items()) for _ in range(n)]
    for q in (0.0, 0.1, 0.5, 0.77, 0.9, 1.0):
        assert merged.quantile(q) == values[max(1, math.ceil(q * len(values))) - 1]
    assert (merged.lowest(), merged.highest()) == (values[0], values[-1])


cells = st.dictionaries(
    st.builds(Key, st.sampled_from("ab"), st.integers(0, 3), st.just(NOWHERE)),
    st.tuples(st.integers(-3, 3), st.integers(-9, 9)),
    max_size=6,
)


@given(cells, cells)
def test_old_plus_the_difference_is_new(new: dict[Key, tuple[int, int]], old: dict[Key, tuple[int, int]]) -> None:
    changed = difference(new, old)
    for key in new.keys() | old.keys():
        before, change, after = old.get(key, (0, 0)), changed.get(key, (0, 0)), new.get(key, (0, 0))
        assert (before[0] + change[0], before[1] + change[1]) == after
    assert (0, 0) not in changed.values()


def test_a_sink_adds_what_lands_in_one_cell() -> None:
    sink = Sink()
    sink.add("a", 5, NOWHERE, 1, 2)
    sink.add("a", 5, NOWHERE, 1, 3)
    sink.step("b", 7, NOWHERE, -1)
    assert sink.cells == {Key("a", 5, NOWHERE): (2, 5), Key("b", 7, NOWHERE): (-1, -7)}


@settings(deadline=None)
@given(st.integers(-(10**9), 10**9), st.integers(0, 10**6), st.integers(1, 10**7))
def test_a_cost_spread_over_its_period_adds_up_to_the_cost(amount: int, start_s: int, length_s: int) -> None:
    start, end = start_s * SECOND, (start_s + length_s) * SECOND
    parts = list(spread(amount, start, end))
    assert sum(part for _, part in parts) == amount
    assert all(start <= when < end for when, _ in parts)


def test_a_cost_of_a_month_is_the_same_every_day() -> None:
    start = datetime(2026, 6, 1, tzinfo=UTC)
    parts = list(spread(30_000, micros(start), micros(start + timedelta(days=30))))
    day = micros(start + timedelta(days=1))
    assert sum(part for when, part in parts if when < day) == 1000


def test_random_values_keep_their_mean_exactly() -> None:
    rng, histogram = random.Random(1), Histogram()
    values = [rng.randrange(10**9) for _ in range(1000)]
    for value in values:
        histogram.add(bucket_of(value), 1, value)
    assert sum(total for _, total in histogram.buckets.values()) == sum(values)
