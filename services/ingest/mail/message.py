"""Bytes → Mail: headers, text, html, attachments. Takes anything, in linear time, and never raises.

The standard `email` parser is not used: its header classes take exponential time or raise on crafted values. What is
read here is bounded everywhere: headers by number and length, parts by number and depth.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import sha256
from typing import NamedTuple

from services.ingest.mail.words import base64_bytes, clean, decode, decode_words, header_text, parameters

MOST_HEADERS = 2_000
LONGEST_HEADER = 1_048_576
"""Bytes of one header value that are read; 10,000 References take about 700 kB."""

DEEPEST = 20
MOST_PARTS = 1_000


class Headers:
    """Header fields in order; names in lower case, values unfolded but not decoded.

    Values given as `folded` are unfolded when they are asked for: of the long headers of a mail few ever are.
    """

    __slots__ = ("_fields", "_first", "_folded")

    def __init__(self, fields: Iterable[tuple[str, str]] = (), *, folded: bool = False) -> None:
        self._fields = tuple(fields)
        # Of several with one name the first stays.
        self._first = dict(reversed(self._fields))
        self._folded = folded

    def __bool__(self) -> bool:
        return bool(self._fields)

    def __contains__(self, name: str) -> bool:
        return name in self._first

    def __iter__(self) -> Iterator[str]:
        """Go through the names in order, each once."""
        return iter(dict.fromkeys([name for name, _ in self._fields]))

    def lacks(self, names: Sequence[str]) -> list[str]:
        """Return those of `names` of which there is no field."""
        first = self._first
        return [name for name in names if name not in first]

    def has_any(self, names: frozenset[str]) -> bool:
        """Tell whether there is a field of one of `names`."""
        return not names.isdisjoint(self._first)

    def has_any_that_begins(self, prefix: str) -> bool:
        """Tell whether there is a field whose name begins with `prefix`."""
        # All names at once first: looking at each costs five times as much, and nearly no mail has one.
        return prefix in "\n".join(self._first) and any(name.startswith(prefix) for name in self._first)

    def and_also(self, more: Iterable[tuple[str, str]]) -> Headers:
        """Return these fields with `more` after them."""
        return Headers((*((name, self._unfolded(value)) for name, value in self._fields), *more))

    def get(self, name: str) -> str | None:
        """Return the first value of `name`."""
        value = self._first.get(name)
        return value if value is None or not self._folded else self._unfolded(value)

    def get_all(self, name: str) -> list[str]:
        """Return all values of `name`."""
        first = self._first.get(name)
        if first is None:
            return []
        if len(self._first) == len(self._fields):
            return [self._unfolded(first)]
        return [self._unfolded(value) for key, value in self._fields if key == name]

    def text(self, name: str) -> str | None:
        """Return the first value of `name` with its encoded words decoded, None where it is missing or blank."""
        value = self.get(name)
        return decode_words(value).strip() or None if value is not None else None

    def _unfolded(self, value: str) -> str:
        if self._folded and ("\n" in value or "\r" in value):
            return value.replace("\r", "").replace("\n", "")
        return value


@dataclass(frozen=True, slots=True)
class Attachment:
    """One attached or inlined file; `part` is its number in the mail. `content` is None where only its facts came."""

    part: int
    name: str | None
    media_type: str
    size_bytes: int
    sha256: str
    content_id: str | None = None
    content: bytes | None = field(default=None, repr=False)


class Mail(NamedTuple):
    """One mail as read. `report` holds the fields of a delivery status, `original` the headers of the returned mail."""

    headers: Headers
    media_type: str
    text: str | None
    html: str | None
    attachments: tuple[Attachment, ...]
    report: tuple[Headers, ...] = ()
    original: Headers | None = None


@dataclass(slots=True)
class _Found:
    texts: list[str] = field(default_factory=list)
    htmls: list[str] = field(default_factory=list)
    attachments: list[Attachment] = field(default_factory=list)
    report: list[Headers] = field(default_factory=list)
    original: Headers | None = None
    enclosed: bytes | None = None
    parts: int = 0


def read(raw: bytes) -> Mail:
    """Read one mail. Never raises; the cost is linear in its length."""
    if b"\n" not in raw and b"\r" in raw:
        raw = raw.replace(b"\r", b"\n")
    headers, body = split(raw)
    media_type, options = parameters(headers.get("content-type") or "text/plain")
    if media_type == "text/plain" and "content-disposition" not in headers:
        # What `_walk` would find, without the walk.
        only = _text(headers, body, options.get("charset"))
        return Mail(headers, media_type, only if only.strip() else None, None, ())
    found = _Found()
    _walk(headers, body, found, 0, in_report=False)
    text, html = _joined(found.texts), _joined(found.htmls)
    if text is None and html is None and found.enclosed is not None:
        # A mail that only encloses another says what that one says.
        inner = _Found()
        _walk(*split(found.enclosed), inner, 1, in_report=False)
        text, html = _joined(inner.texts), _joined(inner.htmls)
    return Mail(
        headers=headers,
        media_type=media_type or "text/plain",
        text=text,
        html=html,
        attachments=tuple(found.attachments),
        report=tuple(found.report),
        original=found.original,
    )


def _joined(texts: list[str]) -> str | None:
    filled = [text for text in texts if text.strip()]
    return "\n".join(filled) if filled else None


def split(raw: bytes) -> tuple[Headers, bytes]:
    """Split a mail into its headers and its body. A leading mbox line and blank lines are skipped."""
    start = 0
    while raw[start : start + 1] in (b"\r", b"\n"):
        start += 1
    if raw.startswith((b"From ", b">From "), start):
        start = raw.find(b"\n", start) + 1 or len(raw)
    return _split_plain(raw, start) or split_slowly(raw, start)


def read_headers(written: bytes) -> Headers:
    """Read header fields that came without their mail."""
    written = written.strip()
    if not written.startswith((b"From ", b">From ")):
        headers = _plain_fields(written + b"\n")
        if headers is not None:
            return headers
    # There is a blank line in it, or a line of an mbox before it, or a line that is no field.
    return split(written + (b"\r\n\r\n" if b"\r\n" in written else b"\n\n"))[0]


def _split_plain(raw: bytes, start: int) -> tuple[Headers, bytes] | None:
    """Do what `split_slowly` does where nothing but ASCII fields stands before a blank line, as in nearly all mail."""
    ended = raw.find(b"\n", start)
    blank = b"\n\r\n" if raw[ended - 1 : ended] == b"\r" else b"\n\n"
    end = raw.find(blank, ended) if ended >= 0 else -1
    headers = _plain_fields(raw[start : end + 1]) if end >= 0 else None
    return (headers, raw[end + len(blank) :]) if headers is not None else None


def _plain_fields(block: bytes) -> Headers | None:
    """Return the fields of whole lines, or None where they are not all ASCII, or one of them is no field."""
    if len(block) > LONGEST_HEADER or not block.isascii() or b"\0" in block:
        return None
    lines = _LINES.findall(block.decode("ascii"))
    headers = Headers([(_name(name), value.strip()) for name, value in lines], folded=True)
    return headers if len(lines) <= MOST_HEADERS and "" not in headers else None


_LINES = re.compile(r"(?:([^:\n ]{1,200}+)[ \t]*+:)?+([^\n]*+\n(?:[ \t][^\n]*+\n)*+)")
"""A whole header field as in `_FIELD`; where a line is none, the line without a name."""


def split_slowly(raw: bytes, start: int = 0) -> tuple[Headers, bytes]:
    """Do what `split` does, from `start` on and whatever the bytes are."""
    at, end, stray = _FIELDS.match(raw, start).end(), len(raw), 0  # type: ignore[union-attr]
    # All at once as far as they follow each other.
    fields = _FIELD.findall(raw, start, at)
    match = _FIELD.match
    while at < end:
        field = match(raw, at)
        if field is not None:
            if len(fields) < MOST_HEADERS:
                fields.append(field.groups())
            at = field.end()
            continue
        stop = raw.find(b"\n", at) + 1 or end
        if not raw[at:stop].strip(b"\r\n"):
            at = stop
            break
        stray += 1
        if fields or stray > MOST_HEADERS:
            # The blank line is missing; the body begins here. (A stray line among headers is body too: nothing of the
            # mail is lost, it is only read as text.)
            break
        at = stop
    return Headers([_field(name, value) for name, value in fields]), raw[at:]


_FIELD = re.compile(rb"([^:\n ]{1,200}+)[ \t]*+:([^\n]*+\n?(?:[ \t][^\n]*+\n?)*+)")
"""A header field with its continuation lines. Possessive, so that no line is gone over twice."""

_FIELDS = re.compile(rb"(?:%s){0,%d}+" % (_FIELD.pattern, MOST_HEADERS))


def _field(name: bytes, value: bytes) -> tuple[str, str]:
    return _name(name.decode("ascii", "replace")), header_text(value[:LONGEST_HEADER])


@lru_cache(maxsize=1024)
def _name(written: str) -> str:
    return written.strip().lower()


def _walk(headers: Headers, body: bytes, found: _Found, depth: int, *, in_report: bool) -> None:
    found.parts += 1
    if found.parts > MOST_PARTS:
        return
    kind, options = parameters(headers.get("content-type") or "text/plain")
    disposition, named = parameters(headers.get("content-disposition") or "")
    if kind.startswith("multipart/"):
        boundary = options.get("boundary", "").encode("utf-8", "replace")
        chunks = list(_chunks(body, boundary)) if boundary and depth < DEEPEST else []
        for chunk in chunks:
            inner, content = split(chunk) if not chunk.startswith((b"\n", b"\r\n")) else (Headers(()), chunk)
            _walk(inner, content, found, depth + 1, in_report=kind == "multipart/report")
        if chunks:
            return
        # The boundary is missing or never occurs: what is there is read as text, not lost.
        kind = "text/plain"
    name = named.get("filename") or options.get("name")
    if kind in ("message/rfc822", "text/rfc822-headers") and in_report:
        found.original, _ = split(_content(headers, body))
    elif kind == "message/delivery-status":
        found.report.extend(_blocks(_content(headers, body)))
    elif disposition != "attachment" and "filename" not in named and kind in ("text/plain", "text/html", "", "text"):
        text = _text(headers, body, options.get("charset"))
        (found.htmls if kind == "text/html" else found.texts).append(text)
    else:
        content = _content(headers, body)
        found.attachments.append(_attachment(headers, content, kind, name, found.parts))
        if kind == "message/rfc822" and found.enclosed is None:
            found.enclosed = content


def _attachment(headers: Headers, content: bytes, kind: str, name: str | None, part: int) -> Attachment:
    content_id = (headers.get("content-id") or "").strip().strip("<>")
    return Attachment(
        part=part,
        name=clean(name)[:500] if name else None,
        media_type=kind or "application/octet-stream",
        size_bytes=len(content),
        sha256=sha256(content).hexdigest(),
        content_id=content_id[:500] or None,
        content=content,
    )


def _chunks(body: bytes, boundary: bytes) -> Iterator[bytes]:
    """Return the parts between the delimiters; a missing closing delimiter ends the last part with the body."""
    delimiter = b"--" + boundary
    at = body.find(delimiter)
    start = -1
    while at >= 0:
        after = at + len(delimiter)
        if (at == 0 or body[at - 1 : at] == b"\n") and _is_delimiter(body, after):
            if start >= 0:
                yield _without_last_break(body[start:at])
            if body.startswith(b"--", after):
                return
            end = body.find(b"\n", after)
            start = len(body) if end < 0 else end + 1
            after = start
        at = body.find(delimiter, after)
    if 0 <= start < len(body):
        yield body[start:]


def _is_delimiter(body: bytes, after: int) -> bool:
    """Whether nothing but `--` and blanks follows: a boundary may be the beginning of another."""
    end = body.find(b"\n", after, after + 200)
    tail = body[after : end if end >= 0 else after + 200]
    return tail.strip() in (b"", b"--")


def _without_last_break(chunk: bytes) -> bytes:
    if chunk.endswith(b"\r\n"):
        return chunk[:-2]
    return chunk[:-1] if chunk.endswith(b"\n") else chunk


def _text(headers: Headers, body: bytes, charset: str | None) -> str:
    return decode(_content(headers, body), charset).replace("\r\n", "\n")


def _content(headers: Headers, body: bytes) -> bytes:
    encoding = (headers.get("content-transfer-encoding") or "").split(";", 1)[0].strip().lower()
    if encoding == "base64":
        return base64_bytes(body)
    return binascii.a2b_qp(body) if encoding == "quoted-printable" else body


def _blocks(content: bytes) -> Iterator[Headers]:
    """Return the blocks of fields of a delivery status (RFC 3464): one of the message, one of each recipient."""
    for number, block in enumerate(content.replace(b"\r\n", b"\n").split(b"\n\n")):
        if number >= 200:
            return
        if block.strip():
            yield split(block.lstrip(b"\n"))[0]
