"""Who is who: handles and contacts grouped into customers, from the evidence alone.

Pure: the result depends on the set of evidence and the policy only, never on the order in which it arrived.
Source: docs/decisions/0003-identity-from-evidence.md
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from itertools import combinations
from typing import Literal

from services.conversation.policy import Policy
from shared import handles

Node = str
"""A handle in matching form, or `contact:<id>`: always `kind:value`."""

MANUAL_MERGE = "manual_merge"
DO_NOT_LINK = "do_not_link"
NAMED_TOGETHER = "named_together"


@dataclass(frozen=True, slots=True, order=True)
class Evidence:
    """The earliest event that named `a` and `b` together. `a` < `b`."""

    occurred_at: datetime
    source: str
    event_id: str
    a: Node
    b: Node
    rule: str = NAMED_TOGETHER

    @property
    def pair(self) -> tuple[Node, Node]:
        return self.a, self.b

    @property
    def manual(self) -> bool:
        """Whether a person decided it; of those the latest word counts, of all other evidence the earliest."""
        return self.rule in (MANUAL_MERGE, DO_NOT_LINK)

    @property
    def key(self) -> EvidenceKey:
        return self.a, self.b, self.manual

    def supersedes(self, known: Evidence) -> bool:
        """Tell whether this counts in the place of `known`, which has the same key."""
        return self > known if self.manual else self < known


EvidenceKey = tuple[Node, Node, bool]
"""A pair, and whether it is a person's decision about it."""

RefusalReason = Literal["two_crm_ids", "limit", "do_not_link", "shared_handle", "blocked_handle"]


@dataclass(frozen=True, slots=True)
class Refusal:
    """A link that the evidence proposes and the rules forbid."""

    evidence: Evidence
    reason: RefusalReason


@dataclass(frozen=True, slots=True)
class Resolution:
    """The groups of one component: `group_of` maps each node to the least node of its group."""

    group_of: Mapping[Node, Node]
    accepted: tuple[Evidence, ...]
    refused: tuple[Refusal, ...]
    shared: frozenset[Node]

    def groups(self) -> dict[Node, list[Node]]:
        members: dict[Node, list[Node]] = defaultdict(list)
        for node in sorted(self.group_of):
            members[self.group_of[node]].append(node)
        return members


def kind_of(node: Node) -> str:
    return node.partition(":")[0]


def strength(node: Node) -> int:
    """Return 0 for the strongest kind (crm) up to 4 for a contact; weak kinds are above."""
    return handles.STRENGTH.get(node.partition(":")[0], handles.WEAK)  # asked very often


def pairs(nodes: Iterable[Node]) -> Iterator[tuple[Node, Node]]:
    """Yield each unordered pair of distinct nodes once, the lesser first."""
    return combinations(sorted(set(nodes)), 2)


def overshared(links: Iterable[Evidence], policy: Policy) -> frozenset[Node]:
    """Return the phones and e-mail addresses with more distinct partner handles than one person plausibly has."""
    partners: dict[Node, set[Node]] = defaultdict(set)
    for link in links:
        if not link.manual and kind_of(link.a) != "contact" and kind_of(link.b) != "contact":
            partners[link.a].add(link.b)
            partners[link.b].add(link.a)
    return frozenset(
        node
        for node, others in partners.items()
        if len(others) > policy.degree_limit and kind_of(node) in ("email", "phone")
    )


def resolve(
    nodes: Iterable[Node],
    links: Iterable[Evidence],
    policy: Policy,
    *,
    shared: frozenset[Node] | None = None,
    do_not_link: frozenset[tuple[Node, Node]] = frozenset(),
) -> Resolution:
    """Group the nodes of one component into customers.

    Links are accepted one by one, strongest first, unless the union would hold two crm ids, more handles of a kind
    than the policy allows, or two handles that an agent told apart. `shared` are the handles that the degree limit
    bars; they are computed from `links` where not given (a caller who resolves an earlier instant gives those of the
    whole evidence, since sharing is found out for all time at once).
    """
    links = list(links)
    if shared is None:
        shared = overshared(links, policy)
    unions = _Unions(nodes, policy, do_not_link)
    accepted: list[Evidence] = []
    refused: list[Refusal] = []
    for link in sorted(links, key=_precedence):
        reason = _barred(link, policy, shared) or unions.join(link)
        if reason:
            refused.append(Refusal(link, reason))
        else:
            accepted.append(link)
    return Resolution(unions.group_of(), tuple(accepted), tuple(refused), shared)


