"""Who is who: properties of the grouping that hold for any evidence, and what a person's decision does to it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import combinations
from uuid import UUID, uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.conversation.facts import Facts, facts_of
from services.conversation.identity import (
    DO_NOT_LINK,
    MANUAL_MERGE,
    Evidence,
    Node,
    Resolution,
    first_connected,
    kind_of,
    overshared,
    resolve,
)
from services.conversation.people import People
from services.conversation.policy import Limits, Policy
from shared.events import InboundEvent
from tests.reference import stitching as reference

START = datetime(2026, 3, 2, 9, tzinfo=UTC)
HANDLES = [
    ("crm", "1"), ("crm", "2"), ("email", "ann@a.example"), ("email", "ann+shop@a.example"), ("email", "bob@b.example"),
    ("email", "cy@c.example"), ("phone", "+31612345671"), ("phone", "+31612345672"), ("messenger", "p/1"),
    ("messenger", "p/2"), ("telegram", "b/1"),
]  # fmt: skip
POWERLESS = [("visitor", "v1"), ("phone", "+31612345670"), ("email", "all@own.example"), ("email", "noreply@x.example"),
             ("crm", "null"), ("phone", "0000")]  # fmt: skip
"""Handles that the policies here block or share, and those that never identify anybody."""

POLICY = Policy()

policies = st.builds(
    Policy,
    blocked=st.just(("phone:+31612345670",)),
    shared=st.just(("email:all@own.example",)),
    limits=st.builds(Limits, email=st.integers(1, 3), phone=st.integers(1, 2), contact=st.integers(1, 3)),
    degree_limit=st.sampled_from([2, 3, 20]),
)


@st.composite
def histories(draw: st.DrawFn) -> list[InboundEvent]:
    """Events that name a few handles together, some in a session, some at the same instant."""
    found = []
    for number in range(draw(st.integers(1, 9))):
        named = draw(st.lists(st.sampled_from(HANDLES), max_size=4, unique=True))
        contact = draw(st.sampled_from([None, "s1", "s2", "s3", "s4"]))
        at = START + timedelta(hours=draw(st.integers(0, 4)))
        found.append(an_event(number, at, named, contact))
    return found


def an_event(number: int, at: datetime, named: Iterable[tuple[str, str]], contact: str | None = None) -> InboundEvent:
    data = {
        "channel": "chat",
        "contact_id": contact,
        "customer": {"handles": [{"kind": kind, "value": value} for kind, value in named]},
    }
    return InboundEvent("acme", "/s", f"e{number}", "threadline.customer.identified", at, at, data)


def read(events: Iterable[InboundEvent], policy: Policy) -> list[Facts]:
    return [facts_of(event, UUID(int=int(event.id[1:])), policy) for event in events]


def grouped(events: Sequence[InboundEvent], policy: Policy) -> dict[str, Node | None]:
    """Return event → the least node of its owner's group, None where nothing in it says whose it is."""
    facts = read(events, policy)
    evidence = list(People.evidence_of(facts).values())
    found = resolve({node for fact in facts for node in fact.nodes}, evidence, policy)
    owners = {fact.order[2]: fact.owner(found.shared) for fact in facts}
    return {name: found.group_of[node] if node else None for name, node in owners.items()}


def kept_in_people(batches: Iterable[Sequence[InboundEvent]], policy: Policy) -> list[set[Node]]:
    """Return the customers that are left when events come batch by batch."""
    people = People(policy, uuid4)
    for batch in batches:
        facts = read(batch, policy)
        for fact in facts:
            for node in fact.nodes:
                people.leaf(node)
        links = people.evidence_of(facts)
        stored = {link.key: link for links_of in people.links.values() for link in links_of.values()}
        people.learn(e for key, e in links.items() if key not in stored or e.supersedes(stored[key]))
    customers: dict[UUID, set[Node]] = {}
    for leaf in people.leaves.values():
        customers.setdefault(leaf.customer_id, set()).add(leaf.node)
    return sorted(customers.values(), key=min)


@settings(deadline=None)
@given(histories(), policies)
def test_customers_are_what_the_rules_say_of_the_whole(events: list[InboundEvent], policy: Policy) -> None:
    shared = reference.shared_handles(events, policy)
    wanted = reference.identity(events, policy, shared)
    for event, got in zip(events, grouped(events, policy).values(), strict=True):
        owner = reference.owning_node(event, policy, shared)
        assert got == (wanted.customer(owner) if owner else None)


