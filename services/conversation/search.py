"""Full text over entries: an index written behind the stream of changes, and questions to it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from html import escape
from time import monotonic
from typing import Any
from uuid import UUID

import asyncpg
import structlog

from services.conversation.reading.shown import JOINED_WHOLE, SHOWN, seen_by
from services.conversation.search_words import asked, together
from shared.database.engine import transaction, translated
from shared.database.retrying import tried_again
from shared.log.precedence import PATIENCE_S
from shared.log.waiting import wait_at_most

LOOK_EVERY_S = 0.25
LONGEST_WAIT_S = 1.0
"""A search waits so long for the index; where that is further behind (an import), it finds what is indexed."""
AT_ONCE = 2_000
"""Most changes indexed in one transaction."""
RESTS = 3
"""While the stream is behind, the index rests so many times as long as it was worked on, unless somebody searches: both
want the same processors."""

log = structlog.get_logger(__name__)

BEHIND = """
SELECT t.tenant_id FROM conversation.tenant_state t
LEFT JOIN conversation.searchable i ON i.tenant_id = t.tenant_id
WHERE t.position > coalesce(i.position, 0) LIMIT 100
"""

ENSURE = "INSERT INTO conversation.searchable (tenant_id) VALUES ($1) ON CONFLICT DO NOTHING"

# Another process that is at it already does it.
CLAIM = "SELECT position FROM conversation.searchable WHERE tenant_id = $1 FOR UPDATE SKIP LOCKED"

LAST = "SELECT position FROM conversation.tenant_state WHERE tenant_id = $1"

INDEX = """
INSERT INTO conversation.search (tenant_id, entry_id, occurred_at, document)
SELECT e.tenant_id, e.entry_id, e.occurred_at,
       conversation.words_of(e.data ->> 'subject', coalesce(e.new_text, e.data ->> 'text'),
                             e.data -> 'customer' ->> 'name', e.quoted_text)
FROM conversation.entry e
WHERE e.tenant_id = $1 AND e.cause_id IS NULL AND e.entry_id IN (
    SELECT entry_id FROM conversation.change WHERE tenant_id = $1 AND position > $2 AND position <= $3 AND kind = 'n')
ON CONFLICT (tenant_id, entry_id) DO UPDATE SET document = excluded.document
"""

HOW_FAR = """
SELECT coalesce((SELECT position FROM conversation.searchable WHERE tenant_id = $1), 0) AS indexed,
       coalesce((SELECT position FROM conversation.tenant_state WHERE tenant_id = $1), 0) AS told
"""

REACHED = "UPDATE conversation.searchable SET position = $2 WHERE tenant_id = $1"


class Indexer:
    """Keeps the index up with the changes of all tenants, and lets a search wait for those that came before it."""

    def __init__(self, pool: asyncpg.Pool, behind: Callable[[], bool] = lambda: False) -> None:
        """`behind` tells whether who goes before the index is."""
        self._pool = pool
        self._behind = behind
        self._asked = asyncio.Event()

    async def run(self) -> None:
        """Index for the life of the process."""
        all_at_s = monotonic()
        while True:
            with tried_again(log, "search waits for the database"):
                self._asked.clear()
                began = monotonic()
                if await index_once(self._pool):
                    pause_s = RESTS * (monotonic() - began) if self._behind() else 0
                else:
                    all_at_s, pause_s = began, LOOK_EVERY_S
                if pause_s:
                    await wait_at_most(self._asked, pause_s)
                while self._behind() and not self._asked.is_set() and monotonic() < all_at_s + PATIENCE_S:
                    await wait_at_most(self._asked, LOOK_EVERY_S)
                continue
            await asyncio.sleep(2.0)

    async def catch_up(self, tenant: str) -> None:
        """Wait until what is on the tenant's timelines now can be found, at most `LONGEST_WAIT_S`."""
        wanted = None
        with translated(), suppress(TimeoutError):
            async with asyncio.timeout(LONGEST_WAIT_S):
                while True:
                    far = await self._pool.fetchrow(HOW_FAR, tenant)
                    wanted = far["told"] if wanted is None else wanted
                    if far["indexed"] >= wanted:
                        return
                    self._asked.set()
                    await asyncio.sleep(0.01)


