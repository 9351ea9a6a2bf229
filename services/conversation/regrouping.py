"""From which instant on people who became one customer may be placed otherwise than when they were several. Pure.

Only two rules ask who is one customer: the one open conversation (rule 4), and answers to mails that we sent to several
customers. The first that could be decided otherwise is an event of one side that asked for an open conversation while
the other side had one. Where there is none, nothing is decided otherwise.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple
from uuid import UUID

from services.conversation.stitching import NEVER, Rule

ASKING: tuple[Rule, ...] = ("open_conversation", "new", "none", "joined")
"""Rules by which what asked for the customer's open conversation may be placed; by any other one nothing asked."""


class Regrouping(NamedTuple):
    """What new evidence did to people who have entries: from its instant on they are grouped otherwise."""

    at: datetime
    sides: tuple[tuple[UUID, ...], ...] = ()
    """The leaves of each customer of whom it made one, where that is all that it did; else none."""


class Open(NamedTuple):
    """A conversation, as far as it says when it was open at the most: since it opened, until it ended for good."""

    opened_at: datetime
    last_activity_at: datetime
    resolved_at: datetime | None

    def until(self, window: timedelta) -> datetime:
        """Return the last instant at which an event may have found it open."""
        warm = min(self.last_activity_at, NEVER - window) + window
        return min(warm, self.resolved_at) if self.resolved_at else warm


@dataclass(frozen=True, slots=True)
class Active:
    """What a leaf has to do with the time from an instant on."""

    asked_at: Sequence[datetime]
    """When its events may have asked for an open conversation."""
    open: Sequence[Open]
    """The conversations that it takes part in and that were open then."""
    bulk: bool
    """Whether it ever got or answered a mail that we sent to several customers."""


def met_by_bulk_mail(sides: Iterable[Sequence[Active]]) -> bool:
    """Tell whether an answer to a mail that went to several may be placed otherwise: more than one side knows such."""
    return sum(any(leaf.bulk for leaf in side) for side in sides) > 1


def placed_otherwise_since(since: datetime, window: timedelta, sides: Sequence[Sequence[Active]]) -> datetime | None:
    """Return the first instant from `since` on at which one side may meet what another has open; None: at none."""
    if met_by_bulk_mail(sides):
        return since  # such an answer asks for mails of any age
    first = NEVER
    for one in sides:
        asked = sorted(at for leaf in one for at in leaf.asked_at)
        for other in sides:
            if other is not one:
                met = (_first(asked, conversation, window) for leaf in other for conversation in leaf.open)
                first = min(first, min(met, default=NEVER))
    return first if first < NEVER else None


def _first(asked: Sequence[datetime], conversation: Open, window: timedelta) -> datetime:
    """Return the first of the instants at which a conversation may have been found open."""
    index = bisect_left(asked, conversation.opened_at)
    return asked[index] if index < len(asked) and asked[index] <= conversation.until(window) else NEVER
