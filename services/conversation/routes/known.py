"""Whom and what an id in a path means now: an id that was merged away leads to what it became part of."""

from __future__ import annotations

from uuid import UUID

import asyncpg

from services.conversation.reading import conversations, customers
from services.conversation.routes.parameters import id_of
from shared.problems import not_found


async def customer(connection: asyncpg.Connection, tenant: str, text: str) -> UUID:
    """Return the id of the customer that `text` means. Raises Problem 404."""
    found = await customers.survivor(connection, tenant, id_of("customer", text))
    if found is None:
        raise not_found("customer")
    return found


async def conversation(connection: asyncpg.Connection, tenant: str, text: str) -> UUID:
    """Return the id of the conversation that `text` means. Raises Problem 404."""
    found = await conversations.canonical(connection, tenant, id_of("conversation", text))
    if found is None:
        raise not_found("conversation")
    return found
