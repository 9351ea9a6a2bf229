"""`/v1/chat/stream`: what is said in a visitor's own chat session, as server-sent events, by a ticket and no key."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Header, Query, Request
from fastapi.responses import StreamingResponse

from services.conversation.routes.stream import position_of
from services.conversation.visitors import Visitors
from shared.problems import Problem
from shared.service import Platform
from shared.visitor_tickets import STREAM_PATH, InvalidTicket, Ticket, read_ticket, ticket_key


def visitor_stream_router(platform: Platform, visitors: Visitors) -> APIRouter:
    """Return the route of visitors' streams."""
    router = APIRouter(tags=["chat"])
    key = ticket_key(platform.secret_key)

    @router.get(
        STREAM_PATH,
        summary="What is said in a visitor's own chat session, as it comes",
        response_class=StreamingResponse,
        responses={
            200: {
                "content": {"text/event-stream": {}},
                "description": "line, position, heartbeat, reset and ended events; see docs/chat.md",
            }
        },
    )
    async def stream(
        request: Request,
        ticket: Annotated[str, Query(max_length=4_000, description="from opening or renewing the session")],
        after: Annotated[str | None, Query(description="as Last-Event-ID, which wins")] = None,
        last_event_id: Annotated[str | None, Header()] = None,
    ) -> StreamingResponse:
        now = platform.clock.now()
        try:
            valid = read_ticket(ticket, key, now)
        except InvalidTicket as error:
            raise Problem(401, "Unauthorized", str(error)) from error
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no", **_readable_by(request, valid)}
        ends_in_s = (valid.expires_at - now).total_seconds()
        events = visitors.stream(valid, position_of(last_event_id or after), ends_in_s)
        return StreamingResponse(events, media_type="text/event-stream", headers=headers)

    return router


def _readable_by(request: Request, ticket: Ticket) -> dict[str, str]:
    """Let the website read that the ticket was given to. Raises Problem (403) for any other."""
    origin = request.headers.get("origin")
    if origin is None or origin.rpartition("://")[2] == request.headers.get("host"):
        return {}
    if origin != ticket.origin:
        raise Problem(403, "Forbidden", "this ticket was given to another website")
    return {"Access-Control-Allow-Origin": origin, "Vary": "Origin"}
