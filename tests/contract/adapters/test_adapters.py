"""The contract of every channel adapter, held against each provider's recorded deliveries.

An adapter that is added needs no test of its own for what stands here: only an entry in providers.py and payloads.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from services.ingest.adapters import ADAPTERS
from services.ingest.adapters.base import Delivery, Forged, Headers, RawRequest, receive
from services.ingest.webhooks import events_of
from shared.events import FAMILY, PROVIDER_TIMES, InboundEvent
from shared.handles import STRENGTH
from tests.contract.adapters.providers import FORM, HELD, NOW, PROVIDERS, UNDER_TEST, Provider, Signing
from tests.contract.adapters.recorded import Recorded, outcome, recorded

RECORDED = recorded(HELD)
FIRST = {record.provider.name: record for record in reversed(RECORDED)}

every_provider = pytest.mark.parametrize("provider", HELD.values(), ids=HELD.keys())
every_payload = pytest.mark.parametrize("record", RECORDED, ids=[f"{one.provider.name}-{one.name}" for one in RECORDED])


def some(providers: Iterable[Provider]) -> pytest.MarkDecorator:
    chosen = list(providers)
    return pytest.mark.parametrize("provider", chosen, ids=[one.name for one in chosen])


def deliver(provider: Provider, request: RawRequest, *secrets: str) -> Delivery:
    return receive(UNDER_TEST[provider.name], request, provider.account(*secrets))


def a_request(provider: Provider, secret: str | None = None) -> RawRequest:
    """A genuine request: the provider's first recorded delivery."""
    return provider.sign(FIRST[provider.name].signing, secret or provider.secrets[0])


def test_every_adapter_has_recorded_payloads() -> None:
    assert set(ADAPTERS) == set(PROVIDERS) == set(FIRST) - {"template"}


@every_payload
def test_recorded_delivery_brings_exactly_these_events(record: Recorded) -> None:
    delivery = deliver(record.provider, record.provider.sign(record.signing, record.provider.secrets[0]))
    expected = {name: record.document[name] for name in ("answer", "events", "quarantined")}
    assert outcome(delivery) == expected


@every_payload
def test_every_event_is_one_that_the_log_takes(record: Recorded) -> None:
    account = record.provider.account()
    delivery = deliver(record.provider, record.provider.sign(record.signing, record.provider.secrets[0]))
    taken, refused = events_of(delivery.events, account, NOW)
    assert refused == []
    assert len({event.id for event, _ in taken}) == len(taken) == len(delivery.events)
    for event, encoded in taken:
        assert event.source == f"/{record.provider.name}/acme"
        assert InboundEvent.decode(encoded) == event


@pytest.mark.parametrize("provider", PROVIDERS.values(), ids=PROVIDERS.keys())
def test_senders_are_people_that_identity_knows_on_channels_of_a_family(provider: Provider) -> None:
    events = [event for one in RECORDED if one.provider is provider for event in one.document["events"]]
    kinds = {handle["kind"] for event in events for handle in event["data"].get("customer", {}).get("handles", ())}
    # A kind that shared/handles.py does not list links nothing: whoever writes would be nobody, message for message.
    assert kinds <= set(STRENGTH)
    assert {event["data"]["channel"] for event in events if "channel" in event["data"]} <= set(FAMILY)


@every_payload
def test_provider_time_is_kept_as_it_was_written_with_its_unit(record: Recorded) -> None:
    written = json.dumps([record.document.get(name) for name in ("body", "form", "text")], ensure_ascii=False)
    for event in record.document["events"]:
        told = {name: value for name, value in event["data"].items() if name in PROVIDER_TIMES}
        if event["data"].get("time_estimated"):
            # Told and not believed, or not told at all.
            assert len(told) <= 1
        elif record.provider.name == "chat":
            # A visitor's clock tells nothing; ours is no provider's.
            assert told == {}
        else:
            ((name, value),) = told.items()
            assert str(value) in written
            at_s = datetime.fromisoformat(event["time"]).timestamp()
            by_unit = {"provider_time_s": 1, "provider_time_ms": 1_000}
            assert name not in by_unit or float(value) / by_unit[name] == pytest.approx(at_s, abs=0.001)


