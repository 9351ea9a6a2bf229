"""How many events the lane decides together, where a decision costs so much for itself and so much for each event."""

from __future__ import annotations

import pytest

from services.conversation.pace import FIRST, LONG_S, MOST, Pace

STEPS = 60


def after(waiting: int, alone_s: float, each_s: float, *, pace: Pace | None = None) -> tuple[Pace, float]:
    """Let the lane decide what waits, and return its pace and how long it took."""
    pace, all_s = pace or Pace(), 0.0
    while waiting:
        events = min(waiting, pace.together)
        seconds = alone_s + each_s * events
        pace.took(events, seconds)
        waiting, all_s = waiting - events, all_s + seconds
    return pace, all_s


@pytest.mark.parametrize("alone_s", [2.0, 4.0, 30.0])
def test_what_costs_the_same_for_many_is_decided_for_many(alone_s: float) -> None:
    pace, all_s = after(20_000, alone_s, 0.0005)
    assert pace.together == MOST
    assert all_s < 20 * (alone_s + 1)


def test_what_each_event_costs_bounds_how_long_a_step_takes() -> None:
    pace = Pace()
    for _ in range(STEPS):
        pace.took(pace.together, 0.1 + 0.2 * pace.together)
    assert 1 <= pace.together * 0.2 <= 2 * LONG_S


def test_cheap_decisions_grow_to_the_most() -> None:
    assert after(20_000, 0.01, 0.0001)[0].together == MOST


def test_what_is_overtaken_again_and_again_is_tried_with_more_where_fewer_would_take_as_long() -> None:
    pace = Pace()
    for _ in range(STEPS):
        pace.overtaken(pace.together, 4.0 + 0.0005 * pace.together)
    assert pace.together == MOST


def test_what_is_overtaken_is_tried_with_fewer_where_its_time_is_the_events_own() -> None:
    pace = Pace()
    for _ in range(STEPS):
        pace.overtaken(pace.together, 0.1 + 0.2 * pace.together)
    assert pace.together <= 4


def test_few_that_wait_say_nothing_of_many() -> None:
    pace = Pace()
    pace.took(3, 0.2)
    assert pace.together == FIRST
