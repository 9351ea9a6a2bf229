"""What the conversation service stored and published of a tenant, set beside the reference."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any
from uuid import UUID

import asyncpg

from services.conversation.policy import Policy
from shared.entry_ids import entry_id_of
from shared.events import InboundEvent, TimelineRecord
from tests.histories import SECRET
from tests.reference.stitching import Name, Placed, stitch

PLACES = """
SELECT e.source, e.event_id, l.customer_id, coalesce(c.canonical_id, e.conversation_id) AS conversation_id
FROM conversation.entry e
JOIN conversation.leaf l USING (tenant_id, leaf_id)
LEFT JOIN conversation.conversation c USING (tenant_id, conversation_id)
WHERE e.tenant_id = $1 AND e.cause_id IS NULL
"""

Place = tuple[UUID, UUID | None]
"""(customer, conversation) of one event."""


async def places(pool: asyncpg.Pool, tenant: str) -> dict[Name, Place]:
    """Return where the service put each event of the tenant."""
    return {(row[0], row[1]): (row[2], row[3]) for row in await pool.fetch(PLACES, tenant)}


def entry_id(event: InboundEvent) -> str:
    return str(entry_id_of(SECRET, event.tenant, event.source, event.id))


def differences(events: Sequence[InboundEvent], policy: Policy, got: Mapping[Name, Place]) -> list[str]:
    """Say in sentences where what was got is not what the reference gives; empty where all is right."""
    wanted = stitch(events, policy, entry_id)
    if wanted.keys() != got.keys():
        return [f"entries missing or too many: {sorted(wanted.keys() ^ got.keys())}"]
    tenant = events[0].tenant
    found = [f"customer of {name}" for name in _apart({n: p.customer for n, p in wanted.items()}, _nth(got, 0))]
    for name, placed in sorted(wanted.items()):
        founder = placed.conversation and entry_id_of(SECRET, tenant, *placed.conversation)
        if got[name][1] != founder:
            found.append(f"conversation of {name}: {_who(tenant, got, name)} instead of {_said(placed)}")
    return found


def _nth(got: Mapping[Name, Place], index: int) -> dict[Name, Hashable]:
    return {name: place[index] for name, place in got.items()}


def _said(placed: Placed) -> str:
    return f"{placed.conversation} by {placed.rule}"


def _who(tenant: str, got: Mapping[Name, Place], name: Name) -> str:
    founders = {entry_id_of(SECRET, tenant, *other): other for other in got}
    conversation = got[name][1]
    return str(founders.get(conversation, conversation)) if conversation else "none"


def _apart(wanted: Mapping[Name, Hashable], got: Mapping[Name, Hashable]) -> list[Name]:
    """Return the names that are not grouped with just those that they should be grouped with."""
    by_wanted, by_got = defaultdict(set), defaultdict(set)
    for name in wanted:
        by_wanted[wanted[name]].add(name)
        by_got[got[name]].add(name)
    return [name for name in sorted(wanted) if by_wanted[wanted[name]] != by_got[got[name]]]


class Reader:
    """A reader of the timeline topic: it keeps the newest version of each thing, in whatever order they come."""

    def __init__(self) -> None:
        self.newest: dict[tuple[str, str], TimelineRecord] = {}

    def read(self, records: Iterable[TimelineRecord]) -> None:
        for record in records:
            known = self.newest.get((record.kind, record.key))
            assert known is None or known.version != record.version or _same(known, record), (known, record)
            if known is None or record.version > known.version:
                self.newest[record.kind, record.key] = record

    def bodies(self, kind: str) -> dict[str, dict[str, Any]]:
        return {key: r.body for (of, key), r in self.newest.items() if of == kind and not r.deleted}

    def places(self) -> dict[Name, Place]:
        """Return where this reader believes each posted event is."""
        leaves, conversations = self.bodies("leaf"), self.bodies("conversation")
        found: dict[Name, Place] = {}
        for entry in self.bodies("entry").values():
            if entry["source"] == "/threadline":
                continue
            conversation = entry["conversation_id"]
            canonical = conversations.get(conversation, {}).get("canonical_id", conversation)
            customer = leaves[entry["leaf_id"]]["customer_id"]
            found[entry["source"], entry["event_id"]] = (UUID(customer), UUID(canonical) if canonical else None)
        return found


def _same(one: TimelineRecord, other: TimelineRecord) -> bool:
    return (one.body, one.deleted) == (other.body, other.deleted)
