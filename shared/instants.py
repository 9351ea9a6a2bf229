"""Instants as microseconds since 1970 in UTC: what numbers are computed with."""

from __future__ import annotations

from datetime import UTC, datetime

SECOND = 1_000_000
"""Microseconds in a second."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def micros(at: datetime) -> int:
    """Return an aware datetime as microseconds since 1970 UTC."""
    delta = at - _EPOCH
    return (delta.days * 86_400 + delta.seconds) * SECOND + delta.microseconds


def instant(at: int) -> datetime:
    """Return microseconds since 1970 as an aware UTC datetime; beyond the calendar's ends, its nearest end."""
    try:
        return datetime.fromtimestamp(at // SECOND, UTC).replace(microsecond=at % SECOND)
    except (OverflowError, ValueError, OSError):
        return datetime.max.replace(tzinfo=UTC) if at > 0 else datetime.min.replace(tzinfo=UTC)
