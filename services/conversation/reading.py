"""The SQL of the API: customers, timelines and conversations as they stand. Every function reads one snapshot.

All run under row-level security (shared/database/engine.py, `tenant_reader`); the tenant is a parameter all the same,
since the indexes begin with it.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg
import orjson

from services.conversation import context as brief
from services.conversation import past, promises
from services.conversation.entries import COLUMNS, Entry, render
from services.conversation.promises import Step
from services.conversation.tables.conversations import WEEK
from shared import agreements, handles
from shared.events import DERIVED_SOURCE, FAMILY, TYPE_PREFIX, parse_rfc3339, rfc3339

_COLUMNS = ", ".join(f"e.{'tenant_id' if name == 'tenant' else name}" for name in COLUMNS)

# Whether an agent joined the whole conversation of an entry into another: of merges only those come from ourselves.
JOINED_WHOLE = f"coalesce(c.merged_source = '{DERIVED_SOURCE}', false) AS joined_whole"

# --- cursors ----------------------------------------------------------------------------------------------------------


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


# --- customers --------------------------------------------------------------------------------------------------------

CUSTOMER_OF_NODES = """
SELECT l.customer_id FROM conversation.leaf l WHERE l.tenant_id = $1 AND l.node = ANY($2::text[])
"""

# A weak handle (a browser) leads to somebody only where it was seen with one customer alone.
CUSTOMERS_OF_SIGHTINGS = """
SELECT DISTINCT l.customer_id FROM conversation.sighting s
JOIN conversation.leaf l ON l.tenant_id = s.tenant_id AND l.leaf_id = s.leaf_id
WHERE s.tenant_id = $1 AND s.node = ANY($2::text[]) LIMIT 2
"""

SURVIVOR = """
SELECT customer_id FROM conversation.leaf WHERE tenant_id = $1 AND leaf_id = $2 AND (was_customer OR customer_id = $2)
"""

LEAVES = """
SELECT leaf_id, node, shown, verified, was_customer, first_seen_at, last_seen_at, name, named_at, attributes, channels
FROM conversation.leaf WHERE tenant_id = $1 AND customer_id = $2 ORDER BY first_seen_at, node
"""

SIGHTINGS = """
SELECT node, max(shown) AS shown, bool_or(verified) AS verified, min(first_seen_at) AS first_seen_at,
       max(last_seen_at) AS last_seen_at
FROM conversation.sighting WHERE tenant_id = $1 AND leaf_id = ANY($2::uuid[]) GROUP BY node ORDER BY node
"""

OPEN_OF_LEAVES = """
SELECT DISTINCT k.conversation_id, k.last_activity_at FROM conversation.participation p
JOIN conversation.conversation c ON c.tenant_id = $1 AND c.conversation_id = p.conversation_id
JOIN conversation.conversation k ON k.tenant_id = $1 AND k.conversation_id = c.canonical_id
WHERE p.tenant_id = $1 AND p.leaf_id = ANY($2::uuid[]) AND k.resolved_at IS NULL
ORDER BY k.last_activity_at DESC NULLS LAST LIMIT 50
"""

# What belongs to nobody (a cost, an agent's shift) is on a line of its own, but is no customer to be found.
FIND_CUSTOMERS = """
SELECT customer_id, max(last_seen_at) AS seen_at FROM conversation.leaf
WHERE tenant_id = $1 AND last_seen_at IS NOT NULL AND node NOT LIKE 'anonymous:%'
    AND ($2::text IS NULL OR name ILIKE $2 OR shown ILIKE $2 OR node ILIKE $2)
