"""From which instant on people who became one customer may be placed otherwise than when they were several. Pure.

Only two rules ask who is one customer: the one open conversation (rule 4), and answers to mails that we sent to several
customers. Where one side has nothing open by the time the other one writes, nothing is decided otherwise.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from services.conversation.stitching import NEVER


class Regrouping(NamedTuple):
    """What new evidence did to people who have entries: from its instant on they are grouped otherwise."""

    at: datetime
    sides: tuple[tuple[UUID, ...], ...] = ()
    """The leaves of each customer of whom it made one, where that is all that it did; else none."""


@dataclass(frozen=True, slots=True)
class Active:
    """What a leaf has to do with the time from an instant on: when it first wrote then, and had a matter open."""

    wrote_at: datetime | None
    open_at: datetime | None
    """When the first was opened of the conversations that went on into the window: perhaps long before."""
    bulk: bool
    """Whether it ever got or answered a mail that we sent to several customers."""


def placed_otherwise_since(since: datetime, sides: Iterable[Sequence[Active]]) -> datetime | None:
    """Return the first instant from `since` on at which one side may meet what another has open; None: at none."""
    known = [_Side.of(since, leaves) for leaves in sides]
    if sum(side.bulk for side in known) > 1:
        return since  # such an answer asks for mails of any age
    met = [max(one.wrote_at, other.open_at) for one in known for other in known if one is not other]
    first = min(met, default=NEVER)
    return first if first < NEVER else None


class _Side(NamedTuple):
    wrote_at: datetime
    open_at: datetime
    bulk: bool

    @classmethod
    def of(cls, since: datetime, leaves: Sequence[Active]) -> _Side:
        wrote_at = min((leaf.wrote_at for leaf in leaves if leaf.wrote_at), default=NEVER)
        open_at = min((leaf.open_at for leaf in leaves if leaf.open_at), default=NEVER)
        return cls(wrote_at, max(open_at, since), any(leaf.bulk for leaf in leaves))
