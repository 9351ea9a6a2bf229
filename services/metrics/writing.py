"""Writing what a batch brings: the newest versions, changes of contributions, sums by hour, counters, open days."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import orjson

from services.metrics import store
from services.metrics.entries import HOUR
from services.metrics.evaluation import group_of
from services.metrics.loading import part_name
from services.metrics.tallies import Change, Tallies
from services.metrics.work import Work
from shared.log.database import Connection
from shared.log.waiting import end


async def write_truth(connection: Connection, works: Sequence[Work]) -> None:
    """Store the newest versions of entries, leaves and conversations."""
    rows: list[tuple[Any, ...]] = []
    for work in works:
        for key, (version, entry) in work.entries.items():
            if entry is None:
                rows.append((work.tenant, key, version, None, None, None, None))
                continue
            part = group_of(entry)
            name = part_name(part) if part else None
            body = orjson.dumps(entry.pack())
            rows.append((work.tenant, key, version, entry.leaf, entry.conversation, name, body))
    if rows:
        await store.put_entries(connection, rows)
    for statement, pointers in (
        (store.PUT_LEAVES, [(w.tenant, key, *at) for w in works for key, at in w.leaves.items()]),
        (store.PUT_CONVERSATIONS, [(w.tenant, key, *at) for w in works for key, at in w.conversations.items()]),
    ):
        if pointers:
            await store.put_pointers(connection, statement, pointers)


Hours = Mapping[tuple[str, int, int, str, int], tuple[int, int]]
"""(tenant, series, hour, channel, bucket) → (n, total)"""


class Changes:
    """Appends the changes of one batch, a part at a time: the database works on one while the next is evaluated.

    As a context it leaves nothing under way on the connection, however it ends.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._tallies = Tallies()
        self._names: dict[str, Work] = {}
        self._under_way: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Changes:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._under_way is not None:
            await end(self._under_way)

    async def append(self, changes: Sequence[Change]) -> None:
        """Begin to append these, once those before are there."""
        self._tallies.add(changes)
        await self._wait()
        if changes:
            self._names |= {work.tenant: work for work, _, _ in changes}
            self._under_way = asyncio.create_task(self._append(changes))

    async def finish(self) -> None:
        """Wait for what is under way; add the sums by hour, take away days that they change, and count arrivals and
        corrections."""
        await self._wait()
        if not self._names:
            return
        hours = {
            (tenant, self._names[tenant].memory.series_ids[series], hour, channel, bucket): cell
            for (tenant, series, hour, channel, bucket), cell in self._tallies.hours.items()
        }
        await store.add_rollup(self._connection, hours)
        await store.drop_days(self._connection, self._of_packed_days(hours))
        await store.add(self._connection, store.ADD_ARRIVALS, self._tallies.arrivals(), 6)
        await store.add(self._connection, store.ADD_CORRECTIONS, self._tallies.corrections(), 4)

    def _of_packed_days(self, hours: Hours) -> Iterator[tuple[str, int, int]]:
        """Yield (tenant, series, instant in µs) of the hours that may lie in packed days."""
        until = {tenant: work.memory.packed_until for tenant, work in self._names.items()}
        if not any(until.values()):
            return
        for (tenant, series, hour, _, _), cell in hours.items():
            packed = until[tenant]
            if packed is not None and hour * HOUR < packed and cell != (0, 0):
                yield tenant, series, hour * HOUR

    async def _wait(self) -> None:
        under_way, self._under_way = self._under_way, None
        if under_way is not None:
            try:
                await under_way
            except asyncio.CancelledError:
                await end(under_way)
                raise

    async def _append(self, changes: Sequence[Change]) -> None:
        await _name(self._connection, changes)
        rows: list[tuple[Any, ...]] = []
        for work, ref, cells in changes:
            memory = work.memory
            entity, tenant, recorded = memory.entity_ids[ref], work.tenant, work.recorded
            numbers, places = memory.series_ids, memory.dims_ids
            rows.extend(
                (tenant, numbers[series], at, places[dims], entity, n, total, recorded, bucket, due, member)
                for (series, at, dims, bucket, member, due), (n, total) in cells.items()
            )
        await store.add_contributions(self._connection, rows)


async def _name(connection: Connection, changes: Sequence[Change]) -> None:
    """Learn the numbers of entities, series and dimensions that have not been met yet."""
    works = {work.tenant: work for work, _, _ in changes}
    entities = [(w.tenant, ref) for w, ref, _ in changes if ref not in w.memory.entity_ids]
    if entities:
        for (tenant, ref), number in (await store.name_entities(connection, entities)).items():
            works[tenant].memory.entity_ids[ref] = number
    series = {(w.tenant, k.series) for w, _, cells in changes for k in cells if k.series not in w.memory.series_ids}
    if series:
        for (tenant, name), number in (await store.name_series(connection, sorted(series))).items():
            works[tenant].memory.series_ids[name] = number
    dims = {(w.tenant, k.dims) for w, _, cells in changes for k in cells if k.dims not in w.memory.dims_ids}
    if dims:
        for (tenant, place), number in (await store.name_dims(connection, list(dims))).items():
            works[tenant].memory.dims_ids[place] = number
