"""The background audit of the ledger: stretches of what was accepted are looked up all the time.

The whole ledger is `threadline verify`; this one takes samples small enough to run beside the stream for ever. What a
sample finds nowhere stays counted until it is found, so that an alarm does not go out by itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from time import monotonic
from typing import NamedTuple
from uuid import UUID

import asyncpg

from services.conversation.consumer import GROUP
from services.conversation.metrics import LedgerMetrics
from shared.database.engine import translated
from shared.entry_ids import entry_id_of, entry_secret
from shared.errors import LogTruncated, Rejected, Retryable
from shared.events import InboundEvent
from shared.log.offsets import stored_offsets
from shared.log.protocol import INBOUND, Log, Record
from shared.log.stretch import stretch
from shared.service import Platform
from shared.telemetry import logger
from shared.tombstones import is_erasure, stub_of

LOOK_EVERY_S = 5.0
AUDIT_EVERY_S = 30.0
SAMPLE = 400
"""Records of one audit, over all partitions."""
MOST_MISSING = 1_000
"""Most gaps that are remembered. Where there are more, nobody needs the exact number."""

DEPTH = "SELECT count(*) FROM log.quarantine WHERE state = 'held'"

NOWHERE = """
SELECT r.partition, r.place
FROM unnest($1::text[], $2::text[], $3::text[], $4::uuid[], $5::integer[], $6::bigint[])
    AS r(tenant_id, source, event_id, entry_id, partition, place)
WHERE NOT EXISTS (SELECT FROM conversation.entry AS e WHERE e.tenant_id = r.tenant_id AND e.entry_id = r.entry_id)
  AND NOT EXISTS (SELECT FROM conversation.copy AS c WHERE c.tenant_id = r.tenant_id AND c.copy_id = r.entry_id)
  AND NOT EXISTS (SELECT FROM conversation.aside AS a WHERE a.tenant_id = r.tenant_id AND a.entry_id = r.entry_id)
  AND NOT EXISTS (SELECT FROM privacy.tombstone AS t WHERE t.tenant_id = r.tenant_id AND t.digest = r.entry_id)
  AND NOT EXISTS (SELECT FROM log.quarantine AS q
                  WHERE q.tenant_id = r.tenant_id AND q.source = r.source AND q.event_id = r.event_id)
  AND NOT EXISTS (SELECT FROM log.quarantine AS q
                  WHERE q.group_name = $7 AND q.topic = $8 AND q.partition = r.partition AND q."offset" = r.place)
"""


class Carried(NamedTuple):
    """What a record of the inbound topic carried; only its place where it could not be read."""

    tenant: str | None
    source: str | None
    event_id: str | None
    entry_id: UUID | None
    partition: int
    offset: int


def carried(record: Record, secret: bytes) -> Carried | None:
    """Return the event of a record; None for what is none: a stub of an erased one, or the word of an erasure.

    `secret` is that of entry ids (shared/entry_ids.py).
    """
    if stub_of(record.value) is not None:
        return None
    try:
        event = InboundEvent.decode(record.value)
    except Rejected:
        return Carried(None, None, None, None, record.partition, record.offset)
    if is_erasure(event):
        return None
    entry_id = entry_id_of(secret, event.tenant, event.source, event.id)
    return Carried(event.tenant, event.source, event.id, entry_id, record.partition, record.offset)


class Audit:
    """Looks up accepted events, a stretch of each partition at a time, and knows which of them are nowhere."""

    def __init__(self, pool: asyncpg.Pool, log: Log, secret: bytes) -> None:
        self._pool = pool
        self._log = log
        self._secret = secret
        self.missing: Mapping[tuple[int, int], Carried] = {}
        """The gaps found so far that are gaps still, by partition and offset."""

    async def look(self, place: float) -> int:
        """Look up a sample from `place` (0–1) on, and again what was missing; return how many events were looked up.

        Only what the consumer has done is judged. Raises Retryable, LogTruncated.
        """
        done = await stored_offsets(self._pool, self._log, GROUP, INBOUND)
        first = await self._log.begin_offsets(INBOUND)
        begins, ends = _stretches(first, done, place)
        found = {key: one for key, one in self.missing.items() if key[1] >= first.get(key[0], 0)}
        if any(begins[partition] < end for partition, end in ends.items()):
            async for records in stretch(self._log, INBOUND, begins, ends):
                events = (carried(record, self._secret) for record in records)
                found |= {(event.partition, event.offset): event for event in events if event is not None}
        nowhere = await self._nowhere(list(found.values()))
        self.missing = {key: found[key] for key in sorted(nowhere)[:MOST_MISSING]}
        return len(found)

    async def _nowhere(self, events: Sequence[Carried]) -> Iterable[tuple[int, int]]:
        columns = [list(column) for column in zip(*events, strict=True)] or [[] for _ in Carried._fields]
        with translated():
            rows = await self._pool.fetch(NOWHERE, *columns, GROUP, self._log.name(INBOUND))
        return [(row["partition"], row["place"]) for row in rows]


def _stretches(
    first: Mapping[int, int], done: Mapping[int, int], place: float
) -> tuple[dict[int, int], dict[int, int]]:
    """Return where to begin and end in each partition."""
    size = max(1, SAMPLE // max(1, len(first)))
    begins, ends = {}, {}
    for partition, begin in first.items():
        end = max(begin, done.get(partition, begin))
        begins[partition] = begin + int(place * (end - begin))
        ends[partition] = min(end, begins[partition] + size)
    return begins, ends


async def watch_for_ever(platform: Platform, metrics: LedgerMetrics) -> None:
    """Keep the gauges of quarantine and ledger, for the life of the process; what is away is waited for."""
    audit = Audit(platform.pool, platform.log, entry_secret(platform.secret_key))
    place, audited = 0.0, monotonic()
    while True:
        try:
            with translated():
                metrics.quarantined.set(await platform.pool.fetchval(DEPTH))
            if monotonic() - audited >= AUDIT_EVERY_S:
                metrics.checked.inc(await audit.look(place))
                metrics.gaps.set(len(audit.missing))
                if audit.missing:
                    logger().error(
                        "accepted events are nowhere; `threadline replay` reads them again",
                        positions=[f"{partition}/{offset}" for partition, offset in list(audit.missing)[:20]],
                    )
                # Steps by the golden ratio fall evenly and never repeat.
                place, audited = (place + 0.6180339887) % 1.0, monotonic()
        except (Retryable, LogTruncated) as error:
            logger().warning("the ledger is looked at later", error=str(error))
        await asyncio.sleep(LOOK_EVERY_S)
