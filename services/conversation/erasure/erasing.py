"""Erase a person: out of every table and, as far as a log can, out of the log, within one transaction.

An erasure is decided on here and now, under the tenant's lock, and told to the log as an event that carries tombstones
(shared/tombstones.py). Whoever reads that event later, into whatever database, erases the same (`replay`). What stays
is what the rules give for the events that remain. Source: docs/decisions/0012-erasure.md
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID, uuid4

import asyncpg

from services.conversation import copies, tables
from services.conversation.batch import Batch
from services.conversation.entries import Entry
from services.conversation.erasure import store
from services.conversation.erasure.erased import hold, name_of, without_nodes
from services.conversation.erasure.forgetting import Forgetting
from services.conversation.erasure.traces import Traces
from services.conversation.facts import facts_of
from services.conversation.folding import Fold
from services.conversation.identity import Node
from services.conversation.loading import Loading
from services.conversation.publishing import publish
from services.conversation.saving import Saving
from services.conversation.update import decide_aside, put_events, renew
from shared import erasures
from shared.events import InboundEvent, TimelineRecord
from shared.log.protocol import Log
from shared.tombstones import Erasure, named, tombstone


class NobodysOwn(ValueError):
    """The handle is one that several people share: it is nobody's, so there is nobody to erase."""


@dataclass(slots=True)
class Condemned:
    """What an erasure takes away."""

    leaves: Sequence[asyncpg.Record] = ()
    entries: dict[UUID, Entry] = field(default_factory=dict)
    copies: dict[UUID, InboundEvent] = field(default_factory=dict)
    """Events of mails that another entry stands for, theirs or somebody's who stays."""
    restated: list[tuple[UUID, InboundEvent]] = field(default_factory=list)
    """Decisions about others that lose the handles of the erased."""
    orphans: dict[UUID, InboundEvent] = field(default_factory=dict)
    """Copies of mails that stay though the entry that stood for them goes."""

    @property
    def ids(self) -> list[UUID]:
        """All events that go, by the ids of the entries that they are or would be."""
        return [*self.entries, *self.copies]

    @property
    def nodes(self) -> set[Node]:
        return {row["node"] for row in self.leaves}

    def take_decisions(self, decisions: Iterable[Entry]) -> None:
        """Take the handles out of agents' decisions, and what is left empty of them whole."""
        nodes = self.nodes
        for entry in decisions:
            if entry.entry_id in self.entries:
                continue
            event = entry.event()
            left = without_nodes(event, nodes.__contains__)
            if left is None:
                self.entries[entry.entry_id] = entry
            elif left != event:
                self.restated.append((entry.entry_id, left))


async def erase_customer(
    connection: asyncpg.Connection, log: Log, tenant: str, secret: bytes, customer_id: UUID, now: datetime
) -> UUID | None:
    """Erase whoever answers for a customer id; return the erasure's id, None where nobody does or ever did.

    Runs in the caller's transaction. After its commit wake the readers of the topics inbound and timeline. An id that
    was erased before gives the erasure that it was. Raises NobodysOwn.
    """
    held = await _hold(connection, log, tenant, secret, now)
    leaves = await connection.fetch(store.LEAVES_OF_CUSTOMER, tenant, customer_id)
    if leaves and held.outstanding:
        held = await _decide_under_policy(connection, log, tenant, secret, leaves, now)
        leaves = await connection.fetch(store.LEAVES_OF_CUSTOMER, tenant, customer_id)
    if not leaves:
        asked = tombstone(secret, tenant, f"customer:{customer_id}")
        stone = (await erasures.known(connection, tenant, [asked])).get(asked)
        return stone.erasure_id if stone else None
    if any(row["shared"] for row in leaves):
        raise NobodysOwn
    batch = Batch(connection, tenant, held.policy, held.version, held.renewal, secret, now)
    entries = await tables.entries.entries_of_leaves(connection, tenant, [row["leaf_id"] for row in leaves])
    if not entries and all(row["node"].startswith("anonymous:") for row in leaves):
        return None  # a stand-in for the owner of a conversation that has become somebody's
    return await _erase(batch, log, leaves, entries, now)