@settings(deadline=None)
@given(histories(), policies, st.randoms(use_true_random=False), st.integers(1, 4))
def test_the_order_the_batches_and_the_repetitions_of_arrival_mean_nothing(
    events: list[InboundEvent], policy: Policy, chance: object, size: int
) -> None:
    shuffled = [*events, *events[:3]]
    chance.shuffle(shuffled)  # type: ignore[attr-defined]
    batches = [shuffled[start : start + size] for start in range(0, len(shuffled), size)]
    assert kept_in_people(batches, policy) == kept_in_people([events], policy)
    assert grouped(shuffled, policy) == grouped(events, policy)


@settings(deadline=None)
@given(histories(), policies)
def test_no_customer_holds_two_crm_ids_or_more_of_a_kind_than_the_limit(
    events: list[InboundEvent], policy: Policy
) -> None:
    for customer in kept_in_people([events], policy):
        counts = Counter(kind_of(node) for node in customer)
        assert counts["crm"] <= 1
        assert all(count <= policy.limit(kind) for kind, count in counts.items())


@settings(deadline=None)
@given(histories(), policies, st.sampled_from(POWERLESS), st.data())
def test_a_blocked_shared_or_weak_handle_beside_others_changes_no_grouping(
    events: list[InboundEvent], policy: Policy, handle: tuple[str, str], data: st.DataObject
) -> None:
    chosen = data.draw(st.sets(st.integers(0, len(events) - 1), min_size=1))
    more = list(events)
    for index in chosen:
        given_ = [*events[index].data["customer"]["handles"], {"kind": handle[0], "value": handle[1]}]
        more[index] = replace(events[index], data={**events[index].data, "customer": {"handles": given_}})
    assert grouped(more, policy) == grouped(events, policy)
    assert kept_in_people([more], policy) == kept_in_people([events], policy)


@settings(deadline=None)
@given(histories(), policies)
def test_links_are_accepted_or_refused_with_a_reason_and_none_is_lost(
    events: list[InboundEvent], policy: Policy
) -> None:
    facts = read(events, policy)
    evidence = list(People.evidence_of(facts).values())
    found = resolve((), evidence, policy)
    told = [*found.accepted, *(refusal.evidence for refusal in found.refused)]
    assert sorted(told) == sorted(evidence)
    for link in found.accepted:
        assert found.group_of[link.a] == found.group_of[link.b]


def test_an_identification_belongs_to_its_session_though_it_tells_no_channel() -> None:
    said = an_event(1, START, [], "s1")
    looked_up = an_event(2, START, [("crm", "1")], "s1")
    looked_up.data["channel"] = None
    found = grouped([said, looked_up], POLICY)
    assert found == {"e1": "contact:s1", "e2": "contact:s1"}


@pytest.mark.parametrize("channel", ["email", "sms", "slack"])
def test_an_identification_within_a_thread_of_several_belongs_to_no_session(channel: str) -> None:
    looked_up = an_event(1, START, [("crm", "1")], "s1")
    looked_up.data["channel"] = channel
    assert read([looked_up], POLICY)[0].nodes == ("crm:1",)


def test_a_call_is_a_session_though_it_tells_no_channel() -> None:
    answered = InboundEvent("acme", "/s", "e1", "threadline.call.answered", START, START, {"contact_id": "c1"})
    told = InboundEvent("acme", "/s", "e2", "threadline.message.sent", START, START, {"contact_id": "c1"})
    assert [fact.nodes for fact in read([answered, told], POLICY)] == [("contact:c1",), ()]


# Single sentences -----------------------------------------------------------------------------------------------------


def a_link(a: Node, b: Node, after_h: int = 0, rule: str = "named_together") -> Evidence:
    return Evidence(START + timedelta(hours=after_h), "/s", f"{a}{b}{rule}", min(a, b), max(a, b), rule)


def parted(resolution: Resolution, *nodes: Node) -> bool:
    groups: Mapping[Node, Node] = resolution.group_of
    return len({groups[node] for node in nodes}) == len(nodes)


def together(resolution: Resolution, *nodes: Node) -> bool:
    return len({resolution.group_of[node] for node in nodes}) == 1


def test_an_address_that_two_accounts_claim_stays_with_who_claimed_it_first() -> None:
    links = [a_link("crm:1", "email:x@x"), a_link("crm:2", "email:x@x", 1)]
    for order in (links, links[::-1]):
        found = resolve((), order, POLICY)
        assert together(found, "crm:1", "email:x@x")
        assert parted(found, "crm:1", "crm:2")
        assert [refusal.reason for refusal in found.refused] == ["two_crm_ids"]


def test_the_stronger_link_goes_first_however_late_it_is() -> None:
    early = a_link("crm:1", "phone:+31612345671")
    late = [a_link("crm:2", "email:x@x", 9), a_link("email:x@x", "phone:+31612345671", 9)]
    found = resolve((), [early, *late], POLICY)
    # Both links of the phone are as strong as a phone; the one said first wins, and the crm ids stay apart.
    assert together(found, "crm:2", "email:x@x")
    assert together(found, "crm:1", "phone:+31612345671")


