"""The batch handler of the inbound topic: records in, timelines out, within the runner's transaction."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import asyncpg
import orjson

from services.conversation.metrics import ConversationMetrics
from services.conversation.update import Outcome, put_events
from shared import blobs
from shared.clock import Clock
from shared.errors import Rejected
from shared.events import InboundEvent, TimelineRecord
from shared.log.protocol import TIMELINE, Log, Outgoing, Record
from shared.log.quarantine import Rejection

GROUP = "conversation"

MAX_VALUE_BYTES = 262_144
"""Larger timeline records leave their texts out; Kafka refuses a record above 1 MB by default."""
MAX_FIELD_BYTES = 2_048
LEADING = (
    "id", "event_id", "source", "type", "occurred_at", "recorded_at", "received_at", "channel", "family", "contact_id",
    "conversation_id", "stitched", "version", "direction", "leaf_id", "automatic", "topic", "language",
)  # fmt: skip

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
        try:
            await self._put(connection, events)
        except Rejected as error:
            if len(events) == 1:
                # Alone: say whose it is, so that its owner finds it in quarantine.
                event = events[0]
                raise Rejected(error.reason, tenant=event.tenant, source=event.source, event_id=event.id) from error
            raise
        return rejections

    async def _put(self, connection: asyncpg.Connection, events: Sequence[InboundEvent]) -> None:
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
    outgoing = [Outgoing(_key(record), _encoded(record)) for record in records]
    if outgoing:
        await log.emit(connection, TIMELINE, outgoing)


def _encoded(record: TimelineRecord) -> bytes:
    """Return the record's value; an entry too large for a log goes without its texts, which the API has."""
    value = record.encode()
    if len(value) <= MAX_VALUE_BYTES or record.kind != "entry":
        return value
    told = {name: record.body[name] for name in LEADING if name in record.body}
    told["actor"] = record.body.get("actor") if len(orjson.dumps(record.body.get("actor"))) <= MAX_FIELD_BYTES else None
    return replace(record, body={**told, "data": _small(record.body.get("data") or {}), "large": True}).encode()


def _small(data: dict[str, Any]) -> dict[str, Any]:
    """Return what is small of an entry's data: everything that a number or a decision is made of."""
    return {name: value for name, value in data.items() if len(orjson.dumps(value)) <= MAX_FIELD_BYTES}


def _key(record: TimelineRecord) -> bytes:
    place = record.body["leaf_id"] if record.kind == "entry" else record.key
    return f"{record.tenant}|{place}".encode()


__all__ = ["GROUP", "InboundConsumer", "Outcome", "publish"]
