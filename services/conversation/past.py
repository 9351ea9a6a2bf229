"""What was known at an earlier instant: where entries, leaves and conversations stood before they moved.

Whatever moves leaves a row behind that says where it was and until when (by the recorder's clock, as `recorded_at`).
An answer as of T takes, of each thing, the earliest such row behind T, and where there is none what stands now. Nothing
is written for what never moves, and reading the present asks none of it.
Source: docs/decisions/0011-what-was-known.md
"""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

import asyncpg

from services.conversation.entries import COLUMNS
from shared.events import DERIVED_SOURCE

SAYS = frozenset({"new_text", "quoted_text", "html", "data"})
"""Columns of what an entry says, kept here only of one that is no more, or says something else since."""

_NAMES = ["tenant_id" if name == "tenant" else name for name in COLUMNS]
_PLACED = ", ".join(name for name in _NAMES if name not in SAYS)

# --- leaving a trace --------------------------------------------------------------------------------------------------
# Statements that move something keep where it stood themselves, within WITH: all parts of a statement see things as
# they were before it. $1 is the tenant.


def leaves_stood(became: str, until: str) -> str:
    """Return the SQL that keeps whose leaves were, given the SQL of rows that say whose they are now, and the instant.

    Nothing is kept of those whose customer is the same.
    """
    return f"""
    INSERT INTO conversation.past_leaf (tenant_id, leaf_id, until, customer_id)
    SELECT l.tenant_id, l.leaf_id, {until}, l.customer_id
    FROM {became} AS b JOIN conversation.leaf l ON l.tenant_id = $1 AND l.leaf_id = b.leaf_id
    WHERE l.customer_id <> b.customer_id ON CONFLICT DO NOTHING"""  # noqa: S608 - SQL of our own, here and below


def conversations_stood(ids: str, until: str) -> str:
    """Return the SQL that keeps what conversations were part of, given the SQL of their ids and of the instant."""
    return f"""
    INSERT INTO conversation.past_conversation (tenant_id, conversation_id, until, canonical_id, joined_whole)
    SELECT tenant_id, conversation_id, {until}, canonical_id, coalesce(merged_source = '{DERIVED_SOURCE}', false)
    FROM conversation.conversation
    WHERE tenant_id = $1 AND conversation_id = ANY ({ids}) ON CONFLICT DO NOTHING"""  # noqa: S608


def entries_stood(ids: str, until: str) -> str:
    """Return the SQL that keeps where entries stood, given the SQL of their ids and of the instant."""
    return f"""
    INSERT INTO conversation.past_entry ({_PLACED}, until) SELECT {_PLACED}, {until} FROM conversation.entry
    WHERE tenant_id = $1 AND entry_id = ANY ({ids}) ON CONFLICT DO NOTHING"""  # noqa: S608


def entries_said(rows: str, until: str) -> str:
    """Return the SQL that keeps where entries stood and what they said, given what follows FROM for them, and when."""
    return f"""
    INSERT INTO conversation.past_entry ({", ".join(_NAMES)}, until) SELECT {", ".join(_NAMES)}, {until} FROM {rows}
    ON CONFLICT (tenant_id, entry_id, until) DO UPDATE
    SET new_text = excluded.new_text, quoted_text = excluded.quoted_text, html = excluded.html, data = excluded.data
    """  # noqa: S608


# --- reading as of an instant -----------------------------------------------------------------------------------------
# In all of these $1 is the tenant and $2 the instant.

SURVIVOR = """
SELECT coalesce((SELECT customer_id FROM conversation.past_leaf p
                 WHERE p.tenant_id = $1 AND p.leaf_id = l.leaf_id AND p.until > $2 ORDER BY p.until LIMIT 1),
                l.customer_id)
FROM conversation.leaf l WHERE l.tenant_id = $1 AND l.leaf_id = $3 AND (l.was_customer OR l.customer_id = $3)
"""

