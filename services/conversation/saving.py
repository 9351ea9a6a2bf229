"""Store what a batch decided, and note what to publish."""

from __future__ import annotations

from collections.abc import Collection, Container, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

import asyncpg

from services.conversation import checkpoints, copies, tables
from services.conversation.batch import BEGINNING, Batch
from services.conversation.entries import Entry, derived, made_from, record_of
from services.conversation.facts import UNITED, Facts
from services.conversation.folding import Fold
from services.conversation.identity import Node, strength
from services.conversation.people import Leaf
from services.conversation.seen import Seen, SeenLeaves
from services.conversation.stitching import Placement
from services.conversation.summary import Summary
from services.conversation.tables.conversations import StoredConversation, week
from services.conversation.tables.rows import Rows
from services.conversation.writing import Writing, breathe, parts
from shared import handles
from shared.events import TimelineRecord


class Placed(NamedTuple):
    """What becomes of entries (new, moved, derived anew, derived no longer, derived otherwise) and of bindings."""

    new: list[Entry]
    moved: list[Entry]
    fresh: list[Entry]
    stale: list[Entry]
    kept: list[Entry]
    rebound: tables.conversations.Rebound


async def look_up_bindings(batch: Batch) -> None:
    """Look up the stored bindings of what is decided again: they are compared with those that the decision makes."""
    asked = {*batch.stored, *batch.displaced} - batch.bindings_known
    if asked:
        batch.bindings_known |= asked
        batch.bindings.update(await tables.conversations.bindings_of(batch.connection, batch.tenant, asked))


