"""What `receive` adds to every adapter: the order of checks, the net under bugs, times that can be true."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from services.ingest.adapters.base import (
    Account,
    Answer,
    Delivery,
    Draft,
    Forged,
    Headers,
    Malformed,
    Plain,
    Quarantined,
    RawRequest,
    Unreadable,
    receive,
)

NOW = datetime(2026, 3, 3, 10, 0, tzinfo=UTC)
ACCOUNT = Account("t1", "toy", "acme", ("s",))
REQUEST = RawRequest("POST", "/x", "", Headers([("X-Proof", "s")]), b"body", NOW)


class Toy(Plain):
    """An adapter that does as it is told."""

    def __init__(self, *, parsed: Delivery | Exception | None = None, doubt: Exception | None = None) -> None:
        self.parsed, self.doubt = parsed, doubt

    def verify(self, request: RawRequest, account: Account) -> None:
        if self.doubt is not None:
            raise self.doubt

    def parse(self, request: RawRequest, account: Account) -> Delivery:
        if isinstance(self.parsed, Exception):
            raise self.parsed
        return self.parsed or Delivery(Answer(200))

    def taken(self, account: Account, key: str) -> Answer:
        return Answer(202, key.encode())


def a_draft(event_id: str = "1", at: datetime | None = NOW) -> Draft:
    return Draft(event_id, "threadline.message.received", at, {"text": event_id})


@pytest.mark.parametrize("bug", [KeyError("x"), RecursionError(), ZeroDivisionError(), Unreadable("odd")])
def test_genuine_delivery_survives_a_bug_of_ours_in_quarantine(bug: Exception) -> None:
    delivery = receive(Toy(parsed=bug), REQUEST, ACCOUNT)
    (part,) = delivery.quarantined
    assert part.dedupe_key.startswith("sha256:") and part.reason
    assert (delivery.answer.status, delivery.answer.body.decode()) == (202, part.dedupe_key)


def test_proof_in_an_unreadable_body_is_no_proof() -> None:
    with pytest.raises(Forged) as refused:
        receive(Toy(doubt=Unreadable("no form")), REQUEST, ACCOUNT)
    assert refused.value.status == 403


def test_malformed_header_is_answered_in_words() -> None:
    answer = receive(Toy(doubt=Malformed(415, "not this type")), REQUEST, ACCOUNT).answer
    assert answer.status == 415 and b"not this type" in answer.body
    assert dict(answer.headers)["content-type"] == "application/problem+json"


def test_empty_body_is_refused_only_after_the_proof() -> None:
    empty = replace(REQUEST, body=b" \r\n")
    assert receive(Toy(), empty, ACCOUNT).answer.status == 422
    with pytest.raises(Forged):
        receive(Toy(doubt=Forged(401, "no")), empty, ACCOUNT)


@pytest.mark.parametrize(
    ("at", "taken", "estimated"),
    [
        (NOW, NOW, False),
        (NOW + timedelta(hours=24), NOW + timedelta(hours=24), False),
        (NOW + timedelta(hours=24, seconds=1), NOW, True),
        (datetime(9999, 12, 31, tzinfo=UTC), NOW, True),
        (datetime(1, 1, 1, tzinfo=UTC), datetime(1, 1, 1, tzinfo=UTC), False),
        (None, NOW, True),
    ],
)
def test_time_that_cannot_be_true_is_the_time_of_receipt(at: datetime | None, taken: datetime, estimated: bool) -> None:
    (draft,) = receive(Toy(parsed=Delivery(Answer(200), (a_draft(at=at),))), REQUEST, ACCOUNT).events
    assert draft.time == taken
    assert draft.data.get("time_estimated", False) is estimated


def test_repeats_within_one_delivery_are_one() -> None:
    twice = Delivery(
        Answer(200), (a_draft("1"), a_draft("2"), a_draft("1")), (Quarantined("a", "2"), Quarantined("b", "3"))
    )
    delivery = receive(Toy(parsed=twice), REQUEST, ACCOUNT)
    assert [draft.id for draft in delivery.events] == ["1", "2"]
    assert [part.dedupe_key for part in delivery.quarantined] == ["3"]


def test_secrets_and_credentials_are_in_no_representation() -> None:
    account = Account("t1", "toy", "acme", ("very-secret",))
    request = replace(REQUEST, headers=Headers([("Authorization", "Bearer very-secret")]))
    assert "very-secret" not in repr(account) + repr(request)
