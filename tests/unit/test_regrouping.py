"""From when on people who became one may be placed otherwise."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest

from services.conversation.regrouping import Active, Open, placed_otherwise_since

SINCE = datetime(2026, 3, 1, tzinfo=UTC)
WINDOW = timedelta(hours=72)


def at(hours: float) -> datetime:
    return SINCE + timedelta(hours=hours)


def leaf(asked: Sequence[float] = (), *spans: tuple[float, float, float | None], bulk: bool = False) -> Active:
    """Return a leaf that asked at these hours and had conversations open: (opened, last active, resolved)."""
    conversations = [Open(at(a), at(b), None if c is None else at(c)) for a, b, c in spans]
    return Active([at(hours) for hours in asked], conversations, bulk)


GOES_ON = (-500, 70, None)
"""A matter that was opened long before and is open to the end."""
BUSY = leaf([1, 30, 60], GOES_ON)
QUIET = leaf()


@pytest.mark.parametrize(
    ("sides", "hours"),
    [
        pytest.param([[BUSY], [QUIET]], None, id="only one has anything open"),
        pytest.param([[QUIET], [QUIET]], None, id="nobody has"),
        pytest.param([[BUSY], [BUSY]], 1, id="both have: from the first question on"),
        pytest.param([[BUSY], [leaf([40], (40, 40, None))]], 40, id="one asked while the other's was open"),
        pytest.param([[leaf([], GOES_ON)], [leaf([], GOES_ON)]], None, id="both open, and nobody asked"),
        pytest.param([[leaf([5])], [leaf([7])]], None, id="both asked, and nothing was open"),
        pytest.param([[leaf([1, 30, 60])], [leaf([], (10, 20, 29))]], None, id="resolved before the next question"),
        pytest.param([[leaf([1, 30, 60])], [leaf([], (10, 20, 30))]], 30, id="resolved in the very moment"),
        pytest.param([[leaf([60])], [leaf([], (-30, -12, None))]], 60, id="still warm, to the second"),
        pytest.param([[leaf([60])], [leaf([], (-30, -12.001, None))]], None, id="cold a moment before"),
        pytest.param([[BUSY], [QUIET, leaf([50]), leaf([40])]], 40, id="the earliest of a side's leaves"),
        pytest.param([[QUIET], [BUSY], [leaf([9])]], 9, id="any two of several sides"),
        pytest.param([[leaf([1], bulk=True)], [leaf(bulk=True)]], 0, id="both know mails sent to many"),
        pytest.param([[leaf([1], bulk=True), leaf([2], bulk=True)], [QUIET]], None, id="one alone knows such mails"),
    ],
)
def test_what_became_one_is_decided_again_from_where_one_asked_while_the_other_had_something_open(
    sides: list[list[Active]], hours: float | None
) -> None:
    assert placed_otherwise_since(SINCE, WINDOW, sides) == (None if hours is None else at(hours))


def test_the_end_of_time_is_no_error() -> None:
    end = datetime(9999, 12, 31, tzinfo=UTC)
    sides = [[Active([end], [], False)], [Active([], [Open(end - WINDOW, end, None)], False)]]
    assert placed_otherwise_since(SINCE, WINDOW, sides) is None
