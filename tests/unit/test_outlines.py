"""Of people who became one: which answers of rule 4 differ, told from outlines alone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, cast
from uuid import UUID

import pytest

from services.conversation.batch import Batch
from services.conversation.folding import Fold
from services.conversation.outlines import Followed, Outline, are_plain, can_be_asked, outline, were_theirs
from services.conversation.people import Leaf
from services.conversation.policy import DEFAULT
from services.conversation.stitching import Conversation, Rule
from services.conversation.summary import Summary
from services.conversation.tables.conversations import StoredConversation

START = datetime(2026, 3, 1, tzinfo=UTC)
COMPONENT, ANN, BOB, CEM, STRANGER = (UUID(int=number) for number in range(1, 6))
PEOPLE = {ANN: ANN, BOB: ANN, CEM: CEM}
"""Ann and Bob are one customer now; Cem is another one of whom something is known in common with them."""


def at(hours: float) -> datetime:
    return START + timedelta(hours=hours)


def told(
    number: int, hours: float, leaf: UUID | None, conversation: int | None, rule: Rule, kind: str = "message.received"
) -> Outline:
    name = UUID(int=number)
    into = UUID(int=conversation) if conversation else None
    return outline(name, (at(hours), "/a", str(number)), f"threadline.{kind}", False, None, leaf, into, rule)


def stored(number: int, hours: float, last: float, owner: UUID | None = ANN, **state: Any) -> StoredConversation:
    id_ = UUID(int=number)
    conversation = Conversation(id_, (at(hours), "/a", str(number)), owner, **state)
    return StoredConversation(id_, id_, None, None, conversation, Summary(last_entry_at=at(last)))


def differing(outlines: list[Outline], *begun: StoredConversation, since: float = 0) -> list[tuple[int, list[int]]]:
    """Return the numbers of what differs with the conversations that it touches."""
    batch = Batch(cast(Any, None), "acme", DEFAULT, 1, 0, b"secret", START)
    leaves = [Leaf(leaf, f"email:{leaf}", COMPONENT, customer, seq=1) for leaf, customer in PEOPLE.items()]
    batch.people.take(leaves)
    ids = {o.conversation_id for o in outlines if o.conversation_id} - {c.id for c in begun}
    batch.conversations = {c.id: c for c in begun} | {id_: stored(id_.int, 0, 500) for id_ in ids}
    batch.owned = {(cast(UUID, c.state.owner_leaf), c.id) for c in begun}
    ordered = sorted(outlines, key=lambda o: o.facts.order)
    states = {c.id: Conversation(c.id, c.state.opened, c.state.owner_leaf) for c in begun}
    batch.followed = Followed(COMPONENT, at(since), ordered, states, set(batch.conversations))
    fold = Fold(batch)
    fold.run()
    return [(one.entry_id.int, [id_.int for id_ in one.conversations]) for one in fold.differing]


ANNS = told(10, 0, ANN, 10, "new")


@pytest.mark.parametrize(
    ("others", "expected"),
    [
        pytest.param([told(20, 5, BOB, 20, "new")], [(20, [20, 10])], id="what opened another one meets the open one"),
        pytest.param([told(20, 72, BOB, 20, "new")], [(20, [20, 10])], id="to the second"),
        pytest.param([told(20, 72.001, BOB, 20, "new")], [], id="cold a moment later"),
        pytest.param(
            [told(11, 3, ANN, 10, "session", "conversation.resolved"), told(20, 5, BOB, 20, "new")], [], id="resolved"
        ),
        pytest.param(
            [
                told(11, 3, ANN, 10, "session", "conversation.resolved"),
                told(12, 4, ANN, 10, "session"),
                told(20, 5, BOB, 20, "new"),
            ],
            [(20, [20, 10])],
            id="resolved and written into again",
        ),
        pytest.param([told(20, 5, BOB, 20, "session")], [], id="what its keys placed never asked"),
        pytest.param([told(20, 5, CEM, 20, "new")], [], id="another customer"),
        pytest.param([told(20, 5, STRANGER, 20, "new")], [], id="somebody who is not followed"),
        pytest.param([told(20, 5, BOB, 20, "new"), told(21, 6, BOB, 20, "mail")], [(20, [20, 10])], id="with its keys"),
        pytest.param(
            [told(20, 5, BOB, 20, "new"), told(21, 6, BOB, 20, "mail", "conversation.resolved"),
             told(12, 7, ANN, 10, "open_conversation")],
            [(20, [20, 10]), (12, [10])],
            id="what moves acts where it is now",
        ),
        pytest.param(
            [told(20, 5, BOB, None, "none", "conversation.resolved")], [(20, [10])], id="what was placed in none"
        ),
        pytest.param([told(20, 5, BOB, None, "none", "survey.answered")], [], id="what never asks"),
        pytest.param(
            [told(20, 1, BOB, 20, "mail"), told(12, 2, ANN, 10, "open_conversation")], [(12, [10])],
            id="two are open where it was one",
        ),
    ],
)  # fmt: skip
def test_what_gets_another_answer_differs_and_nothing_else(
    others: list[Outline], expected: list[tuple[int, list[int]]]
) -> None:
    assert differing([ANNS, *others]) == expected


def test_what_was_asked_before_the_first_question_is_not_asked_again() -> None:
    outlines = [ANNS, told(20, 5, BOB, 20, "new"), told(21, 6, BOB, 20, "session")]
    assert differing(outlines, since=5.5) == []


def test_what_began_before_its_outline_is_theirs_from_the_start() -> None:
    old = stored(10, -500, 500)
    assert differing([told(11, 1, ANN, 10, "mail"), told(20, 5, BOB, 20, "new")], old) == [(20, [20, 10])]
    ended = told(11, 1, None, 10, "derived", "conversation.resolved")
    assert differing([ended, told(20, 5, BOB, 20, "new")], old) == []
    assert differing([told(20, 5, BOB, 20, "new")], old) == [], "nobody wrote into it for an open window"


def test_outlines_say_enough_of_what_is_plain_and_was_one_customers_alone() -> None:
    assert are_plain([stored(1, 0, 1)])
    assert not are_plain([stored(1, 0, 1), stored(2, 0, 1, tickets={"ticket:T-1"})])
    owned = stored(1, -500, 1)
    assert were_theirs(PEOPLE, [(ANN, owned.id), (BOB, owned.id)], [owned])
    assert not were_theirs(PEOPLE, [(ANN, owned.id), (CEM, owned.id)], [owned]), "since when two had it is not known"
    assert not were_theirs(PEOPLE, [(ANN, owned.id)], [stored(1, -500, 1, owner=STRANGER)])
    assert not were_theirs(PEOPLE, [(ANN, owned.id)], [stored(1, -500, 1, owner=None)])


def test_what_an_agent_placed_or_nobody_owns_cannot_be_asked_again() -> None:
    assert can_be_asked([ANNS, told(11, 1, None, 10, "session")])
    assert not can_be_asked([ANNS, told(11, 1, ANN, 10, "joined")])
    assert not can_be_asked([ANNS, told(11, 1, None, 10, "open_conversation")])


def test_a_call_that_opened_something_when_it_queued_was_answered() -> None:
    def call(number: int, contact: str, kind: str, rule: Rule) -> Outline:
        name = UUID(int=number)
        order = (at(number), "/a", str(number))
        return outline(name, order, f"threadline.call.{kind}", False, contact, ANN, name, rule)

    calls = [call(1, "c1", "queued", "new"), call(2, "c2", "queued", "none"), call(3, "c3", "answered", "session")]
    assert Followed(COMPONENT, START, calls, (), ()).calls_answered() == {"c1", "c3"}
