"""One matter of one person, from the first look at the help pages to the survey: pure, and in order of time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2s
from random import Random
from typing import Any

from services.cli.traffic import texts
from services.cli.traffic.mix import Mix
from services.cli.traffic.people import SOCIAL, Person

HOUR_S = 3600.0
PERPETUAL_MAX_S = 60 * HOUR_S
"""Longest pause on a perpetual thread (DM, SMS, WhatsApp): beyond 72 h the thread no longer names its conversation."""

SOURCES = {
    "chat": "/chat/shop.example",
    "email": "/email/support@shop.example",
    "phone": "/phone/shop",
    "whatsapp": "/whatsapp/shop",
    "messenger": "/messenger/page1",
    "sms": "/sms/shop",
    "instagram": "/instagram/acc1",
    "helpdesk": "/helpdesk/shop",
    "bot": "/bot/shop",
    "survey": "/survey/shop",
    "portal": "/portal/shop",
    "crm": "/crm/shop",
    "erp": "/erp/shop",
    "planning": "/planning/shop",
}
TEAMS = {"chat": "chat", "email": "mail", "phone": "voice"}


@dataclass(slots=True)
class Event:
    """One event before it is a delivery. `at` is seconds since the epoch, whole milliseconds."""

    at: float
    source: str
    id: str
    type: str
    data: dict[str, Any]
    person: int | None = None
    matter: str | None = None
    reply_text: str | None = None


@dataclass(slots=True)
class Contact:
    """One leg: where it happens and what later legs can name."""

    channel: str
    id: str | None
    thread: str | None
    answered: bool = False
    last_mail: str | None = None
    mails: list[str] = field(default_factory=list)
    last_text: str = ""


def matter(
    rng: Random, who: Person, number: int, start: float, mix: Mix, run: str, agents: int, new: Sequence[str]
) -> list[Event]:
    """Return the events of matter `number` of `who` from `start` on, in order of time.

    `new` are channels on which the person must be seen in this matter; `run` is a prefix that makes ids unique;
    `agents` is how many agents work there.
    """
    return _Journey(rng, who, number, start, mix, run, agents).tell(new)


class _Journey:
    """The pen that writes one matter: where in time it is, and what has been said so far."""

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
        self.asked = 0

    # --- the story -----------------------------------------------------------------------------------------------

    def tell(self, new: Sequence[str]) -> list[Event]:
        """Write everything."""
        rng, mix, who = self.rng, self.mix, self.who
        if rng.random() < mix.self_service_first:
            self._help_pages()
        plan = list(new)
        if not plan:
            plan = rng.choices(who.channels, [mix.starts()[channel] or 0.01 for channel in who.channels])
        served = rng.random() >= mix.never_answered(plan[0])
        for place, channel in enumerate(plan):
            last = place == len(plan) - 1
            before = self.contacts[-1] if self.contacts else None
            contact = self._contact(channel)
            answered = self._attempt(contact, before, served and last)
            if not last or not answered:
                self._pause_before_switch()
            elif answered:
                self._serve(contact)
        self._try_elsewhere(served)
        # Somebody whose call was lost rings again, or gives up.
        if served and plan[-1] == "phone" and not self.contacts[-1].answered and rng.random() < 0.7:
            contact = self._contact("phone")
            if self._attempt(contact, self.contacts[-2], True):
                self._serve(contact)
        if any(contact.answered for contact in self.contacts):
            self._finish()
        return self.events

    def _try_elsewhere(self, served: bool) -> None:
        """Let somebody whom nobody answers try another of their channels, as unheard there."""
        tried = {contact.channel for contact in self.contacts} | {"phone"}
        others = [channel for channel in self.who.channels if channel not in tried]
        if not served and others and self.rng.random() < self.mix.switch:
            before = self.contacts[-1]
            self._attempt(self._contact(self.rng.choice(others)), before, False)

    def _help_pages(self) -> None:
        session = f"view-{self.prefix}"
        handles = [self.who.account()] if self.rng.random() < self.mix.logged_in else [self.who.handle("chat")]
        for _ in range(self.rng.randrange(1, 3)):
            self._post(
                "portal", "selfservice.viewed", channel="portal", customer={"handles": handles}, contact_id=session,
                session_id=session, article=f"help/{self.topic}", actor={"type": "customer"},
            )  # fmt: skip
            self._pass(self.rng.uniform(15, 180))
        self._pass(self.rng.uniform(30, 900))

    def _pause_before_switch(self) -> None:
        slow = self.rng.random() < self.mix.switch_slow
        self._pass(self.rng.uniform(3600, 5 * HOUR_S) if slow else self.rng.uniform(300, 3500))

    def _attempt(self, contact: Contact, before: Contact | None, serve: bool) -> bool:
        """Let the customer begin `contact`; return whether a human answered."""
        link = self._link(contact, before)
        if contact.channel == "phone":
            return self._call(contact, link, serve)
        text = texts.opening(self.rng, self.who.language, self.topic, self.order)
        if before is not None and self.contacts[0] is not contact:
            text = texts.one_of(self.rng, texts.CONTINUED, self.who.language, self.order)
        self._customer_writes(contact, text, link, first=True)
        if contact.channel == "chat":
            if self.rng.random() < self.mix.logged_in:
                self._identified(contact, [self.who.handle("chat"), self.who.account(), self._mail_handle()])
            if before is None and self.rng.random() < self.mix.bot:
                if self.rng.random() < self.mix.bot_contained:
                    return self._bot(contact, alone=True)
                self._bot(contact, alone=False)
        elif contact.channel == "email":
            self._acknowledge(contact)
        # A geometric number of further messages has the wanted mean.
        further = max(0.0, self.mix.messages_before_reply - 1)
        while self.rng.random() < further / (1 + further):
            self._pass(self.rng.uniform(20, 90) if contact.channel == "chat" else self.rng.uniform(600, 7200))
            self._customer_writes(contact, texts.one_of(self.rng, texts.MORE, self.who.language, self.order), {})
        if not serve:
            return False
        self._pass(self._reply_time(contact.channel))
        self._pick_up(contact)
        self._agent_writes(contact, texts.one_of(self.rng, texts.AGENT, self.who.language, self.order))
        return True

    def _serve(self, contact: Contact) -> None:
        """Let agent and customer talk on `contact`, then go on elsewhere where the mix says so."""
        rng, mix = self.rng, self.mix
        if contact.channel != "phone":
            for _ in range(rng.choices((0, 1, 2, 3), (0.25, 0.4, 0.25, 0.1))[0]):
                self._pass(self._customer_time(contact.channel))
                self._customer_writes(contact, texts.one_of(rng, texts.CUSTOMER, self.who.language, self.order), {})
                self._pass(self._reply_time(contact.channel))
                self._agent_writes(contact, texts.one_of(rng, texts.AGENT, self.who.language, self.order))
        if rng.random() < mix.transfer and not any(one.answered for one in self.contacts if one is not contact):
            self._transfer(contact)  # once a matter, wherever it was answered first
        draw = rng.random()
        for channel, share in mix.escalations(contact.channel).items():
            if draw < share:
                self._escalate(contact, channel)
                return
            draw -= share
        self._agent_farewell(contact)

    def _escalate(self, contact: Contact, channel: str) -> None:
        next_one = self._contact(channel)
        link = self._link(next_one, contact)
        if self.rng.random() < self.mix.escalation_posted:
            self._operate(
                "conversation.escalated", contact, from_contact=contact.id, from_channel=contact.channel,
                to_channel=channel, reason="needs another channel",
                **({"to_contact": next_one.id} if next_one.id else {}),
                link={name: link[name] for name in ("handoff_token",) if name in link},
            )  # fmt: skip
        elif "handoff_token" in link:
            # Nobody could know the token unless something of the first contact carried it.
            self._operate(
                "agent.context_viewed",
                contact,
                sections=["history"],
                system="helpdesk",
                link={"handoff_token": link["handoff_token"]},
            )
        if channel == "phone":
            if self.rng.random() < 0.5 and "callback_id" not in link:
                link["callback_id"] = f"cb-{next_one.id}"
            if "callback_id" in link:
                self._operate("callback.requested", contact, link={"callback_id": link["callback_id"]})
            self._pass(self.rng.uniform(120, 3 * HOUR_S))
            answered = self._call(next_one, link, True, sure=True)
            if answered and "callback_id" in link:
                self._operate("callback.completed", next_one, link={"callback_id": link["callback_id"]})
        elif channel == "email" and self.rng.random() < 0.5:
            # The agent writes first, and the customer answers that mail.
            self._pass(self.rng.uniform(60, 1800))
            if link.get("nothing"):
                link = {"continues": contact.id} if contact.id else {"ticket": self.ticket}
            self._agent_writes(next_one, texts.one_of(self.rng, texts.AGENT, self.who.language, self.order), link)
            self._pass(self._customer_time("email"))
            self._customer_writes(next_one, texts.one_of(self.rng, texts.CUSTOMER, self.who.language, self.order), {})
            self._pass(self._reply_time("email"))
            self._agent_writes(next_one, texts.one_of(self.rng, texts.AGENT, self.who.language, self.order))
            next_one.answered = True
        else:
            self._pass(self.rng.uniform(120, 4 * HOUR_S))
            self._customer_writes(
                next_one, texts.one_of(self.rng, texts.CONTINUED, self.who.language, self.order), link, first=True
            )
            self._pass(self._reply_time(channel))
            self._pick_up(next_one)
            self._agent_writes(next_one, texts.one_of(self.rng, texts.AGENT, self.who.language, self.order))
        if next_one.answered:
            self._serve(next_one)

    def _finish(self) -> None:
        rng, mix = self.rng, self.mix
        last = next(contact for contact in reversed(self.contacts) if contact.answered)
        self._effort(last)
        if rng.random() >= mix.resolved:
            return
        self._pass(rng.uniform(20, 600))
        if rng.random() < mix.remedy:
            self._operate("remedy.chosen", last, kind=rng.choice(("replacement", "refund")))
        self._operate("conversation.resolved", last, actor=self._actor(), reason="answered")
        score = self._survey(last) if rng.random() < mix.survey_asked else None
        if rng.random() < mix.reopened and last.channel != "phone":
            self._reopen(last)
        if rng.random() < (mix.churn_after_bad if score is not None and score <= 2 else mix.churn):
            # Long enough after the last word that the departure belongs to no open conversation.
            self.at += 80 * HOUR_S
            self._post(
                "crm", "customer.churned", customer={"handles": [self.who.account()]}, reason="moved to another shop"
            )

    def _reopen(self, contact: Contact) -> None:
        self._pass(self.rng.uniform(HOUR_S, 40 * HOUR_S))
        self._customer_writes(contact, texts.one_of(self.rng, texts.AGAIN, self.who.language, self.order), {})
        self._pass(self._reply_time(contact.channel))
        self._agent_writes(contact, texts.one_of(self.rng, texts.AGENT, self.who.language, self.order))
        if self.rng.random() < self.mix.transfer:
            self._transfer(contact)
        self._effort(contact)
        self._pass(self.rng.uniform(30, 900))
        self._operate("conversation.resolved", contact, actor=self._actor(), reason="answered", resolution_no=2)
        if self.rng.random() < self.mix.survey_asked:
            self._survey(contact, number=2)

    def _survey(self, contact: Contact, number: int = 1) -> int | None:
        """Ask for scores after the resolution of that number, and return the CSAT score where one is given."""
        rng, mix, survey = self.rng, self.mix, f"s-{self.prefix}-{number}"
        self._pass(rng.uniform(5, 60))
        thread = {"ticket": self.ticket}
        customer = {"handles": [self._owner_handle(contact)]}
        self._post(
            "survey", "survey.sent", channel=contact.channel, customer=customer, thread=thread, survey_id=survey,
            kinds=["csat", "ces", "nps"], agent_id=self._agent_id(), actor={"type": "automated"},
        )  # fmt: skip
        if rng.random() >= mix.survey_answered:
            return None
        self._pass(rng.uniform(60, 20 * HOUR_S))
        good = rng.random() < mix.csat_good
        csat = rng.choice((4, 5, 5)) if good else rng.choice((1, 2, 3))
        # Triangular around the wanted mean would miss it at the edges; a binomial on 1–7 does not.
        ces = 1 + sum(rng.random() < (mix.ces_mean - 1) / 6 for _ in range(6))
        promoters = min(1.0, max(0.0, (mix.nps / 100 + 0.72) / 2))
        draw = rng.random()
        nps = (
            rng.choice((9, 10))
            if draw < promoters
            else rng.choice((7, 8))
            if draw < promoters + 0.28
            else rng.randrange(0, 7)
        )
        comment = rng.choice(texts.COMMENT[self.who.language][good])
        for kind, score, scale in (("csat", csat, [1, 5]), ("ces", ces, [1, 7]), ("nps", nps, [0, 10])):
            extra = {"text": comment} if kind == "csat" and rng.random() < 0.4 else {}
            self._post(
                "survey", "survey.answered", channel=contact.channel, customer=customer, thread=thread,
                survey_id=survey, kind=kind, score=score, scale=scale, actor={"type": "customer"}, **extra,
            )  # fmt: skip
            self._pass(rng.uniform(3, 20))
        return csat

    # --- calls ---------------------------------------------------------------------------------------------------

    def _call(self, contact: Contact, link: dict[str, Any], serve: bool, sure: bool = False) -> bool:
        """Let the customer ring; return whether an agent answered. `sure`: we ring them, so nobody gives up."""
        rng, mix = self.rng, self.mix
        hidden = rng.random() < mix.anonymous_caller
        handle = {"kind": "phone", "value": "anonymous", "verified": False} if hidden else self.who.handle("phone")
        customer = {"handles": [handle]}
        thread = self._thread(contact, link)
        common: dict[str, Any] = {"channel": "phone", "customer": customer, "contact_id": contact.id}
        if thread:
            common["thread"] = thread
        menu: dict[str, Any] = {}
        if not sure and rng.random() < mix.ivr:
            menu = {"ivr_session": f"ivr-{contact.id}"}
            # A menu that satisfies is only ever the first thing somebody tries.
            contained = not serve and len(self.contacts) == 1 and rng.random() < mix.ivr_contained / 0.3
            self._post(
                "phone",
                "ivr.ended",
                **common,
                session_id=menu["ivr_session"],
                outcome="contained" if contained else "to_agent",
            )
            self._pass(rng.uniform(8, 40))
            if contained:
                return False
        self._post("phone", "call.queued", **common, queue=self.topic, **menu)
        contact.last_text = "call"
        waits, patient = self._wait(), self._patience()
        if not sure and (patient < waits or not serve):
            self._pass(patient)
            if rng.random() < mix.overflow:
                self._post("phone", "call.overflowed", **common, to_queue="overflow")
            else:
                self._post("phone", "call.abandoned", **common)
            return False
        self._pass(waits if not sure else rng.uniform(2, 12))
        self._new_agent("phone")
        contact.answered = True
        self._post("phone", "call.answered", **common, actor=self._actor())
        if rng.random() < mix.looked_up:
            self._look_up(contact, handle)
        self._views(contact)
        talk = min(1800.0, rng.lognormvariate(5.4, 0.5))
        hold = round(rng.uniform(10, 90), 1) if rng.random() < 0.35 else 0.0
        if hold:
            self._pass(talk / 2)
            self._post("phone", "call.held", **common, duration_s=hold)
        self._pass(talk / (2 if hold else 1) + hold)
        self._post("phone", "call.ended", **common, hold_s=hold, wrap_s=round(rng.uniform(10, 80)))
        self._operate("conversation.assigned", contact, to_agent=self._agent_id(), to_team=self.team)
        return True

    def _wait(self) -> float:
        if self.rng.random() < self.mix.answered_20s + 0.02:
            return self.rng.uniform(2, 20)
        return 20 + self.rng.expovariate(1 / 300)

    def _patience(self) -> float:
        """Draw how long a caller waits: two exponentials joined at 60 s, so that both known quantiles hold."""
        short, long = self.mix.patience_60s, self.mix.patience_600s
        draw = self.rng.random()
        if draw < short:
            return 5 + 55 * draw / max(short, 1e-9)
        # Between 60 and 600 s and beyond, hanging up is equally likely in each second.
        share = (draw - short) / max(long - short, 1e-9)
        return 60 + 540 * share

    # --- what is written -----------------------------------------------------------------------------------------

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

    def _bot(self, contact: Contact, alone: bool) -> bool:
        session = f"bot-{contact.id}"
        self._pass(self.rng.uniform(1, 4))
        self._post(
            "bot", "message.sent", channel="chat", contact_id=contact.id, message_id=f"bot-{self.prefix}-{self.serial}",
            actor={"type": "bot", "id": "assistant"},
            text=texts.one_of(self.rng, texts.BOT, self.who.language, self.order),
        )  # fmt: skip
        self._post(
            "bot",
            "bot.answered",
            channel="chat",
            contact_id=contact.id,
            session_id=session,
            confidence=round(self.rng.uniform(0.4, 0.99), 2),
            actor={"type": "bot", "id": "assistant"},
        )
        self._pass(self.rng.uniform(10, 60))
        if alone:
            bot = {"type": "bot", "id": "assistant"}
            self._operate("conversation.resolved", contact, actor=bot, reason="article helped")
            if self.rng.random() < self.mix.survey_asked:
                self._survey(contact)
        else:
            self._post(
                "bot",
                "bot.handed_over",
                channel="chat",
                contact_id=contact.id,
                session_id=session,
                actor={"type": "bot", "id": "assistant"},
            )
        return False

    # --- what agents do ------------------------------------------------------------------------------------------

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

    # --- links ---------------------------------------------------------------------------------------------------

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

    # --- small things --------------------------------------------------------------------------------------------

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


def _digits(run: str) -> int:
    """Return a number below a million for a run, for tickets, which are digits."""
    return int.from_bytes(blake2s(run.encode(), digest_size=4).digest(), "big") % 1_000_000


_THREAD_FIELDS = frozenset(
    {"ticket", "callback_id", "handoff_token", "continues", "in_reply_to", "references", "dm_thread"}
)
