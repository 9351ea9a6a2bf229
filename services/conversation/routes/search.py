"""`/v1/search`: full text over entries, ranked."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query

from services.conversation import search
from services.conversation.reading import conversations, customers
from services.conversation.routes import parameters
from services.conversation.routes.customers import Choice, Limit, several
from services.conversation.routes.parameters import invalid, read
from services.conversation.search import Indexer, Question
from shared.auth import Principal, require
from shared.database.engine import tenant_reader
from shared.events import FAMILY, TYPE_PREFIX
from shared.service import Platform

Reader = Annotated[Principal, Depends(require("timeline:read"))]
MOST_BEYOND = 10_000


def search_router(platform: Platform, indexer: Indexer) -> APIRouter:
    """Return the route of the search; `indexer` lets it wait for what came before it."""
    router = APIRouter(tags=["search"])

    @router.get(
        "/v1/search",
        summary="Entries by their words, the best first",
        description="Of words that are in more than 5,000 entries the newest 5,000 are ranked, within `since` and "
        "`until`; with `customer_id` or `conversation_id` all of theirs are.",
    )
    async def find(
        reader: Reader,
        q: Annotated[str, Query(min_length=1, max_length=1000, description='words, "a phrase", or, -without')],
        limit: Limit = 50,
        cursor: str | None = None,
        channel: Choice = None,
        family: Choice = None,
        kind: Choice = None,
        customer_id: str | None = None,
        conversation_id: str | None = None,
        since: str | None = None,
        until: str | None = None,
    ) -> dict[str, Any]:
        words = q.replace("\0", " ").strip()
        if not words:
            raise invalid("q", "say what to look for")
        channels = _channels(several(channel), several(family))
        beyond = read("cursor", cursor, _read_cursor) or 0
        await indexer.catch_up(reader.tenant)
        async with tenant_reader(platform.pool, reader.tenant) as connection:
            customer = read("customer_id", customer_id, parameters.uuid)
            conversation = read("conversation_id", conversation_id, parameters.uuid)
            question = Question(
                words=words,
                limit=limit,
                beyond=beyond,
                channels=channels,
                kinds=tuple(k if k.startswith(TYPE_PREFIX) else TYPE_PREFIX + k for k in several(kind)),
                since=read("since", since, parameters.instant),
                until=read("until", until, parameters.instant),
                customer_id=customer and (await customers.survivor(connection, reader.tenant, customer) or customer),
                conversation_id=conversation
                and (await conversations.canonical(connection, reader.tenant, conversation) or conversation),
            )
            hits, more = await search.find(connection, reader.tenant, question)
        return {"hits": hits, "next": _cursor(beyond + limit) if more else None}

    return router


def _channels(channels: Sequence[str], families: Sequence[str]) -> tuple[str, ...]:
    """Return the channels that both choices allow; empty where neither narrows. A family is also its own channel."""
    allowed = (*(channel for channel, family in FAMILY.items() if family in families), *families)
    if not channels or not families:
        return tuple(channels) or allowed
    return tuple(channel for channel in channels if channel in allowed) or ("",)


def _cursor(beyond: int) -> str | None:
    return base64.urlsafe_b64encode(b"%d" % beyond).decode().rstrip("=") if beyond <= MOST_BEYOND else None


def _read_cursor(text: str) -> int:
    try:
        beyond = int(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    except (ValueError, binascii.Error) as error:
        raise ValueError("not a cursor of this API; take `next` of an answer as it is") from error
    if not 0 <= beyond <= MOST_BEYOND:
        raise ValueError("not a cursor of this API; take `next` of an answer as it is")
    return beyond