@every_payload
def test_same_delivery_twice_is_the_same_events(record: Recorded) -> None:
    first, second = (
        deliver(record.provider, record.provider.sign(record.signing, record.provider.secrets[0])) for _ in range(2)
    )
    assert outcome(first) == outcome(second)


@every_provider
def test_old_and_new_secret_are_both_taken_in_rotation(provider: Provider) -> None:
    new, old, _ = provider.secrets
    for secret in (new, old):
        assert deliver(provider, a_request(provider, secret)).answer.status < 300
    assert deliver(provider, a_request(provider, new), new).answer.status < 300


@every_provider
def test_retired_or_foreign_secret_is_refused(provider: Provider) -> None:
    new, old, foreign = provider.secrets
    for secret, active in ((foreign, (new, old)), (old, (new,))):
        with pytest.raises(Forged) as refused:
            deliver(provider, a_request(provider, secret), *active)
        assert refused.value.status in (401, 403)


@every_provider
def test_request_without_proof_is_refused(provider: Provider) -> None:
    bare = RawRequest("POST", "/x", "", Headers([("content-type", provider.content_type)]),
                      FIRST[provider.name].signing.body, NOW)  # fmt: skip
    with pytest.raises(Forged) as refused:
        deliver(provider, bare)
    assert refused.value.status in (401, 403)


@every_provider
def test_no_secret_at_all_lets_nothing_in(provider: Provider) -> None:
    account = replace(provider.account(), secrets=())
    with pytest.raises(Forged):
        receive(UNDER_TEST[provider.name], a_request(provider), account)


