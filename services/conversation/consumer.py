"""The batch handler of the inbound topic: records in, timelines out, within the runner's transaction."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from typing import NamedTuple, Protocol
from uuid import UUID

import asyncpg

from services.conversation import tables
from services.conversation.batch import Limits
from services.conversation.erasure.erasing import replay
from services.conversation.publishing import publish
from services.conversation.update import Outcome, put_events
from shared import blobs, bulk, erasures
from shared.clock import Clock
from shared.entry_ids import entry_id_of
from shared.errors import Rejected
from shared.events import InboundEvent
from shared.log import record_keys
from shared.log.protocol import INBOUND, Log, Record
from shared.log.quarantine import Rejection
from shared.tombstones import erasure_of, is_erasure, stub, stub_of

GROUP = "conversation"

UNSTORABLE = (
    asyncpg.DataError,
    asyncpg.UntranslatableCharacterError,
    asyncpg.CharacterNotInRepertoireError,
    asyncpg.ProgramLimitExceededError,
)
"""What PostgreSQL says of a value that it can never hold: the event's fault, not the database's."""


class Taken(NamedTuple):
    """A record with the event in it, whole."""

    record: Record
    event: InboundEvent


class Counts(Protocol):
    """Who hears what batches did to tenants, before they are committed."""

    def count(self, outcome: Outcome) -> None: ...


class InboundConsumer:
    """Puts each batch of inbound records on timelines. Called inside the runner's transaction, which it never ends."""

    def __init__(self, log: Log, clock: Clock, secret: bytes, metrics: Counts, limits: Limits) -> None:
        """`limits`: events whose decision is larger are set aside for the lane."""
        self._log = log
        self._clock = clock
        self._secret = secret
        self._metrics = metrics
        self._limits = limits

    async def __call__(self, connection: asyncpg.Connection, records: Sequence[Record]) -> Sequence[Rejection]:
        """Handle a batch; return the records that never will work.

        Raises Rejected where one event of the batch cannot be placed or stored: the runner halves the batch until
        that event is alone.
        """
        taken, rejections = await self._events(connection, records)
        try:
            await self._put(connection, taken)
        except Rejected as error:
            if len(taken) == 1:
                # Alone: say whose it is, so that its owner finds it in quarantine.
                event = taken[0].event
                raise Rejected(error.reason, tenant=event.tenant, source=event.source, event_id=event.id) from error
            raise
        return rejections

    async def _put(self, connection: asyncpg.Connection, taken: Sequence[Taken]) -> None:
        by_tenant: dict[str, list[Taken]] = defaultdict(list)
        for each in taken:
            by_tenant[each.event.tenant].append(each)
        try:
            # In one order over all processes, so that no two wait for each other.
            for tenant in sorted(by_tenant):
                await self._put_tenant(connection, tenant, by_tenant[tenant])
        except UNSTORABLE as error:
            raise Rejected(f"the database cannot hold this event ({type(error).__name__})") from error

    async def _put_tenant(self, connection: asyncpg.Connection, tenant: str, taken: Sequence[Taken]) -> None:
        now = self._clock.now()
        if erased := [erasure_of(each.event) for each in taken if is_erasure(each.event)]:
            await replay(connection, self._log, tenant, self._secret, erased, now)
        events = [each.event for each in taken if not is_erasure(each.event)]
        outcome = await put_events(connection, tenant, events, self._secret, now, self._limits)
        if outcome.aside:
            await self._note_records(connection, tenant, taken, outcome.aside)
        await publish(self._log, connection, outcome.records)
        if outcome.erased:
            await self._forget(connection, tenant, taken, outcome.erased)
        self._metrics.count(outcome)

    async def _note_records(
        self, connection: asyncpg.Connection, tenant: str, taken: Sequence[Taken], aside: Collection[UUID]
    ) -> None:
        records: dict[UUID, tuple[UUID, bytes, int, int]] = {}
        for record, event in taken:
            id_ = entry_id_of(self._secret, tenant, event.source, event.id)
            if id_ in aside:
                records.setdefault(id_, (id_, record.key, record.partition, record.offset))
        await tables.aside.note_records(connection, tenant, records.values())

    async def _forget(
        self, connection: asyncpg.Connection, tenant: str, taken: Sequence[Taken], erased: Collection[UUID]
    ) -> None:
        """Take what came of erased people out of the log again, as far as the log can."""
        stubs, said = {}, []
        for record, event in taken:
            id_ = entry_id_of(self._secret, tenant, event.source, event.id)
            if id_ in erased:
                stubs[record.partition, record.offset] = stub(tenant, id_)
                said.append((event.source, event.id))
        await self._log.replace(connection, INBOUND, stubs)
        await record_keys.destroy(connection, [tenant], erased)
        await bulk.forget(connection, tenant, said)

    async def _events(
        self, connection: asyncpg.Connection, records: Sequence[Record]
    ) -> tuple[list[Taken], list[Rejection]]:
        decoded: list[tuple[Record, InboundEvent]] = []
        rejections: list[Rejection] = []
        for record in records:
            try:
                if stub_of(record.value) is None:
                    decoded.append((record, InboundEvent.decode(record.value)))
            except Rejected as error:
                rejections.append(Rejection(record, error.reason))
        taken: list[Taken] = []
        whole = await blobs.resolved(connection, [event for _, event in decoded])
        for (record, given), event in zip(decoded, whole, strict=True):
            if not isinstance(event, Rejected):
                taken.append(Taken(record, event))
            elif not await self._was_erased(connection, given):
                rejections.append(Rejection(record, event.reason, given.tenant, given.source, given.id))
        return taken, rejections

    async def _was_erased(self, connection: asyncpg.Connection, event: InboundEvent) -> bool:
        id_ = entry_id_of(self._secret, event.tenant, event.source, event.id)
        return id_ in await erasures.known(connection, event.tenant, [id_])


__all__ = ["GROUP", "InboundConsumer", "Outcome"]