async def index_once(pool: asyncpg.Pool) -> bool:
    """Index the next changes of every tenant that is behind; return whether there were any to do."""
    done = False
    for row in await pool.fetch(BEHIND):
        async with transaction(pool) as connection:
            done |= await _index_tenant(connection, row["tenant_id"])
    return done


async def _index_tenant(connection: asyncpg.Connection, tenant: str) -> bool:
    await connection.execute(ENSURE, tenant)
    position = await connection.fetchval(CLAIM, tenant)
    if position is None:
        return False
    reached = min(await connection.fetchval(LAST, tenant), position + AT_ONCE)
    if reached <= position:
        return False
    await connection.execute(INDEX, tenant, position, reached)
    await connection.execute(REACHED, tenant, reached)
    return True


# --- asking -----------------------------------------------------------------------------------------------------------

# Marks that cannot be in a text: NUL never comes in, these are as rare, and both become <mark> after escaping.
START, STOP = "\ue000", "\ue001"
_HEADLINE = (
    f'StartSel={START}, StopSel={STOP}, MaxFragments=2, MaxWords=30, MinWords=8, ShortWord=0, FragmentDelimiter=" … "'
)

# OFFSET 0 keeps the look-ups nested: the planner takes a page of hits for a thousand, and reads whole tables for that.
FIND = f"""
SELECT f.score,
       ts_headline('simple', conversation.words_apart(left(coalesce(e.new_text, e.data ->> 'text', ''), 20000)),
                   websearch_to_tsquery('simple', $1), '{_HEADLINE}') AS text_shown,
       ts_headline('simple', conversation.words_apart(left(coalesce(e.data ->> 'subject', ''), 2000)),
                   websearch_to_tsquery('simple', $1), '{_HEADLINE}') AS subject_shown,
       {SHOWN}, coalesce(c.canonical_id, e.conversation_id)::text AS canonical_id, {JOINED_WHOLE},
       l.customer_id::text AS customer_id
FROM conversation.find_entries($1, $2, $3, $4, $5, $6, $7, $8, $9) WITH ORDINALITY AS f (entry_id, score, place)
CROSS JOIN LATERAL (SELECT * FROM conversation.entry WHERE tenant_id = $10 AND entry_id = f.entry_id OFFSET 0) AS e
CROSS JOIN LATERAL (SELECT customer_id FROM conversation.leaf
                    WHERE tenant_id = $10 AND leaf_id = e.leaf_id OFFSET 0) AS l
LEFT JOIN LATERAL (SELECT canonical_id, merged_source FROM conversation.conversation
                   WHERE tenant_id = $10 AND conversation_id = e.conversation_id OFFSET 0) AS c ON true
ORDER BY f.place
"""  # noqa: S608


@dataclass(frozen=True, slots=True)
class Question:
    """What to look for: words as people type them (quotes, or, -), and what narrows it."""

    words: str
    limit: int
    beyond: int = 0
    channels: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    since: datetime | None = None
    until: datetime | None = None
    customer_id: UUID | None = None
    conversation_id: UUID | None = None


async def find(connection: asyncpg.Connection, tenant: str, question: Question) -> tuple[list[dict[str, Any]], bool]:
    """Return the best hits, best first, and whether there are more.

    Of words that are in more than 5,000 entries of the tenant the newest 5,000 of the span asked for are looked at,
    unless they are looked for with one customer or in one conversation.
    """
    rows = await connection.fetch(
        FIND,
        asked(question.words),
        list(question.channels) or None,
        list(question.kinds) or None,
        question.since,
        question.until,
        question.customer_id,
        question.conversation_id,
        question.limit + 1,
        question.beyond,
        tenant,
    )
    return [_hit(row, question.words) for row in rows[: question.limit]], len(rows) > question.limit


def _hit(row: asyncpg.Record, words: str) -> dict[str, Any]:
    shown = seen_by(None, row[3:])
    highlights = {name: _marked(row[f"{name}_shown"], words) for name in ("text", "subject")}
    return {"entry": shown, "score": round(row["score"], 6), "highlights": highlights}


def _marked(text: str, words: str) -> str | None:
    """Return a headline as HTML in which only <mark> is markup; None where nothing in it matches."""
    if START not in text:
        return None
    return escape(together(text, START, STOP, words), quote=False).replace(START, "<mark>").replace(STOP, "</mark>")
