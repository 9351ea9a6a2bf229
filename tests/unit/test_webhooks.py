"""What is told to whom, where it may be sent, when again, and what proves it: decisions without I/O."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address, IPv6Address
from typing import Any
from uuid import UUID

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from services.conversation.webhooks.addresses import checked_url, networks, refusal
from services.conversation.webhooks.events import MAX_BODY_BYTES, Told, Wanted, body_of, told_by, wants
from services.conversation.webhooks.retrying import (
    LONGEST_RETRY_AFTER_S,
    PAUSE_LONGEST_S,
    SCHEDULE_S,
    Answer,
    attempt_counts,
    judge,
    next_attempt_s,
    pause_s,
    retry_after_s,
    tells_of_endpoint,
)
from services.conversation.webhooks.signing import Secret, checked_secret, headers_of, new_secret, rotated
from shared.events import TimelineRecord, rfc3339

NOW = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
ENTRY, LEAF, TALK = (UUID(int=number) for number in (1, 2, 3))

# Addresses

INSIDE = (
    "127.0.0.1", "127.8.9.1", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "169.254.169.254", "0.0.0.0",
    "100.64.0.1", "168.63.129.16", "192.0.0.8", "198.18.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255",
    "::1", "::", "fc00::1", "fd00:ec2::254", "fe80::1", "fe80::1%eth0", "fec0::1", "ff02::1", "2001:db8::1",
    "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::127.0.0.1", "64:ff9b::a00:1", "64:ff9b:1::1", "2002:7f00:1::",
    "2002:c0a8:101::1", "2001:0:7f00:1::", "2001:0:5ef5:79fb:0:0:80ff:fffe",
)  # fmt: skip


@pytest.mark.parametrize("address", INSIDE)
def test_no_address_inside_is_called(address: str) -> None:
    assert refusal(address) is not None


@pytest.mark.parametrize("address", ("93.184.216.34", "1.1.1.1", "2606:4700::1111", "::ffff:93.184.216.34"))
def test_addresses_of_the_open_internet_are_called_but_never_without_tls(address: str) -> None:
    assert refusal(address) is None
    assert refusal(address, networks("10.0.0.0/8"), cleartext=True) is not None


def test_an_allowed_network_is_called_and_nothing_beside_it() -> None:
    allowed = networks("10.20.0.0/16, fd00:1::/64")
    for address in ("10.20.3.4", "fd00:1::5", "::ffff:10.20.0.1"):
        assert refusal(address, allowed) is None
        assert refusal(address, allowed, cleartext=True) is None
    for address in ("10.21.0.1", "fd00:2::1", "127.0.0.1"):
        assert refusal(address, allowed) is not None


@given(st.ip_addresses(network="10.0.0.0/8") | st.ip_addresses(network="169.254.0.0/16"))
def test_an_address_inside_is_refused_in_every_disguise(address: IPv4Address) -> None:
    number = int(address)
    for disguise in (
        IPv6Address(0xFFFF << 32 | number), IPv6Address(number), IPv6Address(0x64FF9B << 96 | number),
        IPv6Address(0x2002 << 112 | number << 80),
    ):  # fmt: skip
        assert refusal(str(disguise)) is not None


@pytest.mark.parametrize(
    "url, says",
    [
        ("http://help.example.com/", "https"), ("ftp://help.example.com/", "must be a URL"),
        ("https:///x", "must be a URL"), ("https://help.example.com:0/", "URL"),
        ("https://user:pass@help.example.com/", "user or password"), ("https://help.example.com/#x", "fragment"),
        ("https://127.0.0.1/", "from outside"), ("https://[::1]:8443/", "from outside"),
        ("https://help.example.com:99999/", "must be a URL"), ("https://h\u00e9lp.example.com/", "ASCII"),
        ("https://help.example.com/" + "x" * 2_000, "2000"), ("https://a b.example/", "ASCII"), ("", "must be a URL"),
    ],
)  # fmt: skip
def test_a_url_that_cannot_be_told_is_refused_with_the_reason(url: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        checked_url(url)


def test_a_setting_that_is_no_network_is_named() -> None:
    with pytest.raises(ValueError, match=r"'10\.20/99' is not a network"):
        networks("10.0.0.0/8,10.20/99")


# What an answer means


@pytest.mark.parametrize(
    "status, delivered, away, gone",
    [
        (200, True, False, False), (204, True, False, False), (299, True, False, False),
        (301, False, True, False), (307, False, True, False), (400, False, False, False), (404, False, False, False),
        (410, False, False, True), (429, False, True, False), (500, False, False, False), (503, False, True, False),
        (None, False, True, False),
    ],
)  # fmt: skip
def test_what_an_answer_means(status: int | None, delivered: bool, away: bool, gone: bool) -> None:
    verdict = judge(Answer(status))
    assert (verdict.delivered, verdict.away, verdict.gone) == (delivered, away, gone)
    assert delivered or verdict.reason


def test_attempts_go_on_for_days_and_then_end() -> None:
    waits = [next_attempt_s(attempts, Answer(500)) for attempts in range(1, len(SCHEDULE_S) + 2)]
    assert waits[:-1] == pytest.approx(list(SCHEDULE_S)) and waits[-1] is None
    assert timedelta(seconds=sum(SCHEDULE_S)) > timedelta(days=3)


@given(st.integers(1, len(SCHEDULE_S)), st.floats(0, 1, exclude_max=True))
def test_jitter_moves_an_attempt_by_a_tenth_at_most(attempts: int, jitter: float) -> None:
    wait = next_attempt_s(attempts, Answer(500), jitter)
    assert wait is not None and abs(wait / SCHEDULE_S[attempts - 1] - 1) <= 0.1 + 1e-9


def test_retry_after_is_waited_for_but_not_for_ever() -> None:
    assert next_attempt_s(1, Answer(429, retry_after_s=900)) == 900
    assert next_attempt_s(1, Answer(503, retry_after_s=10**9)) == LONGEST_RETRY_AFTER_S
    assert pause_s(1, Answer(429, retry_after_s=900), judge(Answer(429))) == 900


@pytest.mark.parametrize(
    "header, seconds",
    [("120", 120), (" 7 ", 7), ("Mon, 02 Mar 2026 09:01:00 GMT", 60), ("Mon, 02 Mar 2026 08:00:00 GMT", 0),
     ("soon", None), ("", None), (None, None), ("-5", None), ("9" * 400, LONGEST_RETRY_AFTER_S)],
)  # fmt: skip
def test_retry_after_is_read_as_seconds_or_as_a_date(header: str | None, seconds: float | None) -> None:
    assert retry_after_s(header, NOW) == seconds


def test_one_delivery_that_is_choked_on_pauses_nobody_but_an_outage_does() -> None:
    bad = Answer(500)
    assert pause_s(1, bad, judge(bad)) is None
    assert pause_s(5, bad, judge(bad)) == 16
    nobody = Answer(None, "no answer")
    assert [pause_s(failures, nobody, judge(nobody)) for failures in (1, 2, 3)] == [1, 2, 4]
    assert pause_s(10_000, nobody, judge(nobody)) == PAUSE_LONGEST_S


@given(st.integers(0, 9), st.floats(0, 1, exclude_max=True))
def test_an_attempt_counts_in_its_own_time_and_no_sooner(attempts: int, jitter: float) -> None:
    waits = [next_attempt_s(done, Answer(500), jitter) or 0.0 for done in range(1, attempts + 1)]
    assert attempt_counts(attempts, sum(waits) + 0.001)
    assert attempts == 0 or not attempt_counts(attempts, sum(waits[:-1]))


@pytest.mark.parametrize(
    "last_status, status, tells",
    [(None, 500, True), (503, 500, True), (410, 500, True), (500, 400, False), (400, 500, False), (500, 503, True),
     (500, None, True), (302, 400, True)],
)  # fmt: skip
def test_what_was_refused_for_itself_and_is_again_tells_nothing_of_its_endpoint(
    last_status: int | None, status: int | None, tells: bool
) -> None:
    assert tells_of_endpoint(last_status, judge(Answer(status))) is tells


# What is told


def a_record(version: int = 1, deleted: bool = False, **body: Any) -> TimelineRecord:
    whole = {
        "id": str(ENTRY), "type": "threadline.message.sent", "channel": "email", "source": "/email/help",
        "version": version,
        "occurred_at": rfc3339(NOW), "leaf_id": str(LEAF), "conversation_id": str(TALK), "text": "Here it is",
        "automatic": False, "received_at": rfc3339(NOW), "topic": None, "language": None,
        "data": {"channel": "email", "message_id": "r1@x", "thread": {"in_reply_to": "q1@x"},
                 "customer": {"handles": [{"kind": "email", "value": "ann@example.com"}]}, "ticket": "T-1",
                 "text": "Here it is", "extra": {"nested": 1}}, **body,
    }  # fmt: skip
    return TimelineRecord("acme", "entry", str(ENTRY), version, whole, deleted)


def told(record: TimelineRecord, changed_at: datetime = NOW) -> Told:
    found = told_by(record, changed_at)
    assert found is not None
    return found


def test_first_version_later_version_and_removal_are_events_of_their_own_with_ids_of_their_own() -> None:
    first, later, gone = told(a_record()), told(a_record(2)), told(a_record(3, deleted=True))
    assert [one.type for one in (first, later, gone)] == [
        "threadline.message.sent", "threadline.message.sent.updated", "threadline.message.sent.deleted"
    ]  # fmt: skip
    assert len({one.webhook_id for one in (first, later, gone)}) == 3
    assert told(a_record()).webhook_id == first.webhook_id


def test_a_derived_entry_is_told_as_new_though_its_record_is_numbered_by_the_tenants_changes() -> None:
    opened = a_record(type="threadline.conversation.opened", source="/threadline")
    first, later = replace(opened, version=7), replace(opened, version=9, body={**opened.body, "version": 2})
    assert [told(one).type for one in (first, later)] == [
        "threadline.conversation.opened", "threadline.conversation.opened.updated"
    ]  # fmt: skip
    assert told(first).webhook_id != told(later).webhook_id


def test_an_agents_word_and_what_is_large_are_read_from_their_rows() -> None:
    word, removal = a_record(type="threadline.customer.merged"), a_record(2, True, type="threadline.customer.merged")
    assert told(word).from_row and told(a_record(large=True)).from_row
    assert not told(a_record()).from_row and not told(removal).from_row


def test_the_body_is_the_entry_as_the_api_gives_it_with_the_ids_that_answer_now() -> None:
    customer, talk = UUID(int=8), UUID(int=9)
    body = orjson.loads(body_of(told(a_record()), customer, talk))
    assert body["type"] == "threadline.message.sent" and body["timestamp"] == rfc3339(NOW)
    assert body["data"]["customer_id"] == str(customer)
    entry = body["data"]["entry"]
    assert entry["conversation_id"] == str(talk) and entry["text"] == "Here it is"
    assert entry["extra"] == {"ticket": "T-1", "nested": 1}
    assert not {"leaf_id", "automatic", "received_at", "data"} & entry.keys()
    assert body["data"]["message"] == {
        "message_id": "r1@x", "handles": ["email:ann@example.com"], "thread": {"in_reply_to": "q1@x"}
    }  # fmt: skip


def test_what_is_no_message_has_no_message_part() -> None:
    body = orjson.loads(body_of(told(a_record(type="threadline.contact.resolved")), None, TALK))
    assert body["data"].keys() == {"customer_id", "entry"}


@pytest.mark.parametrize(
    "long, left_out",
    [
        ({"html": MAX_BODY_BYTES}, ["html"]),
        ({"text": MAX_BODY_BYTES}, ["text"]),
        ({"text": MAX_BODY_BYTES, "quoted_text": 2_000}, ["quoted_text", "text"]),
        ({"text": MAX_BODY_BYTES // 2, "html": MAX_BODY_BYTES // 2}, ["html"]),
        ({"text": MAX_BODY_BYTES // 2}, None),
        ({"subject": MAX_BODY_BYTES}, ["subject"]),
    ],
)
def test_body_that_is_too_long_says_what_it_leaves_out_and_keeps_the_text_where_it_can(
    long: dict[str, int], left_out: list[str] | None
) -> None:
    body = body_of(told(a_record(**{name: "x" * size for name, size in long.items()})), None, TALK)
    data = orjson.loads(body)["data"]
    assert len(body) <= MAX_BODY_BYTES and data.get("left_out") == left_out
    assert not set(left_out or ()) & data["entry"].keys() and data["entry"]["id"] == str(ENTRY)


def test_ids_of_a_thread_that_are_too_many_are_left_out_and_the_one_answered_stays() -> None:
    references = [f"{number}@{'x' * 60}" for number in range(20_000)]
    data = {"thread": {"in_reply_to": "q1@x", "references": references}}
    said = orjson.loads(body_of(told(a_record(text="hello", data=data)), None, TALK))["data"]
    assert said["left_out"] == ["references"] and said["message"]["thread"] == {"in_reply_to": "q1@x"}
    assert said["entry"]["text"] == "hello"


def test_a_removal_says_what_is_gone_and_nothing_of_what_was_in_it() -> None:
    assert orjson.loads(body_of(told(a_record(3, deleted=True)), None, TALK))["data"] == {
        "customer_id": None,
        "entry": {"id": str(ENTRY), "type": "threadline.message.sent", "version": 3, "deleted": True},
    }


def a_leaf(kind: str, **body: Any) -> TimelineRecord:
    whole = {"customer_id": str(UUID(int=8)), "kind": kind, "value": "x", **body}
    return TimelineRecord("acme", "leaf", str(LEAF), 7, whole)


def test_new_leaves_sessions_that_only_follow_and_conversations_are_told_to_nobody() -> None:
    change = {"was": str(UUID(int=9)), "change": "customer.merged"}
    assert told_by(a_leaf("email"), NOW) is None
    assert told_by(a_leaf("contact", **change), NOW) is None
    assert told_by(TimelineRecord("acme", "conversation", str(TALK), 1, {"canonical_id": str(TALK)}), NOW) is None


def test_a_handle_that_changes_hands_says_whose_it_was_and_a_session_whose_id_the_customer_had() -> None:
    handle = told(a_leaf("email", was=str(UUID(int=9)), change="customer.unmerged"))
    body = orjson.loads(body_of(handle, UUID(int=8), None))
    assert body == {
        "type": "threadline.customer.unmerged", "timestamp": rfc3339(NOW),
        "data": {"customer_id": str(UUID(int=8)),
                 "change": {"was": str(UUID(int=9)), "became": str(UUID(int=8)), "handle": "email:x"}},
    }  # fmt: skip
    session = told(a_leaf("contact", was=str(LEAF), change="customer.merged"))
    assert session.change == {"was": str(LEAF), "became": str(UUID(int=8)), "handle": None}


@pytest.mark.parametrize(
    "wanted, version, heard",
    [
        (Wanted(), 1, True),
        (Wanted(), 2, True),
        (Wanted(["threadline.message.sent"]), 1, True),
        (Wanted(["threadline.message.sent"]), 2, False),
        (Wanted(["threadline.message.sent*"]), 2, True),
        (Wanted(["threadline.message.*", "x"]), 1, True),
        (Wanted(["threadline.conversation.*"]), 1, False),
        (Wanted(["THREADLINE.*"]), 1, False),
        (Wanted(channels=["email"]), 1, True),
        (Wanted(channels=["chat", "s*"]), 1, False),
        (Wanted(sources=["/email/*"]), 1, True),
        (Wanted(sources=["/chat/*"]), 1, False),
        (Wanted(["threadline.message.sent"], ["email"], ["/email/help"], 0), 1, True),
    ],
)
def test_an_endpoint_hears_what_it_asked_for(wanted: Wanted, version: int, heard: bool) -> None:
    assert wants(wanted, told(a_record(version))) is heard


def test_imported_history_is_not_told_where_it_is_too_old() -> None:
    late = told(a_record(), NOW + timedelta(seconds=61))
    assert wants(Wanted(max_age_s=61), late) and not wants(Wanted(max_age_s=60), late)


# Proof


def test_every_active_secret_signs_and_a_former_one_stops_in_time() -> None:
    now = datetime.now(UTC)
    old, new, stranger = new_secret(), new_secret(), new_secret()
    secrets = rotated([Secret(old)], new, now, now + timedelta(hours=1))
    headers = headers_of("m1", b'{"a":1}', secrets, now)
    for secret in (old, new):
        assert Webhook(secret).verify(b'{"a":1}', headers) == {"a": 1}
    for wrong, body in ((stranger, b'{"a":1}'), (new, b'{"a":2}')):
        with pytest.raises(WebhookVerificationError):
            Webhook(wrong).verify(body, headers)
    later = headers_of("m1", b"{}", secrets, now + timedelta(hours=2))
    assert len(later["webhook-signature"].split(" ")) == 1


def test_rotating_without_overlap_ends_the_former_at_once_and_twice_keeps_each_until_its_own_end() -> None:
    first, second, third = (new_secret() for _ in range(3))
    assert [secret.text for secret in rotated([Secret(first)], second, NOW, NOW)] == [second]
    once = rotated([Secret(first)], second, NOW, NOW + timedelta(hours=1))
    twice = rotated(once, third, NOW, NOW + timedelta(hours=5))
    assert {secret.text: secret.until for secret in twice} == {
        third: None, second: NOW + timedelta(hours=5), first: NOW + timedelta(hours=1)
    }  # fmt: skip


@pytest.mark.parametrize("text", ("", "whsec_", "whsec_abcd", "secret", "whsec_" + "A" * 31, "whsec_" + "é" * 40))
def test_what_is_no_secret_is_refused_without_repeating_it(text: str) -> None:
    with pytest.raises(ValueError, match="must be whsec_") as caught:
        checked_secret(text)
    assert text in ("", "whsec_") or text not in str(caught.value)
    assert checked_secret(new_secret())
