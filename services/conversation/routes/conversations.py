"""`/v1/conversations`: the inbox, and one matter over all its contacts and channels."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends

from services.conversation.reading import conversations, timelines
from services.conversation.reading.conversations import Inbox
from services.conversation.routes import known, parameters
from services.conversation.routes.customers import Asked, Limit, paged
from services.conversation.routes.parameters import read
from shared.auth import Principal, require
from shared.database.engine import tenant_reader
from shared.service import Platform

Reader = Annotated[Principal, Depends(require("timeline:read"))]


def conversations_router(platform: Platform) -> APIRouter:
    """Return the routes of conversations."""
    router = APIRouter(tags=["conversations"])
    pool = platform.pool

    @router.get("/v1/conversations", summary="Conversations, the last active first")
    async def inbox(
        reader: Reader,
        state: Literal["open", "resolved"] | None = None,
        channel: str | None = None,
        assignee: str | None = None,
        team: str | None = None,
        waiting: bool | None = None,
        limit: Limit = 50,
        cursor: str | None = None,
    ) -> dict[str, Any]:
        after = read("cursor", cursor, parameters.read_list_cursor)
        wanted = Inbox(limit + 1, after, state, channel, assignee, team, waiting)
        async with tenant_reader(pool, reader.tenant) as connection:
            rows = await conversations.inbox(connection, reader.tenant, wanted)
            found = await conversations.conversations(connection, reader.tenant, [id_ for id_, _ in rows[:limit]])
        more = parameters.list_cursor(rows[limit - 1][1], rows[limit - 1][0]) if len(rows) > limit else None
        return {"conversations": found, "next": more}

    @router.get("/v1/conversations/{conversation_id}", summary="One conversation")
    async def one(reader: Reader, conversation_id: str) -> dict[str, Any]:
        async with tenant_reader(pool, reader.tenant) as connection:
            id_ = await known.conversation(connection, reader.tenant, conversation_id)
            return await conversations.conversation(connection, reader.tenant, id_)

    @router.get("/v1/conversations/{conversation_id}/entries", summary="The entries of one conversation, newest first")
    async def entries(reader: Reader, conversation_id: str, page: Asked) -> dict[str, Any]:
        async with tenant_reader(pool, reader.tenant) as connection:
            id_ = await known.conversation(connection, reader.tenant, conversation_id)
            found, more = await timelines.conversation_entries(connection, reader.tenant, id_, page)
        return {"conversation_id": str(id_), **paged(found, more, page)}

    return router
