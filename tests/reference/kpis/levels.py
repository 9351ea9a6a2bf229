"""Levels over time: agents at work, turnover, availability, growth."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from fractions import Fraction
from typing import Any

from tests.reference.kpis.history import DAY, Reference, at, seconds, windowed
from tests.reference.kpis.volume import all_contacts


def spans(r: Reference, states: set[str]) -> list[tuple[datetime, datetime]]:
    found = []
    agents = {e["agent_id"] for e in r.events if e["type"] == "agent.status"}
    for agent in agents:
        mine = [e for e in r.events if e["type"] == "agent.status" and e["agent_id"] == agent]
        for index, e in enumerate(mine):
            end = min(at(mine[index + 1]) if index + 1 < len(mine) else r.now, at(e) + DAY)
            if e["state"] in states:
                found.append((at(e), end))
    return found


def overlap(parts: Iterable[tuple[datetime, datetime]], start: datetime, end: datetime) -> Fraction:
    return sum((max(Fraction(0), seconds(min(b, end) - max(a, start))) for a, b in parts), Fraction(0))


@windowed("occupancy")
def _occupancy(r: Reference, start: datetime, end: datetime) -> tuple[Any, Any]:
    end = min(end, r.now)
    busy = overlap(spans(r, {"interacting"}), start, end)
    return busy, busy + overlap(spans(r, {"available", "on_queue"}), start, end)


@windowed("agent_efficiency")
def _efficiency(r: Reference, start: datetime, end: datetime) -> tuple[Any, Any]:
    signed_in = overlap(spans(r, {"interacting", "available", "on_queue", "busy"}), start, min(end, r.now))
    solved = [r.standing(name) for name in r.opened]
    return sum(e is not None and start <= at(e) < end for e in solved), signed_in / 3600


@windowed("agent_turnover_ratio")
def _turnover(r: Reference, start: datetime, end: datetime) -> tuple[Any, Any]:
    stop = max(start, min(end, r.now))
    heads, left = Fraction(0), 0
    for agent in {e["agent_id"] for e in r.events if e["type"] in ("agent.joined", "agent.left")}:
        since: datetime | None = None
        for e in r.events:
            if e.get("agent_id") != agent:
                continue
            if e["type"] == "agent.joined":
                since = since or at(e)
            elif e["type"] == "agent.left":
                left += start <= at(e) < end
                if since is not None:
                    heads += overlap([(since, at(e))], start, stop)
                since = None
        if since is not None:
            heads += overlap([(since, stop)], start, stop)
    span = seconds(stop - start)
    if not span:
        return 0, 0
    return Fraction(left * 365 * 86_400) / span, heads / span


@windowed("channel_availability_ratio")
def _availability(r: Reference, start: datetime, end: datetime) -> tuple[Any, Any]:
    stop, opened, promised = min(end, r.now), Fraction(0), Fraction(0)
    said = [e for e in r.events if e["type"] == "channel.availability"]
    for channel in {e["channel"] for e in said}:
        mine = [e for e in said if e["channel"] == channel]
        for index, e in enumerate(mine):
            until = at(mine[index + 1]) if index + 1 < len(mine) else stop
            spent = r.business(max(at(e), start), min(until, stop))
            promised += spent
            opened += spent if e["open"] else 0
    return opened, promised


@windowed("channel_growth_ratio")
def _growth(r: Reference, start: datetime, end: datetime) -> tuple[Any, Any]:
    def year_ago(when: datetime) -> datetime:
        local = when.astimezone(r.zone)
        return local.replace(year=local.year - 1).astimezone(UTC)

    starts = [at(c[0]) for c in all_contacts(r)]
    now = sum(start <= s < end for s in starts)
    last = sum(year_ago(start) <= s < year_ago(end) for s in starts)
    return now - last, last
