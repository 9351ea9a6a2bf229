"""The SQL of the batch: what an update loads and saves. One statement per concern, whatever the size of the batch.

All functions run inside the caller's transaction, which holds the tenant's row (`lock_tenant`): one tenant has one
decider at any time. Source: docs/decisions/0004-one-decider-per-tenant.md
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from operator import attrgetter
from typing import Any, NamedTuple
from uuid import UUID, uuid4

import asyncpg
from asyncpg.pgproto.pgproto import UUID as DriverUUID

from services.conversation import past
from services.conversation.entries import COLUMNS, Entry
from services.conversation.identity import Evidence, EvidenceKey, Node
from services.conversation.people import Leaf
from services.conversation.policy import DEFAULT, Policy, StoredPolicy
from services.conversation.seen import Seen
from services.conversation.stitching import Binding, Conversation
from services.conversation.summary import Summary

Rows = Sequence[Sequence[Any]]


def fast_id(raw: bytes) -> UUID:
    """Return the id of these 16 bytes in the driver's own class, which hashes, compares and writes itself in C."""
    made: UUID = DriverUUID(raw)
    return made


def new_id() -> UUID:
    """Return a random id."""
    return fast_id(uuid4().bytes)


def _columns(rows: Iterable[Sequence[Any]], width: int) -> list[list[Any]]:
    """Turn rows into the column arrays that `unnest` takes."""
    turned = list(zip(*rows, strict=True))
    return [list(column) for column in turned] if turned else [[] for _ in range(width)]


# --- tenant ---------------------------------------------------------------------------------------------------------

# Takes the tenant's row lock until commit and counts its changes.
LOCK_TENANT = """
INSERT INTO conversation.tenant_state AS s (tenant_id, version) VALUES ($1, 1)
ON CONFLICT (tenant_id) DO UPDATE SET version = s.version + 1
RETURNING policy, policy_version, version, erased_at
"""

PUT_POLICY = """
UPDATE conversation.tenant_state SET policy = $2, policy_version = policy_version + 1 WHERE tenant_id = $1
"""

KNOWN_NODES = """
SELECT EXISTS (SELECT FROM conversation.leaf WHERE tenant_id = $1 AND node = ANY ($2::text[]))
    OR EXISTS (SELECT FROM conversation.sighting WHERE tenant_id = $1 AND node = ANY ($2::text[]))
"""

GET_POLICY = "SELECT policy, policy_version FROM conversation.tenant_state WHERE tenant_id = $1"


class Held(NamedTuple):
    """A tenant held by its only decider: its policy, the number of this change, and its latest erasure."""

    policy: Policy
    version: int
    erased_at: datetime | None


async def lock_tenant(connection: asyncpg.Connection, tenant: str) -> Held:
    """Become the tenant's only decider until commit."""
    row = await connection.fetchrow(LOCK_TENANT, tenant)
    return Held(_policy(row).policy, row["version"], row["erased_at"])


async def get_policy(connection: asyncpg.Connection, tenant: str) -> StoredPolicy:
    """Return the tenant's policy, the default where none was put."""
    return _policy(await connection.fetchrow(GET_POLICY, tenant))


def _policy(row: asyncpg.Record | None) -> StoredPolicy:
    if row is None or row["policy"] is None:
        return StoredPolicy(DEFAULT, row["policy_version"] if row else 0)
    return StoredPolicy(Policy.model_validate(row["policy"]), row["policy_version"])


async def knows_any(connection: asyncpg.Connection, tenant: str, nodes: Iterable[Node]) -> bool:
    """Tell whether any event ever named one of these handles so that it could mean something."""
    return bool(await connection.fetchval(KNOWN_NODES, tenant, list(nodes)))


async def put_policy(connection: asyncpg.Connection, tenant: str, policy: Policy) -> None:
    """Store a policy. The caller re-resolves the tenant in the same transaction."""
    await connection.execute(PUT_POLICY, tenant, policy.model_dump(mode="json"))


