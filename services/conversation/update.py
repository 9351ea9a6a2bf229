"""One tenant's new events put where they belong: load what they touch, decide, save what changed.

The decisions are those of `identity`, `people` and `stitching`; here is what they need to know and what becomes of
their answers. Most events come in order: then the state before them is what is stored, and the fold takes just the
new ones. Where something stored lies after a new event (it is late, or it changes who is one customer), the fold
starts at that instant: the state before it is built from history, and everything connected from then on is taken
again. Source: docs/decisions/0005-stitching-as-a-fold.md
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TypeVar
from uuid import UUID, uuid4

import asyncpg

from services.conversation import store
from services.conversation.entries import Entry, derived, digest_of, made_from, record_of
from services.conversation.facts import Facts, Key, facts_of
from services.conversation.identity import Evidence, strength
from services.conversation.people import Leaf, People
from services.conversation.policy import Policy
from services.conversation.scope import Name, Scope
from services.conversation.stitching import Placement, Stitcher
from services.conversation.store import StoredConversation
from services.conversation.summary import Summary
from shared import handles
from shared.entry_ids import entry_id_of
from shared.errors import Rejected
from shared.events import InboundEvent, TimelineRecord

T = TypeVar("T")

BEGINNING = datetime(1, 1, 2, tzinfo=UTC)
"""Before every event."""


@dataclass(slots=True)
class Arrival:
    """One event of the batch that is new."""

    event: InboundEvent
    facts: Facts
    digest: bytes


@dataclass(slots=True)
class Outcome:
    """What a batch did to a tenant: the records to publish and some counts for telemetry."""

    records: list[TimelineRecord] = field(default_factory=list)
    new: int = 0
    repeated: int = 0
    conflicts: int = 0
    moved: int = 0


async def put_events(
    connection: asyncpg.Connection, tenant: str, events: Sequence[InboundEvent], secret: bytes, now: datetime
) -> Outcome:
    """Put one tenant's events on the timeline; those that are there already change nothing.

    Runs in the caller's transaction and holds the tenant until its end.
    """
    stored, version = await store.lock_tenant(connection, tenant)
    update = Update(connection, tenant, stored.policy, version, secret, now)
    await update.take(events)
    await update.decide()
    await update.save()
    return update.outcome


async def resolve_again(
    connection: asyncpg.Connection, tenant: str, secret: bytes, now: datetime, policy: Policy | None = None
) -> Outcome:
    """Decide everything of a tenant anew from its stored entries, under `policy` where given, which is stored."""
    stored, version = await store.lock_tenant(connection, tenant)
    if policy is not None:
        await store.put_policy(connection, tenant, policy)
    update = Update(connection, tenant, policy or stored.policy, version, secret, now)
    await update.take_all()
    await update.decide()
    await update.save()
    return update.outcome


class Update:
    """The work on one tenant within one transaction."""

    def __init__(
        self,
        connection: asyncpg.Connection,
        tenant: str,
        policy: Policy,
        version: int,
        secret: bytes,
        now: datetime,
    ) -> None:
        self._connection = connection
        self._tenant = tenant
        self._policy = policy
        self._version = version
        self._secret = secret
        self._now = now
        self._people = People(policy, uuid4)
        self._scope = Scope()
        self._arrivals: dict[UUID, Arrival] = {}
        self._stored: dict[UUID, Entry] = {}
        """Entries that are there and are decided again."""
        self._derived: dict[UUID, Entry] = {}
        """Derived entries that are there and may no longer hold."""
        self._facts: dict[UUID, Facts] = {}
        self._evidence: list[Evidence] = []
        self._regrouped: dict[UUID, datetime] = {}
        self._asked: set[tuple[object, ...]] = set()
        self._later: set[UUID] = set()
        """Entries that name a key of the scope at or after its instant."""
        self._bound: dict[Key, UUID] = {}
        self._owned: set[tuple[UUID, UUID]] = set()
        self._named: dict[UUID, tuple[UUID, datetime]] = {}
        self._answered: set[str] = set()
        self._conversations: dict[UUID, StoredConversation] = {}
        self._rebuilt: set[UUID] = set()
        """Raw conversations that are told anew from their entries."""
        self._placements: dict[UUID, Placement] = {}
        self._leaf_of: dict[UUID, UUID] = {}
        self._summaries: dict[UUID, Summary] = {}
        self._merges: dict[UUID, tuple[UUID, tuple[datetime, str, str]]] = {}
        self._history: list[Entry] = []
        self._everything = False
        self.outcome = Outcome()

    # --- what is new ----------------------------------------------------------------------------------------------

    async def take(self, events: Sequence[InboundEvent]) -> None:
        """Take a batch: tell the new from the known, learn who is who, and load what the new ones touch."""
        await self._tell_new_from_known(events)
        if not self._arrivals:
            return
        facts = [arrival.facts for arrival in self._arrivals.values()]
        self._facts = {fact.entry_id: fact for fact in facts}
        await self._learn(facts)
        await self._ask_calls(facts)
        for fact in facts:
            self._scope.touch(self._names(fact), fact.occurred_at)
        for component, at in self._regrouped.items():
            # Rule 4 at an instant knows the evidence up to the open window after it.
            self._scope.touch((component_name(component),), _before(at, self._policy))
        await self._load_connected()

    async def take_all(self) -> None:
        """Take everything that is stored, to be decided again from nothing."""
        self._everything = True
        for entry in await store.all_entries(self._connection, self._tenant):
            (self._derived if entry.derived else self._stored)[entry.entry_id] = entry
        self._facts = {entry.entry_id: entry.facts(self._policy) for entry in self._stored.values()}
        self._people.take(await store.all_leaves(self._connection, self._tenant))
        for leaf in self._people.by_id.values():
            leaf.shared, leaf.linked_at = False, None
            self._people.changed.add(leaf.node)
        for fact in self._facts.values():
            for node in fact.nodes:
                self._people.leaf(node)
        self._people.linked = set(self._people.members)
        self._evidence = list(self._people.evidence_of(self._facts.values()).values())
        await store.clear_links(self._connection, self._tenant)
        self._people.learn(self._evidence)
        self._people.regroup(list(self._people.members))
        self._answered = {f.contact for f in self._facts.values() if f.type == "call.answered" and f.contact}
        ids = {entry.conversation_id for entry in self._stored.values() if entry.conversation_id}
        self._conversations = await store.conversations(self._connection, self._tenant, ids)
        self._rebuilt = set(self._conversations)

    async def _tell_new_from_known(self, events: Sequence[InboundEvent]) -> None:
        ids = [entry_id_of(self._secret, self._tenant, event.source, event.id) for event in events]
        known = await store.known_digests(self._connection, self._tenant, ids)
        conflicts = {}
        for id_, event in zip(ids, events, strict=True):
            digest = digest_of(event)
            first = self._arrivals[id_].digest if id_ in self._arrivals else known.get(id_)
            if first is None:
                self._arrivals[id_] = Arrival(event, self._read(event, id_), digest)
            elif first == digest:
                self.outcome.repeated += 1
            else:
                self.outcome.conflicts += 1
                row = (id_, digest, event.received_at, event.occurred_at, event.type, event.data)
                conflicts[id_, digest] = row
        await store.save_conflicts(self._connection, self._tenant, list(conflicts.values()))

    def _read(self, event: InboundEvent, id_: UUID) -> Facts:
        """Read an event. Raises Rejected where its data has not the shape that ingest would have let through."""
        try:
            return facts_of(event, id_, self._policy)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise Rejected(f"the event's data cannot be read ({type(error).__name__} {error})") from error

    async def _learn(self, facts: Sequence[Facts]) -> None:
        """Load the people that these events name, and group anew those that they bring together."""
        nodes = {node for fact in facts for node in (*fact.nodes, *fact.owners)}
        nodes |= {node for fact in facts for a, b, _ in fact.decisions for node in (a, b)}
        self._people.take(await store.leaves_of_nodes(self._connection, self._tenant, nodes))
        for node in sorted({node for fact in facts for node in fact.nodes}):
            self._people.leaf(node)
        found = self._people.evidence_of(facts)
        if not found:
            return
        pairs = {evidence.pair for evidence in found.values()}
        known = await store.links_of_pairs(self._connection, self._tenant, pairs)
        self._evidence = [e for key, e in found.items() if key not in known or e.supersedes(known[key])]
        if not self._evidence:
            return
        components = {self._people.leaf(node).component_id for link in self._evidence for node in link.pair}
        await self._load_links(components)
        self._regrouped = self._people.learn(self._evidence)
        await self._disown_newly_shared()

    async def _load_links(self, components: Iterable[UUID]) -> None:
        missing = [id_ for id_ in components if id_ not in self._people.linked]
        nodes = [node for id_ in missing for node in self._people.members[id_]]
        if nodes:
            for link in await store.links_of_nodes(self._connection, self._tenant, nodes):
                self._people.take_link(link)
            self._people.linked.update(missing)

    async def _disown_newly_shared(self) -> None:
        """A handle found out to be shared owns nothing, from the beginning: decide its entries again."""
        if not self._people.newly_shared:
            return
        leaves = [self._people.leaf(node).leaf_id for node in self._people.newly_shared]
        for entry in await store.entries_of_leaves(self._connection, self._tenant, leaves):
            await self._take_stored([entry])
            self._scope.touch(self._names(self._facts[entry.entry_id]), entry.occurred_at)
        for leaf in list(self._people.by_id.values()):
            self._scope.touch((component_name(leaf.component_id),), BEGINNING)

    async def _ask_calls(self, facts: Sequence[Facts]) -> None:
        """Find out which calls were answered; an answer makes its call open where it queued."""
        contacts = {fact.contact for fact in facts if fact.type.startswith("call.") and fact.contact}
        if not contacts:
            return
        answered_now = {fact.contact for fact in facts if fact.type == "call.answered"}
        self._answered |= {contact for contact in answered_now if contact}
        for contact, at, answered in await store.calls_of_contacts(self._connection, self._tenant, contacts):
            if answered:
                self._answered.add(contact)
            if contact in answered_now:
                self._scope.touch((key_name(f"contact:{contact}"),), at)

    # --- what is connected ------------------------------------------------------------------------------------------

    def _names(self, fact: Facts) -> list[Name]:
        names = [key_name(key) for key in fact.keys]
        names.append(key_name(f"conversation:{fact.entry_id}"))
        if fact.conversation_id:
            names.append(key_name(f"conversation:{fact.conversation_id}"))
        owner = self._people.owner(fact)
        if owner:
            names.append(component_name(owner.component_id))
        return names

    async def _load_connected(self) -> None:
        """Load the state before each part of the scope, and whatever is connected with it from then on.

        Each round may connect more, or reach further back; in order, one round finds that there is nothing more.
        """
        while True:
            known = (self._scope.version, len(self._stored))
            keys = self._unasked("key", ((key, self._scope.since(key_name(key))) for key in self._scope.keys_known()))
            bound = await store.bindings(self._connection, self._tenant, keys) if keys else []
            for key, _ in keys:
                self._bound.pop(key, None)
            self._bound.update({b.key: b.conversation_id for b in bound if not b.later and b.conversation_id})
            self._later.update(b.entry_id for b in bound if b.later)
            await self._load_named()
            await self._load_conversations(bound)
            await self._load_later()
            if known == (self._scope.version, len(self._stored)):
                break
        await self._load_history()

    def _unasked(self, what: str, wanted: Iterable[tuple[T, datetime]]) -> list[tuple[T, datetime]]:
        """Return those of (name, instant) that no round has asked for yet, and remember them."""
        fresh = [pair for pair in wanted if (what, *pair) not in self._asked]
        self._asked.update((what, *pair) for pair in fresh)
        return fresh

    async def _load_named(self) -> None:
        """Look up the entries that events name by `conversation_id`."""
        wanted = []
        for fact in self._facts.values():
            if fact.conversation_id:
                try:
                    wanted.append(UUID(fact.conversation_id))
                except ValueError:
                    continue  # never an id of ours; it binds like any other key
        if wanted:
            self._named = await store.named_entries(self._connection, self._tenant, wanted)

    async def _load_conversations(self, bound: Sequence[store.Bound]) -> None:
        window = self._policy.open_window
        wanted = []
        for component in self._scope.components():
            since = self._scope.since(component_name(component))
            active_since = max(since - window, BEGINNING) if since - BEGINNING > window else BEGINNING
            wanted += [(self._people.leaves[n].leaf_id, active_since) for n in self._people.members[component]]
        leaves = self._unasked("leaf's conversations", wanted)
        owned = await store.open_conversations(self._connection, self._tenant, leaves) if leaves else []
        self._owned.update(owned)
        named = {self._named[id_][0] for id_ in self._named}
        ids = {b.conversation_id for b in bound if b.conversation_id} | {c for _, c in owned} | named
        ids |= {e.conversation_id for e in self._stored.values() if e.conversation_id}
        ids |= set(self._scope.conversations())
        ids -= set(self._conversations)
        if ids:
            found = await store.conversations(self._connection, self._tenant, ids)
            self._conversations.update(found)
        self._connect(bound, owned)

    def _connect(self, bound: Sequence[store.Bound], owned: Sequence[tuple[UUID, UUID]]) -> None:
        """Say what belongs together: keys and what they mean, people and where they take part."""
        for b in bound:
            if b.conversation_id in self._conversations:
                self._scope.touch((key_name(b.key), self._conversation_name(b.conversation_id)))
        for leaf_id, conversation_id in owned:
            component = self._people.by_id[leaf_id].component_id
            self._scope.touch((component_name(component), self._conversation_name(conversation_id)))
        for fact in self._facts.values():
            if fact.conversation_id:
                for named, (conversation_id, _) in self._named.items():
                    if fact.conversation_id == str(named) and conversation_id in self._conversations:
                        self._scope.touch((*self._names(fact), self._conversation_name(conversation_id)))
        for entry in self._stored.values():
            if entry.conversation_id in self._conversations:
                names = self._names(self._facts[entry.entry_id])
                self._scope.touch((*names, self._conversation_name(entry.conversation_id)))

    def _conversation_name(self, conversation_id: UUID) -> Name:
        return conversation_name(self._conversations[conversation_id].canonical_id)

    async def _load_later(self) -> None:
        """Load the entries that lie at or after the instant from which their part of the scope is decided again."""
        leaves = []
        for component in self._scope.components():
            since = self._scope.since(component_name(component))
            for node in self._people.members[component]:
                leaf = self._people.leaves[node]
                if leaf.last_entry_at is not None and leaf.last_entry_at >= since:
                    leaves.append((leaf.leaf_id, since))
        conversations = []
        for id_, conversation in self._conversations.items():
            since = self._scope.since(self._conversation_name(id_))
            last = self._conversations[conversation.canonical_id].summary.last_entry_at
            if last is not None and last >= since:
                conversations.append((id_, since))
        leaves, conversations = self._unasked("leaf", leaves), self._unasked("conversation", conversations)
        later = [id_ for id_ in self._later if id_ not in self._stored]
        if leaves or conversations or later:
            found = await store.entries_since(self._connection, self._tenant, leaves, conversations, later)
            await self._take_stored(found)

    async def _take_stored(self, entries: Sequence[Entry]) -> None:
        fresh = [e for e in entries if e.entry_id not in self._stored and e.entry_id not in self._derived]
        for entry in fresh:
            (self._derived if entry.derived else self._stored)[entry.entry_id] = entry
        posted = {entry.entry_id: entry for entry in fresh if not entry.derived}
        if not posted:
            return
        facts = {id_: entry.facts(self._policy) for id_, entry in posted.items()}
        self._facts.update(facts)
        # By node for those that policy or sharing took their entry from, by id for the anonymous.
        unknown = {n for f in facts.values() for n in f.owners if n not in self._people.leaves}
        if unknown:
            self._people.take(await store.leaves_of_nodes(self._connection, self._tenant, unknown))
        owners = {entry.leaf_id for entry in posted.values()} - set(self._people.by_id)
        if owners:
            self._people.take(await store.leaves_of_ids(self._connection, self._tenant, owners))
        await self._ask_calls(list(facts.values()))
        for id_, fact in facts.items():
            since = posted[id_].occurred_at
            self._scope.touch(self._names(fact), since)

    async def _load_history(self) -> None:
        """Load what came before in conversations that are decided again from within."""
        wanted = []
        for id_, conversation in self._conversations.items():
            since = self._scope.since(self._conversation_name(id_))
            last = self._conversations[conversation.canonical_id].summary.last_entry_at
            if last is not None and last >= since:
                self._rebuilt.add(id_)
                wanted.append((id_, since))
        if wanted:
            self._history = await store.entries_before(self._connection, self._tenant, wanted)
            unknown = {e.leaf_id for e in self._history} - set(self._people.by_id)
            if unknown:
                self._people.take(await store.leaves_of_ids(self._connection, self._tenant, unknown))

    # --- deciding -------------------------------------------------------------------------------------------------

    async def decide(self) -> None:
        """Fold the events, new and again, over the state before them."""
        if not self._facts:
            return
        await self._load_past_links()
        stitcher = Stitcher(self._policy, self._people.customers_at, frozenset(self._answered))
        self._stitcher = stitcher
        self._set_state(stitcher)
        self._replay(stitcher)
        for key, conversation_id in self._bound.items():
            if stitcher.canonical.get(conversation_id, conversation_id) in stitcher.conversations:
                stitcher.bound[key] = conversation_id
        for fact in sorted(self._facts.values(), key=lambda fact: fact.order):
            owner = self._people.owner(fact)
            placement = stitcher.place(fact, owner.leaf_id if owner else None)
            self._placements[fact.entry_id] = placement
            self._note_merges(placement.merged, fact)
            if placement.conversation_id is not None:
                self._settle_owner(fact, placement, owner)
                data = self._arrivals[fact.entry_id].event.data if fact.entry_id in self._arrivals else None
                data = data if data is not None else self._stored[fact.entry_id].data
                self._summary(placement.conversation_id).apply(fact, data)

    async def _load_past_links(self) -> None:
        """Load the links of people for whom an event asks who was one customer before they were all known."""
        window = self._policy.open_window
        components = set()
        for fact in self._facts.values():
            owner = self._people.owner(fact)
            if owner and self._people.needs_links(owner, fact.occurred_at + window):
                components.add(owner.component_id)
        if components:
            await self._load_links(components)

    def _set_state(self, stitcher: Stitcher) -> None:
        for id_, conversation in self._conversations.items():
            if id_ in self._rebuilt:
                continue
            if conversation.canonical_id == id_:
                stitcher.conversations[id_] = conversation.state
                self._summaries[id_] = conversation.summary
            else:
                stitcher.canonical[id_] = conversation.canonical_id
        for leaf_id, conversation_id in self._owned:
            if conversation_id not in self._rebuilt:
                stitcher.owned[leaf_id].add(conversation_id)
        for id_, (conversation_id, _) in self._named.items():
            if id_ not in self._facts and conversation_id not in self._rebuilt:
                stitcher.placed[id_] = conversation_id

    def _replay(self, stitcher: Stitcher) -> None:
        """Build the state of the conversations that are told anew, up to where the fold begins."""
        steps: list[tuple[tuple[datetime, str, str], Entry | StoredConversation]] = []
        steps += [((e.occurred_at, e.source, e.event_id), e) for e in self._history]
        for id_ in self._rebuilt:
            conversation = self._conversations[id_]
            if conversation.merged_by and conversation.merged_by[0] < self._since(id_):
                steps.append((conversation.merged_by, conversation))
        for _, step in sorted(steps, key=lambda item: item[0]):
            if isinstance(step, StoredConversation):
                if step.merged_into is not None and step.merged_by is not None:
                    merged = stitcher.replay_merge(step.id, step.merged_into)
                    self._merge(merged, step.merged_by)
                continue
            fact = step.facts(self._policy)
            owner = self._people.owner(fact)
            stitcher.replay(fact, owner.leaf_id if owner else None, step.conversation_id)
            if step.conversation_id is not None:
                state = stitcher.conversation(step.conversation_id)
                state.owner_leaf = state.owner_leaf or step.leaf_id
                self._summary(step.conversation_id).apply(fact, step.data)

    def _since(self, conversation_id: UUID) -> datetime:
        return BEGINNING if self._everything else self._scope.since(self._conversation_name(conversation_id))

    def _settle_owner(self, fact: Facts, placement: Placement, owner: Leaf | None) -> None:
        if placement.founded and placement.conversation_id is not None and owner is None:
            conversation = self._stitcher.conversation(placement.conversation_id)
            if conversation.id == fact.entry_id:
                conversation.owner_leaf = self._people.leaf(f"anonymous:{fact.entry_id}").leaf_id

    def _summary(self, conversation_id: UUID) -> Summary:
        canonical = self._stitcher.canonical.get(conversation_id, conversation_id)
        return self._summaries.setdefault(canonical, Summary())

    def _note_merges(self, merged: Sequence[tuple[UUID, UUID]], fact: Facts) -> None:
        self._merge(merged, fact.order)

    def _merge(self, merged: Sequence[tuple[UUID, UUID]], by: tuple[datetime, str, str]) -> None:
        for gone, into in merged:
            self._merges[gone] = (into, by)
            if gone in self._summaries:
                self._summaries.setdefault(into, Summary()).absorb(self._summaries[gone])

    # --- saving ---------------------------------------------------------------------------------------------------

    async def save(self) -> None:
        """Store what changed and note what to publish."""
        if not self._facts and not self._everything:
            return
        new, moved = self._place_entries()
        fresh, stale, kept = self._derive(new, moved)
        reowned = await self._save_conversations()
        await store.save_leaves(
            self._connection, self._tenant, [self._people.leaves[node] for node in self._people.changed]
        )
        await store.save_links(self._connection, self._tenant, self._evidence)
        await self._save_seen(moved)
        await store.delete_entries(self._connection, self._tenant, [entry.entry_id for entry in stale])
        await store.insert_entries(self._connection, [*new, *fresh])
        await store.move_entries(self._connection, self._tenant, [*moved, *kept])
        await self._save_participations(new, moved)
        bindings = self._stitcher.bindings if self._facts else []
        await store.save_bindings(self._connection, self._tenant, list(self._stored), bindings)
        own = {entry.entry_id for entry in (*new, *moved, *fresh, *kept, *stale)}
        changed = [*new, *moved, *(entry for entry in reowned if entry.entry_id not in own)]
        self._publish(changed, [*fresh, *kept], stale)
        added = {entry.entry_id for entry in (*new, *fresh)}
        told = [(store.NEW if e.entry_id in added else store.CORRECTED, e) for e in (*changed, *fresh, *kept)]
        told += [(store.GONE, entry) for entry in stale]
        await store.save_changes(self._connection, self._tenant, _in_order(told), self._now)
        self.outcome.new, self.outcome.moved = len(new), len(moved)

    def _place_entries(self) -> tuple[list[Entry], list[Entry]]:
        new, moved = [], []
        for id_, fact in self._facts.items():
            placement = self._placements[id_]
            leaf = self._leaf_for(fact, placement)
            self._leaf_of[id_] = leaf
            if id_ in self._arrivals:
                arrival = self._arrivals[id_]
                new.append(made_from(arrival.event, fact, leaf, placement, self._now, arrival.digest))
                continue
            old = self._stored[id_]
            entry = old.moved(leaf, placement.conversation_id, placement.rule, placement.key)
            entry = replace(entry, automatic=fact.automatic, by_conversation=not self._people.owner(fact))
            if replace(entry, version=old.version) != old:
                moved.append(entry)
        return new, moved

    def _leaf_for(self, fact: Facts, placement: Placement) -> UUID:
        owner = self._people.owner(fact)
        if owner:
            return owner.leaf_id
        if placement.conversation_id is not None:
            leaf_id = self._stitcher.conversation(placement.conversation_id).owner_leaf
            if leaf_id is not None:
                return leaf_id
        return self._people.leaf(f"anonymous:{fact.entry_id}").leaf_id

    def _derive(self, new: Sequence[Entry], moved: Sequence[Entry]) -> tuple[list[Entry], list[Entry], list[Entry]]:
        """Derive what follows from the placements; return what is new, what no longer holds, what changed its place."""
        entries = {**self._stored, **{entry.entry_id: entry for entry in (*new, *moved)}}
        holds: dict[UUID, Entry] = {}
        for id_, placement in self._placements.items():
            for entry in self._derived_from(entries[id_], self._facts[id_], placement):
                holds[entry.entry_id] = entry
        stale = [e for id_, e in self._derived.items() if id_ not in holds and self._decided_again(e)]
        fresh = [entry for id_, entry in holds.items() if id_ not in self._derived]
        kept = []
        for id_, entry in holds.items():
            old = self._derived.get(id_)
            if old and (old.leaf_id, old.conversation_id) != (entry.leaf_id, entry.conversation_id):
                kept.append(replace(entry, version=old.version + 1))
        return fresh, stale, kept

    def _decided_again(self, entry: Entry) -> bool:
        return entry.cause_id in self._stored

    def _derived_from(self, cause: Entry, fact: Facts, placement: Placement) -> list[Entry]:
        if placement.conversation_id is None:
            return []
        made: list[tuple[str, dict[str, object]]] = []
        if placement.founded and fact.type != "conversation.opened":
            initiator = "customer" if fact.from_customer else "company"
            opened: dict[str, object] = {"channel": fact.channel, "initiator": initiator}
            if placement.follow_up_of:
                opened["follow_up_of"] = str(placement.follow_up_of)
            made.append(("conversation.opened", opened))
        if placement.reopened:
            made.append(("conversation.reopened", {"channel": fact.channel}))
        if placement.escalated_from:
            change = {"from_channel": placement.escalated_from, "to_channel": fact.channel, "channel": fact.channel}
            made.append(("conversation.escalated", {**change, "to_contact": fact.contact}))
        for gone, into in placement.merged:
            made.append(("conversation.merged", {"from": str(gone), "into": str(into), "channel": fact.channel}))
        if not made:
            return []
        owner = self._stitcher.conversation(placement.conversation_id).owner_leaf or cause.leaf_id
        recorded = replace(cause, recorded_at=self._now)
        return [derived(recorded, kind, data, self._secret, owner) for kind, data in made]

    async def _save_conversations(self) -> list[Entry]:
        if not self._facts:
            return []
        stitcher = self._stitcher
        touched = {p.conversation_id for p in self._placements.values() if p.conversation_id} | self._rebuilt
        touched |= {stitcher.canonical.get(id_, id_) for id_ in touched}
        touched |= set(self._merges) | {into for into, _ in self._merges.values()}
        # A merge moves everything that was merged into the lesser one before.
        touched |= {
            id_
            for id_, target in stitcher.canonical.items()
            if id_ not in self._conversations or self._conversations[id_].canonical_id != target
        }
        rows, gone = [], []
        for id_ in sorted(touched):
            if id_ in stitcher.conversations:
                rows.append(self._conversation_row(id_))
            elif id_ in self._conversations and id_ not in self._rebuilt:
                rows.append(replace(self._conversations[id_], canonical_id=stitcher.canonical[id_]))
            else:
                gone.append(id_)
        await store.save_conversations(self._connection, self._tenant, rows, gone)
        self._publish_conversations(rows, gone)
        return await self._reown(rows)

    def _conversation_row(self, id_: UUID) -> StoredConversation:
        into, by = self._merges.get(id_, (None, None))
        return StoredConversation(
            id=id_,
            canonical_id=self._stitcher.canonical.get(id_, id_),
            merged_into=into,
            merged_by=by,
            state=self._stitcher.conversations[id_],
            summary=self._summaries.get(id_) or Summary(),
        )

    async def _reown(self, rows: Sequence[StoredConversation]) -> list[Entry]:
        """Entries without an owner of their own belong to whoever owns the conversation now."""
        owners = []
        for row in rows:
            before = self._conversations.get(row.id)
            owner = self._stitcher.conversations[row.canonical_id].owner_leaf
            if before is None or owner is None:
                continue
            if row.id in self._rebuilt or before.canonical_id != row.canonical_id:
                owners.append((row.id, owner))
        return await store.reown_entries(self._connection, self._tenant, owners)

    async def _save_seen(self, moved: Sequence[Entry]) -> None:
        """Keep what the new entries say of the handles they name and of their owners."""
        seen: dict[UUID, list[object]] = {}
        sightings: dict[tuple[str, UUID], list[object]] = {}
        owned: dict[tuple[UUID, str | None], list[object]] = {}
        for id_, arrival in sorted(self._arrivals.items(), key=lambda item: item[1].facts.order):
            fact, at, leaf_id = arrival.facts, arrival.facts.occurred_at, self._leaf_of[id_]
            for claim in fact.claims:
                if not claim.usable:
                    continue
                leaf = self._people.leaves.get(claim.node)
                shown = claim.shown.partition(":")[2]
                if leaf is not None:
                    row = seen.setdefault(leaf.leaf_id, [leaf.leaf_id, at, at, shown, False])
                    row[2], row[3], row[4] = at, shown, bool(row[4]) or claim.verified
                if strength(claim.node) >= handles.WEAK:
                    row = sightings.setdefault((claim.node, leaf_id), [claim.node, leaf_id, shown, False, at, at])
                    row[3], row[5] = bool(row[3]) or claim.verified, at
            self._note_owned(owned, leaf_id, fact, arrival.event)
        for entry in sorted(moved, key=lambda entry: entry.occurred_at):
            self._note_owned(owned, entry.leaf_id, self._facts[entry.entry_id], entry.event())
        await store.save_seen(self._connection, self._tenant, list(seen.values()))
        await store.save_sightings(self._connection, self._tenant, list(sightings.values()))
        await self._save_owned(owned)

    def _note_owned(
        self, owned: dict[tuple[UUID, str | None], list[object]], leaf_id: UUID, fact: Facts, event: InboundEvent
    ) -> None:
        at = fact.occurred_at
        row = owned.setdefault((leaf_id, fact.channel), [leaf_id, at, at, None, None, {}, fact.channel])
        row[1], row[2] = min(row[1], at), max(row[2], at)  # type: ignore[call-overload]
        customer = event.data.get("customer") or {}
        if isinstance(customer.get("name"), str) and customer["name"].strip():
            row[3], row[4] = customer["name"].strip(), at
        attributes = row[5]
        if isinstance(attributes, dict) and isinstance(customer.get("attributes"), dict):
            attributes.update({name: [value, at.isoformat()] for name, value in customer["attributes"].items()})

    async def _save_owned(self, owned: dict[tuple[UUID, str | None], list[object]]) -> None:
        # One UPDATE touches a row once: a leaf seen on several channels in one batch takes several rounds.
        rounds: dict[int, list[list[object]]] = defaultdict(list)
        count: dict[UUID, int] = defaultdict(int)
        for (leaf_id, _), row in owned.items():
            rounds[count[leaf_id]].append(row)
            count[leaf_id] += 1
        for rows in rounds.values():
            await store.save_owned(self._connection, self._tenant, rows)

    async def _save_participations(self, new: Sequence[Entry], moved: Sequence[Entry]) -> None:
        rows = {(entry.leaf_id, entry.conversation_id) for entry in (*new, *moved) if entry.conversation_id}
        if self._rebuilt:
            rows |= {(e.leaf_id, e.conversation_id) for e in self._history if e.conversation_id}
            placed = ((self._leaf_of[i], self._placements[i].conversation_id) for i in self._stored)
            rows |= {(leaf, conversation) for leaf, conversation in placed if conversation}
        known = [(leaf, conversation) for leaf, conversation in rows if conversation is not None]
        await store.save_participations(self._connection, self._tenant, self._rebuilt, known)

    # --- publishing -------------------------------------------------------------------------------------------------

    def _publish(self, changed: Sequence[Entry], derived_: Sequence[Entry], stale: Sequence[Entry]) -> None:
        records = self.outcome.records
        for node in sorted(self._people.moved):
            leaf = self._people.leaves[node]
            kind, _, value = node.partition(":")
            body = {"customer_id": str(leaf.customer_id), "kind": kind, "value": value}
            records.append(TimelineRecord(self._tenant, "leaf", str(leaf.leaf_id), self._version, body))
        records += [record_of(entry, version=self._version if entry.derived else None) for entry in changed]
        records += [record_of(entry, version=self._version) for entry in derived_]
        records += [record_of(entry, deleted=True, version=self._version) for entry in stale]

    def _publish_conversations(self, rows: Sequence[StoredConversation], gone: Sequence[UUID]) -> None:
        for row in rows:
            before = self._conversations.get(row.id)
            canonical = before.canonical_id if before else row.id
            if row.canonical_id != canonical or (before is None and row.state.follow_up_of):
                follow_up_of = str(row.state.follow_up_of) if row.state.follow_up_of else None
                body = {"canonical_id": str(row.canonical_id), "follow_up_of": follow_up_of}
                self.outcome.records.append(
                    TimelineRecord(self._tenant, "conversation", str(row.id), self._version, body)
                )
        for id_ in gone:
            body = {"canonical_id": str(id_), "follow_up_of": None}
            self.outcome.records.append(
                TimelineRecord(self._tenant, "conversation", str(id_), self._version, body, deleted=True)
            )


def _in_order(changes: list[tuple[bytes, Entry]]) -> list[tuple[bytes, Entry]]:
    """Sort changes as they happened, what follows from an entry right behind it."""
    return sorted(changes, key=lambda change: (change[1].occurred_at, change[1].derived, change[1].source))


def _before(at: datetime, policy: Policy) -> datetime:
    return at - policy.open_window if at - BEGINNING > policy.open_window else BEGINNING


def key_name(key: Key) -> Name:
    return "key", key


def component_name(component_id: UUID) -> Name:
    return "component", component_id


def conversation_name(conversation_id: UUID) -> Name:
    return "conversation", conversation_id
