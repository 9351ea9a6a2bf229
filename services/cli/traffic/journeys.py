"""One matter of one person, from the first look at the help pages to the survey: pure, and in order of time."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

from services.cli.traffic import texts
from services.cli.traffic.desk import Desk
from services.cli.traffic.events import Event
from services.cli.traffic.mix import Mix
from services.cli.traffic.pen import HOUR_S, Contact
from services.cli.traffic.people import Person


def matter(
    rng: Random, who: Person, number: int, start: float, mix: Mix, run: str, agents: int, new: Sequence[str]
) -> list[Event]:
    """Return the events of matter `number` of `who` from `start` on, in order of time.

    `new` are channels on which the person must be seen in this matter; `run` is a prefix that makes ids unique;
    `agents` is how many agents work there.
    """
    return _Journey(rng, who, number, start, mix, run, agents).tell(new)


class _Journey(Desk):
    """The story: which channels, who answers, where it goes on, how it ends."""

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
