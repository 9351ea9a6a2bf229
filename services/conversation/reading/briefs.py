"""The brief for whoever picks up, read from one snapshot."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import asyncpg

from services.conversation import context as brief
from services.conversation.reading.conversations import conversation
from services.conversation.reading.customers import MOST_OPEN, TAKEN_PART, customer
from services.conversation.reading.shown import IS_OPEN, LINE, SHOWN_LINE, seen_by
from services.conversation.reading.timelines import Page, conversation_entries, timeline

SURVEYS = 20
"""Answered surveys that a brief tells of, the latest."""

_MATTER = "conversation_id, canonical_id, resolved_at, last_activity_at, last_entry_at, topic"

# The matter at hand (the open conversation last active, or the last one where all are resolved), what the latest were
# about, and which are open. A long life has many: they are looked up once for all of it, and again only where they
# became part of others.
MATTERS = f"""
WITH {TAKEN_PART.format("$2")},
placed AS MATERIALIZED (
    SELECT {_MATTER} FROM conversation.conversation
    WHERE tenant_id = $1 AND conversation_id = ANY (ARRAY(SELECT conversation_id FROM part))),
met AS MATERIALIZED (
    SELECT {_MATTER} FROM placed WHERE canonical_id = conversation_id
    UNION
    SELECT {_MATTER} FROM conversation.conversation WHERE tenant_id = $1 AND conversation_id = ANY (ARRAY(
        SELECT canonical_id FROM placed WHERE canonical_id <> conversation_id)))
SELECT (SELECT conversation_id FROM met k
        ORDER BY NOT ({IS_OPEN}), last_activity_at DESC NULLS LAST, conversation_id LIMIT 1),
       ARRAY(SELECT topic FROM met WHERE topic IS NOT NULL
             GROUP BY topic ORDER BY max(last_entry_at) DESC, topic LIMIT 5),
       ARRAY(SELECT conversation_id FROM met k WHERE {IS_OPEN}
             ORDER BY last_activity_at DESC, conversation_id LIMIT {MOST_OPEN})
"""  # noqa: S608

# The condition is spelled out, as the index on answered surveys has it: a long life is not read for a few of its lines.
RECENT_SURVEYS = f"""
SELECT {SHOWN_LINE}, e.conversation_id::text AS canonical_id, false AS joined_whole, NULL AS customer_id
FROM conversation.leaf l, LATERAL (
    SELECT {LINE} FROM conversation.entry e
    WHERE e.tenant_id = $1 AND e.leaf_id = l.leaf_id AND e.type = 'threadline.survey.answered'
    ORDER BY e.occurred_at DESC LIMIT {SURVEYS}) AS e
WHERE l.tenant_id = $1 AND l.customer_id = $2
ORDER BY e.occurred_at DESC, e.source DESC, e.event_id DESC LIMIT {SURVEYS}
"""  # noqa: S608

# Whose author is said to be the customer, and whose headers say that a machine wrote it.
AUTOMATIC = """
SELECT entry_id FROM conversation.entry WHERE tenant_id = $1 AND entry_id = ANY($2::uuid[]) AND automatic
"""

MOST_ENTRIES_OF_A_BRIEF = 500
"""A conversation longer than this is summed up from its latest part."""


async def context(connection: asyncpg.Connection, tenant: str, customer_id: UUID, recent: int) -> dict[str, Any]:
    """Return the answer of `GET /v1/customers/{id}/context` for a surviving customer."""
    current, topics, open_ids = await connection.fetchrow(MATTERS, tenant, [customer_id])
    found: dict[str, Any] | None = None
    entries: list[dict[str, Any]] = []
    if current is not None:
        found = await conversation(connection, tenant, current)
        page = Page(limit=MOST_ENTRIES_OF_A_BRIEF)
        entries, _ = await conversation_entries(connection, tenant, current, page)
    mails = [entry["id"] for entry in entries if entry["channel"] == "email" and brief.from_customer(entry)]
    automatic = {str(row[0]) for row in await connection.fetch(AUTOMATIC, tenant, mails)} if mails else set()
    line, _ = await timeline(connection, tenant, customer_id, Page(limit=recent))
    surveys = [seen_by(str(customer_id), row) for row in await connection.fetch(RECENT_SURVEYS, tenant, customer_id)]
    return {
        "customer": await customer(connection, tenant, customer_id, open_ids),
        "conversation": found,
        "summary": brief.summary(found, list(reversed(entries)), topics, list(reversed(surveys)), automatic),
        "sla": found["sla"] if found else None,
        "entries": line,
    }
