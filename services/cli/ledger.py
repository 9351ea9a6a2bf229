"""The ledger: what the log carried compared with what the tables hold, in constant memory.

The log is streamed once into temporary tables of the database, and the database compares. Everything here only reads
(temporary tables aside) and may run while Threadline runs: only what the log held when the check began is judged.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic
from typing import Any
from uuid import UUID

import asyncpg

from services.conversation.auditing import carried
from shared.database.engine import translated
from shared.errors import Rejected
from shared.events import TimelineRecord
from shared.log.offsets import stored_offsets
from shared.log.protocol import INBOUND, TIMELINE, Log, Record
from shared.log.stretch import stretch

CONVERSATION_GROUP = "conversation"
METRICS_GROUP = "metrics"
EXAMPLES = 10
"""How many examples of one kind of fault are listed."""

CREATE = """
CREATE TEMP TABLE seen_inbound (
    tenant_id text, source text, event_id text, entry_id uuid, partition integer, "offset" bigint);
CREATE TEMP TABLE seen_timeline (
    tenant_id text, kind text, key uuid, version bigint, deleted boolean, points_at text, place bigint);
"""

# '/threadline' is the source of what Threadline derives by itself (shared/events.py): outside the ledger. What agents
# decide has it too, but comes through the log like any event, so that has to be on a timeline.

# What was there before either topic was read: the topics may be ahead of it, never behind.
SNAPSHOT = """
CREATE TEMP TABLE stored_entry AS SELECT tenant_id, entry_id, version FROM conversation.entry;
CREATE TEMP TABLE stored_leaf AS SELECT tenant_id, leaf_id, customer_id FROM conversation.leaf;
ANALYZE stored_entry; ANALYZE stored_leaf;
"""

# The newest version of everything the timeline carried.
NEWEST = """
CREATE TEMP TABLE newest AS
SELECT DISTINCT ON (tenant_id, kind, key) tenant_id, kind, key, version, deleted, points_at
FROM seen_timeline ORDER BY tenant_id, kind, key, version DESC, place DESC;
DROP TABLE seen_timeline;
ANALYZE newest;
"""

# Whole tables are compared with whole tables, perhaps ones that nobody analysed yet: row by row that takes hours.
WHOLE = "SET enable_nestloop = off"

PATIENCE_S = 3600.0
"""Longest that one statement may take here; those that serve callers have to be quicker."""

DROP = "DROP TABLE IF EXISTS seen_inbound, seen_timeline, stored_entry, stored_leaf, newest, gone"

NOWHERE = """
SELECT DISTINCT i.tenant_id, i.source, i.event_id, i.partition || '/' || i."offset" AS position
FROM (SELECT DISTINCT ON (tenant_id, source, event_id) * FROM seen_inbound WHERE source IS NOT NULL) AS i
LEFT JOIN conversation.entry AS e
    ON e.tenant_id = i.tenant_id AND e.source = i.source AND e.event_id = i.event_id
LEFT JOIN log.quarantine AS q
    ON q.tenant_id = i.tenant_id AND q.source = i.source AND q.event_id = i.event_id
LEFT JOIN conversation.copy AS c
    ON c.tenant_id = i.tenant_id AND c.source = i.source AND c.event_id = i.event_id
