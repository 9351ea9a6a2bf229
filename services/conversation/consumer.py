"""The batch handler of the inbound topic: records in, timelines out, within the runner's transaction."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import asyncpg

from services.conversation.metrics import ConversationMetrics
from services.conversation.update import Outcome, put_events
from shared import blobs
from shared.clock import Clock
from shared.errors import Rejected
from shared.events import InboundEvent, TimelineRecord
from shared.log.protocol import TIMELINE, Log, Outgoing, Record
from shared.log.quarantine import Rejection

GROUP = "conversation"

UNSTORABLE = (
    asyncpg.DataError,
    asyncpg.UntranslatableCharacterError,
    asyncpg.CharacterNotInRepertoireError,
    asyncpg.ProgramLimitExceededError,
)
"""What PostgreSQL says of a value that it can never hold: the event's fault, not the database's."""


class InboundConsumer:
    """Puts each batch of inbound records on timelines. Called inside the runner's transaction, which it never ends."""

    def __init__(self, log: Log, clock: Clock, secret: bytes, metrics: ConversationMetrics) -> None:
        self._log = log
        self._clock = clock
        self._secret = secret
        self._metrics = metrics

    async def __call__(self, connection: asyncpg.Connection, records: Sequence[Record]) -> Sequence[Rejection]:
        """Handle a batch; return the records that never will work.

        Raises Rejected where one event of the batch cannot be placed or stored: the runner halves the batch until
        that event is alone.
        """
        events, rejections = await self._events(connection, records)
        by_tenant: dict[str, list[InboundEvent]] = defaultdict(list)
        for event in events:
            by_tenant[event.tenant].append(event)
        try:
            # In one order over all processes, so that no two wait for each other.
            for tenant in sorted(by_tenant):
                outcome = await put_events(connection, tenant, by_tenant[tenant], self._secret, self._clock.now())
                await publish(self._log, connection, outcome.records)
                self._metrics.count(outcome)
        except UNSTORABLE as error:
            raise Rejected(f"the database cannot hold this event ({type(error).__name__})") from error
        return rejections

    async def _events(
        self, connection: asyncpg.Connection, records: Sequence[Record]
    ) -> tuple[list[InboundEvent], list[Rejection]]:
        decoded: list[tuple[Record, InboundEvent]] = []
        rejections: list[Rejection] = []
        for record in records:
            try:
                decoded.append((record, InboundEvent.decode(record.value)))
            except Rejected as error:
                rejections.append(Rejection(record, error.reason))
        events: list[InboundEvent] = []
        whole = await blobs.resolved(connection, [event for _, event in decoded])
        for (record, given), event in zip(decoded, whole, strict=True):
            if isinstance(event, Rejected):
                rejections.append(Rejection(record, event.reason, given.tenant, given.source, given.id))
            else:
                events.append(event)
        return events, rejections


async def publish(log: Log, connection: asyncpg.Connection, records: Sequence[TimelineRecord]) -> None:
    """Emit timeline records with the transaction, keyed so that what is said of one leaf keeps its order."""
    outgoing = [Outgoing(_key(record), record.encode()) for record in records]
    if outgoing:
        await log.emit(connection, TIMELINE, outgoing)


def _key(record: TimelineRecord) -> bytes:
    place = record.body["leaf_id"] if record.kind == "entry" else record.key
    return f"{record.tenant}|{place}".encode()


__all__ = ["GROUP", "InboundConsumer", "Outcome", "publish"]
