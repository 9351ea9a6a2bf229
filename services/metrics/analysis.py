"""One pass over the entries of a conversation, by which its facts are read off.

A pure function of the set of posted entries: they are sorted by (occurred_at, source, event_id) first. Entries that
Threadline derives (source `/threadline`) are left out before: the lifecycle is derived here again from what was posted,
so that a posted and a derived opening, reopening or escalation count once, whichever of them arrives.
"""

from __future__ import annotations

from collections.abc import Sequence

from services.metrics.buckets import Dims
from services.metrics.entries import Entry, name, seconds, text
from services.metrics.facts import (
    CONTACT_TYPES,
    CUSTOMER_TURN,
    REOPEN_WITHIN,
    SESSIONS,
    TOUCHES,
    Contact,
    Conversation,
    Episode,
    contact_key,
    corrected,
    human_reply,
)


def opening_of(entries: Sequence[Entry]) -> Entry | None:
    """Return the entry that opens the conversation: a message, an answered call (at its queuing), a posted opening."""
    answered = {e.contact for e in entries if e.type == "call.answered"}
    for e in entries:
        kind = e.type
        if kind in ("message.received", "message.sent"):
            if not e.automatic:
                return e
        elif kind in ("conversation.opened", "call.answered") or (kind == "call.queued" and e.contact in answered):
            return e
    return None


def analyse(id: str, entries: Sequence[Entry]) -> Conversation | None:
    """Return the facts of the conversation `id`; None where nothing opened it."""
    ordered = corrected(entries)
    opening = opening_of(ordered)
    if opening is None:
        return None
    conversation = Conversation(id, ordered, opening)
    _Reader(conversation).read()
    return conversation