LEFT JOIN privacy.tombstone AS t ON t.tenant_id = i.tenant_id AND t.digest = i.entry_id
LEFT JOIN conversation.aside AS a ON a.tenant_id = i.tenant_id AND a.entry_id = i.entry_id
WHERE e.entry_id IS NULL AND q.id IS NULL AND c.copy_id IS NULL AND t.digest IS NULL AND a.entry_id IS NULL
"""

BACK = """
SELECT t.tenant_id, t.digest AS entry_id FROM privacy.tombstone AS t
JOIN conversation.entry AS e ON e.tenant_id = t.tenant_id AND e.entry_id = t.digest
UNION ALL
SELECT t.tenant_id, t.digest FROM privacy.tombstone AS t
JOIN conversation.copy AS c ON c.tenant_id = t.tenant_id AND c.copy_id = t.digest
"""

UNREADABLE_NOT_KEPT = """
SELECT i.partition || '/' || i."offset" AS position FROM seen_inbound AS i
LEFT JOIN log.quarantine AS q ON q.topic = $1 AND q.partition = i.partition AND q."offset" = i."offset"
WHERE i.source IS NULL AND q.id IS NULL
"""

TWICE = """
SELECT tenant_id, source, event_id, count(*) AS times FROM conversation.entry
WHERE source <> '/threadline' GROUP BY tenant_id, source, event_id HAVING count(*) > 1
"""

# A copy of a mail is no entry, and the one that stands for it is there.
COPIES = """
SELECT c.tenant_id, c.source, c.event_id FROM conversation.copy AS c
LEFT JOIN conversation.entry AS own ON own.tenant_id = c.tenant_id AND own.entry_id = c.copy_id
LEFT JOIN conversation.entry AS e ON e.tenant_id = c.tenant_id AND e.entry_id = c.entry_id
WHERE own.entry_id IS NOT NULL OR e.entry_id IS NULL
"""

BOTH = """
SELECT e.tenant_id, e.source, e.event_id FROM conversation.entry AS e
JOIN log.quarantine AS q
    ON q.tenant_id = e.tenant_id AND q.source = e.source AND q.event_id = e.event_id AND q.state = 'held'
"""

# What the lane has still to decide is not on a timeline, and what is on one is not set aside.
DECIDED_AND_ASIDE = """
SELECT a.tenant_id, a.source, a.event_id FROM conversation.aside AS a
LEFT JOIN conversation.entry AS e ON e.tenant_id = a.tenant_id AND e.entry_id = a.entry_id
LEFT JOIN conversation.copy AS c ON c.tenant_id = a.tenant_id AND c.copy_id = a.entry_id
WHERE e.entry_id IS NOT NULL OR c.copy_id IS NOT NULL
"""

# Up to the last one that is set aside now ($1 null), or of those up to that one.
LEFT_ASIDE = "SELECT count(*), max(seq) FROM conversation.aside WHERE $1::bigint IS NULL OR seq <= $1"

OWNERLESS = """
SELECT e.tenant_id, e.source, e.event_id FROM conversation.entry AS e
LEFT JOIN conversation.leaf AS l ON l.tenant_id = e.tenant_id AND l.leaf_id = e.leaf_id
WHERE l.customer_id IS NULL
"""

HOMELESS = """
SELECT e.tenant_id, e.source, e.event_id, e.conversation_id FROM conversation.entry AS e
LEFT JOIN conversation.conversation AS c ON c.tenant_id = e.tenant_id AND c.conversation_id = e.conversation_id
WHERE e.conversation_id IS NOT NULL AND c.conversation_id IS NULL
"""

INVENTED = """
SELECT e.tenant_id, e.source, e.event_id FROM stored_entry AS s
JOIN conversation.entry AS e USING (tenant_id, entry_id)
LEFT JOIN seen_inbound AS i ON i.tenant_id = e.tenant_id AND i.source = e.source AND i.event_id = e.event_id
WHERE i.source IS NULL AND e.source <> '/threadline'
"""

NOT_TOLD = """
SELECT s.tenant_id, s.entry_id, s.version, n.version AS told FROM stored_entry AS s
LEFT JOIN newest AS n ON n.tenant_id = s.tenant_id AND n.kind = 'entry' AND n.key = s.entry_id
WHERE (n.key IS NULL AND $1) OR n.version < s.version
   OR (n.deleted AND EXISTS (SELECT FROM conversation.entry AS e
                             WHERE e.tenant_id = s.tenant_id AND e.entry_id = s.entry_id AND e.version >= n.version))
