"""Pages of a timeline or of a conversation, now or as it was known then."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg
import orjson

from services.conversation import past
from services.conversation.entries import Line
from services.conversation.reading.query import Query
from services.conversation.reading.shown import LINE, seen_by
from services.conversation.tables.conversations import WEEK
from shared.events import DERIVED_SOURCE, FAMILY, TYPE_PREFIX, parse_rfc3339, rfc3339


@dataclass(frozen=True, slots=True)
class Cursor:
    """A place on a timeline: the order key of an entry. Stays where it is while entries come before and after."""

    occurred_at: datetime
    source: str
    event_id: str

    def encode(self) -> str:
        parts = [rfc3339(self.occurred_at), self.source, self.event_id]
        return base64.urlsafe_b64encode(orjson.dumps(parts)).decode().rstrip("=")

    @classmethod
    def decode(cls, text: str) -> Cursor:
        """Read what `encode` wrote. Raises ValueError."""
        try:
            occurred_at, source, event_id = orjson.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
            cursor = cls(parse_rfc3339(occurred_at), source, event_id)
            # Only what was made here: anything else would mean a place that nobody was given.
            if cursor.encode() != text.rstrip("=") or "\0" in source + event_id:
                raise ValueError("not as it was given")
            return cursor
        except (ValueError, TypeError, OverflowError, binascii.Error) as error:
            raise ValueError("not a cursor of this API; take `before` or `after` of an answer as it is") from error


@dataclass(frozen=True, slots=True)
class Page:
    """What a reader wants of a timeline. `before` and `after` bound it; without either it is the newest part."""

    limit: int = 50
    before: Cursor | None = None
    after: Cursor | None = None
    channels: tuple[str, ...] = ()
    families: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    conversation_id: UUID | None = None
    since: datetime | None = None
    until: datetime | None = None
    own_only: bool = False
    as_of: datetime | None = None
    """What was known then; None: what is known now."""


def _filters(query: Query, page: Page) -> None:
    if page.channels:
        query.add("e.channel = ANY({}::text[])", list(page.channels))
    if page.families:
        known = [channel for channel, family in FAMILY.items() if family in page.families]
        query.add("e.channel = ANY({}::text[])", known + list(page.families))
    if page.kinds:
        full = [kind if kind.startswith(TYPE_PREFIX) else TYPE_PREFIX + kind for kind in page.kinds]
        query.add("e.type = ANY({}::text[])", full)
    if page.since is not None:
        query.add("e.occurred_at >= {}", page.since)
    if page.until is not None:
        query.add("e.occurred_at < {}", page.until)
    for cursor, sign in ((page.before, "<"), (page.after, ">")):
        if cursor is not None:
            # The first comparison is what the index can use.
            query.add(f"e.occurred_at {sign}= {{}}", cursor.occurred_at)
            place = (cursor.occurred_at, cursor.source, cursor.event_id)
            query.add(f"(e.occurred_at, e.source, e.event_id) {sign} ({{}}, {{}}, {{}})", *place)


def _ordered(page: Page) -> str:
    # Reading forward from a cursor takes the oldest of the newer ones; everything else the newest.
    way = "ASC" if page.after is not None and page.before is None else "DESC"
    return f"ORDER BY e.occurred_at {way}, e.source {way}, e.event_id {way} LIMIT {page.limit + 1}"


_MINE = "mine AS MATERIALIZED (SELECT leaf_id FROM conversation.leaf WHERE tenant_id = $1 AND customer_id = $2)"

_PLACE = f"conversation_id, canonical_id, merged_source = '{DERIVED_SOURCE}' AS joined_whole"
_NAMES = ", ".join(f"e.{name}" for name in Line._fields)


_OWN = """
SELECT e.*, coalesce(met.canonical_id, e.conversation_id) AS canonical_id, $2 AS customer_id, met.joined_whole
FROM own e LEFT JOIN met USING (conversation_id)
"""


def _met(found: str) -> str:
    """Return SQL for what the conversations of the statement `found` are now: once each, however many entries it has.

    OFFSET 0 keeps the look-ups nested; joined, the planner takes them for reasons to read whole tables.
    """
    return f"""met AS MATERIALIZED (SELECT c.* FROM ({found}) AS m,
        LATERAL (SELECT {_PLACE} FROM conversation.conversation
                 WHERE tenant_id = $1 AND conversation_id = m.conversation_id OFFSET 0) AS c)"""  # noqa: S608


# The conversations that went on until the oldest of the customer's own entries: in no others did anybody say something
# that the page may hold. A coalesce in the comparison would keep it from the index, since row security trusts but few
# kinds of expressions.
_REACHED = """
    SELECT conversation_id FROM own
    UNION
    SELECT p.conversation_id FROM mine,
    LATERAL (SELECT conversation_id FROM conversation.participation
             WHERE tenant_id = $1 AND leaf_id = mine.leaf_id
                 AND active_week >= (SELECT week FROM reach) OFFSET 0) AS p"""

# Of those, the ones that are not the customer's alone, with all that was merged into them: a line that was derived in
# one part may be another's, of whom there is nothing else in that part.
_OTHERS = f"""
parts AS MATERIALIZED (
    SELECT k.* FROM (SELECT DISTINCT canonical_id FROM met) AS part,
    LATERAL (SELECT {_PLACE} FROM conversation.conversation
             WHERE tenant_id = $1 AND canonical_id = part.canonical_id OFFSET 0) AS k),
