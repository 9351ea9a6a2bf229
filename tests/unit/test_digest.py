"""What makes an event the same when it comes again."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from services.conversation.entries import digest_of
from services.ingest.adapters import ADAPTERS
from services.ingest.adapters.base import receive
from services.ingest.webhooks import events_of
from shared.events import PROVIDER_TIMES, InboundEvent
from tests.contract.adapters.providers import NOW, PROVIDERS
from tests.contract.adapters.recorded import Recorded, recorded

RECORDED = [one for one in recorded() if one.document["events"]]


def taken(record: Recorded, minutes: int) -> list[InboundEvent]:
    """Return the events of a delivery that came so many minutes later."""
    request = record.provider.sign(record.signing, record.provider.secrets[0])
    request = replace(request, received_at=NOW + timedelta(minutes=minutes))
    account = record.provider.account()
    delivery = receive(ADAPTERS[record.provider.name], request, account)
    return [event for event, _ in events_of(delivery.events, account, request.received_at)[0]]


@pytest.mark.parametrize("name", PROVIDERS)
def test_delivery_that_comes_again_later_is_a_repetition_and_no_conflict(name: str) -> None:
    records = [one for one in RECORDED if one.provider.name == name]
    assert records
    for record in records:
        first, again = taken(record, 0), taken(record, 4)
        assert [event.id for event in first] == [event.id for event in again], record.name
        assert [digest_of(event) for event in first] == [digest_of(event) for event in again], record.name


def test_another_text_or_another_time_that_was_told_is_other_content() -> None:
    event = taken(next(one for one in RECORDED if one.provider.name == "line"), 0)[0]
    assert digest_of(event) != digest_of(replace(event, data={**event.data, "text": "other"}))
    assert digest_of(event) != digest_of(replace(event, occurred_at=event.occurred_at + timedelta(seconds=1)))


def test_events_from_before_providers_times_were_kept_are_known_again() -> None:
    for record in RECORDED:
        for event in taken(record, 0):
            before = {name: value for name, value in event.data.items() if name not in PROVIDER_TIMES}
            assert digest_of(replace(event, data=before)) == digest_of(event)
