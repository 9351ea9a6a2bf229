"""What a merge of a customer with a long history takes, and how much of it is written again.

A customer with 40,000 entries over two years in 100 sessions is merged, by an agent's word, with twenty who wrote
little in two months, the last time six days ago; with five who began to write an hour ago; with five who wrote ten
times in the last two days; and with one customer like the first. All but the first twenty have something open. Each
merge is one event in a transaction of its own, commit included. The base is the same transaction for an ordinary
message of that customer. `python -m bench.merging ENTRIES …` measures customers of other lengths.

The server has looked at its tables before, as it does by itself a minute after they grew: a life of two years that is
told within seconds is otherwise asked for as if it were short.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

import asyncpg
import uvloop

from bench import ground, persons
from bench.report import Row, quantile, show
from services.conversation.policy import DEFAULT
from services.conversation.update import Outcome
from shared.events import InboundEvent

ENTRIES = 40_000
SESSIONS = 100
MERGES = 20
BEGAN = 5
RECENT = 5
LIKE_IT = 1

OLDER = """
SELECT count(*) FROM conversation.change c JOIN conversation.entry e USING (tenant_id, entry_id)
WHERE c.tenant_id = $1 AND c.kind = 'c' AND e.occurred_at < $2
"""

CORRECTED = "SELECT count(*) FROM conversation.change WHERE kind = 'c'"

SERVING = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend'"


class Took(NamedTuple):
    """What one event took: on the clock, and of the processors (this process and the server's), in milliseconds."""

    clock_ms: float
    busy_ms: float


async def measure(entries: int = ENTRIES, merges: int = MERGES, like_it: int = LIKE_IT) -> Sequence[Row]:
    """Tell the lives, then merge."""
    async with ground.platform() as platform:
        pool = platform.pool
        await persons.live(pool, "large", entries, SESSIONS)
        for number in range(merges):
            await persons.live(pool, f"silent{number}", 10, 0, days=60)
        for number in range(BEGAN):
            await persons.live(pool, f"began{number}", 5, 0, days=1 / 24)
        for number in range(RECENT):
            await persons.live(pool, f"recent{number}", 10, 0, days=2)
            await persons.live(pool, f"other{number}", 10, 0, days=2)
        await persons.tell(pool, "endless", list(persons.an_endless_matter("endless", entries)))
        for number in range(like_it):
            await persons.live(pool, f"like{number}", entries, SESSIONS)
        await pool.execute("VACUUM (ANALYZE)", timeout=600)
        message = await _take(pool, (_message(number) for number in range(merges)))
        found = []
        for who, name, count in (
            ("somebody silent for six days", "silent", merges),
            ("somebody who began to write an hour ago", "began", BEGAN),
            ("somebody who has written for two days", "recent", RECENT),
            ("another one like it", "like", like_it),
        ):
            before = await pool.fetchval(CORRECTED)
            took = await _take(pool, (_merge(f"{name}{number}") for number in range(count)))
            written = await pool.fetchval(CORRECTED) - before
            found += _rows(f"a customer with {entries:,} entries and {who}", took, message, written / count)
        endless = f"a customer with one conversation of {entries:,} entries and somebody who has written for two days"
        before = await pool.fetchval(CORRECTED)
        took = await _take(pool, (_merge(f"other{number}", "endless") for number in range(RECENT)))
        found += _rows(endless, took, message, (await pool.fetchval(CORRECTED) - before) / RECENT)
        late = await _take(pool, (_late(number) for number in range(RECENT)))
        base = quantile([one.clock_ms for one in message], 0.5)
        middle = quantile([one.clock_ms for one in late], 0.5)
        found.append(Row("a message that comes a day late into such a one", middle, "ms", "a message in order", base))
        older = await pool.fetchval(OLDER, persons.TENANT, persons.END - DEFAULT.open_window)
        return [*found, Row("entries older than the open window written again", older, "entries")]


def _rows(what: str, took: Sequence[Took], message: Sequence[Took], written: float) -> list[Row]:
    def middle(values: Sequence[Took], field: int) -> float:
        return quantile([value[field] for value in values], 0.5)

    return [
        Row(f"merge of {what}", middle(took, 0), "ms", "a message of that customer", middle(message, 0)),
        Row("  of which both processes' own time", middle(took, 1), "ms", "the message's", middle(message, 1)),
        Row("  entries written again by each", written, "entries"),
    ]


def _message(number: int) -> InboundEvent:
    at = persons.END + timedelta(seconds=number)
    handles = {"handles": [{"kind": "email", "value": "large@mail.example"}]}
    return persons.event(f"x{number}", "message.received", at, {"channel": "sms", "customer": handles, "text": "x"})


def _late(number: int) -> InboundEvent:
    at = persons.END - timedelta(days=1, seconds=number)
    *_, last = persons.an_endless_matter("endless", 1)
    return persons.event(f"late{number}", "message.received", at, last.data)


def _merge(other: str, one: str = "large") -> InboundEvent:
    return persons.merged(f"m-{other}", f"email:{one}@mail.example", f"email:{other}@mail.example")


async def _take(pool: asyncpg.Pool, events: Iterable[InboundEvent]) -> list[Took]:
    found = []
    for event in events:
        serving = [row[0] for row in await pool.fetch(SERVING)]
        busy, began = _busy_s(serving), time.perf_counter()
        outcome: Outcome = await persons.put(pool, [event])
        took, busy = time.perf_counter() - began, _busy_s(serving) - busy
        assert outcome.new == 1
        found.append(Took(1e3 * took, 1e3 * busy))
    return found


def _busy_s(serving: Iterable[int]) -> float:
    """Return how long this process and those of the server that serve it have been on a processor (Linux)."""
    ran = (Path(f"/proc/{pid}/schedstat").read_text().split()[0] for pid in serving)
    return time.process_time() + sum(map(int, ran)) / 1e9


def rows(entries: int = ENTRIES) -> Sequence[Row]:
    """Measure, and return the rows."""
    return uvloop.run(measure(entries))  # as a service runs


if __name__ == "__main__":
    show([row for entries in map(int, sys.argv[1:] or [str(ENTRIES)]) for row in rows(entries)])
