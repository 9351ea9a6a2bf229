"""What one batch changes in one tenant, and which entities that touches: decided on what is remembered, without I/O."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from services.metrics.entries import Entry, compact, micros
from services.metrics.evaluation import (
    CONVERSATION,
    CUSTOMER,
    ENTRY,
    Ref,
    concerns_customer,
    counts_alone,
    group_of,
    parts_from,
)
from services.metrics.memory import Memory
from shared.events import DERIVED_SOURCE, TimelineRecord


@dataclass
class Work:
    """What one batch does to one tenant."""

    memory: Memory
    entries: dict[str, tuple[int, Entry | None]] = field(default_factory=dict)
    """Entry id → (version, the entry or None where it is gone): newest in the batch, then newer than stored."""
    leaves: dict[str, tuple[int, str]] = field(default_factory=dict)
    conversations: dict[str, tuple[int, str]] = field(default_factory=dict)
    before: dict[str, Entry] = field(default_factory=dict)
    erased: dict[str, str] = field(default_factory=dict)
    """Entry id → the erasure that left only its numbers."""
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


def collect(work: Work, record: TimelineRecord, entry: Entry | None) -> None:
    """Keep the newest version of each within the batch."""
    if record.kind == "entry":
        if entry is None and not record.deleted:
            if record.body.get("source") == DERIVED_SOURCE:
                return
            entry = compact(record.body)
        known = work.entries.get(record.key)
        if known is None or known[0] < record.version:
            work.entries[record.key] = (record.version, entry)
            if record.deleted and entry is not None:
                work.erased[record.key] = record.body["erased"]["erasure_id"]
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


def apply(work: Work) -> None:
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


def parts_of(work: Work, changed: Sequence[Entry]) -> set[Ref]:
    """Return the calls, surveys, agents and amounts that changed, and the surveys about changed conversations."""
    found = {part for part in map(group_of, changed) if part is not None}
    for canonical in canonicals(work, changed):
        found |= surveys_in(work.memory, canonical)
    return found


def surveys_in(memory: Memory, canonical: str) -> set[Ref]:
    members = memory.members_of.get(canonical, ())
    return {ref for raw in members for ref in memory.surveys_in.get(raw, {}).values()}


def canonicals(work: Work, changed: Sequence[Entry]) -> set[str]:
    memory = work.memory
    found = {memory.canonical(e.conversation) for e in changed if e.conversation is not None}
    for key, (_, to) in work.conversations.items():
        found |= {memory.canonical(key), memory.canonical(to), to}
    return found


def touch_concerned(work: Work, changed: Sequence[Entry], canonicals: set[str]) -> set[str]:
    """Touch what the changes touch as memory stands now; return the leaves whose customers they concern.

    `canonicals` are the conversations that changed.
    """
    memory = work.memory
    leaves: set[str] = set()
    for e in changed:
        reason = _reason(work, e)
        for part in parts_from(e):
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
            for survey in surveys_in(memory, canonical):
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