others AS MATERIALIZED (
    SELECT * FROM parts WHERE canonical_id IN (
        SELECT canonical_id FROM parts AS k,
        LATERAL (SELECT FROM conversation.participation WHERE tenant_id = $1 AND conversation_id = k.conversation_id
                     AND leaf_id NOT IN (SELECT leaf_id FROM mine) LIMIT 1) AS another))"""  # noqa: S608


async def timeline(
    connection: asyncpg.Connection, tenant: str, customer_id: UUID, page: Page
) -> tuple[list[dict[str, Any]], bool]:
    """Return a page of a customer's timeline, newest first, and whether more lies beyond it.

    It holds the customer's own entries over all their leaves and, unless `own_only`, what others said in the
    conversations they take part in.
    """
    if page.as_of is not None:
        return await _timeline_as_of(connection, tenant, customer_id, page, page.as_of)
    query = Query([tenant, customer_id])
    _filters(query, page)
    if page.conversation_id is not None:
        query.add(
            "e.conversation_id IN (SELECT conversation_id FROM conversation.conversation "
            "WHERE tenant_id = $1 AND canonical_id = {})",
            page.conversation_id,
        )
    ordered = _ordered(page)
    own = f"""own AS MATERIALIZED (SELECT e.* FROM mine, LATERAL (
        SELECT {LINE} FROM conversation.entry e
        WHERE e.tenant_id = $1 AND e.leaf_id = mine.leaf_id{query.text()} {ordered}) AS e {ordered})"""  # noqa: S608
    tables = [_MINE, own]
    parts = [_OWN]
    if page.own_only:
        tables.append(_met("SELECT DISTINCT conversation_id FROM own"))
    else:
        parts.append(f"""SELECT {_NAMES}, others.canonical_id, l.customer_id, others.joined_whole FROM others, LATERAL (
            SELECT {LINE}, e.leaf_id FROM conversation.entry e
            WHERE e.tenant_id = $1 AND e.conversation_id = others.conversation_id
                AND e.leaf_id NOT IN (SELECT leaf_id FROM mine){query.text()} {ordered}) AS e,
            LATERAL (SELECT customer_id FROM conversation.leaf
                     WHERE tenant_id = $1 AND leaf_id = e.leaf_id OFFSET 0) AS l""")  # noqa: S608
        begins = f"greatest({query.parameter(_begins(page))}::timestamptz, ({_oldest(page)}))"
        tables.append(f"reach AS MATERIALIZED (SELECT coalesce({WEEK.format(begins)}, {-(2**31)}) AS week)")
        tables += [_met(_REACHED), _OTHERS]
    shown = " UNION ALL ".join(parts)
    statement = f"WITH {', '.join(tables)} SELECT e.* FROM ({shown}) AS e {ordered}"  # noqa: S608
    return await _page(connection, statement, query.arguments, page, customer_id)


def _oldest(page: Page) -> str:
    """Return SQL for what a full page of the customer's own entries ends with; nothing older can be on it."""
    forward = page.after is not None and page.before is None
    return "NULL" if forward else f"SELECT min(occurred_at) FROM own HAVING count(*) > {page.limit}"  # noqa: S608


