"""Load what is left to decide when entries and handles are taken away: the reverse of an arrival.

What remains is a function of the remaining events, so whatever the gone ones were connected with is decided again from
their time on, as it is when an event comes late (`loading`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from uuid import UUID

from services.conversation import tables
from services.conversation.batch import BEGINNING, Batch
from services.conversation.entries import Entry
from services.conversation.erasure import store
from services.conversation.facts import Facts, Key
from services.conversation.identity import Evidence, Node, overshared
from services.conversation.loading import Loading
from services.conversation.scope import component_name
from services.conversation.stitching import sent_key


class Forgetting(Loading):
    """Takes entries and leaves away, and fills the batch with what has to be decided without them."""

    def __init__(self, batch: Batch, derived: Sequence[UUID], copies: Iterable[UUID]) -> None:
        super().__init__(batch)
        self._derived = derived
        """Entries that were derived from those that go, also once: something may be left of them."""
        self._copies = list(copies)
        """Copies of mails that go."""
        self.found: dict[str, int] = {}
        """How many rows of what were removed."""
        self.unsettled = False
        """Whether a handle may no longer be shared or a mail no longer be one that we sent to several, or evidence on
        people who stay has lost its event, or an agent decided about them and somebody who goes. Then all that is left
        is decided again."""
        self._condemned: set[Node] = set()
        self._around: set[Node] = set()
        """All nodes of the components that lose some."""
        self._partners: set[Node] = set()
        """Other nodes that evidence links to the condemned ones: shared handles, mostly."""

    async def forget(self, gone: Sequence[Entry], leaves: Sequence[UUID]) -> None:
        """Remove entries with what was derived from them, and leaves; load what that touches."""
        facts = await self._arriving.facts_of(gone)
        await self._learn_around(gone, facts.values(), leaves)
        bulk = await self._sent_to_several({mail for fact in facts.values() for mail in fact.mails})
        self._batch.bulk |= bulk
        await self._touch(gone, facts)
        await self._remove(gone, leaves)
        links = await store.remove_links(self._connection, self._tenant, self._around, self._condemned)
        self.found["links"] = links
        if bulk - await self._sent_to_several(bulk):
            self.unsettled = True
            return
        await self._take_left()
        await self._load_connected()
        await self._group_anew()
        await self._load_past_links()
        said = {node for fact in facts.values() for node in fact.nodes} - self._around
        if said and await store.links_by_events(self._connection, self._tenant, said, gone):
            self.unsettled = True

    async def forget_whole(self, gone: Sequence[Entry], leaves: Sequence[UUID]) -> None:
        """Remove entries and leaves, and have all that is left decided again."""
        ids = {entry.conversation_id for entry in gone if entry.conversation_id}
        self._batch.conversations = await tables.conversations.conversations(self._connection, self._tenant, ids)
        await self._remove(gone, leaves)
        self.unsettled = True

    async def _remove(self, gone: Iterable[Entry], leaves: Sequence[UUID]) -> None:
        entries = [*(entry.entry_id for entry in gone), *self._derived]
        self.found |= await store.remove(self._connection, self._tenant, entries, self._copies, leaves)

    async def _learn_around(self, gone: Sequence[Entry], facts: Iterable[Facts], leaves: Collection[UUID]) -> None:
        await self._load_leaves_by_id([*leaves, *(entry.leaf_id for entry in gone)])
        await self._load_leaves(facts)
        self._condemned = {self._people.by_id[id_].node for id_ in leaves if id_ in self._people.by_id}
        components = {self._people.leaves[node].component_id for node in self._condemned}
        self._around = {node for component in components for node in self._people.members[component]}
        links = await tables.leaves.links_of_nodes(self._connection, self._tenant, self._around)
        self._partners = {node for link in links for node in link.pair} - self._around
        # What an agent said of those who go alone goes with them, and says nothing of who stays.
        self.unsettled |= any(link.manual and not self._condemned.issuperset(link.pair) for link in links)
        self._people.take(await tables.leaves.leaves_of_nodes(self._connection, self._tenant, self._partners))

    async def _sent_to_several(self, mails: Iterable[Key]) -> set[Key]:
        wanted = {sent_key(mail): mail for mail in mails}
        to: dict[Key, set[UUID]] = defaultdict(set)
        if wanted:
            for key, leaf_id, _ in await tables.entries.recipients(self._connection, self._tenant, wanted):
                to[wanted[key]].add(leaf_id)
        return {mail for mail, leaves in to.items() if len(leaves) > 1}

    async def _touch(self, gone: Sequence[Entry], facts: dict[UUID, Facts]) -> None:
        ids = {entry.conversation_id for entry in gone if entry.conversation_id}
        self._batch.conversations = await tables.conversations.conversations(self._connection, self._tenant, ids)
        for entry in gone:
            names = self._names(facts[entry.entry_id])
            if entry.conversation_id in self._batch.conversations:
                names.append(self._batch.part_of(entry.conversation_id))
            self._scope.touch(names, entry.occurred_at)

    async def _take_left(self) -> None:
        """Load all that those around still own: their evidence is gathered again, from the beginning."""
        ids = [self._people.leaves[node].leaf_id for node in self._around]
        left = await tables.entries.entries_of_leaves(self._connection, self._tenant, ids)
        decisions = await store.decisions_around(self._connection, self._tenant, self._condemned)
        if left or decisions:
            for node in self._around:
                self._scope.touch((component_name(self._people.leaves[node].component_id),), BEGINNING)
            await self._take_stored([*left, *decisions.values()])

    async def _group_anew(self) -> None:
        """Group those around without the condemned, from the evidence that is left."""
        people, staying = self._people, self._around - self._condemned
        for node in self._condemned:
            leaf = people.leaves.pop(node)
            del people.by_id[leaf.leaf_id]
            people.members[leaf.component_id].discard(node)
            people.changed.discard(node)
            people.moved.discard(node)
        people.links.clear()
        people.linked.clear()
        for node in staying:
            people.leaves[node].linked_at = None
            people.changed.add(node)
        self._batch.evidence = self._evidence_left()
        touched = {people.leaf(node).component_id for link in self._batch.evidence for node in link.pair}
        touched |= {people.leaves[node].component_id for node in staying}
        await self._load_links(touched)
        decided = [link for node in staying for link in people.links[node].values() if link.manual]
        people.learn([*self._batch.evidence, *decided])
        people.regroup({people.leaves[node].component_id for node in staying})
        await self._look_at_partners()

    def _evidence_left(self) -> list[Evidence]:
        """Return what the remaining events say of those around, and of handles that live on under their name."""
        facts = [fact for fact in self._batch.facts.values() if not self._around.isdisjoint(fact.nodes)]
        for fact in facts:
            for node in fact.nodes:
                self._people.leaf(node)
        said = list(self._people.evidence_of(facts).values())
        decided = [fact for fact in self._batch.facts.values() if fact.decisions]
        return said + [
            link
            for link in self._people.evidence_of(decided).values()
            if link.manual and not self._condemned.isdisjoint(link.pair)
        ]

    async def _look_at_partners(self) -> None:
        shared = {node for node in self._partners if self._people.leaves[node].shared}
        if not shared:
            return
        await self._load_links({self._people.leaves[node].component_id for node in shared})
        links = {link for node in shared for link in self._people.links[node].values()}
        self.unsettled |= bool(shared - overshared(links, self._batch.policy))
