"""What a process remembers of one tenant between batches, so that a busy conversation is not read again each time.

It is a copy of a part of the tables, never more: it holds while the tenant's token in the database is the one this
process wrote last, and is thrown away otherwise (another process wrote, or our transaction rolled back). What is in a
map is there in full; what is missing has to be read first. Dropping it costs time, never truth.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from uuid import UUID

from services.metrics.analysis import analyse
from services.metrics.buckets import Contributions, Dims
from services.metrics.entries import Entry
from services.metrics.evaluation import Ref, concerns_customer, group_of
from services.metrics.facts import Conversation
from shared.business import Rules

Entries = dict[str, Entry]


@dataclass
class Memory:
    """One tenant's part. Conversations in `canonical_of` are as posted, in `members_of` by their canonical one."""

    tenant: str
    token: UUID | None = None
    packed_until: int | None = None
    """From this instant (µs) on no day is packed."""
    rules: Rules = field(default_factory=Rules)
    customer_of: dict[str, str] = field(default_factory=dict)
    """leaf → customer"""
    leaves_of: dict[str, set[str]] = field(default_factory=dict)
    canonical_of: dict[str, str] = field(default_factory=dict)
    members_of: dict[str, set[str]] = field(default_factory=dict)
    by_conversation: dict[str, Entries] = field(default_factory=dict)
    surveys_in: dict[str, dict[str, Ref]] = field(default_factory=dict)
    """conversation → its entries about surveys, with the survey"""
    strays_of: dict[str, Entries] = field(default_factory=dict)
    """leaf → its entries outside of conversations"""
    conversations_of: dict[str, dict[str, int]] = field(default_factory=dict)
    """leaf → conversations with entries of it, with their number"""
    by_part: dict[Ref, Entries] = field(default_factory=dict)
    facts: dict[str, Conversation | None] = field(default_factory=dict)
    cells: dict[Ref, Contributions] = field(default_factory=dict)
    entity_ids: dict[Ref, int] = field(default_factory=dict)
    dims_ids: dict[Dims, int] = field(default_factory=dict)
    series_ids: dict[str, int] = field(default_factory=dict)

    def size(self) -> int:
        """Return about how many entries are remembered."""
        held = sum(map(len, self.by_conversation.values()))
        return held + sum(map(len, self.strays_of.values())) + sum(map(len, self.by_part.values()))

    def forget(self) -> None:
        """Drop everything but the names, which never change."""
        for part in (
            self.customer_of, self.leaves_of, self.canonical_of, self.members_of, self.by_conversation, self.surveys_in,
            self.strays_of, self.conversations_of, self.by_part, self.facts, self.cells, self.entity_ids,
        ):  # fmt: skip
            part.clear()

    # Reading

    def canonical(self, conversation: str) -> str:
        """Return the conversation that `conversation` is now part of."""
        return self.canonical_of.get(conversation, conversation)

    def customer(self, leaf: str) -> str:
        """Return the customer of a leaf; one whose record has not come yet stands for itself."""
        return self.customer_of.get(leaf, leaf)

    def entries_in(self, canonical: str) -> list[Entry]:
        """Return the entries of a canonical conversation."""
        return [e for raw in self.members_of[canonical] for e in self.by_conversation[raw].values()]

    def conversation(self, canonical: str) -> Conversation | None:
        """Return the facts of a canonical conversation; None where nothing opened it."""
        if canonical not in self.facts:
            self.facts[canonical] = analyse(canonical, self.entries_in(canonical))
        return self.facts[canonical]

    def concerned(self, canonical: str) -> set[str]:
        """Return the leaves whose customers' KPIs read this conversation: its owner, or all where it never opened."""
        c = self.conversation(canonical)
        if c is not None:
            return {c.owner} if c.owner is not None else set()
        return {e.leaf for e in self.entries_in(canonical) if e.leaf is not None and concerns_customer(e)}

    # Changing

    def hold(self, conversation: str, entry: Entry) -> None:
        """Remember an entry of a conversation."""
        self.by_conversation.setdefault(conversation, {})[entry.id] = entry
        if entry.type.startswith("survey."):
            survey = group_of(entry)
            if survey is not None:
                self.surveys_in.setdefault(conversation, {})[entry.id] = survey

    def put(self, entry: Entry) -> None:
        """Add an entry to what is remembered in full."""
        if entry.conversation is not None:
            self.hold(entry.conversation, entry)
            self.facts.pop(self.canonical(entry.conversation), None)
            if entry.leaf is not None and entry.leaf in self.conversations_of:
                counts = self.conversations_of[entry.leaf]
                counts[entry.conversation] = counts.get(entry.conversation, 0) + 1
        elif entry.leaf is not None and entry.leaf in self.strays_of:
            self.strays_of[entry.leaf][entry.id] = entry
        part = group_of(entry)
        if part is not None:
            self.by_part.setdefault(part, {})[entry.id] = entry

    def take(self, entry: Entry) -> None:
        """Remove an entry (an older version, or one that is gone)."""
        if entry.conversation is not None:
            self.by_conversation.get(entry.conversation, {}).pop(entry.id, None)
            self.surveys_in.get(entry.conversation, {}).pop(entry.id, None)
            self.facts.pop(self.canonical(entry.conversation), None)
            if entry.leaf is not None and entry.leaf in self.conversations_of:
                counts = self.conversations_of[entry.leaf]
                counts[entry.conversation] = counts.get(entry.conversation, 1) - 1
        elif entry.leaf is not None and entry.leaf in self.strays_of:
            self.strays_of[entry.leaf].pop(entry.id, None)
        part = group_of(entry)
        if part is not None:
            self.by_part.get(part, {}).pop(entry.id, None)

    def assign(self, leaf: str, customer: str) -> None:
        """Let a leaf belong to `customer`."""
        before = self.customer(leaf)
        if before in self.leaves_of:
            self.leaves_of[before].discard(leaf)
        self.customer_of[leaf] = customer
        if customer in self.leaves_of:
            self.leaves_of[customer].add(leaf)

    def join(self, conversation: str, canonical: str) -> None:
        """Let a conversation be part of `canonical`."""
        before = self.canonical(conversation)
        if before in self.members_of:
            self.members_of[before].discard(conversation)
        self.canonical_of[conversation] = canonical
        if canonical in self.members_of:
            self.members_of[canonical].add(conversation)
        for changed in (before, canonical):
            self.facts.pop(changed, None)
