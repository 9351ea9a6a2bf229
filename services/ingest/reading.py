"""From body bytes to JSON values that every later step can store: no NUL, no lone surrogate, no number it would bend.

PostgreSQL refuses U+0000 in text and jsonb, UTF-8 has no lone surrogates, and orjson writes no integer beyond 64 bits
and nothing nested deeper than 254: what passes here passes there.
"""

from __future__ import annotations

import json
import math
import re
from hashlib import sha256
from typing import Any

import orjson

MAX_DEPTH = 64
"""Deepest nesting of `data`; the timeline's record wraps it a few levels more, and the encoder's own limit is 254."""

MAX_ATTRIBUTE_BYTES = 1_000
"""Longest `id` and `source`: (tenant, source, id) is an index row, and PostgreSQL's end at 2,704 bytes."""

REPLACEMENT = "\ufffd"

# Two steps, since the first costs a tenth of the second and nearly every body ends there.
_DIGITS_TO_ZERO = bytes.maketrans(b"0123456789", b"0" * 10)
_LONG_NUMBER = b"0" * 19
_LONG_INTEGER = re.compile(rb"[:,\[]\s*-?[0-9]{19}")


class NotJson(ValueError):
    """The body is not JSON that can be kept; the text is a sentence for the sender."""


def read_json(body: bytes) -> Any:
    """Return the value of a JSON text; NUL characters and lone surrogates in it, also in keys, become U+FFFD.

    Raises NotJson.
    """
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        return _read_slowly(body, str(error))
    if _LONG_NUMBER in body.translate(_DIGITS_TO_ZERO) and _LONG_INTEGER.search(body):
        # orjson reads an integer beyond 64 bits as the nearest double without a word.
        _loads(body.decode())
    return cleaned(value) if b"\\u0000" in body else value


def fault_in_shape(value: object) -> str | None:
    """Return what makes `value` impossible to keep: nested too deeply. None where nothing does."""
    depth = 0
    level: list[Any] = [value]
    while level:
        depth += 1
        if depth > MAX_DEPTH:
            return f"is nested more than {MAX_DEPTH} levels deep"
        level = [
            child
            for parent in level
            for child in (parent.values() if type(parent) is dict else parent)
            if type(child) is dict or type(child) is list
        ]
    return None


def cleaned(value: Any) -> Any:
    """Return `value` with NUL characters and lone surrogates replaced, keys included. Iterative: depth is no danger."""
    if isinstance(value, str):
        return clean_text(value)
    todo: list[Any] = [value] if isinstance(value, dict | list) else []
    while todo:
        parent = todo.pop()
        if isinstance(parent, dict):
            items = list(parent.items())
            parent.clear()
            for key, child in items:
                parent[clean_text(key)] = clean_text(child) if isinstance(child, str) else child
            children = parent.values()
        else:
            parent[:] = [clean_text(child) if isinstance(child, str) else child for child in parent]
            children = parent
        todo.extend(child for child in children if isinstance(child, dict | list))
    return value


def clean_text(text: str) -> str:
    """Return `text` with NUL characters and lone surrogates replaced by U+FFFD."""
    if "\0" in text:
        text = text.replace("\0", REPLACEMENT)
    try:
        text.encode()
    except UnicodeEncodeError:
        # A pair that stands apart only because it was escaped half by half is joined; what stays lone is replaced.
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _read_slowly(body: bytes, why: str) -> Any:
    """Read what orjson refused: lone surrogates, raw NULs in strings and a byte order mark are no reason to refuse."""
    try:
        text = body.replace(b"\0", REPLACEMENT.encode()).decode("utf-8", "surrogatepass").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise NotJson(f"the body is not UTF-8: byte {error.start} is not part of a character") from error
    if not text.strip():
        raise NotJson("the body is empty: a JSON text is needed")
    return cleaned(_loads(text, why))


def _loads(text: str, why: str = "") -> Any:
    try:
        return json.loads(text, parse_constant=_refuse_constant, parse_int=_integer, parse_float=_finite)
    except NotJson:
        raise
    except json.JSONDecodeError as error:
        raise NotJson(f"the body is not JSON: {error.msg}, line {error.lineno} column {error.colno}") from error
    except RecursionError as error:
        raise NotJson("the body is nested too deeply") from error
    except ValueError as error:
        raise NotJson(f"the body is not JSON: {why or error}") from error


def _refuse_constant(name: str) -> Any:
    raise NotJson(f"the body is not JSON: {name} is no JSON number")


def _integer(digits: str) -> int:
    if len(digits) > 20 or not -(2**63) <= (number := int(digits)) < 2**64:
        raise NotJson("an integer beyond 64 bits cannot be kept exactly: send it as a string")
    return number


def _finite(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise NotJson("a number is too large to be kept: send it as a string")
    return number


def storable_id(event_id: str) -> str:
    """Return the id, or its SHA-256 where it is longer than an index row takes."""
    data = event_id.encode()
    return event_id if len(data) <= MAX_ATTRIBUTE_BYTES else "sha256:" + sha256(data).hexdigest()
