"""The index of words gives way to the stream, and a search ends its rest."""

from __future__ import annotations

import asyncio

import pytest

from services.conversation import search
from shared.log.waiting import end


class Pool:
    """A database in which all that was told is indexed once somebody looked."""

    def __init__(self) -> None:
        self.looks = 0
        self.looked = asyncio.Event()

    async def fetchrow(self, _: str, __: str) -> dict[str, int]:
        return {"indexed": self.looks, "told": 2}


async def index(pool: Pool) -> bool:
    pool.looks += 1
    pool.looked.set()
    await asyncio.sleep(0.001)
    return True


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> Pool:
    monkeypatch.setattr(search, "index_once", index)
    monkeypatch.setattr(search, "RESTS", 1_000_000)
    return Pool()


async def looked(pool: Pool, times: int) -> None:
    async with asyncio.timeout(5):
        while pool.looks < times:
            pool.looked.clear()
            await pool.looked.wait()


async def test_the_index_rests_while_the_stream_is_behind_until_somebody_searches(patient: Pool) -> None:
    indexer = search.Indexer(patient, lambda: True)
    running = asyncio.create_task(indexer.run())
    try:
        await looked(patient, 1)
        await asyncio.sleep(0.02)
        assert patient.looks == 1
        await indexer.catch_up("acme")
        assert patient.looks == 2
    finally:
        await end(running)


async def test_the_index_waits_for_those_who_go_first_until_they_are_done(
    patient: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    behind = False

    async def all_done(pool: Pool) -> bool:
        nonlocal behind
        behind = pool.looks == 0
        await index(pool)
        return False

    monkeypatch.setattr(search, "index_once", all_done)
    monkeypatch.setattr(search, "LOOK_EVERY_S", 0.01)
    running = asyncio.create_task(search.Indexer(patient, lambda: behind).run())
    try:
        await looked(patient, 1)
        await asyncio.sleep(0.1)
        assert patient.looks == 1
        behind = False
        await looked(patient, 2)
    finally:
        await end(running)


async def test_the_index_waits_for_those_who_go_first_no_longer_than_it_may(
    patient: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "RESTS", 0)
    monkeypatch.setattr(search, "PATIENCE_S", 0.05)
    running = asyncio.create_task(search.Indexer(patient, lambda: True).run())
    try:
        await looked(patient, 3)
    finally:
        await end(running)


async def test_the_index_goes_on_at_once_where_the_stream_is_not_behind(patient: Pool) -> None:
    running = asyncio.create_task(search.Indexer(patient, lambda: False).run())
    try:
        await looked(patient, 3)
    finally:
        await end(running)