# --- events already known -------------------------------------------------------------------------------------------

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
        await connection.execute(SAVE_CONFLICTS, tenant, *_columns(rows, 6))


# --- identity -------------------------------------------------------------------------------------------------------

_LEAF = "leaf_id, node, component_id, customer_id, seq, was_customer, shared, linked_at, last_entry_at"

LEAVES_BY_NODES = f"""
SELECT {_LEAF} FROM conversation.leaf WHERE tenant_id = $1 AND component_id IN (
    SELECT component_id FROM conversation.leaf WHERE tenant_id = $1 AND node = ANY($2::text[]))
"""  # noqa: S608 - names of our own columns

LEAVES_BY_IDS = f"""
SELECT {_LEAF} FROM conversation.leaf WHERE tenant_id = $1 AND component_id IN (
    SELECT component_id FROM conversation.leaf WHERE tenant_id = $1 AND leaf_id = ANY($2::uuid[]))
"""  # noqa: S608

ALL_LEAVES = f"SELECT {_LEAF} FROM conversation.leaf WHERE tenant_id = $1"  # noqa: S608

_LINK = "l.occurred_at, l.source, l.event_id, l.a, l.b, l.rule"

LINKS_OF_PAIRS = f"""
SELECT {_LINK} FROM conversation.link l
JOIN unnest($2::text[], $3::text[]) AS p (a, b) ON l.a = p.a AND l.b = p.b WHERE l.tenant_id = $1
"""  # noqa: S608

LINKS_OF_NODES = f"""
SELECT {_LINK} FROM conversation.link l WHERE l.tenant_id = $1 AND l.a = ANY($2::text[])
UNION
SELECT {_LINK} FROM conversation.link l WHERE l.tenant_id = $1 AND l.b = ANY($2::text[])
"""  # noqa: S608

SAVE_LINKS = """
INSERT INTO conversation.link (tenant_id, occurred_at, source, event_id, a, b, rule, manual)
SELECT $1, * FROM unnest($2::timestamptz[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::boolean[])
ON CONFLICT (tenant_id, a, b, manual) DO UPDATE
SET occurred_at = excluded.occurred_at, source = excluded.source, event_id = excluded.event_id, rule = excluded.rule
"""

SAVE_LEAVES = """
INSERT INTO conversation.leaf
    (tenant_id, leaf_id, node, component_id, customer_id, was_customer, shared, linked_at)
SELECT $1, * FROM unnest($2::uuid[], $3::text[], $4::uuid[], $5::uuid[], $6::boolean[], $7::boolean[],
                         $8::timestamptz[])
ON CONFLICT (tenant_id, leaf_id) DO UPDATE
SET component_id = excluded.component_id, customer_id = excluded.customer_id, was_customer = excluded.was_customer,
    shared = excluded.shared, linked_at = excluded.linked_at
"""

# Facts about leaves from new entries, in any order: earliest, latest, and what the latest said.
SAVE_SEEN = """
UPDATE conversation.leaf l
SET first_seen_at = least(l.first_seen_at, s.first_at),
    last_seen_at = greatest(l.last_seen_at, s.last_at),
    shown = CASE WHEN l.last_seen_at IS NULL OR s.shown_at >= l.last_seen_at THEN coalesce(s.shown, l.shown)
                 ELSE coalesce(l.shown, s.shown) END,
    verified = l.verified OR s.verified,
    last_entry_at = greatest(l.last_entry_at, s.entry_at),
    name = CASE WHEN s.name IS NOT NULL AND (l.named_at IS NULL OR s.named_at >= l.named_at)
                THEN s.name ELSE l.name END,
    named_at = greatest(l.named_at, s.named_at),
    attributes = CASE WHEN s.attributes = '{}' THEN l.attributes ELSE l.attributes || (
        SELECT coalesce(jsonb_object_agg(n.key, n.value), '{}') FROM jsonb_each(s.attributes) n
        WHERE NOT l.attributes ? n.key OR l.attributes -> n.key ->> 1 <= n.value ->> 1) END,
    channels = l.channels || ARRAY(
        SELECT c.channel FROM jsonb_object_keys(s.channels) AS c (channel) WHERE c.channel <> ALL (l.channels))
FROM unnest($2::uuid[], $3::timestamptz[], $4::timestamptz[], $5::text[], $6::timestamptz[], $7::boolean[],
            $8::timestamptz[], $9::text[], $10::timestamptz[], $11::jsonb[], $12::jsonb[])
    AS s (leaf_id, first_at, last_at, shown, shown_at, verified, entry_at, name, named_at, attributes, channels)
WHERE l.tenant_id = $1 AND l.leaf_id = s.leaf_id
"""

