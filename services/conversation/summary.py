"""What an inbox shows of a conversation, kept up entry by entry."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from services.conversation.facts import Facts


@dataclass(slots=True)
class Summary:
    """State of one conversation for the inbox. Entries are applied in the order in which they happened."""

    channels: list[str] = field(default_factory=list)
    assignee: str | None = None
    team: str | None = None
    topic: str | None = None
    waiting_since: datetime | None = None
    """Since when the customer waits for a person, on one clock over all channels; None while nobody waits."""
    last_entry_at: datetime | None = None
    entries: int = 0

    def apply(self, event: Facts, data: dict[str, Any]) -> None:
        """Take the next entry."""
        self.entries += 1
        self.last_entry_at = max(self.last_entry_at or event.occurred_at, event.occurred_at)
        if event.automatic:
            return
        self.topic = self.topic or data.get("topic")
        if event.channel and event.channel not in self.channels:
            self.channels.append(event.channel)
        self._clock(event)
        self._people(event, data)

    def _clock(self, event: Facts) -> None:
        if event.from_customer:
            self.waiting_since = self.waiting_since or event.occurred_at
        elif event.type in ("call.answered", "conversation.resolved") or (
            event.type == "message.sent" and event.actor == "agent"
        ):
            self.waiting_since = None

    def _people(self, event: Facts, data: dict[str, Any]) -> None:
        if event.type == "conversation.assigned":
            self.assignee = data.get("to_agent") or self.assignee
            self.team = data.get("to_team") or self.team
        elif event.type == "conversation.transferred":
            self.assignee = data.get("to_agent") or data.get("to") or self.assignee
            self.team = data.get("to_team") or self.team
        elif event.actor == "agent" and event.type in ("message.sent", "call.answered"):
            actor = data.get("actor") or {}
            self.assignee = self.assignee or actor.get("id")
            self.team = self.team or actor.get("team")

    def absorb(self, other: Summary) -> None:
        """Take in a conversation that was found to be part of this one."""
        self.channels += [channel for channel in other.channels if channel not in self.channels]
        self.assignee = self.assignee or other.assignee
        self.team = self.team or other.team
        self.topic = self.topic or other.topic
        self.waiting_since = min((at for at in (self.waiting_since, other.waiting_since) if at), default=None)
        self.last_entry_at = max((at for at in (self.last_entry_at, other.last_entry_at) if at), default=None)
        self.entries += other.entries
