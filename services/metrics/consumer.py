"""From the timeline topic to contributions: one batch, one transaction, a constant number of statements.

1. Decode; of equal (tenant, kind, key) the newest version in the batch; drop what the tables have as new or newer.
2. Read what the rest touches: conversations, calls, surveys, agents, amounts, customers, in whole.
3. Apply, evaluate the touched entities anew, append `new − old`.

Nothing here depends on the order of records: what is evaluated is the set of newest versions. Records that come twice
change nothing.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from uuid import uuid4

from services.metrics import store
from services.metrics.entities import change
from services.metrics.entries import Entry
from services.metrics.evaluation import (
    CONVERSATION,
    CUSTOMER,
    ENTRY,
    SURVEY,
    Ref,
    parts_for,
)
from services.metrics.forgetting import forget_erased
from services.metrics.loading import (
    drop_known,
    load_agents_days,
    load_cells,
    load_conversations,
    load_customers,
    load_leaves,
    load_members,
    load_parts,
)
from services.metrics.memory import Memory
from services.metrics.records import Line, decode
from services.metrics.tallies import Change
from services.metrics.work import Work, apply, canonicals, collect, parts_of, touch_concerned
from services.metrics.writing import Changes, write_truth
from shared import agreements
from shared.events import TimelineRecord
from shared.log.database import Connection
from shared.log.protocol import Record
from shared.log.quarantine import Rejection

REMEMBERED_ENTRIES = 150_000
"""Entries a process remembers over all tenants before it forgets the tenant that was quiet longest: at about 2.5 kB
each, with all that is made of them, less than 400 MB."""


class MetricsConsumer:
    """The batch handler of the timeline topic, with what it remembers between batches. One per process."""

    def __init__(self, remembered_entries: int = REMEMBERED_ENTRIES) -> None:
        self._memories: OrderedDict[str, Memory] = OrderedDict()
        self._remembered_entries = remembered_entries

    async def handle(self, connection: Connection, records: Sequence[Record]) -> Sequence[Rejection]:
        """Do one batch inside the runner's transaction. Returns the records that cannot be read."""
        rejections, read = decode(records)
        await self.apply(connection, read)
        return rejections

    async def apply(
        self, connection: Connection, read: Iterable[TimelineRecord | tuple[TimelineRecord, Entry]]
    ) -> None:
        """Bring the tables to the newest of what they have and `read`."""
        works = self._works(read)
        try:
            await self._do(connection, works)
        except BaseException:
            # What is remembered may be ahead of what the rolled back transaction leaves.
            for work in works:
                self._memories.pop(work.tenant, None)
            raise

    def _works(self, read: Iterable[Line]) -> list[Work]:
        works: dict[str, Work] = {}
        for item in read:
            record, entry = item if isinstance(item, tuple) else (item, None)
            work = works.get(record.tenant)
            if work is None:
                work = works[record.tenant] = Work(self._remember(record.tenant))
            collect(work, record, entry)
        return [works[tenant] for tenant in sorted(works)]

    def _remember(self, tenant: str) -> Memory:
        memory = self._memories.setdefault(tenant, Memory(tenant))
        self._memories.move_to_end(tenant)
        return memory

    def forget_some(self) -> None:
        """Forget the quietest tenants while more is remembered than allowed."""
        sizes = {tenant: memory.size() for tenant, memory in self._memories.items()}
        held = sum(sizes.values())
        for tenant in list(self._memories):
            if held <= self._remembered_entries:
                return
            held -= sizes[tenant]
            self._memories[tenant].forget()

    async def _do(self, connection: Connection, works: list[Work]) -> None:
        if not works:
            return
        tenants = [work.tenant for work in works]
        await store.lock(connection, tenants)
        await self.trust(connection, works)
        await drop_known(connection, works)
        works = [work for work in works if work.entries or work.leaves or work.conversations]
        if works:
            await _load_and_apply(connection, works)
            await evaluate_touched(connection, works)
            await forget_erased(connection, works)
            latest = {work.tenant: (work.latest, work.recorded) for work in works}
            oldest = [
                (work.tenant, entry.at)
                for work in works
                for key, (_, entry) in work.entries.items()
                if entry is not None and key not in work.before
            ]
            await store.seen(connection, latest, oldest)
        self.forget_some()

    async def trust(self, connection: Connection, works: Sequence[Work]) -> None:
        """Write our token; forget what another writer (or a rollback) may have changed; read the rules."""
        token = uuid4()
        tenants = [work.tenant for work in works]
        before = await store.claim(connection, tenants, token)
        rules = await agreements.rules(connection, tenants)
        for work in works:
            memory = work.memory
            claimed = before.get(work.tenant, store.Claimed())
            memory.packed_until = claimed.packed_until
            # What is subtracted was recorded by then: dated before it, `as_of` would take away what it has not got.
            work.recorded = max(work.recorded, claimed.recorded)
            if memory.token is None or claimed.token != memory.token:
                memory.forget()
                memory.dims_ids.clear()
                memory.series_ids.clear()
            memory.token = token
            if rules[work.tenant] != memory.rules:
                memory.rules = rules[work.tenant]


