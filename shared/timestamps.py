"""Reading instants that others wrote: RFC 3339, with an offset, and nothing else."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

_RFC3339 = re.compile(r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d):(\d\d)(\.\d+)?([Zz]|[+-](?:[01]\d|2[0-3]):[0-5]\d)", re.ASCII)


def read_rfc3339(text: str) -> datetime:
    """Return the instant that `text` names, in UTC; a fraction is cut to microseconds.

    A leap second is read as the second after it, as POSIX clocks do. Raises ValueError with a sentence for the sender.

    Source: RFC 3339, section 5.6
    """
    parts = _RFC3339.fullmatch(text)
    if parts is None:
        raise ValueError("is not an RFC 3339 instant with an offset, such as 2026-03-03T08:02:00Z")
    day, minute, second, fraction, offset = parts.groups()
    leap = second == "60"
    try:
        local = datetime.fromisoformat(f"{day}T{minute}:{'59' if leap else second}{fraction or ''}{offset.upper()}")
        return (local + timedelta(seconds=1) if leap else local).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise ValueError("is not a date and time that exists") from error
