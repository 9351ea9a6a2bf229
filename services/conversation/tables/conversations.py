"""Conversations, the keys that lead to them, and who takes part."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

import asyncpg

from services.conversation import past
from services.conversation.stitching import Binding, Conversation
from services.conversation.summary import Summary
from services.conversation.tables.rows import columns, insert

# For each key and instant: what it meant just before, and every entry that named it from then on.
BINDINGS = """
SELECT k.key, b.conversation_id, b.entry_id, b.occurred_at >= k.since AS later
FROM unnest($2::text[], $3::timestamptz[]) AS k (key, since), LATERAL (
    (SELECT conversation_id, entry_id, occurred_at FROM conversation.binding
     WHERE tenant_id = $1 AND key = k.key AND occurred_at < k.since AND conversation_id IS NOT NULL
     ORDER BY occurred_at DESC, source DESC, event_id DESC LIMIT 1)
    UNION ALL
    (SELECT conversation_id, entry_id, occurred_at FROM conversation.binding
     WHERE tenant_id = $1 AND key = k.key AND occurred_at >= k.since)) AS b
"""

CONVERSATION = """conversation_id, canonical_id, merged_into, merged_at, merged_source, merged_event_id,
    opened_at, opened_source, opened_event_id, owner_leaf_id, last_entry_at, last_activity_at, resolved_at, tickets,
    follow_up_of, last_channel, escalation_posted_to, channels, assignee, team, topic, waiting_since, entries"""

# Conversations by id, with all that were merged with them. OFFSET 0 keeps the look-ups nested: on tables without
# statistics a join is planned as a scan of all conversations.
CONVERSATIONS = f"""
SELECT {CONVERSATION} FROM (
    SELECT DISTINCT canonical_id AS id FROM conversation.conversation
    WHERE tenant_id = $1 AND conversation_id = ANY($2::uuid[]) OFFSET 0) AS k,
LATERAL (SELECT * FROM conversation.conversation WHERE tenant_id = $1 AND canonical_id = k.id OFFSET 0) AS c
"""  # noqa: S608

WEEK = "floor(extract(epoch FROM {}) / 604800)::integer"
"""The week of an instant, as `participation.active_week` counts them."""

# The conversations in which a leaf has an entry and which rule 4 may still find from an instant on. The week, an upper
# bound, spares the look at all that ended in the years before.
OPEN_CONVERSATIONS = f"""
SELECT l.leaf_id, c.canonical_id
FROM unnest($2::uuid[], $3::timestamptz[]) AS l (leaf_id, active_since),
LATERAL (SELECT conversation_id FROM conversation.participation
         WHERE tenant_id = $1 AND leaf_id = l.leaf_id AND active_week >= {WEEK.format("l.active_since")} OFFSET 0) AS p,
LATERAL (SELECT canonical_id FROM conversation.conversation
         WHERE tenant_id = $1 AND conversation_id = p.conversation_id OFFSET 0) AS c,
LATERAL (SELECT last_entry_at FROM conversation.conversation
         WHERE tenant_id = $1 AND conversation_id = c.canonical_id OFFSET 0) AS k
WHERE k.last_entry_at >= l.active_since
"""  # noqa: S608

# The same with the conversations' rows: each row once for every leaf, and none of those that became part of another.
OPEN_ONES = f"""
SELECT l.leaf_id, EXISTS (SELECT FROM conversation.conversation WHERE tenant_id = $1
                          AND canonical_id = c.conversation_id AND conversation_id <> c.conversation_id), c.*
FROM unnest($2::uuid[]) AS l (leaf_id),
LATERAL (SELECT conversation_id FROM conversation.participation
         WHERE tenant_id = $1 AND leaf_id = l.leaf_id AND active_week >= {WEEK.format("$3::timestamptz")}
         OFFSET 0) AS p,
LATERAL (SELECT {CONVERSATION} FROM conversation.conversation
         WHERE tenant_id = $1 AND conversation_id = p.conversation_id OFFSET 0) AS c
