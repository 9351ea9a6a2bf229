"""`POST /v1/events`, its handshake, and what became of an event. Reads, asks the pure parts, appends, answers."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from time import monotonic
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.routing import APIRoute
from starlette.requests import HTTPConnection

from services.ingest import asyncapi, openapi
from services.ingest.attachments import taken_out
from services.ingest.cloudevents import (
    BATCH,
    MAX_BATCH_EVENTS,
    MAX_BODY_BYTES,
    STRUCTURED,
    Posted,
    Refused,
    read_request,
)
from services.ingest.intake import Intake
from services.ingest.limits import Pressure, RateLimit, TooMuch
from services.ingest.metrics import IngestMetrics
from services.ingest.reading import clean_text
from services.ingest.validation import InvalidEvent, encoded, validate
from shared.accepted import digest_of
from shared.auth import Authenticator, Principal, Require, require
from shared.database.engine import tenant_reader
from shared.entry_ids import entry_id_of, entry_secret
from shared.events import InboundEvent
from shared.problems import Fault, Problem, not_found
from shared.service import Platform
from shared.status import answer, status_of

DOOR = "events"


class EventsEndpoint:
    """Everything that the routes of `/v1/events` need, held once per process."""

    def __init__(self, platform: Platform, intake: Intake, metrics: IngestMetrics, pressure: Pressure) -> None:
        self._platform = platform
        self._intake = intake
        self._metrics = metrics
        self._pressure = pressure
        # Children are kept: looking one up by its labels costs more than counting.
        self._accepted = metrics.accepted.labels(DOOR)
        self._append_seconds = metrics.append_seconds
        self._rate = RateLimit(platform.settings.ingest_rate_limit)
        self._entry_secret = entry_secret(platform.secret_key)

    async def post(self, request: Request, principal: Principal) -> Response:
        """Take the events of one request. Raises Problem; LogUnavailable and DatabaseUnavailable become 503."""
        try:
            size_bytes = self._pressure.hold(request.headers.get("content-length"))
        except TooMuch as error:
            raise too_many(1, str(error)) from error
        try:
            events = self._read(request, await whole_body(request), principal.tenant)
            self._hold_to_the_rate(principal.tenant, len(events))
            began_s = monotonic()
            await self._intake.accept(events)
            self._append_seconds.observe(monotonic() - began_s)
        except Problem as problem:
            self._metrics.refused.labels(DOOR, str(problem.status)).inc()
            raise
        finally:
            self._pressure.release(size_bytes)
        self._accepted.inc(len(events))
        return accepted(events)

    async def status(self, principal: Principal, source: str, event_id: str) -> dict[str, str | None]:
        """Return what became of the event. Raises Problem 404."""
        tenant, source, event_id = principal.tenant, clean_text(source), clean_text(event_id)
        # Asked before the database: what is put on its timeline in between is forgotten here.
        waiting = self._platform.accepted.contains(tenant, source, event_id)
        async with tenant_reader(self._platform.pool, tenant) as connection:
            entry_id = entry_id_of(self._entry_secret, tenant, source, event_id)
            found = await status_of(connection, tenant, source, event_id, entry_id, digest_of(tenant, source, event_id))
        if found is not None:
            return found
        if waiting:
            return answer("accepted")
        raise not_found("event")

    def _read(self, request: Request, body: bytes, tenant: str) -> list[tuple[InboundEvent, bytes]]:
        try:
            posted = read_request(request.headers.raw, body)
        except Refused as error:
            raise refusal(error) from error
        return self._validated(posted, tenant)

    def _validated(self, posted: Posted, tenant: str) -> list[tuple[InboundEvent, bytes]]:
        received_at = self._platform.clock.now()
        events: list[tuple[InboundEvent, bytes]] = []
        faults: list[Fault] = []
        for number, event in enumerate(posted.events):
            try:
                valid = taken_out(validate(event, tenant, received_at))
                events.append((valid, encoded(valid)))
            except InvalidEvent as error:
                faults.extend(_faults(error, number if posted.batch else None))
        if faults:
            raise Problem(422, "Not valid", _whole(posted), errors=faults)
        return events

    def _hold_to_the_rate(self, tenant: str, count: int) -> None:
        wait_s = self._rate.wait_s(tenant, count, monotonic())
        if wait_s:
            raise too_many(wait_s, "more events than this tenant may post in a second: send it again later")


async def whole_body(request: Request) -> bytes:
    """Return the body as it came; its size is limited before it gets here (shared/web.py). Raises Problem 400.

    Read here, since `request.body()` goes by an asynchronous generator, which costs several times what there is to do.
    """
    pieces = []
    while True:
        message = await request.receive()
        if message["type"] != "http.request":
            raise Problem(400, "Bad request", "the body ended before it was whole")
        pieces.append(message.get("body", b""))
        if not message.get("more_body", False):
            return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _whole(posted: Posted) -> str:
    if not posted.batch:
        return "the event cannot be taken; see errors"
    return "a batch is taken whole or not at all: repair or leave out the items in errors, and send it again"


def _faults(error: InvalidEvent, number: int | None) -> Sequence[Fault]:
    """One fault per bad item of a batch; all faults of an event that came alone."""
    if number is None:
        return [Fault(f"#{fault.pointer}", fault.detail) for fault in error.faults]
    first = error.faults[0]
    return [Fault(f"#/{number}{first.pointer}", first.detail)]


def accepted(events: Sequence[tuple[InboundEvent, bytes]]) -> Response:
    """Return the 202 that names each event."""
    body = orjson.dumps({"accepted": [{"source": event.source, "id": event.id} for event, _ in events]})
    return Response(body, 202, media_type="application/json")


def refusal(error: Refused) -> Problem:
    """Return the answer to a request that cannot be read."""
    faults = [Fault(f"#{error.pointer}", error.detail)] if error.pointer is not None else []
    return Problem(error.status, _TITLES[error.status], error.detail, errors=faults)


_TITLES = {400: "Bad request", 413: "Too large", 415: "Unsupported media type", 422: "Not valid"}


def too_many(wait_s: int, detail: str) -> Problem:
    """Return the 429 that says when to come back."""
    return Problem(429, "Too many requests", detail, headers={"Retry-After": str(wait_s)})


class EitherScope(Require):
    """FastAPI dependency: the Principal of a request whose key has one of two scopes."""

    def __init__(self, scope: str, other: str) -> None:
        super().__init__(scope)
        self.other = other

    async def __call__(self, request: HTTPConnection) -> Principal:
        authenticator: Authenticator = request.app.state.auth
        try:
            return await authenticator.authorize(request, self.scope)
        except Problem as problem:
            if problem.status != 403:
                raise
            return await authenticator.authorize(request, self.other)


def straight_to(handle: Callable[[Request], Coroutine[Any, Any, Response]]) -> type[APIRoute]:
    """Return a route class that hands requests to `handle` straight away.

    FastAPI's solving of dependencies for each request costs as much as reading, checking and encoding an event; what
    it would solve here is a key, or two parts of the path. The function on the route stays the description of it.
    """

    class StraightRoute(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            return handle

    return StraightRoute


def add_events_routes(router: APIRouter, endpoint: EventsEndpoint, topic_prefix: str, version: str) -> None:
    """Add the routes of `/v1/events`, and the description of the topics."""
    topics = orjson.dumps(asyncapi.document(topic_prefix, version))

    async def take(request: Request) -> Response:
        authenticator: Authenticator = request.app.state.auth
        return await endpoint.post(request, await authenticator.authorize(request, "events:write"))

    async def post_events(principal: Annotated[Principal, Depends(require("events:write"))]) -> None:
        """See POST_DESCRIPTION; answered by `take`."""

    router.add_api_route(
        "/v1/events",
        post_events,
        methods=["POST"],
        tags=["ingest"],
        route_class_override=straight_to(take),
        status_code=202,
        summary="Post events as CloudEvents 1.0",
        description=POST_DESCRIPTION,
        response_class=Response,
        responses={
            202: openapi.response("The log has all of them durably", openapi.ACCEPTED_SCHEMA),
            **openapi.problems(
                s400="Not JSON, or a header that cannot be read",
                s413=f"More than {MAX_BODY_BYTES} bytes or {MAX_BATCH_EVENTS} events",
                s415="A content type, charset or encoding that is not read",
                s422="Events that cannot be taken, each with a pointer",
                s429="Above a limit that was set, or back-pressure; see Retry-After",
            ),
        },
        openapi_extra={"requestBody": openapi.REQUEST_BODY, "parameters": openapi.BINARY_HEADERS},
    )

    @router.options(
        "/v1/events",
        tags=["ingest"],
        status_code=204,
        summary="CloudEvents web hook handshake",
        response_class=Response,
    )
    async def handshake(request: Request) -> Response:
        """Answer the abuse protection of CloudEvents web hooks: whoever asks may send, with a key."""
        headers = {"Allow": "OPTIONS, POST"}
        origin = request.headers.get("webhook-request-origin")
        if origin is not None:
            headers["WebHook-Allowed-Origin"] = origin
            headers["WebHook-Allowed-Rate"] = "*"
        return Response(status_code=204, headers=headers)

    @router.get(
        "/v1/events/status",
        tags=["ingest"],
        summary="What became of one event",
        response_class=Response,
        responses={
            200: openapi.response("What is known of it", openapi.STATUS_SCHEMA),
            **openapi.problems(s404="Nobody knows an event of this source and id"),
        },
    )
    async def status(
        principal: Annotated[Principal, Depends(EitherScope("timeline:read", "events:write"))],
        source: Annotated[str, Query(description="The event's `source`", min_length=1)],
        id: Annotated[str, Query(description="The event's `id`", min_length=1)],
    ) -> Response:
        """`accepted` (in the log), `on_timeline`, `quarantined` (with its reason) or `erased`; 404 where unknown.

        For up to 2 s after its 202 an event may be unknown to another process than the one that took it.
        """
        return Response(orjson.dumps(await endpoint.status(principal, source, id)), media_type="application/json")

    @router.get("/asyncapi.json", include_in_schema=False)
    async def asyncapi_document() -> Response:
        return Response(topics, media_type="application/json")


POST_DESCRIPTION = f"""Take one event or a batch; 202 once the log has all of it durably.

Modes: structured (`{STRUCTURED}`, or `application/json` without a `ce-specversion` header), batch (`{BATCH}`, at most
{MAX_BATCH_EVENTS} events) and binary (`ce-*` headers, the data as JSON body); at most {MAX_BODY_BYTES} bytes.
(tenant, source, id) is an event's identity: sent again it is 202 again and changes nothing. A batch is taken whole or
refused whole, with one error per bad item. 503 with Retry-After: nothing was acknowledged, and sending again is safe.
An attachment may carry its bytes as `content` (base64); they are kept, and its `url` is then `/v1/attachments/…`.
An unusable handle (`null`, `anonymous`) does not refuse an event; fields beyond the known ones are kept as `extra`.
Numbers beyond 64 bits are refused, NUL characters and lone surrogates become U+FFFD. `time` more than 24 hours ahead
of the server is refused.
"""
