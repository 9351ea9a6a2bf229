"""Which events of a batch would make its decision a large one: the lane decides them, beside the stream. Pure.

Large is what regroups people of many handles and sessions, and what has many entries decided again. Both are known
before the expensive part: who is connected is loaded, what they said is not. Nothing but when an event is decided
depends on it. Source: docs/decisions/0021-large-decisions-beside-the-stream.md
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable
from datetime import datetime
from uuid import UUID

from services.conversation.batch import BEGINNING, Batch
from services.conversation.facts import Facts
from services.conversation.identity import Evidence, Node, pairs
from services.conversation.people import Leaf
from services.conversation.scope import Name, key_name


class TooLarge(Exception):
    """The decision on a batch is large, because of these events (by the ids of their entries). Nothing was decided."""

    def __init__(self, events: Collection[UUID]) -> None:
        super().__init__(f"{len(events)} events")
        self.events = frozenset(events)


def check_people(batch: Batch) -> None:
    """Raise TooLarge where the new evidence of a batch, not taken yet, regroups too many leaves.

    A new session of somebody regroups nobody, however many they have.
    """
    if batch.limits is None:
        return
    groups = _Groups(batch)
    for link in batch.evidence:
        groups.unite(link)
    large = groups.pairs(batch.limits.leaves)
    if large:
        raise TooLarge(_saying(batch, large))


def check_shared(batch: Batch, entries: int) -> None:
    """Raise TooLarge where handles just found to be shared own too many entries: all of them are decided again."""
    if batch.limits is not None and entries > batch.limits.entries:
        shared = batch.people.newly_shared
        raise TooLarge(_saying(batch, {link.pair for link in batch.evidence if not shared.isdisjoint(link.pair)}))


def check_parts(batch: Batch) -> None:
    """Raise TooLarge where a part of the scope, as far as it is known, has too many entries to be told again."""
    if batch.limits is None:
        return
    entries: Counter[Name] = Counter()
    latest: dict[Name, datetime] = {}
    for id_ in {batch.conversations[id_].canonical_id for id_, _ in batch.reached()}:
        part, summary = batch.scope.part(batch.part_of(id_)), batch.conversations[id_].summary
        told = batch.checkpoints[id_].conversation.summary.entries if id_ in batch.checkpoints else 0
        entries[part] += summary.entries - told
        latest[part] = max(summary.last_entry_at or BEGINNING, latest.get(part, BEGINNING))
    large = {part: latest[part] for part, count in entries.items() if count > batch.limits.entries}
    if large:
        raise TooLarge(_reaching_back(batch, large))


def _reaching_back(batch: Batch, large: dict[Name, datetime]) -> set[UUID]:
    """Return the new events in these parts that are not just the next in order; all of them where there is none such.

    `large`: part → the instant of its last entry.
    """
    new = {**{id_: a.facts for id_, a in batch.arrivals.items()}, **{c.facts.entry_id: c.facts for c in batch.copies}}
    inside = {
        id_: fact
        for id_, fact in new.items()
        if id_ not in batch.displaced and batch.scope.part(key_name(f"conversation:{id_}")) in large
    }
    said = {link.pair for link in batch.evidence}
    late = {
        id_
        for id_, fact in inside.items()
        if fact.occurred_at <= large[batch.scope.part(key_name(f"conversation:{id_}"))]
        or fact.entries_put
        or fact.united
        or not said.isdisjoint(_pairs_of(fact))
    }
    return late or set(inside) or {id_ for id_ in new if id_ not in batch.displaced}


def _saying(batch: Batch, wanted: Collection[tuple[Node, Node]]) -> set[UUID]:
    """Return the events, new entries and copies, that say something of these pairs."""
    facts = [*(arrival.facts for arrival in batch.arrivals.values()), *(copy.facts for copy in batch.copies)]
    return {fact.entry_id for fact in facts if not _pairs_of(fact).isdisjoint(wanted)}


def _pairs_of(fact: Facts) -> set[tuple[Node, Node]]:
    said = (pair for each in (fact, *fact.copies) for pair in pairs(each.nodes))
    return {*said, *((a, b) for a, b, _ in fact.decisions)}


class _Groups:
    """Whom the new evidence of a batch brings together, perhaps over leaves that are new."""

    def __init__(self, batch: Batch) -> None:
        self._people = batch.people
        self._parent: dict[object, object] = {}
        self._links: list[Evidence] = []

    def unite(self, link: Evidence) -> None:
        """Take new evidence."""
        one, other = (self._root(self._who(self._people.leaf(node))) for node in link.pair)
        self._parent[one] = other
        self._links.append(link)

    def pairs(self, most: int) -> set[tuple[Node, Node]]:
        """Return the pairs of the groups in which customers come together or an agent decides, and that are large."""
        components: dict[object, set[UUID]] = defaultdict(set)
        customers: dict[object, set[UUID]] = defaultdict(set)
        said: dict[object, set[tuple[Node, Node]]] = defaultdict(set)
        decided = set()
        for link in self._links:
            root = self._root(self._who(self._people.leaf(link.a)))
            said[root].add(link.pair)
            if link.manual:
                decided.add(root)
            for leaf in map(self._people.leaf, link.pair):
                components[root].add(leaf.component_id)
                if leaf.seq is not None:
                    customers[root].add(leaf.customer_id)
        regrouping = (root for root in said if root in decided or len(customers[root]) > 1)
        return {pair for root in regrouping if self._size(components[root]) > most for pair in said[root]}

    def _size(self, components: Iterable[UUID]) -> int:
        return sum(len(self._people.members[id_]) for id_ in components)

    def _who(self, leaf: Leaf) -> object:
        return leaf.node if leaf.seq is None else leaf.customer_id

    def _root(self, who: object) -> object:
        while (above := self._parent.setdefault(who, who)) is not who:
            self._parent[who] = who = self._parent[above]
        return who
