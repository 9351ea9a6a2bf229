"""The events that were accepted and that nobody has taken from the log yet.

Whoever asks this process for one right after its 202 hears `accepted` from memory. What still waits after a second is
written to the database, so that every process knows it from then on; what the consumer has done is forgotten, since
the database then says what became of it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from hashlib import blake2b
from typing import TYPE_CHECKING, NamedTuple

from shared.database.engine import transaction

if TYPE_CHECKING:
    import asyncpg

TAKER = "conversation"
"""The consumer group that takes accepted events from the inbound topic."""

CAPACITY = 500_000
"""Most events remembered while the database is away and nothing can be written; the oldest go first."""

WRITE_AFTER_S = 1.0
"""Events not taken from the log after this many seconds are written to the database."""

# How far the consumer is: what lies before is done.
DONE = 'SELECT partition, next_offset FROM log."offset" WHERE group_name = $1 AND topic = $2'

# Forgets what is done, whichever process wrote it. Rows locked by another process are forgotten by it.
FORGET = """
DELETE FROM ingest.accepted WHERE ctid = ANY (ARRAY(
    SELECT a.ctid FROM ingest.accepted AS a JOIN log."offset" AS o USING (partition)
    WHERE o.group_name = $1 AND o.topic = $2 AND a."offset" < o.next_offset
    FOR UPDATE OF a SKIP LOCKED))
"""

WRITE = """
INSERT INTO ingest.accepted (tenant_id, digest, partition, "offset")
SELECT * FROM unnest($1::text[], $2::bytea[], $3::integer[], $4::bigint[])
ON CONFLICT (tenant_id, digest) DO NOTHING
"""


class Waiting(NamedTuple):
    """One accepted event: where it stands in the log and since when (a monotonic clock, seconds)."""

    identity: tuple[str, str, str]
    partition: int
    offset: int
    since_s: float


def digest_of(tenant: str, source: str, event_id: str) -> bytes:
    """Return the 16 bytes that name the event (tenant, source, id) in the database."""
    return blake2b(f"{tenant}\0{source}\0{event_id}".encode("utf-8", "surrogatepass"), digest_size=16).digest()


class Accepted:
    """What one process accepted and does not know done. For one event loop."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._queue: deque[Waiting] = deque()
        self._known: dict[tuple[str, str, str], int] = {}
        self._capacity = capacity

    def __len__(self) -> int:
        return len(self._queue)

    def add(self, tenant: str, source: str, event_id: str, partition: int, offset: int, now_s: float) -> None:
        """Remember an event that the log has taken at (partition, offset)."""
        identity = (tenant, source, event_id)
        self._queue.append(Waiting(identity, partition, offset, now_s))
        self._known[identity] = self._known.get(identity, 0) + 1
        if len(self._queue) > self._capacity:
            self._forget(self._queue.popleft())

    def contains(self, tenant: str, source: str, event_id: str) -> bool:
        """Tell whether this process accepted the event, less than about a second ago."""
        return (tenant, source, event_id) in self._known

    def forget_done(self, next_offsets: Mapping[int, int]) -> None:
        """Forget what the consumer has done, given its next offset per partition."""
        kept: deque[Waiting] = deque()
        for waiting in self._queue:
            if waiting.offset < next_offsets.get(waiting.partition, 0):
                self._forget(waiting)
            else:
                kept.append(waiting)
        self._queue = kept

    def waiting_since(self, before_s: float) -> list[Waiting]:
        """Return what waits since before `before_s`, the oldest first."""
        found = []
        for waiting in self._queue:
            if waiting.since_s > before_s:
                break
            found.append(waiting)
        return found

    def forget_oldest(self, count: int) -> None:
        """Forget the `count` events that wait longest: others know them now."""
        for _ in range(min(count, len(self._queue))):
            self._forget(self._queue.popleft())

    def _forget(self, waiting: Waiting) -> None:
        left = self._known[waiting.identity] - 1
        if left:
            self._known[waiting.identity] = left
        else:
            del self._known[waiting.identity]


async def settle(pool: asyncpg.Pool, accepted: Accepted, group: str, topic: str, now_s: float) -> None:
    """Forget what the consumer `group` of `topic` has done, and write down what has been waiting too long.

    `topic` is the name under which the log keeps the group's offsets. Raises DatabaseUnavailable, then nothing is
    forgotten that nobody else knows.
    """
    async with transaction(pool) as connection:
        rows = await connection.fetch(DONE, group, topic)
        accepted.forget_done({row["partition"]: row["next_offset"] for row in rows})
        late = accepted.waiting_since(now_s - WRITE_AFTER_S)
        if late:
            await connection.execute(
                WRITE,
                [waiting.identity[0] for waiting in late],
                [digest_of(*waiting.identity) for waiting in late],
                [waiting.partition for waiting in late],
                [waiting.offset for waiting in late],
            )
        await connection.execute(FORGET, group, topic)
    accepted.forget_oldest(len(late))
