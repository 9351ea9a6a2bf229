"""Providers' times, each with its unit, as aware UTC datetimes; None where there is none or it cannot be one.

`told_…` keep beside it what the provider wrote, in a field of the event that says the unit.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import NamedTuple

from services.ingest.adapters.payloads import Json, whole

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LATEST_MS = 253_402_300_799_000
"""The end of the year 9999 in Unix milliseconds."""

_MONTH_NAMES = "Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec"
_MONTHS = {name: f"{number:02}" for number, name in enumerate(_MONTH_NAMES.split("|"), start=1)}
# What nearly all mail has; the standard library's reading of everything that was ever written costs four times as much.
_PLAIN_DATE = re.compile(
    rf"(?:[A-Z][a-z]{{2}}, )?([0-3]?[0-9]) ({_MONTH_NAMES}) ([12][0-9]{{3}}) ([0-9]{{2}}:[0-9]{{2}}:[0-9]{{2}})"
    r" ([+-][01][0-9])([0-5][0-9])"
)


def from_unix_s(value: Json) -> datetime | None:
    """Read whole Unix seconds, given as number or digits."""
    seconds = whole(value)
    return from_unix_ms(seconds * 1000) if seconds is not None else None


def from_unix_ms(value: Json) -> datetime | None:
    """Read Unix milliseconds, given as number or digits."""
    milliseconds = whole(value)
    if milliseconds is None or not 0 < milliseconds <= _LATEST_MS:
        return None
    return _EPOCH + timedelta(milliseconds=milliseconds)


def from_slack(value: Json) -> datetime | None:
    """Read `seconds.microseconds`, as Slack writes it."""
    if not isinstance(value, str):
        return None
    seconds, _, fraction = value.partition(".")
    at = from_unix_s(seconds)
    micros = whole(fraction[:6].ljust(6, "0"))
    return at + timedelta(microseconds=micros) if at is not None and micros is not None and micros >= 0 else at


def from_iso(value: Json) -> datetime | None:
    """Read ISO 8601; without a zone it is UTC."""
    if not isinstance(value, str) or len(value) > 64:
        return None
    try:
        at = datetime.fromisoformat(_microseconds(value.strip()))
        return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def _microseconds(value: str) -> str:
    """Cut fractions finer than microseconds, which some providers send."""
    whole_part, dot, rest = value.partition(".")
    digits = rest[: len(rest) - len(rest.lstrip("0123456789"))]
    return f"{whole_part}.{digits[:6]}{rest[len(digits) :]}" if dot and len(digits) > 6 else value


def from_rfc2822(value: Json) -> datetime | None:
    """Read a mail date; without a zone it is UTC."""
    if not isinstance(value, str) or len(value) > 128:
        return None
    try:
        plain = _PLAIN_DATE.fullmatch(value)
        if plain is not None:
            day, month, year, clock, hours, minutes = plain.groups()
            written = f"{year}-{_MONTHS[month]}-{day:0>2}T{clock}{hours}:{minutes}"
            return datetime.fromisoformat(written).astimezone(UTC)
        at = parsedate_to_datetime(value)
        return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


_LONGEST = 128
"""Characters of a time that are kept; nothing longer is one."""


class Told(NamedTuple):
    """A time as a provider told it: `at` is None where it cannot be one, `value` where it told none.

    `field` is where the event keeps `value`: `provider_time_s` or `provider_time_ms` for a number of seconds or
    milliseconds since 1970, given as number or text, `provider_time` for a text with a form of its own.
    """

    at: datetime | None
    field: str
    value: str | int | float | None


def told_s(value: Json) -> Told:
    """Read Unix seconds."""
    return Told(from_unix_s(value), "provider_time_s", _verbatim(value))


def told_ms(value: Json) -> Told:
    """Read Unix milliseconds."""
    return Told(from_unix_ms(value), "provider_time_ms", _verbatim(value))


def told_slack(value: Json) -> Told:
    """Read `seconds.microseconds`."""
    return Told(from_slack(value), "provider_time_s", _verbatim(value))


def told_iso(value: Json) -> Told:
    """Read ISO 8601."""
    return Told(from_iso(value), "provider_time", _verbatim(value))


def told_rfc2822(value: Json) -> Told:
    """Read a mail date."""
    return Told(from_rfc2822(value), "provider_time", _verbatim(value))


def _verbatim(value: Json) -> str | int | float | None:
    if isinstance(value, str):
        return value if len(value) <= _LONGEST else None
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None