class Saving:
    """Carries out the decisions on a batch. One statement per concern."""

    def __init__(self, batch: Batch, fold: Fold) -> None:
        self._batch = batch
        self._connection, self._tenant, self._people = batch.connection, batch.tenant, batch.people
        self._fold = fold
        self._leaf_of: dict[UUID, UUID] = {}
        """Decided entry → the leaf that owns it."""

    async def place(self) -> Placed:
        """Work out, after `look_up_bindings`, all of what is decided that takes long. Asks and changes nothing."""
        moved, new = self._place(), await self._new()
        return Placed(new, moved, *self._derive(new, moved), self._rebound())

    async def save_in(self, connection: asyncpg.Connection, version: int, now: datetime, placed: Placed) -> None:
        """Do what `save` does, as of now and within another transaction than the one that looked.

        Nothing that the batch had to do with may have changed in between.
        """
        self._batch.connection = self._connection = connection
        self._batch.version, self._batch.now = version, now
        new, fresh = ([entry._replace(recorded_at=now) for entry in some] for some in (placed.new, placed.fresh))
        await self.save(placed._replace(new=new, fresh=fresh))

    async def save(self, placed: Placed | None = None) -> None:
        """Store what changed and note what to publish. What comes next is made ready while the database is at work."""
        moved = self._place() if placed is None else placed.moved
        rows, gone = self._conversations()
        self._publish_conversations(rows, gone)
        async with Writing() as writing:
            reowning = writing.begin(self._write_conversations, rows, gone)
            await breathe()
            writing.begin(self._write_people, *self._seen(moved))
            await breathe()
            writing.begin(self._write_ways, moved, placed)
            new = await self._new() if placed is None else placed.new
            fresh, stale, kept = self._derive(new, moved) if placed is None else placed[2:5]
            writing.begin(self._write_entries, [*new, *fresh], [*moved, *kept], stale, kept)
            reowned = await reowning
            own = {entry.entry_id for entry in (*new, *moved, *fresh, *kept, *stale, *self._batch.displaced.values())}
            changed = [*new, *moved, *(entry for entry in reowned if entry.entry_id not in own)]
            added = {entry.entry_id for entry in (*new, *fresh)}
            writing.begin(self._write_changes, added, [*changed, *fresh, *kept], stale, reowned)
            await self._publish(changed, [*fresh, *kept], stale)
        self._batch.outcome.new, self._batch.outcome.moved = len(new), len(moved)

    async def _write_conversations(self, rows: Sequence[StoredConversation], gone: Sequence[UUID]) -> list[Entry]:
        """Store conversations; return the entries that follow a conversation to another owner."""
        known = self._batch.conversations
        regrouped = [row.id for row in rows if row.id in known and row.canonical_id != known[row.id].canonical_id]
        now = self._batch.now
        await tables.conversations.save_conversations(self._connection, self._tenant, rows, regrouped, gone, now)
        await self._save_checkpoints(gone)
        reowned = await self._reown(rows)
        sightings: Sightings = {}
        for entry in sorted(reowned, key=lambda entry: entry.occurred_at):
            if entry.data.get("customer"):
                sighted(sightings, entry.facts(self._batch.policy), entry.leaf_id)
        await tables.leaves.save_sightings(self._connection, self._tenant, list(sightings.values()))
        return reowned

    async def _save_checkpoints(self, gone: Collection[UUID]) -> None:
        """Store how far long conversations had come; what is told anew, or no more, has none behind its instant."""
        batch, stored = self._batch, self._batch.conversations
        told_anew = [(id_, batch.since(id_)) for id_ in batch.rebuilt] + [(id_, BEGINNING) for id_ in gone]
        if any(stored[id_].summary.entries >= checkpoints.EVERY for id_, _ in told_anew if id_ in stored):
            await tables.checkpoints.delete(self._connection, self._tenant, told_anew)
        made = [one for id_, ones in self._fold.checkpoints.items() if id_ not in gone for one in ones]
        if made:
            await tables.checkpoints.save(self._connection, self._tenant, made)

    async def _write_people(self, seen: Mapping[UUID, Seen], sightings: Rows) -> None:
        people, renewal = self._people, self._batch.renewal
        changed = [people.leaves[node] for node in people.changed]
        await tables.leaves.save_leaves(self._connection, self._tenant, changed, renewal, seen, self._batch.now)
        await tables.renewals.remove_links(self._connection, self._tenant, self._batch.unsaid)
        await tables.leaves.save_links(self._connection, self._tenant, self._batch.evidence, renewal)
        await tables.leaves.save_sightings(self._connection, self._tenant, sightings)

    async def _write_ways(self, moved: Sequence[Entry], placed: Placed | None) -> None:
        """Store by which ways conversations are found again: who takes part, and the keys that they are named by."""
        await self._save_participations(moved)
        if placed is None:
            await look_up_bindings(self._batch)
        rebound = self._rebound() if placed is None else placed.rebound
        await tables.conversations.save_bindings(self._connection, self._tenant, rebound)

    def _rebound(self) -> tables.conversations.Rebound:
        return tables.conversations.rebound(self._batch.bindings, self._fold.stitcher.bindings)

    async def _write_entries(
        self, added: Sequence[Entry], moved: Sequence[Entry], stale: Sequence[Entry], kept: Sequence[Entry]
    ) -> None:
        gone = [entry.entry_id for entry in (*stale, *self._batch.displaced.values())]
        # What follows from another entry may say something else than before: a late one was between.
        told_otherwise = [e for e in kept if e.data != self._batch.derived[e.entry_id].data]
        now = self._batch.now
        await tables.entries.delete_entries(self._connection, self._tenant, gone, now)
        await copies.save(self._connection, self._tenant, self._batch.copies, self._batch.displaced)
        await tables.entries.insert_entries(self._connection, added)
        await tables.entries.move_entries(self._connection, self._tenant, moved, now)
        await tables.entries.rewrite_entries(self._connection, self._tenant, told_otherwise, now)

    async def _write_changes(
        self, added: Container[UUID], changed: Sequence[Entry], stale: Sequence[Entry], reowned: Sequence[Entry]
    ) -> None:
        """Store what follows from where entries are now: who takes part until when, and what streams tell."""
        reowned_in = {entry.conversation_id for entry in reowned if entry.conversation_id}
        await tables.conversations.recount_participations(self._connection, self._tenant, reowned_in)
        active = self._active(reowned_in)
        await tables.conversations.save_weeks(self._connection, self._tenant, active)
        told = [(tables.changes.NEW if e.entry_id in added else tables.changes.CORRECTED, e) for e in changed]
        told += [(tables.changes.GONE, entry) for entry in (*stale, *self._batch.displaced.values())]
        await tables.changes.save_changes(self._connection, self._tenant, _in_order(told), self._batch.now)

    def moved(self) -> list[Entry]:
        """Return the stored entries that the decisions put elsewhere, as they would be. Stores nothing."""
        return self._place()

    def _place(self) -> list[Entry]:
        """Say whose each decided entry is; return the stored ones that the decisions put elsewhere."""
        moved = []
        for id_, fact in self._batch.facts.items():
            placement = self._fold.placements[id_]
            leaf = self._leaf_of[id_] = self._leaf_for(fact, placement)
            if id_ in self._batch.arrivals:
                continue
            old = self._batch.stored[id_]
            place = leaf, placement.conversation_id, placement.rule, placement.key, fact.automatic
            ownerless = not self._people.owner(fact)
            # Of most that is decided again nothing changes, so no entry is made of it.
            if (*place, ownerless) != old.place:
                moved.append(old.moved(*place, by_conversation=ownerless))
        return moved

    async def _new(self) -> list[Entry]:
        """Make the entries of new events."""
        made = []
        for some in parts(list(self._batch.arrivals)):
            for id_ in some:
                event, digest = self._batch.arrivals[id_].event, self._batch.arrivals[id_].digest
                fact, placement = self._batch.facts[id_], self._fold.placements[id_]
                ownerless = not self._people.owner(fact)
                made.append(
                    made_from(
                        event, fact, self._leaf_of[id_], placement, self._batch.now, digest, by_conversation=ownerless
                    )
                )
            await breathe()
        return made

    def _leaf_for(self, fact: Facts, placement: Placement) -> UUID:
        owner = self._people.owner(fact)
        if owner:
            return owner.leaf_id
        if placement.conversation_id is not None:
            leaf_id = self._fold.stitcher.conversation(placement.conversation_id).owner_leaf
            if leaf_id is not None:
                return leaf_id
        return (self._people.person(fact) or self._people.leaf(fact.nobody)).leaf_id

    def _derive(self, new: Sequence[Entry], moved: Sequence[Entry]) -> tuple[list[Entry], list[Entry], list[Entry]]:
        """Derive what follows from the placements; return what is new, what no longer holds, what changed its place."""
        entries = {**self._batch.stored, **{entry.entry_id: entry for entry in (*new, *moved)}}
        holds: dict[UUID, Entry] = {}
        for id_, placement in self._fold.placements.items():
            for entry in self._derived_from(entries[id_], self._batch.facts[id_], placement):
                holds[entry.entry_id] = entry
        stale = [e for id_, e in self._batch.derived.items() if id_ not in holds and self._decided_again(e)]
        fresh = [entry for id_, entry in holds.items() if id_ not in self._batch.derived]
        kept = []
        for id_, entry in holds.items():
            old = self._batch.derived.get(id_)
            if old and (old.leaf_id, old.conversation_id, old.data) != (
                entry.leaf_id, entry.conversation_id, entry.data
            ):  # fmt: skip
                kept.append(entry._replace(version=old.version + 1, recorded_at=old.recorded_at))
        return fresh, stale, kept

    def _decided_again(self, entry: Entry) -> bool:
        return entry.cause_id in self._batch.stored or entry.cause_id in self._batch.displaced

    def _derived_from(self, cause: Entry, fact: Facts, placement: Placement) -> list[Entry]:
        if placement.conversation_id is None:
            return []
        made: list[tuple[str, dict[str, object]]] = []
        if placement.founded and fact.type != "conversation.opened":
            # A call is queued by whoever rings, and nobody of the company wrote a mail that a machine sent us.
            initiator = "company" if fact.type == "message.sent" else "customer"
            opened: dict[str, object] = {"channel": fact.channel, "initiator": initiator}
            if placement.follow_up_of:
                opened["follow_up_of"] = str(placement.follow_up_of)
            made.append(("conversation.opened", opened))
        if placement.reopened:
            made.append(("conversation.reopened", {"channel": fact.channel}))
        if placement.escalated_from:
            change = {"from_channel": placement.escalated_from, "to_channel": fact.channel, "channel": fact.channel}
            made.append(("conversation.escalated", {**change, "to_contact": fact.contact}))
        # What an integration posted is there already.
        for gone, into in placement.merged if fact.type != UNITED else ():
            made.append(("conversation.merged", {"from": str(gone), "into": str(into), "channel": fact.channel}))
        if not made:
            return []
        owner = self._fold.stitcher.conversation(placement.conversation_id).owner_leaf or cause.leaf_id
        recorded = cause._replace(recorded_at=self._batch.now)
        return [derived(recorded, kind, data, self._batch.secret, owner) for kind, data in made]

    def _conversations(self) -> tuple[list[StoredConversation], list[UUID]]:
        """Return the conversations to store, and those that are no more."""
        stitcher = self._fold.stitcher
        touched = {p.conversation_id for p in self._fold.placements.values() if p.conversation_id} | self._batch.rebuilt
        touched |= {stitcher.canonical.get(id_, id_) for id_ in touched}
        touched |= set(self._fold.merges) | {into for into, _ in self._fold.merges.values()}
        # A merge moves everything that was merged into the lesser one before.
        touched |= {
            id_
            for id_, target in stitcher.canonical.items()
            if id_ not in self._batch.conversations or self._batch.conversations[id_].canonical_id != target
        }
        rows, gone = [], []
        for id_ in sorted(touched):
            if id_ in stitcher.conversations:
                rows.append(self._conversation_row(id_))
            elif id_ in self._batch.conversations and id_ not in self._batch.rebuilt:
                rows.append(replace(self._batch.conversations[id_], canonical_id=stitcher.canonical[id_]))
            else:
                gone.append(id_)
        return rows, gone

    def _conversation_row(self, id_: UUID) -> StoredConversation:
        into, by = self._fold.merges.get(id_, (None, None))
        return StoredConversation(
            id=id_,
            canonical_id=self._fold.stitcher.canonical.get(id_, id_),
            merged_into=into,
            merged_by=by,
            state=self._fold.stitcher.conversations[id_],
            summary=self._fold.summaries.get(id_) or Summary(),
        )

    async def _reown(self, rows: Sequence[StoredConversation]) -> list[Entry]:
        """Entries without an owner of their own belong to whoever owns the conversation now."""
        owners: dict[UUID, UUID] = {}
        merged_into = {into for into, _ in self._fold.merges.values()}
        for row in rows:
            before = self._batch.conversations.get(row.id)
            owner = self._fold.stitcher.conversations[row.canonical_id].owner_leaf
            if before is None or owner is None:
                continue
            was = self._batch.conversations[before.canonical_id].state.owner_leaf
            merged = before.canonical_id != row.canonical_id or row.id in merged_into
            if merged or (row.id in self._batch.rebuilt and owner != was):
                owners[row.canonical_id] = owner
        return await tables.entries.reown_entries(self._connection, self._tenant, owners.items(), self._batch.now)

    def _seen(self, moved: Sequence[Entry]) -> tuple[Mapping[UUID, Seen], Rows]:
        """Return what the new entries say of the handles they name and of their owners, and what was seen where."""
        seen = SeenLeaves()
        sightings: Sightings = {}
        said = [(arrival.facts, arrival.event, self._leaf_of[id_]) for id_, arrival in self._batch.arrivals.items()]
        said += [(copy.facts, copy.event, self._leaf_of[copy.stands_for]) for copy in self._batch.copies]
        for fact, event, leaf_id in sorted(said, key=lambda item: item[0].order):
            self._claimed(seen, fact)
            sighted(sightings, fact, leaf_id)
            self._owned(seen, leaf_id, fact, event.data)
        for fact in self._read_again():
            self._claimed(seen, fact)
            sighted(sightings, fact, self._leaf_of[fact.entry_id])
        for entry in sorted(moved, key=lambda entry: entry.occurred_at):
            fact = self._batch.facts[entry.entry_id]
            sighted(sightings, fact, entry.leaf_id)
            self._owned(seen, entry.leaf_id, fact, entry.data)
        return seen.by_leaf(), list(sightings.values())

    def _read_again(self) -> list[Facts]:
        """Return what entries say that are decided again without anything new, in their order.

        The policy may let handles count that it did not when they came: nothing is known yet of their being seen.
        """
        if self._batch.arrivals or self._batch.copies:
            return []
        return sorted((self._batch.facts[id_] for id_ in self._batch.stored), key=lambda fact: fact.order)

    def _claimed(self, seen: SeenLeaves, fact: Facts) -> None:
        for claim in fact.claims:
            leaf = self._people.leaves.get(claim.node) if claim.usable else None
            if leaf is not None:
                seen.of(leaf.leaf_id).claimed(claim, fact.occurred_at)

    def _owned(self, seen: SeenLeaves, leaf_id: UUID, fact: Facts, data: Mapping[str, Any]) -> None:
        own = (self._people.leaves.get(node) for node in (*fact.claimants, fact.nobody))
        names_it = any(leaf is not None and leaf.leaf_id == leaf_id for leaf in own)
        seen.of(leaf_id).owns(fact, data.get("customer") or {}, names_it=names_it)

    async def _save_participations(self, moved: Sequence[Entry]) -> None:
        rows = {(entry.leaf_id, entry.conversation_id) for entry in moved if entry.conversation_id}
        rows |= {
            (self._leaf_of[id_], conversation_id)
            for id_ in self._batch.arrivals
            if (conversation_id := self._fold.placements[id_].conversation_id)
        }
        if self._batch.rebuilt:
            rows |= {(e.leaf_id, e.conversation_id) for e, _ in self._batch.history if e.conversation_id}
            rows |= {(leaf, id_) for id_, one in self._batch.checkpoints.items() for leaf in one.participants}
            placed = ((self._leaf_of[i], self._fold.placements[i].conversation_id) for i in self._batch.stored)
            rows |= {(leaf, conversation) for leaf, conversation in placed if conversation}
        known = [(leaf, id_, self._fold.last_entry_at(id_)) for leaf, id_ in rows if id_ is not None]
        await tables.conversations.save_participations(self._connection, self._tenant, self._batch.rebuilt, known)

    def _active(self, told_anew: Container[UUID]) -> list[tuple[UUID, datetime]]:
        """Return (conversation, last entry) for those whose week is another one than before, or not stored.

        Who takes part in what was told anew has been stored with its week.
        """
        found = []
        for id_, before in self._fold.active_before.items():
            if self._fold.holds(id_) and (id_ in told_anew or id_ not in self._batch.rebuilt):
                at = self._fold.last_entry_at(id_)
                if id_ in told_anew or before is None or (at != before and week(before) != week(at)):
                    found.append((id_, at))
        return found

    async def _publish(self, changed: Sequence[Entry], derived_: Sequence[Entry], stale: Sequence[Entry]) -> None:
        records, version, now = self._batch.outcome.records, self._batch.version, self._batch.now
        for node in sorted(self._people.moved):
            leaf = self._people.leaves[node]
            kind, _, value = node.partition(":")
            body = {"customer_id": str(leaf.customer_id), "kind": kind, "value": value, **self._change_of(leaf)}
            records.append(TimelineRecord(self._tenant, "leaf", str(leaf.leaf_id), version, body, recorded_at=now))
        for some in parts(changed):
            records += [record_of(entry, now, version=version if entry.derived else None) for entry in some]
            await breathe()
        records += [record_of(entry, now, version=version) for entry in derived_]
        records += [record_of(entry, now, deleted=True, version=version) for entry in stale]
        displaced = self._batch.displaced.values()
        records += [record_of(entry, now, deleted=True, version=entry.version + 1) for entry in displaced]

    def _change_of(self, leaf: Leaf) -> dict[str, str]:
        """Return what became of the customer that a leaf belonged to and whether that is a merge or its opposite."""
        was = self._people.was.get(leaf.node)
        if was is None or was == leaf.customer_id:
            return {}
        merged = self._people.by_id[was].customer_id != was if was in self._people.by_id else True
        return {"was": str(was), "change": "customer.merged" if merged else "customer.unmerged"}

    def _publish_conversations(self, rows: Sequence[StoredConversation], gone: Sequence[UUID]) -> None:
        version, now = self._batch.version, self._batch.now
        for row in rows:
            before = self._batch.conversations.get(row.id)
            canonical = before.canonical_id if before else row.id
            if row.canonical_id != canonical or (before is None and row.state.follow_up_of):
                follow_up_of = str(row.state.follow_up_of) if row.state.follow_up_of else None
                body = {"canonical_id": str(row.canonical_id), "follow_up_of": follow_up_of}
                self._batch.outcome.records.append(
                    TimelineRecord(self._tenant, "conversation", str(row.id), version, body, recorded_at=now)
                )
        for id_ in gone:
            body = {"canonical_id": str(id_), "follow_up_of": None}
            self._batch.outcome.records.append(
                TimelineRecord(self._tenant, "conversation", str(id_), version, body, deleted=True, recorded_at=now)
            )


def _in_order(changes: list[tuple[bytes, Entry]]) -> list[tuple[bytes, Entry]]:
    """Sort changes as they happened, what follows from an entry right behind it."""
    return sorted(changes, key=lambda change: (change[1].occurred_at, change[1].derived, change[1].source))


Sightings = dict[tuple[Node, UUID], list[Any]]
"""(handle that identifies nobody by itself, leaf beside which it was seen) → the row of `sighting`."""


def sighted(sightings: Sightings, fact: Facts, leaf_id: UUID) -> None:
    """Note which such handles an entry names whose owner is this leaf. Entries come in their order."""
    at = fact.occurred_at
    for claim in fact.claims:
        if claim.usable and strength(claim.node) >= handles.WEAK:
            shown = claim.shown.partition(":")[2]
            row = sightings.setdefault((claim.node, leaf_id), [claim.node, leaf_id, shown, False, at, at])
            row[3], row[4], row[5] = bool(row[3]) or claim.verified, min(row[4], at), max(row[5], at)
