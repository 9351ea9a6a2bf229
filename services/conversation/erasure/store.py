"""The SQL of an erasure: what is found of a person in every table, and what takes it away.

All functions run inside the caller's transaction, which holds the tenant's row (`tables.tenants.lock_tenant`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from uuid import UUID

import asyncpg
import orjson

from services.conversation import tables
from services.conversation.entries import Entry, digest_of, extra_of
from services.conversation.identity import Node
from shared.erasures import PATIENCE_S
from shared.events import DECISIONS, TYPE_PREFIX, InboundEvent

LEAVES_OF_CUSTOMER = """
SELECT l.leaf_id, l.node, l.shown, l.name, l.was_customer, l.customer_id, l.shared FROM conversation.leaf l
WHERE l.tenant_id = $1 AND l.customer_id = (
    SELECT customer_id FROM conversation.leaf
    WHERE tenant_id = $1 AND leaf_id = $2 AND (was_customer OR customer_id = $2))
"""

LEAVES_BY_IDS = """
SELECT leaf_id, node, shown, name, was_customer, customer_id, shared FROM conversation.leaf
WHERE tenant_id = $1 AND leaf_id = ANY($2::uuid[])
"""

# Of those who have entries at all; a shared handle is nobody's own.
LEAVES_OF_QUIET = """
WITH quiet AS (
    SELECT customer_id FROM conversation.leaf WHERE tenant_id = $1
    GROUP BY customer_id HAVING max(last_entry_at) < $2 AND NOT bool_or(shared) LIMIT $3)
SELECT l.leaf_id, l.node, l.shown, l.name, l.was_customer, l.customer_id, l.shared
FROM quiet JOIN conversation.leaf l ON l.tenant_id = $1 AND l.customer_id = quiet.customer_id
"""

SIGHTED = "SELECT DISTINCT node, shown FROM conversation.sighting WHERE tenant_id = $1 AND leaf_id = ANY($2::uuid[])"

ENTRIES_BY_IDS = f"""
SELECT {tables.entries.ENTRY_COLUMNS} FROM conversation.entry e
WHERE e.tenant_id = $1 AND e.entry_id = ANY($2::uuid[]) AND e.cause_id IS NULL
"""  # noqa: S608 - names of our own columns

DECISIONS_AROUND = f"""
WITH one AS (
    SELECT a AS node FROM conversation.link WHERE tenant_id = $1 AND manual AND b = ANY($2::text[])
    UNION SELECT b FROM conversation.link WHERE tenant_id = $1 AND manual AND a = ANY($2::text[])),
around AS (
    SELECT node FROM one
    UNION SELECT l.a FROM conversation.link l JOIN one ON l.b = one.node WHERE l.tenant_id = $1 AND l.manual
    UNION SELECT l.b FROM conversation.link l JOIN one ON l.a = one.node WHERE l.tenant_id = $1 AND l.manual)
SELECT {tables.entries.ENTRY_COLUMNS} FROM around,
LATERAL (SELECT leaf_id FROM conversation.leaf WHERE tenant_id = $1 AND node = around.node OFFSET 0) AS l,
LATERAL (SELECT * FROM conversation.entry
         WHERE tenant_id = $1 AND leaf_id = l.leaf_id AND type = ANY($3::text[]) AND cause_id IS NULL OFFSET 0) AS e
