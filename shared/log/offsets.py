"""How far each consumer group is, stored beside the state that its reading made."""

from __future__ import annotations

from collections.abc import Mapping

import asyncpg

from shared.database.engine import translated
from shared.errors import Fenced, LogTruncated
from shared.log.database import Connection
from shared.log.protocol import Log

STORED = 'SELECT next_offset FROM log."offset" WHERE group_name = $1 AND topic = $2 AND partition = $3'

ALL_STORED = 'SELECT partition, next_offset FROM log."offset" WHERE group_name = $1 AND topic = $2'

# A group that is new begins with the first record still held; of two members doing it at once the first wins.
BEGIN = """
INSERT INTO log."offset" (group_name, topic, partition, next_offset) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING
"""

# All partitions of a batch in one statement, locked in order so that two members never wait in a circle. A member that
# comes second waits here for the first one's commit and then finds another offset than it expected. The transaction is
# also told how long it may idle, since it now holds locks that others wait for.
COMPARE_AND_SET = """
WITH held AS MATERIALIZED (
    SELECT o.partition, o.next_offset FROM log."offset" AS o
    WHERE o.group_name = $1 AND o.topic = $2 AND o.partition = ANY ($3::integer[])
    ORDER BY o.partition FOR UPDATE
), want AS (
    SELECT w.partition, w.after FROM unnest($3::integer[], $4::bigint[], $5::bigint[]) AS w(partition, before, after)
    JOIN held ON held.partition = w.partition AND held.next_offset = w.before
)
UPDATE log."offset" AS o SET next_offset = want.after FROM want
WHERE o.group_name = $1 AND o.topic = $2 AND o.partition = want.partition
RETURNING o.partition, set_config('idle_in_transaction_session_timeout', $6, true)
"""


async def compare_and_set(
    connection: Connection, group: str, name: str, steps: Mapping[int, tuple[int, int]], idle_s: float = 15.0
) -> None:
    """Move the group's offsets on, per partition from `before` to `after`, inside the caller's transaction.

    `name` is `Log.name(topic)`; from here on the transaction may idle for `idle_s` seconds at most. Raises Fenced where
    any partition is not at `before`: another member did that work.
    """
    order = sorted(steps)
    rows = await connection.fetch(
        COMPARE_AND_SET,
        group,
        name,
        order,
        [steps[p][0] for p in order],
        [steps[p][1] for p in order],
        str(round(idle_s * 1000)),
    )
    if lost := set(order) - {row["partition"] for row in rows}:
        raise Fenced(f"group {group} is no longer at the expected offset of {name} partitions {sorted(lost)}")


async def starting_offset(pool: asyncpg.Pool, log: Log, group: str, topic: str, partition: int) -> int:
    """Return the first offset that `group` has not done; a new group gets the first one held.

    Raises DatabaseUnavailable, LogUnavailable.
    """
    name = log.name(topic)
    with translated():
        stored = await pool.fetchval(STORED, group, name, partition)
        if stored is None:
            await pool.execute(BEGIN, group, name, partition, (await log.begin_offsets(topic))[partition])
            stored = await pool.fetchval(STORED, group, name, partition)
    return int(stored)


async def stored_offsets(pool: asyncpg.Pool, log: Log, group: str, topic: str) -> dict[int, int]:
    """Return, per partition that the group ever read, its first offset not done. Raises DatabaseUnavailable."""
    with translated():
        rows = await pool.fetch(ALL_STORED, group, log.name(topic))
    return {row["partition"]: row["next_offset"] for row in rows}


async def lag(pool: asyncpg.Pool, log: Log, group: str, topic: str) -> dict[int, int]:
    """Return, per partition, how many records `group` has still to do. All zero: it has done all that is there.

    Raises DatabaseUnavailable, LogUnavailable, LogTruncated where the log ends before what was done.
    """
    stored = await stored_offsets(pool, log, group, topic)  # first: the end only grows meanwhile
    begins = await log.begin_offsets(topic)
    ends = await log.end_offsets(topic)
    result = {partition: end - stored.get(partition, begins[partition]) for partition, end in ends.items()}
    if any(records < 0 for records in result.values()):
        raise LogTruncated(f"{log.name(topic)} ends before what group {group} has done")
    return result