"""

GONE = """
CREATE TEMP TABLE gone AS
SELECT n.tenant_id, n.key, n.version FROM newest AS n
LEFT JOIN conversation.entry AS e ON e.tenant_id = n.tenant_id AND e.entry_id = n.key
WHERE n.kind = 'entry' AND NOT n.deleted AND e.entry_id IS NULL
"""

# What the topic tells of these further on: they went while this ran.
TOLD_SINCE = """
DELETE FROM gone AS g USING unnest($1::text[], $2::uuid[]) AS t (tenant_id, key)
WHERE g.tenant_id = t.tenant_id AND g.key = t.key
"""

TOLD_TOO_MUCH = "SELECT tenant_id, key, version FROM gone"

LEAF_TOLD_OTHERWISE = """
SELECT s.tenant_id, s.leaf_id, s.customer_id, n.points_at AS told FROM stored_leaf AS s
JOIN conversation.leaf AS l USING (tenant_id, leaf_id, customer_id)
JOIN newest AS n ON n.tenant_id = s.tenant_id AND n.kind = 'leaf' AND n.key = s.leaf_id
WHERE n.points_at IS DISTINCT FROM s.customer_id::text
"""

COUNTS = """
SELECT (SELECT count(*) FROM seen_inbound) AS records,
       (SELECT count(*) FROM (SELECT DISTINCT tenant_id, source, event_id FROM seen_inbound) AS one) AS events,
       (SELECT count(*) FROM conversation.entry WHERE source <> '/threadline') AS entries,
       (SELECT count(*) FROM conversation.copy) AS copies,
       (SELECT count(*) FROM log.quarantine WHERE state = 'held') AS quarantined,
       (SELECT count(DISTINCT (tenant_id, customer_id)) FROM conversation.leaf) AS customers
"""


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong: a sentence, how often, and the first examples."""

    what: str
    times: int
    examples: Sequence[str]

    def lines(self) -> Iterable[str]:
        """Return the fault as lines for the terminal."""
        yield f"{self.what}: {self.times}"
        yield from (f"  {example}" for example in self.examples)


class NotDone(Exception):
    """The services did not come to the log's end in time."""


async def wait_for_end(
    pool: asyncpg.Pool, log: Log, group: str, topic: str, deadline: float, pause_s: float = 0.1
) -> Mapping[int, int]:
    """Wait until `group` has done all that `topic` holds now; return those end offsets.

    `deadline` is on the monotonic clock, in seconds. Raises NotDone, DatabaseUnavailable, LogUnavailable, LogTruncated.
    """
    ends = await log.end_offsets(topic)
    begins = await log.begin_offsets(topic)
    while True:
        stored = await stored_offsets(pool, log, group, topic)
        behind = {p: end - stored.get(p, begins[p]) for p, end in ends.items() if stored.get(p, begins[p]) < end}
        if not behind:
            return ends
        if monotonic() >= deadline:
            raise NotDone(f"group {group} is still {sum(behind.values())} records behind the end of {log.name(topic)}")
        await asyncio.sleep(pause_s)


async def wait_for_lane(pool: asyncpg.Pool, deadline: float, pause_s: float = 0.1) -> None:
    """Wait until all is decided that is set aside now. Raises NotDone, DatabaseUnavailable."""
    last: int | None = None
    while True:
        with translated():
            left, seq = await pool.fetchrow(LEFT_ASIDE, last)
        if not left:
            return
        last = last or seq
        if monotonic() >= deadline:
            raise NotDone(f"{left} events are set aside and not yet decided, since they change much")
        await asyncio.sleep(pause_s)