@some(one for one in HELD.values() if one.covers_body)
def test_one_changed_byte_of_the_body_is_refused(provider: Provider) -> None:
    request = a_request(provider)
    for place in {0, len(request.body) // 3, len(request.body) // 2, len(request.body) - 1}:
        body = bytearray(request.body)
        body[place] ^= 0x01
        with pytest.raises(Forged):
            deliver(provider, replace(request, body=bytes(body)))
    with pytest.raises(Forged):
        deliver(provider, replace(request, body=request.body + b"x"))


@every_provider
def test_one_changed_byte_of_the_proof_is_refused(provider: Provider) -> None:
    """Also where the body is not covered: a signature, a password, a token that differs by one byte is none."""
    request = a_request(provider)
    changed = list(with_a_changed_proof(request))
    assert changed
    for one in changed:
        with pytest.raises(Forged) as refused:
            deliver(provider, one)
        assert refused.value.status in (401, 403)


_PROOFS = ("signature", "authorization", "secret-token", "digest")


def with_a_changed_proof(request: RawRequest) -> Iterable[RawRequest]:
    """Yield the request with one byte of its proof changed: in a header, the query or (Mailgun) the body."""
    for name, _ in request.headers.items():
        if any(word in name for word in _PROOFS):
            headers = [(key, flipped(old) if key == name else old) for key, old in request.headers.items()]
            yield replace(request, headers=Headers(headers))
    for found in re.finditer(r"signature=([^&]+)", request.query):
        query = request.query[: found.start(1)] + flipped(found[1]) + request.query[found.end(1) :]
        yield replace(request, query=query)
    for found in re.finditer(rb"signature=([0-9a-f]{64})", request.body):
        body = request.body[: found.start(1)] + flipped(found[1].decode()).encode() + request.body[found.end(1) :]
        yield replace(request, body=body)


def flipped(proof: str) -> str:
    """Change one character well before the end, where each bit of base64 counts."""
    place = len(proof) - 6
    return proof[:place] + ("1" if proof[place] != "1" else "2") + proof[place + 1 :]


@some(one for one in HELD.values() if one.window)
def test_stale_delivery_is_refused_and_the_edge_of_the_window_is_taken(provider: Provider) -> None:
    assert provider.window is not None
    signing = FIRST[provider.name].signing
    late = replace(signing, at=NOW - provider.window - timedelta(seconds=2))
    with pytest.raises(Forged) as refused:
        deliver(provider, provider.sign(late, provider.secrets[0]))
    assert refused.value.status in (401, 403)
    in_time = replace(signing, at=NOW - provider.window + timedelta(seconds=2))
    assert deliver(provider, provider.sign(in_time, provider.secrets[0])).answer.status < 300


# Chat's time lies within a token that we signed ourselves.
@some(one for one in HELD.values() if one.window and one.name != "chat")
@pytest.mark.parametrize("stamp", ["", "soon", "1e9", "-1", "٣", "1772532000.5", "9" * 400])
def test_malformed_timestamp_is_4xx(provider: Provider, stamp: str) -> None:
    signing = replace(FIRST[provider.name].signing, stamp=stamp)
    try:
        status = deliver(provider, provider.sign(signing, provider.secrets[0])).answer.status
    except Forged as error:
        status = error.status
    assert 400 <= status < 500


@every_provider
def test_empty_body_is_4xx(provider: Provider) -> None:
    signing = replace(FIRST[provider.name].signing, body=b"")
    try:
        status = deliver(provider, provider.sign(signing, provider.secrets[0])).answer.status
    except Forged as error:
        status = error.status
    assert status in (401, 403, 422)


@every_provider
def test_genuine_delivery_that_is_not_understood_is_kept_and_answered_as_taken(provider: Provider) -> None:
    signing = Signing(provider.garbage, provider.content_type)
    delivery = deliver(provider, provider.sign(signing, provider.secrets[0]))
    assert delivery.answer.status in (200, 202)
    assert delivery.events == ()
    assert len(delivery.quarantined) == 1
    assert delivery.quarantined[0].reason and not delivery.quarantined[0].reason.startswith("the adapter failed")


@every_provider
def test_unknown_kind_is_quarantined_beside_what_is_understood(provider: Provider) -> None:
    records = [one for one in RECORDED if one.provider is provider]
    reasons = [part["reason"] for one in records for part in one.document["quarantined"]]
    # Mail has no kinds.
    assert reasons or provider.name == "sendgrid_inbound"
    assert not any(reason.startswith("the adapter failed") for reason in reasons)


@some(one for one in HELD.values() if one.batch)
def test_batch_of_several_kinds_is_split(provider: Provider) -> None:
    (record,) = [one for one in RECORDED if one.provider is provider and one.name == provider.batch]
    delivery = deliver(provider, provider.sign(record.signing, provider.secrets[0]))
    assert len(delivery.events) > 1
    assert len({draft.id for draft in delivery.events}) == len(delivery.events)


@every_provider
@pytest.mark.parametrize(
    "filling", [b"a", b"[", b'{"a":', b"<a>", b"&a=", b"\n", b"--xYzZY\r\n", b"\xff", b"1|1|1|1|A|\n"]
)
def test_ten_megabytes_take_less_than_a_second(provider: Provider, filling: bytes) -> None:
    body = (filling * (10_000_000 // len(filling) + 1))[:10_000_000]
    request = provider.sign(Signing(body, provider.content_type), provider.secrets[0])
    started = time.thread_time()
    try:
        delivery = deliver(provider, request)
    except Forged:
        delivery = None
    assert time.thread_time() - started < 1.0
    if delivery is not None:
        assert delivery.answer.status < 500
        assert not any(part.reason.startswith("the adapter failed") for part in delivery.quarantined)


@every_provider
def test_other_methods_bring_nothing_in(provider: Provider) -> None:
    for method in ("GET", "PUT", "HEAD", "DELETE"):
        try:
            delivery = deliver(provider, replace(a_request(provider), method=method))
        except Forged:
            continue
        assert delivery.events == () and delivery.quarantined == ()
        assert delivery.answer.status >= 400 or method == "GET"


@every_payload
def test_nothing_but_a_received_message_counts_as_one(record: Recorded) -> None:
    """Echoes, statuses, edits, deletions and reactions are entries of their own type that say what they refer to."""
    for event in record.document["events"]:
        kind = event["type"].removeprefix("threadline.message.")
        if kind in ("status", "edited", "deleted", "reacted"):
            assert event["data"]["refers_to"]
        if kind == "status":
            assert event["data"]["status"]
        if kind == "received":
            assert event["data"]["actor"]["type"] in ("customer", "automated")
        if kind == "sent":
            assert event["data"]["actor"]["type"] in ("agent", "bot", "automated")


def test_form_payloads_are_forms() -> None:
    assert any(record.signing.content_type == FORM for record in RECORDED)