GROUP BY customer_id HAVING ($3::timestamptz IS NULL OR (max(last_seen_at), customer_id) < ($3, $4::uuid))
ORDER BY seen_at DESC, customer_id DESC LIMIT $5
"""


async def customers_by_handle(
    connection: asyncpg.Connection, tenant: str, kind: str, nodes: Sequence[str]
) -> list[UUID]:
    """Return the customer whom this handle (in its possible matching forms) identifies: one or none."""
    if not nodes:
        return []
    rows = await connection.fetch(CUSTOMER_OF_NODES, tenant, list(nodes))
    found = {row["customer_id"] for row in rows}
    if not found and handles.strength(kind) >= handles.WEAK:
        found = {row["customer_id"] for row in await connection.fetch(CUSTOMERS_OF_SIGHTINGS, tenant, list(nodes))}
    return list(found) if len(found) == 1 else []


async def survivor(connection: asyncpg.Connection, tenant: str, customer_id: UUID) -> UUID | None:
    """Return who answers for a customer id, itself or the one it was merged into; None where there is no such id."""
    found: UUID | None = await connection.fetchval(SURVIVOR, tenant, customer_id)
    return found


async def find_customers(
    connection: asyncpg.Connection, tenant: str, text: str | None, after: tuple[datetime, UUID] | None, limit: int
) -> list[tuple[UUID, datetime]]:
    """Return (customer, last seen) by name or handle (all where `text` is None), the last seen first."""
    pattern = None
    if text:
        escaped = text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
        pattern = f"%{escaped}%"
    seen_at, id_ = after or (None, None)
    rows = await connection.fetch(FIND_CUSTOMERS, tenant, pattern, seen_at, id_, limit)
    return [(row["customer_id"], row["seen_at"]) for row in rows]


async def customer(connection: asyncpg.Connection, tenant: str, customer_id: UUID) -> dict[str, Any]:
    """Return a surviving customer as the API gives it."""
    leaves = await connection.fetch(LEAVES, tenant, customer_id)
    ids = [leaf["leaf_id"] for leaf in leaves]
    formers = [leaf["leaf_id"] for leaf in leaves if leaf["was_customer"]]
    sightings = await connection.fetch(SIGHTINGS, tenant, ids)
    open_ = await connection.fetch(OPEN_OF_LEAVES, tenant, ids)
    named = [leaf for leaf in leaves if leaf["name"] is not None]
    name = max(named, key=lambda leaf: leaf["named_at"])["name"] if named else None
    return {
        "id": str(customer_id),
        "name": name,
        "handles": [_handle(row) for row in (*leaves, *sightings) if _is_handle(row)],
        "attributes": _attributes(leaves),
        "channels": sorted({channel for leaf in leaves for channel in leaf["channels"]}),
        "merged_ids": [str(id_) for id_ in formers if id_ != customer_id],
        "first_seen_at": _time(min((at for leaf in leaves if (at := leaf["first_seen_at"])), default=None)),
        "last_seen_at": _time(max((at for leaf in leaves if (at := leaf["last_seen_at"])), default=None)),
        "open_conversations": [str(row["conversation_id"]) for row in open_],
    }


def _is_handle(row: asyncpg.Record) -> bool:
    return row["shown"] is not None and row["node"].partition(":")[0] in handles.STRENGTH


def _handle(row: asyncpg.Record) -> dict[str, Any]:
    return {
        "kind": row["node"].partition(":")[0],
        "value": row["shown"],
        "verified": row["verified"],
        "first_seen_at": _time(row["first_seen_at"]),
        "last_seen_at": _time(row["last_seen_at"]),
    }


def _attributes(leaves: Sequence[asyncpg.Record]) -> dict[str, Any]:
    latest: dict[str, tuple[str, Any]] = {}
    for leaf in leaves:
        for name, (value, at) in leaf["attributes"].items():
            if name not in latest or latest[name][0] <= at:
                latest[name] = (at, value)
    return {name: value for name, (_, value) in sorted(latest.items())}


def _time(at: datetime | None) -> str | None:
    return rfc3339(at) if at else None


# --- timelines --------------------------------------------------------------------------------------------------------


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


@dataclass(slots=True)
class _Query:
    """Conditions of one statement with their parameters."""

    arguments: list[Any]
    conditions: list[str] = field(default_factory=list)

    def parameter(self, value: Any) -> str:
        self.arguments.append(value)
        return f"${len(self.arguments)}"

    def add(self, condition: str, *values: Any) -> None:
        self.conditions.append(condition.format(*(self.parameter(value) for value in values)))

    def text(self) -> str:
        return "".join(f" AND {condition}" for condition in self.conditions)


def _filters(query: _Query, page: Page) -> None:
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

# The conversations in which others said something that the page may hold: those that went on until its oldest entry.
# OFFSET 0 and LIMIT keep the look-ups nested; joined, the planner takes them for reasons to read whole tables.
_OTHERS = f"""
reach AS MATERIALIZED (SELECT {WEEK.format("greatest({}::timestamptz, ({}))")} AS week),
part AS MATERIALIZED (
    SELECT DISTINCT c.canonical_id FROM mine,
    LATERAL (SELECT conversation_id FROM conversation.participation
             WHERE tenant_id = $1 AND leaf_id = mine.leaf_id
                 AND active_week >= coalesce((SELECT week FROM reach), {-(2**31)}) OFFSET 0) AS p,
    LATERAL (SELECT canonical_id FROM conversation.conversation
             WHERE tenant_id = $1 AND conversation_id = p.conversation_id OFFSET 0) AS c),
