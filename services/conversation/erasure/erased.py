"""Events held against tombstones: what an erased person said or did before their erasure is dropped if it comes again.

The rule, a function of the event and the tombstones alone:

1. an event whose entry was erased is dropped;
2. else one that happened and was received up to the erasure of its owner (its strongest handle or its session;
   without those its browser) is dropped, though nobody has seen it before;
3. an agent's decision about people loses the handles that were erased since, and its reason with them; it is dropped
   with one of its sides.

What is received of somebody after their erasure is a new customer's. Source: docs/decisions/0012-erasure.md
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from services.conversation.batch import Batch
from services.conversation.facts import Facts, facts_of
from services.conversation.identity import Node
from shared import erasures
from shared.entry_ids import entry_id_of
from shared.events import DECISIONS, TYPE_PREFIX, InboundEvent
from shared.tombstones import tombstone


def name_of(facts: Facts) -> Node | None:
    """Return the name by which an event is somebody's: what owns it or, without that, the browser it came from."""
    return facts.owners[0] if facts.owners else facts.weak


def is_decision(event: InboundEvent) -> bool:
    return event.type.removeprefix(TYPE_PREFIX) in DECISIONS


def without_nodes(event: InboundEvent, gone: Callable[[str], bool]) -> InboundEvent | None:
    """Return an agent's decision without the handles that are gone; None where one side has none left.

    Its reason goes with them: nobody knows whom an agent's own words tell of.
    """
    sides = [[str(node) for node in side] for side in event.data["sides"]]
    left = [[node for node in side if not gone(node)] for side in sides]
    if left == sides:
        return event
    said = {name: value for name, value in event.data.items() if name != "reason"}
    return replace(event, data={**said, "sides": left}) if all(left) else None


@dataclass(frozen=True, slots=True)
class Question:
    """What of an event is held against tombstones: the ids and names that would make it an erased person's."""

    event: InboundEvent
    entry_id: UUID
    owner: UUID | None = None
    """Keyed hash of the name of whose it is."""
    nodes: dict[str, UUID] = field(default_factory=dict)
    """Of an agent's decision: the handles it names, with their keyed hashes."""

    @property
    def digests(self) -> Iterable[UUID]:
        return (self.entry_id, *((self.owner,) if self.owner else ()), *self.nodes.values())


def question(batch: Batch, event: InboundEvent, erased_at: datetime) -> Question:
    """Return what has to be asked of an event of a tenant whose latest erasure was at `erased_at`."""
    tenant, secret = batch.tenant, batch.secret
    asked = Question(event, entry_id_of(secret, tenant, event.source, event.id))
    if event.occurred_at > erased_at:
        return asked
    try:
        if is_decision(event):
            nodes = {str(node) for side in event.data["sides"] for node in side}
            return replace(asked, nodes={node: tombstone(secret, tenant, node) for node in nodes})
        facts = facts_of(event, asked.entry_id, batch.policy)
    except (KeyError, TypeError, AttributeError, ValueError):
        return asked  # it cannot be read, which is said where it is read next
    name = name_of(facts)
    return replace(asked, owner=tombstone(secret, tenant, name)) if name else asked


async def without_erased(batch: Batch, events: Sequence[InboundEvent], erased_at: datetime) -> list[InboundEvent]:
    """Return the events that are no erased person's. The others are noted in the outcome, and as tombstones."""
    kept = []
    for held in await hold(batch, events, erased_at):
        if held.event is not None:
            kept.append(held.event)
        if held.stone is None:
            continue
        batch.outcome.erased.add(held.entry_id)
        if not held.was_known:
            await erasures.put(
                batch.connection,
                batch.tenant,
                erasures.ENTRY,
                [held.entry_id],
                held.stone,
            )
    return kept


class Held(NamedTuple):
    """An event as tombstones leave it: whole, with less in it, or dropped (None) for a tombstone."""

    entry_id: UUID
    event: InboundEvent | None
    stone: erasures.Tombstone | None = None
    was_known: bool = False
    """Whether there is a tombstone of this very entry already."""


async def hold(batch: Batch, events: Sequence[InboundEvent], erased_at: datetime) -> list[Held]:
    """Hold events against the tenant's tombstones, the latest of which is of `erased_at`."""
    asked = [question(batch, event, erased_at) for event in events]
    digests = {digest for each in asked for digest in each.digests}
    known = await erasures.known(batch.connection, batch.tenant, digests)
    return [_held(each, known) for each in asked]


def _held(asked: Question, known: Mapping[UUID, erasures.Tombstone]) -> Held:
    event = asked.event
    if asked.entry_id in known:
        return Held(asked.entry_id, None, known[asked.entry_id], was_known=True)
    stone = known.get(asked.owner) if asked.owner else None
    if stone is not None and stone.covers(event):
        return Held(asked.entry_id, None, stone)
    gone = {
        node: known[digest] for node, digest in asked.nodes.items() if digest in known and known[digest].covers(event)
    }
    left = without_nodes(event, gone.__contains__) if gone else event
    return Held(asked.entry_id, left, None if left is not None else next(iter(gone.values())))