"""  # noqa: S608

RESTATE = """
UPDATE conversation.entry e SET data = r.data, digest = r.digest, version = e.version + 1
FROM unnest($2::uuid[], $3::jsonb[], $4::bytea[]) AS r (entry_id, data, digest)
WHERE e.tenant_id = $1 AND e.entry_id = r.entry_id
"""

# As with entries that go (TOLD): whoever queues what is told of them holds their rows, and reads them anew afterwards.
HOLD_RESTATED = """
SELECT FROM conversation.entry WHERE tenant_id = $1 AND entry_id = ANY($2::uuid[]) ORDER BY entry_id FOR UPDATE
"""
TOLD_OF_RESTATED = """
SELECT webhook_id, entry_id, body FROM conversation.webhook_event WHERE tenant_id = $1 AND entry_id = ANY($2::uuid[])
"""
RETELL = "UPDATE conversation.webhook_event SET body = $3 WHERE tenant_id = $1 AND webhook_id = $2"
# A receiver's answer may quote what it was told.
FORGET_ANSWERS = """
UPDATE conversation.webhook_attempt SET excerpt = '' WHERE tenant_id = $1 AND webhook_id = ANY($2::text[])
"""

CONFLICTS = """
SELECT entry_id, type, occurred_at, received_at, data FROM conversation.conflict
WHERE tenant_id = $1 AND entry_id = ANY($2::uuid[])
"""

FORGET_KEYS = "DELETE FROM privacy.log_key WHERE tenant_id = $1 AND leaf_id = ANY($2::uuid[])"

# Whoever writes the search index holds this row: either it is done, and what it wrote is deleted, or it starts later.
HOLD_SEARCH = "SELECT FROM conversation.searchable WHERE tenant_id = $1 FOR UPDATE"

BY_EVENT = {
    "search index": "DELETE FROM conversation.search WHERE tenant_id = $1 AND entry_id = ANY($2::uuid[])",
    "bindings": "DELETE FROM conversation.binding WHERE tenant_id = $1 AND entry_id = ANY($2::uuid[])",
    "conflicts": "DELETE FROM conversation.conflict WHERE tenant_id = $1 AND entry_id = ANY($2::uuid[])",
    "earlier places": "DELETE FROM conversation.past_entry WHERE tenant_id = $1 AND entry_id = ANY($2::uuid[])",
    "copies of mails": "DELETE FROM conversation.copy WHERE tenant_id = $1 AND copy_id = ANY($2::uuid[])",
}
# Behind the entries and leaves: whoever queues what is told of them holds their rows. What is told of a leaf that
# changed hands has its id in the place of an entry's. That something is gone stays: it says nothing of what it was.
TOLD = """
DELETE FROM conversation.webhook_event
WHERE tenant_id = $1 AND entry_id = ANY($2::uuid[]) AND NOT type LIKE '%.deleted'
"""
DELETE_ENTRIES = """
DELETE FROM conversation.entry WHERE tenant_id = $1 AND entry_id = ANY($2::uuid[]) RETURNING cause_id IS NOT NULL
"""
BY_LEAF = {
    "sightings": "DELETE FROM conversation.sighting WHERE tenant_id = $1 AND leaf_id = ANY($2::uuid[])",
    "earlier customers": "DELETE FROM conversation.past_leaf WHERE tenant_id = $1 AND leaf_id = ANY($2::uuid[])",
    "policy changes": "DELETE FROM conversation.policy_regrouping WHERE tenant_id = $1 AND leaf_id = ANY($2::uuid[])",
    "keys of the log": FORGET_KEYS,
    "participations": "DELETE FROM conversation.participation WHERE tenant_id = $1 AND leaf_id = ANY($2::uuid[])",
    "handles and sessions": "DELETE FROM conversation.leaf WHERE tenant_id = $1 AND leaf_id = ANY($2::uuid[])",
}
# Where what stays had been theirs, such as an agent's reply in their conversation: it has been whose it is now.
PAST_OF_OTHERS = """
UPDATE conversation.past_entry p SET leaf_id = e.leaf_id FROM conversation.entry e
WHERE p.tenant_id = $1 AND p.leaf_id = ANY($2::uuid[]) AND e.tenant_id = $1 AND e.entry_id = p.entry_id
"""
PAST_OF_NOTHING = "DELETE FROM conversation.past_entry WHERE tenant_id = $1 AND leaf_id = ANY($2::uuid[])"
DELETE_LINKS = """
DELETE FROM conversation.link
WHERE tenant_id = $1 AND (a = ANY($2::text[]) OR b = ANY($2::text[]))
    AND (NOT manual OR a = ANY($3::text[]) OR b = ANY($3::text[]))