others AS MATERIALIZED (
    SELECT k.conversation_id FROM part,
    LATERAL (SELECT conversation_id FROM conversation.conversation
             WHERE tenant_id = $1 AND canonical_id = part.canonical_id OFFSET 0) AS k,
    LATERAL (SELECT FROM conversation.participation WHERE tenant_id = $1 AND conversation_id = k.conversation_id
                 AND leaf_id NOT IN (SELECT leaf_id FROM mine) LIMIT 1) AS another)
"""  # noqa: S608


async def timeline(
    connection: asyncpg.Connection, tenant: str, customer_id: UUID, page: Page
) -> tuple[list[dict[str, Any]], bool]:
    """Return a page of a customer's timeline, newest first, and whether more lies beyond it.

    It holds the customer's own entries over all their leaves and, unless `own_only`, what others said in the
    conversations they take part in.
    """
    if page.as_of is not None:
        return await _timeline_as_of(connection, tenant, customer_id, page, page.as_of)
    query = _Query([tenant, customer_id])
    _filters(query, page)
    if page.conversation_id is not None:
        query.add(
            "e.conversation_id IN (SELECT conversation_id FROM conversation.conversation "
            "WHERE tenant_id = $1 AND canonical_id = {})",
            page.conversation_id,
        )
    own = f"""own AS MATERIALIZED (SELECT e.* FROM mine, LATERAL (
        SELECT {_COLUMNS} FROM conversation.entry e
        WHERE e.tenant_id = $1 AND e.leaf_id = mine.leaf_id{query.text()} {_ordered(page)}) AS e
        {_ordered(page)})"""  # noqa: S608
    tables, parts = [_MINE, own], ["SELECT * FROM own"]
    if not page.own_only:
        parts.append(f"""SELECT e.* FROM others, LATERAL (
            SELECT {_COLUMNS} FROM conversation.entry e
            WHERE e.tenant_id = $1 AND e.conversation_id = others.conversation_id
                AND e.leaf_id NOT IN (SELECT leaf_id FROM mine){query.text()} {_ordered(page)}) AS e""")  # noqa: S608
        tables.append(_OTHERS.format(query.parameter(_begins(page)), _oldest(page)))
    statement = f"WITH {', '.join(tables)}, e AS ({' UNION ALL '.join(parts)}) {_WITH_PEOPLE} {_ordered(page)}"
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
    query = _Query([tenant, as_of, customer_id])
    _filters(query, page)
    canonical_id = past.CANONICAL_OF.format("e.conversation_id")
    if page.conversation_id is not None:
        query.add(f"{canonical_id} = {{}}", page.conversation_id)
    place = f"CASE WHEN e.conversation_id IS NOT NULL THEN {canonical_id} END"
    statement = f"""{past.timeline_sql(own_only=page.own_only)}
        SELECT {_COLUMNS}, {place} AS canonical_id, {past.CUSTOMER_OF.format("e.leaf_id")} AS customer_id,
               {past.JOINED_WHOLE.format("e.conversation_id")} AS joined_whole
        FROM e WHERE true{query.text()} {_ordered(page)}"""  # noqa: S608
    return await _page(connection, statement, query.arguments, page, customer_id)


_WITH_PEOPLE = f"""
SELECT {_COLUMNS}, coalesce(c.canonical_id, e.conversation_id) AS canonical_id, l.customer_id, {JOINED_WHOLE}
FROM e JOIN conversation.leaf l ON l.tenant_id = $1 AND l.leaf_id = e.leaf_id
LEFT JOIN conversation.conversation c ON c.tenant_id = $1 AND c.conversation_id = e.conversation_id
"""  # noqa: S608


async def conversation_entries(
    connection: asyncpg.Connection, tenant: str, conversation_id: UUID, page: Page
) -> tuple[list[dict[str, Any]], bool]:
    """Return a page of the entries of one conversation (by canonical id), newest first, and whether more follows."""
    query = _Query([tenant, conversation_id])
    _filters(query, page)
    statement = f"""WITH raw AS (
            SELECT conversation_id FROM conversation.conversation WHERE tenant_id = $1 AND canonical_id = $2),
        e AS (SELECT e.* FROM raw, LATERAL (
            SELECT {_COLUMNS} FROM conversation.entry e
            WHERE e.tenant_id = $1 AND e.conversation_id = raw.conversation_id{query.text()} {_ordered(page)}) AS e)
        {_WITH_PEOPLE} {_ordered(page)}"""  # noqa: S608
    return await _page(connection, statement, query.arguments, page, None)


async def _page(
    connection: asyncpg.Connection, statement: str, arguments: Sequence[Any], page: Page, reader: UUID | None
) -> tuple[list[dict[str, Any]], bool]:
    rows = await connection.fetch(statement, *arguments)
    more = len(rows) > page.limit
    rows = rows[: page.limit]
    if page.after is not None and page.before is None:
        rows.reverse()
    return [_seen_by(reader, row) for row in rows], more


def _seen_by(reader: UUID | None, row: asyncpg.Record) -> dict[str, Any]:
    width = len(COLUMNS)
    entry = Entry(*row[:width])
    canonical_id, customer_id, joined_whole = row[width], row[width + 1], row[width + 2]
    via = "conversation" if reader is not None and customer_id != reader else "identity"
    shown = render(entry, canonical_id, joined_whole=joined_whole)
    return {**shown, "via": via, "customer_id": str(customer_id)}


def cursor_of(entry: dict[str, Any]) -> str:
    """Return the cursor of an entry as the API gives it."""
    return Cursor(parse_rfc3339(entry["occurred_at"]), entry["source"], entry["event_id"]).encode()


# --- conversations ----------------------------------------------------------------------------------------------------

# The id of any entry that ever founded a conversation means the one that holds it now.
CANONICAL = """
SELECT canonical_id FROM conversation.conversation WHERE tenant_id = $1 AND conversation_id = $2
UNION ALL
SELECT c.canonical_id FROM conversation.entry e
JOIN conversation.conversation c ON c.tenant_id = $1 AND c.conversation_id = e.conversation_id
WHERE e.tenant_id = $1 AND e.entry_id = $2
UNION ALL
SELECT c.canonical_id FROM conversation.copy m
JOIN conversation.entry e ON e.tenant_id = $1 AND e.entry_id = m.entry_id
JOIN conversation.conversation c ON c.tenant_id = $1 AND c.conversation_id = e.conversation_id
WHERE m.tenant_id = $1 AND m.copy_id = $2 LIMIT 1
"""

CONVERSATION = """
SELECT k.conversation_id, k.opened_at, k.resolved_at, k.last_activity_at, k.channels, k.assignee, k.team, k.topic,
       k.waiting_since, k.follow_up_of, k.entries, o.customer_id AS owner_id,
       (SELECT coalesce(array_agg(m.conversation_id ORDER BY m.opened_at), '{}') FROM conversation.conversation m
        WHERE m.tenant_id = $1 AND m.canonical_id = k.conversation_id AND m.conversation_id <> k.conversation_id)
           AS merged_ids,
       (SELECT coalesce(array_agg(DISTINCT l.customer_id), '{}') FROM conversation.conversation m
        JOIN conversation.participation p ON p.tenant_id = $1 AND p.conversation_id = m.conversation_id
        JOIN conversation.leaf l ON l.tenant_id = $1 AND l.leaf_id = p.leaf_id
        WHERE m.tenant_id = $1 AND m.canonical_id = k.conversation_id) AS customer_ids
