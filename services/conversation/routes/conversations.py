"""`/v1/conversations`: the inbox, and one matter over all its contacts and channels."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends

from services.conversation.reading import conversations, timelines
from services.conversation.reading.conversations import Inbox
from services.conversation.reading.timelines import Page
from services.conversation.routes import parameters
from services.conversation.routes.customers import Choice, Limit, paged, several
from services.conversation.routes.parameters import id_of, read
from shared.auth import Principal, require
from shared.database.engine import tenant_reader
from shared.problems import not_found
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
            id_ = await conversations.canonical(connection, reader.tenant, id_of("conversation", conversation_id))
            if id_ is None:
                raise not_found("conversation")
            return await conversations.conversation(connection, reader.tenant, id_)

    @router.get("/v1/conversations/{conversation_id}/entries", summary="The entries of one conversation, newest first")
    async def entries(
        reader: Reader,
        conversation_id: str,
        limit: Limit = 50,
        before: str | None = None,
        after: str | None = None,
        channel: Choice = None,
        family: Choice = None,
        kind: Choice = None,
        since: str | None = None,
        until: str | None = None,
    ) -> dict[str, Any]:
        page = Page(
            limit=limit,
            before=read("before", before, parameters.cursor),
            after=read("after", after, parameters.cursor),
            channels=several(channel),
            families=several(family),
            kinds=several(kind),
            since=read("since", since, parameters.instant),
            until=read("until", until, parameters.instant),
        )
        async with tenant_reader(pool, reader.tenant) as connection:
            id_ = await conversations.canonical(connection, reader.tenant, id_of("conversation", conversation_id))
            if id_ is None:
                raise not_found("conversation")
            found, more = await timelines.conversation_entries(connection, reader.tenant, id_, page)
        return {"conversation_id": str(id_), **paged(found, more, page)}

    return router
