"""Bodies as providers send them: JSON, forms, multipart. Linear time; no input raises anything but Unreadable.

What comes out is clean: no NUL and no lone surrogate, which JSON and forms can smuggle in and PostgreSQL refuses.
"""

from __future__ import annotations

import json
from binascii import a2b_qp
from collections.abc import Mapping, Sequence
from functools import lru_cache
from math import isfinite
from typing import Any, NamedTuple
from urllib.parse import unquote_to_bytes

import orjson

from services.ingest.adapters.base import Unreadable
from services.ingest.mail.words import clean, decode, parameters

Json = Any

_DEEPEST = 200
"""Levels of nesting that are read; no provider nests more than about ten."""

_MOST_FIELDS = 10_000
_MOST_PARTS = 2_000
_SHORT_FORM = 16_384
_SHORT_HEAD = 200


def read_json(body: bytes) -> Json:
    """Read JSON. Raises Unreadable."""
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        value = _read_json_leniently(body)
    # Only an escape can bring in what the encoding itself refuses.
    suspicious = b"\\u" in body and (b"\\u0000" in body or b"\\ud" in body or b"\\uD" in body)
    return _cleaned(value) if suspicious else value


def _read_json_leniently(body: bytes) -> Json:
    """Half a surrogate pair, cut off by a provider's length limit, is genuine mail all the same."""
    if body.count(b"[") + body.count(b"{") > 100_000:
        raise Unreadable("the body is not JSON: too many brackets")
    try:
        return json.loads(
            body.decode("utf-8-sig"), parse_constant=_no_constant, parse_int=_whole_number, parse_float=_finite
        )
    except (ValueError, RecursionError) as error:
        raise Unreadable(f"the body is not JSON: {str(error)[:200]}") from error


def _whole_number(digits: str) -> int | str:
    """Numbers beyond 64 bits stay as written: nothing behind this could store them, and as ids they are text."""
    return int(digits) if len(digits) <= 18 else digits


def _finite(digits: str) -> float | str:
    value = float(digits)
    return value if isfinite(value) else digits


def _no_constant(name: str) -> Json:
    raise ValueError(f"{name} is not JSON")


def _cleaned(value: Json, depth: int = 0) -> Json:
    if depth > _DEEPEST:
        raise Unreadable("the body is nested too deeply")
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, list):
        return [_cleaned(item, depth + 1) for item in value]
    if isinstance(value, dict):
        return {clean(key): _cleaned(item, depth + 1) for key, item in value.items()}
    return value


def read_object(body: bytes) -> dict[str, Json]:
    """Read a JSON object. Raises Unreadable."""
    value = read_json(body)
    if not isinstance(value, dict):
        raise Unreadable("the body is not a JSON object")
    return value


def mapping(value: Json) -> Mapping[str, Json]:
    """Return `value` where it is an object, else an empty one: optional parts may be absent, null or of a new shape."""
    return value if isinstance(value, dict) else {}


def items(value: Json) -> list[Json]:
    """Return `value` where it is a list, else an empty one."""
    return value if isinstance(value, list) else []


def text(value: Json) -> str | None:
    """Return a non-empty string or None; whole numbers (ids that a provider sends as numbers) become strings."""
    if isinstance(value, str):
        return value or None
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return None


def required(value: Json, name: str) -> str:
    """Return an id or other text that must be there. Raises Unreadable naming it."""
    found = text(value)
    if found is None:
        raise Unreadable(f"{name} is missing")
    return found


def whole(value: Json) -> int | None:
    """Return a whole number given as number or digits, or None."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    if isinstance(value, float):
        return int(value) if abs(value) < 2**53 else None
    if isinstance(value, str) and len(value) < 18 and value.strip().lstrip("-").isascii():
        try:
            return int(value)
        except ValueError:
            return None
    return None


def without_nothing(fields: Mapping[str, Json]) -> dict[str, Json]:
    """Return `fields` without those that say nothing (None, empty text, list or object)."""
    return {
        name: value
        for name, value in fields.items()
        if value or (value is not None and value != "" and value != [] and value != {})
    }


def read_form_bytes(body: bytes) -> Sequence[tuple[bytes, bytes]]:
    """Read application/x-www-form-urlencoded, blank values included, as bytes. Raises Unreadable."""
    return _last_pairs(body) if len(body) <= _SHORT_FORM else _pairs(body)


def _pairs(body: bytes) -> Sequence[tuple[bytes, bytes]]:
    if body.count(b"&") >= _MOST_FIELDS:
        raise Unreadable(f"the form has more than {_MOST_FIELDS} fields")
    pairs = []
    for piece in body.replace(b"+", b" ").split(b"&"):
        if piece:
            name, _, value = piece.partition(b"=")
            pairs.append((_unquoted(name) if b"%" in name else name, _unquoted(value) if b"%" in value else value))
    return tuple(pairs)


def _unquoted(written: bytes) -> bytes:
    """Do what `unquote_to_bytes` does, in a tenth of its time where every % is an escape."""
    if b"=" not in written and b"\n" not in written and b"\r" not in written:
        # Quoted-printable has the same escapes behind another sign, and each that is one makes three bytes one.
        decoded = a2b_qp(written.replace(b"%", b"="))
        if len(decoded) == len(written) - 2 * written.count(b"%"):
            return decoded
    return unquote_to_bytes(written)


# Where a form's fields are signed, its proof reads it and so does its parser straight after.
_last_pairs = lru_cache(maxsize=1)(_pairs)


def read_form(body: bytes) -> dict[str, str]:
    """Read a form in UTF-8; of repeated names the first value counts. Raises Unreadable."""
    pairs = [
        (name.decode("utf-8", "replace"), value.decode("utf-8", "replace")) for name, value in read_form_bytes(body)
    ]
    # Decoding replaces what would be a surrogate, so a NUL is all that may be left to clean.
    if b"\0" in body or b"%00" in body:
        pairs = [(clean(name), clean(value)) for name, value in pairs]
    return dict(reversed(pairs))


class Head(NamedTuple):
    """What is said about one part of a multipart form. `filename` is None for a plain field."""

    name: str
    filename: str | None
    media_type: str
    charset: str | None


Part = tuple[Head, bytes]
"""One part of a multipart form: its head and its content."""


def part_text(part: Part, charset: str | None = None) -> str:
    """Return the content decoded by `charset`, else by the part's own, else UTF-8; what does not fit is replaced."""
    head, content = part
    return decode(content, charset or head.charset or "utf-8")


