"""From validated events to the log: files and large data aside, one durable append, and only then `accepted`."""

from __future__ import annotations

from collections.abc import Sequence
from time import monotonic
from typing import TYPE_CHECKING

from services.ingest.attachments import named
from services.ingest.metrics import IngestMetrics
from shared import attachments, blobs
from shared.accepted import Accepted
from shared.attachments import File, attachment_secret
from shared.errors import RecordTooLarge
from shared.events import InboundEvent
from shared.log.protocol import INBOUND, Log, Outgoing
from shared.routing import routing_key

if TYPE_CHECKING:
    import asyncpg

INLINE_BYTES = 256 * 1024
"""Records above this many bytes carry a reference to their data: brokers refuse large records."""


class Intake:
    """Takes events in: `accept` returns when the log has all of them durably."""

    def __init__(
        self, log: Log, pool: asyncpg.Pool, accepted: Accepted, metrics: IngestMetrics, secret_key: bytes
    ) -> None:
        self._log = log
        self._pool = pool
        self._accepted = accepted
        self._metrics = metrics
        self._secret = attachment_secret(secret_key)

    async def accept(self, records: Sequence[tuple[InboundEvent, bytes]]) -> None:
        """Append events, each with its encoded record, durably and in order.

        Taking the same again is harmless: readers know events by their identity. Raises LogUnavailable or
        DatabaseUnavailable; then some may be in the log, and none counts as accepted.
        """
        if not records:
            return
        if any([event.files for event, _ in records]):  # noqa: C419  a generator costs more
            records = await self._files_kept(records)
        outgoing = [
            Outgoing(routing_key(event), value if len(value) <= INLINE_BYTES else await self._reference(event))
            for event, value in records
        ]
        try:
            positions = await self._log.append(INBOUND, outgoing)
        except RecordTooLarge:
            # The log was set up to take less than we thought: all go by reference.
            positions = await self._log.append(
                INBOUND, [Outgoing(routing_key(event), await self._reference(event)) for event, _ in records]
            )
        now_s = monotonic()
        add = self._accepted.add
        for (event, _), position in zip(records, positions, strict=True):
            add(event.tenant, event.source, event.id, position.partition, position.offset, now_s)

    async def _files_kept(self, records: Sequence[tuple[InboundEvent, bytes]]) -> list[tuple[InboundEvent, bytes]]:
        """Keep the files of all events; return the events, and records that name the files."""
        kept: list[File] = []
        whole = []
        for event, value in records:
            if event.files:
                named_event, files = named(event, self._secret)
                kept += files
                whole.append((named_event, named_event.encode()))
            else:
                whole.append((event, value))
        await attachments.put(self._pool, kept)
        self._metrics.attachments.inc(len(kept))
        return whole

    async def _reference(self, event: InboundEvent) -> bytes:
        """Put the event's data into the database; return the record that names it."""
        event_by_reference, payload = blobs.with_reference(event)
        await blobs.put(self._pool, event_by_reference, payload)
        self._metrics.blobs.inc()
        return event_by_reference.encode()
