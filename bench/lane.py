"""How long a large decision holds up the other messages of its tenant: within the stream, and on the lane.

Two customers with 60,000 entries each in 110 days, 150 of them in sessions of their own (545 a day, so that the open
window holds much), are merged by an agent's word; and a message comes late into a matter of 10,000 entries that was
never resolved. Meanwhile one message after the other comes for other people of that tenant, each in a transaction of
its own, as the consumer does it. The base is the same event decided within the stream, as it was before there was a
lane. The lane is the service's own, in the same process, as in `threadline up`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta

import asyncpg

from bench import ground, persons
from bench.report import Row, quantile, show
from services.conversation import tables
from services.conversation.batch import Limits, Outcome
from services.conversation.lane import Lane
from services.conversation.update import put_events
from shared.database.engine import transaction
from shared.entry_ids import entry_secret
from shared.events import InboundEvent
from shared.service import Platform
from shared.settings import Settings

ENTRIES = 60_000
DAYS = 110
SESSIONS = 150
LONG = 10_000
OTHERS = 50
PAUSE_S = 0.02
QUIET_S = 5.0
DEFAULTS = Settings(_env_file=None)
LIMITS = Limits(DEFAULTS.lane_leaves, DEFAULTS.lane_entries)


class Quiet:
    """Hears what the lane did, and tells nobody."""

    def count(self, outcome: Outcome) -> None:
        """Hear what was decided."""

    def show_aside(self, events: int, oldest_s: float) -> None:
        """Hear what is set aside."""


async def measure(entries: int = ENTRIES, long: int = LONG) -> Sequence[Row]:
    """Tell the lives, then decide large events within the stream and on the lane."""
    async with ground.platform() as platform:
        pool, secret = platform.pool, entry_secret(platform.secret_key)
        persons.SECRET = secret
        for name in ("one", "other", "third"):
            await persons.live(pool, name, entries, SESSIONS, DAYS)
        for name in ("dm", "dm2"):
            await _thread(pool, name, long)
        await pool.execute("VACUUM (ANALYZE)", timeout=600)
        beside = _Beside(platform)
        quiet, _ = await beside.take("quiet", lambda: asyncio.sleep(QUIET_S))
        rows = [Row("message of the tenant, nothing else, p99", 1e3 * quantile(quiet, 0.99), "ms")]
        merges = [_merge("one", "other"), _merge("one", "third")]
        late = [_late(name) for name in ("dm", "dm2")]
        for what, (in_stream, on_lane) in (("merge of two with 150 sessions", merges), ("late message", late)):
            held, took = await beside.take(f"s-{what}", lambda event=in_stream: beside.in_stream(event))
            free, lane_took = await beside.take(f"l-{what}", lambda event=on_lane: beside.on_lane(event))
            rows += [
                Row(f"{what}: slowest message", 1e3 * max(free), "ms", "within the stream", 1e3 * max(held)),
                Row("  their median", 1e3 * quantile(free, 0.5), "ms", "within the stream", 1e3 * quantile(held, 0.5)),
                Row("  until it is visible", 1e3 * lane_took, "ms", "within the stream", 1e3 * took),
            ]
        return rows


class _Beside:
    def __init__(self, platform: Platform) -> None:
        self._platform, self._pool = platform, platform.pool
        self._numbers = iter(range(10**9))

    async def take(self, name: str, work: Callable[[], Awaitable[object]]) -> tuple[list[float], float]:
        """Put messages while `work` goes on: how long each took, and how long the work took, in seconds."""
        began = time.perf_counter()
        working = asyncio.ensure_future(work())
        took: list[float] = []
        while not working.done():
            number = next(self._numbers)
            at = persons.END + timedelta(days=1, seconds=number)
            handles = {"handles": [{"kind": "email", "value": f"p{number % OTHERS}@mail.example"}]}
            data = {"channel": "sms", "customer": handles, "text": "x"}
            start = time.perf_counter()
            await self._put(persons.event(f"{name}{number}", "message.received", at, data), LIMITS)
            took.append(time.perf_counter() - start)
            await asyncio.sleep(PAUSE_S)
        await working
        return took, time.perf_counter() - began

    async def in_stream(self, event: InboundEvent) -> None:
        assert (await self._put(event, None)).new == 1

    async def on_lane(self, event: InboundEvent) -> None:
        assert len((await self._put(event, LIMITS)).aside) == 1
        await Lane(self._platform, Quiet()).drain()
        assert not await tables.aside.tenants(self._pool)

    async def _put(self, event: InboundEvent, limits: Limits | None) -> Outcome:
        async with transaction(self._pool) as connection:
            return await put_events(connection, persons.TENANT, [event], persons.SECRET, persons.END, limits)


def _merge(one: str, other: str) -> InboundEvent:
    return persons.merged(f"m-{other}", f"email:{one}@mail.example", f"email:{other}@mail.example")


async def _thread(pool: asyncpg.Pool, name: str, entries: int) -> None:
    """Tell a matter of one person that was never resolved, a message a minute."""
    told = [_said(name, number) for number in range(1, entries + 1)]
    for start in range(0, entries, persons.AT_ONCE):
        await persons.put(pool, told[start : start + persons.AT_ONCE])


def _late(name: str) -> InboundEvent:
    return _said(name, 1.5)


def _said(name: str, minutes: float) -> InboundEvent:
    at = persons.END - timedelta(days=30) + timedelta(minutes=minutes)
    handles = {"handles": [{"kind": "telegram", "value": f"bot/{name}"}]}
    data = {"channel": "telegram", "customer": handles, "text": "x", "thread": {"dm_thread": name}}
    return persons.event(f"{name}-{minutes}", "message.received", at, data)


def rows() -> Sequence[Row]:
    """Measure, and return the rows."""
    return asyncio.run(measure())


if __name__ == "__main__":
    show(rows())
