"""A batch is freed when it is done: one that holds itself stays until garbage is looked for, and all wait then."""

from __future__ import annotations

import gc
import random
from collections import Counter

import asyncpg

from bench import persons
from tests.histories import a_history_of_neighbours


async def test_no_batch_holds_itself_in_a_circle(pool: asyncpg.Pool) -> None:
    events = a_history_of_neighbours(random.Random(1), persons.TENANT, 60)
    await persons.put(pool, events[:5])  # what is made once
    gc.collect()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        for event in events[5:]:
            await persons.put(pool, [event])
        gc.collect()
        ours = Counter(
            type(found).__qualname__ for found in gc.garbage if type(found).__module__.startswith("services.")
        )
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
    assert not ours
