"""What happened in one conversation: its contacts and episodes, replies, waits and turns.

Every KPI function reads these and no entries; analysis.py makes them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from services.metrics.buckets import Dims
from services.metrics.entries import SECOND, Entry, text
from services.metrics.settling import settled

DAY = 86_400 * SECOND

REOPEN_WITHIN = 28 * DAY
"""A customer's message reopens a resolved conversation up to this long after its resolution."""

CUSTOMER_TURN = "customer"

_new = tuple.__new__  # what Dims(…) does, at half its cost

LOOK_BACK = 200
"""How many entries before a resolution are looked at for its channel, agent and team."""


class Contact:
    """One leg on one channel: a chat session, an e-mail thread, a call."""

    __slots__ = (
        "answered",
        "asked",
        "bot_at",
        "channel",
        "conversation",
        "end",
        "first",
        "handle",
        "handles",
        "is_call",
        "key",
        "sentiments",
        "start",
        "to_channels",
        "topic",
    )  # fmt: skip

    def __init__(self, key: str, first: Entry, conversation: str | None) -> None:
        self.key = key
        self.first = first
        self.start = first.at
        self.end = first.at
        self.channel = first.channel
        self.topic = first.topic
        self.conversation = conversation
        self.is_call = first.type.startswith("call.")
        self.answered: Entry | None = None
        """The first entry by which a human answered."""
        self.bot_at: int | None = None
        self.asked = 0
        """Messages received in it."""
        self.handle = 0
        self.handles: list[Entry] = []
        self.sentiments: dict[str, Entry] = {}
        self.to_channels: dict[str, Entry] = {}
        """Channels this contact was escalated to, and the entry that shows it."""


class Episode:
    """From opened (or reopened) to resolved."""

    __slots__ = (
        "bot", "dims", "fields", "handled", "index", "opened_by", "reopened_by", "repeated_field", "resolved", "start",
        "systems", "touched", "transfers",
    )  # fmt: skip

    def __init__(self, opened_by: Entry, start: int) -> None:
        self.opened_by = opened_by
        self.start = start
        self.resolved: Entry | None = None
        self.index = 0
        """Where `resolved` is among the conversation's entries."""
        self.dims: Dims | None = None
        self.reopened_by: Entry | None = None
        self.handled: Entry | None = None
        self.bot: Entry | None = None
        self.transfers: list[Entry] = []
        self.fields: dict[str, Entry] = {}
        self.repeated_field: Entry | None = None
        self.systems: dict[str, Entry] = {}
        self.touched: list[str] = []

    def reopened_within(self, limit: int) -> bool:
        """Whether this episode's resolution was undone by a reopening at most `limit` later."""
        if self.resolved is None or self.reopened_by is None:
            return False
        return self.reopened_by.at - self.resolved.at <= limit


