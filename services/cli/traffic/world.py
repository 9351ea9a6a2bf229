"""The whole traffic in order of time, and the deliveries by which it arrives."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from heapq import heappop, heappush
from random import Random

from services.cli.traffic import journeys
from services.cli.traffic.events import SOURCES, Event
from services.cli.traffic.mix import Mix
from services.cli.traffic.people import Person, person
from services.cli.traffic.staff import DAY_S, ZONE, Books, rota

APART_S = 74 * 3600.0
"""Least pause between two matters of one person: beyond 72 h nothing but a key ties the second to the first."""


@dataclass(frozen=True, slots=True)
class World:
    """What to make: `customers` people over [start, end) seconds since the epoch, the same for the same values."""

    seed: int
    customers: int
    start: float
    end: float
    mix: Mix = field(default_factory=Mix)
    agents: int = 24

    @property
    def run(self) -> str:
        """A prefix that tells the events of this world from those of every other."""
        return f"{self.seed}x{int(self.end):x}"


def history(world: World) -> Iterator[Event]:
    """Yield every event of `world` with start ≤ at < end, in order of time."""
    return _up_to(world.end, _with_costs(world, _merged(world)))


def _up_to(end: float, events: Iterator[Event]) -> Iterator[Event]:
    for event in events:
        if event.at < end:
            yield event


def _with_costs(world: World, events: Iterator[Event]) -> Iterator[Event]:
    books = Books(world.mix, world.run)
    for event in events:
        if event.at >= world.end:
            return
        yield from books.see(event)
        yield event


def _merged(world: World) -> Iterator[Event]:
    """Merge all matters and the rota; a matter is written only when its time has come."""
    waiting: list[tuple[float, int, int, _Turn | Event]] = []
    serial = 0
    for event in rota(world.seed, world.agents, world.start, world.end, world.mix, world.run):
        heappush(waiting, (event.at, 1, serial, event))
        serial += 1
    for number in range(world.customers):
        turn = _first_turn(world, number)
        heappush(waiting, (turn.at, 0, serial, turn))
        serial += 1
    while waiting:
        _, _, _, item = heappop(waiting)
        if isinstance(item, Event):
            yield item
            continue
        events, following = item.take(world)
        for event in events:
            heappush(waiting, (event.at, 1, serial, event))
            serial += 1
        if following is not None and following.at < world.end:
            heappush(waiting, (following.at, 0, serial, following))
            serial += 1


@dataclass(frozen=True, slots=True)
class _Turn:
    """The moment at which matter `number` of `who` begins."""

    at: float
    who: Person
    number: int
    left: int

    def take(self, world: World) -> tuple[list[Event], _Turn | None]:
        """Write the matter, and say when the next one of this person begins."""
        rng = Random(f"matter/{world.seed}/{self.who.number}/{self.number}")
        events = []
        if self.number == 0 and rng.random() < 0.3:
            events.append(_started(world, self.who, self.at))
        done, matters = _seen_before(self.who, self.number, self.left), self.left - self.number
        fresh = list(self.who.channels[done:])
        new = fresh[: -(-len(fresh) // max(1, matters))] if fresh else []
        events += journeys.matter(
            rng, self.who, self.number, self.at + 60, world.mix, world.run, world.agents, new
        )  # fmt: skip
        if self.number + 1 >= self.left:
            return events, None
        last = events[-1].at if events else self.at
        earliest, channel = last + APART_S, self.who.channels[(self.number + 1) % len(self.who.channels)]
        at = _moment(rng, world, channel, earliest, earliest + DAY_S)
        return events, _Turn(at, self.who, self.number + 1, self.left)


def _seen_before(who: Person, number: int, matters: int) -> int:
    done = 0
    for earlier in range(number):
        rest = len(who.channels) - done
        done += -(-rest // max(1, matters - earlier)) if rest else 0
    return done


def _first_turn(world: World, number: int) -> _Turn:
    who, rng = person(world.seed, number, world.mix), Random(f"turn/{world.seed}/{number}")
    span = world.end - world.start
    at = _moment(rng, world, who.channels[0], world.start, world.start + span * 0.3 if span > 6 * DAY_S else world.end)
    # Who uses many channels mostly does so over several matters, where the span has room for them.
    room = int((world.end - at) // (4.5 * DAY_S))
    wanted = max(len(who.channels), 1 + rng.choices((0, 1, 2), (0.45, 0.35, 0.2))[0])
    return _Turn(at, who, 0, 1 + max(0, min(room, wanted - 1)))


def _moment(rng: Random, world: World, channel: str, start: float, end: float) -> float:
    """Draw a moment in [start, end) by the hours of `channel`."""
    for _ in range(200):
        at = rng.uniform(start, end)
        local = datetime.fromtimestamp(at, UTC).astimezone(ZONE)
        if rng.random() < _busy(local.hour + local.minute / 60, channel, world.mix):
            return at
    return rng.uniform(start, end)


def _busy(hour: float, channel: str, mix: Mix) -> float:
    """Return the traffic of `channel` at `hour` relative to its peak."""
    peak = mix.peak_phone_h if channel == "phone" else mix.peak_chat_h
    width = 2.6 if channel == "phone" else 3.4
    away = abs((hour - peak + 12) % 24 - 12)
    bell: float = 2.718281828 ** -((away / width) ** 2 / 2)
    return max(mix.night, bell)


def _started(world: World, who: Person, at: float) -> Event:
    data = {"customer": {"handles": [who.account()], "name": who.name}, "segment": who.segment}
    return Event(
        round(at, 3),
        SOURCES["crm"],
        f"{world.run}-{who.number}-started",
        "threadline.customer.started",
        data,
        who.number,
    )


class Going:
    """Traffic that goes on from now: matters of new people begin when asked for, and run in real time."""

    def __init__(self, world: World, people: int | None = None) -> None:
        """`world.end` is now; people are numbered from `world.customers` on, at most `people` of them."""
        self.world, self.next = world, world.customers
        self.last = None if people is None else world.customers + people
        self.books = Books(world.mix, world.run)
        self.waiting: list[tuple[float, int, Event]] = []
        self.serial = 0

    def adopt(self, events: Iterator[Event]) -> None:
        """Take over events that are still to come (matters begun before)."""
        for event in events:
            self._push(event)

    def begin(self, now: float) -> bool:
        """Let a new person come up with a matter now; False when nobody is left."""
        if self.last is not None and self.next >= self.last:
            return False
        who = person(self.world.seed, self.next, self.world.mix)
        self.next += 1
        rng = Random(f"matter/{self.world.seed}/{who.number}/0")
        for event in journeys.matter(rng, who, 0, now, self.world.mix, self.world.run, self.world.agents, who.channels):
            self._push(event)
        return True

    def due(self, now: float) -> Event | None:
        """Return the next event that is due, or None."""
        if not self.waiting or self.waiting[0][0] > now:
            return None
        event = heappop(self.waiting)[2]
        for cost in self.books.see(event):
            self._push(cost)
        return event

    def _push(self, event: Event) -> None:
        self.serial += 1
        heappush(self.waiting, (event.at, self.serial, event))


class Courier:
    """Decides when each event is delivered: mostly at once, some late, some twice. Seeded."""

    def __init__(self, seed: int, mix: Mix) -> None:
        self.rng, self.mix = Random(f"courier/{seed}"), mix
        self.waiting: list[tuple[float, int, Event]] = []
        self.serial = 0

    def take(self, event: Event) -> None:
        """Take an event for delivery."""
        late = self.rng.lognormvariate(7, 1.2) if self.rng.random() < self.mix.late else self.rng.uniform(0.01, 0.4)
        self._push(event.at + late, event)
        if self.rng.random() < self.mix.duplicates:
            self._push(event.at + late + self.rng.uniform(0.5, 7200), event)

    def arrived(self, now: float) -> Iterator[Event]:
        """Yield what is delivered by `now`, in order of arrival."""
        while self.waiting and self.waiting[0][0] <= now:
            yield heappop(self.waiting)[2]

    def _push(self, at: float, event: Event) -> None:
        self.serial += 1
        heappush(self.waiting, (at, self.serial, event))


def deliveries(world: World) -> Iterator[Event]:
    """Yield the events of `world` as they arrive: duplicates included, late ones late."""
    courier = Courier(world.seed, world.mix)
    for event in history(world):
        courier.take(event)
        yield from courier.arrived(event.at)
    yield from courier.arrived(float("inf"))


def cloudevent(event: Event) -> dict[str, object]:
    """Return `event` as a structured CloudEvent."""
    at = datetime.fromtimestamp(event.at, UTC)
    return {
        "specversion": "1.0",
        "id": event.id,
        "source": event.source,
        "type": event.type,
        "time": at.strftime("%Y-%m-%dT%H:%M:%S.") + f"{at.microsecond // 1000:03d}Z",
        "datacontenttype": "application/json",
        "data": event.data,
    }