def media_type(content_type: str | None) -> str:
    """Return the media type of a Content-Type header in lower case, without its parameters."""
    return (content_type or "").partition(";")[0].strip().lower()


def read_multipart(content_type: str, body: bytes) -> list[Part]:
    """Read multipart/form-data. Raises Unreadable."""
    delimiter = _delimiter(content_type) if len(content_type) > _SHORT_HEAD else _known_delimiter(content_type)
    plain = _plain_parts(body, delimiter)
    return plain if plain is not None else read_multipart_slowly(body, delimiter)


def _delimiter(content_type: str) -> bytes:
    boundary = parameters(content_type)[1].get("boundary", "")
    if not boundary or len(boundary) > 200:
        raise Unreadable("the multipart form has no boundary")
    return b"--" + boundary.encode("utf-8", "replace")


# SendGrid's boundary is always the same.
_known_delimiter = lru_cache(maxsize=64)(_delimiter)


def _plain_parts(body: bytes, delimiter: bytes) -> list[Part] | None:
    """Do what `read_multipart_slowly` does, or return None where a line or a head is not as in nearly all forms."""
    line = b"\n" + delimiter
    pieces = body.split(b"\r" + line, _MOST_PARTS - 1)
    ends = len(pieces) - 1
    if not ends or body.count(line) != ends or not body.startswith(delimiter) or b"\n" in delimiter:
        return None
    if not pieces.pop().startswith(b"--"):
        return None
    pieces[0] = pieces[0][len(delimiter) :]
    heads, _, contents = zip(*[piece.partition(b"\r\n\r\n") for piece in pieces], strict=True)
    if max(map(len, heads)) > _SHORT_HEAD:
        return None
    known = list(map(_plain_head, heads))
    return list(zip(known, contents, strict=True)) if None not in known else None  # type: ignore[arg-type]


# The forms of one provider have the same few fields.
@lru_cache(maxsize=512)
def _plain_head(written: bytes) -> Head | None:
    """Return what is said in a head that can be nothing else: no closing delimiter, no head before another break."""
    return None if written.startswith(b"--") or b"\n\n" in written else _head(written)


def read_multipart_slowly(body: bytes, delimiter: bytes) -> list[Part]:
    """Do what `read_multipart` does, whatever stands between and behind the delimiters."""
    return [part for chunk in _chunks(body, delimiter) if (part := _part(chunk)) is not None]


def _chunks(body: bytes, delimiter: bytes) -> list[bytes]:
    pieces = body.split(b"\n" + delimiter, _MOST_PARTS)
    if body.startswith(delimiter):
        pieces[0] = pieces[0][len(delimiter) :]
    elif len(pieces) == 1:
        raise Unreadable("the boundary of the multipart form does not occur in it")
    else:
        del pieces[0]
    closing = next((number for number, piece in enumerate(pieces) if piece.startswith(b"--")), None)
    if closing is None and len(pieces) < _MOST_PARTS:
        raise Unreadable("the multipart form is cut off")
    if closing is None or closing >= _MOST_PARTS:
        raise Unreadable(f"the multipart form has more than {_MOST_PARTS} parts")
    return [piece[:-1] if piece.endswith(b"\r") else piece for piece in pieces[:closing]]


def _part(chunk: bytes) -> Part | None:
    written, found, content = chunk.partition(b"\r\n\r\n")
    if not found:
        written, found, content = chunk.partition(b"\n\n")
    head = (_plain_head(written) if len(written) <= _SHORT_HEAD else None) or _head(written)
    return (head, content) if head is not None else None


def _head(written: bytes) -> Head | None:
    """Return None where the part has no name."""
    headers = {}
    for line in clean(written.decode("utf-8", "replace")).splitlines()[:50]:
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()
    _, disposition = parameters(headers.get("content-disposition", ""))
    kind, options = parameters(headers.get("content-type", "text/plain"))
    if "name" not in disposition:
        return None
    filename = clean(disposition["filename"]) if "filename" in disposition else None
    return Head(clean(disposition["name"]), filename, kind, options.get("charset"))
