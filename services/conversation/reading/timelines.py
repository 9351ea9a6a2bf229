"""Pages of a timeline or of a conversation, now or as it was known then."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any, NamedTuple
from uuid import UUID

import asyncpg
import orjson

from services.conversation import entries, past
from services.conversation.reading.query import Query
from services.conversation.reading.shown import LINE, SHOWN, SHOWN_LINE, seen_by
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


def _forward(page: Page) -> bool:
    """Tell whether a page takes the oldest of what is newer than a cursor; every other takes the newest."""
    return page.after is not None and page.before is None


def _ordered(page: Page) -> str:
    way = "ASC" if _forward(page) else "DESC"
    return f"ORDER BY e.occurred_at {way}, e.source {way}, e.event_id {way} LIMIT {page.limit + 1}"


WAYS_OF_ASKING = 512
"""Statements kept for each kind of page: a limit of its own with filters of its own is a way of asking."""


class Nearest(NamedTuple):
    """From where on, and which way, a page is read for which nothing but times narrows what may be on it."""

    start: str
    """A condition on entries `e`: no nearer than where the page starts. Empty where it starts at the newest."""
    forward: bool
    limit: int


_PLACE = f"conversation_id, canonical_id, merged_source = '{DERIVED_SOURCE}' AS joined_whole"

_LINES = ", ".join(f"e.{name}" for name in entries.LINE)

# Without a customer: it is whoever asks.
_OWN = f"""
SELECT {_LINES}, coalesce(met.canonical_id, e.conversation_id) AS canonical_id, met.joined_whole,
       NULL::uuid AS customer_id
FROM own e LEFT JOIN met USING (conversation_id)
"""  # noqa: S608

_ANSWER = f"{SHOWN_LINE}, e.canonical_id::text, e.joined_whole, e.customer_id::text"


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
    narrowed, ordered, nearest = query.text(), _ordered(page), _nearest(query, page)
    if page.own_only:
        statement = _own_timeline(narrowed, ordered, nearest)
    else:
        statement = _whole_timeline(narrowed, ordered, nearest, query.parameter(_begins(page)), _oldest(page))
    return await _page(connection, statement, query.arguments, page, customer_id)


# A statement is written once for each way of asking: writing it anew took a tenth of a page's time.


@lru_cache(maxsize=WAYS_OF_ASKING)
def _own_timeline(narrowed: str, ordered: str, nearest: Nearest | None) -> str:
    met = _met("SELECT DISTINCT conversation_id FROM own")
    tables = f"{_own(narrowed, ordered, nearest)}, {met}"
    return f"WITH {tables} SELECT {_ANSWER} FROM ({_OWN}) AS e {ordered}"  # noqa: S608


@lru_cache(maxsize=WAYS_OF_ASKING)
def _whole_timeline(narrowed: str, ordered: str, nearest: Nearest | None, begins: str, oldest: str) -> str:
    said = f"""SELECT {_LINES}, others.canonical_id, others.joined_whole, l.customer_id FROM others, LATERAL (
            SELECT {LINE}, e.leaf_id FROM conversation.entry e
            WHERE e.tenant_id = $1 AND e.conversation_id = others.conversation_id
                AND e.leaf_id NOT IN (SELECT leaf_id FROM mine){narrowed} {ordered}) AS e,
            LATERAL (SELECT customer_id FROM conversation.leaf
                     WHERE tenant_id = $1 AND leaf_id = e.leaf_id OFFSET 0) AS l"""  # noqa: S608
    week = WEEK.format(f"greatest({begins}::timestamptz, ({oldest}))")
    reach = f"reach AS MATERIALIZED (SELECT coalesce({week}, {-(2**31)}) AS week)"
    tables = f"{_own(narrowed, ordered, nearest)}, {reach}, {_met(_REACHED)}, {_OTHERS}"
    return f"WITH {tables} SELECT {_ANSWER} FROM ({_OWN} UNION ALL {said}) AS e {ordered}"  # noqa: S608


def _own(narrowed: str, ordered: str, nearest: Nearest | None) -> str:
    """Return SQL for `mine`, the customer's leaves, and `own`, those of their entries that the page may hold.

    Of many leaves most have nothing on a page. Where each has its entry that is nearest to the start of the page tells
    an index by itself, and all that the page leaves to the others lies before the end of a page of the nearest one.
    """
    near = reached = ""
    if nearest is not None:
        way, within, never = ("ASC", "<=", "infinity") if nearest.forward else ("DESC", ">=", "-infinity")
        near = f""", (SELECT e.occurred_at FROM conversation.entry e
            WHERE e.tenant_id = $1 AND e.leaf_id = l.leaf_id{nearest.start}
            ORDER BY e.occurred_at {way} LIMIT 1) AS nearest"""  # noqa: S608
        reached = f""" WHERE mine.nearest {within} coalesce((
            SELECT e.occurred_at FROM conversation.entry e WHERE e.tenant_id = $1
                AND e.leaf_id = (SELECT leaf_id FROM mine ORDER BY nearest {way} NULLS LAST LIMIT 1){narrowed}
            ORDER BY e.occurred_at {way} OFFSET {nearest.limit} LIMIT 1), '{never}')"""  # noqa: S608
    return f"""mine AS MATERIALIZED (
        SELECT l.leaf_id{near} FROM conversation.leaf l WHERE l.tenant_id = $1 AND l.customer_id = $2),
    own AS MATERIALIZED (SELECT e.* FROM mine, LATERAL (
        SELECT {LINE} FROM conversation.entry e
        WHERE e.tenant_id = $1 AND e.leaf_id = mine.leaf_id{narrowed} {ordered}) AS e{reached} {ordered})"""  # noqa: S608


def _nearest(query: Query, page: Page) -> Nearest | None:
    """Return where a page starts; None where what is rare may be asked for: to look for that once costs enough."""
    if page.channels or page.families or page.kinds or page.conversation_id is not None:
        return None
    forward = _forward(page)
    at = _begins(page) if forward else _ends(page)
    start = "" if at is None else f" AND e.occurred_at {'>=' if forward else '<='} {query.parameter(at)}"
    return Nearest(start, forward, page.limit)


def _oldest(page: Page) -> str:
    """Return SQL for what a full page of the customer's own entries ends with; nothing older can be on it."""
    full = f"SELECT min(occurred_at) FROM own HAVING count(*) > {page.limit}"  # noqa: S608
    return "NULL" if _forward(page) else full


