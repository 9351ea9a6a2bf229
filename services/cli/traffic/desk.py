"""What the two sides of a matter do: the customer writes, agents pick up, look up, answer and hand over."""

from __future__ import annotations

from typing import Any

from services.cli.traffic import texts
from services.cli.traffic.pen import Contact, Pen
from services.cli.traffic.people import SOCIAL


class Desk(Pen):
    """The single steps of which a story is made."""

    def _customer_writes(self, contact: Contact, text: str, link: dict[str, Any], first: bool = False) -> None:
        channel, data = contact.channel, self._message(contact, link)
        data["customer"] = {
            "handles": [self._mail_handle() if channel == "email" else self.who.handle(channel)],
            "name": self.who.name,
        }
        data["actor"] = {"type": "customer"}
        reply = None
        if channel == "email":
            data["subject"] = self._subject(contact, link)
            if contact.last_text and not first:
                text, reply = texts.quoted(text, contact.last_text, self.who.language), text
        elif channel in SOCIAL and first and self.rng.random() < self.mix.praise + self.mix.complaint:
            share = self.mix.praise / max(self.mix.praise + self.mix.complaint, 1e-9)
            data["sentiment"] = "praise" if self.rng.random() < share else "complaint"
        data["text"] = text
        contact.last_text = text
        self._post(channel, "message.received", reply_text=reply, **data)
        if channel == "email":
            contact.mails.append(data["message_id"])

    def _agent_writes(self, contact: Contact, text: str, link: dict[str, Any] | None = None) -> None:
        if not self.agent:
            self._new_agent(contact.channel)
        contact.answered = True
        data = self._message(contact, link or {})
        data["actor"] = self._actor()
        data["text"] = text
        data["handle_s"] = round(min(1800.0, self.rng.lognormvariate(4.8, 0.6)))
        if contact.channel == "email":
            data["customer"] = {"handles": [self.who.handle("email")]}
            data["subject"] = f"Re: [#{self.ticket}] " + self._plain_subject()
            data.setdefault("thread", {})["ticket"] = self.ticket
            self.ticketed = True
        elif contact.channel != "chat":
            data["customer"] = {"handles": [self.who.handle(contact.channel)]}
        if self.rng.random() < self.mix.suggestion:
            data["suggestion_id"] = f"sg-{self.prefix}-{self.serial}"
        self._post(contact.channel, "message.sent", **data)
        contact.last_text = text
        if contact.channel == "email":
            contact.mails.append(data["message_id"])

    def _subject(self, contact: Contact, link: dict[str, Any]) -> str:
        if link.get("subject_ticket") or (self.ticketed and contact.mails):
            return f"Re: [#{self.ticket}] {self._plain_subject()}"
        return self._plain_subject()

    def _plain_subject(self) -> str:
        return texts.SUBJECT[self.who.language][self.topic].format(order=self.order)

    def _acknowledge(self, contact: Contact) -> None:
        self._pass(self.rng.uniform(1, 12))
        self._operate("acknowledgement.sent", contact, actor={"type": "automated"})
        self.ticketed = True

    def _pick_up(self, contact: Contact) -> None:
        self._new_agent(contact.channel)
        self._operate("conversation.assigned", contact, to_agent=self._agent_id(), to_team=self.team)
        self._views(contact)
        if self.rng.random() < self.mix.looked_up:
            self._look_up(contact, self._owner_handle(contact))
        self._pass(1)

    def _views(self, contact: Contact) -> None:
        whole = self.rng.random() < self.mix.context_viewed
        self._operate(
            "agent.context_viewed", contact, actor=self._actor(), system="helpdesk",
            sections=["profile", "orders", "history"] if whole else ["profile"],
        )  # fmt: skip

    def _effort(self, contact: Contact) -> None:
        """Second systems and questions asked again, once per matter."""
        if self.rng.random() < self.mix.several_systems:
            self._operate("agent.context_viewed", contact, actor=self._actor(), sections=["orders"], system="warehouse")
        if self.rng.random() < max(0.6, self.mix.info_repeated):
            twice = self.rng.random() < self.mix.info_repeated / max(0.6, self.mix.info_repeated)
            for _ in range(1 + twice):
                self._operate("info.requested", contact, actor=self._actor(), field="order_number")

    def _look_up(self, contact: Contact, handle: dict[str, Any]) -> None:
        """Find the customer in the customer system: what was seen on this channel belongs to the account."""
        handles = [self.who.account()]
        if handle["value"] != "anonymous":
            handles.insert(0, handle)
        if self.rng.random() < self.mix.known_profile:
            known = [self.who.handle("email"), self.who.handle("phone")]
            handles += [one for one in known if one not in handles]
        self._identified(contact, handles, actor=self._actor())

    def _identified(self, contact: Contact, handles: list[dict[str, Any]], **more: Any) -> None:
        data: dict[str, Any] = {
            "channel": contact.channel,
            "customer": {"handles": handles, "name": self.who.name, "attributes": {"segment": self.who.segment}},
        }
        if contact.channel in ("chat", "phone"):
            data["contact_id"] = contact.id
        else:
            data["thread"] = self._thread(contact, {"ticket": self.ticket} if self.ticketed else {})
            if contact.id and contact.channel == "email":
                data["contact_id"] = contact.id
            if not data["thread"]:
                del data["thread"]
        self._post("crm", "customer.identified", **data, **more)

    def _transfer(self, contact: Contact) -> None:
        left, team = self._agent_id(), self.team
        self._pass(self.rng.uniform(5, 120))
        self._new_agent(self.rng.choice(("chat", "email", "phone")))
        self._operate(
            "conversation.transferred", contact, reason="needs a specialist",
            **{"from": left, "to": self._agent_id(), "from_team": team, "to_team": self.team},  # type: ignore[arg-type]
        )  # fmt: skip
        self._views(contact)

    def _agent_farewell(self, contact: Contact) -> None:
        if contact.channel in ("phone",):
            return
        self._pass(self.rng.uniform(20, 300))
        self._agent_writes(contact, texts.one_of(self.rng, texts.CLOSING, self.who.language, self.order))