async def forget_quiet(
    connection: asyncpg.Connection, log: Log, tenant: str, secret: bytes, since: datetime, now: datetime, most: int
) -> int:
    """Erase up to `most` customers with whom nothing has happened since an instant; return how many there were.

    It is one erasure, of what happened up to then: what comes late from after it is taken, as a new customer's. While
    a changed policy or what is set aside has still to say who is one customer, there is none.
    Runs in the caller's transaction. After its commit wake the readers of the topics inbound and timeline.
    """
    held = await tables.tenants.lock_tenant(connection, tenant)
    if held.outstanding or held.aside:
        return 0
    leaves = await connection.fetch(store.LEAVES_OF_QUIET, tenant, since, most)
    if leaves:
        batch = Batch(connection, tenant, held.policy, held.version, held.renewal, secret, now)
        entries = await tables.entries.entries_of_leaves(connection, tenant, [row["leaf_id"] for row in leaves])
        await _erase(batch, log, leaves, entries, since)
    return len({row["customer_id"] for row in leaves})


async def _hold(
    connection: asyncpg.Connection, log: Log, tenant: str, secret: bytes, now: datetime
) -> tables.tenants.Held:
    """Hold the tenant, and decide what it has set aside: what came before an erasure is part of what it finds."""
    held = await tables.tenants.lock_tenant(connection, tenant)
    if not held.aside:
        return held
    outcome = await decide_aside(connection, tenant, secret, now)
    if outcome is not None:
        await publish(log, connection, outcome.records)
    return await tables.tenants.lock_tenant(connection, tenant)


async def _decide_under_policy(
    connection: asyncpg.Connection,
    log: Log,
    tenant: str,
    secret: bytes,
    leaves: Iterable[asyncpg.Record],
    now: datetime,
) -> tables.tenants.Held:
    """Decide under the policy in force who these people are, where it was changed and their turn has not come."""
    outcome = await renew(connection, tenant, secret, now, [row["leaf_id"] for row in leaves])
    await publish(log, connection, outcome.records)
    return await tables.tenants.lock_tenant(connection, tenant)


async def _erase(
    batch: Batch, log: Log, leaves: Sequence[asyncpg.Record], entries: Iterable[Entry], at: datetime
) -> UUID:
    condemned = Condemned(leaves, {entry.entry_id: entry for entry in entries})
    await _take_said_weakly(batch, condemned, at)
    around = await store.decisions_around(batch.connection, batch.tenant, condemned.nodes)
    condemned.take_decisions(around.values())
    await _take_copies(batch, condemned, at)
    names = named(batch.secret, batch.tenant, sorted(condemned.nodes))
    erasure = Erasure(uuid4(), at, batch.now, tuple(condemned.ids), tuple(names))
    await _carry_out(batch, log, erasure, condemned)
    return erasure.erasure_id


async def replay(
    connection: asyncpg.Connection, log: Log, tenant: str, secret: bytes, read: Sequence[Erasure], now: datetime
) -> None:
    """Carry out erasures that were read from the log; those that were carried out here already change nothing."""
    await tables.tenants.lock_tenant(connection, tenant)
    fresh = [erasure for erasure in read if await erasures.is_fresh(connection, tenant, erasure)]
    if not fresh:
        return
    held = await _hold(connection, log, tenant, secret, now)
    batch = Batch(connection, tenant, held.policy, held.version, held.renewal, secret, now)
    for erasure in fresh:
        await _note(connection, tenant, erasure)
        await erasures.begin(connection, tenant, erasure, replayed=True, notes={})
    # One look at all that is here, whatever the number of erasures.
    condemned = await _found_again(batch)
    await _carry_out(batch, log, fresh[-1]._replace(entries=(), names=()), condemned, replayed=True)
    if condemned.orphans:
        outcome = await put_events(connection, tenant, list(condemned.orphans.values()), secret, now)
        await publish(log, connection, outcome.records)


async def _take_said_weakly(batch: Batch, condemned: Condemned, at: datetime) -> None:
    """Take what only a browser of theirs tells to be theirs, though it lies in somebody else's conversation.

    What comes again is dropped by that rule (`erased`), so what is here has to go by it as well.
    """
    for entry in await store.said_weakly(batch.connection, batch.tenant, condemned.nodes):
        if name_of(entry.facts(batch.policy)) in condemned.nodes and entry.occurred_at <= at:
            condemned.entries[entry.entry_id] = entry


