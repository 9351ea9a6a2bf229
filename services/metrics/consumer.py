"""From the timeline topic to contributions: one batch, one transaction, a constant number of statements.

1. Decode; of equal (tenant, kind, key) the newest version in the batch; drop what the tables have as new or newer.
2. Read what the rest touches: conversations, calls, surveys, agents, amounts, customers, in whole.
3. Apply, evaluate the touched entities anew, append `new − old`.

Nothing here depends on the order of records: what is evaluated is the set of newest versions. Records that come twice
change nothing.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import orjson

from services.metrics import store
from services.metrics.buckets import NO_BUCKET, Contributions, Key, difference
from services.metrics.customer import Customer
from services.metrics.entries import Entry, compact, micros
from services.metrics.evaluation import (
    CONVERSATION,
    CUSTOMER,
    ENTRY,
    SURVEY,
    Ref,
    concerns_customer,
    counts_alone,
    evaluate,
    group_facts,
    group_of,
)
from services.metrics.kpis import BY_ID
from services.metrics.kpis.definition import Shape
from services.metrics.memory import Memory
from shared.errors import Rejected
from shared.events import DERIVED_SOURCE, TimelineRecord
from shared.log.database import Connection
from shared.log.protocol import Record
from shared.log.quarantine import Rejection

REMEMBERED_ENTRIES = 300_000
"""Entries a process remembers over all tenants before it forgets the tenant that was quiet longest."""

ARRIVING = frozenset(d.id for d in BY_ID.values() if d.histogram or d.shape is Shape.counted or d.id == "resolutions")
"""Series of which facts are also counted in the order they arrive."""


Line = TimelineRecord | tuple[TimelineRecord, Entry]
"""A record as read, with its entry where that was read already."""


@dataclass
class Work:
    """What one batch does to one tenant."""

    memory: Memory
    entries: dict[str, tuple[int, Entry | None]] = field(default_factory=dict)
    """Entry id → (version, the entry or None where it is gone): newest in the batch, then newer than stored."""
    leaves: dict[str, tuple[int, str]] = field(default_factory=dict)
    conversations: dict[str, tuple[int, str]] = field(default_factory=dict)
    before: dict[str, Entry] = field(default_factory=dict)
    touched: dict[Ref, str] = field(default_factory=dict)
    """Entity → why it is evaluated again (the reason of its corrections)."""
    latest: int = 0
    recorded: int = 0

    @property
    def tenant(self) -> str:
        return self.memory.tenant

    def touch(self, ref: Ref, reason: str) -> None:
        """Have an entity evaluated; the first reason stays."""
        self.touched.setdefault(ref, reason)

    def changed_entries(self) -> list[Entry]:
        """Return the old and the new versions of all changed entries."""
        return [*self.before.values(), *(e for _, e in self.entries.values() if e is not None)]


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
            _collect(work, record, entry)
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
        await _drop_known(connection, works)
        works = [work for work in works if work.entries or work.leaves or work.conversations]
        if works:
            await _load_and_apply(connection, works)
            await evaluate_touched(connection, works)
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
        rules = await store.rules(connection, tenants)
        for work in works:
            memory = work.memory
            if memory.token is None or before.get(work.tenant) != memory.token:
                memory.forget()
                memory.dims_ids.clear()
                memory.series_ids.clear()
            memory.token = token
            if rules[work.tenant] != memory.rules:
                memory.rules = rules[work.tenant]


# Decoding


def decode(records: Sequence[Record]) -> tuple[list[Rejection], list[Line]]:
    """Read a batch; what cannot be read becomes a rejection."""
    rejections: list[Rejection] = []
    read: list[Line] = []
    for record in records:
        tenant = None
        try:
            line = TimelineRecord.decode(record.value)
            tenant = line.tenant
            read.append(_checked(line))
        except Rejected as error:
            rejections.append(Rejection(record, error.reason, tenant))
    return rejections, read


def _checked(line: TimelineRecord) -> Line:
    """Return a line with all ids proper. Raises Rejected."""
    _uuid(line.key)
    if not isinstance(line.version, int) or not isinstance(line.tenant, str) or not line.tenant:
        raise Rejected("the record has no tenant or version")
    if line.kind == "leaf" and not line.deleted:
        _uuid(line.body.get("customer_id"))
    elif line.kind == "conversation" and not line.deleted:
        _uuid(line.body.get("canonical_id"))
    elif line.kind == "entry" and not line.deleted and line.body.get("source") != DERIVED_SOURCE:
        entry = compact(line.body)
        for key in (entry.id, entry.conversation, entry.leaf):
            if key is not None:
                _uuid(key)
        return line, entry
    elif line.kind not in ("leaf", "conversation", "entry"):
        raise Rejected(f"the record is of a kind that is not known: {line.kind!s:.40}")
    return line


_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


def _uuid(value: Any) -> None:
    if not isinstance(value, str) or _UUID.fullmatch(value) is None:
        raise Rejected("the record holds an id that is no uuid")


def _collect(work: Work, record: TimelineRecord, entry: Entry | None) -> None:
    """Keep the newest version of each within the batch."""
    if record.kind == "entry":
        if entry is None and not record.deleted:
            if record.body.get("source") == DERIVED_SOURCE:
                return
            entry = compact(record.body)
        known = work.entries.get(record.key)
        if known is None or known[0] < record.version:
            work.entries[record.key] = (record.version, entry)
        if record.recorded_at is not None:
            work.recorded = max(work.recorded, micros(record.recorded_at))
        if entry is not None:
            work.latest = max(work.latest, entry.at)
            work.recorded = max(work.recorded, entry.recorded)
        return
    pointers = work.leaves if record.kind == "leaf" else work.conversations
    target = record.key if record.deleted else record.body["customer_id" if record.kind == "leaf" else "canonical_id"]
    if record.key not in pointers or pointers[record.key][0] < record.version:
        pointers[record.key] = (record.version, target)
    if record.recorded_at is not None:
        work.recorded = max(work.recorded, micros(record.recorded_at))


async def _drop_known(connection: Connection, works: Sequence[Work]) -> None:
    """Drop what is stored in the same or a newer version; remember the older versions that go."""
    known = await store.stored(connection, [(w.tenant, key) for w in works for key in w.entries])
    leaves = await store.pointers(connection, store.LEAVES, [(w.tenant, key) for w in works for key in w.leaves])
    wanted = [(w.tenant, key) for w in works for key in w.conversations]
    conversations = await store.pointers(connection, store.CONVERSATIONS, wanted)
    for work in works:
        for key, (version, _) in list(work.entries.items()):
            old = known.get((work.tenant, key))
            if old is not None and old.version >= version:
                del work.entries[key]
            elif old is not None and old.entry is not None:
                work.before[key] = old.entry
        for pointers, stored in ((work.leaves, leaves), (work.conversations, conversations)):
            for key, (version, _) in list(pointers.items()):
                place = stored.get((work.tenant, key))
                if place is not None and place[1] >= version:
                    del pointers[key]


# Reading what is touched


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
    await load_parts(connection, [(w, part) for w in works for part in _parts(w, changed[id(w)])])
    were = {id(w): _canonicals(w, changed[id(w)]) for w in works}
    concerned = [(w, _concerned(w, changed[id(w)], were[id(w)])) for w in works]
    for work in works:
        _apply(work)
    await _write_truth(connection, works)
    await load_conversations(connection, targets)
    await load_members(connection, targets)
    for work, leaves_before in concerned:
        moved = changed[id(work)] if work.leaves or work.conversations else ()
        # What a conversation was part of is looked at again too: without it, that one may have another owner.
        leaves_before |= _concerned(work, moved, were[id(work)] | _canonicals(work, changed[id(work)]))
    await load_leaves(connection, [(w, leaf) for w, found in concerned for leaf in found])
    for work, found in concerned:
        for leaf in found:
            work.touch(Ref(CUSTOMER, work.memory.customer(leaf)), "new_contact")


def _parts(work: Work, changed: Sequence[Entry]) -> set[Ref]:
    """Return the calls, surveys, agents and amounts that changed, and the surveys about changed conversations."""
    found = {part for part in map(group_of, changed) if part is not None}
    for canonical in _canonicals(work, changed):
        found |= _surveys_in(work.memory, canonical)
    return found


def _surveys_in(memory: Memory, canonical: str) -> set[Ref]:
    members = memory.members_of.get(canonical, ())
    return {ref for raw in members for ref in memory.surveys_in.get(raw, {}).values()}


def _canonicals(work: Work, changed: Sequence[Entry]) -> set[str]:
    memory = work.memory
    found = {memory.canonical(e.conversation) for e in changed if e.conversation is not None}
    for key, (_, to) in work.conversations.items():
        found |= {memory.canonical(key), memory.canonical(to), to}
    return found


def _concerned(work: Work, changed: Sequence[Entry], canonicals: set[str]) -> set[str]:
    """Touch what the changes touch as memory stands now; return the leaves whose customers they concern.

    `canonicals` are the conversations that changed.
    """
    memory = work.memory
    leaves: set[str] = set()
    for e in changed:
        reason = _reason(work, e)
        part = group_of(e)
        if part is not None:
            work.touch(part, reason)
        if counts_alone(e):
            work.touch(Ref(ENTRY, e.id), reason)
        if e.conversation is not None:
            work.touch(Ref(CONVERSATION, memory.canonical(e.conversation)), reason)
        elif e.leaf is not None and concerns_customer(e):
            work.touch(Ref(CUSTOMER, memory.customer(e.leaf)), reason)
            leaves.add(e.leaf)
    for canonical in canonicals:
        if canonical in memory.members_of:
            work.touch(Ref(CONVERSATION, canonical), "conversation_merged")
            for survey in _surveys_in(memory, canonical):
                work.touch(survey, "conversation_merged")
            for leaf in memory.concerned(canonical):
                leaves.add(leaf)
                if leaf in memory.customer_of:
                    work.touch(Ref(CUSTOMER, memory.customer(leaf)), "new_contact")
    for leaf in work.leaves:
        work.touch(Ref(CUSTOMER, memory.customer(leaf)), "customer_merged")
    return leaves


_REASONS = {
    "message.sent": "late_reply",
    "message.received": "late_inbound",
    "call.answered": "late_answered",
    "survey.answered": "second_survey_answer",
    "conversation.reopened": "reopened",
    "conversation.resolved": "resolved",
    "cost.recorded": "restated",
    "revenue.recorded": "restated",
}


def _reason(work: Work, entry: Entry) -> str:
    """Name the cause of what this entry changes in what was counted before."""
    return "corrected" if entry.id in work.before else _REASONS.get(entry.type, "other")


def _apply(work: Work) -> None:
    """Bring memory to what the batch says."""
    memory = work.memory
    for entry in work.before.values():
        memory.take(entry)
    for key, (_, to) in work.conversations.items():
        memory.join(key, to)
    for leaf, (_, customer) in work.leaves.items():
        memory.assign(leaf, customer)
    for _, new in work.entries.values():
        if new is not None:
            memory.put(new)


async def load_leaves(connection: Connection, wanted: Sequence[tuple[Work, str]]) -> None:
    """Learn the customers of leaves."""
    missing = {(w.tenant, leaf): w for w, leaf in wanted if leaf not in w.memory.customer_of}
    if not missing:
        return
    found = await store.pointers(connection, store.LEAVES, missing)
    for (tenant, leaf), work in missing.items():
        work.memory.customer_of[leaf] = found.get((tenant, leaf), (leaf, 0))[0]


async def load_canonicals(connection: Connection, wanted: Sequence[tuple[Work, str]]) -> None:
    """Learn which conversations others are now part of."""
    missing = {(w.tenant, raw): w for w, raw in wanted if raw not in w.memory.canonical_of}
    if not missing:
        return
    found = await store.pointers(connection, store.CONVERSATIONS, missing)
    for (tenant, raw), work in missing.items():
        work.memory.canonical_of[raw] = found.get((tenant, raw), (raw, 0))[0]


async def load_conversations(connection: Connection, wanted: Sequence[tuple[Work, str]]) -> None:
    """Read whole conversations: whatever is part of the same canonical one as those wanted."""
    await load_canonicals(connection, wanted)
    # What they point at may point on: a conversation that has moved since, the record of this one being under way.
    await load_canonicals(connection, [(w, w.memory.canonical(raw)) for w, raw in wanted])
    await load_members(connection, [(w, w.memory.canonical(raw)) for w, raw in wanted])


async def load_members(connection: Connection, wanted: Sequence[tuple[Work, str]]) -> None:
    """Read the conversations that others point at, with all that do; their own pointers must be known."""
    unread = {(w.tenant, canonical): w for w, canonical in wanted if canonical not in w.memory.members_of}
    if not unread:
        return
    members = await store.members(connection, store.MEMBERS_OF_CONVERSATIONS, unread)
    raws: dict[tuple[str, str], Work] = {}
    for (tenant, canonical), work in unread.items():
        parts = members.get((tenant, canonical), set())
        if work.memory.canonical(canonical) == canonical:
            parts.add(canonical)
        work.memory.members_of[canonical] = parts
        for raw in parts:
            work.memory.canonical_of[raw] = canonical
            if raw not in work.memory.by_conversation:
                work.memory.by_conversation[raw] = {}
                raws[(tenant, raw)] = work
    works = {work.tenant: work for work in raws.values()}
    for tenant, entry in await store.entries(connection, store.ENTRIES_OF_CONVERSATIONS, raws):
        if entry.conversation is not None:
            works[tenant].memory.hold(entry.conversation, entry)


async def load_parts(connection: Connection, wanted: Sequence[tuple[Work, Ref]]) -> None:
    """Read whole calls, surveys, agents and amounts."""
    missing = {(w.tenant, part_name(part)): (w, part) for w, part in wanted if part not in w.memory.by_part}
    if not missing:
        return
    for work, part in missing.values():
        work.memory.by_part[part] = {}
    works = {work.tenant: work for work, _ in missing.values()}
    for tenant, entry in await store.entries(connection, store.ENTRIES_OF_PARTS, missing):
        found = group_of(entry)
        if found is not None:
            works[tenant].memory.by_part[found][entry.id] = entry


def part_name(ref: Ref) -> str:
    """Return how a part is named in the table of entries."""
    return f"{ref.kind}:{ref.key}"


async def load_customers(connection: Connection, wanted: Sequence[tuple[Work, str]]) -> None:
    """Read all that customers did: their leaves, strays, and the conversations any of their leaves is in."""
    missing = {(w.tenant, customer): w for w, customer in wanted if customer not in w.memory.leaves_of}
    if missing:
        await load_leaves(connection, wanted)
        found = await store.members(connection, store.LEAVES_OF_CUSTOMERS, missing)
        for (tenant, customer), work in missing.items():
            leaves = found.get((tenant, customer), set())
            for leaf in leaves:
                work.memory.customer_of[leaf] = customer
            # A leaf whose record has not come yet stands for its own customer.
            if work.memory.customer_of.get(customer, customer) == customer:
                leaves.add(customer)
            work.memory.leaves_of[customer] = leaves
    unread = {
        (w.tenant, leaf): w
        for w, customer in wanted
        for leaf in w.memory.leaves_of[customer]
        if leaf not in w.memory.strays_of
    }
    if unread:
        await _load_of_leaves(connection, unread)
    conversations = [
        (w, raw)
        for w, customer in wanted
        for leaf in w.memory.leaves_of[customer]
        for raw, count in w.memory.conversations_of[leaf].items()
        if count > 0
    ]
    await load_conversations(connection, conversations)


async def _load_of_leaves(connection: Connection, unread: dict[tuple[str, str], Work]) -> None:
    conversations = await store.conversations_of_leaves(connection, unread)
    for (tenant, leaf), work in unread.items():
        work.memory.conversations_of[leaf] = conversations.get((tenant, leaf), {})
        work.memory.strays_of[leaf] = {}
    works = {work.tenant: work for work in unread.values()}
    for tenant, entry in await store.entries(connection, store.STRAYS_OF_LEAVES, unread):
        if entry.leaf is not None:
            works[tenant].memory.strays_of[entry.leaf][entry.id] = entry


async def load_entities(connection: Connection, work: Work, refs: Collection[Ref]) -> None:
    """Read everything that some entities are made of."""
    await load_conversations(connection, [(work, ref.key) for ref in refs if ref.kind == CONVERSATION])
    await load_customers(connection, [(work, ref.key) for ref in refs if ref.kind == CUSTOMER])
    parts = [(work, ref) for ref in refs if ref.kind not in (CONVERSATION, CUSTOMER, ENTRY)]
    await load_parts(connection, parts)
    about = [e.conversation for _, ref in parts if ref.kind == SURVEY for e in work.memory.by_part[ref].values()]
    await load_conversations(connection, [(work, c) for c in about if c is not None])
    alone = await store.stored(connection, [(work.tenant, ref.key) for ref in refs if ref.kind == ENTRY])
    work.entries = {key: (found.version, found.entry) for (_, key), found in alone.items()}


# Evaluating


async def evaluate_touched(connection: Connection, works: Sequence[Work]) -> None:
    """Evaluate what was touched and append the differences."""
    customers = [(w, ref.key) for w in works for ref in w.touched if ref.kind == CUSTOMER]
    await load_customers(connection, customers)
    await load_parts(connection, [(w, ref) for w in works for ref in w.touched if ref.kind not in _NOT_PARTS])
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
    await _load_cells(connection, works)
    changes = [(work, ref, _change(work, ref)) for work in works for ref in work.touched]
    await write_changes(connection, [(w, ref, cells) for w, ref, cells in changes if cells])


_NOT_PARTS = frozenset({CONVERSATION, CUSTOMER, ENTRY})


async def _load_cells(connection: Connection, works: Sequence[Work]) -> None:
    missing = {(w.tenant, ref): w for w in works for ref in w.touched if ref not in w.memory.cells}
    if not missing:
        return
    found = await store.contributions(connection, missing)
    for (tenant, ref), work in missing.items():
        number, cells = found.get((tenant, ref), (None, {}))
        work.memory.cells[ref] = cells
        if number is not None:
            work.memory.entity_ids[ref] = number


def _change(work: Work, ref: Ref) -> Contributions:
    memory = work.memory
    new = current(memory, ref, work)
    old = memory.cells[ref]
    changed = difference(new, old)
    memory.cells[ref] = new
    return changed


def current(memory: Memory, ref: Ref, work: Work | None = None) -> Contributions:
    """Return what an entity contributes by what is remembered (and has been read)."""
    facts = facts_of(memory, ref, work)
    return {} if facts is None else evaluate(ref.kind, facts, memory.rules).cells


def facts_of(memory: Memory, ref: Ref, work: Work | None = None) -> Any:
    """Return the facts of an entity, None where there is no such thing (any more)."""
    if ref.kind == CONVERSATION:
        return memory.conversation(ref.key) if memory.members_of.get(ref.key) else None
    if ref.kind == CUSTOMER:
        return customer_facts(memory, ref.key)
    if ref.kind == ENTRY:
        entry = work.entries.get(ref.key, (0, None))[1] if work else None
        return entry if entry is not None and counts_alone(entry) else None
    entries = list(memory.by_part.get(ref, {}).values())
    if not entries:
        return None
    if ref.kind == SURVEY:
        facts = {
            memory.canonical(e.conversation): memory.conversation(memory.canonical(e.conversation))
            for e in entries
            if e.conversation is not None
        }
        return group_facts(ref, entries, facts, memory.canonical_of)
    return group_facts(ref, entries, {}, memory.canonical_of)


def customer_facts(memory: Memory, customer: str) -> Customer | None:
    """Return a customer with the conversations they own and their strays."""
    leaves = memory.leaves_of[customer]
    strays = [e for leaf in leaves for e in memory.strays_of[leaf].values() if concerns_customer(e)]
    owned = []
    raws = {raw for leaf in leaves for raw, count in memory.conversations_of[leaf].items() if count > 0}
    for canonical in {memory.canonical(raw) for raw in raws}:
        c = memory.conversation(canonical)
        if c is None:
            strays.extend(e for e in memory.entries_in(canonical) if e.leaf in leaves and concerns_customer(e))
        elif c.owner in leaves:
            owned.append(c)
    return Customer(customer, owned, strays) if owned or strays else None


# Writing


async def _write_truth(connection: Connection, works: Sequence[Work]) -> None:
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


async def write_changes(connection: Connection, changes: Sequence[tuple[Work, Ref, Contributions]]) -> None:
    """Append the changes of contributions, and count arrivals and corrections."""
    if not changes:
        return
    await _name(connection, changes)
    rows: list[tuple[Any, ...]] = []
    for work, ref, cells in changes:
        memory = work.memory
        entity, tenant, recorded = memory.entity_ids[ref], work.tenant, work.recorded
        series, dims = memory.series_ids, memory.dims_ids
        rows.extend(
            (tenant, series[k.series], k.at, dims[k.dims], entity, n, total, recorded, k.bucket, k.due, k.member)
            for k, (n, total) in cells.items()
        )
    await store.add_contributions(connection, rows)
    await store.add_rollup(connection, _by_hour(changes))
    arrivals, corrections = tally(changes)
    await store.add(connection, store.ADD_ARRIVALS, arrivals, 6)
    await store.add(connection, store.ADD_CORRECTIONS, corrections, 4)


def _by_hour(
    changes: Iterable[tuple[Work, Ref, Contributions]],
) -> dict[tuple[str, int, int, str, int], tuple[int, int]]:
    """Sum the changes by (tenant, series, hour, channel, bucket), without what only counts once it is due."""
    sums: dict[tuple[str, int, int, str, int], tuple[int, int]] = {}
    for work, _, cells in changes:
        tenant, series = work.tenant, work.memory.series_ids
        for key, (n, total) in cells.items():
            if not key.due:
                place = (tenant, series[key.series], key.at // store.HOUR, key.dims.channel or "", key.bucket)
                old = sums.get(place)
                sums[place] = (n, total) if old is None else (old[0] + n, old[1] + total)
    return sums


async def _name(connection: Connection, changes: Sequence[tuple[Work, Ref, Contributions]]) -> None:
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


def tally(
    changes: Iterable[tuple[Work, Ref, Contributions]],
) -> tuple[list[tuple[Any, ...]], list[tuple[Any, ...]]]:
    """Return rows of arrivals (facts that are new, by their first value) and of corrections (what was counted before
    and changed), by KPI."""
    arrivals: dict[tuple[str, str, str, int], tuple[int, int]] = {}
    corrections: dict[tuple[str, str, str], int] = {}
    for work, ref, cells in changes:
        added: dict[str, list[tuple[Key, tuple[int, int]]]] = {}
        net: dict[str, int] = {}
        taken: set[str] = set()
        for key, cell in cells.items():
            if cell[0] < 0 or (cell[0] == 0 and cell[1] != 0 and not key.series.startswith(("cost", "revenue"))):
                taken.add(key.series.partition(":")[0])
            if key.series in ARRIVING:
                net[key.series] = net.get(key.series, 0) + cell[0]
                if cell[0] > 0:
                    added.setdefault(key.series, []).append((key, cell))
        for series in taken:
            if series in BY_ID:
                place = (work.tenant, series, work.touched[ref])
                corrections[place] = corrections.get(place, 0) + 1
        for series, found in added.items():
            _arrive(arrivals, work.tenant, series, found, net[series])
    return (
        [(*place, n, total) for place, (n, total) in sorted(arrivals.items())],
        [(*place, n) for place, n in sorted(corrections.items())],
    )


def _arrive(
    arrivals: dict[tuple[str, str, str, int], tuple[int, int]],
    tenant: str,
    series: str,
    found: list[tuple[Key, tuple[int, int]]],
    new: int,
) -> None:
    """Count the first `new` of the facts found, by time."""
    if len(found) > 1:
        found.sort(key=lambda cell: cell[0].at)
    for key, (n, total) in found:
        if new <= 0:
            return
        taken = min(n, new)
        new -= taken
        place = (tenant, series, key.dims.channel or "", key.bucket)
        old = arrivals.get(place, (0, 0))
        value = total // n * taken if key.bucket != NO_BUCKET else 0
        arrivals[place] = (old[0] + taken, old[1] + value)