FROM conversation.conversation k
LEFT JOIN conversation.leaf o ON o.tenant_id = $1 AND o.leaf_id = k.owner_leaf_id
WHERE k.tenant_id = $1 AND k.conversation_id = ANY($2::uuid[])
"""

CONTACTS = """
SELECT m.canonical_id, e.contact_id, min(e.channel) AS channel, min(e.occurred_at) AS started_at,
       max(e.occurred_at) FILTER (WHERE e.type IN ('threadline.call.ended', 'threadline.call.abandoned')) AS ended_at
FROM conversation.conversation m
JOIN conversation.entry e ON e.tenant_id = $1 AND e.conversation_id = m.conversation_id
WHERE m.tenant_id = $1 AND m.canonical_id = ANY($2::uuid[]) AND e.contact_id IS NOT NULL AND e.cause_id IS NULL
GROUP BY m.canonical_id, e.contact_id ORDER BY started_at
"""


EXPORTED = f"""
SELECT {_COLUMNS}, coalesce(c.canonical_id, e.conversation_id) AS canonical_id, l.customer_id, {JOINED_WHOLE}
FROM conversation.leaf l
JOIN conversation.entry e ON e.tenant_id = $1 AND e.leaf_id = l.leaf_id
LEFT JOIN conversation.conversation c ON c.tenant_id = $1 AND c.conversation_id = e.conversation_id
WHERE l.tenant_id = $1 AND l.customer_id = $2
ORDER BY e.occurred_at, e.source, e.event_id
"""  # noqa: S608


# Other events of mails that are on the line already.
COPIES = """
SELECT m.entry_id::text, m.source, m.event_id, m.type, m.occurred_at, m.data FROM conversation.leaf l
JOIN conversation.entry e ON e.tenant_id = $1 AND e.leaf_id = l.leaf_id
JOIN conversation.copy m ON m.tenant_id = $1 AND m.entry_id = e.entry_id
WHERE l.tenant_id = $1 AND l.customer_id = $2 ORDER BY m.occurred_at, m.source, m.event_id
"""


# What else came under the ids of events that are on the line already.
CONFLICTS = """
SELECT f.entry_id::text, f.type, f.occurred_at, f.data FROM conversation.leaf l
JOIN conversation.entry e ON e.tenant_id = $1 AND e.leaf_id = l.leaf_id
JOIN conversation.conflict f ON f.tenant_id = $1 AND f.entry_id = e.entry_id
WHERE l.tenant_id = $1 AND l.customer_id = $2 ORDER BY f.occurred_at, f.entry_id, f.digest
"""


async def export(connection: asyncpg.Connection, tenant: str, customer_id: UUID) -> AsyncIterator[dict[str, Any]]:
    """Yield everything that is kept of one surviving customer: who they are, their conversations, their entries.

    An entry comes as the API shows it, with `data` as it was posted. Reads a row at a time, whatever the length.
    """
    yield {"kind": "customer", **await customer(connection, tenant, customer_id)}
    met: set[UUID] = set()
    async for row in connection.cursor(EXPORTED, tenant, customer_id, prefetch=200):
        entry = Entry(*row[: len(COLUMNS)])
        if row["canonical_id"] is not None:
            met.add(row["canonical_id"])
        yield {"kind": "entry", **_seen_by(customer_id, row), "data": entry.data}
    for kind, query in (("copy", COPIES), ("conflict", CONFLICTS)):
        for row in await connection.fetch(query, tenant, customer_id):
            yield {"kind": kind, **row, "occurred_at": rfc3339(row["occurred_at"])}
    for conversation in await conversations(connection, tenant, sorted(met)):
        yield {"kind": "conversation", **conversation}


# The matter at hand: the open conversation last active, or the last one where all are resolved.
CURRENT = """
SELECT k.conversation_id FROM conversation.leaf l
JOIN conversation.participation p ON p.tenant_id = $1 AND p.leaf_id = l.leaf_id
JOIN conversation.conversation c ON c.tenant_id = $1 AND c.conversation_id = p.conversation_id
JOIN conversation.conversation k ON k.tenant_id = $1 AND k.conversation_id = c.canonical_id
WHERE l.tenant_id = $1 AND l.customer_id = $2
ORDER BY k.resolved_at IS NOT NULL, k.last_activity_at DESC NULLS LAST LIMIT 1
"""

RECENT_TOPICS = """
SELECT k.topic FROM conversation.leaf l
JOIN conversation.participation p ON p.tenant_id = $1 AND p.leaf_id = l.leaf_id
JOIN conversation.conversation c ON c.tenant_id = $1 AND c.conversation_id = p.conversation_id
JOIN conversation.conversation k ON k.tenant_id = $1 AND k.conversation_id = c.canonical_id
WHERE l.tenant_id = $1 AND l.customer_id = $2 AND k.topic IS NOT NULL
GROUP BY k.topic ORDER BY max(k.last_entry_at) DESC LIMIT 5
"""

MOST_ENTRIES_OF_A_BRIEF = 500
"""A conversation longer than this is summed up from its latest part."""


# What else of the same people is open: perhaps the same matter, which no rule may decide.
ALSO_OPEN = """
SELECT DISTINCT k.conversation_id, k.channels, k.topic, k.last_activity_at
FROM conversation.conversation m
JOIN conversation.participation mine ON mine.tenant_id = $1 AND mine.conversation_id = m.conversation_id
JOIN conversation.leaf l ON l.tenant_id = $1 AND l.leaf_id = mine.leaf_id
JOIN conversation.leaf o ON o.tenant_id = $1 AND o.customer_id = l.customer_id
JOIN conversation.participation p ON p.tenant_id = $1 AND p.leaf_id = o.leaf_id
JOIN conversation.conversation c ON c.tenant_id = $1 AND c.conversation_id = p.conversation_id
JOIN conversation.conversation k ON k.tenant_id = $1 AND k.conversation_id = c.canonical_id
WHERE m.tenant_id = $1 AND m.canonical_id = $2 AND k.conversation_id <> $2 AND k.resolved_at IS NULL
    AND k.last_activity_at IS NOT NULL
