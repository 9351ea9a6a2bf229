"""The pen that writes one matter: where in time it is, what has been said so far, and how an event names it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import blake2s
from random import Random
from typing import Any

from services.cli.traffic import texts
from services.cli.traffic.events import SOURCES, Event
from services.cli.traffic.mix import Mix
from services.cli.traffic.people import SOCIAL, Person

HOUR_S = 3600.0
PERPETUAL_MAX_S = 60 * HOUR_S
"""Longest pause on a perpetual thread (DM, SMS, WhatsApp): beyond 72 h the thread no longer names its conversation."""
TEAMS = {"chat": "chat", "email": "mail", "phone": "voice"}

_THREAD_FIELDS = frozenset(
    {"ticket", "callback_id", "handoff_token", "continues", "in_reply_to", "references", "dm_thread"}
)


@dataclass(slots=True)
class Contact:
    """One leg: where it happens and what later legs can name."""

    channel: str
    id: str | None
    thread: str | None
    answered: bool = False
    mails: list[str] = field(default_factory=list)
    last_text: str = ""


class Pen:
    """Who writes events of one person's matter, in order of time. Every draw comes from one seeded generator."""

    def __init__(self, rng: Random, who: Person, number: int, start: float, mix: Mix, run: str, agents: int) -> None:
        self.rng, self.who, self.mix, self.agents = rng, who, mix, agents
        self.at = start
        self.prefix = f"{run}-{who.number}-{number}"
        self.matter = self.prefix
        self.events: list[Event] = []
        self.serial = 0
        self.topic = rng.choice(texts.TOPICS)
        self.order = f"#{rng.randrange(10_000, 99_999)}"
        self.ticket = f"T-{_digits(run)}{who.number:06d}{number:02d}"
        self.ticketed = False
        self.contacts: list[Contact] = []
        self.agent = 0
        self.team = ""

    def _post(self, source: str, kind: str, /, reply_text: str | None = None, **data: Any) -> None:
        # One event a millisecond at least: the order of events of one matter is never in doubt.
        self.at = round(max(self.at + 0.001, self.events[-1].at + 0.001 if self.events else 0.0), 3)
        identity = f"{self.prefix}-{self.serial}"
        self.serial += 1
        self.events.append(
            Event(
                self.at, SOURCES[source], identity, "threadline." + kind, data, self.who.number, self.matter, reply_text
            )
        )

    def _operate(self, kind: str, contact: Contact, /, link: dict[str, Any] | None = None, **data: Any) -> None:
        """Post what the help desk knows about `contact`: it names the contact and the ticket."""
        thread = {**self._thread(contact, link or {}), "ticket": self.ticket}
        self.ticketed = True
        if contact.channel == "email" and contact.mails and not contact.id:
            thread["in_reply_to"] = contact.mails[-1]
        body: dict[str, Any] = {
            "channel": contact.channel,
            "thread": thread,
            "topic": self.topic,
            "segment": self.who.segment,
        }
        if contact.id:
            body["contact_id"] = contact.id
        if contact.channel not in ("chat", "phone"):
            body["customer"] = {"handles": [self._owner_handle(contact)]}
        body["actor"] = self._actor() if self.agent else {"type": "automated"}
        body.update(data)
        self._post("helpdesk", kind, **body)

    def _message(self, contact: Contact, link: dict[str, Any]) -> dict[str, Any]:
        channel = contact.channel
        number = f"{self.prefix}-{self.serial}"
        data: dict[str, Any] = {"channel": channel, "language": self.who.language, "topic": self.topic}
        data["message_id"] = f"<{number}@shop.example>" if channel == "email" else f"{channel}-{number}"
        if contact.id:
            data["contact_id"] = contact.id
        thread = self._thread(contact, link)
        if channel == "email" and contact.mails:
            thread = {**thread, "in_reply_to": contact.mails[-1], "references": contact.mails[-10:]}
        if thread:
            data["thread"] = thread
        return data

    def _thread(self, contact: Contact, link: dict[str, Any]) -> dict[str, Any]:
        thread = {name: value for name, value in link.items() if name in _THREAD_FIELDS}
        if contact.thread:
            thread["dm_thread"] = contact.thread
        return thread

    def _link(self, contact: Contact, before: Contact | None) -> dict[str, Any]:
        """Return what `contact` carries to say that it continues `before`; {"nothing": True} where nothing."""
        if before is None:
            return {}
        mix, channel = self.mix, contact.channel
        if contact.thread and any(one is not contact and one.thread == contact.thread for one in self.contacts):
            return {}
        ways: list[tuple[float, Callable[[], dict[str, Any]]]] = [(mix.link_nothing, lambda: {"nothing": True})]
        if self.ticketed:
            ways.append(
                (mix.link_ticket, lambda: {"subject_ticket": True} if channel == "email" else {"ticket": self.ticket})
            )
        if before.id and before.last_text and (before.channel != "phone" or before.answered):
            ways.append((mix.link_continues, lambda: {"continues": before.id}))
        if before.answered and before.channel in ("chat", "phone") and channel in SOCIAL:
            ways.append(
                (
                    mix.link_headers,
                    lambda: {"handoff_token": f"ho-{contact.channel}-{self.prefix}-{len(self.contacts)}"},
                )
            )
        if channel == "phone" and before.answered and before.channel != "phone":
            ways.append((mix.link_headers, lambda: {"callback_id": f"cb-{contact.id}"}))
        mails = next((one.mails for one in reversed(self.contacts) if one.mails and one is not contact), None)
        if channel == "email" and mails:
            ways.append((mix.link_headers, lambda: {"in_reply_to": mails[-1], "references": list(mails[-10:])}))
        total = sum(weight for weight, _ in ways)
        draw = self.rng.random() * total
        for weight, way in ways:
            if draw < weight:
                return way()
            draw -= weight
        return {"nothing": True}

    def _contact(self, channel: str) -> Contact:
        number = f"{self.prefix}-{len(self.contacts)}"
        named = {"chat": f"chat-{number}", "phone": f"call-{number}"}
        # Half of the mail threads come through a help desk that numbers its threads.
        identity = named.get(channel) or (f"mail-{number}" if channel == "email" and self.rng.random() < 0.5 else None)
        thread = f"{channel}:{self.who.handle(channel)['value']}" if channel in SOCIAL else None
        contact = Contact(channel, identity, thread)
        self.contacts.append(contact)
        return contact

    def _owner_handle(self, contact: Contact) -> dict[str, Any]:
        return self.who.handle(contact.channel)

    def _mail_handle(self) -> dict[str, Any]:
        if self.who.alias and self.rng.random() < 0.5:
            return {"kind": "email", "value": self.who.alias, "verified": False}
        return self.who.handle("email")

    def _new_agent(self, channel: str) -> None:
        self.team = TEAMS.get(channel, "social")
        # Agents are numbered round the teams, so that each has one team for good.
        teams = ("chat", "mail", "voice", "social")
        per_team = max(1, self.agents // 4)
        self.agent = 1 + teams.index(self.team) + 4 * self.rng.randrange(per_team)

    def _agent_id(self) -> str:
        return f"agent-{self.agent}"

    def _actor(self) -> dict[str, Any]:
        return {"type": "agent", "id": self._agent_id(), "name": f"Agent {self.agent}", "team": self.team}

    def _reply_time(self, channel: str) -> float:
        rng, mix = self.rng, self.mix
        if channel == "chat":
            # The mean of an answer within a chat is minutes, its tail an hour.
            return mix.reply_fastest_s + min(
                3600.0, rng.lognormvariate(0, 0.7) * max(1.0, mix.reply_chat_s - mix.reply_fastest_s)
            )
        median = mix.reply_email_s if channel == "email" else mix.reply_social_s
        slowest = mix.reply_slowest_s if channel == "email" else min(PERPETUAL_MAX_S, mix.reply_slowest_s)
        return min(slowest, mix.reply_fastest_s + rng.lognormvariate(0, mix.reply_spread) * median)

    def _customer_time(self, channel: str) -> float:
        if channel == "chat":
            return self.rng.uniform(8, 90)
        return self.rng.uniform(300, 10 * HOUR_S) if channel == "email" else self.rng.uniform(60, 4 * HOUR_S)

    def _pass(self, seconds: float) -> None:
        self.at += seconds


def _digits(run: str) -> int:
    """Return a number below a million for a run, for tickets, which are digits."""
    return int.from_bytes(blake2s(run.encode(), digest_size=4).digest(), "big") % 1_000_000
