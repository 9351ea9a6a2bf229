"""What one customer did over all conversations: contacts on one line, sessions, surveys, coming and going.

A pure function of the customer's conversations (those whose first entry is theirs) and of their other entries, so that
a merge or a split of customers is nothing but evaluating both sides again.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Generic, TypeVar

from services.metrics.buckets import Dims
from services.metrics.entries import Entry, name
from services.metrics.facts import (
    CONTACT_TYPES,
    DAY,
    SESSIONS,
    TOUCHES,
    Contact,
    Conversation,
    Episode,
    contact_key,
    corrected,
    human_reply,
)
from services.metrics.survey import Answer, last_answers

RELEVANT = CONTACT_TYPES | SESSIONS
"""Types of entries outside of conversations that a customer's KPIs read; others make no customer."""


T = TypeVar("T")


class once(Generic[T]):  # used like property
    """A property computed when first asked for; functools.cached_property of Python 3.11 takes a lock each time."""

    def __init__(self, compute: Callable[[Any], T]) -> None:
        self._compute = compute
        self._name = compute.__name__

    def __get__(self, instance: Any, owner: type) -> T:
        found: T = self._compute(instance)
        instance.__dict__[self._name] = found
        return found


def _order(entry: Entry) -> tuple[int, str, str]:
    return entry.order


def _at(entry: Entry) -> int:
    return entry.at


class Session:
    """A self-service, bot or IVR session: its entries in order."""

    __slots__ = ("entries", "key")

    def __init__(self, key: str) -> None:
        self.key = key
        self.entries: list[Entry] = []

    @property
    def start(self) -> int:
        return self.entries[0].at

    @property
    def end(self) -> int:
        return self.entries[-1].at