class Conversation:
    """The facts of one conversation. Only made where it opened; `entries` are sorted and corrected."""

    __slots__ = (
        "accepted", "acknowledged", "agent", "by_customer", "contacts", "dims", "eligible", "entries", "episodes",
        "first_reply", "handover", "id", "inbound_before_reply", "language", "opened_at", "opening", "owner", "pickups",
        "received", "segment", "sent", "sessions", "stretches", "surveys", "team", "topic", "touches", "turns", "waits",
    )  # fmt: skip

    def __init__(self, id: str, entries: Sequence[Entry], opening: Entry) -> None:
        self.id = id
        self.entries = entries
        self.opening = opening
        self.opened_at = opening.at
        self.owner: str | None = entries[0].leaf
        self.topic: str | None = entries[0].topic
        self.segment: str | None = next((e.segment for e in entries if e.segment), None)
        self.language: str | None = next((e.language for e in entries if e.language), None)
        self.by_customer = True
        self.first_reply: Entry | None = None
        self.handover: Entry | None = None
        """The last hand-over by a bot before the first human reply."""
        self.inbound_before_reply: list[Entry] = []
        self.acknowledged: Entry | None = None
        self.stretches: list[tuple[Entry, Entry]] = []
        """(oldest unanswered inbound message, human reply)."""
        self.waits: list[tuple[int, int]] = []
        """Spans in which a customer's message waited for us."""
        self.turns: list[tuple[int, int | None]] = []
        """Spans in which it was our turn, from the opening on; the last one may be open."""
        self.contacts: dict[str, Contact] = {}
        self.episodes: list[Episode] = []
        self.pickups: dict[str, tuple[Entry, set[str], list[Entry]]] = {}
        """agent → (first thing they did here, sections of the context they saw, and where)."""
        self.received: list[Entry] = []
        """Messages that people wrote to us."""
        self.sent: list[Entry] = []
        """Messages that humans of ours wrote."""
        self.accepted: set[str] = set()
        """Suggestions that were accepted."""
        self.surveys: list[Entry] = []
        """Surveys sent."""
        self.sessions: list[Entry] = []
        """Entries of sessions, surveys and of the customer's coming and going."""
        self.touches: list[Entry] = []
        """Entries by which the customer turned to us."""
        self.eligible = True
        """Whether nothing says that first contact resolution does not apply."""
        self.agent: str | None = None
        self.team: str | None = None
        self.dims = Dims()

    def at_entry(self, entry: Entry) -> Dims:
        """Dimensions of a fact that is one entry: its own, the customer's from the conversation."""
        segment, language = entry.segment or self.segment, entry.language or self.language
        return _new(Dims, (entry.channel, entry.team, entry.agent, segment, language))

    def standing(self) -> Episode | None:
        """Return the last episode where its resolution holds: not undone by a reopening within 7 days."""
        for episode in reversed(self.episodes):
            if episode.resolved is not None:
                return None if episode.reopened_within(7 * DAY) else episode
        return None

    def resolution_dims(self, episode: Episode) -> Dims:
        """Dimensions frozen at the resolution: the last channel before it, the agent who resolved or answered last."""
        if episode.dims is None:
            episode.dims = self._dims_at(episode)
        return episode.dims

    def _dims_at(self, episode: Episode) -> Dims:
        resolved = episode.resolved
        assert resolved is not None
        channel, agent, team = resolved.channel, resolved.agent, resolved.team
        for index in range(episode.index, -1, -1):
            entry = self.entries[index]
            if entry.at < self.opened_at:
                break
            if channel is None and entry.channel and not entry.automatic:
                channel = entry.channel
            if agent is None and entry.agent and entry.type in _ANSWERS and not entry.automatic:
                agent, team = entry.agent, team or entry.team
            elif team is None and agent is not None and entry.agent == agent:
                team = entry.team
            if channel is not None and agent is not None and team is not None:
                break
            if episode.index - index > LOOK_BACK:
                break
        return Dims(channel or self.opening.channel, team, agent, self.segment, self.language)


CONTACT_TYPES = frozenset(
    {
        "message.received", "message.sent", "call.queued", "call.answered", "call.held", "call.abandoned",
        "call.overflowed", "call.ended",
    }
)  # fmt: skip

SESSIONS = frozenset(
    {
        "selfservice.viewed", "selfservice.deflected", "ivr.ended", "bot.answered", "bot.handed_over", "survey.sent",
        "survey.answered", "customer.started", "customer.churned", "revenue.recorded",
    }
)  # fmt: skip

TOUCHES = frozenset({"selfservice.viewed", "message.received", "call.queued", "ivr.ended"})

_ANSWERS = frozenset({"message.sent", "call.answered"})


def corrected(entries: Iterable[Entry]) -> Sequence[Entry]:
    """Return the entries sorted by time, without those that another one says it corrects, with calls settled."""
    ordered = sorted(entries, key=_order)
    gone = {text(e.data["corrects_event_id"]) for e in ordered if "corrects_event_id" in e.data}
    return settled([e for e in ordered if e.event_id not in gone] if gone else ordered)


def _order(entry: Entry) -> tuple[int, str, str]:
    return entry.order


def human_reply(entry: Entry) -> bool:
    """Whether a human answered by this entry."""
    return entry.type == "call.answered" or (entry.type == "message.sent" and entry.human and not entry.automatic)


def contact_key(entry: Entry) -> str:
    """Return the contact an entry belongs to: as given, else one for the conversation and channel."""
    return entry.contact or f"{entry.conversation or entry.id}/{entry.channel}"