SAVE_SIGHTINGS = """
INSERT INTO conversation.sighting AS s (tenant_id, node, leaf_id, shown, verified, first_seen_at, last_seen_at)
SELECT $1, * FROM unnest($2::text[], $3::uuid[], $4::text[], $5::boolean[], $6::timestamptz[], $7::timestamptz[])
ON CONFLICT (tenant_id, node, leaf_id) DO UPDATE
SET first_seen_at = least(s.first_seen_at, excluded.first_seen_at),
    last_seen_at = greatest(s.last_seen_at, excluded.last_seen_at),
    verified = s.verified OR excluded.verified
WHERE excluded.first_seen_at < s.first_seen_at OR excluded.last_seen_at > s.last_seen_at
"""


async def leaves_of_nodes(connection: asyncpg.Connection, tenant: str, nodes: Iterable[Node]) -> list[Leaf]:
    """Return the leaves of every component that one of these nodes is part of."""
    return [_leaf(row) for row in await connection.fetch(LEAVES_BY_NODES, tenant, list(nodes))]


async def leaves_of_ids(connection: asyncpg.Connection, tenant: str, ids: Iterable[UUID]) -> list[Leaf]:
    """Return the leaves of every component that one of these leaves is part of."""
    return [_leaf(row) for row in await connection.fetch(LEAVES_BY_IDS, tenant, list(ids))]


async def all_leaves(connection: asyncpg.Connection, tenant: str) -> list[Leaf]:
    """Return every leaf of the tenant."""
    return [_leaf(row) for row in await connection.fetch(ALL_LEAVES, tenant)]


def _leaf(row: asyncpg.Record) -> Leaf:
    return Leaf(
        leaf_id=row[0],
        node=row[1],
        component_id=row[2],
        customer_id=row[3],
        seq=row[4],
        was_customer=row[5],
        shared=row[6],
        linked_at=row[7],
        last_entry_at=row[8],
    )


async def links_of_pairs(
    connection: asyncpg.Connection, tenant: str, pairs: Iterable[tuple[Node, Node]]
) -> dict[EvidenceKey, Evidence]:
    """Return the stored evidence of those pairs that have some."""
    rows = await connection.fetch(LINKS_OF_PAIRS, tenant, *_columns(pairs, 2))
    return {link.key: link for link in (Evidence(*row) for row in rows)}


async def links_of_nodes(connection: asyncpg.Connection, tenant: str, nodes: Iterable[Node]) -> list[Evidence]:
    """Return all evidence that names one of these nodes."""
    return [Evidence(*row) for row in await connection.fetch(LINKS_OF_NODES, tenant, list(nodes))]


async def save_links(connection: asyncpg.Connection, tenant: str, links: Iterable[Evidence]) -> None:
    rows = [(e.occurred_at, e.source, e.event_id, e.a, e.b, e.rule, e.manual) for e in links]
    if rows:
        await connection.execute(SAVE_LINKS, tenant, *_columns(rows, 7))


async def clear_links(connection: asyncpg.Connection, tenant: str) -> None:
    """Forget all evidence, to be gathered again from the stored entries."""
    await connection.execute("DELETE FROM conversation.link WHERE tenant_id = $1", tenant)


