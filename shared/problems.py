"""Errors as callers see them: `application/problem+json` (RFC 9457), and how every exception becomes one.

A stack trace, SQL or a secret never gets into an answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from shared.errors import Retryable, ThreadlineError
from shared.telemetry import logger

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_S = 2
"""What a caller is told to wait when the log or the database is away."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with one field: a JSON pointer into the body (`#/17/data/channel`), and a sentence.

    Fields outside the body are pointed at by their place: `#/query/limit`, `#/path/customer_id`, `#/header/…`.
    """

    pointer: str
    detail: str


class Problem(ThreadlineError):
    """An answer to a caller that says what was wrong, where, and what to do. Raise it anywhere below a route."""

    def __init__(
        self,
        status: int,
        title: str,
        detail: str | None = None,
        *,
        errors: Sequence[Fault] = (),
        headers: Mapping[str, str] | None = None,
        type: str = "about:blank",
        **members: Any,
    ) -> None:
        super().__init__(f"{status} {title}" + (f": {detail}" if detail else ""))
        self.status = status
        self.title = title
        self.detail = detail
        self.errors = tuple(errors)
        self.headers = dict(headers or {})
        self.type = type
        self.members = members

    def body(self) -> bytes:
        """Return the problem as JSON."""
        body: dict[str, Any] = {"type": self.type, "title": self.title, "status": self.status}
        if self.detail is not None:
            body["detail"] = self.detail
        if self.errors:
            body["errors"] = [{"pointer": fault.pointer, "detail": fault.detail} for fault in self.errors]
        return orjson.dumps(body | self.members)

    def response(self) -> Response:
        """Return the problem as an answer."""
        return Response(self.body(), self.status, headers=self.headers, media_type=MEDIA_TYPE)


def unavailable(detail: str = "Threadline cannot take or give this now; sending it again is safe") -> Problem:
    """Return the 503 for something that may succeed later."""
    return Problem(503, "Not available now", detail, headers={"Retry-After": str(RETRY_AFTER_S)})


def not_found(what: str, pointer: str | None = None) -> Problem:
    """Return the 404 for an id that does not exist, or belongs to another tenant: nobody can tell which.

    `pointer` says where in the body the id is.
    """
    detail = f"there is no such {what}"
    return Problem(404, "Not found", detail, errors=[Fault(pointer, detail)] if pointer else ())


def too_large(limit_bytes: int) -> Problem:
    """Return the 413 for a body above `limit_bytes`."""
    return Problem(413, "Too large", f"the request body is larger than {limit_bytes} bytes")


def install(app: FastAPI) -> None:
    """Make every exception of `app` a problem."""
    app.add_exception_handler(Problem, _problem)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Retryable, _retryable)


async def _problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    return error.response()


async def _retryable(request: Request, error: Exception) -> Response:
    logger().warning("not available", path=request.url.path, error=str(error))
    return unavailable().response()


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    # Python renamed 413 between its versions.
    title = "Too large" if error.status_code == 413 else HTTPStatus(error.status_code).phrase
    return Problem(error.status_code, title, _detail(request, error), headers=error.headers).response()


def _detail(request: Request, error: HTTPException) -> str:
    """Return what the router leaves out: which path it was, and where to look."""
    if error.status_code == 404:
        return f"there is nothing at {request.url.path}; /openapi.json lists what there is"
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "")
        return f"{request.method} is not for {request.url.path}" + (f"; it takes {allowed}" if allowed else "")
    return error.detail


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return from_validation(error.errors()).response()


def from_validation(errors: Sequence[Any]) -> Problem:
    """Return the answer to what pydantic found wrong with a request: 400 where it is not JSON, else 422."""
    if any(found["type"] == "json_invalid" for found in errors):
        return Problem(400, "Not JSON", "the request body is not valid JSON", errors=[Fault("#", "is not valid JSON")])
    faults = [Fault(pointer(found["loc"]), found["msg"].removeprefix("Value error, ")) for found in errors]
    return Problem(422, "Not valid", "some of what was sent is not valid; see errors", errors=faults)


def pointer(location: Sequence[str | int]) -> str:
    """Return FastAPI's location of a field as a JSON pointer fragment; the body's own fields begin at the root."""
    parts = location[1:] if location and location[0] == "body" else location
    if parts and parts[-1] == "[key]":
        parts = parts[
            :-1
        ]  # pydantic's word for a key that is wrong: the member with that key is what can be pointed at
    return "#" + "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in parts)