"""

LINKS_BY_EVENTS = """
SELECT count(*) FROM conversation.link l JOIN unnest($3::text[], $4::text[]) AS g (source, event_id) USING (source, event_id)
WHERE l.tenant_id = $1 AND l.a = ANY($2::text[])
"""  # noqa: E501

MARK_TENANT = """
UPDATE conversation.tenant_state SET erased_at = greatest(erased_at, $2) WHERE tenant_id = $1
"""

NODES = "SELECT leaf_id, node FROM conversation.leaf WHERE tenant_id = $1"

POSTED = f"""
SELECT {tables.entries.ENTRY_COLUMNS} FROM conversation.entry e WHERE e.tenant_id = $1 AND e.cause_id IS NULL
"""  # noqa: S608

# Entries without an owner of their own, of whoever these handles were seen beside.
SAID_WEAKLY = f"""
SELECT {tables.entries.ENTRY_COLUMNS} FROM conversation.sighting s
JOIN conversation.entry e ON e.tenant_id = $1 AND e.leaf_id = s.leaf_id
WHERE s.tenant_id = $1 AND s.node = ANY($2::text[]) AND e.by_conversation AND e.cause_id IS NULL
"""  # noqa: S608

CONTACTS_OF_OTHERS = """
SELECT DISTINCT o.contact_id FROM conversation.entry e
JOIN conversation.entry o ON o.tenant_id = $1 AND o.conversation_id = e.conversation_id AND o.contact_id IS NOT NULL
WHERE e.tenant_id = $1 AND e.entry_id = ANY($2::uuid[]) AND o.entry_id <> ALL ($2::uuid[]) AND o.cause_id IS NULL
"""

DECIDED = [TYPE_PREFIX + kind for kind in sorted(DECISIONS)]


def counted(status: str) -> int:
    """Return the number of rows in what PostgreSQL answers to a command."""
    return int(status.rpartition(" ")[2])


async def entries_by_ids(connection: asyncpg.Connection, tenant: str, ids: Iterable[UUID]) -> list[Entry]:
    """Return those of these posted entries that exist."""
    return [tables.entries.entry_of(row) for row in await connection.fetch(ENTRIES_BY_IDS, tenant, list(ids))]


async def said_weakly(connection: asyncpg.Connection, tenant: str, nodes: Iterable[Node]) -> list[Entry]:
    """Return the entries without an owner of their own that may be by one of these browsers."""
    return [
        tables.entries.entry_of(row)
        for row in await connection.fetch(SAID_WEAKLY, tenant, list(nodes), timeout=PATIENCE_S)
    ]


async def decisions_around(connection: asyncpg.Connection, tenant: str, nodes: Iterable[Node]) -> dict[UUID, Entry]:
    """Return the agents' decisions that may name one of these nodes."""
    rows = await connection.fetch(DECISIONS_AROUND, tenant, list(nodes), DECIDED)
    return {entry.entry_id: entry for entry in map(tables.entries.entry_of, rows)}


async def restate(connection: asyncpg.Connection, tenant: str, events: Sequence[tuple[UUID, InboundEvent]]) -> None:
    """Store events anew that say less than before, also where webhooks told them, or still would."""
    if not events:
        return
    ids, said = zip(*events, strict=True)
    await connection.execute(HOLD_RESTATED, tenant, ids, timeout=PATIENCE_S)
    await connection.execute(RESTATE, tenant, ids, [e.data for e in said], [digest_of(e) for e in said])
    extra = {id_: extra_of(event.data) for id_, event in events}
    told = await connection.fetch(TOLD_OF_RESTATED, tenant, ids)
    for webhook_id, entry_id, body in told:
        now = orjson.loads(body)
        if not now["data"]["entry"].get("deleted"):
            now["data"]["entry"]["extra"] = extra[entry_id]
            await connection.execute(RETELL, tenant, webhook_id, orjson.dumps(now), timeout=PATIENCE_S)
    await connection.execute(FORGET_ANSWERS, tenant, [row["webhook_id"] for row in told], timeout=PATIENCE_S)


