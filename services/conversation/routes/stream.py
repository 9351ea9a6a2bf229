"""`/v1/stream`: timelines as they change, as server-sent events."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Header, Request
from fastapi.responses import StreamingResponse

from services.conversation import streaming
from services.conversation.reading import conversations, customers
from services.conversation.routes import parameters
from services.conversation.routes.parameters import invalid, read
from services.conversation.streaming import Tail, Wanted
from shared.auth import Principal, require
from shared.database.engine import tenant_reader
from shared.problems import Fault, Problem, not_found
from shared.service import Platform

SCOPE = "timeline:read"
Reader = Annotated[Principal, Depends(require(SCOPE))]
LARGEST_POSITION = 2**63 - 1


def stream_router(platform: Platform, tail: Tail) -> APIRouter:
    """Return the route of the stream."""
    router = APIRouter(tags=["stream"])

    @router.get(
        "/v1/stream",
        summary="Entries as they come and change",
        response_class=StreamingResponse,
        responses={200: {"content": {"text/event-stream": {}}, "description": "entry, correction and reset events"}},
    )
    async def stream(
        request: Request,
        reader: Reader,
        customer_id: str | None = None,
        conversation_id: str | None = None,
        last_event_id: Annotated[str | None, Header()] = None,
    ) -> StreamingResponse:
        if customer_id and conversation_id:
            raise invalid("conversation_id", "stream one customer or one conversation, not both")
        wanted = Wanted(
            reader.tenant,
            read("customer_id", customer_id, parameters.uuid),
            read("conversation_id", conversation_id, parameters.uuid),
        )
        await _must_exist(platform, wanted)

        async def allowed() -> bool:
            # A stream outlives the look at its key: one that is revoked, or expires, ends it.
            try:
                await platform.auth.authorize(request, SCOPE)
            except Problem:
                return False
            return True

        events = streaming.stream(platform.pool, tail, wanted, position_of(last_event_id), allowed)
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(events, media_type="text/event-stream", headers=headers)

    return router


async def _must_exist(platform: Platform, wanted: Wanted) -> None:
    async with tenant_reader(platform.pool, wanted.tenant) as connection:
        if wanted.customer_id and await customers.survivor(connection, wanted.tenant, wanted.customer_id) is None:
            raise not_found("customer")
        if (
            wanted.conversation_id
            and await conversations.canonical(connection, wanted.tenant, wanted.conversation_id) is None
        ):
            raise not_found("conversation")


def position_of(last_event_id: str | None) -> int | None:
    """Return the position that a reader resumes from. Raises Problem (422)."""
    if not last_event_id:
        return None
    if not (last_event_id.isascii() and last_event_id.isdigit() and int(last_event_id) <= LARGEST_POSITION):
        detail = "not a position of this stream; take the `id` of an event as it is, or leave the header out"
        raise Problem(422, "Invalid header", detail, errors=[Fault("#/header/last-event-id", detail)])
    return int(last_event_id)
