"""What a merge of a customer with 40,000 entries takes, and how much of them it writes again.

Twenty people, each with a few entries of two months, are merged by an agent's word into one with 40,000 entries over
two years in 100 sessions; each merge is one event in a transaction of its own, commit included. The base is the same
transaction for an ordinary message of that customer. The server has looked at its tables before, as it does by itself
a minute after they grew: a life of two years that is told within seconds is otherwise asked for as if it were short.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from datetime import timedelta

import asyncpg

from bench import ground, persons
from bench.report import Row, quantile, show
from services.conversation.policy import DEFAULT
from services.conversation.update import Outcome

ENTRIES = 40_000
SESSIONS = 100
MERGES = 20

OLDER = """
SELECT count(*) FROM conversation.change c JOIN conversation.entry e USING (tenant_id, entry_id)
WHERE c.tenant_id = $1 AND c.kind = 'c' AND e.occurred_at < $2
"""


async def measure(entries: int = ENTRIES, merges: int = MERGES) -> Sequence[Row]:
    """Tell the lives, then merge."""
    async with ground.platform() as platform:
        pool = platform.pool
        await persons.live(pool, "large", entries, SESSIONS)
        for number in range(merges):
            await persons.live(pool, f"small{number}", 10, 0, days=60)
        await pool.execute("VACUUM (ANALYZE)", timeout=600)
        messages = [await _timed(pool, number, merge=False) for number in range(merges)]
        moved_before = await pool.fetchval("SELECT count(*) FROM conversation.change WHERE kind = 'c'")
        took = [await _timed(pool, number, merge=True) for number in range(merges)]
        moved = await pool.fetchval("SELECT count(*) FROM conversation.change WHERE kind = 'c'") - moved_before
        older = await pool.fetchval(OLDER, persons.TENANT, persons.END - DEFAULT.open_window)
    return [
        Row(
            f"merge of a customer with {entries:,} entries, p50",
            1e3 * quantile(took, 0.5),
            "ms",
            "a message of that customer",
            1e3 * quantile(messages, 0.5),
        ),
        Row("the slowest of them", 1e3 * max(took), "ms", "the slowest message", 1e3 * max(messages)),
        Row("entries written again by each merge", moved / merges, "entries", "of the large customer", entries),
        Row("entries older than the open window written again", older, "entries"),
    ]


async def _timed(pool: asyncpg.Pool, number: int, *, merge: bool) -> float:
    if merge:
        told = persons.merged(f"m{number}", "email:large@mail.example", f"email:small{number}@mail.example")
    else:
        at = persons.END + timedelta(seconds=number)
        handles = {"handles": [{"kind": "email", "value": "large@mail.example"}]}
        told = persons.event(f"x{number}", "message.received", at, {"channel": "sms", "customer": handles, "text": "x"})
    began = time.perf_counter()
    outcome: Outcome = await persons.put(pool, [told])
    took = time.perf_counter() - began
    assert outcome.new == 1
    return took


def rows() -> Sequence[Row]:
    """Measure, and return the rows."""
    return asyncio.run(measure())


if __name__ == "__main__":
    show(rows())