async def save_leaves(connection: asyncpg.Connection, tenant: str, leaves: Iterable[Leaf]) -> None:
    rows = [
        (leaf.leaf_id, leaf.node, leaf.component_id, leaf.customer_id, leaf.was_customer, leaf.shared, leaf.linked_at)
        for leaf in sorted(leaves, key=lambda leaf: leaf.age)
    ]
    if rows:
        await connection.execute(SAVE_LEAVES, tenant, *_columns(rows, 7))


_SEEN = attrgetter(*(column.name for column in fields(Seen)))


async def save_seen(connection: asyncpg.Connection, tenant: str, leaves: Iterable[Seen]) -> None:
    """Store what is new of each leaf."""
    if rows := [_SEEN(seen) for seen in leaves]:
        await connection.execute(SAVE_SEEN, tenant, *_columns(rows, 11))


async def save_sightings(connection: asyncpg.Connection, tenant: str, rows: Rows) -> None:
    """Rows of (node, leaf_id, shown, verified, first_seen_at, last_seen_at), one per node and leaf."""
    if rows:
        await connection.execute(SAVE_SIGHTINGS, tenant, *_columns(rows, 6))


# --- what is known of conversations before an instant ---------------------------------------------------------------

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

_CONVERSATION = """conversation_id, canonical_id, merged_into, merged_at, merged_source, merged_event_id,
    opened_at, opened_source, opened_event_id, owner_leaf_id, last_entry_at, last_activity_at, resolved_at, tickets,
    follow_up_of, last_channel, escalation_posted_to, channels, assignee, team, topic, waiting_since, entries"""

# Conversations by id, with all that were merged with them. OFFSET 0 keeps the look-ups nested: on tables without
# statistics a join is planned as a scan of all conversations.
CONVERSATIONS = f"""
SELECT {_CONVERSATION} FROM (
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

# The keys of conversations that were named from an instant on: what they meant may depend on what happens before.
# OFFSET 0 keeps the look-ups nested, as above.
KEYS_NAMED_SINCE = """
SELECT DISTINCT b.key, c.conversation_id
FROM unnest($2::uuid[], $3::timestamptz[]) AS c (conversation_id, since),
LATERAL (SELECT key FROM conversation.binding
         WHERE tenant_id = $1 AND conversation_id = c.conversation_id OFFSET 0) AS b,
LATERAL (SELECT FROM conversation.binding
         WHERE tenant_id = $1 AND key = b.key AND occurred_at >= c.since LIMIT 1) AS later
"""

# Those who take part in conversations, and whether they are, as the person they are, owners of later entries.
PARTICIPANTS = """
SELECT p.leaf_id, c.conversation_id,
       EXISTS (SELECT FROM conversation.leaf
               WHERE tenant_id = $1 AND component_id = l.component_id AND last_entry_at >= c.since)
FROM unnest($2::uuid[], $3::timestamptz[]) AS c (conversation_id, since),
LATERAL (SELECT leaf_id FROM conversation.participation
         WHERE tenant_id = $1 AND conversation_id = c.conversation_id OFFSET 0) AS p,
LATERAL (SELECT component_id FROM conversation.leaf WHERE tenant_id = $1 AND leaf_id = p.leaf_id OFFSET 0) AS l
"""

ENTRY_COLUMNS = ", ".join(f"e.{'tenant_id' if name == 'tenant' else name}" for name in COLUMNS)

# Every entry from an instant on that belongs to one of these leaves or conversations, or is named.
ENTRIES_SINCE = f"""
SELECT {ENTRY_COLUMNS} FROM unnest($2::uuid[], $3::timestamptz[]) AS w (leaf_id, since)
JOIN conversation.entry e ON e.tenant_id = $1 AND e.leaf_id = w.leaf_id AND e.occurred_at >= w.since
UNION ALL
SELECT {ENTRY_COLUMNS} FROM unnest($4::uuid[], $5::timestamptz[]) AS w (conversation_id, since)
JOIN conversation.entry e
    ON e.tenant_id = $1 AND e.conversation_id = w.conversation_id AND e.occurred_at >= w.since