# The customer of a leaf `{}`, and the conversation that `{}` meant.
CUSTOMER_OF = """coalesce(
    (SELECT p.customer_id FROM conversation.past_leaf p
     WHERE p.tenant_id = $1 AND p.leaf_id = {0} AND p.until > $2 ORDER BY p.until LIMIT 1),
    (SELECT l.customer_id FROM conversation.leaf l WHERE l.tenant_id = $1 AND l.leaf_id = {0}))"""

CANONICAL_OF = """coalesce(
    (SELECT p.canonical_id FROM conversation.past_conversation p
     WHERE p.tenant_id = $1 AND p.conversation_id = {0} AND p.until > $2 ORDER BY p.until LIMIT 1),
    (SELECT c.canonical_id FROM conversation.conversation c WHERE c.tenant_id = $1 AND c.conversation_id = {0}), {0})"""

JOINED_WHOLE = f"""coalesce(
    (SELECT p.joined_whole FROM conversation.past_conversation p
     WHERE p.tenant_id = $1 AND p.conversation_id = {{0}} AND p.until > $2 ORDER BY p.until LIMIT 1),
    (SELECT c.merged_source = '{DERIVED_SOURCE}' FROM conversation.conversation c
     WHERE c.tenant_id = $1 AND c.conversation_id = {{0}}), false)"""  # noqa: S608

_LATER = "FROM conversation.past_{0} q WHERE q.tenant_id = $1 AND q.{0}_id = {1}.{0}_id AND q.until > $2"


def _stood(table: str, key: str, condition: str) -> str:
    """Return the SQL of the ids of leaves or conversations that met `condition` on their `{}` row at the instant."""
    return f"""
    SELECT t.{key} FROM conversation.{table} t
    WHERE t.tenant_id = $1 AND {condition} AND NOT EXISTS (SELECT {_LATER.format(table, "t")})
    UNION
    SELECT t.{key} FROM conversation.past_{table} t WHERE t.tenant_id = $1 AND {condition} AND t.until > $2
        AND NOT EXISTS (SELECT {_LATER.format(table, "t")} AND q.until < t.until)"""  # noqa: S608


def _later(table: str, alias: str, more: str = "") -> str:
    """Return SQL that is true where nothing says that the row `alias` of `table` stood so no longer, or not yet."""
    # Asked of one row at a time: joined, the planner compares a tenant's whole past for a page of fifty.
    return f"(SELECT true {_LATER.format(table, alias)}{more} LIMIT 1) IS NULL"


_KNOWN = f"e.recorded_at <= $2 AND {_later('entry', 'e')}"
"""Of a row of `entry`: it was known at the instant, and stood where it stands."""
_WAS = f"e.recorded_at <= $2 AND e.until > $2 AND {_later('entry', 'e', ' AND q.until < e.until')}"
"""Of a row of `past_entry`: it says where something stood at the instant."""


def _entries(place: str, of: str, narrowed: str, ordered: str) -> str:
    """Return the SQL of the entries that stood at a {place}_id of the rows `of` at the instant.

    Of each place no more than a page: `narrowed` and `ordered` speak of entries `e`.
    """
    now = ", ".join(f"e.{name}" for name in _NAMES)
    then = ", ".join(f"coalesce(e.{n}, g.{n}, x.{n}) AS {n}" if n in SAYS else f"e.{n}" for n in _NAMES)
    at = f"e.tenant_id = $1 AND e.{place}_id = {of}.{place}_id"
    return f"""
    SELECT e.* FROM {of}, LATERAL (
        SELECT {now} FROM conversation.entry e WHERE {at} AND {_KNOWN}{narrowed} {ordered}) AS e
    UNION ALL
    SELECT e.* FROM {of}, LATERAL (
        SELECT {then} FROM conversation.past_entry e
        LEFT JOIN LATERAL (SELECT * FROM conversation.entry
                           WHERE tenant_id = $1 AND entry_id = e.entry_id OFFSET 0) x ON true
        LEFT JOIN LATERAL (SELECT * FROM conversation.past_entry g WHERE g.tenant_id = $1 AND g.entry_id = e.entry_id
                           AND g.data IS NOT NULL AND g.until >= e.until ORDER BY g.until LIMIT 1) g ON true
        WHERE {at} AND {_WAS} AND coalesce(e.data, x.data, g.data) IS NOT NULL{narrowed} {ordered}) AS e"""  # noqa: S608


