"""Conversations as they stand, one by one and as an inbox."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg

from services.conversation import promises
from services.conversation.promises import Step
from services.conversation.reading.query import Query
from services.conversation.reading.shown import IS_OPEN, time_shown
from shared import agreements

# In these statements OFFSET 0 keeps look-ups nested and in the order in which they stand: a new tenant, of whom there
# are no statistics, counts as one row for the planner, and then every order costs the same.

# The id of any entry that ever founded a conversation means the one that holds it now.
CANONICAL = """
SELECT canonical_id FROM conversation.conversation WHERE tenant_id = $1 AND conversation_id = $2
UNION ALL
SELECT c.canonical_id FROM conversation.entry e,
LATERAL (SELECT canonical_id FROM conversation.conversation
         WHERE tenant_id = $1 AND conversation_id = e.conversation_id OFFSET 0) AS c
WHERE e.tenant_id = $1 AND e.entry_id = $2
UNION ALL
SELECT c.canonical_id FROM conversation.copy m,
LATERAL (SELECT conversation_id FROM conversation.entry WHERE tenant_id = $1 AND entry_id = m.entry_id OFFSET 0) AS e,
LATERAL (SELECT canonical_id FROM conversation.conversation
         WHERE tenant_id = $1 AND conversation_id = e.conversation_id OFFSET 0) AS c
WHERE m.tenant_id = $1 AND m.copy_id = $2 LIMIT 1
"""

CONVERSATION = """
SELECT k.conversation_id, k.opened_at, k.resolved_at, k.last_activity_at, k.channels, k.assignee, k.team, k.topic,
       k.waiting_since, k.follow_up_of, k.entries, o.customer_id AS owner_id,
       (SELECT coalesce(array_agg(m.conversation_id ORDER BY m.opened_at), '{}') FROM conversation.conversation m
        WHERE m.tenant_id = $1 AND m.canonical_id = k.conversation_id AND m.conversation_id <> k.conversation_id)
           AS merged_ids,
       (SELECT coalesce(array_agg(DISTINCT l.customer_id), '{}') FROM conversation.conversation m,
        LATERAL (SELECT leaf_id FROM conversation.participation
                 WHERE tenant_id = $1 AND conversation_id = m.conversation_id OFFSET 0) AS p,
        LATERAL (SELECT customer_id FROM conversation.leaf WHERE tenant_id = $1 AND leaf_id = p.leaf_id OFFSET 0) AS l
        WHERE m.tenant_id = $1 AND m.canonical_id = k.conversation_id) AS customer_ids
FROM conversation.conversation k
LEFT JOIN LATERAL (SELECT customer_id FROM conversation.leaf
                   WHERE tenant_id = $1 AND leaf_id = k.owner_leaf_id OFFSET 0) AS o ON true
WHERE k.tenant_id = $1 AND k.conversation_id = ANY($2::uuid[])
"""

CONTACTS = """
SELECT m.canonical_id, e.contact_id, min(e.channel) AS channel, min(e.occurred_at) AS started_at,
       max(e.occurred_at) FILTER (WHERE e.type IN ('threadline.call.ended', 'threadline.call.abandoned')) AS ended_at
FROM conversation.conversation m,
LATERAL (SELECT contact_id, channel, occurred_at, type FROM conversation.entry
         WHERE tenant_id = $1 AND conversation_id = m.conversation_id AND contact_id IS NOT NULL AND cause_id IS NULL
         OFFSET 0) AS e
WHERE m.tenant_id = $1 AND m.canonical_id = ANY($2::uuid[])
GROUP BY m.canonical_id, e.contact_id ORDER BY started_at, e.contact_id
"""


# What else of the same people is open: perhaps the same matter, which no rule may decide.
ALSO_OPEN = f"""
WITH people AS MATERIALIZED (
    SELECT DISTINCT l.customer_id FROM conversation.conversation m,
    LATERAL (SELECT leaf_id FROM conversation.participation
             WHERE tenant_id = $1 AND conversation_id = m.conversation_id OFFSET 0) AS p,
    LATERAL (SELECT customer_id FROM conversation.leaf WHERE tenant_id = $1 AND leaf_id = p.leaf_id OFFSET 0) AS l
    WHERE m.tenant_id = $1 AND m.canonical_id = $2),
met AS MATERIALIZED (
    SELECT DISTINCT c.canonical_id FROM people,
    LATERAL (SELECT leaf_id FROM conversation.leaf
             WHERE tenant_id = $1 AND customer_id = people.customer_id OFFSET 0) AS l,
    LATERAL (SELECT conversation_id FROM conversation.participation
             WHERE tenant_id = $1 AND leaf_id = l.leaf_id OFFSET 0) AS p,
    LATERAL (SELECT canonical_id FROM conversation.conversation
             WHERE tenant_id = $1 AND conversation_id = p.conversation_id OFFSET 0) AS c)
SELECT k.conversation_id, k.channels, k.topic, k.last_activity_at FROM met,
LATERAL (SELECT conversation_id, channels, topic, last_activity_at, resolved_at FROM conversation.conversation
         WHERE tenant_id = $1 AND conversation_id = met.canonical_id OFFSET 0) AS k
WHERE k.conversation_id <> $2 AND {IS_OPEN}
ORDER BY k.last_activity_at DESC, k.conversation_id LIMIT 5
"""  # noqa: S608


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
            "last_activity_at": time_shown(row["last_activity_at"]),
        }
        for row in rows
    ]
    return found


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
                "started_at": time_shown(row["started_at"]),
                "ended_at": time_shown(row["ended_at"]),
            }
        )
    slas = await _promises(connection, tenant, rows)
    return [_conversation(rows[id_], contacts[id_], slas.get(id_, promises.NOTHING)) for id_ in ids if id_ in rows]


# What changes whose turn it is; automatic mail changes nothing.
STEPS = """
SELECT m.canonical_id, e.occurred_at, e.type, e.data -> 'actor' ->> 'type', e.data ->> 'waiting_on'
FROM conversation.conversation m,
LATERAL (SELECT occurred_at, type, data, source, event_id FROM conversation.entry
         WHERE tenant_id = $1 AND conversation_id = m.conversation_id AND type = ANY($3::text[])
             AND (NOT automatic OR cause_id IS NOT NULL) OFFSET 0) AS e
WHERE m.tenant_id = $1 AND m.canonical_id = ANY($2::uuid[])
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
        "state": "open" if row["resolved_at"] is None and row["last_activity_at"] else "resolved",
        "opened_at": time_shown(row["opened_at"]),
        "resolved_at": time_shown(row["resolved_at"]),
        "last_activity_at": time_shown(row["last_activity_at"]),
        "channels": row["channels"],
        "contacts": contacts,
        "customers": [{"id": str(id_), "role": "owner" if id_ == owner else "participant"} for id_ in people],
        "assignee": row["assignee"],
        "team": row["team"],
        "topic": row["topic"],
        "waiting_since": time_shown(row["waiting_since"]),
        "sla": sla,
        "follow_up_of": str(row["follow_up_of"]) if row["follow_up_of"] else None,
        "merged_ids": [str(id_) for id_ in row["merged_ids"]],
        "entries": row["entries"],
    }


async def inbox(connection: asyncpg.Connection, tenant: str, wanted: Inbox) -> list[tuple[UUID, datetime]]:
    """Return (conversation, last activity) of those wanted."""
    query = Query([tenant])
    if wanted.state is not None:
        query.add(IS_OPEN if wanted.state == "open" else f"NOT ({IS_OPEN})")
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