UNION ALL
SELECT {ENTRY_COLUMNS} FROM conversation.entry e WHERE e.tenant_id = $1 AND e.entry_id = ANY($6::uuid[])
"""  # noqa: S608

ENTRIES_BEFORE = f"""
SELECT {ENTRY_COLUMNS} FROM unnest($2::uuid[], $3::timestamptz[]) AS w (conversation_id, before)
JOIN conversation.entry e
    ON e.tenant_id = $1 AND e.conversation_id = w.conversation_id AND e.occurred_at < w.before AND e.cause_id IS NULL
"""  # noqa: S608

ALL_ENTRIES = f"SELECT {ENTRY_COLUMNS} FROM conversation.entry e WHERE e.tenant_id = $1"  # noqa: S608

# An entry, or a copy with the entry that stands for it.
NAMED_ENTRIES = """
SELECT entry_id AS named, conversation_id, entry_id FROM conversation.entry
WHERE tenant_id = $1 AND entry_id = ANY($2::uuid[])
UNION ALL
SELECT c.copy_id, e.conversation_id, e.entry_id FROM conversation.copy c
JOIN conversation.entry e ON e.tenant_id = $1 AND e.entry_id = c.entry_id
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


@dataclass(frozen=True, slots=True)
class Bound:
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
    return [Bound(*row) for row in await connection.fetch(BINDINGS, tenant, *_columns(wanted, 2))]


async def conversations(
    connection: asyncpg.Connection, tenant: str, ids: Iterable[UUID]
) -> dict[UUID, StoredConversation]:
    """Return these conversations and all that are merged with them."""
    rows = await connection.fetch(CONVERSATIONS, tenant, list(ids))
    return {row[0]: _conversation(row) for row in rows}


async def open_conversations(
    connection: asyncpg.Connection, tenant: str, wanted: Iterable[tuple[UUID, datetime]]
) -> list[tuple[UUID, UUID]]:
    """Return (leaf, canonical conversation) for each leaf's conversations with an entry since the given instant."""
    rows = await connection.fetch(OPEN_CONVERSATIONS, tenant, *_columns(wanted, 2))
    return [(row[0], row[1]) for row in rows]


async def keys_named_since(
    connection: asyncpg.Connection, tenant: str, wanted: Iterable[tuple[UUID, datetime]]
) -> list[tuple[str, UUID]]:
    """Return (key, conversation) for the keys of each conversation that were named from the given instant on."""
    rows = await connection.fetch(KEYS_NAMED_SINCE, tenant, *_columns(wanted, 2))
    return [(row[0], row[1]) for row in rows]


async def participants(
    connection: asyncpg.Connection, tenant: str, wanted: Iterable[tuple[UUID, datetime]]
) -> list[tuple[UUID, UUID, bool]]:
    """Return (leaf, conversation, whether seen later) for those in each conversation, later than the given instant."""
    rows = await connection.fetch(PARTICIPANTS, tenant, *_columns(wanted, 2))
    return [(row[0], row[1], row[2]) for row in rows]


def _conversation(row: asyncpg.Record) -> StoredConversation:
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
    """Return the entries of these leaves and conversations from an instant on, and the named ones; some twice."""
    rows = await connection.fetch(
        ENTRIES_SINCE, tenant, *_columns(leaves, 2), *_columns(conversation_ids, 2), list(ids)
    )
    return [entry_of(row) for row in rows]


async def entries_before(
    connection: asyncpg.Connection, tenant: str, wanted: Iterable[tuple[UUID, datetime]]
) -> list[Entry]:
    """Return the posted entries of these conversations before an instant."""
    return [entry_of(row) for row in await connection.fetch(ENTRIES_BEFORE, tenant, *_columns(wanted, 2))]


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


# --- saving ---------------------------------------------------------------------------------------------------------

