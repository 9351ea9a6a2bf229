"""What the company itself posts: who works when, which channels are open, what it cost."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime
from random import Random
from zoneinfo import ZoneInfo

from services.cli.traffic.events import SOURCES, Event
from services.cli.traffic.mix import Mix

ZONE = ZoneInfo("Europe/Amsterdam")
DAY_S = 86_400.0
TEAMS = ("chat", "mail", "voice", "social")


def rota(seed: int, agents: int, start: float, end: float, mix: Mix, run: str) -> Iterator[Event]:
    """Yield the agents' arrivals, shifts, blocked systems and departures within [start, end), in order of time."""
    rng, events = Random(f"rota/{seed}"), []
    for channel in ("chat", "email", "phone", "whatsapp", "messenger"):
        events.append(
            _event(run, f"open-{channel}", start, "planning", "channel.availability", channel=channel, open=True)
        )
    for number in range(1, agents + 1):
        events += _agent(rng, number, start, end, mix, run)
    events.sort(key=lambda event: (event.at, event.id))
    yield from events


def _agent(rng: Random, number: int, start: float, end: float, mix: Mix, run: str) -> Iterator[Event]:
    me = {"agent_id": f"agent-{number}", "team_id": TEAMS[(number - 1) % 4]}
    actor = {"type": "agent", "id": me["agent_id"], "team": me["team_id"]}
    yield _event(run, f"joined-{number}", start + number / 100, "planning", "agent.joined", **me)
    gone = end
    if rng.random() < mix.agent_turnover * (end - start) / (365 * DAY_S):
        gone = rng.uniform(start + 60, end)
        yield _event(run, f"left-{number}", gone, "planning", "agent.left", **me, reason="other work")
    if rng.random() < mix.blocked:
        at = rng.uniform(start + 60, end)
        if at < gone:
            yield _event(
                run, f"blocked-{number}", at, "helpdesk", "agent.blocked", **me, actor=actor, system="warehouse"
            )
    day = start - start % DAY_S
    while day < end:
        offset = (datetime.fromtimestamp(day, UTC).astimezone(ZONE).utcoffset() or ZONE.utcoffset(None)).total_seconds()  # type: ignore[union-attr]
        begin = day - offset + 9 * 3600 + rng.uniform(-900, 900)
        shift = ((0.0, "on_queue"), (10_800.0, "busy"), (12_600.0, "on_queue"), (28_800.0, "offline"))
        for place, (after, state) in enumerate(shift):
            if start <= begin + after < min(end, gone):
                identity = f"status-{number}-{int(day)}-{place}"
                yield _event(
                    run, identity, begin + after, "planning", "agent.status", **me, actor=actor, state=state, capacity=3
                )
        day += DAY_S


class Books:
    """Adds up the minutes of handling as events go by, and gives the cost of each hour that is over."""

    def __init__(self, mix: Mix, run: str) -> None:
        self.mix, self.run = mix, run
        self.hour: int | None = None
        self.spent: dict[str, float] = defaultdict(float)
        self.answered: dict[str, float] = {}

    def see(self, event: Event) -> Iterator[Event]:
        """Take one event in order of time; yield the cost events of hours that ended before it."""
        hour = int(event.at // 3600)
        if self.hour is not None and hour > self.hour:
            yield from self._close(self.hour)
        self.hour = hour
        data, kind = event.data, event.type
        if kind == "threadline.message.sent" and "handle_s" in data:
            self.spent[data["channel"]] += data["handle_s"]
        elif kind == "threadline.call.answered":
            self.answered[data["contact_id"]] = event.at
        elif kind == "threadline.call.ended":
            began = self.answered.pop(data["contact_id"], event.at)
            self.spent["phone"] += event.at - began + data["wrap_s"]

    def _close(self, hour: int) -> Iterator[Event]:
        begin, end = (datetime.fromtimestamp(at * 3600, UTC).strftime("%Y-%m-%dT%H:%M:%SZ") for at in (hour, hour + 1))
        for channel, seconds in sorted(self.spent.items()):
            cents = round(seconds / 60 * self.mix.cost_per_minute * 100)
            common = {"currency": "EUR", "period_start": begin, "period_end": end, "actor": {"type": "automated"}}
            yield _event(
                self.run,
                f"cost-{channel}-{hour}",
                (hour + 1) * 3600.0,
                "erp",
                "cost.recorded",
                amount_minor=cents,
                channel=channel,
                **common,
            )
        revenue = round(sum(self.spent.values()) / 60 * self.mix.cost_per_minute * 1400)
        if revenue:
            yield _event(
                self.run, f"revenue-{hour}", (hour + 1) * 3600.0, "erp", "revenue.recorded", amount_minor=revenue,
                currency="EUR", period_start=begin, period_end=end, period=begin[:10], actor={"type": "automated"},
            )  # fmt: skip
        self.spent.clear()


def _event(run: str, name: str, at: float, source: str, kind: str, /, **data: object) -> Event:
    return Event(round(at, 3), SOURCES[source], f"{run}-{name}", "threadline." + kind, dict(data))