async def forget_keys(connection: asyncpg.Connection, tenant: str, names: Sequence[UUID]) -> None:
    """Destroy keys of the timeline topic."""
    if names:
        await connection.execute(FORGET_KEYS, tenant, names)


async def contacts_of_others(connection: asyncpg.Connection, tenant: str, entries: Iterable[UUID]) -> list[str]:
    """Return the sessions and threads that other entries than these name, in the conversations of these."""
    return [row[0] for row in await connection.fetch(CONTACTS_OF_OTHERS, tenant, list(entries), timeout=PATIENCE_S)]


async def conflicting(
    connection: asyncpg.Connection, tenant: str, said: Mapping[UUID, InboundEvent]
) -> list[InboundEvent]:
    """Return what else came under the ids of these events, as the events that it was."""
    rows = await connection.fetch(CONFLICTS, tenant, list(said))
    return [
        replace(said[id_], type=type_, occurred_at=occurred_at, received_at=received_at, data=data)
        for id_, type_, occurred_at, received_at, data in rows
    ]


async def remove(
    connection: asyncpg.Connection,
    tenant: str,
    entries: Sequence[UUID],
    copies: Sequence[UUID],
    leaves: Sequence[UUID],
) -> dict[str, int]:
    """Delete entries, posted and derived, copies, and leaves with all that hangs on them; return how many of what."""
    await connection.execute(HOLD_SEARCH, tenant)
    found = {}
    for ids, statements in (([*entries, *copies], BY_EVENT), (leaves, BY_LEAF)):
        for place, statement in statements.items():
            found[place] = counted(await connection.execute(statement, tenant, ids, timeout=PATIENCE_S))
    derived = [row[0] for row in await connection.fetch(DELETE_ENTRIES, tenant, entries, timeout=PATIENCE_S)]
    told = counted(await connection.execute(TOLD, tenant, [*entries, *copies, *leaves], timeout=PATIENCE_S))
    return {"entries": derived.count(False), "derived entries": derived.count(True), **found, "webhook events": told}


async def hand_over_the_past(connection: asyncpg.Connection, tenant: str, leaves: Sequence[UUID]) -> None:
    """Have nothing say any more that it was of these leaves, once what stays is decided."""
    for statement in (PAST_OF_OTHERS, PAST_OF_NOTHING):
        await connection.execute(statement, tenant, leaves, timeout=PATIENCE_S)


async def remove_links(
    connection: asyncpg.Connection, tenant: str, around: Iterable[Node], gone: Iterable[Node]
) -> int:
    """Delete all evidence on the nodes `around`, to be gathered again, and agents' decisions on those in `gone`."""
    return counted(await connection.execute(DELETE_LINKS, tenant, list(around), list(gone)))


async def links_by_events(
    connection: asyncpg.Connection, tenant: str, nodes: Iterable[Node], entries: Iterable[Entry]
) -> int:
    """Return how many links of these nodes rest on one of these entries."""
    said = [(entry.source, entry.event_id) for entry in entries]
    sources, ids = ([pair[0] for pair in said], [pair[1] for pair in said])
    return int(await connection.fetchval(LINKS_BY_EVENTS, tenant, list(nodes), sources, ids))


async def mark_tenant(connection: asyncpg.Connection, tenant: str, erased_at: datetime) -> None:
    """Have the tenant's events held against tombstones from now on."""
    await connection.execute(MARK_TENANT, tenant, erased_at)