MOVE_ENTRIES = """
UPDATE conversation.entry e
SET leaf_id = m.leaf_id, conversation_id = m.conversation_id, rule = m.rule, stitch_key = m.stitch_key,
    version = m.version, automatic = m.automatic, by_conversation = m.by_conversation
FROM unnest($2::uuid[], $3::uuid[], $4::uuid[], $5::text[], $6::text[], $7::integer[], $8::boolean[], $9::boolean[])
    AS m (entry_id, leaf_id, conversation_id, rule, stitch_key, version, automatic, by_conversation)
WHERE e.tenant_id = $1 AND e.entry_id = m.entry_id
"""

DELETE_ENTRIES = "DELETE FROM conversation.entry WHERE tenant_id = $1 AND entry_id = ANY($2::uuid[])"

DELETE_BINDINGS = "DELETE FROM conversation.binding WHERE tenant_id = $1 AND entry_id = ANY($2::uuid[])"

DELETE_CONVERSATIONS = """
DELETE FROM conversation.conversation WHERE tenant_id = $1 AND conversation_id = ANY($2::uuid[])
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

# Nobody's week may be before that of the conversation's last entry; one behind it only costs a look.
SAVE_WEEKS = f"""
UPDATE conversation.participation p SET active_week = {WEEK.format("w.active_at")}
FROM unnest($2::uuid[], $3::timestamptz[]) AS w (conversation_id, active_at)
WHERE p.tenant_id = $1 AND p.conversation_id = w.conversation_id AND p.active_week <> {WEEK.format("w.active_at")}
"""  # noqa: S608

# Lists in a row do not pass through unnest, so conversations travel as one JSON array.
SAVE_CONVERSATIONS = f"""
INSERT INTO conversation.conversation AS c (tenant_id, {_CONVERSATION})
SELECT $1, {_CONVERSATION} FROM jsonb_to_recordset($2::jsonb) AS r (
    conversation_id uuid, canonical_id uuid, merged_into uuid, merged_at timestamptz, merged_source text,
    merged_event_id text, opened_at timestamptz, opened_source text, opened_event_id text, owner_leaf_id uuid,
    last_entry_at timestamptz, last_activity_at timestamptz, resolved_at timestamptz, tickets text[],
    follow_up_of uuid, last_channel text, escalation_posted_to text, channels text[], assignee text, team text,
    topic text, waiting_since timestamptz, entries integer)
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

# Entries that belong to whoever owns their conversation follow its owner.
TO_REOWN = """
SELECT e.entry_id FROM unnest($2::uuid[], $3::uuid[]) AS o (conversation_id, leaf_id)
JOIN conversation.entry e ON e.tenant_id = $1 AND e.conversation_id = o.conversation_id
WHERE e.by_conversation AND e.leaf_id <> o.leaf_id
"""

REOWN_ENTRIES = f"""
UPDATE conversation.entry e SET leaf_id = o.leaf_id, version = e.version + 1
FROM unnest($2::uuid[], $3::uuid[]) AS o (conversation_id, leaf_id)
WHERE e.tenant_id = $1 AND e.conversation_id = o.conversation_id AND e.by_conversation AND e.leaf_id <> o.leaf_id
RETURNING {ENTRY_COLUMNS}
"""  # noqa: S608


async def insert_entries(connection: asyncpg.Connection, entries: Sequence[Entry]) -> None:
    """Append new entries by COPY; none of them may be there yet."""
    if not entries:
        return
    await connection.copy_records_to_table(
        "entry",
        schema_name="conversation",
        columns=["tenant_id" if name == "tenant" else name for name in COLUMNS],
        records=entries,
    )


async def move_entries(connection: asyncpg.Connection, tenant: str, entries: Sequence[Entry]) -> None:
    """Store the new place of entries that are there."""
    rows = [
        (e.entry_id, e.leaf_id, e.conversation_id, e.rule, e.stitch_key, e.version, e.automatic, e.by_conversation)
        for e in entries
    ]
    if rows:
        await connection.execute(MOVE_ENTRIES, tenant, *_columns(rows, 8))


