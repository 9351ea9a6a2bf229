"""Reading what a batch touches into memory: conversations, calls, surveys, agents, amounts, customers, each in whole.

What is remembered is not read again; a statement is sent once for all that is missing.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from services.metrics import store
from services.metrics.evaluation import (
    AGENT_DAY,
    CONVERSATION,
    CUSTOMER,
    ENTRY,
    SURVEY,
    Ref,
    corrects_a_day,
    group_of,
    parts_for,
)
from services.metrics.work import Work
from shared.log.database import Connection


async def drop_known(connection: Connection, works: Sequence[Work]) -> None:
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


async def load_agents_days(connection: Connection, work: Work) -> None:
    """Touch every day of an agent of whom something says that it corrects something else, whenever that was."""
    found = {(work.tenant, e.agent) for e in work.changed_entries() if corrects_a_day(e) and e.agent is not None}
    for name in await store.days_of_agents(connection, found):
        work.touch(Ref(AGENT_DAY, name.removeprefix(f"{AGENT_DAY}:")), "corrected")


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
    parts = [(work, part) for ref in refs if ref.kind not in (CONVERSATION, CUSTOMER, ENTRY) for part in parts_for(ref)]
    await load_parts(connection, parts)
    about = [e.conversation for _, ref in parts if ref.kind == SURVEY for e in work.memory.by_part[ref].values()]
    await load_conversations(connection, [(work, c) for c in about if c is not None])
    alone = await store.stored(connection, [(work.tenant, ref.key) for ref in refs if ref.kind == ENTRY])
    work.entries = {key: (found.version, found.entry) for (_, key), found in alone.items()}


async def load_cells(connection: Connection, works: Sequence[Work]) -> None:
    missing = {(w.tenant, ref): w for w in works for ref in w.touched if ref not in w.memory.cells}
    if not missing:
        return
    found = await store.contributions(connection, missing)
    for (tenant, ref), work in missing.items():
        number, cells = found.get((tenant, ref), (None, {}))
        work.memory.cells[ref] = cells
        if number is not None:
            work.memory.entity_ids[ref] = number
