"""How far a long conversation had come, every so many entries, so that it is told anew from there. Pure.

What comes late, or makes people one who were two, has the conversations that it touches told anew from its instant on.
The state before that instant is theirs after their latest checkpoint and what came between, however long they are.
A checkpoint holds as long as nothing is decided again at or before its instant: then it goes, and is made again as the
conversation passes by. Source: docs/decisions/0023-checkpoints-of-long-conversations.md
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple
from uuid import UUID

if TYPE_CHECKING:
    from services.conversation.tables.conversations import StoredConversation

EVERY = 100
"""A conversation has a checkpoint after each so many entries."""


class Checkpoint(NamedTuple):
    """A conversation that nothing was merged with, as all its entries up to and at an instant make it."""

    at: datetime
    conversation: StoredConversation
    participants: Collection[UUID]
    """The leaves that own those entries."""


def with_checkpoints(conversations: Mapping[UUID, StoredConversation]) -> set[UUID]:
    """Return those of these stored conversations that may be told anew from a checkpoint.

    They are long, part of no other one, and no other one is part of them: of several that are one the checkpoints of
    each tell too little.
    """
    found = {id_ for id_, c in conversations.items() if c.summary.entries > EVERY and c.canonical_id == id_}
    return found - {c.canonical_id for id_, c in conversations.items() if c.canonical_id != id_} if found else found