# Where the customer may have had an entry at the instant: in any conversation in which they have one now, or out of
# which one was moved since.
_MET = """
    SELECT p.conversation_id FROM mine,
    LATERAL (SELECT conversation_id FROM conversation.participation
             WHERE tenant_id = $1 AND leaf_id = mine.leaf_id OFFSET 0) AS p
    UNION
    SELECT p.conversation_id FROM mine,
    LATERAL (SELECT conversation_id FROM conversation.past_entry
             WHERE tenant_id = $1 AND leaf_id = mine.leaf_id AND until > $2 AND conversation_id IS NOT NULL
                 AND cause_id IS NULL OFFSET 0) AS p"""

_ANOTHER = """
    (SELECT true FROM conversation.participation p WHERE p.tenant_id = $1
         AND p.conversation_id = raw.conversation_id AND p.leaf_id NOT IN (SELECT leaf_id FROM mine) LIMIT 1)
    OR (SELECT true FROM conversation.past_entry p WHERE p.tenant_id = $1 AND p.until > $2
         AND p.conversation_id = raw.conversation_id AND p.leaf_id NOT IN (SELECT leaf_id FROM mine) LIMIT 1)"""

_OWN_THERE = f"""
    (SELECT true FROM conversation.entry e WHERE e.tenant_id = $1 AND e.conversation_id = raw.conversation_id
         AND e.cause_id IS NULL AND e.leaf_id IN (SELECT leaf_id FROM mine) AND {_KNOWN} LIMIT 1)
    OR (SELECT true FROM conversation.past_entry e WHERE e.tenant_id = $1 AND e.conversation_id = raw.conversation_id
         AND e.cause_id IS NULL AND e.leaf_id IN (SELECT leaf_id FROM mine) AND {_WAS} LIMIT 1)"""  # noqa: S608


def timeline_sql(*, own_only: bool, narrowed: str, ordered: str) -> str:
    """Return the common table expressions that end in `e`, what a page may hold of the timeline of $3 as known at $2.

    What is read is bounded by the page, the customer's leaves and conversations, and what moved since.
    """
    mine = _stood("leaf", "leaf_id", "t.customer_id = $3")
    own = _entries("leaf", "mine", narrowed, ordered)
    parts = f"mine AS MATERIALIZED ({mine}), own AS MATERIALIZED (SELECT e.* FROM ({own}) AS e {ordered})"  # noqa: S608
    if own_only:
        return f"WITH {parts}, e AS (SELECT * FROM own)"  # noqa: S608
    # Most conversations are the customer's alone. Of the others it is asked whether the customer was in them then.
    return f"""WITH {parts},
    part AS MATERIALIZED (
        SELECT DISTINCT {CANONICAL_OF.format("met.conversation_id")} AS canonical_id FROM ({_MET}) AS met),
    raw AS MATERIALIZED (
        SELECT part.canonical_id, r.conversation_id FROM part, LATERAL (
            {_stood("conversation", "conversation_id", "t.canonical_id = part.canonical_id")}) AS r),
    shared AS MATERIALIZED (SELECT DISTINCT canonical_id FROM raw WHERE {_ANOTHER}),
    there AS MATERIALIZED (
        SELECT DISTINCT canonical_id FROM raw WHERE canonical_id IN (SELECT canonical_id FROM shared)
            AND ({_OWN_THERE})),
    joined AS MATERIALIZED (
        SELECT conversation_id FROM raw WHERE canonical_id IN (SELECT canonical_id FROM there)),
    e AS (SELECT * FROM own UNION ALL ({
        _entries("conversation", "joined", " AND e.leaf_id NOT IN (SELECT leaf_id FROM mine)" + narrowed, ordered)
    }))"""  # noqa: S608


async def survivor(connection: asyncpg.Connection, tenant: str, at: datetime, customer_id: UUID) -> UUID | None:
    """Return who answered for a customer id at that instant; None where there is no such id."""
    found: UUID | None = await connection.fetchval(SURVIVOR, tenant, at, customer_id)
    return found
