"""Query parameters that several routes share, read with errors that say what is wrong with which."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TypeVar
from uuid import UUID

import orjson
from fastapi import Request

from services.conversation.reading.timelines import Cursor
from shared.events import parse_rfc3339, rfc3339
from shared.problems import Fault, Problem, not_found

T = TypeVar("T")


def read(name: str, value: str | None, parse: Callable[[str], T]) -> T | None:
    """Parse a query parameter. Raises Problem 422 that points at it."""
    if value is None or value == "":
        return None
    try:
        return parse(value)
    except ValueError as error:
        raise invalid(name, str(error)) from error


def invalid(name: str, detail: str) -> Problem:
    """Return the 422 for one query parameter."""
    return Problem(422, "Invalid query", f"{name}: {detail}", errors=[Fault(f"#/query/{name}", detail)])


async def writable(request: Request) -> None:
    """Refuse a query that holds what no text in the database can hold. Raises Problem 422. A route's dependency."""
    for name, value in request.query_params.multi_items():
        if "\0" in value:
            raise invalid(name, "it holds a NUL character, which no text here does")


def instant(text: str) -> datetime:
    """Read an RFC 3339 instant with its offset (a space for `+` is read as `+`). Raises ValueError."""
    try:
        at = datetime.fromisoformat(text.strip().replace(" ", "+") if "T" in text.upper() else text)
    except ValueError:
        raise ValueError("write an instant as RFC 3339, such as 2026-03-03T08:00:00Z") from None
    if at.tzinfo is None:
        raise ValueError("the instant lacks its offset; end it with Z for UTC")
    try:
        return at.astimezone(UTC)
    except OverflowError:
        raise ValueError("the instant lies before the year 1 or after the year 9999 in UTC") from None


def cursor(text: str) -> Cursor:
    """Read a timeline cursor. Raises ValueError."""
    return Cursor.decode(text)


def id_of(what: str, text: str) -> UUID:
    """Read an id in a path. Raises Problem 404: what is no id of ours exists as little as an unknown one."""
    try:
        return UUID(text)
    except ValueError:
        raise not_found(what) from None


def uuid(text: str) -> UUID:
    """Read an id in a query. Raises ValueError."""
    try:
        return UUID(text)
    except ValueError:
        raise ValueError("this is not an id of this API") from None


def list_cursor(at: datetime, id_: UUID) -> str:
    """Return the cursor behind a row of a list that is ordered by (instant, id)."""
    return base64.urlsafe_b64encode(orjson.dumps([rfc3339(at), str(id_)])).decode().rstrip("=")


def read_list_cursor(text: str) -> tuple[datetime, UUID]:
    """Read what `list_cursor` wrote. Raises ValueError."""
    try:
        at, id_ = orjson.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
        return parse_rfc3339(at), UUID(id_)
    except (ValueError, TypeError, AttributeError, OverflowError, binascii.Error) as error:
        raise ValueError("not a cursor of this API; take `next` of an answer as it is") from error