def _begins(page: Page) -> datetime | None:
    """Return an instant before which nothing is on the page, where what was asked for says one."""
    after = page.after.occurred_at if page.after else None
    return max((at for at in (page.since, after) if at), default=None)


def _ends(page: Page) -> datetime | None:
    """Return an instant after which nothing is on the page, where what was asked for says one."""
    before = page.before.occurred_at if page.before else None
    return min((at for at in (page.until, before) if at), default=None)


async def _timeline_as_of(
    connection: asyncpg.Connection, tenant: str, customer_id: UUID, page: Page, as_of: datetime
) -> tuple[list[dict[str, Any]], bool]:
    query = Query([tenant, as_of, customer_id])
    _filters(query, page)
    if page.conversation_id is not None:
        query.add(f"{past.CANONICAL_OF.format('e.conversation_id')} = {{}}", page.conversation_id)
    statement = _past_timeline(query.text(), _ordered(page), own_only=page.own_only)
    return await _page(connection, statement, query.arguments, page, customer_id)


@lru_cache(maxsize=WAYS_OF_ASKING)
def _past_timeline(narrowed: str, ordered: str, *, own_only: bool) -> str:
    place = f"CASE WHEN e.conversation_id IS NOT NULL THEN {past.CANONICAL_OF.format('e.conversation_id')} END"
    return f"""{past.timeline_sql(own_only=own_only, narrowed=narrowed, ordered=ordered)}
        SELECT {SHOWN}, ({place})::text AS canonical_id,
               {past.JOINED_WHOLE.format("e.conversation_id")} AS joined_whole,
               ({past.CUSTOMER_OF.format("e.leaf_id")})::text AS customer_id
        FROM e {ordered}"""  # noqa: S608


async def conversation_entries(
    connection: asyncpg.Connection, tenant: str, conversation_id: UUID, page: Page
) -> tuple[list[dict[str, Any]], bool]:
    """Return a page of the entries of one conversation (by canonical id), newest first, and whether more follows."""
    query = Query([tenant, conversation_id])
    _filters(query, page)
    statement = _conversation(query.text(), _ordered(page))
    return await _page(connection, statement, query.arguments, page, None)


@lru_cache(maxsize=WAYS_OF_ASKING)
def _conversation(narrowed: str, ordered: str) -> str:
    return f"""WITH placed AS (
            SELECT {_PLACE} FROM conversation.conversation WHERE tenant_id = $1 AND canonical_id = $2),
        e AS MATERIALIZED (SELECT e.*, placed.canonical_id, placed.joined_whole FROM placed, LATERAL (
            SELECT {LINE}, e.leaf_id FROM conversation.entry e
            WHERE e.tenant_id = $1 AND e.conversation_id = placed.conversation_id{narrowed} {ordered}) AS e
            {ordered}),
        whose AS MATERIALIZED (SELECT l.* FROM (SELECT DISTINCT leaf_id FROM e) AS e, LATERAL (
            SELECT leaf_id, customer_id FROM conversation.leaf
            WHERE tenant_id = $1 AND leaf_id = e.leaf_id OFFSET 0) AS l)
        SELECT {SHOWN_LINE}, e.canonical_id::text, e.joined_whole, whose.customer_id::text
        FROM e JOIN whose USING (leaf_id) {ordered}"""  # noqa: S608


async def _page(
    connection: asyncpg.Connection, statement: str, arguments: Sequence[Any], page: Page, reader: UUID | None
) -> tuple[list[dict[str, Any]], bool]:
    rows = await connection.fetch(statement, *arguments)
    more = len(rows) > page.limit
    rows = rows[: page.limit]
    if _forward(page):
        rows.reverse()
    who = str(reader) if reader else None
    return [seen_by(who, row) for row in rows], more


def cursor_of(entry: dict[str, Any]) -> str:
    """Return the cursor of an entry as the API gives it."""
    return Cursor(parse_rfc3339(entry["occurred_at"]), entry["source"], entry["event_id"]).encode()