async def _load_and_apply(connection: Connection, works: Sequence[Work]) -> None:
    """Read what was, touch what that concerns, apply, write, and touch what it concerns now."""
    changed = {id(work): work.changed_entries() for work in works}
    leaves = [(w, leaf) for w in works for leaf in {*w.leaves, *(e.leaf for e in changed[id(w)] if e.leaf)}]
    await load_leaves(connection, leaves)
    raws = [(w, c) for w in works for c in {e.conversation for e in changed[id(w)] if e.conversation}]
    raws += [(w, c) for w in works for key, (_, to) in w.conversations.items() for c in (key, to)]
    await load_conversations(connection, raws)
    # A target may itself point on: what is part of it is then not read by where it points.
    targets = [(w, to) for w in works for _, to in w.conversations.values()]
    await load_members(connection, targets)
    await load_parts(connection, [(w, part) for w in works for part in parts_of(w, changed[id(w)])])
    were = {id(w): canonicals(w, changed[id(w)]) for w in works}
    concerned = [(w, touch_concerned(w, changed[id(w)], were[id(w)])) for w in works]
    for work in works:
        apply(work)
    await write_truth(connection, works)
    await load_conversations(connection, targets)
    await load_members(connection, targets)
    for work, leaves_before in concerned:
        moved = changed[id(work)] if work.leaves or work.conversations else ()
        # What a conversation was part of is looked at again too: without it, that one may have another owner.
        leaves_before |= touch_concerned(work, moved, were[id(work)] | canonicals(work, changed[id(work)]))
    await load_leaves(connection, [(w, leaf) for w, found in concerned for leaf in found])
    for work, found in concerned:
        for leaf in found:
            work.touch(Ref(CUSTOMER, work.memory.customer(leaf)), "new_contact")


async def evaluate_touched(connection: Connection, works: Sequence[Work]) -> None:
    """Evaluate what was touched and append the differences."""
    customers = [(w, ref.key) for w in works for ref in w.touched if ref.kind == CUSTOMER]
    await load_customers(connection, customers)
    for work in works:
        await load_agents_days(connection, work)
    parts = [(w, part) for w in works for ref in w.touched if ref.kind not in _NOT_PARTS for part in parts_for(ref)]
    await load_parts(connection, parts)
    about = [
        (w, e.conversation)
        for w in works
        for ref in w.touched
        if ref.kind == SURVEY
        for e in w.memory.by_part[ref].values()
        if e.conversation is not None
    ]
    conversations = [(w, ref.key) for w in works for ref in w.touched if ref.kind == CONVERSATION]
    await load_conversations(connection, [*about, *conversations])
    await load_cells(connection, works)
    touched = [(work, ref) for work in works for ref in work.touched]
    size = max(LEAST_PART, -(-len(touched) // PARTS))
    async with Changes(connection) as changes:
        for start in range(0, len(touched), size):
            await changes.append(await _evaluated(touched[start : start + size]))
        await changes.finish()


async def _evaluated(touched: Sequence[tuple[Work, Ref]]) -> list[Change]:
    """Return what changed in these entities; now and then whoever else waits for the processor has a turn."""
    found: list[Change] = []
    for number, (work, ref) in enumerate(touched, 1):
        cells = change(work, ref)
        if cells:
            found.append((work, ref, cells))
        if number % TURN == 0:
            await asyncio.sleep(0)
    return found


PARTS = 4
"""Into how many parts the evaluation of a batch is cut: while the database takes one in, the next is evaluated."""
LEAST_PART = 250
TURN = 50

_NOT_PARTS = frozenset({CONVERSATION, CUSTOMER, ENTRY})
