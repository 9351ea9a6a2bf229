"""What people have open and have asked, in outline: enough to tell which answers differ since they are one. Pure.

An outline is left where it stands, and acts on its conversation as it did. Only rule 4 is asked again.
Source: docs/decisions/0015-merges-in-the-stream.md
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple
from uuid import UUID

from services.conversation.facts import Facts, Order
from services.conversation.stitching import Conversation, Rule
from shared.events import TYPE_PREFIX

if TYPE_CHECKING:
    from services.conversation.tables.conversations import StoredConversation

ANSWERED: frozenset[Rule] = frozenset({"open_conversation", "new", "none"})
"""Rules by which stands what asked rule 4, whatever the answer was."""


class Outline(NamedTuple):
    """As much of a stored entry as says what is open because of it."""

    facts: Facts
    """Without handles, keys and channel."""
    leaf_id: UUID | None
    """Its owner, where it has one of its own."""
    conversation_id: UUID | None
    rule: Rule

    @property
    def answer(self) -> UUID | None:
        """The conversation that rule 4 gave it."""
        return self.conversation_id if self.rule == "open_conversation" else None


class Differing(NamedTuple):
    """An entry that rule 4 gives another answer now, with where it was and where it may be now."""

    entry_id: UUID
    at: datetime
    conversations: tuple[UUID, ...]


@dataclass
class Followed:
    """People who are one customer now, with what they have open and have asked since they may be placed otherwise."""

    component: UUID
    asked_since: datetime
    """Their first question that may have another answer."""
    outlines: list[Outline]
    """In order: their conversations from an open window before that on, and what was placed in none."""
    begun: Mapping[UUID, Conversation]
    """Conversations that began before these outlines do, as far as it is known before the first of them."""
    conversations: Collection[UUID]
    """All that they had open since."""
    since: datetime = field(init=False)
    """From when on whatever differs is decided again."""
    rounds: int = 0

    def __post_init__(self) -> None:
        self.since = self.asked_since

    def in_outline(self, stored: Mapping[UUID, StoredConversation], rebuilt: Collection[UUID]) -> set[UUID]:
        """Return those of their conversations that go on after `since` and are not told anew."""
        return {
            id_
            for id_ in self.conversations
            if id_ not in rebuilt and (last := stored[id_].summary.last_entry_at) is not None and last >= self.since
        }

    def calls_answered(self) -> set[str]:
        """Return the contacts of the calls that somebody answered."""
        return {
            outline.facts.contact
            for outline in self.outlines
            if outline.facts.contact
            and (
                outline.facts.type == "call.answered"
                or (outline.facts.type == "call.queued" and outline.rule in ("open_conversation", "new"))
            )
        }


def outline(
    entry_id: UUID,
    order: Order,
    type_: str,
    automatic: bool,
    contact: str | None,
    leaf_id: UUID | None,
    conversation_id: UUID | None,
    rule: Rule,
) -> Outline:
    """Return the outline of a stored entry."""
    facts = Facts(
        entry_id, order, type_.removeprefix(TYPE_PREFIX), None, (), contact, (), (), None, None, automatic, None,
        (), (), None, None, (), (), None,
    )  # fmt: skip
    return Outline(facts, leaf_id, conversation_id, rule)


def are_plain(conversations: Iterable[StoredConversation]) -> bool:
    """Tell whether rule 4 asks no more of these conversations than outlines say: of tickets they say nothing."""
    return not any(conversation.state.tickets for conversation in conversations)


def were_theirs(
    people: Mapping[UUID, UUID], took_part: Iterable[tuple[UUID, UUID]], begun: Iterable[StoredConversation]
) -> bool:
    """Tell whether each conversation that began before its outline was one customer's alone, from its start on.

    `people`: leaf → customer of everybody followed; `took_part`: (leaf, conversation) of them. Of others an outline
    cannot tell since when they took part.
    """
    theirs: dict[UUID, set[UUID | None]] = defaultdict(set)
    for leaf_id, conversation_id in took_part:
        theirs[conversation_id].add(people[leaf_id])
    owners = ((c.id, people.get(c.state.owner_leaf) if c.state.owner_leaf else None) for c in begun)
    return all(owner is not None and theirs[id_] == {owner} for id_, owner in owners)


def can_be_asked(outlines: Iterable[Outline]) -> bool:
    """Tell whether all that may have asked rule 4 can be asked again: not what an agent placed or nobody owns."""
    return not any(o.rule == "joined" or (o.leaf_id is None and o.rule in ANSWERED) for o in outlines)
