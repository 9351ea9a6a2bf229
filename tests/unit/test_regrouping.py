"""From when on people who became one may be placed otherwise."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from services.conversation.regrouping import Active, placed_otherwise_since

SINCE = datetime(2026, 3, 1, tzinfo=UTC)


def at(hours: float | None) -> datetime | None:
    return None if hours is None else SINCE + timedelta(hours=hours)


def leaf(wrote: float | None, opened: float | None, *, bulk: bool = False) -> Active:
    return Active(at(wrote), at(opened), bulk)


BUSY = leaf(1, -500)
"""Wrote an hour later in a matter that was opened long before."""
QUIET = leaf(None, None)


@pytest.mark.parametrize(
    ("sides", "hours"),
    [
        pytest.param([[BUSY], [QUIET]], None, id="only one has anything open"),
        pytest.param([[QUIET], [QUIET]], None, id="nobody has"),
        pytest.param([[BUSY], [BUSY]], 1, id="both have: from the first word on"),
        pytest.param([[BUSY], [leaf(30, 30)]], 30, id="one opened a matter while the other's was open"),
        pytest.param([[BUSY], [leaf(None, -20)]], 1, id="one wrote while the other's was open from before"),
        pytest.param([[leaf(None, -20)], [leaf(None, -30)]], None, id="both open, and nobody wrote"),
        pytest.param([[leaf(5, None)], [leaf(7, None)]], None, id="both wrote what opens nothing"),
        pytest.param([[BUSY], [QUIET, leaf(50, None), leaf(40, None)]], 40, id="the earliest of a side's leaves"),
        pytest.param([[QUIET], [BUSY], [leaf(9, 9)]], 9, id="any two of several sides"),
        pytest.param([[leaf(1, -1, bulk=True)], [leaf(None, None, bulk=True)]], 0, id="both know mails sent to many"),
        pytest.param([[leaf(1, -1, bulk=True), leaf(2, 2, bulk=True)], [QUIET]], None, id="one alone knows such mails"),
    ],
)
def test_what_became_one_is_decided_again_from_where_one_may_meet_what_the_other_has_open(
    sides: list[list[Active]], hours: float | None
) -> None:
    assert placed_otherwise_since(SINCE, sides) == at(hours)