ORDER BY k.last_activity_at DESC, k.conversation_id LIMIT 5
"""


async def conversation(connection: asyncpg.Connection, tenant: str, conversation_id: UUID) -> dict[str, Any]:
    """Return one conversation (by canonical id) as the API gives it, with what may belong to it: `suggestions`."""
    found = (await conversations(connection, tenant, [conversation_id]))[0]
    rows = await connection.fetch(ALSO_OPEN, tenant, conversation_id) if found["state"] == "open" else []
    found["suggestions"] = [
        {
            "conversation_id": str(row["conversation_id"]),
            "reason": "open_as_well",
            "channels": row["channels"],
            "topic": row["topic"],
            "last_activity_at": _time(row["last_activity_at"]),
        }
        for row in rows
    ]
    return found


async def context(connection: asyncpg.Connection, tenant: str, customer_id: UUID, recent: int) -> dict[str, Any]:
    """Return the answer of `GET /v1/customers/{id}/context` for a surviving customer."""
    current: UUID | None = await connection.fetchval(CURRENT, tenant, customer_id)
    found: dict[str, Any] | None = None
    entries: list[dict[str, Any]] = []
    if current is not None:
        found = await conversation(connection, tenant, current)
        page = Page(limit=MOST_ENTRIES_OF_A_BRIEF)
        entries, _ = await conversation_entries(connection, tenant, current, page)
    line, _ = await timeline(connection, tenant, customer_id, Page(limit=recent))
    topics = [row["topic"] for row in await connection.fetch(RECENT_TOPICS, tenant, customer_id)]
    return {
        "customer": await customer(connection, tenant, customer_id),
        "conversation": found,
        "summary": brief.summary(found, list(reversed(entries)), topics),
        "sla": found["sla"] if found else None,
        "entries": line,
    }


@dataclass(frozen=True, slots=True)
class Inbox:
    """Which conversations a reader wants, the last active first."""

    limit: int = 50
    after: tuple[datetime, UUID] | None = None
    state: str | None = None
    channel: str | None = None
    assignee: str | None = None
    team: str | None = None
    waiting: bool | None = None


async def canonical(connection: asyncpg.Connection, tenant: str, conversation_id: UUID) -> UUID | None:
    """Return the conversation that this id means now, None where it means none."""
    found: UUID | None = await connection.fetchval(CANONICAL, tenant, conversation_id)
    return found


async def conversations(connection: asyncpg.Connection, tenant: str, ids: Sequence[UUID]) -> list[dict[str, Any]]:
    """Return conversations (canonical ids) as the API gives them, in the order asked for."""
    rows = {row["conversation_id"]: row for row in await connection.fetch(CONVERSATION, tenant, list(ids))}
    contacts: dict[UUID, list[dict[str, Any]]] = {id_: [] for id_ in ids}
    for row in await connection.fetch(CONTACTS, tenant, list(ids)):
        contacts[row["canonical_id"]].append(
            {
                "id": row["contact_id"],
                "channel": row["channel"],
                "started_at": _time(row["started_at"]),
                "ended_at": _time(row["ended_at"]),
            }
        )
    slas = await _promises(connection, tenant, rows)
    return [_conversation(rows[id_], contacts[id_], slas.get(id_, promises.NOTHING)) for id_ in ids if id_ in rows]


# What changes whose turn it is; automatic mail changes nothing.
STEPS = """
SELECT m.canonical_id, e.occurred_at, e.type, e.data -> 'actor' ->> 'type', e.data ->> 'waiting_on'
FROM conversation.conversation m
JOIN conversation.entry e ON e.tenant_id = $1 AND e.conversation_id = m.conversation_id
WHERE m.tenant_id = $1 AND m.canonical_id = ANY($2::uuid[]) AND e.type = ANY($3::text[])
    AND (NOT e.automatic OR e.cause_id IS NOT NULL)