async def _take_copies(batch: Batch, condemned: Condemned, at: datetime) -> None:
    """Take what was said in the same mails, and what they said that is a copy of somebody else's."""
    async for stands_for, id_, event in copies.all_copies(batch.connection, batch.tenant):
        said_by = name_of(facts_of(event, id_, batch.policy))
        if stands_for in condemned.entries or (said_by in condemned.nodes and event.occurred_at <= at):
            condemned.copies[id_] = event


async def _found_again(batch: Batch) -> Condemned:
    """Return what is here and erased by the stored tombstones: each entry is held against them as if it came now."""
    condemned, named = Condemned(), set[Node]()
    async for row in batch.connection.cursor(store.POSTED, batch.tenant, prefetch=1_000):
        entry = tables.entries.entry_of(row)
        (held,) = await hold(batch, [entry.event()], batch.now)
        if held.event is None:
            condemned.entries[entry.entry_id] = entry
            continue
        if held.event != entry.event():
            condemned.restated.append((entry.entry_id, held.event))
        facts = facts_of(held.event, entry.entry_id, batch.policy)
        named |= {*facts.nodes, *facts.claimants, *(node for a, b, _ in facts.decisions for node in (a, b))}
    async for stands_for, id_, event in copies.all_copies(batch.connection, batch.tenant):
        (held,) = await hold(batch, [event], batch.now)
        if held.event is None:
            condemned.copies[id_] = event
            continue
        facts = facts_of(event, id_, batch.policy)
        named |= {*facts.nodes, *facts.claimants}
        if stands_for in condemned.entries:
            condemned.orphans[id_] = event
    condemned.leaves = await _leaves_of_nobody(batch, named, condemned.entries)
    return condemned


async def _leaves_of_nobody(batch: Batch, named: Collection[Node], gone: Collection[UUID]) -> Sequence[asyncpg.Record]:
    """Return the leaves that are erased by the stored tombstones, and named by no event that stays."""
    rows = await batch.connection.fetch(store.NODES, batch.tenant)
    digests = {tombstone(batch.secret, batch.tenant, node): leaf for leaf, node in rows if node not in named}
    known = await erasures.known(batch.connection, batch.tenant, digests)
    leaves = {leaf for digest, leaf in digests.items() if digest in known}
    anonymous = {f"anonymous:{id_}" for id_ in gone}
    leaves |= {leaf for leaf, node in rows if node in anonymous}
    found: Sequence[asyncpg.Record] = await batch.connection.fetch(store.LEAVES_BY_IDS, batch.tenant, list(leaves))
    return found


async def _carry_out(batch: Batch, log: Log, erasure: Erasure, condemned: Condemned, *, replayed: bool = False) -> None:
    connection, tenant = batch.connection, batch.tenant
    entries = list(condemned.entries.values())
    traces = Traces(batch, log, erasure, condemned.leaves, entries, condemned.copies, condemned.restated)
    await traces.read()
    await store.restate(connection, tenant, condemned.restated)
    forgetting = Forgetting(batch, traces.derived_ids, [*condemned.copies, *condemned.orphans])
    leaves = [row["leaf_id"] for row in condemned.leaves]
    stands_for_others = await copies.that_stand(connection, tenant, condemned.copies) - condemned.entries.keys()
    whole = replayed or bool(stands_for_others)
    await (forgetting.forget_whole if whole else forgetting.forget)(entries, leaves)
    found = forgetting.found
    groups = {id_: c.canonical_id for id_, c in batch.conversations.items()}
    theirs = {groups[e.conversation_id] for e in entries if e.conversation_id in groups}
    # A word that lost handles may be somebody else's now, and on another timeline.
    unsettled = forgetting.unsettled or bool(condemned.restated) or bool(batch.people.outdated(batch.renewal))
    decided = await _decide_everything(batch) if unsettled else batch
    batch.outcome = decided.outcome
    where = await _decided(decided)
    await store.hand_over_the_past(connection, tenant, leaves)
    _keep_together(batch, decided, {id_: g for id_, g in groups.items() if g in theirs}, where)
    traces.conversations = _renamed(decided, where)
    found["conversations"] = sum(1 for id_, group in groups.items() if group in theirs and id_ not in where.kept)
    gone = [(tables.changes.GONE, entry) for entry in traces.all_entries]
    await tables.changes.save_changes(connection, tenant, gone, batch.now)
    found |= await traces.erase()
    await traces.publish(batch.outcome.records)
    batch.outcome.erased |= set(condemned.ids)
    asked = {row["leaf_id"] for row in condemned.leaves if row["was_customer"]}
    asked |= {row["customer_id"] for row in condemned.leaves}
    customers = named(batch.secret, tenant, (f"customer:{customer}" for customer in asked))
    await _note(connection, tenant, erasure._replace(entries=(*erasure.entries, *condemned.ids)), customers)
    await erasures.begin(connection, tenant, erasure, replayed=replayed, notes=traces.notes)
    await erasures.add_findings(connection, tenant, erasure.erasure_id, found)
    await traces.tell(erasure, replayed=replayed)
    batch.outcome.records = []


