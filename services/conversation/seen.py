"""What entries say of the handles that they name and of those whose entries they are: gathered leaf by leaf. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from services.conversation.facts import Claim, Facts


@dataclass(slots=True)
class Seen:
    """What is new of one leaf: when it was seen, how it was written, and what its own entries say of its person."""

    leaf_id: UUID
    first_at: datetime | None = None
    last_at: datetime | None = None
    shown: str | None = None
    shown_at: datetime | None = None
    verified: bool = False
    entry_at: datetime | None = None
    name: str | None = None
    named_at: datetime | None = None
    attributes: dict[str, tuple[Any, str]] = field(default_factory=dict)
    channels: dict[str, None] = field(default_factory=dict)

    def claimed(self, claim: Claim, at: datetime) -> None:
        """Take a claim of an event at `at`; the latest says how the handle is shown."""
        self._at(at)
        self.verified = self.verified or claim.verified
        if self.shown_at is None or at >= self.shown_at:
            self.shown, self.shown_at = claim.shown.partition(":")[2], at

    def owns(self, fact: Facts, customer: dict[str, Any], *, names_it: bool) -> None:
        """Take an entry of its own: the channel it came by, and the latest name and attributes of its person.

        What names nothing of it (`names_it`) lies with it for the conversation's sake, and may be another's once
        something late comes: it tells nothing of the person that would have to be taken back.
        """
        at = fact.occurred_at
        self.entry_at = max(at, self.entry_at or at)
        if not names_it:
            return
        if not fact.is_a_decision:  # what an agent says about somebody is no sight of them
            self._at(at)
        if fact.channel is not None:
            self.channels[fact.channel] = None
        name, attributes, written = customer.get("name"), customer.get("attributes"), at.isoformat()
        if isinstance(name, str) and name.strip() and (self.named_at is None or at >= self.named_at):
            self.name, self.named_at = name.strip(), at
        if isinstance(attributes, dict):
            for key, value in attributes.items():
                if key not in self.attributes or self.attributes[key][1] <= written:
                    self.attributes[key] = (value, written)

    def _at(self, at: datetime) -> None:
        self.first_at, self.last_at = min(at, self.first_at or at), max(at, self.last_at or at)


class SeenLeaves:
    """All leaves of a batch of which something is new."""

    def __init__(self) -> None:
        self._of: dict[UUID, Seen] = {}

    def of(self, leaf_id: UUID) -> Seen:
        """Return what is new of a leaf, nothing at first."""
        seen = self._of.get(leaf_id)
        if seen is None:
            seen = self._of[leaf_id] = Seen(leaf_id)
        return seen

    def by_leaf(self) -> Mapping[UUID, Seen]:
        """Return what is new of each leaf of which something is."""
        return self._of
