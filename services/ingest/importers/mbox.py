"""Mbox files of every writer, as a stream: memory holds one mail at a time.

A mail begins at a `From ` line. Writers differ in which lines of a body they quote as `>From `, and some quote none,
so a line counts only where it looks like an envelope (a date, or at most one word) and a header follows. Quotes are
taken off as mboxrd puts them on.

Source: RFC 4155; the variants as Thunderbird, Gmail, Mailman and mutt write them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from typing import BinaryIO

from services.ingest.importers.pieces import MOST_BYTES, NotReadable, Piece, too_large

LONGEST_LINE = 65_536
"""A longer line is read in pieces of so many bytes; only its beginning can begin a mail."""

_MONTHS = (b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec")
_DATE = re.compile(
    rb"\b(" + b"|".join(_MONTHS) + rb")\s{1,4}(\d{1,2})\s{1,4}(\d{1,2}):(\d\d)(?::(\d\d))?"
    rb"(?:\s([+-]\d{4}|[A-Z]{1,5}))?\s{1,4}(\d{4})(?:\s([+-]\d{4}))?(?:\sremote from \S{1,200})?\s*$"
)
_AT_MOST_ONE_WORD = re.compile(rb"From \S*\s*$")
_FIELD = re.compile(rb"[!-9;-~]{1,200}[ \t]?:|>From ")
_QUOTED = re.compile(rb">+From ")
_BLANK = (b"\n", b"\r\n")


def read(file: BinaryIO) -> Iterator[Piece]:
    """Yield the mails of an mbox in order. Raises NotReadable where it does not begin with a `From ` line, OSError."""
    mail: _Mail | None = None
    number = at = 0
    after_blank = after_break = True
    for line, following in _with_next(file):
        begins = line.startswith(b"From ") and after_break
        if begins and (mail is None or is_separator(line, following, after_blank=after_blank)):
            if mail is not None:
                yield mail.ended(at)
            number += 1
            mail = _Mail(f"message {number} (byte {at})", envelope_date(line))
        elif mail is not None:
            mail.add(line, whole=after_break)
        elif line.strip():
            raise NotReadable("it is no mbox: that begins with a line `From …`")
        after_blank, after_break = line in _BLANK, line.endswith(b"\n")
        at += len(line)
    if mail is not None:
        yield mail.ended(at)


def is_separator(line: bytes, following: bytes, *, after_blank: bool) -> bool:
    """Tell whether a line that starts with `From ` begins a mail, by itself and the lines around it."""
    dated = _DATE.search(line[:1_000]) is not None
    if _FIELD.match(following):
        return dated or (after_blank and _AT_MOST_ONE_WORD.match(line) is not None)
    return dated and after_blank and not following.strip()


def envelope_date(line: bytes) -> datetime | None:
    """Return the time of delivery that a `From ` line tells, read as UTC without an offset; None where it has none."""
    match = _DATE.search(line[:1_000])
    if match is None:
        return None
    month, day, hour, minute, second, before, year, after = match.groups()
    try:
        at = datetime(
            int(year), _MONTHS.index(month) + 1, int(day), int(hour), int(minute), int(second or b"0"),
            tzinfo=_zone(after or before),
        )  # fmt: skip
        return at.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def _zone(offset: bytes | None) -> timezone:
    if offset is None or offset[:1] not in b"+-":
        return UTC
    minutes = int(offset[1:3]) * 60 + int(offset[3:])
    return timezone(timedelta(minutes=-minutes if offset[:1] == b"-" else minutes))


def _with_next(file: BinaryIO) -> Iterator[tuple[bytes, bytes]]:
    """Yield each line with the one after it, empty at the end."""
    line = file.readline(LONGEST_LINE)
    while line:
        following = file.readline(LONGEST_LINE)
        yield line, following
        line = following


class _Mail:
    """The lines of the mail that is being read."""

    def __init__(self, place: str, delivered_at: datetime | None) -> None:
        self._place, self._delivered_at = place, delivered_at
        self._lines: list[bytes] = []
        self._size_bytes = 0

    def add(self, line: bytes, *, whole: bool) -> None:
        """Take one more line; `whole` where it is not the rest of a long one."""
        if whole and line.startswith(b">") and _QUOTED.match(line):
            line = line[1:]
        self._size_bytes += len(line)
        if self._size_bytes <= MOST_BYTES:
            self._lines.append(line)
        else:
            self._lines.clear()

    def ended(self, at: int) -> Piece:
        """Return the mail, which ends before byte `at`, without the empty line that the writer put after it."""
        if self._size_bytes > MOST_BYTES:
            return Piece(self._place, b"", at, fault=too_large(self._size_bytes))
        if len(self._lines) > 1 and self._lines[-1] in _BLANK:
            self._lines.pop()
        return Piece(self._place, b"".join(self._lines), at, self._delivered_at)
