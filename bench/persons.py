"""People with long histories, for measurements: written by the conversation service itself, and a crowd around them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg

from services.conversation.identity import Node
from services.conversation.update import Outcome, put_events
from shared.database.engine import transaction
from shared.events import InboundEvent

TENANT = "bench"
SECRET = b"entry ids of a measurement"
AT_ONCE = 2_000
MATTER = 20
"""Entries of one matter, the last of which resolves it."""
END = datetime(2026, 6, 1, tzinfo=UTC)
"""The instant at which all histories end and decisions are made."""

CUSTOMER_OF = "SELECT customer_id FROM conversation.leaf WHERE tenant_id = $1 AND node = $2"


def a_life(name: str, entries: int, sessions: int, days: float = 730) -> Iterator[InboundEvent]:
    """Yield one person's matters, MATTER entries each and then resolved, one after the other over `days` until END.

    `sessions` of them, spread evenly, are chats: each a leaf of its own that its first message ties to the person's
    address, while what follows names the chat alone. The others are mails in a thread.
    """
    step = timedelta(days=days) / entries
    every = max(1, entries // MATTER // sessions) if sessions else entries
    for number in range(entries):
        at = END - step * (entries - number)
        matter, place = divmod(number, MATTER)
        data: dict[str, Any] = {"text": f"Message {number} of {name}.", "actor": {"type": "customer"}}
        chat = sessions and matter % every == 0
        if chat:
            data |= {"channel": "chat", "contact_id": f"{name}-{matter}"}
        else:
            first = f"<{matter}.0@{name}.example>"
            data |= {"channel": "email", "subject": "My order", "message_id": f"<{matter}.{place}@{name}.example>"}
            data["thread"] = {"in_reply_to": first} if place else {}
        if place == 0 or not chat:
            data["customer"] = {"handles": [{"kind": "email", "value": f"{name}@mail.example"}]}
        kind = "message.received" if place < MATTER - 1 else "conversation.resolved"
        yield event(f"{name}-{number}", kind, at, data)


def an_endless_matter(name: str, entries: int, days: float = 730) -> Iterator[InboundEvent]:
    """Yield what one person said in a thread that nobody ever resolves and that never rests, over `days` until END."""
    step = timedelta(days=days) / entries
    handles = {"handles": [{"kind": "email", "value": f"{name}@mail.example"}]}
    data = {"channel": "whatsapp", "contact_id": name, "thread": {"dm_thread": name}, "customer": handles}
    for number in range(entries):
        text = {"text": f"Message {number} of {name}.", "actor": {"type": "customer"}}
        yield event(f"{name}-{number}", "message.received", END - step * (entries - number), data | text)


def event(name: str, kind: str, at: datetime, data: dict[str, Any]) -> InboundEvent:
    """Return an event of the measured tenant."""
    return InboundEvent(TENANT, "/bench", name, f"threadline.{kind}", at, at, data)


def merged(name: str, one: Node, other: Node) -> InboundEvent:
    """Return an agent's word, at END, that two handles are one person's."""
    return event(
        name, "customer.merged", END + timedelta(hours=1), {"actor": {"type": "agent"}, "sides": [[one], [other]]}
    )


async def put(pool: asyncpg.Pool, events: Sequence[InboundEvent]) -> Outcome:
    """Put one batch on timelines in a transaction of its own."""
    async with transaction(pool) as connection:
        return await put_events(connection, TENANT, events, SECRET, END)


async def live(pool: asyncpg.Pool, name: str, entries: int, sessions: int, days: float = 730) -> UUID:
    """Put a life on timelines and return the customer's id."""
    return await tell(pool, name, list(a_life(name, entries, sessions, days)))


async def tell(pool: asyncpg.Pool, name: str, told: Sequence[InboundEvent]) -> UUID:
    """Put what a person said on timelines, in its order, and return the customer's id."""
    for start in range(0, len(told), AT_ONCE):
        await put(pool, told[start : start + AT_ONCE])
    customer_id: UUID = await pool.fetchval(CUSTOMER_OF, TENANT, f"email:{name}@mail.example")
    return customer_id