async def delete_entries(connection: asyncpg.Connection, tenant: str, ids: Iterable[UUID]) -> None:
    """Remove derived entries that no longer hold."""
    if ids := list(ids):
        await connection.execute(DELETE_ENTRIES, tenant, ids)


async def reown_entries(
    connection: asyncpg.Connection, tenant: str, owners: Iterable[tuple[UUID, UUID]], now: datetime
) -> list[Entry]:
    """Give the ownerless entries of each (conversation, leaf) to that leaf; return those that changed."""
    rows = [row for row in owners if row[1] is not None]
    if not rows:
        return []
    columns = _columns(rows, 2)
    ids = [row[0] for row in await connection.fetch(TO_REOWN, tenant, *columns)]
    if not ids:
        return []
    await past.keep(connection, tenant, now, moved=ids)
    return [entry_of(row) for row in await connection.fetch(REOWN_ENTRIES, tenant, *columns)]


async def save_bindings(
    connection: asyncpg.Connection, tenant: str, replaced: Iterable[UUID], new: Sequence[Binding]
) -> None:
    """Store bindings; those of the entries `replaced` are forgotten first."""
    if ids := list(replaced):
        await connection.execute(DELETE_BINDINGS, tenant, ids)
    if new:
        await connection.copy_records_to_table(
            "binding",
            schema_name="conversation",
            columns=["tenant_id", "key", "occurred_at", "entry_id", "conversation_id", "source", "event_id"],
            records=[(tenant, b.key, b.order[0], b.entry_id, b.conversation_id, b.order[1], b.order[2]) for b in new],
        )


async def save_conversations(
    connection: asyncpg.Connection, tenant: str, rows: Sequence[StoredConversation], gone: Iterable[UUID]
) -> None:
    """Store conversations; those in `gone` are no more."""
    if ids := list(gone):
        await connection.execute(DELETE_CONVERSATIONS, tenant, ids)
    if rows:
        await connection.execute(SAVE_CONVERSATIONS, tenant, [_conversation_row(row) for row in rows])


def _text(id_: UUID | None) -> str | None:
    # The driver's own UUID class is none that the JSON writer knows.
    return None if id_ is None else str(id_)


def _conversation_row(row: StoredConversation) -> dict[str, Any]:
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
    if ids := list(rebuilt):
        await connection.execute(DELETE_PARTICIPATIONS, tenant, ids)
    if found := list(rows):
        await connection.execute(SAVE_PARTICIPATIONS, tenant, *_columns(found, 3))


async def save_weeks(connection: asyncpg.Connection, tenant: str, active: Iterable[tuple[UUID, datetime]]) -> None:
    """Store until when these conversations, each with the one it is part of, were active."""
    if rows := list(active):
        await connection.execute(SAVE_WEEKS, tenant, *_columns(rows, 2))


# --- changes, for streams ---------------------------------------------------------------------------------------------

SAVE_CHANGES = """
WITH numbered AS (
    UPDATE conversation.tenant_state SET position = position + $2 WHERE tenant_id = $1
    RETURNING position - $2 AS before)
INSERT INTO conversation.change (tenant_id, position, entry_id, leaf_id, conversation_id, kind, changed_at)
SELECT $1, n.before + c.place, c.entry_id, c.leaf_id, c.conversation_id, c.kind, $3
FROM numbered n, unnest($4::uuid[], $5::uuid[], $6::uuid[], $7::"char"[])
    WITH ORDINALITY AS c (entry_id, leaf_id, conversation_id, kind, place)
"""

NEW, CORRECTED, GONE = b"n", b"c", b"g"


async def save_changes(
    connection: asyncpg.Connection, tenant: str, changes: Sequence[tuple[bytes, Entry]], now: datetime
) -> None:
    """Number what changed on timelines. The tenant's row is locked, so positions follow the order of commits."""
    if not changes:
        return
    rows = [(entry.entry_id, entry.leaf_id, entry.conversation_id, kind) for kind, entry in changes]
    await connection.execute(SAVE_CHANGES, tenant, len(rows), now, *_columns(rows, 4))
