"""Random histories of a small company over a week with a DST change: what people do, and what gets corrected."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any

from shared.events import TimelineRecord, rfc3339
from tests.kpi_timeline import ZONE, entry_body, uid

FIRST = date(2026, 3, 26)
DAYS = 8  # Thursday to Thursday; on Sunday the 29th the clocks go forward
CHANNELS = ("chat", "email", "whatsapp", "x")
AGENTS = {"g1": "blue", "g2": "blue", "g3": "red"}
TOPICS = ("delivery", "invoice", None)
FIELDS = ("order number", "address", "e-mail")


@dataclass
class History:
    """Events, who owns each leaf in the end, which conversations are one, and all records that lead there."""

    events: list[dict[str, Any]] = field(default_factory=list)
    owner: dict[str, str] = field(default_factory=dict)
    canonical: dict[str, str] = field(default_factory=dict)
    records: list[TimelineRecord] = field(default_factory=list)
    now: datetime = datetime(2026, 4, 20, tzinfo=UTC)


class Maker:
    """Makes one history from one seed."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.history = History()
        self.number = 0
        self.start = datetime.combine(FIRST, datetime.min.time(), ZONE).astimezone(UTC)
        self.length_s = (DAYS - 1) * 86_400

    def when(self, after: datetime | None = None, spread_s: float | None = None) -> datetime:
        rng = self.rng
        if after is None:
            return self.start + timedelta(seconds=rng.randrange(self.length_s))
        passed = rng.choice((1, 3, 30, 600, 4000, 30_000, 90_000)) if spread_s is None else spread_s
        found = after + timedelta(seconds=rng.randint(0, round(passed)), milliseconds=rng.choice((0, 0, 250)))
        return min(found, self.start + timedelta(seconds=self.length_s + 40_000))

    def add(self, type: str, at: datetime, **fields: Any) -> dict[str, Any]:
        self.number += 1
        event = {
            "event_id": f"e{self.number:04}",
            "type": type,
            "source": self.rng.choice(("a", "b")),
            "occurred_at": rfc3339(at),
            "recorded_at": rfc3339(at),
            **{name: value for name, value in fields.items() if value is not None},
        }
        self.history.events.append(event)
        return event

    def make(self) -> History:
        rng = self.rng
        leaves = [f"l{n}" for n in range(rng.randint(2, 5))]
        for n in range(rng.randint(2, 9)):
            self.conversation(f"k{n}", rng.choice(leaves), leaves)
        for leaf in leaves:
            self.alone(leaf)
        self.company()
        self.pointers(leaves)
        self.versions()
        last = max(datetime.fromisoformat(e["occurred_at"]) for e in self.history.events)
        self.history.now = last + timedelta(hours=rng.choice((0, 3, 30, 400)))
        return self.history

    # What happens

    def conversation(self, name: str, leaf: str, leaves: list[str]) -> None:
        rng, at = self.rng, self.when()
        base = {
            "conversation_id": name, "customer_id": leaf, "topic": rng.choice(TOPICS),
            "segment": rng.choice((None, "gold")), "language": rng.choice((None, "nl")),
        }  # fmt: skip
        if rng.random() < 0.2:
            base["fcr_eligible"] = False
        if rng.random() < 0.3:
            self.add("conversation.opened", at, channel=rng.choice(CHANNELS), **base)
        contact = self.contact(name)
        survey = f"s-{name}"
        simple = rng.random() < 0.4
        steps = ["in", "out", "resolve"] if simple else [rng.choice(STEPS) for _ in range(rng.randint(0, 14))]
        for step, kind in enumerate(steps):
            at = self.when(at)
            if not simple and rng.random() < 0.15:
                contact = self.contact(name, step + 1)
            who = {**base, "customer_id": rng.choice(leaves) if rng.random() < 0.1 else leaf}
            self.step(kind, at, contact, who, survey)

    def contact(self, name: str, number: int = 0) -> dict[str, str]:
        channel = self.rng.choice(CHANNELS)
        return {"contact_id": f"{name}-{channel}-{number}", "channel": channel}

    def step(self, step: str, at: datetime, contact: dict[str, str], base: dict[str, Any], survey: str) -> None:
        rng, agent = self.rng, self.rng.choice(list(AGENTS))
        acting = {"agent_id": agent, "team_id": AGENTS[agent]}
        if step == "in":
            mood = rng.choice((None, None, "praise", "complaint"))
            device = rng.choice((None, "mobile", "desktop"))
            self.add("message.received", at, actor=rng.choice((None, "customer")), sentiment=mood, device=device,
                     **contact, **base)  # fmt: skip
        elif step == "out":
            known = {"suggestion_id": f"x{rng.randrange(4)}"} if rng.random() < 0.4 else {}
            handle = {"handle_s": rng.randrange(600)} if rng.random() < 0.8 else {}
            self.add("message.sent", at, actor="human", **acting, **known, **handle, **contact, **base)
        elif step == "automatic":
            self.add(rng.choice(("message.received", "message.sent")), at, actor="auto", **contact, **base)
        elif step == "bot message":
            self.add("message.sent", at, actor="bot", **contact, **base)
        elif step == "bot":
            kind = rng.choice(("bot.answered", "bot.answered", "bot.handed_over"))
            session = f"b-{base['conversation_id']}-{rng.randrange(2)}"
            self.add(kind, at, session_id=session, channel=contact["channel"], **base)
        elif step == "call":
            self.call(at, f"p-{self.number}", base)
        elif step == "resolve":
            self.add("conversation.resolved", at, **(acting if rng.random() < 0.7 else {}), actor="human", **base)
        elif step == "reopen":
            self.add("conversation.reopened", at, actor="customer", **base)
        elif step == "pending":
            self.add("conversation.pending", at, waiting_on=rng.choice(("customer", "us", "supplier")), **base)
        elif step == "transfer":
            self.add("conversation.transferred", at, reason="skill", **base)
        elif step == "escalate":
            to = rng.choice((*CHANNELS, "phone"))
            self.add("conversation.escalated", at, from_contact=contact["contact_id"], to_channel=to, **base)
        elif step == "acknowledge":
            self.add("acknowledgement.sent", at, actor="auto", **contact, **base)
        elif step == "ask":
            self.add("info.requested", at, field=rng.choice(FIELDS), **base)
        elif step == "view":
            sections = rng.sample(("profile", "orders", "history", "notes"), rng.randint(0, 4))
            self.add("agent.context_viewed", at, sections=sections, system=rng.choice(("crm", "erp", None)), **acting,
                     actor="human", **base)  # fmt: skip
        elif step == "suggest":
            self.add("suggestion.accepted", at, suggestion_id=f"x{rng.randrange(4)}", **base)
        elif step == "survey":
            kinds = rng.sample(("csat", "ces", "nps"), rng.randint(1, 3))
            self.add("survey.sent", at, actor="auto", survey_id=survey, kinds=kinds, **base)
            for _ in range(rng.randint(0, 3)):
                self.answer(self.when(at), survey, base if rng.random() < 0.5 else {"customer_id": base["customer_id"]})

    def answer(self, at: datetime, survey: str, base: dict[str, Any]) -> None:
        kind = self.rng.choice(("csat", "ces", "nps"))
        low, high = {"csat": (1, 5), "ces": (1, 7), "nps": (0, 10)}[kind]
        score = self.rng.randint(low, high)
        self.add("survey.answered", at, survey_id=survey, kind=kind, score=score, scale=[low, high], **base)

    def call(self, at: datetime, contact: str, base: dict[str, Any]) -> None:
        rng, agent = self.rng, self.rng.choice(list(AGENTS))
        base = {**base, "contact_id": contact, "channel": "phone"}
        acting = {"agent_id": agent, "team_id": AGENTS[agent]}
        if rng.random() < 0.95:
            self.add("call.queued", at, **base)
        if rng.random() < 0.15:
            self.add("callback.requested", self.when(at, 100), **base)
        fate = rng.choice(("answered", "answered", "abandoned", "overflowed", "both", "nothing"))
        if fate in ("answered", "both"):
            answered = self.when(at, rng.choice((10, 40, 900)))
            self.add("call.answered", answered, **acting, **base)
            for _ in range(rng.randint(0, 2)):
                self.add("call.held", answered, duration_s=rng.randrange(60), **base)
            if rng.random() < 0.9:
                told = {"hold_s": rng.randrange(90)} if rng.random() < 0.5 else {}
                wrap = {"wrap_s": rng.randrange(90)} if rng.random() < 0.7 else {}
                self.add("call.ended", self.when(answered, 900), **told, **wrap, **base)
        if fate in ("abandoned", "both"):
            self.add("call.abandoned", self.when(at, rng.choice((8, 300, 1500))), **base)
        if fate == "overflowed":
            self.add("call.overflowed", self.when(at, 100), **base)

    def alone(self, leaf: str) -> None:
        """What a customer does outside of conversations."""
        rng, base = self.rng, {"customer_id": leaf}
        if rng.random() < 0.5:
            self.add("customer.started", self.start - timedelta(days=rng.randint(1, 40)), **base)
        for n in range(rng.randint(0, 4)):
            at = self.when()
            kind = rng.choice(("call", "view", "view", "ivr", "revenue", "start", "churn", "remedy", "bot"))
            if kind == "call":
                self.call(at, f"q-{leaf}-{n}", {k: v for k, v in base.items() if k != "topic"})
                for event in self.history.events[-8:]:  # such a call is never answered: it would open a conversation
                    if event.get("contact_id") == f"q-{leaf}-{n}" and event["type"] == "call.answered":
                        event["type"] = "call.overflowed"
            elif kind == "view":
                session = f"v-{leaf}-{rng.randrange(3)}"
                types = ("selfservice.viewed", "selfservice.deflected")
                device = rng.choice((None, "mobile"))
                self.add(rng.choice(types), at, session_id=session, channel="portal", device=device, **base)
            elif kind == "ivr":
                outcome = rng.choice(("contained", "to_agent", "hung_up"))
                self.add("ivr.ended", at, session_id=f"i-{leaf}-{n}", outcome=outcome, channel="phone", **base)
            elif kind == "revenue":
                amount, exposure = rng.randrange(1, 99_999), rng.random() < 0.5
                self.add("revenue.recorded", at, amount_minor=amount, currency="EUR", exposure=exposure, **base)
            elif kind == "start":
                self.add("customer.started", at, **base)
            elif kind == "churn":
                self.add("customer.churned", at, **base)
            elif kind == "remedy":
                self.add("remedy.chosen", at, kind=rng.choice(("replacement", "refund")), **base)
            else:
                self.add("bot.answered", at, session_id=f"c-{leaf}-{n}", channel="chat", **base)

    def company(self) -> None:
        """Costs, agents and channels."""
        rng = self.rng
        for day in range(DAYS):
            if rng.random() < 0.6:
                start = datetime.combine(FIRST + timedelta(days=day), datetime.min.time(), ZONE)
                end = datetime.combine(FIRST + timedelta(days=day + 1), datetime.min.time(), ZONE)
                period = {"period_start": rfc3339(start), "period_end": rfc3339(end), "currency": "EUR"}
                posted = self.add("cost.recorded", self.when(), amount_minor=rng.randrange(9999), **period)
                if rng.random() < 0.3:
                    restated = self.when()
                    again = {"amount_minor": rng.randrange(9999), "corrects_event_id": posted["event_id"], **period}
                    self.add("cost.recorded", restated, **again)
        for agent, team in AGENTS.items():
            who = {"agent_id": agent, "team_id": team}
            for _ in range(rng.randint(0, 8)):
                state = rng.choice(("available", "on_queue", "interacting", "busy", "offline"))
                self.add("agent.status", self.when(), state=state, **who)
            for _ in range(rng.randint(0, 3)):
                self.add(rng.choice(("agent.joined", "agent.joined", "agent.left")), self.when(), **who)
            if rng.random() < 0.5:
                self.add("agent.blocked", self.when(), system="crm", **who)
        for channel in CHANNELS[:2]:
            for _ in range(rng.randint(0, 3)):
                self.add("channel.availability", self.when(), channel=channel, open=rng.random() < 0.6)

    # What becomes of it

    def pointers(self, leaves: list[str]) -> None:
        """Who is one customer in the end, over some merges and splits; which conversations are one."""
        rng, history = self.rng, self.history
        for version in range(1, rng.randint(2, 4)):
            for leaf in leaves:
                owner = rng.choice(leaves) if rng.random() < 0.4 else leaf
                history.owner[leaf] = f"C-{owner}"
                body = {"customer_id": uid(f"customer C-{owner}"), "kind": "crm", "value": leaf}
                history.records.append(TimelineRecord("t1", "leaf", uid(f"leaf {leaf}"), version, body))
        names = sorted({e["conversation_id"] for e in history.events if e.get("conversation_id")})
        for name in names:
            if rng.random() < 0.2:
                into = rng.choice(names)
                if into == name or into in history.canonical or name in history.canonical.values():
                    continue
                for version, target in enumerate((into, name, into)):
                    body = {"canonical_id": uid(f"conversation {target}"), "follow_up_of": None}
                    record = TimelineRecord("t1", "conversation", uid(f"conversation {name}"), version + 1, body)
                    history.records.append(record)
                history.canonical[name] = into

    def versions(self) -> None:
        """The records of all events: some had other versions before, some are gone, some come twice."""
        rng, history = self.rng, self.history
        kept = []
        for event in history.events:
            body, fate = entry_body(event), rng.random()
            if fate < 0.08:  # said something else before
                old = dict(event)
                old["occurred_at"] = rfc3339(self.when())
                if old.get("agent_id"):
                    old["agent_id"], old["team_id"] = "g3", "red"
                if old.get("conversation_id") and rng.random() < 0.5:
                    old["conversation_id"] = "k0"
                history.records.append(TimelineRecord("t1", "entry", body["id"], 1, entry_body(old)))
            if fate > 0.97:  # erased
                history.records.append(TimelineRecord("t1", "entry", body["id"], 1, body))
                history.records.append(TimelineRecord("t1", "entry", body["id"], 3, {}, deleted=True))
                continue
            kept.append(event)
            history.records.append(TimelineRecord("t1", "entry", body["id"], 2, body))
        history.events = kept
        history.records += rng.choices(history.records, k=10)
        rng.shuffle(history.records)


STEPS = (
    "in", "in", "in", "in", "out", "out", "out", "automatic", "bot message", "bot", "call", "resolve", "resolve",
    "reopen", "pending", "transfer", "escalate", "acknowledge", "ask", "ask", "view", "suggest", "survey",
)  # fmt: skip


def a_history(seed: int) -> History:
    """Return the history of a seed."""
    return Maker(seed).make()