class _Reader:
    """The state of the one pass over a conversation's entries."""

    def __init__(self, conversation: Conversation) -> None:
        self.c = conversation
        self.index = 0
        self.episode: Episode | None = None
        self.previous: Contact | None = None
        self.waiting: Entry | None = None
        self.wait_from: int | None = None
        self.turn_from: int | None = None
        self.resolved_at: int | None = None
        self.inbound: list[Entry] = []
        self.handover: Entry | None = None
        self.escalated: set[tuple[str | None, str | None]] = set()

    def read(self) -> None:
        c = self.c
        first = next((e for e in c.entries if e.type in CONTACT_TYPES and not e.automatic), None)
        c.by_customer = not (first is not None and first.type == "message.sent" and first.human)
        for index, entry in enumerate(c.entries):
            self.index = index
            if entry is c.opening:
                self.open(entry)
            kind = entry.type
            step = _STEPS.get(kind)
            if step is not None:
                step(self, entry)
            if entry.agent and kind in _PICKING_UP and not entry.automatic:
                self.pick_up(entry)
            if kind in SESSIONS:
                c.sessions.append(entry)
            if kind in TOUCHES and not entry.automatic:
                c.touches.append(entry)
            if entry.data.get("fcr_eligible") is False:
                c.eligible = False
        if self.turn_from is not None:
            c.turns.append((self.turn_from, None))
        self.attribute()

    # Lifecycle

    def open(self, entry: Entry) -> None:
        self.episode = Episode(entry, entry.at)
        self.c.episodes.append(self.episode)
        if self.c.by_customer:
            self.turn_from = entry.at

    def reopen(self, entry: Entry) -> None:
        if self.episode is None or self.episode.resolved is None:
            return
        self.episode.reopened_by = entry
        self.episode = Episode(entry, entry.at)
        self.c.episodes.append(self.episode)
        self.our_turn(entry.at)

    def resolve(self, entry: Entry) -> None:
        if self.episode is None or self.episode.resolved is not None:
            return
        self.episode.resolved = entry
        self.episode.index = self.index
        self.resolved_at = entry.at
        self.waiting = None
        self.stop_waiting(entry.at)

    def stop_waiting(self, at: int) -> None:
        if self.wait_from is not None:
            self.c.waits.append((self.wait_from, at))
            self.wait_from = None
        if self.turn_from is not None:
            self.c.turns.append((self.turn_from, at))
            self.turn_from = None

    def our_turn(self, at: int) -> None:
        if self.turn_from is None:
            self.turn_from = at

    def pending(self, entry: Entry) -> None:
        if self.episode is None or self.episode.resolved is not None:
            return
        if entry.data.get("waiting_on") == CUSTOMER_TURN:
            self.stop_waiting(entry.at)
        else:
            self.our_turn(entry.at)

    # Messages and calls

    def received(self, entry: Entry) -> None:
        if entry.automatic:
            return
        episode = self.episode
        if episode is not None and episode.resolved is not None and entry.at - episode.resolved.at <= REOPEN_WITHIN:
            self.reopen(entry)
        self.c.received.append(entry)
        self.touch(entry).asked += 1
        if self.waiting is None:
            self.waiting = entry
        if self.wait_from is None:
            self.wait_from = entry.at
        self.our_turn(entry.at)
        if self.c.first_reply is None:
            self.inbound.append(entry)

    def sent(self, entry: Entry) -> None:
        if entry.automatic:
            return
        contact = self.touch(entry)
        if entry.bot:
            contact.bot_at = entry.at if contact.bot_at is None else contact.bot_at
            if self.episode is not None and self.episode.bot is None:
                self.episode.bot = entry
        if not entry.human:
            return
        self.c.sent.append(entry)
        self.reply(entry, contact)
        handle = seconds(entry.data, "handle_s")
        if handle is not None:
            contact.handle += handle
            contact.handles.append(entry)

    def call(self, entry: Entry) -> None:
        contact = self.touch(entry)
        if entry.type == "call.answered":
            self.reply(entry, contact)

    def reply(self, entry: Entry, contact: Contact) -> None:
        c = self.c
        if contact.answered is None:
            contact.answered = entry
        if self.episode is not None and self.episode.handled is None:
            self.episode.handled = entry
        if c.first_reply is None and c.by_customer and self.episode is not None:
            c.first_reply = entry
            c.handover = self.handover
            c.inbound_before_reply = self.inbound
        if self.waiting is not None:
            c.stretches.append((self.waiting, entry))
            self.waiting = None
        if self.episode is None or self.episode.resolved is None:
            self.stop_waiting(entry.at)

    def touch(self, entry: Entry) -> Contact:
        """Return the entry's contact, new where it is its first; a change of channel is an escalation."""
        c = self.c
        key = contact_key(entry)
        contact = c.contacts.get(key)
        if contact is None:
            contact = Contact(key, entry, c.id)
            c.contacts[key] = contact
            before = self.previous
            if before is not None and contact.channel and before.channel != contact.channel:
                before.to_channels.setdefault(contact.channel, entry)
            self.previous = contact
        contact.end = entry.at
        if contact.topic is None:
            contact.topic = entry.topic
        mood = entry.data.get("sentiment")
        if isinstance(mood, str):
            contact.sentiments.setdefault(mood, entry)
        return contact

    def escalate(self, entry: Entry) -> None:
        source = name(entry.data.get("from_contact")) or entry.contact
        target = text(entry.data.get("to_channel"))
        contact = self.c.contacts.get(source) if source is not None else self.previous
        if contact is not None and target is not None:
            contact.to_channels.setdefault(target, entry)

    # What else happens in it

    def acknowledge(self, entry: Entry) -> None:
        if self.c.acknowledged is None and self.episode is not None:
            self.c.acknowledged = entry

    def bot(self, entry: Entry) -> None:
        if entry.type == "bot.handed_over":
            self.handover = entry
        if self.episode is not None and self.episode.bot is None:
            self.episode.bot = entry

    def transfer(self, entry: Entry) -> None:
        if self.episode is not None:
            self.episode.transfers.append(entry)

    def ask(self, entry: Entry) -> None:
        field = entry.data.get("field")
        if self.episode is None or not isinstance(field, str):
            return
        if field in self.episode.fields:
            self.episode.repeated_field = self.episode.repeated_field or entry
        self.episode.fields.setdefault(field, entry)

    def view(self, entry: Entry) -> None:
        system = entry.data.get("system")
        if self.episode is not None and isinstance(system, str):
            self.episode.systems.setdefault(system, entry)

    def pick_up(self, entry: Entry) -> None:
        agent = entry.agent
        assert agent is not None
        _, seen, views = self.c.pickups.setdefault(agent, (entry, set(), []))
        sections = entry.data.get("sections")
        if entry.type == "agent.context_viewed" and isinstance(sections, list):
            seen.update(s for s in sections if isinstance(s, str))
            views.append(entry)

    def survey(self, entry: Entry) -> None:
        self.c.surveys.append(entry)

    def accept(self, entry: Entry) -> None:
        suggestion = name(entry.data.get("suggestion_id"))
        if suggestion is not None:
            self.c.accepted.add(suggestion)

    def attribute(self) -> None:
        """Name the agent and team the conversation counts for: who resolved it, else who answered it last."""
        c = self.c
        last = next((e.resolved for e in reversed(c.episodes) if e.resolved is not None and e.resolved.agent), None)
        if last is None:
            last = next((e for e in reversed(c.entries) if e.agent and human_reply(e)), None)
        if last is not None:
            c.agent = last.agent
            c.team = last.team or next((e.team for e in reversed(c.entries) if e.agent == c.agent and e.team), None)
        channel = c.opening.channel or next((e.channel for e in c.entries if e.channel), None)
        c.dims = Dims(channel, c.team or c.opening.team, c.agent, c.segment, c.language)


_PICKING_UP = frozenset({"message.sent", "call.answered", "agent.context_viewed"})

_STEPS = {
    "message.received": _Reader.received,
    "message.sent": _Reader.sent,
    "call.queued": _Reader.call,
    "call.answered": _Reader.call,
    "call.held": _Reader.call,
    "call.abandoned": _Reader.call,
    "call.overflowed": _Reader.call,
    "call.ended": _Reader.call,
    "conversation.resolved": _Reader.resolve,
    "conversation.reopened": _Reader.reopen,
    "conversation.pending": _Reader.pending,
    "conversation.transferred": _Reader.transfer,
    "conversation.escalated": _Reader.escalate,
    "acknowledgement.sent": _Reader.acknowledge,
    "bot.answered": _Reader.bot,
    "bot.handed_over": _Reader.bot,
    "info.requested": _Reader.ask,
    "agent.context_viewed": _Reader.view,
    "survey.sent": _Reader.survey,
    "suggestion.accepted": _Reader.accept,
}