WHERE c.last_entry_at >= $3 OR c.merged_into IS NOT NULL
"""  # noqa: S608

# The keys of conversations that were named from an instant on: what they meant may depend on what happens before. And
# those who take part in them, and whether they are, as the person they are, owners of later entries, which is not asked
# of the components in $4. OFFSET 0 keeps the look-ups nested, as above.
REACH = """
SELECT DISTINCT c.conversation_id, b.key, NULL::uuid AS leaf_id, false AS seen_later
FROM unnest($2::uuid[], $3::timestamptz[]) AS c (conversation_id, since),
LATERAL (SELECT key FROM conversation.binding
         WHERE tenant_id = $1 AND conversation_id = c.conversation_id OFFSET 0) AS b,
LATERAL (SELECT FROM conversation.binding
         WHERE tenant_id = $1 AND key = b.key AND occurred_at >= c.since LIMIT 1) AS later
UNION ALL
SELECT c.conversation_id, NULL, p.leaf_id,
       l.component_id <> ALL ($4::uuid[])
           AND EXISTS (SELECT FROM conversation.leaf
                       WHERE tenant_id = $1 AND component_id = l.component_id AND last_entry_at >= c.since)
FROM unnest($2::uuid[], $3::timestamptz[]) AS c (conversation_id, since),
LATERAL (SELECT leaf_id FROM conversation.participation
         WHERE tenant_id = $1 AND conversation_id = c.conversation_id OFFSET 0) AS p,
LATERAL (SELECT component_id FROM conversation.leaf WHERE tenant_id = $1 AND leaf_id = p.leaf_id OFFSET 0) AS l
"""


class Bound(NamedTuple):
    """What a key meant before an instant (`later` false), or an entry that named it from then on."""

    key: str
    conversation_id: UUID | None
    entry_id: UUID
    later: bool


@dataclass(slots=True)
class StoredConversation:
    """A conversation's row: its own state, what an inbox shows, and into which other one it was merged, by what."""

    id: UUID
    canonical_id: UUID
    merged_into: UUID | None
    merged_by: tuple[datetime, str, str] | None
    state: Conversation
    summary: Summary


