"""Mbox files of every writer, as a stream: memory holds one mail and a block at a time.

A mail begins at a `From ` line. Writers differ in which lines of a body they quote as `>From `, and some quote none,
so a line counts only where it looks like an envelope (a date, or at most one word) and a header follows. Quotes are
taken off as mboxrd puts them on.

Source: RFC 4155; the variants as Thunderbird, Gmail, Mailman and mutt write them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from functools import lru_cache
from itertools import count
from typing import BinaryIO, NamedTuple

from services.ingest.importers.pieces import MOST_BYTES, NotReadable, Piece, too_large

LONGEST_ENVELOPE = 1_000
"""A longer line begins no mail."""

_BLOCK_BYTES = 256 * 1024
_LARGEST_BLOCK_BYTES = 8 * 1024 * 1024
_BREAK = b"\nFrom "
_LOOK_BYTES = len(_BREAK) + LONGEST_ENVELOPE + 300
"""Bytes after a break that tell whether a mail begins there: its line, and the beginning of the next."""
_MONTHS = (b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec")
_DATE = re.compile(
    rb"\b(" + b"|".join(_MONTHS) + rb")\s{1,4}(\d{1,2})\s{1,4}(\d{1,2}):(\d\d)(?::(\d\d))?"
    rb"(?:\s([+-]\d{4}|[A-Z]{1,5}))?\s{1,4}(\d{4})(?:\s([+-]\d{4}))?(?:\sremote from \S{1,200})?\s*$"
)
_AT_MOST_ONE_WORD = re.compile(rb"From \S*\s*$")
_FIELD = re.compile(rb"[!-9;-~]{1,200}[ \t]?:|>From ")
_QUOTED = re.compile(rb"^>(>*From )", re.MULTILINE)


def read(file: BinaryIO) -> Iterator[Piece]:
    """Yield the mails of an mbox in order. Raises NotReadable where it does not begin with a `From ` line, OSError."""
    return map(_piece, _spans(file), count(1))


def is_separator(line: bytes, following: bytes, *, after_blank: bool) -> bool:
    """Tell whether a line that starts with `From ` begins a mail, by itself and the lines around it."""
    dated = _dated(line.rstrip()) is not None
    if _FIELD.match(following):
        return dated or (after_blank and _AT_MOST_ONE_WORD.match(line) is not None)
    return dated and after_blank and not following.strip()


def envelope_date(line: bytes) -> datetime | None:
    """Return the time of delivery that a `From ` line tells, read as UTC without an offset; None where it has none."""
    match = _dated(line.rstrip())
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


@lru_cache(maxsize=4)
def _dated(line: bytes) -> re.Match[bytes] | None:
    """Find the date of a `From ` line. Kept until its mail is whole: it tells the beginning, and then the time."""
    return _DATE.search(line[:LONGEST_ENVELOPE])


def _zone(offset: bytes | None) -> timezone:
    if offset is None or offset[:1] not in b"+-":
        return UTC
    minutes = int(offset[1:3]) * 60 + int(offset[3:])
    return timezone(timedelta(minutes=-minutes if offset[:1] == b"-" else minutes))


class _Span(NamedTuple):
    """One mail with its `From ` line: where in the file it begins, its size, and its bytes (none where too large)."""

    at: int
    size_bytes: int
    data: bytes


def _piece(span: _Span, number: int) -> Piece:
    place, done = f"message {number} (byte {span.at})", span.at + span.size_bytes
    if span.size_bytes > MOST_BYTES:
        return Piece(place, b"", done, fault=too_large(span.size_bytes))
    envelope, _, raw = span.data.partition(b"\n")
    if b">From " in raw:
        raw = _QUOTED.sub(rb"\1", raw)
    # The writer put an empty line after the mail.
    raw = raw[:-1] if raw.endswith(b"\n\n") else raw[:-2] if raw.endswith(b"\n\r\n") else raw
    return Piece(place, raw, done, envelope_date(envelope))


def _spans(file: BinaryIO) -> Iterator[_Span]:
    """Cut the file into mails. A mail above MOST_BYTES is dropped while it is being read."""
    at, data = _beginning(file)
    # `at` is where in the file `data` begins, `start` and `searched` are places in `data`: of the mail that is being
    # read, and up to where it is known to go on; `dropped` bytes of it are gone.
    start = searched = dropped = 0
    ended = not data
    while data:
        found = data.find(_BREAK, searched)
        if found >= 0 and (ended or found + _LOOK_BYTES <= len(data)):
            searched = found + 1
            if _begins_mail(data, searched):
                yield _span(at, data, start, searched, dropped)
                start, dropped = searched, 0
        elif ended:
            yield _span(at, data, start, len(data), dropped)
            return
        else:
            searched = found if found >= 0 else max(searched, len(data) - len(_BREAK))
            if searched - start > MOST_BYTES:
                # Two bytes stay: they tell whether the line above the next mail is blank.
                dropped += searched - 2 - start
                start = searched - 2
            at, data, searched, start = at + start, data[start:], searched - start, 0
            block = file.read(min(max(len(data), _BLOCK_BYTES), _LARGEST_BLOCK_BYTES))
            data, ended = data + block, not block


def _beginning(file: BinaryIO) -> tuple[int, bytes]:
    """Return the place of the first mail in the file and the first bytes from there on, none in a blank file."""
    data = file.read(_BLOCK_BYTES)
    block = data
    while block and len(data.lstrip()) < len(_BREAK):
        block = file.read(_BLOCK_BYTES)
        data += block
    mail = data.lstrip()
    blank = data[: len(data) - len(mail)]
    if mail and not (blank[-1:] in (b"", b"\n") and mail.startswith(_BREAK[1:])):
        raise NotReadable("it is no mbox: that begins with a line `From …`")
    return len(blank), mail


def _begins_mail(data: bytes, start: int) -> bool:
    end = data.find(b"\n", start, start + LONGEST_ENVELOPE)
    if end < 0 and len(data) - start > LONGEST_ENVELOPE:
        return False
    line, following = (data[start : end + 1], data[end + 1 : end + 300]) if end >= 0 else (data[start:], b"")
    after_blank = data.endswith((b"\n\n", b"\n\r\n"), max(0, start - 3), start)
    return is_separator(line, following[: following.find(b"\n") + 1] or following, after_blank=after_blank)


def _span(at: int, data: bytes, start: int, end: int, dropped: int) -> _Span:
    size_bytes = dropped + end - start
    return _Span(at + start - dropped, size_bytes, b"" if dropped else data[start:end])