class Customer:
    """One customer. `strays` are their entries outside of any conversation that opened."""

    def __init__(self, id: str, conversations: Iterable[Conversation], strays: Iterable[Entry]) -> None:
        self.id = id
        self.conversations = sorted(conversations, key=lambda c: c.opening.order)
        self.strays = corrected(strays)

    @once
    def entries(self) -> list[Entry]:
        """Their sessions, surveys, revenue, coming and going: of the conversations and the strays, by time."""
        found = [e for c in self.conversations for e in c.sessions]
        found.extend(e for e in self.strays if e.type in SESSIONS)
        found.sort(key=_order)
        return found

    @once
    def segment(self) -> str | None:
        """The first segment named for them."""
        return next((c.segment for c in self.conversations if c.segment), None) or next(
            (e.segment for e in self.strays if e.segment), None
        )

    @once
    def contacts(self) -> list[Contact]:
        """Their contacts by start; one that shows in a conversation and outside of it is one."""
        found: dict[str, Contact] = {}
        for c in self.conversations:
            for key, contact in c.contacts.items():
                other = found.get(key)
                if other is None or contact.first.order < other.first.order:
                    found[key] = contact
        for entry in self.strays:
            if entry.type in CONTACT_TYPES and not entry.automatic:
                key = contact_key(entry)
                known = found.get(key)
                if known is None:
                    found[key] = known = Contact(key, entry, None)
                if known.conversation is None:
                    known.end = entry.at
                    if known.answered is None and human_reply(entry):
                        known.answered = entry
        return sorted(found.values(), key=lambda contact: contact.first.order)

    @once
    def _conversation(self) -> dict[str, Conversation]:
        return {c.id: c for c in self.conversations}

    def topic_of(self, contact: Contact) -> str | None:
        """Return the topic of a contact: its own, else its conversation's."""
        if contact.topic is not None:
            return contact.topic
        c = self._conversation.get(contact.conversation or "")
        return c.topic if c else None

    @once
    def _orders(self) -> list[tuple[int, str, str]]:
        return [contact.first.order for contact in self.contacts]

    @once
    def _starts(self) -> list[int]:
        return [contact.start for contact in self.contacts]

    def contact_again(self, c: Conversation, resolved: Entry, within: int) -> Contact | None:
        """Return the first contact on the topic of `c` that starts after `resolved`, at most `within` later."""
        for index in range(bisect_right(self._orders, resolved.order), len(self.contacts)):
            contact = self.contacts[index]
            if contact.start - resolved.at > within:
                return None
            if self.topic_of(contact) == c.topic:
                return contact
        return None

    @once
    def _resolutions(self) -> dict[str | None, list[tuple[int, tuple[int, str, str], Conversation, Entry]]]:
        """Resolutions by topic, in order of time."""
        found: dict[str | None, list[tuple[int, tuple[int, str, str], Conversation, Entry]]] = {}
        for c in self.conversations:
            for episode in c.episodes:
                e = episode.resolved
                if e is not None:
                    found.setdefault(c.topic, []).append((e.at, e.order, c, e))
        for resolutions in found.values():
            resolutions.sort(key=lambda resolution: resolution[1])
        return found

    def resolution_before(self, c: Conversation, within: int) -> Entry | None:
        """Return the last resolution of another conversation on the topic of `c`, at most `within` before it opened."""
        resolutions = self._resolutions.get(c.topic, [])
        index = bisect_right(resolutions, c.opened_at, key=lambda resolution: resolution[0])
        while index:
            index -= 1
            at, _, other, entry = resolutions[index]
            if c.opened_at - at > within:
                return None
            if other is not c:
                return entry
        return None

    def contact_between(self, after: int, until: int) -> Contact | None:
        """Return the first contact that starts in (after, until]."""
        index = bisect_right(self._starts, after)
        return self.contacts[index] if index < len(self.contacts) and self._starts[index] <= until else None

    def switches(self) -> Iterable[tuple[Contact, Contact]]:
        """Yield (first of the unanswered run, the contact on another channel directly after it), ≤ 24 h apart."""
        contacts = self.contacts
        for index, contact in enumerate(contacts):
            start: Contact | None = None
            for earlier in range(index - 1, -1, -1):
                before = contacts[earlier]
                other = before.channel != contact.channel and (start is None or before.channel == start.channel)
                served = before.answered is not None and before.answered.at <= contact.start
                if not other or served or contact.start - before.start > DAY:
                    break
                start = before
            if start is not None:
                yield start, contact

    def episode_starts(self) -> list[Episode]:
        """Return the episodes of all conversations by start."""
        return sorted((e for c in self.conversations for e in c.episodes), key=lambda e: e.opened_by.order)

    def first_touch(self, opened_by: Entry) -> Entry:
        """Return the earliest touch in the day before an episode's first entry, else that entry."""
        touches = self._touches
        index = bisect_left(touches, opened_by.at - DAY, key=_at)
        if index < len(touches) and touches[index].order < opened_by.order:
            return touches[index]
        return opened_by

    @once
    def _touches(self) -> list[Entry]:
        found = [e for c in self.conversations for e in c.touches]
        found.extend(e for e in self.strays if e.type in TOUCHES and not e.automatic)
        found.sort(key=_order)
        return found

    @once
    def views(self) -> list[Entry]:
        """Their self-service views."""
        return [e for e in self.entries if e.type == "selfservice.viewed"]

    def view_before(self, at: int, within: int) -> Entry | None:
        """Return the last self-service view in [at − within, at]."""
        index = bisect_right(self.views, at, key=_at) - 1
        return self.views[index] if index >= 0 and at - self.views[index].at <= within else None

    @once
    def _place(self) -> dict[str, Conversation]:
        return {e.id: c for c in self.conversations for e in c.entries}

    def conversation_of(self, entry: Entry) -> Conversation | None:
        """Return the conversation of theirs that `entry` is in."""
        return self._place.get(entry.id)

    def sessions(self, *types: str) -> list[Session]:
        """Return the sessions made of entries of these types, by start; without a session id each is one."""
        found: dict[str, Session] = {}
        for entry in self.entries:
            if entry.type in types:
                key = name(entry.data.get("session_id")) or entry.id
                found.setdefault(key, Session(key)).entries.append(entry)
        return list(found.values())

    def of(self, *types: str) -> list[Entry]:
        """Return their entries of these types, by time."""
        return [e for e in self.entries if e.type in types]

    @once
    def answers(self) -> Sequence[Answer]:
        """Their survey answers that count."""
        by_survey: dict[str, list[Entry]] = {}
        for entry in self.of("survey.sent", "survey.answered"):
            by_survey.setdefault(name(entry.data.get("survey_id")) or entry.id, []).append(entry)
        return [answer for entries in by_survey.values() for answer in last_answers(entries)]

    @property
    def dims(self) -> Dims:
        """Tenant-level dimensions: the segment."""
        return Dims(segment=self.segment)
