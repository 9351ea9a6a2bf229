"""Effort of ours: handling time, occupancy, availability, what agents saw and what stood in their way."""

from __future__ import annotations

from collections.abc import Sequence

from services.metrics.buckets import Dims, Sink, without_agent
from services.metrics.entries import Entry, seconds
from services.metrics.facts import DAY, Conversation, corrected
from services.metrics.kpis.calls import handling
from services.metrics.kpis.definition import ALL, NO_AGENT, TEAM, TENANT, Definition, Entity, Shape
from shared.business import Rules

CONTEXT = frozenset({"profile", "orders", "history"})
HANDLING = frozenset({"interacting"})
IDLE = frozenset({"available", "on_queue"})
LONGEST_STATE = DAY
"""An agent's state that nothing renews or ends counts for a day at most: then they forgot to log out."""


def message_handling(c: Conversation, rules: Rules, sink: Sink) -> None:
    """Handling time of each message as it was sent, and of each contact at the conversation's last resolution."""
    last = next((e.resolved for e in reversed(c.episodes) if e.resolved is not None), None)
    for contact in c.contacts.values():
        for entry in contact.handles:
            dims = without_agent(c.at_entry(entry))
            sink.add("handle_minutes", entry.at, dims, 1, seconds(entry.data, "handle_s") or 0, (entry,))
        if contact.handles and last is not None and contact.first.order <= last.order:
            who = contact.handles[-1]
            dims = Dims(contact.channel, who.team, who.agent, c.segment, c.language)
            sink.time("aht", last.at, dims, contact.handle, (*contact.handles, last))


class Agent:
    """The entries about one agent that are no matter of a day, by time: joining and leaving."""

    __slots__ = ("entries", "id")

    def __init__(self, id: str, entries: Sequence[Entry]) -> None:
        self.id = id
        self.entries = corrected(entries)


class AgentDay:
    """A UTC day of an agent: the entries about them of this day (`own`) and of the days beside it, by time.

    Nothing of a day depends on more: a state counts for a day at most.
    """

    __slots__ = ("entries", "id", "start")

    def __init__(self, id: str, day: int, entries: Sequence[Entry]) -> None:
        self.id = id
        self.start = day * DAY
        near = [e for e in corrected(entries) if self.start - DAY <= e.at < self.start + 2 * DAY]
        self.entries = [e for e in near if e.type in ("agent.status", "agent.blocked")]

    def is_own(self, entry: Entry) -> bool:
        """Whether an entry is of this very day."""
        return self.start <= entry.at < self.start + DAY


def occupancy(day: AgentDay, rules: Rules, sink: Sink) -> None:
    """Levels: handling, on queue (handling or idle) and signed in, from each status to the next.

    A status that names no team is for the one that the agent's statuses named last, that day or the day before.
    """
    statuses = [e for e in day.entries if e.type == "agent.status"]
    team: str | None = None
    for index, entry in enumerate(statuses):
        state = entry.data.get("state")
        team = entry.team or team
        following = statuses[index + 1] if index + 1 < len(statuses) else None
        if following is not None and following.at > entry.at + LONGEST_STATE:
            following = None
        end = entry.at + LONGEST_STATE if following is None else following.at
        if not day.is_own(entry) or end <= entry.at or not isinstance(state, str) or state == "offline":
            continue
        dims = Dims(entry.channel, team, day.id, entry.segment, entry.language)
        levels = ["signed_in"]
        if state in HANDLING:
            levels.append("handling")
        if state in HANDLING or state in IDLE:
            levels.append("on_queue")
        for level in levels:
            _span(sink, level, entry.at, end, dims, (entry, following), open_end=following is None)


def _span(
    sink: Sink, series: str, start: int, end: int, dims: Dims, why: tuple[Entry | None, ...], open_end: bool
) -> None:
    sink.step(series, start, dims, 1, why)
    sink.step(series, end, dims, -1, why, due=open_end)


def headcount(agent: Agent, rules: Rules, sink: Sink) -> None:
    """Up where an agent joined, down where they left; leaving counts once a joining."""
    here = False
    team: str | None = None
    joined = Dims()
    for entry in agent.entries:
        team = entry.team or team
        dims = Dims(team=team)
        if entry.type == "agent.joined" and not here:
            here = True
            joined = dims
            sink.step("headcount", entry.at, dims, 1, (entry,))
        elif entry.type == "agent.left":
            sink.add("agent_turnover_ratio", entry.at, dims, 1, 1, (entry,))
            if here:
                here = False
                sink.step("headcount", entry.at, joined, -1, (entry,))


def agents_seen(day: AgentDay, rules: Rules, sink: Sink) -> None:
    """Agents at work and agents blocked by a system, as members."""
    for entry in day.entries:
        if day.is_own(entry):
            dims = Dims(segment=entry.segment)
            sink.add("agents_active", entry.at, dims, 1, 0, (entry,), member=day.id)
            if entry.type == "agent.blocked":
                sink.add("system_blocked_ratio", entry.at, dims, 1, 0, (entry,), member=day.id)