def _begins(page: Page) -> datetime | None:
    """Return an instant before which nothing is on the page, where what was asked for says one."""
    after = page.after.occurred_at if page.after else None
    return max((at for at in (page.since, after) if at), default=None)


async def _timeline_as_of(
    connection: asyncpg.Connection, tenant: str, customer_id: UUID, page: Page, as_of: datetime
) -> tuple[list[dict[str, Any]], bool]:
    query = Query([tenant, as_of, customer_id])
    _filters(query, page)
    canonical_id = past.CANONICAL_OF.format("e.conversation_id")
    if page.conversation_id is not None:
        query.add(f"{canonical_id} = {{}}", page.conversation_id)
    place = f"CASE WHEN e.conversation_id IS NOT NULL THEN {canonical_id} END"
    ordered = _ordered(page)
    statement = f"""{past.timeline_sql(own_only=page.own_only, narrowed=query.text(), ordered=ordered)}
        SELECT {LINE}, {place} AS canonical_id, {past.CUSTOMER_OF.format("e.leaf_id")} AS customer_id,
               {past.JOINED_WHOLE.format("e.conversation_id")} AS joined_whole
        FROM e {ordered}"""  # noqa: S608
    return await _page(connection, statement, query.arguments, page, customer_id)


async def conversation_entries(
    connection: asyncpg.Connection, tenant: str, conversation_id: UUID, page: Page
) -> tuple[list[dict[str, Any]], bool]:
    """Return a page of the entries of one conversation (by canonical id), newest first, and whether more follows."""
    query = Query([tenant, conversation_id])
    _filters(query, page)
    ordered = _ordered(page)
    statement = f"""WITH placed AS (
            SELECT {_PLACE} FROM conversation.conversation WHERE tenant_id = $1 AND canonical_id = $2),
        e AS MATERIALIZED (SELECT e.*, placed.canonical_id, placed.joined_whole FROM placed, LATERAL (
            SELECT {LINE}, e.leaf_id FROM conversation.entry e
            WHERE e.tenant_id = $1 AND e.conversation_id = placed.conversation_id{query.text()} {ordered}) AS e
            {ordered}),
        whose AS MATERIALIZED (SELECT l.* FROM (SELECT DISTINCT leaf_id FROM e) AS e, LATERAL (
            SELECT leaf_id, customer_id FROM conversation.leaf
            WHERE tenant_id = $1 AND leaf_id = e.leaf_id OFFSET 0) AS l)
        SELECT {_NAMES}, canonical_id, customer_id, joined_whole FROM e JOIN whose USING (leaf_id) {ordered}"""  # noqa: S608
    return await _page(connection, statement, query.arguments, page, None)


async def _page(
    connection: asyncpg.Connection, statement: str, arguments: Sequence[Any], page: Page, reader: UUID | None
) -> tuple[list[dict[str, Any]], bool]:
    rows = await connection.fetch(statement, *arguments)
    more = len(rows) > page.limit
    rows = rows[: page.limit]
    if page.after is not None and page.before is None:
        rows.reverse()
    return [seen_by(reader, row) for row in rows], more


def cursor_of(entry: dict[str, Any]) -> str:
    """Return the cursor of an entry as the API gives it."""
    return Cursor(parse_rfc3339(entry["occurred_at"]), entry["source"], entry["event_id"]).encode()
