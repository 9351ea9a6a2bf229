"""From entries to contributions, entity by entity: pure, the same for the stream, the recount and the receipts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from services.metrics.analysis import analyse
from services.metrics.buckets import Contributions, Sink
from services.metrics.customer import RELEVANT, Customer
from services.metrics.entries import UNKNOWN, Entry, name
from services.metrics.facts import DAY, Conversation
from services.metrics.kpis import FUNCTIONS
from services.metrics.kpis.calls import Call, is_hold
from services.metrics.kpis.definition import Entity
from services.metrics.kpis.handling import Agent, AgentDay
from services.metrics.kpis.money import Money
from services.metrics.kpis.surveys import Survey
from shared.business import Rules


class Ref(NamedTuple):
    """Names an entity of one tenant."""

    kind: str
    key: str


CONVERSATION, CALL, SURVEY = Entity.conversation.value, Entity.call.value, Entity.survey.value
CUSTOMER, AGENT, MONEY, ENTRY = Entity.customer.value, Entity.agent.value, Entity.money.value, Entity.entry.value

_BY_ENTRY = frozenset({"remedy.chosen", "channel.availability"})
_MESSAGES = frozenset({"message.received", "message.sent"})
AGENT_DAY = Entity.agent_day.value
_AGENTS = frozenset({"agent.joined", "agent.left"})
_AGENTS_DAYS = frozenset({"agent.status", "agent.blocked"})


def group_of(entry: Entry) -> Ref | None:
    """Return the call, survey, agent or amount that `entry` is part of."""
    if entry.part is UNKNOWN:
        entry.part = _group_of(entry)
    found: Ref | None = entry.part
    return found


def _group_of(entry: Entry) -> Ref | None:
    kind = entry.type
    if kind.startswith(("call.", "callback.")) or is_hold(entry):
        return Ref(CALL, entry.contact) if entry.contact else None
    if kind.startswith("survey."):
        return Ref(SURVEY, name(entry.data.get("survey_id")) or entry.id)
    if kind in _AGENTS or kind in _AGENTS_DAYS:
        if not entry.agent:
            return None
        # What corrects another entry may be of another day: it is looked at with every day of the agent.
        whole = kind in _AGENTS or "corrects_event_id" in entry.data
        return Ref(AGENT, entry.agent) if whole else agent_day(entry.agent, entry.at // DAY)
    if kind in ("cost.recorded", "revenue.recorded"):
        return Ref(MONEY, name(entry.data.get("corrects_event_id")) or name(entry.event_id) or entry.id)
    return None


def agent_day(agent: str, day: int) -> Ref:
    """Name a day of an agent."""
    return Ref(AGENT_DAY, f"{agent}\t{day}")


def agent_and_day(ref: Ref) -> tuple[str, int]:
    """Return whose day it is, and which: days since 1970 UTC."""
    agent, _, day = ref.key.rpartition("\t")
    return agent, int(day)


def parts_for(ref: Ref) -> tuple[Ref, ...]:
    """Return the parts whose entries this one is evaluated from: itself, of an agent's day also those beside it."""
    if ref.kind != AGENT_DAY:
        return (ref,)
    agent, day = agent_and_day(ref)
    return (*(agent_day(agent, near) for near in (day - 1, day, day + 1)), Ref(AGENT, agent))


def parts_from(entry: Entry) -> tuple[Ref, ...]:
    """Return what is evaluated from this entry, of calls, surveys, agents, their days and amounts."""
    part = group_of(entry)
    if part is None:
        return ()
    if entry.type not in _AGENTS_DAYS:
        return (part,)
    assert entry.agent is not None
    day = entry.at // DAY
    days = tuple(agent_day(entry.agent, near) for near in (day - 1, day, day + 1))
    return days if part.kind == AGENT_DAY else (part, *days)


def corrects_a_day(entry: Entry) -> bool:
    """Whether an entry may take another one out of some day of its agent."""
    return "corrects_event_id" in entry.data and entry.type in _AGENTS | _AGENTS_DAYS


def counts_alone(entry: Entry) -> bool:
    """Whether `entry` counts by itself, outside of any conversation."""
    return entry.type in _BY_ENTRY or (entry.conversation is None and entry.type in _MESSAGES)