def availability(entry: Entry, rules: Rules, sink: Sink) -> None:
    """A channel's word that it is open or closed; how long that was is read off when asked."""
    if entry.type != "channel.availability":
        return
    channel, is_open = entry.channel, entry.data.get("open")
    if isinstance(channel, str) and isinstance(is_open, bool):
        dims = Dims(channel, entry.team, None, entry.segment, entry.language)
        member = f"{channel}\t{int(is_open)}"
        sink.add("channel_availability_ratio", entry.at, dims, 1, 0, (entry,), member=member)


def pickups(c: Conversation, rules: Rules, sink: Sink) -> None:
    """Each agent's first act in a conversation, and whether profile, orders and history were in front of them."""
    for agent, (entry, sections, views) in c.pickups.items():
        why = (entry, *views)
        sink.add("context_available_ratio", entry.at, c.at_entry(entry), 1, int(sections >= CONTEXT), why)
        sink.add("agents_active", entry.at, Dims(segment=c.segment), 1, 0, (entry,), member=agent)


def repeated_questions(c: Conversation, rules: Rules, sink: Sink) -> None:
    """Whether an episode asked for one thing twice."""
    for episode in c.episodes:
        if episode.resolved is not None:
            again = episode.repeated_field
            why = (*episode.fields.values(), again, episode.resolved)
            dims = c.resolution_dims(episode)
            sink.add("info_repeated_ratio", episode.resolved.at, dims, 1, int(again is not None), why)


def systems(c: Conversation, rules: Rules, sink: Sink) -> None:
    """Whether an episode took more than one system."""
    for episode in c.episodes:
        if episode.resolved is not None:
            many = len(episode.systems) >= 2
            why = (*episode.systems.values(), episode.resolved)
            sink.add("multi_system_ratio", episode.resolved.at, c.resolution_dims(episode), 1, int(many), why)


def standing_resolutions(c: Conversation, rules: Rules, sink: Sink) -> None:
    """The resolution that stands, once a conversation: what cost and agent-hours are divided by."""
    episode = c.standing()
    if episode is not None and episode.resolved is not None:
        sink.add("standing_resolutions", episode.resolved.at, c.resolution_dims(episode), 1, 1, (episode.resolved,))


DEFINITIONS = (
    Definition(
        "aht", "Handling time of a contact", "(talk + hold + wrap) / contacts; messages: handle_s", "s", "down",
        "ended or resolved", ALL, Shape.mean, ((Entity.call, handling), (Entity.conversation, message_handling)),
        histogram=True, benchmark="named without a figure", benchmark_source="2",
    ),
    Definition(
        "occupancy", "Share of the time on queue that agents handle contacts", "handling / (handling + idle on queue)",
        "1", "band", "interval", ALL, Shape.special, ((Entity.agent_day, occupancy),), reads=("handling", "on_queue"),
    ),
    Definition(
        "channel_availability_ratio", "Share of the promised time that a channel was open", "open time / promised time",
        "1", "up", "interval", NO_AGENT, Shape.special, ((Entity.entry, availability),),
        benchmark="24/7; close when busy", benchmark_source="0 1 4",
    ),
    Definition(
        "context_available_ratio", "Share of pick-ups with profile, orders and history shown",
        "pick-ups with profile + orders + history shown / pick-ups", "1", "up", "pick-up", ALL, Shape.ratio,
        ((Entity.conversation, pickups),), benchmark="72% expect it", benchmark_source="3",
    ),
    Definition(
        "info_repeated_ratio", "Share of episodes that asked for one thing twice",
        "episodes asking one field twice / episodes", "1", "down", "resolved", ALL, Shape.ratio,
        ((Entity.conversation, repeated_questions),), benchmark="27%", benchmark_source="3",
    ),
    Definition(
        "multi_system_ratio", "Share of episodes that took two systems or more",
        "episodes using ≥ 2 systems / episodes", "1", "down", "resolved", ALL, Shape.ratio,
        ((Entity.conversation, systems),), benchmark="80%", benchmark_source="0 1",
    ),
    Definition(
        "system_blocked_ratio", "Share of agents blocked by a system", "distinct agents blocked / agents", "1", "down",
        "window", TENANT, Shape.special, ((Entity.agent_day, agents_seen),), reads=("agents_active",), benchmark="42%",
        benchmark_source="0 1",
    ),
    Definition(
        "agent_turnover_ratio", "Agents who left, a year, of the mean head count",
        "left × 365 / days / mean head count", "1", "down", "left", TEAM, Shape.special,
        ((Entity.agent, headcount),), reads=("headcount",), benchmark="29% a year", benchmark_source="0 1",
    ),
    Definition(
        "agent_efficiency", "Resolutions an agent-hour", "resolutions / hours signed in", "n", "up", "resolved", ALL,
        Shape.special, ((Entity.conversation, standing_resolutions),), reads=("standing_resolutions", "signed_in"),
        ttl_s=7 * 86_400, benchmark="+300%", benchmark_source="2",
    ),
)  # fmt: skip