@dataclass(frozen=True, slots=True)
class Decided:
    """Where things are after what stays was decided."""

    placed: dict[UUID, UUID]
    """Entry → the conversation it was placed in."""
    canonical: dict[UUID, UUID]
    """Conversation → the one that it became part of."""
    kept: frozenset[UUID]


async def _decided(batch: Batch) -> Decided:
    fold = Fold(batch)
    fold.run()
    await Saving(batch, fold).save()
    canonical = fold.stitcher.canonical
    placed = {id_: p.conversation_id for id_, p in fold.placements.items() if p.conversation_id is not None}
    kept = frozenset(fold.stitcher.conversations) | {id_ for id_ in batch.conversations if id_ not in batch.rebuilt}
    return Decided(placed, canonical, frozenset(kept | set(canonical)))


async def _decide_everything(batch: Batch) -> Batch:
    """Return a batch with all of the tenant that is left, where the part that was touched does not tell enough."""
    whole = Batch(batch.connection, batch.tenant, batch.policy, batch.version, batch.renewal, batch.secret, batch.now)
    await Loading(whole).take_all()
    for id_, conversation in batch.conversations.items():
        whole.conversations.setdefault(id_, conversation)
    whole.rebuilt = set(whole.conversations)
    return whole


def _keep_together(batch: Batch, decided: Batch, theirs: dict[UUID, UUID], where: Decided) -> None:
    """Keep the numbers as they are: a conversation that lives on under another id takes its anonymous part along.

    Readers of the topic keep the erased entries as numbers in the conversation where they were; they are told that it
    is now part of the one where most of what others said there is.
    """
    records = [r for r in batch.outcome.records if not (r.kind == "conversation" and UUID(r.key) in theirs)]
    told = {UUID(r.key): r for r in batch.outcome.records if r.kind == "conversation"}
    heirs: dict[UUID, UUID] = {}
    for entry in sorted(decided.stored.values(), key=lambda e: (e.occurred_at, e.source, e.event_id)):
        group = theirs.get(entry.conversation_id) if entry.conversation_id else None
        heir = where.placed.get(entry.entry_id)
        if group is not None and heir is not None:
            heirs.setdefault(group, where.canonical.get(heir, heir))
    for id_, group in theirs.items():
        if id_ in where.kept:
            records += [told[id_]] if id_ in told else []
        elif group in heirs:
            body = {"canonical_id": str(heirs[group]), "follow_up_of": None}
            version, now = batch.version, batch.now
            records.append(TimelineRecord(batch.tenant, "conversation", str(id_), version, body, recorded_at=now))
    batch.outcome.records = records


def _renamed(decided: Batch, where: Decided) -> dict[UUID, UUID]:
    """Return the conversations that live on under another id, with that id: what is counted by them stays in one."""
    found: dict[UUID, UUID] = {}
    for entry in sorted(decided.stored.values(), key=lambda e: (e.occurred_at, e.source, e.event_id)):
        old, new = entry.conversation_id, where.placed.get(entry.entry_id)
        if old is not None and new is not None and old not in where.kept:
            found.setdefault(old, new)
    return found


async def _note(connection: asyncpg.Connection, tenant: str, erasure: Erasure, customers: Iterable[UUID] = ()) -> None:
    """Store the tombstones, and have the tenant's events held against them from now on."""
    await erasures.put(connection, tenant, erasures.ENTRY, erasure.entries, erasure)
    await erasures.put(connection, tenant, erasures.NAME, erasure.names, erasure)
    await erasures.put(connection, tenant, erasures.CUSTOMER, customers, erasure)
    await store.mark_tenant(connection, tenant, erasure.erased_at)
