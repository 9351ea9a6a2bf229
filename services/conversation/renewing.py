"""Load what was decided under an earlier policy, whole, to be decided again from nothing under the one in force.

A part of a tenant is closed where nothing outside it had to do with it: people whom evidence connects, the
conversations in which they take part, and the keys of these. Taking a closed part out of what the earlier policy made
and putting its entries where the new one says gives the same, whichever part comes first, since what the rules give
does not depend on the order in which events come. So the parts follow one after the other, in slices (`slices`) or when
something arrives for them (`update`). Source: docs/decisions/0020-policies-in-slices.md
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from uuid import UUID

from services.conversation import tables
from services.conversation.batch import BEGINNING, Batch
from services.conversation.facts import Facts
from services.conversation.identity import DO_NOT_LINK, Evidence, EvidenceKey, Node, overshared
from services.conversation.loading import Loading
from services.conversation.scope import component_name, key_name
from services.conversation.stitching import shared_key
from shared.entry_ids import entry_id_of


async def stale(batch: Batch) -> set[UUID]:
    """Return the leaves among those that a loaded batch has to do with that were decided under an earlier policy."""
    found = {leaf.leaf_id for leaf in batch.people.outdated(batch.renewal)}
    if batch.conversations:
        found.update(
            await tables.renewals.stale_participants(batch.connection, batch.tenant, batch.conversations, batch.renewal)
        )
    return found


class Renewing(Loading):
    """Takes the parts in which certain leaves are, and all that belongs together with them under the new policy."""

    def __init__(self, batch: Batch) -> None:
        super().__init__(batch)
        self._taken: set[Node] = set()
        """Nodes whose entries are loaded."""
        self._disowned: set[Node] = set()
        """Nodes that were found to be shared, whose entries are loaded."""
        self._said: dict[EvidenceKey, Evidence] = {}
        """What the entries say that is stored otherwise, or was read under an earlier policy."""

    async def renew(self, leaves: Iterable[UUID]) -> None:
        """Load the parts of these leaves, and group their people anew."""
        await self._load_leaves_by_id(leaves)
        while self._left():
            while nodes := self._left():
                await self._take_part(nodes)
            await self._group_anew()
            await self._load_connected()
        self._batch.evidence = list(self._said.values())
        await self._load_past_links()

    def _left(self) -> set[Node]:
        """Return the nodes of outdated components that are not taken yet."""
        people = self._people
        components = {leaf.component_id for leaf in people.outdated(self._batch.renewal)}
        return {node for id_ in components for node in people.members[id_]} - self._taken

    async def _take_part(self, nodes: Collection[Node]) -> None:
        self._taken |= set(nodes)
        leaves = [self._people.leaves[node] for node in nodes]
        self._decide_whole(nodes)
        ids = [leaf.leaf_id for leaf in leaves]
        await self._take_stored(await tables.entries.entries_of_leaves(self._connection, self._tenant, ids))
        await self._load_connected()

    def _decide_whole(self, nodes: Iterable[Node]) -> None:
        for component in {self._people.leaves[node].component_id for node in nodes}:
            self._scope.touch((component_name(component),), BEGINNING)

    # --- who is who under the new policy ----------------------------------------------------------------------------

    async def _group_anew(self) -> None:
        people, facts = self._people, list(self._batch.facts.values())
        named = {node for fact in facts for said in (fact, *fact.copies) for node in said.nodes}
        decided = {node for fact in facts for a, b, _ in fact.decisions for node in (a, b)}
        await self._load_nodes(named | decided)
        for node in sorted(named | decided):
            people.leaf(node)
        said = people.evidence_of(facts)
        nodes = await self._involved(self._taken | named | decided)
        unlinked = await self._take_evidence(said, nodes)
        # Links that are gone may have held a handle shared, also one that a shared handle named; those that are new may
        # lead to others.
        await self._load_nodes(unlinked)
        unlinked &= people.leaves.keys()
        await self._load_links({people.leaves[node].component_id for node in unlinked})
        for node in unlinked:  # what was loaded of them just now is as it was said before
            for key in self._batch.unsaid & people.links[node].keys():
                del people.links[node][key]
        nodes = await self._involved(nodes | unlinked)
        were_shared = [node for node in nodes if people.leaves[node].shared]
        for node in nodes:
            people.leaves[node].shared = False
        people.regroup({people.leaves[node].component_id for node in nodes})
        for node in nodes:
            leaf = people.leaves[node]
            held = (link.occurred_at for link in people.links[node].values() if link.rule != DO_NOT_LINK)
            leaf.linked_at = max(held, default=None)
            people.changed.add(node)
        self._decide_whole(node for node in nodes if not people.leaves[node].shared)
        for node in were_shared:
            if not people.leaves[node].shared:
                # What names it alone was nobody's, and no evidence leads there.
                names = (component_name(people.leaves[node].component_id), key_name(shared_key(node)))
                self._scope.touch(names, BEGINNING)
        found_shared = {node for node in nodes if people.leaves[node].shared} - {*were_shared, *self._disowned}
        if found_shared:  # what names it alone may have been decided by the new policy before this was known
            self._disowned |= found_shared
            await self._disown_newly_shared()
        await self._ask_bulk_anew()

    async def _load_nodes(self, nodes: Iterable[Node]) -> None:
        unknown = set(nodes) - set(self._people.leaves)
        if unknown:
            self._people.take(await tables.leaves.leaves_of_nodes(self._connection, self._tenant, unknown))

    async def _involved(self, nodes: Iterable[Node]) -> set[Node]:
        """Return all nodes that links connect with these, with their links loaded; a shared handle connects nothing.

        Whether a handle is shared is told from all evidence there is on it, also where that is outdated: it says the
        same, unless the new policy reads an event otherwise, and then that event's part puts it right.
        """
        people, found, fresh = self._people, set[Node](), set(nodes)
        while fresh:
            components = {people.leaves[node].component_id for node in fresh}
            await self._load_links(components)
            around = {node for id_ in components for node in people.members[id_]} - found
            found |= around
            links = [link for node in around for link in people.links[node].values() if link.rule != DO_NOT_LINK]
            shared = overshared(links, self._batch.policy)
            ends = {end for node in around - shared for link in people.links[node].values()
                    if link.rule != DO_NOT_LINK for end in link.pair}  # fmt: skip
            await self._load_nodes(ends)
            fresh = {node for node in ends if node in people.leaves} - found
        return found

    async def _take_evidence(self, said: dict[EvidenceKey, Evidence], nodes: Collection[Node]) -> set[Node]:
        """Put what the entries say now in the place of what the same entries said under an earlier policy.

        Return the nodes of which they say something no longer.
        """
        people, unsaid, unlinked = self._people, self._batch.unsaid, set[Node]()
        outdated = await tables.renewals.outdated_links(self._connection, self._tenant, nodes, self._batch.renewal)
        read_again = {id_ for fact in self._batch.facts.values() for id_ in (fact.entry_id, *_copies(fact))}
        for link in outdated:
            of = entry_id_of(self._batch.secret, self._tenant, link.source, link.event_id)
            if of in read_again and link.key not in said and not link.manual:
                people.drop_link(link)
                unsaid.add(link.key)
                unlinked.update(link.pair)
        before = {link.key for link in outdated}
        for key, link in said.items():
            known = people.links[link.a].get(key)
            # An agent's word is what it was under any policy, so that of others counts though it is outdated.
            replaces = key in before and (not link.manual or known == link)
            if known is None or replaces or link.supersedes(known):
                people.take_link(link)
                self._said[key] = link
                unsaid.discard(key)
        return unlinked

    async def _ask_bulk_anew(self) -> None:
        """Ask again which mails went to several customers: others may own them now."""
        self._asked_mails, self._sent, self._sent_before = set(), {}, {}
        self._batch.bulk.clear()
        await self._ask_bulk(list(self._batch.facts.values()))


def _copies(fact: Facts) -> Iterable[UUID]:
    return (copy.entry_id for copy in fact.copies)
