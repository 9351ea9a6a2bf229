"""Entries: what is stored of each, by what it is found, and where it moves."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from uuid import UUID

import asyncpg

from services.conversation import past
from services.conversation.entries import COLUMNS, Entry
from services.conversation.outlines import Outline, outline
from services.conversation.tables.rows import Rows, columns, insert

DIGESTS = """
SELECT entry_id, digest FROM conversation.entry WHERE tenant_id = $1 AND entry_id = ANY($2::uuid[])
UNION ALL
SELECT copy_id, digest FROM conversation.copy WHERE tenant_id = $1 AND copy_id = ANY($2::uuid[])
"""

SAVE_CONFLICTS = """
INSERT INTO conversation.conflict (tenant_id, entry_id, digest, received_at, occurred_at, type, data)
SELECT $1, * FROM unnest($2::uuid[], $3::bytea[], $4::timestamptz[], $5::timestamptz[], $6::text[], $7::jsonb[])
ON CONFLICT DO NOTHING
"""


async def known_digests(connection: asyncpg.Connection, tenant: str, ids: Iterable[UUID]) -> dict[UUID, bytes]:
    """Return the digests of those of these events that are known, as entries or as copies of one."""
    return {row[0]: row[1] for row in await connection.fetch(DIGESTS, tenant, list(ids))}


async def save_conflicts(connection: asyncpg.Connection, tenant: str, rows: Rows) -> None:
    """Keep other content that came under a known id: (entry_id, digest, received_at, occurred_at, type, data)."""
    if rows:
        await connection.execute(SAVE_CONFLICTS, tenant, *columns(rows, 6))


ENTRY_COLUMNS = ", ".join(f"e.{'tenant_id' if name == 'tenant' else name}" for name in COLUMNS)

# Every entry from an instant on that belongs to one of these leaves or conversations, or is named. Most belong to one
# of each, so ids are found first: a row costs more to send and to read than to look up. OFFSET 0 keeps that nested.
ENTRIES_SINCE = f"""
SELECT {ENTRY_COLUMNS} FROM (
    SELECT e.entry_id FROM unnest($2::uuid[], $3::timestamptz[]) AS w (leaf_id, since)
    JOIN conversation.entry e ON e.tenant_id = $1 AND e.leaf_id = w.leaf_id AND e.occurred_at >= w.since
    UNION
    SELECT e.entry_id FROM unnest($4::uuid[], $5::timestamptz[]) AS w (conversation_id, since)
    JOIN conversation.entry e
        ON e.tenant_id = $1 AND e.conversation_id = w.conversation_id AND e.occurred_at >= w.since
    UNION
    SELECT unnest($6::uuid[])) AS w,
LATERAL (SELECT * FROM conversation.entry WHERE tenant_id = $1 AND entry_id = w.entry_id OFFSET 0) AS e
"""  # noqa: S608

UNREAD = {"new_text", "quoted_text", "html"}
"""Columns that say what was written: no decision reads them."""
_WITHOUT_TEXT = ", ".join(
    f"NULL AS {name}"
    if name in UNREAD
    else "e.data - '{text,html,attachments}'::text[] AS data"
    if name == "data"
    else f"e.{'tenant_id' if name == 'tenant' else name}"
    for name in COLUMNS
)

# Read to tell conversations anew up to an instant, perhaps very many: without what was written in them.
ENTRIES_BETWEEN = f"""
SELECT {_WITHOUT_TEXT}
FROM unnest($2::uuid[], $3::timestamptz[], $4::timestamptz[]) AS w (conversation_id, after, before)
JOIN conversation.entry e
    ON e.tenant_id = $1 AND e.conversation_id = w.conversation_id AND e.occurred_at > w.after
        AND e.occurred_at < w.before AND e.cause_id IS NULL
