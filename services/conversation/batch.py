"""What is known while one tenant's new events are put where they belong."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import NamedTuple
from uuid import UUID

import asyncpg

from services.conversation.checkpoints import Checkpoint
from services.conversation.copies import Copy
from services.conversation.entries import Entry
from services.conversation.facts import Facts, Key
from services.conversation.identity import Evidence, EvidenceKey
from services.conversation.outlines import Followed
from services.conversation.people import People
from services.conversation.policy import Policy
from services.conversation.scope import Name, Scope, conversation_name
from services.conversation.tables.conversations import Named, StoredConversation
from services.conversation.tables.rows import new_id
from shared.events import InboundEvent, TimelineRecord

BEGINNING = datetime(1, 1, 2, tzinfo=UTC)
"""Before every event."""


class Limits(NamedTuple):
    """How large a decision may be within the stream; a larger one is the lane's (`large`)."""

    leaves: int
    """Handles and sessions of the people whom it regroups."""
    entries: int
    """Entries of one part that are decided again, with those before them in their conversations."""


@dataclass(slots=True)
class Arrival:
    """One event of the batch that is new."""

    event: InboundEvent
    facts: Facts
    digest: bytes


@dataclass(slots=True)
class Outcome:
    """What a batch did to a tenant: the records to publish and some counts for telemetry."""

    records: list[TimelineRecord] = field(default_factory=list)
    new: int = 0
    repeated: int = 0
    conflicts: int = 0
    copies: int = 0
    moved: int = 0
    erased: set[UUID] = field(default_factory=set)
    """Entries of events that were dropped, because they are an erased person's."""
    aside: set[UUID] = field(default_factory=set)
    """Entries of events that were set aside: it is as if they had not come, until the lane has decided them."""

    def add(self, other: Outcome) -> None:
        """Take what was done after it in the same transaction."""
        self.records += other.records
        self.new += other.new
        self.repeated += other.repeated
        self.conflicts += other.conflicts
        self.copies += other.copies
        self.moved += other.moved
        self.erased |= other.erased
        self.aside |= other.aside


@dataclass
class Batch:
    """The work on one tenant within one transaction: filled by `loading`, decided by `folding`, stored by `saving`."""

    connection: asyncpg.Connection
    tenant: str
    policy: Policy
    version: int
    """The number of this change of the tenant: versions whatever is not an entry of its own."""
    renewal: int
    """The version of the latest policy that may decide otherwise what was there before it."""
    secret: bytes
    now: datetime
    limits: Limits | None = None
    """What is larger raises TooLarge (`large`) while it is loaded; None: nothing is too large."""
    aside: bool = False
    """Whether something of the tenant is set aside."""
    people: People = field(init=False)
    scope: Scope = field(default_factory=Scope)
    everything: bool = False
    """Whether all that is stored is decided again, from nothing."""

    arrivals: dict[UUID, Arrival] = field(default_factory=dict)
    stored: dict[UUID, Entry] = field(default_factory=dict)
    """Entries that are there and are decided again."""
    derived: dict[UUID, Entry] = field(default_factory=dict)
    """Derived entries that are there and may no longer hold."""
    facts: dict[UUID, Facts] = field(default_factory=dict)
    """Of all entries that are decided, new or again."""
    evidence: list[Evidence] = field(default_factory=list)
    """What is new about who is who."""
    unsaid: set[EvidenceKey] = field(default_factory=set)
    """Stored evidence that no event gives under the policy in force."""

    followed: Followed | None = None
    """People who were found to be one, of whom only what differs is decided again."""

    bound: dict[Key, UUID] = field(default_factory=dict)
    """What keys meant before their part of the scope begins."""
    owned: set[tuple[UUID, UUID]] = field(default_factory=set)
    """(leaf, conversation) of those that rule 4 may find."""
    participants: set[tuple[UUID, UUID]] = field(default_factory=set)
    """(leaf, conversation before merges) of everybody in the conversations of the scope."""
    named: dict[UUID, tuple[UUID | None, UUID]] = field(default_factory=dict)
    """Ids that events name by `conversation_id`: their entry's conversation, where it is in one, and the entry."""
    answered: set[str] = field(default_factory=set)
    """Contacts whose call was answered."""
    bulk: set[Key] = field(default_factory=set)
    """Ids of mails that we sent to several customers."""
    conversations: dict[UUID, StoredConversation] = field(default_factory=dict)
    rebuilt: set[UUID] = field(default_factory=set)
    """Conversations that are told anew from their entries."""
    checkpoints: dict[UUID, Checkpoint] = field(default_factory=dict)
    """From where on those are told, where not from their beginning."""
    history: list[tuple[Entry, Facts]] = field(default_factory=list)
    """Entries of those from there until their part of the scope begins."""
    bindings: dict[Named, UUID | None] = field(default_factory=dict)
    """What the stored bindings of entries that are decided again mean."""
    bindings_known: set[UUID] = field(default_factory=set)
    """Entries whose bindings were looked up."""

    copies: list[Copy] = field(default_factory=list)
    """Events that are copies of a mail and become no entry, displaced ones included."""
    displaced: dict[UUID, Entry] = field(default_factory=dict)
    """Entries that are copies now, since one that happened before came later."""

    outcome: Outcome = field(default_factory=Outcome)

    def __post_init__(self) -> None:
        self.people = People(self.policy, new_id)

    def part_of(self, conversation_id: UUID) -> Name:
        """Return the name of the part of the scope that a stored conversation belongs to."""
        return conversation_name(self.conversations[conversation_id].canonical_id)

    def since(self, conversation_id: UUID) -> datetime:
        """Return the instant from which a stored conversation is decided again."""
        return BEGINNING if self.everything else self.scope.since(self.part_of(conversation_id))

    def reached(self) -> list[tuple[UUID, datetime]]:
        """Return the stored conversations in which something lies at or after their instant, with that instant.

        An entry of their own, or one of another conversation that made two of them one.
        """
        since = {id_: self.scope.since(self.part_of(id_)) for id_ in self.conversations}
        active = set()
        for id_, conversation in self.conversations.items():
            last = self.conversations[conversation.canonical_id].summary.last_entry_at
            merged = conversation.merged_by[0] if conversation.merged_by else None
            if any(at is not None and at >= since[id_] for at in (last, merged)):
                active.add(conversation.canonical_id)
        return [(id_, since[id_]) for id_, c in self.conversations.items() if c.canonical_id in active]
