"""How an instant is written, for everybody who reads it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

from hypothesis import given
from hypothesis import strategies as st

from shared.events import parse_rfc3339, rfc3339

OFFSETS = st.integers(-23 * 60, 23 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
# Away from either end, so that every offset stays within the calendar.
FIRST, LAST = (at.replace(tzinfo=None) for at in (datetime(2, 1, 1, tzinfo=UTC), datetime(9998, 12, 31, tzinfo=UTC)))
INSTANTS = st.datetimes(FIRST, LAST, timezones=st.just(UTC) | OFFSETS)


@given(INSTANTS | INSTANTS.map(lambda at: at.replace(microsecond=0)))
def test_an_instant_is_written_in_utc_with_six_digits_of_a_second_whatever_it_is(at: datetime) -> None:
    utc = at.astimezone(UTC)
    assert rfc3339(at) == f"{utc.year:04}-{utc:%m-%dT%H:%M:%S.%fZ}"
    assert parse_rfc3339(rfc3339(at)) == at