def test_links_as_strong_and_as_old_are_taken_by_the_pair() -> None:
    links = [a_link("crm:1", "email:x@x"), a_link("crm:2", "email:x@x")]
    assert together(resolve((), links[::-1], POLICY), "crm:1", "email:x@x")


@pytest.mark.parametrize(("partners", "shared"), [(20, False), (21, True)])
@pytest.mark.parametrize("hub", ["phone:+31612345671", "email:desk@x.example"])
def test_a_phone_or_address_with_more_partners_than_the_limit_is_shared(
    hub: Node, partners: int, *, shared: bool
) -> None:
    links = [a_link(hub, f"telegram:b/{number}") for number in range(partners)]
    assert (hub in overshared(links, POLICY)) == shared
    found = resolve({hub, "telegram:b/0"}, links, POLICY)
    assert parted(found, hub, "telegram:b/0") == shared


def test_sessions_are_no_partners_and_a_crm_id_is_never_shared() -> None:
    links = [a_link("phone:+31612345671", f"contact:{number}") for number in range(40)]
    links += [a_link("crm:1", f"email:{number}@x") for number in range(40)]
    assert overshared(links, POLICY) == frozenset()


@pytest.mark.parametrize("kind", ["messenger", "telegram"])
def test_the_limit_of_social_handles_counts_for_each_network(kind: str) -> None:
    policy = Policy(limits=Limits(social=1))
    one_each = [a_link("crm:1", "messenger:p/1"), a_link("crm:1", "telegram:b/1")]
    assert together(resolve((), one_each, policy), "crm:1", "messenger:p/1", "telegram:b/1")
    found = resolve((), [*one_each, a_link("crm:1", f"{kind}:p/9", 1)], policy)
    assert [refusal.reason for refusal in found.refused] == ["limit"]


def test_what_an_agent_told_apart_no_evidence_brings_together() -> None:
    apart = frozenset({("email:a@a", "email:b@b")})
    links = [a_link("email:a@a", "email:b@b"), a_link("crm:1", "email:a@a"), a_link("crm:1", "email:b@b", 1)]
    found = resolve((), links, POLICY, do_not_link=apart)
    assert parted(found, "email:a@a", "email:b@b")
    assert {refusal.reason for refusal in found.refused} == {"do_not_link"}


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.sampled_from("abcdef"), st.integers(0, 9)), max_size=9))
def test_two_are_first_connected_at_the_earliest_instant_whose_evidence_leads_from_one_to_the_other(
    said: list[tuple[str, str, int]],
) -> None:
    links = [a_link(f"email:{min(a, b)}", f"email:{max(a, b)}", hours) for a, b, hours in said if a != b]
    wanted = {(f"email:{a}", f"email:{b}") for a, b in combinations("abcdef", 2)}
    naive = {}
    for at in sorted({link.occurred_at for link in links}, reverse=True):
        known = [link for link in links if link.occurred_at <= at]
        found = resolve({node for pair in wanted for node in pair}, known, Policy(limits=Limits(email=9)))
        naive.update({pair: at for pair in wanted if together(found, *pair)})
    assert first_connected(links, wanted) == naive


def test_an_agents_merge_beats_the_limits_but_never_joins_two_crm_ids() -> None:
    policy = Policy(limits=Limits(email=1))
    merge = a_link("email:a@a", "email:b@b", 5, MANUAL_MERGE)
    assert together(resolve((), [merge], policy), "email:a@a", "email:b@b")
    accounts = [a_link("crm:1", "crm:2", 5, MANUAL_MERGE)]
    assert parted(resolve((), accounts, policy), "crm:1", "crm:2")


def test_a_customer_whom_an_agent_put_above_a_limit_still_gains_sessions() -> None:
    policy = Policy(limits=Limits(email=1))
    links = [a_link("email:a@a", "email:b@b", 5, MANUAL_MERGE), a_link("contact:s1", "email:a@a", 6)]
    found = resolve((), links, policy)
    assert together(found, "email:a@a", "email:b@b", "contact:s1")
    third = resolve((), [*links, a_link("email:a@a", "email:c@c", 7)], policy)
    assert parted(third, "email:a@a", "email:c@c")


def test_the_latest_word_of_an_agent_about_a_pair_counts() -> None:
    merge, split = a_link("email:a@a", "email:b@b", 1, MANUAL_MERGE), a_link("email:a@a", "email:b@b", 2, DO_NOT_LINK)
    assert split.supersedes(merge)
    assert not merge.supersedes(split)
    assert merge.key == split.key
