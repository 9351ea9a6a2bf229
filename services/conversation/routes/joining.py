"""`/v1/conversations/{id}/join`: a wrong stitching put right by hand, as an event through the log."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends
from pydantic import BaseModel, ConfigDict, Field, model_validator

from services.conversation import joining
from services.conversation.reading import conversations
from services.conversation.routes import known
from services.conversation.routes.deciding import actor_of, carried_out, undecidable
from services.conversation.routes.parameters import id_of
from shared.auth import Principal, require
from shared.database.engine import tenant_reader
from shared.entry_ids import entry_secret
from shared.problems import not_found
from shared.service import Platform

Writer = Annotated[Principal, Depends(require("timeline:write"))]


class JoinBody(BaseModel):
    """What belongs into the conversation: single entries, or all of another conversation."""

    model_config = ConfigDict(extra="forbid")
    entry_ids: Annotated[
        list[str] | None, Field(min_length=1, max_length=joining.MOST_ENTRIES, description="ids of entries")
    ] = None
    conversation_id: Annotated[str | None, Field(description="id of another conversation")] = None
    reason: Annotated[str | None, Field(max_length=2000, description="why, for whoever asks later")] = None

    @model_validator(mode="after")
    def _one_of_both(self) -> JoinBody:
        if (self.entry_ids is None) == (self.conversation_id is None):
            raise ValueError("give either entry_ids or conversation_id")
        return self


def joining_router(platform: Platform) -> APIRouter:
    """Return the route that joins."""
    router = APIRouter(tags=["conversations"])
    secret = entry_secret(platform.secret_key)

    @router.post(
        "/v1/conversations/{conversation_id}/join",
        summary="Say what else belongs to this conversation",
        description="With the id of one of `entry_ids` in the path these entries leave the conversation that they were "
        "put into wrongly and become one of their own, under that id.",
    )
    async def join(writer: Writer, conversation_id: str, body: JoinBody) -> dict[str, Any]:
        async with tenant_reader(platform.pool, writer.tenant) as connection:
            ids = [id_of("entry", text) for text in body.entry_ids or ()]
            named = id_of("conversation", conversation_id)
            try:
                if named in ids and await conversations.canonical(connection, writer.tenant, named) != named:
                    into, wanted = named, await joining.of_their_own(connection, writer.tenant, named, ids)
                elif body.conversation_id is not None:
                    into = await known.conversation(connection, writer.tenant, conversation_id)
                    other = await known.conversation(connection, writer.tenant, body.conversation_id)
                    wanted = await joining.whole(connection, writer.tenant, into, other)
                else:
                    into = await known.conversation(connection, writer.tenant, conversation_id)
                    wanted = await joining.some(connection, writer.tenant, into, ids)
            except joining.Unjoinable as error:
                field = "conversation_id" if body.conversation_id is not None else "entry_ids"
                pointer = f"#/{field}" if error.index is None else f"#/{field}/{error.index}"
                if isinstance(error, joining.UnknownEntry):
                    raise not_found("entry", pointer) from error
                raise undecidable(pointer, str(error)) from error
        event = wanted.event(writer.tenant, body.reason, actor_of(writer), platform.clock.now())
        customer_id, held_by = await carried_out(platform, secret, event)
        return {"customer_id": str(customer_id), "conversation_id": str(held_by or into), "event_id": event.id}

    return router