async def check(
    pool: asyncpg.Pool,
    log: Log,
    secret: bytes,
    deadline: float,
    told: Callable[[str], None],
    published: Callable[[], Awaitable[None]],
) -> tuple[list[Fault], Mapping[str, int]]:
    """Compare log and tables; return the faults, empty where all is right, and the counts.

    `secret` is that of entry ids (shared/entry_ids.py); `told` hears what is being done; `published` returns once the
    outbox is in the log. Raises NotDone and the errors of log and database.
    """
    async with pool.acquire() as connection:
        try:
            await connection.execute(DROP)
            await connection.execute(CREATE)
            await connection.execute(WHOLE)
            told("waiting for the conversation service")
            await wait_for_end(pool, log, CONVERSATION_GROUP, INBOUND, deadline)
            await wait_for_lane(pool, deadline)
            await connection.execute(SNAPSHOT, timeout=PATIENCE_S)
            # All that the snapshot holds came by what the topic holds now.
            ends = await wait_for_end(pool, log, CONVERSATION_GROUP, INBOUND, deadline)
            told("reading the inbound topic")
            async for records in stretch(log, INBOUND, await log.begin_offsets(INBOUND), ends):
                events = [event for record in records if (event := carried(record, secret))]
                await connection.copy_records_to_table("seen_inbound", records=events)
            await connection.execute("ANALYZE seen_inbound")
            faults = await _on_timelines(connection, log)
            told("waiting for the metrics service")
            await published()
            ends = await wait_for_end(pool, log, METRICS_GROUP, TIMELINE, deadline)
            told("reading the timeline topic")
            async for records in stretch(log, TIMELINE, await log.begin_offsets(TIMELINE), ends):
                rows = [row for record in records if (row := _timeline(record))]
                await connection.copy_records_to_table("seen_timeline", records=rows)
            await connection.execute(NEWEST, timeout=PATIENCE_S)
            await connection.execute(GONE, timeout=PATIENCE_S)
            await published()
            async for records in stretch(log, TIMELINE, ends, await log.end_offsets(TIMELINE)):
                lines = [row for record in records if (row := _timeline(record))]
                await connection.execute(TOLD_SINCE, [line[0] for line in lines], [line[2] for line in lines])
            faults += await _told(connection, log)
            counts = await connection.fetchrow(COUNTS, timeout=PATIENCE_S)
            return faults, dict(counts)
        finally:
            with suppress(asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
                await connection.execute(DROP)
                await connection.execute("RESET enable_nestloop")


async def _on_timelines(connection: Any, log: Log) -> list[Fault]:
    """Judge the entries against the inbound topic."""
    whole = not any((await log.begin_offsets(INBOUND)).values())
    faults = [
        await _fault(connection, "accepted events that are on no timeline and not in quarantine", NOWHERE),
        await _fault(connection, "unreadable records that were not kept", UNREADABLE_NOT_KEPT, log.name(INBOUND)),
        await _fault(connection, "events with more than one entry", TWICE),
        await _fault(connection, "copies of mails without their entry, or with one of their own", COPIES),
        await _fault(connection, "events both on a timeline and in quarantine", BOTH),
        await _fault(connection, "events both on a timeline and set aside", DECIDED_AND_ASIDE),
        await _fault(connection, "erased events that are on a timeline again", BACK),
        await _fault(connection, "entries on nobody's timeline", OWNERLESS),
        await _fault(connection, "entries in a conversation that does not exist", HOMELESS),
    ]
    if whole:
        faults.append(await _fault(connection, "entries of events that the log never carried", INVENTED))
    return [fault for fault in faults if fault.times]


async def _told(connection: Any, log: Log) -> list[Fault]:
    """Judge the timeline topic against the entries."""
    whole = not any((await log.begin_offsets(TIMELINE)).values())
    faults = [
        await _fault(connection, "entries whose newest version the timeline topic does not carry", NOT_TOLD, whole),
        await _fault(connection, "entries of the timeline topic that do not exist", TOLD_TOO_MUCH),
        await _fault(connection, "leaves of the timeline topic that belong to another customer", LEAF_TOLD_OTHERWISE),
    ]
    return [fault for fault in faults if fault.times]


async def _fault(connection: Any, what: str, query: str, *arguments: object) -> Fault:
    # `query` is one of the constants above.
    rows = await connection.fetch(
        f"SELECT *, count(*) OVER () AS n FROM ({query}) AS f LIMIT {EXAMPLES}",  # noqa: S608
        *arguments,
        timeout=PATIENCE_S,
    )
    shown = [", ".join(f"{name} {value}" for name, value in row.items() if name != "n") for row in rows]
    return Fault(what, rows[0]["n"] if rows else 0, shown)


def _timeline(record: Record) -> tuple[Any, ...] | None:
    try:
        line = TimelineRecord.decode(record.value)
    except Rejected:
        return None
    points_at = line.body.get("customer_id") or line.body.get("canonical_id") if line.body else None
    return (line.tenant, line.kind, UUID(line.key), line.version, line.deleted, points_at, record.offset)
