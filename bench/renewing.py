"""How long a changed identity policy holds up the stream of its tenant, and what memory it takes.

Five hundred people with a hundred entries each, some of them in chats, get another policy, while one message after the
other comes for them in a transaction of its own, as the consumer does it. The base is the same change decided at once
in one transaction, as an erasure still does where it cannot tell what it touches.
"""

from __future__ import annotations

import asyncio
import resource
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta

import asyncpg

from bench import ground, persons
from bench.report import Row, quantile, show
from services.conversation.policy import Limits, Policy
from services.conversation.update import change_policy, renew_slice, resolve_again
from shared.database.engine import transaction
from shared.settings import Settings

PEOPLE = 500
ENTRIES = 100
PAUSE_S = 0.02
DEFAULTS = Settings(_env_file=None)
IN_SLICES = Policy(limits=Limits(contact=2), open_window_s=86_400)
AT_ONCE = Policy(limits=Limits(contact=3), open_window_s=172_800)


async def measure(people: int = PEOPLE) -> Sequence[Row]:
    """Tell the lives, then change the policy twice: in slices, and at once."""
    async with ground.platform() as platform:
        pool = platform.pool
        for number in range(people):
            await persons.live(pool, f"p{number}", ENTRIES, 3)
        await pool.execute("VACUUM (ANALYZE)", timeout=600)
        quiet, _, _ = await _beside(pool, people, lambda: asyncio.sleep(5), "q")
        sliced, took, grew = await _beside(pool, people, lambda: _in_slices(pool), "s")
        held, whole_took, whole_grew = await _beside(pool, people, lambda: _at_once(pool), "w")
    entries = people * ENTRIES
    return [
        Row("message of the tenant, nothing else, p99", 1e3 * quantile(quiet, 0.99), "ms"),
        Row(
            f"the same while a policy of {entries:,} entries changes in slices, p99",
            1e3 * quantile(sliced, 0.99),
            "ms",
            "slowest, in one transaction",
            1e3 * max(held),
        ),
        Row("the slowest of them", 1e3 * max(sliced), "ms", "slowest, in one transaction", 1e3 * max(held)),
        Row("until all is carried out", took, "s", "in one transaction", whole_took),
        Row("memory that it took", grew, "MB", "in one transaction", whole_grew),
    ]


async def _beside(
    pool: asyncpg.Pool, people: int, work: Callable[[], Awaitable[object]], name: str
) -> tuple[list[float], float, float]:
    """Put messages while `work` goes on: how long each took, how long the work took (s), and memory (MB)."""
    grown, began = _memory_mb(), time.perf_counter()
    working = asyncio.ensure_future(work())
    took: list[float] = []
    while not working.done():
        at = persons.END + timedelta(seconds=len(took))
        handles = {"handles": [{"kind": "email", "value": f"p{len(took) % people}@mail.example"}]}
        data = {"channel": "sms", "customer": handles, "text": "x"}
        start = time.perf_counter()
        await persons.put(pool, [persons.event(f"{name}{len(took)}", "message.received", at, data)])
        took.append(time.perf_counter() - start)
        await asyncio.sleep(PAUSE_S)
    await working
    return took, time.perf_counter() - began, _memory_mb() - grown


async def _in_slices(pool: asyncpg.Pool) -> None:
    """Do what `Slices` does, over entries whose ids are made with a secret of the measurement."""
    async with transaction(pool) as connection:
        assert await change_policy(connection, persons.TENANT, persons.END, IN_SLICES)
    while True:
        began = time.perf_counter()
        async with transaction(pool) as connection:
            if (
                await renew_slice(connection, persons.TENANT, persons.SECRET, persons.END, DEFAULTS.policy_slice)
                is None
            ):
                return
        await asyncio.sleep(time.perf_counter() - began)


async def _at_once(pool: asyncpg.Pool) -> None:
    async with transaction(pool) as connection:
        await resolve_again(connection, persons.TENANT, persons.SECRET, persons.END, AT_ONCE)


def _memory_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def rows() -> Sequence[Row]:
    """Measure, and return the rows."""
    return asyncio.run(measure())


if __name__ == "__main__":
    show(rows())
