"""What can be said of events before their turn: made while the database is at work on the batch before theirs."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple
from uuid import UUID

from services.conversation.entries import Shown, digest_of, shown_of
from services.conversation.facts import Facts, facts_of
from services.conversation.policy import DEFAULT, Policy
from services.conversation.tables.rows import fast_id
from services.conversation.writing import breathe
from shared.entry_ids import entry_id_bytes
from shared.events import InboundEvent
from shared.log.protocol import Record

AT_A_TIME = 32
"""So many events are read before the event loop has its turn: nothing in hand may wait long for what comes next."""


class Said(NamedTuple):
    """What an event says, whatever is decided about it."""

    entry_id: UUID
    digest: bytes
    shown: Shown | None = None
    """What is shown of it, where that was made ahead: of an event that is known already nobody needs it."""
    facts: Facts | None = None
    """What matters of it under `policy`, where that was read ahead."""
    policy: Policy | None = None


def said_by(event: InboundEvent, secret: bytes) -> Said:
    """Return what an event says, but for what is shown of it and what a policy makes of it."""
    return Said(fast_id(entry_id_bytes(secret, event.tenant, event.source, event.id)), digest_of(event))


class Ahead:
    """Reads records that wait for their turn."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self._policies: dict[str, Policy] = {}
        """Tenant → the policy under which its last events were decided, likely that of the next."""
        self._read: deque[dict[int, tuple[Record, InboundEvent, Said]]] = deque(maxlen=2)
        """Of the batch in hand and of the next: a record by its identity, with what it says."""

    async def read(self, records: Sequence[Record]) -> None:
        """Read the records whose turn is next."""
        found: dict[int, tuple[Record, InboundEvent, Said]] = {}
        self._read.append(found)
        for start in range(0, len(records), AT_A_TIME):
            for record in records[start : start + AT_A_TIME]:
                with suppress(Exception):  # what is wrong with it is said when it has its turn
                    event = InboundEvent.decode(record.value)
                    said, policy = said_by(event, self._secret), self._policies.get(event.tenant, DEFAULT)
                    facts = facts_of(event, said.entry_id, policy)
                    found[id(record)] = record, event, said._replace(shown=shown_of(event), facts=facts, policy=policy)
            await breathe()

    def decided(self, tenant: str, policy: Policy) -> None:
        """Hear under which policy a tenant's events are decided."""
        if self._policies.get(tenant, DEFAULT) != policy:
            self._policies[tenant] = policy

    def take(self, record: Record) -> tuple[InboundEvent, Said] | None:
        """Return the event of a record and what it says, where that was read ahead; each once."""
        for found in self._read:
            if (known := found.pop(id(record), None)) is not None:
                return known[1:]
        return None