# Of each of the crowd: an address, and for every five entries a conversation. Ids are hashes, scattered as real ones.
CROWD = (
    """
    INSERT INTO conversation.leaf (tenant_id, leaf_id, node, component_id, customer_id, was_customer, last_entry_at,
                                   first_seen_at, last_seen_at, shown, channels)
    SELECT $1, id, 'email:p' || p || '@crowd.example', id, id, true, $4::timestamptz,
           $4::timestamptz - interval '2 years', $4::timestamptz,
           'p' || p || '@crowd.example', ARRAY['email']
    FROM generate_series($2::integer, $3::integer - 1) AS p, LATERAL (SELECT md5('leaf' || p)::uuid AS id) AS i
    """,
    """
    INSERT INTO conversation.conversation (tenant_id, conversation_id, canonical_id, opened_at, opened_source,
        opened_event_id, owner_leaf_id, last_entry_at, last_activity_at, tickets, channels, entries)
    SELECT $1, id, id, at, '/crowd', 'e' || p || '-' || n, md5('leaf' || p)::uuid, at, at, '{}', ARRAY['email'], 5
    FROM generate_series($2::integer, $3::integer - 1) AS p, generate_series(0, $5::integer - 1, 5) AS n,
    LATERAL (SELECT md5('entry' || p || '-' || n)::uuid AS id, $4::timestamptz - (n + 1) * interval '7 days' AS at) AS i
    """,
    """
    INSERT INTO conversation.participation (tenant_id, leaf_id, conversation_id, active_week)
    SELECT $1, md5('leaf' || p)::uuid, md5('entry' || p || '-' || n)::uuid,
           floor(extract(epoch FROM $4::timestamptz - (n + 1) * interval '7 days') / 604800)
    FROM generate_series($2::integer, $3::integer - 1) AS p, generate_series(0, $5::integer - 1, 5) AS n
    """,
    """
    INSERT INTO conversation.entry (tenant_id, entry_id, occurred_at, received_at, recorded_at, leaf_id,
        conversation_id, version, automatic, by_conversation, source, event_id, type, channel, rule, digest, data)
    SELECT $1, md5('entry' || p || '-' || n)::uuid, at, at, at, md5('leaf' || p)::uuid,
           md5('entry' || p || '-' || n / 5 * 5)::uuid, 1, false, false, '/crowd', 'e' || p || '-' || n,
           'threadline.message.received', 'email', CASE n % 5 WHEN 0 THEN 'new' ELSE 'mail' END, '\\x00',
           jsonb_build_object('channel', 'email', 'subject', 'My order', 'text', 'Message ' || n || ' of ' || p,
               'customer', jsonb_build_object('handles', jsonb_build_array(
                   jsonb_build_object('kind', 'email', 'value', 'p' || p || '@crowd.example'))))
    FROM generate_series($2::integer, $3::integer - 1) AS p, generate_series(0, $5::integer - 1) AS n,
    LATERAL (SELECT $4::timestamptz - (n + 1) * interval '7 days' AS at) AS i
    """,
)
EACH = 100
"""Entries of each person of the crowd."""
LOADED_AT_ONCE = 1_000
"""People loaded in one transaction."""


async def crowd(pool: asyncpg.Pool, start: int, entries: int) -> int:
    """Load people with EACH entries, numbered from `start` on, until there are `entries` more; return the next number.

    Their rows are made by the server: what is measured is reading among them, not how they came.
    """
    stop = start + entries // EACH
    for first in range(start, stop, LOADED_AT_ONCE):
        last = min(first + LOADED_AT_ONCE, stop)
        async with pool.acquire() as connection, connection.transaction():
            for statement in CROWD:
                arguments = (TENANT, first, last, END, EACH)
                used = arguments if "$5" in statement else arguments[:4]
                await connection.execute(statement, *used, timeout=600)
    return stop