"""  # noqa: S608

_LIFECYCLE = ("threadline.conversation.resolved", "threadline.conversation.reopened")

_OUTLINE = """e.entry_id, e.occurred_at, e.source, e.event_id, e.type, e.automatic, e.contact_id,
       CASE WHEN NOT e.by_conversation THEN e.leaf_id END, e.conversation_id, e.rule"""

# Conversations from $3 on; of those that began before it ($4) also when they were resolved and reopened since $5, by
# whatever brought that about; and what of leaves ($6) from $7 on is in no conversation.
OUTLINES = f"""
SELECT {_OUTLINE}
FROM unnest($2::uuid[]) AS w (conversation_id),
LATERAL (SELECT * FROM conversation.entry
         WHERE tenant_id = $1 AND conversation_id = w.conversation_id AND occurred_at >= $3 AND cause_id IS NULL
         OFFSET 0) AS e
UNION ALL
SELECT e.entry_id, e.occurred_at, coalesce(c.source, e.source), coalesce(c.event_id, e.event_id), e.type,
       e.automatic AND e.cause_id IS NULL, e.contact_id, NULL, e.conversation_id, e.rule
FROM unnest($4::uuid[], $5::timestamptz[]) AS w (conversation_id, after),
LATERAL (SELECT * FROM conversation.entry
         WHERE tenant_id = $1 AND conversation_id = w.conversation_id AND occurred_at > w.after AND occurred_at < $3
             AND type = ANY ($8::text[])
         OFFSET 0) AS e
LEFT JOIN LATERAL (SELECT source, event_id FROM conversation.entry
                   WHERE tenant_id = $1 AND entry_id = e.cause_id OFFSET 0) AS c ON true
UNION ALL
SELECT {_OUTLINE}
FROM unnest($6::uuid[]) AS w (leaf_id),
LATERAL (SELECT * FROM conversation.entry
         WHERE tenant_id = $1 AND leaf_id = w.leaf_id AND occurred_at >= $7 AND conversation_id IS NULL
         OFFSET 0) AS e
"""  # noqa: S608

ALL_ENTRIES = f"SELECT {ENTRY_COLUMNS} FROM conversation.entry e WHERE e.tenant_id = $1"  # noqa: S608

# An entry, or a copy with the entry that stands for it.
NAMED_ENTRIES = """
SELECT entry_id AS named, conversation_id, entry_id FROM conversation.entry
WHERE tenant_id = $1 AND entry_id = ANY($2::uuid[])
UNION ALL
SELECT c.copy_id, e.conversation_id, e.entry_id FROM conversation.copy c,
LATERAL (SELECT conversation_id, entry_id FROM conversation.entry
         WHERE tenant_id = $1 AND entry_id = c.entry_id OFFSET 0) AS e
WHERE c.tenant_id = $1 AND c.copy_id = ANY($2::uuid[])
"""

# To whom we sent each mail, as far as the mail itself says it.
RECIPIENTS = """
SELECT b.key, e.leaf_id, e.entry_id FROM unnest($2::text[]) AS w (key),
LATERAL (SELECT key, entry_id FROM conversation.binding WHERE tenant_id = $1 AND key = w.key OFFSET 0) AS b,
LATERAL (SELECT leaf_id, entry_id FROM conversation.entry
         WHERE tenant_id = $1 AND entry_id = b.entry_id AND NOT by_conversation OFFSET 0) AS e
"""

CALLS_OF_CONTACTS = """
SELECT contact_id, occurred_at, type = 'threadline.call.answered' FROM conversation.entry
WHERE tenant_id = $1 AND contact_id = ANY($2::text[])
    AND type IN ('threadline.call.queued', 'threadline.call.answered')
"""

ENTRIES_OF_LEAVES = f"""
SELECT {ENTRY_COLUMNS} FROM conversation.entry e
WHERE e.tenant_id = $1 AND e.leaf_id = ANY($2::uuid[]) AND e.cause_id IS NULL
"""  # noqa: S608


COUNT_OF_LEAVES = """
SELECT count(*) FROM (
    SELECT FROM conversation.entry WHERE tenant_id = $1 AND leaf_id = ANY($2::uuid[]) LIMIT $3) AS counted
