"""Load what a batch touches: who is known, what is connected, and the state before it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import TypeVar
from uuid import UUID

from services.conversation import large, tables
from services.conversation.arriving import Arriving
from services.conversation.batch import BEGINNING, Batch
from services.conversation.checkpoints import with_checkpoints
from services.conversation.entries import Entry
from services.conversation.facts import Facts, Key
from services.conversation.regrouping import Regrouping, met_by_bulk_mail, placed_otherwise_since
from services.conversation.scope import Name, component_name, key_name
from services.conversation.stitching import NEVER, bulk_key, naming_key, sent_key
from shared.events import InboundEvent

T = TypeVar("T")


class Loading:
    """Fills a batch. Each question to the database is asked once for all of it."""

    def __init__(self, batch: Batch) -> None:
        self._batch = batch
        self._connection, self._tenant, self._people = batch.connection, batch.tenant, batch.people
        self._scope = batch.scope
        self._arriving = Arriving(batch)
        self._asked: set[tuple[object, ...]] = set()
        self._later: set[UUID] = set()
        """Entries that name a key of the scope at or after its instant."""
        self._asked_mails: set[Key] = set()
        self._sent: dict[Key, set[UUID]] = {}
        """Mail → those to whom it was sent, by what is stored and by the events at hand."""
        self._sent_before: dict[Key, set[UUID]] = {}
        """The same before these events."""
        self._names_of_conversations: set[UUID] = set()
        """Ids that events name, each perhaps a conversation's."""
        self._regrouped: dict[UUID, Regrouping] = {}
        """Components of people who are grouped otherwise now."""
        self._connected: set[UUID] = set()
        """Stored entries that are known to be one part with the conversation that they are in."""
        self._apart: dict[UUID, datetime] = {}
        """Components of whom nothing but what differs is decided again, with their first instant that may differ."""
        self._idle: set[UUID] = set()
        """Leaves of those people that take part in nothing that may be open since then."""
        self._bulk_known = 0
        """How many bulk mails there were when that was found."""

    async def take(self, events: Sequence[InboundEvent]) -> None:
        """Take a batch: tell the new from the known, learn who is who, and load what the new ones touch."""
        self._later |= await self._arriving.take(events)
        if not self._batch.arrivals and not self._batch.copies:
            return
        facts = [arrival.facts for arrival in self._batch.arrivals.values()]
        self._batch.facts = {fact.entry_id: fact for fact in facts}
        await self._learn([*facts, *(copy.facts for copy in self._batch.copies)])
        await self._ask_calls(facts)
        await self._ask_bulk(facts)
        regrouped = await self._regrouped_since()
        for fact in facts:
            self._scope.touch(self._names(fact), fact.occurred_at)
        for component, since in regrouped.items():
            if component not in self._apart:
                self._scope.touch((component_name(component),), since)
        await self._load_connected()
        await self._load_past_links()

    async def take_all(self, *, keep_links: bool = False) -> None:
        """Take everything that is stored, to be decided again from nothing.

        The stored evidence is forgotten, to be stored anew, unless `keep_links`: then nothing is written.
        """
        self._batch.everything = True
        for entry in await tables.entries.all_entries(self._connection, self._tenant):
            (self._batch.derived if entry.derived else self._batch.stored)[entry.entry_id] = entry
        self._batch.facts = await self._arriving.facts_of(self._batch.stored.values())
        self._people.take(await tables.leaves.all_leaves(self._connection, self._tenant))
        for leaf in self._people.by_id.values():
            leaf.shared, leaf.linked_at = False, None
            self._people.changed.add(leaf.node)
        for fact in self._batch.facts.values():
            for node in (*fact.nodes, *(node for copy in fact.copies for node in copy.nodes)):
                self._people.leaf(node)
        self._people.linked = set(self._people.members)
        self._batch.evidence = list(self._people.evidence_of(self._batch.facts.values()).values())
        if not keep_links:
            await tables.leaves.clear_links(self._connection, self._tenant)
        self._people.learn(self._batch.evidence)
        self._people.regroup(list(self._people.members))
        self._batch.answered = {
            f.contact for f in self._batch.facts.values() if f.type == "call.answered" and f.contact
        }
        await self._ask_bulk(list(self._batch.facts.values()))
        ids = {entry.conversation_id for entry in self._batch.stored.values() if entry.conversation_id}
        self._batch.conversations = await tables.conversations.conversations(self._connection, self._tenant, ids)
        self._batch.rebuilt = set(self._batch.conversations)

    async def _learn(self, facts: Sequence[Facts]) -> None:
        """Load the people that these events name, and group anew those that they bring together."""
        nodes = {node for fact in facts for node in (*fact.nodes, *fact.claimants)}
        nodes |= {node for fact in facts for a, b, _ in fact.decisions for node in (a, b)}
        self._people.take(await tables.leaves.leaves_of_nodes(self._connection, self._tenant, nodes))
        for node in sorted({node for fact in facts for node in fact.nodes}):
            self._people.leaf(node)
        found = self._people.evidence_of(facts)
        if not found:
            return
        pairs = {evidence.pair for evidence in found.values()}
        known = await tables.leaves.links_of_pairs(self._connection, self._tenant, pairs, self._batch.renewal)
        self._batch.evidence = [e for key, e in found.items() if key not in known or e.supersedes(known[key])]
        if not self._batch.evidence:
            return
        large.check_people(self._batch)
        components = {self._people.leaf(node).component_id for link in self._batch.evidence for node in link.pair}
        await self._load_links(components)
        self._regrouped = self._people.learn(self._batch.evidence)
        await self._disown_newly_shared()

    async def _load_links(self, components: Iterable[UUID]) -> None:
        missing = [id_ for id_ in components if id_ not in self._people.linked]
        nodes = [node for id_ in missing for node in self._people.members[id_]]
        if nodes:
            for link in await tables.leaves.links_of_nodes(self._connection, self._tenant, nodes):
                self._people.take_link(link)
            self._people.linked.update(missing)

    async def _disown_newly_shared(self) -> None:
        """A handle found out to be shared owns nothing, from the beginning: decide its entries again."""
        if not self._people.newly_shared:
            return
        leaves = [self._people.leaf(node).leaf_id for node in self._people.newly_shared]
        if limits := self._batch.limits:
            most = limits.entries + 1
            large.check_shared(
                self._batch, await tables.entries.count_of_leaves(self._connection, self._tenant, leaves, most)
            )
        for entry in await tables.entries.entries_of_leaves(self._connection, self._tenant, leaves):
            await self._take_stored([entry])
            if entry.entry_id in self._batch.facts:
                self._scope.touch(self._names(self._batch.facts[entry.entry_id]), entry.occurred_at)
        for leaf in list(self._people.by_id.values()):
            self._scope.touch((component_name(leaf.component_id),), BEGINNING)

    async def _ask_calls(self, facts: Sequence[Facts]) -> None:
        """Find out which calls were answered; an answer makes its call open where it queued."""
        contacts = {fact.contact for fact in facts if fact.type.startswith("call.") and fact.contact}
        if not contacts:
            return
        answered_now = {fact.contact for fact in facts if fact.type == "call.answered"}
        self._batch.answered |= {contact for contact in answered_now if contact}
        for contact, at, answered in await tables.entries.calls_of_contacts(self._connection, self._tenant, contacts):
            if answered:
                self._batch.answered.add(contact)
            if contact in answered_now:
                self._scope.touch((key_name(f"contact:{contact}"),), at)

    async def _ask_bulk(self, facts: Sequence[Facts]) -> None:
        """Find out which mails we sent to several customers, so that none of them shares their answers."""
        mails = {mail for fact in facts for mail in fact.mails} - self._asked_mails
        self._asked_mails |= mails
        for fact in facts:
            owner = self._people.owner(fact)
            if fact.sent_mail and owner:
                self._sent.setdefault(fact.sent_mail, set()).add(owner.leaf_id)
        if mails and not self._batch.everything:
            wanted = {sent_key(mail): mail for mail in mails}
            shared = {self._people.leaf(node).leaf_id for node in self._people.newly_shared}
            for key, leaf_id, entry_id in await tables.entries.recipients(self._connection, self._tenant, wanted):
                self._sent_before.setdefault(wanted[key], set()).add(leaf_id)
                # One that is decided again says by its facts whose it is.
                told = entry_id in self._batch.displaced or entry_id in self._batch.stored
                if not told and leaf_id not in shared:
                    self._sent.setdefault(wanted[key], set()).add(leaf_id)
        for mail in mails | {fact.sent_mail for fact in facts if fact.sent_mail}:
            before = self._sent_before.get(mail, set())
            if len(self._sent.get(mail, ())) > 1:
                self._batch.bulk.add(mail)
            if (mail in self._batch.bulk) != (len(before) > 1):  # what its id meant until now, it means no longer
                names = [key_name(mail), *(key_name(bulk_key(mail, leaf_id)) for leaf_id in before)]
                names.append(key_name(naming_key(mail)))
                self._scope.touch(names, BEGINNING)

    def _leaves_around(self, fact: Facts) -> list[UUID]:
        person = self._people.person(fact)
        nodes = self._people.members[person.component_id] if person else ()
        return [self._people.leaves[node].leaf_id for node in nodes]

    # --- what is connected ------------------------------------------------------------------------------------------

    def _names(self, fact: Facts) -> list[Name]:
        names = [key_name(key) for key in fact.keys]
        for mail in self._batch.bulk.intersection(fact.mails):
            names += [key_name(bulk_key(mail, leaf_id)) for leaf_id in self._leaves_around(fact)]
        names.append(key_name(f"conversation:{fact.entry_id}"))
        names += [key_name(f"conversation:{copy.entry_id}") for copy in fact.copies]
        names += [key_name(f"conversation:{written}") for written in fact.named]
        names += [key_name(f"conversation:{entry_id}") for entry_id in fact.entries_put]
        person = self._people.person(fact)
        if person and person.component_id not in self._apart:
            names.append(component_name(person.component_id))
        return names

    async def _load_connected(self) -> None:
        """Load the state before each part of the scope, and whatever is connected with it from then on.

        Each round may connect more, or reach further back; in order, one round finds that there is nothing more.
        """
        while True:
            known = (self._scope.version, len(self._batch.stored))
            keys = self._unasked("key", ((key, self._scope.since(key_name(key))) for key in self._scope.keys_known()))
            bound = await tables.conversations.bindings(self._connection, self._tenant, keys) if keys else []
            for key, _ in keys:
                self._batch.bound.pop(key, None)
            self._batch.bound.update({b.key: b.conversation_id for b in bound if not b.later and b.conversation_id})
            self._later.update(b.entry_id for b in bound if b.later)
            await self._load_named()
            await self._load_conversations(bound)
            await self._load_checkpoints()
            large.check_parts(self._batch)
            await self._load_reach()
            await self._load_later()
            if known == (self._scope.version, len(self._batch.stored)):
                break
        await self._load_history()

    def _unasked(self, what: str, wanted: Iterable[tuple[T, datetime]]) -> list[tuple[T, datetime]]:
        """Return those of (name, instant) that no round has asked for yet, and remember them."""
        fresh = [pair for pair in wanted if (what, *pair) not in self._asked]
        self._asked.update((what, *pair) for pair in fresh)
        return fresh

    async def _load_named(self) -> None:
        """Look up the entries that events name, as the id of a conversation or to have them placed in one."""
        names = {id_ for fact in self._batch.facts.values() for id_ in _ids_named(fact)}
        # A new word on other entries: they are decided again.
        put = {id_ for arrival in self._batch.arrivals.values() for id_ in arrival.facts.entries_put}
        asked = names | {id_ for fact in self._batch.facts.values() for id_ in fact.entries_put}
        if asked:
            found = await tables.entries.named_entries(self._connection, self._tenant, asked)
            self._batch.named = {id_: found[id_] for id_ in names if id_ in found}
            self._names_of_conversations |= names
            # An entry that is in none joins what named it before it happened, or what it was to stay in.
            self._later |= {entry for id_, (held_by, entry) in found.items() if held_by is None or id_ in put}

    async def _load_conversations(self, bound: Sequence[tables.conversations.Bound]) -> None:
        wanted = []
        for component in self._scope.components():
            since = self._scope.since(component_name(component))
            active_since = self._window_before(since)
            wanted += [(self._people.leaves[n].leaf_id, active_since) for n in self._people.members[component]]
        leaves = self._unasked("leaf's conversations", wanted)
        owned = await tables.conversations.open_conversations(self._connection, self._tenant, leaves) if leaves else []
        self._batch.owned.update(owned)
        named = {held_by for held_by, _ in self._batch.named.values() if held_by}
        ids = {b.conversation_id for b in bound if b.conversation_id} | {c for _, c in owned} | named
        ids |= {e.conversation_id for e in self._batch.stored.values() if e.conversation_id}
        ids |= {e.conversation_id for e in self._batch.displaced.values() if e.conversation_id}
        ids |= set(self._scope.conversations()) | self._names_of_conversations
        ids -= set(self._batch.conversations)
        if ids:
            found = await tables.conversations.conversations(self._connection, self._tenant, ids)
            self._batch.conversations.update(found)
        self._connect(bound, owned)

    def _connect(self, bound: Sequence[tables.conversations.Bound], owned: Sequence[tuple[UUID, UUID]]) -> None:
        """Say what belongs together: keys and what they mean, people and where they take part."""
        for b in bound:
            if b.conversation_id in self._batch.conversations:
                self._scope.touch((key_name(b.key), self._batch.part_of(b.conversation_id)))
        for leaf_id, conversation_id in owned:
            component = self._people.by_id[leaf_id].component_id
            self._scope.touch((component_name(component), self._batch.part_of(conversation_id)))
        for fact in self._batch.facts.values():
            for named in _ids_named(fact):
                held_by, _ = self._batch.named.get(named, (None, None))
                for id_ in (named, held_by):
                    if id_ in self._batch.conversations:
                        self._scope.touch((*self._names(fact), self._batch.part_of(id_)))
        for copy in self._batch.copies:
            displaced = self._batch.displaced.get(copy.facts.entry_id)
            if displaced and displaced.conversation_id in self._batch.conversations:
                names = self._names(self._batch.facts[copy.stands_for])
                self._scope.touch((*names, self._batch.part_of(displaced.conversation_id)))
        grown, self._bulk_known = len(self._batch.bulk) > self._bulk_known, len(self._batch.bulk)
        for id_, entry in self._batch.stored.items():
            if entry.conversation_id in self._batch.conversations and (grown or id_ not in self._connected):
                # One name stands for all: they are one part since the entry was taken. Another bulk mail gives more.
                names = self._names(self._batch.facts[id_]) if grown else [key_name(f"conversation:{id_}")]
                self._scope.touch((*names, self._batch.part_of(entry.conversation_id)))
                self._connected.add(id_)

    async def _load_checkpoints(self) -> None:
        """Look up from where on long conversations are told anew."""
        checkpoints, may_have = self._batch.checkpoints, with_checkpoints(self._batch.conversations)
        since = {id_: at for id_, at in self._batch.reached() if id_ in may_have} if may_have or checkpoints else {}
        for id_ in [id_ for id_, one in checkpoints.items() if one.at >= since.get(id_, BEGINNING)]:
            del checkpoints[id_]  # the scope reaches further back by now
        wanted = self._unasked("checkpoint", ((id_, at) for id_, at in since.items() if at > BEGINNING))
        if wanted:
            checkpoints.update(await tables.checkpoints.latest(self._connection, self._tenant, wanted))

    async def _load_reach(self) -> None:
        """Find what was decided later in view of a conversation without being placed in it.

        What happens in a conversation decides until when its keys mean it and until when its people find it open.
        """
        since = {id_: self._batch.since(id_) for id_ in self._batch.conversations}
        wanted = self._unasked("reach", ((id_, at) for id_, at in since.items() if at < NEVER))
        if wanted:
            known = self._people.stored
            keys, found = await tables.conversations.reach(self._connection, self._tenant, wanted, known)
            for key, id_ in keys:
                self._scope.touch((key_name(key), self._batch.part_of(id_)))
            self._batch.participants.update((leaf_id, id_) for leaf_id, id_, _ in found)
            await self._load_leaves_by_id(leaf_id for leaf_id, _, seen_later in found if seen_later)
        for leaf_id, id_ in self._batch.participants:
            if leaf_id in self._people.by_id:
                component = self._people.by_id[leaf_id].component_id
                if component not in self._apart:
                    self._scope.touch((component_name(component), self._batch.part_of(id_)))
                self._batch.owned.add((leaf_id, self._batch.conversations[id_].canonical_id))

    async def _load_later(self) -> None:
        """Load the entries that lie at or after the instant from which their part of the scope is decided again."""
        leaves = []
        for component in self._scope.components():
            since = self._scope.since(component_name(component))
            for node in self._people.members[component]:
                leaf = self._people.leaves[node]
                if leaf.last_entry_at is not None and leaf.last_entry_at >= since:
                    leaves.append((leaf.leaf_id, since))
        leaves = self._unasked("leaf", leaves)
        conversations = self._unasked("conversation", self._batch.reached())
        later = [id_ for id_ in self._later if id_ not in self._batch.stored]
        if leaves or conversations or later:
            found = await tables.entries.entries_since(self._connection, self._tenant, leaves, conversations, later)
            await self._take_stored(found)

    async def _take_stored(self, entries: Sequence[Entry]) -> None:
        stored, derived, displaced = self._batch.stored, self._batch.derived, self._batch.displaced
        fresh = [e for e in entries if not (e.entry_id in stored or e.entry_id in derived or e.entry_id in displaced)]
        for entry in fresh:
            (self._batch.derived if entry.derived else self._batch.stored)[entry.entry_id] = entry
        posted = {entry.entry_id: entry for entry in fresh if not entry.derived}
        if not posted:
            return
        facts = await self._arriving.facts_of(posted.values())
        self._batch.facts.update(facts)
        # By node for those that policy or sharing took their entry from, by id for those whom their conversation owns.
        await self._load_leaves(facts.values())
        await self._load_leaves_by_id(entry.leaf_id for entry in posted.values())
        await self._ask_calls(list(facts.values()))
        await self._ask_bulk(list(facts.values()))
        for id_, fact in facts.items():
            # What is followed has one instant for all, so that every conversation can be told as of any later one.
            since = self._batch.followed.since if self._batch.followed else posted[id_].occurred_at
            self._scope.touch(self._names(fact), since)

    async def _load_history(self) -> None:
        """Load what came before in conversations that are decided again from within, since their checkpoint."""
        wanted = self._batch.reached()
        self._batch.rebuilt.update(id_ for id_, _ in wanted)
        if wanted:
            known = self._batch.checkpoints
            between = [(id_, known[id_].at if id_ in known else BEGINNING, before) for id_, before in wanted]
            entries = await tables.entries.entries_between(self._connection, self._tenant, between)
            facts = list((await self._arriving.facts_of(entries)).values())
            self._batch.history = list(zip(entries, facts, strict=True))
            await self._load_leaves(facts)
            await self._load_leaves_by_id(entry.leaf_id for entry in entries)
            await self._load_leaves_by_id(leaf_id for one in known.values() for leaf_id in one.participants)
            contacts = {fact.contact for fact in facts if fact.contact and fact.type.startswith("call.")}
            calls = await tables.entries.calls_of_contacts(self._connection, self._tenant, contacts) if contacts else []
            self._batch.answered.update(contact for contact, _, answered in calls if answered)

    async def _load_leaves(self, facts: Iterable[Facts]) -> None:
        facts = list(facts)
        unknown = {node for fact in facts for node in fact.claimants} - self._people.leaves.keys()
        if self._batch.followed:
            # Whose entries these are is settled, so only what nobody owns is asked whose it is.
            if unknown:
                self._people.take(await tables.leaves.leaves_of_nodes(self._connection, self._tenant, unknown))
            facts, unknown = [fact for fact in facts if not self._people.owner(fact)], set()
        unknown |= {fact.nobody for fact in facts} - self._people.leaves.keys()
        if unknown:
            self._people.take(await tables.leaves.leaves_of_nodes(self._connection, self._tenant, unknown))

    async def _load_leaves_by_id(self, ids: Iterable[UUID]) -> None:
        unknown = set(ids) - set(self._people.by_id)
        if unknown:
            self._people.take(await tables.leaves.leaves_of_ids(self._connection, self._tenant, unknown))

    async def _load_past_links(self) -> None:
        """Load the links of people for whom an event asks who was one customer before they were all known."""
        window = self._batch.policy.open_window
        components = set()
        for fact in self._batch.facts.values():
            owner = self._people.owner(fact)
            if owner and self._people.needs_links(owner, fact.occurred_at + window):
                components.add(owner.component_id)
        if components:
            await self._load_links(components)

    async def _regrouped_since(self) -> dict[UUID, datetime]:
        """Return from when on people who are grouped otherwise may be decided otherwise."""
        return {component: at for component, (at, _) in (await self._placed_otherwise()).items() if at is not None}

    async def _placed_otherwise(self) -> dict[UUID, tuple[datetime | None, bool]]:
        """Return from when on people who are grouped otherwise may be placed otherwise, and whether by rule 4 alone.

        None: they are not.
        """
        since = {component: self._window_before(change.at) for component, change in self._regrouped.items()}
        asked = [
            (leaf_id, since[component] if self._acted_since(leaf_id, since[component]) else None, open_since)
            for component, change in self._regrouped.items()
            for open_since in (self._window_before(since[component]),)
            for side in change.sides
            for leaf_id in side
        ]
        active = await tables.leaves.active(self._connection, self._tenant, asked) if asked else {}
        self._idle.update(leaf_id for leaf_id, _, _ in asked if leaf_id not in active)
        window = self._batch.policy.open_window
        found: dict[UUID, tuple[datetime | None, bool]] = {}
        for component, change in self._regrouped.items():
            sides = [[active[leaf_id] for leaf_id in side if leaf_id in active] for side in change.sides]
            at = placed_otherwise_since(since[component], window, sides) if sides else since[component]
            found[component] = at, bool(sides) and not met_by_bulk_mail(sides)
        return found

    def _acted_since(self, leaf_id: UUID, at: datetime) -> bool:
        last = self._people.by_id[leaf_id].last_entry_at
        return last is not None and last >= at

    def _window_before(self, at: datetime) -> datetime:
        """Return the open window before `at`: the first instant at which rule 4 knows evidence from then."""
        window = self._batch.policy.open_window
        return at - window if at - BEGINNING > window else BEGINNING


def _ids_named(fact: Facts) -> Iterator[UUID]:
    """Yield the ids of ours among those that an event names; any other binds like any other key."""
    yield from dict.fromkeys(id_ for _, id_ in fact.kept)
    for written in fact.named:
        try:
            yield UUID(written)
        except ValueError:
            continue
