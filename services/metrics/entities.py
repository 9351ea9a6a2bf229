"""The facts of entities as memory holds them, and what they contribute now; without I/O."""

from __future__ import annotations

from typing import Any

from services.metrics.buckets import Contributions, difference
from services.metrics.customer import Customer
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
    parts_for,
)
from services.metrics.memory import Memory
from services.metrics.work import Work


def change(work: Work, ref: Ref) -> Contributions:
    """Evaluate an entity and remember what it contributes now; return that less what it contributed before."""
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
    entries = [entry for part in parts_for(ref) for entry in memory.by_part.get(part, {}).values()]
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
