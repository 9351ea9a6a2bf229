"""What a chat visitor sees of their own session: their messages and the answers, as they come, from a position on.

One reader per process looks at a tenant's changes once, however many of its visitors listen, and hands each session
what is said in it. A listener first reads what came before and then takes what is handed to it; positions, numbered
without gaps per tenant (services/conversation/streaming.py), make sure that nothing is missed or repeated between.

Seen are messages and what became of them, by an allow-list: notes, statuses, hand-overs, other sessions and other
channels of the same conversation are not.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import asyncpg
import orjson
import structlog

from services.conversation.facts import key_of
from services.conversation.streaming import AT_ONCE, BOUNDS, HEARTBEAT_S, Tail
from shared.database.engine import tenant_reader
from shared.errors import DatabaseUnavailable
from shared.events import TYPE_PREFIX, rfc3339
from shared.plaintext import html_to_text
from shared.visitor_tickets import Ticket

log = structlog.get_logger(__name__)

SHOWN = tuple(TYPE_PREFIX + kind for kind in ("message.received", "message.sent", "message.edited", "message.deleted"))
NEWEST = 500
"""Most lines of a session that a page gets which knows none yet."""
MOST_WAITING = 1_000
"""A listener further behind than this is cut off, and comes again with its position."""
MOST_STREAMS_OF_SESSION = 10
"""With one more, the oldest is cut off."""
FURTHEST_BEHIND = 20_000
"""Changes of the tenant after which reading the session again is cheaper than looking through them."""

# An answer that names no session belongs to who wrote last on the chat of its conversation before it.
LINES = """
SELECT {position} AS position, e.entry_id, e.event_id, e.type, e.occurred_at, e.version, e.data,
       coalesce(e.contact_id, asked.contact_id) AS session
FROM {source}
LEFT JOIN conversation.conversation k ON k.tenant_id = $1 AND k.conversation_id = e.conversation_id
LEFT JOIN LATERAL (
    SELECT m.contact_id
    FROM conversation.conversation c
    JOIN conversation.entry m ON m.tenant_id = $1 AND m.conversation_id = c.conversation_id
    WHERE e.contact_id IS NULL AND c.tenant_id = $1 AND c.canonical_id = k.canonical_id
        AND m.type = 'threadline.message.received' AND m.channel IN ('chat', 'web') AND m.contact_id IS NOT NULL
        AND m.occurred_at <= e.occurred_at
    ORDER BY m.occurred_at DESC, m.entry_id DESC LIMIT 1
) asked ON true
WHERE e.tenant_id = $1 AND e.type = ANY($2::text[])
    AND (e.channel IN ('chat', 'web') OR e.channel IS NULL)
    AND coalesce(e.contact_id, asked.contact_id) = ANY($3::text[])