"""


async def count_of_leaves(connection: asyncpg.Connection, tenant: str, leaves: Iterable[UUID], most: int) -> int:
    """Return how many entries these leaves own, counted up to `most`."""
    return int(await connection.fetchval(COUNT_OF_LEAVES, tenant, list(leaves), most))


def entry_of(row: asyncpg.Record) -> Entry:
    """Return the entry that a row with the columns of COLUMNS, in that order, holds."""
    return Entry(*row)


async def entries_since(
    connection: asyncpg.Connection,
    tenant: str,
    leaves: Iterable[tuple[UUID, datetime]],
    conversation_ids: Iterable[tuple[UUID, datetime]],
    ids: Iterable[UUID],
) -> list[Entry]:
    """Return the entries of these leaves and conversations from an instant on, and the named ones."""
    rows = await connection.fetch(ENTRIES_SINCE, tenant, *columns(leaves, 2), *columns(conversation_ids, 2), list(ids))
    return [entry_of(row) for row in rows]


async def entries_between(
    connection: asyncpg.Connection, tenant: str, wanted: Iterable[tuple[UUID, datetime, datetime]]
) -> list[Entry]:
    """Return the posted entries of each (conversation, after, before) between those instants, without their texts."""
    return [entry_of(row) for row in await connection.fetch(ENTRIES_BETWEEN, tenant, *columns(wanted, 3))]


async def outlines(
    connection: asyncpg.Connection,
    tenant: str,
    conversations: tuple[Iterable[UUID], datetime],
    begun: Iterable[tuple[UUID, datetime]],
    leaves: tuple[Iterable[UUID], datetime],
) -> list[Outline]:
    """Return in order the outlines of conversations, and of what these leaves have in none, each from an instant on.

    Of those that are `begun` by then also when they were resolved and reopened before it, since an instant.
    """
    (ids, since), (leaf_ids, asked_since) = conversations, leaves
    rows = await connection.fetch(
        OUTLINES, tenant, list(ids), since, *columns(begun, 2), list(leaf_ids), asked_since, _LIFECYCLE
    )
    found = [outline(row[0], (row[1], row[2], row[3]), *row[4:]) for row in rows]
    return sorted(found, key=lambda known: known.facts.order)


async def all_entries(connection: asyncpg.Connection, tenant: str) -> list[Entry]:
    """Return every entry of the tenant."""
    return [entry_of(row) for row in await connection.fetch(ALL_ENTRIES, tenant)]


async def entries_of_leaves(connection: asyncpg.Connection, tenant: str, leaves: Iterable[UUID]) -> list[Entry]:
    """Return all posted entries of these leaves."""
    return [entry_of(row) for row in await connection.fetch(ENTRIES_OF_LEAVES, tenant, list(leaves))]


async def named_entries(
    connection: asyncpg.Connection, tenant: str, ids: Iterable[UUID]
) -> dict[UUID, tuple[UUID | None, UUID]]:
    """Return id → (conversation or None, entry) of those of these ids that an entry has, or a copy of one."""
    rows = await connection.fetch(NAMED_ENTRIES, tenant, list(ids))
    return {row[0]: (row[1], row[2]) for row in rows}


async def recipients(connection: asyncpg.Connection, tenant: str, keys: Iterable[str]) -> list[tuple[str, UUID, UUID]]:
    """Return (key, leaf, entry) of those to whom mails (by `sent_key`) were sent."""
    return [(row[0], row[1], row[2]) for row in await connection.fetch(RECIPIENTS, tenant, list(keys))]


async def calls_of_contacts(
    connection: asyncpg.Connection, tenant: str, contacts: Iterable[str]
) -> list[tuple[str, datetime, bool]]:
    """Return (contact, occurred_at, answered) of each queued or answered call entry of these contacts."""
    rows = await connection.fetch(CALLS_OF_CONTACTS, tenant, list(contacts))
    return [(row[0], row[1], row[2]) for row in rows]


MOVE_ENTRIES = f"""
WITH stood AS ({past.entries_stood("$2::uuid[]", "$10")})
UPDATE conversation.entry e
SET leaf_id = m.leaf_id, conversation_id = m.conversation_id, rule = m.rule, stitch_key = m.stitch_key,
    version = m.version, automatic = m.automatic, by_conversation = m.by_conversation