ORDER BY e.occurred_at, e.source, e.event_id
"""


async def _promises(
    connection: asyncpg.Connection, tenant: str, rows: Mapping[UUID, asyncpg.Record]
) -> dict[UUID, dict[str, Any]]:
    """Return what these conversations were promised; asks for nothing more where the tenant promises nothing."""
    rules = (await agreements.rules(connection, [tenant]))[tenant]
    if not rules.slas:
        return {}
    steps: dict[UUID, list[Step]] = {id_: [] for id_ in rows}
    for id_, *step in await connection.fetch(STEPS, tenant, list(rows), promises.STEPS):
        steps[id_].append(Step(*step))
    now = await connection.fetchval("SELECT now()")
    return {id_: promises.promised(rules, row["opened_at"], steps[id_], now) for id_, row in rows.items()}


def _conversation(row: asyncpg.Record, contacts: list[dict[str, Any]], sla: dict[str, Any]) -> dict[str, Any]:
    owner = row["owner_id"]
    people = sorted({*row["customer_ids"], owner} - {None}, key=lambda id_: (id_ != owner, str(id_)))
    return {
        "id": str(row["conversation_id"]),
        "state": "resolved" if row["resolved_at"] else "open",
        "opened_at": _time(row["opened_at"]),
        "resolved_at": _time(row["resolved_at"]),
        "last_activity_at": _time(row["last_activity_at"]),
        "channels": row["channels"],
        "contacts": contacts,
        "customers": [{"id": str(id_), "role": "owner" if id_ == owner else "participant"} for id_ in people],
        "assignee": row["assignee"],
        "team": row["team"],
        "topic": row["topic"],
        "waiting_since": _time(row["waiting_since"]),
        "sla": sla,
        "follow_up_of": str(row["follow_up_of"]) if row["follow_up_of"] else None,
        "merged_ids": [str(id_) for id_ in row["merged_ids"]],
        "entries": row["entries"],
    }


async def inbox(connection: asyncpg.Connection, tenant: str, wanted: Inbox) -> list[tuple[UUID, datetime]]:
    """Return (conversation, last activity) of those wanted."""
    query = _Query([tenant])
    if wanted.state is not None:
        query.add("k.resolved_at IS NOT NULL" if wanted.state == "resolved" else "k.resolved_at IS NULL")
    if wanted.channel is not None:
        query.add("{} = ANY (k.channels)", wanted.channel)
    if wanted.assignee is not None:
        query.add("k.assignee = {}", wanted.assignee)
    if wanted.team is not None:
        query.add("k.team = {}", wanted.team)
    if wanted.waiting is not None:
        query.add("k.waiting_since IS NOT NULL" if wanted.waiting else "k.waiting_since IS NULL")
    if wanted.after is not None:
        query.add("(k.last_entry_at, k.conversation_id) < ({}, {})", *wanted.after)
    statement = f"""SELECT k.conversation_id, k.last_entry_at FROM conversation.conversation k
        WHERE k.tenant_id = $1 AND k.canonical_id = k.conversation_id{query.text()}
        ORDER BY k.last_entry_at DESC, k.conversation_id DESC LIMIT {wanted.limit}"""  # noqa: S608
    rows = await connection.fetch(statement, *query.arguments)
    return [(row[0], row[1]) for row in rows]