def _precedence(link: Evidence) -> tuple[bool, int, datetime, str, str]:
    manual = link.rule == MANUAL_MERGE
    return (not manual, max(strength(link.a), strength(link.b)), link.occurred_at, link.a, link.b)


def _barred(link: Evidence, policy: Policy, shared: frozenset[Node]) -> RefusalReason | None:
    if link.a in policy.barred or link.b in policy.barred:
        return "blocked_handle"
    if link.a in shared or link.b in shared:
        return "shared_handle"
    return None


def first_connected(
    links: Iterable[Evidence], wanted: Iterable[tuple[Node, Node]]
) -> dict[tuple[Node, Node], datetime]:
    """Return, for each wanted pair that a chain of links connects, the instant from which on one does."""
    partners: dict[Node, set[Node]] = defaultdict(set)
    for a, b in wanted:
        partners[a].add(b)
        partners[b].add(a)
    piece_of: dict[Node, list[Node]] = {}
    found: dict[tuple[Node, Node], datetime] = {}
    for link in sorted(links, key=lambda link: link.occurred_at):
        large, small = (piece_of.setdefault(node, [node]) for node in link.pair)
        if large is small:
            continue
        if len(large) < len(small):
            large, small = small, large
        for node in small:
            for other in partners.get(node, ()):
                if piece_of.get(other) is large:
                    found[min(node, other), max(node, other)] = link.occurred_at
        large += small
        for node in small:
            piece_of[node] = large
    return found


class _Unions:
    """Disjoint sets that know what each holds, so that a union can be refused."""

    def __init__(self, nodes: Iterable[Node], policy: Policy, do_not_link: frozenset[tuple[Node, Node]]) -> None:
        self._parent: dict[Node, Node] = {}
        self._members: dict[Node, list[Node]] = {}
        self._counts: dict[Node, dict[str, int]] = {}
        self._policy = policy
        self._kept_from: dict[Node, set[Node]] = defaultdict(set)
        """Root → those whom an agent told apart from any of its group."""
        for node in nodes:
            self._add(node)
        for a, b in do_not_link:
            self._kept_from[a].add(b)
            self._kept_from[b].add(a)

    def _add(self, node: Node) -> None:
        if node not in self._parent:
            self._parent[node] = node
            self._members[node] = [node]
            self._counts[node] = {kind_of(node): 1}

    def _root(self, node: Node) -> Node:
        parent = self._parent
        if node not in parent:
            self._add(node)
        while (above := parent[node]) != node:
            parent[node] = node = parent[above]
        return node

    def join(self, link: Evidence) -> RefusalReason | None:
        """Unite both sides, or say why not. Sides already united stay so."""
        left, right = self._root(link.a), self._root(link.b)
        if left == right:
            return None
        reason = self._forbidden(left, right, manual=link.rule == MANUAL_MERGE)
        if reason:
            return reason
        if len(self._members[left]) < len(self._members[right]):
            left, right = right, left
        self._parent[right] = left
        self._members[left] += self._members.pop(right)
        held = self._counts[left]
        for kind, count in self._counts.pop(right).items():
            held[kind] = held.get(kind, 0) + count
        if right in self._kept_from:
            self._kept_from[left] |= self._kept_from.pop(right)
        return None

    def _forbidden(self, left: Node, right: Node, *, manual: bool) -> RefusalReason | None:
        kept_from = self._kept_from.get(left)
        if kept_from and any(node in self._parent and self._root(node) == right for node in kept_from):
            return "do_not_link"
        mine, theirs = self._counts[left], self._counts[right]
        if mine.get("crm", 0) + theirs.get("crm", 0) > self._policy.limits.crm:
            return "two_crm_ids"
        if manual:
            return None
        # A kind that only one side holds is no more after the union: an agent may have put that side above its limit.
        for kind, count in theirs.items():
            if kind in mine and mine[kind] + count > self._policy.limit(kind):
                return "limit"
        return None

    def group_of(self) -> dict[Node, Node]:
        named = {root: min(members) for root, members in self._members.items()}
        return {node: named[self._root(node)] for node in self._parent}