FROM unnest($2::uuid[], $3::uuid[], $4::uuid[], $5::text[], $6::text[], $7::integer[], $8::boolean[], $9::boolean[])
    AS m (entry_id, leaf_id, conversation_id, rule, stitch_key, version, automatic, by_conversation)
WHERE e.tenant_id = $1 AND e.entry_id = m.entry_id
"""  # noqa: S608

REWRITE_ENTRIES = f"""
WITH stood AS ({past.entries_said("conversation.entry WHERE tenant_id = $1 AND entry_id = ANY ($2::uuid[])", "$4")})
UPDATE conversation.entry e SET data = m.data FROM unnest($2::uuid[], $3::jsonb[]) AS m (entry_id, data)
WHERE e.tenant_id = $1 AND e.entry_id = m.entry_id
"""  # noqa: S608

DELETE_ENTRIES = f"""
WITH gone AS (DELETE FROM conversation.entry WHERE tenant_id = $1 AND entry_id = ANY ($2::uuid[]) RETURNING *)
{past.entries_said("gone", "$3")}
"""  # noqa: S608

# Entries that belong to whoever owns their conversation follow its owner, also those of what became part of it before.
TO_REOWN = """
SELECT e.entry_id, o.leaf_id FROM unnest($2::uuid[], $3::uuid[]) AS o (conversation_id, leaf_id),
LATERAL (SELECT conversation_id FROM conversation.conversation
         WHERE tenant_id = $1 AND canonical_id = o.conversation_id OFFSET 0) AS c,
LATERAL (SELECT entry_id, leaf_id FROM conversation.entry
         WHERE tenant_id = $1 AND conversation_id = c.conversation_id AND by_conversation OFFSET 0) AS e
WHERE e.leaf_id <> o.leaf_id
"""

REOWN_ENTRIES = f"""
WITH stood AS ({past.entries_stood("$2::uuid[]", "$4")})
UPDATE conversation.entry e SET leaf_id = o.leaf_id, version = e.version + 1
FROM unnest($2::uuid[], $3::uuid[]) AS o (entry_id, leaf_id)
WHERE e.tenant_id = $1 AND e.entry_id = o.entry_id
RETURNING {ENTRY_COLUMNS}
"""  # noqa: S608


async def insert_entries(connection: asyncpg.Connection, entries: Sequence[Entry]) -> None:
    """Append new entries; none of them may be there yet."""
    await insert(connection, "entry", ["tenant_id" if name == "tenant" else name for name in COLUMNS], entries)


async def move_entries(connection: asyncpg.Connection, tenant: str, entries: Sequence[Entry], now: datetime) -> None:
    """Store the new place of entries that are there, and keep where they stood until now."""
    rows = [
        (e.entry_id, e.leaf_id, e.conversation_id, e.rule, e.stitch_key, e.version, e.automatic, e.by_conversation)
        for e in entries
    ]
    if rows:
        await connection.execute(MOVE_ENTRIES, tenant, *columns(rows, 8), now)


async def rewrite_entries(connection: asyncpg.Connection, tenant: str, entries: Sequence[Entry], now: datetime) -> None:
    """Store what derived entries that are there say now, and keep what they said until now, and where."""
    if entries:
        await connection.execute(REWRITE_ENTRIES, tenant, *columns([(e.entry_id, e.data) for e in entries], 2), now)


async def delete_entries(connection: asyncpg.Connection, tenant: str, ids: Iterable[UUID], now: datetime) -> None:
    """Remove entries that no longer hold, and keep what they said until now, and where."""
    if ids := list(ids):
        await connection.execute(DELETE_ENTRIES, tenant, ids, now)


async def reown_entries(
    connection: asyncpg.Connection, tenant: str, owners: Iterable[tuple[UUID, UUID]], now: datetime
) -> list[Entry]:
    """Give the ownerless entries of each (canonical conversation, leaf) to that leaf; return those that changed."""
    rows = [row for row in owners if row[1] is not None]
    found = await connection.fetch(TO_REOWN, tenant, *columns(rows, 2)) if rows else []
    if not found:
        return []
    return [entry_of(row) for row in await connection.fetch(REOWN_ENTRIES, tenant, *columns(found, 2), now)]