"""

_CHANGED = "conversation.change v JOIN conversation.entry e ON e.tenant_id = v.tenant_id AND e.entry_id = v.entry_id"

CHANGED = (
    LINES.format(position="v.position", source=_CHANGED)
    + " AND v.tenant_id = $1 AND v.position > $4 AND v.position <= $5 ORDER BY v.position"
)

# A session binds its conversations (`contact:…`), and they have all that was said in it.
_OF_SESSION = """(
    SELECT x.* FROM conversation.entry x
    WHERE x.tenant_id = $1 AND x.conversation_id IN (
        SELECT o.conversation_id FROM conversation.binding b
        JOIN conversation.conversation h ON h.tenant_id = $1 AND h.conversation_id = b.conversation_id
        JOIN conversation.conversation o ON o.tenant_id = $1 AND o.canonical_id = h.canonical_id
        WHERE b.tenant_id = $1 AND b.key = $5)
) e"""

SO_FAR = (
    LINES.format(position="0::bigint", source=_OF_SESSION) + " ORDER BY e.occurred_at DESC, e.entry_id DESC LIMIT $4"
)

Line = tuple[int, bytes]
"""A position and the event that reaches it."""
Waiting = asyncio.Queue[Line | None]
"""What was handed to one listener and not sent yet; None cuts it off."""


@dataclass(slots=True)
class _Watched:
    """One tenant: the position up to which its changes were handed out, who listens to which session, who hands out."""

    reached: int
    listeners: dict[str, list[Waiting]] = field(default_factory=dict)
    reader: asyncio.Task[None] | None = None


class Visitors:
    """Hands what changes on timelines to the sessions that listen. One per process."""

    def __init__(self, pool: asyncpg.Pool, tail: Tail) -> None:
        self._pool = pool
        self._tail = tail
        self._tenants: dict[str, _Watched] = {}

    def close(self) -> None:
        """Stop reading; whoever still listens is cut off."""
        for watched in self._tenants.values():
            if watched.reader is not None:
                watched.reader.cancel()

    async def stream(self, ticket: Ticket, after: int | None, ends_in_s: float) -> AsyncIterator[bytes]:
        """Yield server-sent events of the ticket's session from `after` on, or all there is and then what comes.

        Ends with `ended` after `ends_in_s`, when the ticket does. `reset` says that the position is not known any
        more; everything that can be seen follows it.
        """
        clock = asyncio.get_running_loop().time
        ends_at_s = clock() + ends_in_s
        async with self._listening(ticket) as (watched, waiting):
            position, lines = await self._before(ticket, after)
            for line in lines:
                yield line
            while (left_s := ends_at_s - clock()) > 0:
                try:
                    found = await asyncio.wait_for(waiting.get(), min(HEARTBEAT_S, left_s))
                except TimeoutError:
                    # Everything up to there was handed out, so the page need not ask for it again.
                    position = max(position, watched.reached)
                    yield _event("heartbeat", position)
                    continue
                if found is None:
                    return
                if found[0] > position:
                    position = found[0]
                    yield found[1]
            yield _event("ended")

    @asynccontextmanager
    async def _listening(self, ticket: Ticket) -> AsyncIterator[tuple[_Watched, Waiting]]:
        if ticket.tenant not in self._tenants:
            async with tenant_reader(self._pool, ticket.tenant) as connection:
                last, _ = await _bounds(connection, ticket.tenant)
            # Known before anybody reads what came before: who reads later sees at least as much.
            self._tenants.setdefault(ticket.tenant, _Watched(last))
        watched = self._tenants[ticket.tenant]
        if watched.reader is None:
            watched.reader = asyncio.create_task(self._read(ticket.tenant, watched))
        waiting: Waiting = asyncio.Queue()
        listeners = watched.listeners.setdefault(ticket.session, [])
        listeners.append(waiting)
        if len(listeners) > MOST_STREAMS_OF_SESSION:
            listeners[0].put_nowait(None)
        try:
            yield watched, waiting
        finally:
            listeners.remove(waiting)
            if not listeners:
                del watched.listeners[ticket.session]
            if not watched.listeners:
                del self._tenants[ticket.tenant]
                watched.reader.cancel()

    async def _before(self, ticket: Ticket, after: int | None) -> tuple[int, list[bytes]]:
        """Return the position that listening starts from, and the events up to it that the page does not have.

        Lines of a whole session carry no position: who is cut off between them gets all of them again.
        """
        asked = (ticket.tenant, SHOWN, [ticket.session])
        async with tenant_reader(self._pool, ticket.tenant) as connection:
            last, first = await _bounds(connection, ticket.tenant)
            if after is not None and max(first - 1, last - FURTHEST_BEHIND) <= after <= last:
                rows = await connection.fetch(CHANGED, *asked, after, last)
                return last, [*(_told(row) for row in rows if not _is_internal(row)), _event("position", last)]
            rows = await connection.fetch(SO_FAR, *asked, NEWEST, key_of("contact", ticket.session))
        lines = [_event("line", None, line_of(row)) for row in reversed(rows) if not _is_internal(row)]
        start = [] if after is None else [_event("reset")]
        return last, [*start, *lines, _event("position", last)]

    async def _read(self, tenant: str, watched: _Watched) -> None:
        """Hand out a tenant's changes while anybody listens; a database that is away is waited for."""
        try:
            with self._tail.listening(tenant):
                while True:
                    try:
                        await self._hand_out(tenant, watched)
                    except DatabaseUnavailable as error:
                        log.warning("visitors' streams wait for the database", error=str(error))
                        await asyncio.sleep(1.0)
        finally:
            # Whatever ended it: pages come again with their position instead of waiting for nothing.
            for listeners in watched.listeners.values():
                for waiting in listeners:
                    waiting.put_nowait(None)

    async def _hand_out(self, tenant: str, watched: _Watched) -> None:
        if not await self._tail.beyond(tenant, watched.reached, HEARTBEAT_S):
            return
        async with tenant_reader(self._pool, tenant) as connection:
            last, _ = await _bounds(connection, tenant)
            upto = min(last, watched.reached + AT_ONCE)
            rows = await connection.fetch(CHANGED, tenant, SHOWN, list(watched.listeners), watched.reached, upto)
        watched.reached = upto
        for row in rows:
            if not _is_internal(row):
                _hand((row["position"], _told(row)), watched.listeners.get(row["session"], ()))


async def _bounds(connection: asyncpg.Connection, tenant: str) -> tuple[int, int]:
    """Return the last position of a tenant and the first that is still known."""
    bounds = await connection.fetchrow(BOUNDS, tenant)
    return (bounds["last"], bounds["first"]) if bounds else (0, 1)


def _hand(line: Line, listeners: Sequence[Waiting]) -> None:
    for waiting in listeners:
        if waiting.qsize() < MOST_WAITING:
            waiting.put_nowait(line)
        elif waiting.qsize() == MOST_WAITING:
            waiting.put_nowait(None)


def _is_internal(row: Mapping[str, Any]) -> bool:
    """Tell a note among agents, by the names that help desks give it."""
    data = row["data"]
    extra = data.get("extra") if isinstance(data.get("extra"), dict) else {}
    return any(data.get(name) or extra.get(name) for name in ("internal", "private", "note"))


def line_of(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the visitor sees of an entry: who by kind and name, the words, when; no ids of customers or staff."""
    data, actor = entry["data"], entry["data"].get("actor") or {}
    by = "customer" if entry["type"] == SHOWN[0] else actor.get("type") or "agent"
    at: datetime = entry["occurred_at"]
    return {
        # The visitor's own message is known by the id that their page gave it.
        "id": entry["event_id"] if by == "customer" else str(entry["entry_id"]),
        "type": entry["type"].removeprefix(TYPE_PREFIX),
        "from": by,
        "name": actor.get("name") if by != "customer" else None,
        "text": data.get("text") or (html_to_text(data["html"]) if data.get("html") else None),
        "attachments": data.get("attachments") or [],
        "message_id": data.get("message_id"),
        "refers_to": data.get("refers_to"),
        "at": rfc3339(at),
        "sequence": data.get("sequence"),
        "version": entry["version"],
    }


def _told(row: Mapping[str, Any]) -> bytes:
    return _event("line", row["position"], line_of(row))


def _event(name: str, position: int | None = None, data: Any = None) -> bytes:
    at = b"id: %d\n" % position if position is not None else b""
    return at + b"event: %s\ndata: %s\n\n" % (name.encode(), orjson.dumps(data or {}))