def week(at: datetime) -> int:
    """Return the week of an instant, as WEEK does."""
    return int(at.timestamp() // 604_800)


async def bindings(connection: asyncpg.Connection, tenant: str, wanted: Iterable[tuple[str, datetime]]) -> list[Bound]:
    """Return, for each (key, since), what it meant just before and who named it from then on."""
    return [Bound(*row) for row in await connection.fetch(BINDINGS, tenant, *columns(wanted, 2))]


async def conversations(
    connection: asyncpg.Connection, tenant: str, ids: Iterable[UUID]
) -> dict[UUID, StoredConversation]:
    """Return these conversations and all that are merged with them."""
    rows = await connection.fetch(CONVERSATIONS, tenant, list(ids))
    return {row[0]: conversation_of(row) for row in rows}


async def open_conversations(
    connection: asyncpg.Connection, tenant: str, wanted: Iterable[tuple[UUID, datetime]]
) -> list[tuple[UUID, UUID]]:
    """Return (leaf, canonical conversation) for each leaf's conversations with an entry since the given instant."""
    rows = await connection.fetch(OPEN_CONVERSATIONS, tenant, *columns(wanted, 2))
    return [(row[0], row[1]) for row in rows]


async def plain_conversations(
    connection: asyncpg.Connection, tenant: str, leaves: Iterable[UUID], since: datetime
) -> tuple[dict[UUID, StoredConversation], list[tuple[UUID, UUID]]] | None:
    """Return these leaves' conversations with an entry since an instant, and (leaf, conversation) of each.

    None where one has become part of another, or another part of it.
    """
    rows = await connection.fetch(OPEN_ONES, tenant, list(leaves), since)
    if any(row[1] or row["merged_into"] for row in rows):
        return None
    found: dict[UUID, StoredConversation] = {}
    for row in rows:
        if row["conversation_id"] not in found:
            found[row["conversation_id"]] = conversation_of(row)
    return found, [(row[0], row["conversation_id"]) for row in rows]


async def reach(
    connection: asyncpg.Connection, tenant: str, wanted: Iterable[tuple[UUID, datetime]], known: Iterable[UUID]
) -> tuple[list[tuple[str, UUID]], list[tuple[UUID, UUID, bool]]]:
    """Return (key, conversation) and (leaf, conversation, whether seen later) of what may depend on conversations.

    The keys were named from the given instant on; of those who take part, later is from then on, too. Of the `known`
    components it is not asked, and false.
    """
    rows = await connection.fetch(REACH, tenant, *columns(wanted, 2), list(known))
    keys = [(row[1], row[0]) for row in rows if row[2] is None]
    return keys, [(row[2], row[0], row[3]) for row in rows if row[2] is not None]


def conversation_of(row: asyncpg.Record) -> StoredConversation:
    """Return the conversation that a row with the columns of CONVERSATION holds."""
    state = Conversation(
        id=row["conversation_id"],
        opened=(row["opened_at"], row["opened_source"], row["opened_event_id"]),
        owner_leaf=row["owner_leaf_id"],
        last_activity_at=row["last_activity_at"],
        resolved_at=row["resolved_at"],
        tickets=set(row["tickets"]),
        follow_up_of=row["follow_up_of"],
        last_channel=row["last_channel"],
        escalation_posted_to=row["escalation_posted_to"],
    )
    summary = Summary(
        channels=list(row["channels"]),
        assignee=row["assignee"],
        team=row["team"],
        topic=row["topic"],
        waiting_since=row["waiting_since"],
        last_entry_at=row["last_entry_at"],
        entries=row["entries"],
    )
    merged_by = (row["merged_at"], row["merged_source"], row["merged_event_id"]) if row["merged_into"] else None
    return StoredConversation(
        row["conversation_id"], row["canonical_id"], row["merged_into"], merged_by, state, summary
    )


# OFFSET 0 keeps the look-ups nested: without statistics, every binding of the tenant is searched for a list of entries.
BINDINGS_OF_ENTRIES = """
SELECT w.entry_id, b.key, b.occurred_at, b.conversation_id
FROM unnest($2::uuid[]) AS w (entry_id),
LATERAL (SELECT key, occurred_at, conversation_id FROM conversation.binding
         WHERE tenant_id = $1 AND entry_id = w.entry_id OFFSET 0) AS b
"""

DELETE_BINDINGS = """
DELETE FROM conversation.binding b
USING unnest($2::uuid[], $3::text[], $4::timestamptz[]) AS w (entry_id, key, occurred_at)
WHERE b.tenant_id = $1 AND b.key = w.key AND b.occurred_at = w.occurred_at AND b.entry_id = w.entry_id
"""

MOVE_BINDINGS = """
UPDATE conversation.binding b SET conversation_id = w.conversation_id
FROM unnest($2::uuid[], $3::text[], $4::timestamptz[], $5::uuid[])
    AS w (entry_id, key, occurred_at, conversation_id)
WHERE b.tenant_id = $1 AND b.key = w.key AND b.occurred_at = w.occurred_at AND b.entry_id = w.entry_id
"""

DELETE_PARTICIPATIONS = """
DELETE FROM conversation.participation WHERE tenant_id = $1 AND conversation_id = ANY($2::uuid[])
"""

RECOUNT_PARTICIPATIONS = """
INSERT INTO conversation.participation (tenant_id, leaf_id, conversation_id)
SELECT DISTINCT tenant_id, leaf_id, conversation_id FROM conversation.entry
WHERE tenant_id = $1 AND conversation_id = ANY($2::uuid[]) AND cause_id IS NULL
"""

SAVE_PARTICIPATIONS = f"""
INSERT INTO conversation.participation (tenant_id, leaf_id, conversation_id, active_week)
SELECT $1, p.leaf_id, p.conversation_id, {WEEK.format("p.active_at")}
FROM unnest($2::uuid[], $3::uuid[], $4::timestamptz[]) AS p (leaf_id, conversation_id, active_at)
ON CONFLICT DO NOTHING
"""  # noqa: S608

# The same where of some conversations ($5) these are all. NOT IN is looked up in a hash, however many they are.
REPLACE_PARTICIPATIONS = f"""
WITH told AS (
    SELECT p.leaf_id, p.conversation_id, {WEEK.format("p.active_at")} AS active_week
    FROM unnest($2::uuid[], $3::uuid[], $4::timestamptz[]) AS p (leaf_id, conversation_id, active_at)),
gone AS (
    DELETE FROM conversation.participation WHERE tenant_id = $1 AND conversation_id = ANY ($5::uuid[])
        AND (leaf_id, conversation_id) NOT IN (SELECT leaf_id, conversation_id FROM told))
INSERT INTO conversation.participation AS p (tenant_id, leaf_id, conversation_id, active_week)
SELECT $1, leaf_id, conversation_id, active_week FROM told
ON CONFLICT (tenant_id, leaf_id, conversation_id) DO UPDATE SET active_week = excluded.active_week
WHERE p.active_week <> excluded.active_week
"""  # noqa: S608

# Nobody's week may be before that of the conversation's last entry; one behind it only costs a look.
SAVE_WEEKS = f"""
UPDATE conversation.participation p SET active_week = {WEEK.format("w.active_at")}
FROM unnest($2::uuid[], $3::timestamptz[]) AS w (conversation_id, active_at)
WHERE p.tenant_id = $1 AND p.conversation_id = w.conversation_id AND p.active_week <> {WEEK.format("w.active_at")}
"""  # noqa: S608

RECORD = """
    conversation_id uuid, canonical_id uuid, merged_into uuid, merged_at timestamptz, merged_source text,
    merged_event_id text, opened_at timestamptz, opened_source text, opened_event_id text, owner_leaf_id uuid,
    last_entry_at timestamptz, last_activity_at timestamptz, resolved_at timestamptz, tickets text[],
    follow_up_of uuid, last_channel text, escalation_posted_to text, channels text[], assignee text, team text,
    topic text, waiting_since timestamptz, entries integer"""

# Lists in a row do not pass through unnest, so conversations travel as one JSON array.
SAVE_CONVERSATIONS = f"""
INSERT INTO conversation.conversation AS c (tenant_id, {CONVERSATION})
SELECT $1, {CONVERSATION} FROM jsonb_to_recordset($2::jsonb) AS r ({RECORD})
ON CONFLICT (tenant_id, conversation_id) DO UPDATE SET
    canonical_id = excluded.canonical_id, merged_into = excluded.merged_into, merged_at = excluded.merged_at,
    merged_source = excluded.merged_source, merged_event_id = excluded.merged_event_id,
    opened_at = excluded.opened_at, opened_source = excluded.opened_source,
    opened_event_id = excluded.opened_event_id, owner_leaf_id = excluded.owner_leaf_id,
    last_entry_at = excluded.last_entry_at, last_activity_at = excluded.last_activity_at,
    resolved_at = excluded.resolved_at, tickets = excluded.tickets, follow_up_of = excluded.follow_up_of,
    last_channel = excluded.last_channel, escalation_posted_to = excluded.escalation_posted_to,
    channels = excluded.channels, assignee = excluded.assignee, team = excluded.team, topic = excluded.topic,
    waiting_since = excluded.waiting_since, entries = excluded.entries
"""  # noqa: S608

# The same where some become part of another one ($3), or are no more ($4), until an instant ($5).
REPLACE_CONVERSATIONS = f"""
WITH stood AS ({past.conversations_stood("$3::uuid[] || $4::uuid[]", "$5")}),
gone AS (DELETE FROM conversation.conversation WHERE tenant_id = $1 AND conversation_id = ANY ($4::uuid[]))
{SAVE_CONVERSATIONS}
"""  # noqa: S608


Named = tuple[UUID, str, datetime]
"""What one binding is known by: entry, key, occurred_at."""


async def bindings_of(connection: asyncpg.Connection, tenant: str, entries: Iterable[UUID]) -> dict[Named, UUID | None]:
    """Return what the stored bindings of these entries mean: a conversation or None."""
    rows = await connection.fetch(BINDINGS_OF_ENTRIES, tenant, list(entries))
    return {(row[0], row[1], row[2]): row[3] for row in rows}


class Rebound(NamedTuple):
    """What to do about bindings: those that go, those that mean another conversation, and those that come."""

    stale: list[Named]
    moved: list[Binding]
    new: list[Binding]


def rebound(before: Mapping[Named, UUID | None], bindings: Iterable[Binding]) -> Rebound:
    """Return how to get from the stored bindings of entries decided again to `bindings`, those of new entries included.

    What says the same as before stays as it is. Pure.
    """
    now = {(b.entry_id, b.key, b.order[0]): b for b in bindings}
    stale = [named for named in before if named not in now]
    moved = [now[named] for named, id_ in before.items() if named in now and now[named].conversation_id != id_]
    return Rebound(stale, moved, [b for named, b in now.items() if named not in before])


async def save_bindings(connection: asyncpg.Connection, tenant: str, bindings: Rebound) -> None:
    """Store what is new of bindings."""
    if bindings.stale:
        await connection.execute(DELETE_BINDINGS, tenant, *columns(bindings.stale, 3))
    if bindings.moved:
        rows = [(b.entry_id, b.key, b.order[0], b.conversation_id) for b in bindings.moved]
        await connection.execute(MOVE_BINDINGS, tenant, *columns(rows, 4))
    names = ("tenant_id", "key", "occurred_at", "entry_id", "conversation_id", "source", "event_id")
    new = [(tenant, b.key, b.order[0], b.entry_id, b.conversation_id, *b.order[1:]) for b in bindings.new]
    await insert(connection, "binding", names, new)


async def save_conversations(
    connection: asyncpg.Connection,
    tenant: str,
    rows: Sequence[StoredConversation],
    regrouped: Sequence[UUID],
    gone: Sequence[UUID],
    now: datetime,
) -> None:
    """Store conversations; those in `gone` are no more.

    What these and the `regrouped` ones, which are part of another one than before, were part of until now is kept.
    """
    stored = [row_of(row) for row in rows]
    if regrouped or gone:
        await connection.execute(REPLACE_CONVERSATIONS, tenant, stored, list(regrouped), list(gone), now)
    elif stored:
        await connection.execute(SAVE_CONVERSATIONS, tenant, stored)


def _text(id_: UUID | None) -> str | None:
    # The driver's own UUID class is none that the JSON writer knows.
    return None if id_ is None else str(id_)


def row_of(row: StoredConversation) -> dict[str, Any]:
    """Return a conversation as RECORD has it."""
    state, summary = row.state, row.summary
    merged_by = row.merged_by or (None, None, None)
    return {
        "conversation_id": _text(row.id),
        "canonical_id": _text(row.canonical_id),
        "merged_into": _text(row.merged_into),
        "merged_at": merged_by[0],
        "merged_source": merged_by[1],
        "merged_event_id": merged_by[2],
        "opened_at": state.opened[0],
        "opened_source": state.opened[1],
        "opened_event_id": state.opened[2],
        "owner_leaf_id": _text(state.owner_leaf),
        "last_entry_at": summary.last_entry_at or state.opened[0],
        "last_activity_at": state.last_activity_at,
        "resolved_at": state.resolved_at,
        "tickets": sorted(state.tickets),
        "follow_up_of": _text(state.follow_up_of),
        "last_channel": state.last_channel,
        "escalation_posted_to": state.escalation_posted_to,
        "channels": summary.channels,
        "assignee": summary.assignee,
        "team": summary.team,
        "topic": summary.topic,
        "waiting_since": summary.waiting_since,
        "entries": summary.entries,
    }


async def recount_participations(connection: asyncpg.Connection, tenant: str, conversations: Iterable[UUID]) -> None:
    """Tell anew, from their entries, who takes part in these conversations."""
    if ids := list(conversations):
        await connection.execute(DELETE_PARTICIPATIONS, tenant, ids)
        await connection.execute(RECOUNT_PARTICIPATIONS, tenant, ids)


async def save_participations(
    connection: asyncpg.Connection, tenant: str, rebuilt: Iterable[UUID], rows: Iterable[tuple[UUID, UUID, datetime]]
) -> None:
    """Store who (leaf) takes part in what (conversation, with its last entry's instant); `rebuilt` are told anew."""
    found = columns(rows, 3)
    if ids := list(rebuilt):
        await connection.execute(REPLACE_PARTICIPATIONS, tenant, *found, ids)
    elif found[0]:
        await connection.execute(SAVE_PARTICIPATIONS, tenant, *found)


async def save_weeks(connection: asyncpg.Connection, tenant: str, active: Iterable[tuple[UUID, datetime]]) -> None:
    """Store until when these conversations, each with the one it is part of, were active."""
    if rows := list(active):
        await connection.execute(SAVE_WEEKS, tenant, *columns(rows, 2))