def concerns_customer(entry: Entry) -> bool:
    """Whether an entry outside of a conversation matters to its customer's KPIs."""
    return entry.type in RELEVANT and not (entry.type in _MESSAGES and entry.automatic)


def evaluate(kind: str, facts: Any, rules: Rules, evidence: bool = False) -> Sink:
    """Return the contributions of one entity from its facts."""
    sink = Sink(evidence)
    for function in FUNCTIONS[Entity(kind)]:
        function(facts, rules, sink)
    return sink


GROUPS: dict[str, Callable[[str, list[Entry]], Any]] = {CALL: Call, AGENT: Agent, MONEY: Money}
"""Kinds of entities that are made of their own entries only."""


class Timeline(NamedTuple):
    """Everything of one tenant in its newest version: what a recount starts from."""

    entries: Iterable[Entry]
    customers: Mapping[str, str]
    """leaf → customer"""
    canonical: Mapping[str, str]
    """conversation → canonical conversation, where it is another"""


def recount(timeline: Timeline, rules: Rules) -> dict[Ref, Contributions]:
    """Return the contributions of every entity, computed from scratch and without any state of the stream."""
    conversations: dict[str, list[Entry]] = {}
    groups: dict[Ref, list[Entry]] = {}
    strays: dict[str, list[Entry]] = {}
    alone: list[Entry] = []
    for entry in timeline.entries:
        group = group_of(entry)
        if group is not None:
            groups.setdefault(group, []).append(entry)
        if counts_alone(entry):
            alone.append(entry)
        if entry.conversation is not None:
            key = timeline.canonical.get(entry.conversation, entry.conversation)
            conversations.setdefault(key, []).append(entry)
        elif entry.leaf is not None and concerns_customer(entry):
            strays.setdefault(timeline.customers.get(entry.leaf, entry.leaf), []).append(entry)
    facts: dict[str, Conversation] = {}
    owned: dict[str, list[Conversation]] = {}
    for key, entries in conversations.items():
        conversation = analyse(key, entries)
        if conversation is None:
            for entry in entries:
                if entry.leaf is not None and concerns_customer(entry):
                    strays.setdefault(timeline.customers.get(entry.leaf, entry.leaf), []).append(entry)
            continue
        facts[key] = conversation
        if conversation.owner is not None:
            owner = timeline.customers.get(conversation.owner, conversation.owner)
            owned.setdefault(owner, []).append(conversation)
    found = {Ref(CONVERSATION, key): evaluate(CONVERSATION, c, rules).cells for key, c in facts.items()}
    refs = {ref for entries in groups.values() for entry in entries for ref in parts_from(entry)}
    for ref in refs:
        entries = [entry for part in parts_for(ref) for entry in groups.get(part, ())]
        made = group_facts(ref, entries, facts, timeline.canonical)
        if made is not None:
            found[ref] = evaluate(ref.kind, made, rules).cells
    for customer in owned.keys() | strays.keys():
        made = Customer(customer, owned.get(customer, ()), strays.get(customer, ()))
        found[Ref(CUSTOMER, customer)] = evaluate(CUSTOMER, made, rules).cells
    for entry in alone:
        found[Ref(ENTRY, entry.id)] = evaluate(ENTRY, entry, rules).cells
    return {ref: cells for ref, cells in found.items() if any(cell != (0, 0) for cell in cells.values())}


def group_facts(
    ref: Ref, entries: list[Entry], facts: Mapping[str, Conversation | None], canonical: Mapping[str, str]
) -> Any:
    """Return the facts of a call, survey, agent, agent's day or amount; None where the group is not evaluated."""
    if ref.kind == SURVEY:
        about: dict[str, Conversation] = {}
        for entry in entries:
            if entry.conversation is not None:
                c = facts.get(canonical.get(entry.conversation, entry.conversation))
                if c is not None:
                    about[entry.conversation] = c
        return Survey(ref.key, entries, about)
    if ref.kind == AGENT_DAY:
        return AgentDay(*agent_and_day(ref), entries)
    make = GROUPS.get(ref.kind)
    return make(ref.key, entries) if make is not None else None
