"""The HTTP binding of CloudEvents: which mode, which events, and what is refused with which status."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.ingest.cloudevents import MAX_BATCH_EVENTS, Posted, Refused, read_request

EVENT = {"specversion": "1.0", "id": "e1", "source": "/chat/acme", "type": "t", "time": "T", "data": {"text": "é"}}
BODY = json.dumps(EVENT).encode()
CE = [(b"ce-specversion", b"1.0"), (b"ce-id", b"e1"), (b"ce-source", b"/chat/acme"), (b"ce-type", b"t")]


def posted(media_type: str | None, body: bytes = BODY, *headers: tuple[bytes, bytes]) -> Posted:
    given = [(b"content-type", media_type.encode())] if media_type is not None else []
    return read_request([*given, *headers], body)


def refused(media_type: str | None, body: bytes = BODY, *headers: tuple[bytes, bytes]) -> Refused:
    with pytest.raises(Refused) as caught:
        posted(media_type, body, *headers)
    return caught.value


@pytest.mark.parametrize(
    "media_type",
    [
        "application/cloudevents+json", "application/json", "Application/CloudEvents+JSON; charset=UTF-8",
        "application/json;charset=utf-8", 'application/json; charset="utf8"; x=y', "application/json ;x=;;",
    ],
)  # fmt: skip
def test_a_structured_event_is_read_from_the_body(media_type: str) -> None:
    assert posted(media_type) == Posted((EVENT,), batch=False)


def test_a_batch_is_read_as_a_batch_also_when_empty() -> None:
    assert posted("application/cloudevents-batch+json", b"[]") == Posted([], batch=True)
    assert posted("application/cloudevents-batch+json", b"[" + BODY + b"]") == Posted([EVENT], batch=True)


@pytest.mark.parametrize("charset", ["iso-8859-1", "latin1", "windows-1252", "utf-16", "UTF-16LE"])
def test_another_charset_is_read_as_the_header_says(charset: str) -> None:
    body = json.dumps(EVENT, ensure_ascii=False).encode(charset)
    assert posted(f"application/cloudevents+json; charset={charset}", body).events == (EVENT,)


def test_ce_headers_win_over_application_json() -> None:
    got = posted("application/json", b'{"text":"hi"}', *CE, (b"ce-time", b"T"), (b"ce-traceparent", b"p"))
    (event,) = got.events
    assert event == {
        "specversion": "1.0", "id": "e1", "source": "/chat/acme", "type": "t", "time": "T", "traceparent": "p",
        "datacontenttype": "application/json", "data": {"text": "hi"},
    }  # fmt: skip


def test_structured_content_wins_over_ce_headers() -> None:
    assert posted("application/cloudevents+json", BODY, *CE).events == (EVENT,)


def test_a_binary_event_without_content_type_is_json() -> None:
    assert posted(None, b"{}", *CE).events[0]["data"] == {}


def test_a_binary_event_may_lack_its_body_and_is_then_missing_its_data() -> None:
    assert "data" not in posted("application/json", b"", *CE).events[0]


def test_headers_cannot_smuggle_data() -> None:
    got = posted("application/json", b"{}", *CE, (b"ce-data", b"x"), (b"ce-data_base64", b"e30="))
    assert got.events[0]["data"] == {} and "data_base64" not in got.events[0]


@pytest.mark.parametrize(
    ("raw", "value"),
    [
        (b"plain", "plain"),
        (b" Euro%20%E2%82%AC%20%F0%9F%98%80 ", "Euro € 😀"),
        (b"%2541", "%41"),
        (b"50%", "50%"),
        (b"%zz", "%zz"),
        (b'"quoted \\"word\\" \\\\"', 'quoted "word" \\'),
        (b'"%41"', "A"),
        ("caf\u00e9".encode(), "café"),
        (b"a%00b", "a\ufffdb"),
        (b'"', '"'),
    ],
)
def test_a_header_is_unquoted_and_percent_decoded_once(raw: bytes, value: str) -> None:
    assert posted("application/json", b"{}", *CE, (b"ce-subject", raw)).events[0]["subject"] == value


@pytest.mark.parametrize("raw", [b"%ff", b"caf\xe9", b"%ED%A0%80", b"%C3"])
def test_a_header_that_is_not_utf_8_is_refused_by_name(raw: bytes) -> None:
    error = refused("application/json", b"{}", *CE, (b"ce-subject", raw))
    assert error.status == 400 and "ce-subject" in error.detail


def test_an_attribute_given_twice_is_refused() -> None:
    assert refused("application/json", b"{}", *CE, (b"ce-id", b"e2")).status == 400


@pytest.mark.parametrize(
    ("media_type", "headers"),
    [
        (None, []),
        ("", []),
        ("text/plain", []),
        ("application/xml", []),
        ("application/cloudevents+xml", []),
        ("application/cloudevents", []),
        ("application/cloudevents-batch", []),
        ("application/cloudevents-batch+avro", []),
        ("application/json; charset=klingon", []),
        ("application/json; charset=unicode_escape", []),
        ("application/json; charset=a\0b", []),
        ("text/plain", CE),
        ("application/octet-stream", CE),
        ("application/cloudevents+json", [(b"content-encoding", b"gzip")]),
    ],
)
def test_a_format_that_is_not_read_is_415(media_type: str | None, headers: list[tuple[bytes, bytes]]) -> None:
    assert refused(media_type, BODY, *headers).status == 415


@pytest.mark.parametrize(
    ("media_type", "body", "status"),
    [
        ("application/cloudevents+json", b"{not json", 400),
        ("application/cloudevents+json", b"", 422),
        ("application/cloudevents+json", b"[]", 422),
        ("application/json", b"[]", 422),
        ("application/cloudevents-batch+json", b"{}", 422),
        ("application/cloudevents-batch+json", b"", 422),
        ("application/cloudevents-batch+json", b"[" + b"{}," * MAX_BATCH_EVENTS + b"{}]", 413),
        ("application/json; charset=ascii", "{é}".encode(), 400),
        ("application/json; charset=utf-16", b"{}x", 400),
    ],
)
def test_a_body_that_cannot_be_read_says_why(media_type: str, body: bytes, status: int) -> None:
    error = refused(media_type, body)
    assert error.status == status and error.detail


def test_a_batch_of_exactly_the_limit_is_read() -> None:
    body = b"[" + b",".join([b"{}"] * MAX_BATCH_EVENTS) + b"]"
    assert len(posted("application/cloudevents-batch+json", body).events) == MAX_BATCH_EVENTS


@given(
    st.lists(st.tuples(st.sampled_from([b"content-type", b"content-encoding", b"ce-id", b"ce-specversion", b"ce-\xff"]),
                       st.binary(max_size=20)), max_size=5),
    st.sampled_from([b"", BODY, b"[" + BODY + b"]"]) | st.binary(max_size=30),
)  # fmt: skip
def test_whatever_headers_and_bytes_come_the_answer_is_events_or_a_4xx(
    headers: list[tuple[bytes, bytes]], body: bytes
) -> None:
    try:
        read_request(headers, body)
    except Refused as error:
        assert 400 <= error.status < 500
