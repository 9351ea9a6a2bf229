"""The people of a batch: the leaves and links that its events touch, and the customers that follow from them.

Pure over what was loaded: `tables/leaves.py` brings leaves and links in and takes the changes out.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from services.conversation.facts import Facts
from services.conversation.identity import (
    DO_NOT_LINK,
    MANUAL_MERGE,
    Evidence,
    EvidenceKey,
    Node,
    Resolution,
    first_connected,
    overshared,
    pairs,
    resolve,
    strength,
)
from services.conversation.policy import Policy
from services.conversation.regrouping import Regrouping
from shared.handles import WEAK


@dataclass(slots=True)
class Leaf:
    """A handle or a session, with the component (all that evidence connects) and the customer it belongs to."""

    leaf_id: UUID
    node: Node
    component_id: UUID
    customer_id: UUID
    seq: int | None = None
    """Age: the order in which leaves were stored; None for a new one."""
    was_customer: bool = False
    shared: bool = False
    linked_at: datetime | None = None
    last_entry_at: datetime | None = None
    renewal: int = 0
    """The version of the policy under which it was last decided, of those that may decide otherwise (`renewing`)."""

    @property
    def by_itself(self) -> bool:
        """Whether it stands for nobody else than itself: a browser, and whoever gave no handle at all.

        An agent may say whose they are, and their entries are that customer's then. To rule 4 they stay their own, as
        their entries belong to whoever opened their conversation.
        """
        return strength(self.node) >= WEAK

    @property
    def age(self) -> tuple[bool, int, Node]:
        return (self.seq is None, self.seq or 0, self.node)


class Regrouped(NamedTuple):
    """A leaf of customers taken apart or put together: whose it was, and whose it became (perhaps the same)."""

    leaf_id: UUID
    was: UUID
    became: UUID


@dataclass(slots=True)
class People:
    """Leaves and links of the components at hand."""

    policy: Policy
    new_id: Callable[[], UUID]
    leaves: dict[Node, Leaf] = field(default_factory=dict)
    by_id: dict[UUID, Leaf] = field(default_factory=dict)
    members: dict[UUID, set[Node]] = field(default_factory=lambda: defaultdict(set))
    """Component → its nodes; a component is loaded whole or not at all."""
    links: dict[Node, dict[EvidenceKey, Evidence]] = field(default_factory=lambda: defaultdict(dict))
    """Node → the links it is part of."""
    stored: set[UUID] = field(default_factory=set)
    """Components as stored, of which all leaves are known."""
    linked: set[UUID] = field(default_factory=set)
    """Components whose links are loaded."""
    changed: set[Node] = field(default_factory=set)
    """Leaves to store again."""
    moved: set[Node] = field(default_factory=set)
    """Leaves whose customer is new or another one."""
    was: dict[Node, UUID] = field(default_factory=dict)
    """Stored leaf → the customer that it belonged to, of those that belong to another one now."""
    newly_shared: set[Node] = field(default_factory=set)
    _past: dict[tuple[UUID, int], dict[Node, list[Node]]] = field(default_factory=dict)

    def take(self, leaves: Iterable[Leaf]) -> None:
        """Take leaves as stored."""
        for leaf in leaves:
            if leaf.leaf_id not in self.by_id:
                self.stored.add(leaf.component_id)
                self._add(leaf)

    def _add(self, leaf: Leaf) -> None:
        self.leaves[leaf.node] = leaf
        self.by_id[leaf.leaf_id] = leaf
        self.members[leaf.component_id].add(leaf.node)

    def leaf(self, node: Node) -> Leaf:
        """Return the leaf of `node`, made where it is new."""
        known = self.leaves.get(node)
        if known is None:
            id_ = self.new_id()
            known = Leaf(id_, node, id_, id_, was_customer=True)
            self._add(known)
            self.linked.add(id_)
            self.changed.add(node)
            self.moved.add(node)
        return known

    def shared_nodes(self) -> frozenset[Node]:
        return frozenset(node for node, leaf in self.leaves.items() if leaf.shared)

    def owner(self, event: Facts) -> Leaf | None:
        """Return the leaf that owns an event's entry; None where only its conversation can tell."""
        for node in event.owners:
            leaf = self.leaf(node)
            if not leaf.shared:
                return leaf
        return None

    def is_of(self, leaf_id: UUID, component: UUID) -> bool:
        """Tell whether a leaf is known as one of a component."""
        leaf = self.by_id.get(leaf_id)
        return leaf is not None and leaf.component_id == component

    def person(self, event: Facts) -> Leaf | None:
        """Return the leaf that stands for whom an event is about: its owner, else what identifies weakly."""
        return self.whose(event)[1]

    def whose(self, event: Facts) -> tuple[Leaf | None, Leaf | None]:
        """Return the leaves of an event's `owner` and `person`."""
        owner = self.owner(event)
        return owner, owner or (self.leaf(event.weak) if event.weak else None)

    @staticmethod
    def evidence_of(events: Iterable[Facts]) -> dict[EvidenceKey, Evidence]:
        """Return what these events say of each pair: the earliest that names both, a person's latest decision."""
        found: dict[EvidenceKey, Evidence] = {}
        for event in events:
            for said in (event, *event.copies):
                for a, b in pairs(said.nodes):
                    _keep(found, Evidence(*said.order, a, b))
            for a, b, together in event.decisions:
                _keep(found, Evidence(*event.order, a, b, MANUAL_MERGE if together else DO_NOT_LINK))
        return found

    def take_link(self, link: Evidence) -> None:
        """Take a link as stored, or a new one in its place."""
        self.links[link.a][link.key] = link
        self.links[link.b][link.key] = link

    def drop_link(self, link: Evidence) -> None:
        """Forget a link."""
        for node in link.pair:
            self.links[node].pop(link.key, None)

    def outdated(self, renewal: int) -> list[Leaf]:
        """Return the stored leaves that were last decided under an earlier policy."""
        return [leaf for leaf in self.by_id.values() if leaf.seq is not None and leaf.renewal < renewal]

    def _links_of(self, nodes: Iterable[Node]) -> list[Evidence]:
        found: dict[EvidenceKey, Evidence] = {}
        for node in nodes:
            if node in self.links:
                found.update(self.links[node])
        return list(found.values())

    def learn(self, evidence: Iterable[Evidence]) -> dict[UUID, Regrouping]:
        """Take new evidence and group anew every component that it touches, whose links must be loaded.

        Returns component → what the evidence did, for those where it changes who was one customer among people who
        already have entries: what was decided from its earliest instant on may be decided otherwise.
        """
        evidence = list(evidence)
        before, since = self._known_together(evidence), self._may_change_since(evidence)
        latest = {id_: self.linked_until(id_) for id_ in self._components_of(evidence)}
        overtaken: set[Node] = set()
        for link in evidence:
            sides = {self.leaf(node).component_id for node in link.pair}
            # Where anything that is known of these people lies later, this may have made them one before that did.
            later = any((at := latest[side]) is not None and at > link.occurred_at for side in sides)
            if later or self._replaces(link):
                overtaken.add(link.a)
            self.take_link(link)
            for node in link.pair:
                leaf = self.leaf(node)
                # What an agent told apart was never together, so it has no instant before which it is not known.
                if link.rule != DO_NOT_LINK and (leaf.linked_at is None or leaf.linked_at < link.occurred_at):
                    leaf.linked_at = link.occurred_at
                    latest[leaf.component_id] = max(link.occurred_at, latest[leaf.component_id] or link.occurred_at)
                self.changed.add(node)
        self.regroup(latest)
        return self._decided_otherwise(evidence, since, before, overtaken)

    def _replaces(self, link: Evidence) -> bool:
        """Tell whether it is an agent's new word on a pair, in the place of an earlier one."""
        return link.manual and link.key in self.links[link.a]

    def _components_of(self, evidence: Iterable[Evidence]) -> set[UUID]:
        return {self.leaf(node).component_id for link in evidence for node in link.pair}

    def linked_until(self, component: UUID) -> datetime | None:
        """Return the instant of the latest evidence that a component's people were told of."""
        return max((at for node in self.members[component] if (at := self.leaves[node].linked_at)), default=None)

    def _known_together(self, evidence: Iterable[Evidence]) -> dict[UUID, UUID]:
        """Return leaf → customer of everybody with entries in the components that this evidence touches."""
        leaves = (self.leaves[node] for id_ in self._components_of(evidence) for node in self.members[id_])
        return {leaf.leaf_id: leaf.customer_id for leaf in leaves if leaf.last_entry_at is not None}

    def _may_change_since(self, evidence: Sequence[Evidence]) -> dict[tuple[Node, Node], datetime]:
        """Return pair → the first instant at which this evidence, not taken yet, may make them one or two."""
        held_together = self._held_together(evidence)
        since: dict[tuple[Node, Node], datetime] = {}
        for link in evidence:
            held = held_together.get(link.pair)
            at = held if link.rule == DO_NOT_LINK else link.occurred_at
            if self._replaces(link):
                at = min((known for known in (at, held) if known), default=None)
            if at is not None:
                since[link.pair] = min(at, since.get(link.pair, at))
        return since

    def _held_together(self, evidence: Sequence[Evidence]) -> dict[tuple[Node, Node], datetime]:
        """Return, for each pair that an agent decides about, the instant from which on a chain of evidence joins it.

        Before it they were two whatever anybody says, so nothing that was decided then may be decided otherwise. An
        agent's word counts here even where a later one takes its place.
        """
        decided = [link.pair for link in evidence if link.manual]
        if not decided:
            return {}
        nodes = {node for pair in decided for end in pair for node in self.members[self.leaf(end).component_id]}
        links = [link for link in (*self._links_of(nodes), *evidence) if link.rule != DO_NOT_LINK]
        return first_connected(links, decided)

    def _decided_otherwise(
        self,
        evidence: Iterable[Evidence],
        since: dict[tuple[Node, Node], datetime],
        before: dict[UUID, UUID],
        overtaken: set[Node],
    ) -> dict[UUID, Regrouping]:
        instants: dict[UUID, set[datetime]] = defaultdict(set)
        out_of_order: set[UUID] = set()
        for pair, at in since.items():
            for component in {self.leaves[node].component_id for node in pair}:
                instants[component].add(at)
                if pair[0] in overtaken:
                    out_of_order.add(component)
        # Told apart for all time: they may have been one then, though something else made them two long before now.
        apart = {self.leaves[node].component_id for e in evidence if e.rule == DO_NOT_LINK for node in e.pair}
        # Who was one customer may also have changed before that instant, or have been another in between.
        doubtful = {component for component, at in instants.items() if len(at) > 1} | out_of_order | apart
        regrouped = self._regrouped(before)
        return {
            component: Regrouping(
                min(at), () if component in doubtful or self.newly_shared else self._united(component, before)
            )
            for component, at in instants.items()
            if component in out_of_order | apart or not regrouped.isdisjoint(self.members[component])
        }

    def _united(self, component: UUID, before: dict[UUID, UUID]) -> tuple[tuple[UUID, ...], ...]:
        """Return the leaves with entries of each customer that is one with others now; none where any came apart."""
        was: dict[UUID, list[UUID]] = defaultdict(list)
        became: dict[UUID, set[UUID]] = defaultdict(set)
        for leaf_id, old in before.items():
            leaf = self.by_id[leaf_id]
            if leaf.component_id == component:
                was[old].append(leaf_id)
            became[old].add(leaf.customer_id)
        if any(len(became[old]) > 1 for old in was):
            return ()
        count = Counter(new for old in was for new in became[old])
        return tuple(tuple(leaves) for old, leaves in was.items() if count[next(iter(became[old]))] > 1)

    def _regrouped(self, before: dict[UUID, UUID]) -> set[Node]:
        """Return the nodes of those who had entries (`before`: leaf → customer) and are grouped otherwise now."""
        became: dict[UUID, set[UUID]] = defaultdict(set)
        came_from: dict[UUID, set[UUID]] = defaultdict(set)
        for leaf_id, old in before.items():
            new = self.by_id[leaf_id].customer_id
            became[old].add(new)
            came_from[new].add(old)
        return {
            self.by_id[leaf_id].node
            for leaf_id, old in before.items()
            if len(became[old]) > 1 or len(came_from[self.by_id[leaf_id].customer_id]) > 1
        }

    def regrouped(self) -> list[Regrouped]:
        """Return all stored leaves of those who are grouped otherwise now than they are stored."""
        before = {
            leaf.leaf_id: self.was.get(leaf.node, leaf.customer_id)
            for leaf in self.by_id.values()
            if leaf.seq is not None
        }
        leaves = (self.leaves[node] for node in sorted(self._regrouped(before)))
        return [Regrouped(leaf.leaf_id, before[leaf.leaf_id], leaf.customer_id) for leaf in leaves]

    def regroup(self, components: Iterable[UUID]) -> None:
        """Group the nodes of these components anew."""
        nodes = {node for component in components for node in self.members[component]}
        if not nodes:
            return
        links = self._links_of(nodes)
        self._share(nodes, links)
        shared = self.shared_nodes()
        # Links to a shared handle hold nothing together.
        held = nodes - shared
        inner = [link for link in links if link.a in held and link.b in held]
        apart, inner = _told_apart(inner)
        taken: set[UUID] = set()
        for piece in _pieces(nodes, inner):
            self._recompose(piece, taken)
        resolution = resolve(nodes, inner, self.policy, shared=frozenset(), do_not_link=apart)
        for group in resolution.groups().values():
            self._settle(group)

    def _share(self, nodes: set[Node], links: list[Evidence]) -> None:
        for node in overshared(links, self.policy) & nodes:
            if not self.leaves[node].shared:
                self.leaves[node].shared = True
                self.changed.add(node)
                self.newly_shared.add(node)

    def _recompose(self, piece: list[Node], taken: set[UUID]) -> None:
        """Give a connected piece one component id: the one that most of it has, unless a larger piece took it.

        Of several the one of the oldest leaf, as the customer is (`_settle`): then one side is written again, not both.
        """
        leaves = sorted((self.leaves[node] for node in piece), key=lambda leaf: leaf.age)
        common = Counter(leaf.component_id for leaf in leaves).most_common()
        component = next((id_ for id_, _ in common if id_ not in taken), None) or self.new_id()
        taken.add(component)
        for node in piece:
            leaf = self.leaves[node]
            if leaf.component_id != component:
                self.members[leaf.component_id].discard(node)
                self.members[component].add(node)
                leaf.component_id = component
                self.changed.add(node)
        self.linked.add(component)

    def _settle(self, group: list[Node]) -> None:
        """Give a group one customer: the one that most of it was, so that a merge re-points the smaller side."""
        leaves = [self.leaves[node] for node in group]
        ids = {leaf.leaf_id: leaf for leaf in leaves}
        current = Counter(leaf.customer_id for leaf in leaves if leaf.customer_id in ids)
        best = max(current.values(), default=0)
        candidates = [ids[id_] for id_, count in current.items() if count == best]
        candidates = candidates or [leaf for leaf in leaves if leaf.was_customer] or leaves
        # A stored customer stays before one that this batch made; of those the oldest.
        chosen = min(candidates, key=lambda leaf: leaf.age)
        if not chosen.was_customer:
            chosen.was_customer = True
            self.changed.add(chosen.node)
        for leaf in leaves:
            if leaf.seq is None and leaf is not chosen and leaf.was_customer:
                leaf.was_customer = False  # nobody outside has ever seen this id
            if leaf.customer_id != chosen.leaf_id:
                if leaf.seq is not None:
                    self.was.setdefault(leaf.node, leaf.customer_id)
                leaf.customer_id = chosen.leaf_id
                self.changed.add(leaf.node)
                self.moved.add(leaf.node)

    def needs_links(self, leaf: Leaf, at: datetime) -> bool:
        """Tell whether who was one customer at `at` cannot be told from the leaves alone."""
        return leaf.component_id not in self.linked and any(
            (linked := self.leaves[node].linked_at) is not None and linked > at
            for node in self.members[leaf.component_id]
        )

    def customers_at(self, leaf_id: UUID, at: datetime) -> list[UUID]:
        """Return all leaves that are one customer with `leaf_id` by the evidence up to `at`, in the order of nodes.

        Those that stand by themselves are alone, whoever an agent says they are.
        """
        leaf = self.by_id[leaf_id]
        nodes = self.members[leaf.component_id]
        if len(nodes) == 1 or leaf.by_itself:
            return [leaf_id]
        if not any((linked := self.leaves[node].linked_at) is not None and linked > at for node in nodes):
            now = (o for node in sorted(nodes) if (o := self.leaves[node]).customer_id == leaf.customer_id)
            return [other.leaf_id for other in now if not other.by_itself]
        links = [link for link in self._links_of(nodes) if link.a in nodes and link.b in nodes]
        apart, links = _told_apart(links)
        links = [link for link in links if link.occurred_at <= at]
        key = (leaf.component_id, len(links))
        if key not in self._past:
            shared = self.shared_nodes()
            past: Resolution = resolve(nodes, links, self.policy, shared=shared, do_not_link=apart)
            self._past[key] = {node: group for group in past.groups().values() for node in group}
        past_ones = (self.leaves[node] for node in self._past[key][leaf.node])
        return [other.leaf_id for other in past_ones if not other.by_itself]


def _keep(found: dict[EvidenceKey, Evidence], evidence: Evidence) -> None:
    known = found.get(evidence.key)
    if known is None or evidence.supersedes(known):
        found[evidence.key] = evidence


def _told_apart(links: Iterable[Evidence]) -> tuple[frozenset[tuple[Node, Node]], list[Evidence]]:
    """Separate what agents told apart from what holds together."""
    links = list(links)
    apart = frozenset(link.pair for link in links if link.rule == DO_NOT_LINK)
    return apart, [link for link in links if link.rule != DO_NOT_LINK]


def _pieces(nodes: set[Node], links: list[Evidence]) -> list[list[Node]]:
    """Return the connected pieces, largest first."""
    neighbours: dict[Node, list[Node]] = defaultdict(list)
    for link in links:
        neighbours[link.a].append(link.b)
        neighbours[link.b].append(link.a)
    left, pieces = set(nodes), []
    while left:
        start = left.pop()
        piece, queue = [start], [start]
        while queue:
            for other in neighbours[queue.pop()]:
                if other in left:
                    left.discard(other)
                    piece.append(other)
                    queue.append(other)
        pieces.append(piece)
    return sorted(pieces, key=lambda piece: (-len(piece), min(piece)))
