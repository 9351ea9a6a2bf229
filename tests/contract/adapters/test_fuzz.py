"""No input makes an adapter raise anything but the documented errors, or take long.

`receive` would quarantine what an adapter trips over; here the adapters are called without that net.
"""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.ingest.adapters import ADAPTERS
from services.ingest.adapters.base import Forged, Headers, Malformed, RawRequest, Unreadable
from services.ingest.webhooks import events_of
from tests.contract.adapters.providers import NOW, PROVIDERS, Provider, Signing
from tests.contract.adapters.recorded import recorded
from tests.fuzz.damage import damaged

BODIES = {
    name: [
        record.document["body"] for record in recorded() if record.provider.name == name and "body" in record.document
    ]
    for name in PROVIDERS
}
FORMS = {
    name: [
        record.document["form"] for record in recorded() if record.provider.name == name and "form" in record.document
    ]
    for name in PROVIDERS
}


def take(provider: Provider, request: RawRequest) -> None:
    adapter, account = ADAPTERS[provider.name], provider.account()
    started = time.thread_time()
    try:
        adapter.verify(request, account)
        delivery = adapter.parse(request, account)
        events_of(delivery.events, account, NOW)
    except (Forged, Malformed, Unreadable):
        pass  # documented: refused, or kept whole
    assert time.thread_time() - started < 1.0


quick = settings(
    max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


@pytest.mark.parametrize("name", [name for name, bodies in BODIES.items() if bodies])
@quick
@given(st.data())
def test_damaged_json_is_read_or_refused(name: str, data: st.DataObject) -> None:
    provider = PROVIDERS[name]
    body = data.draw(st.sampled_from(BODIES[name]).flatmap(damaged))
    raw = json.dumps(body).encode()
    take(provider, provider.sign(Signing(raw), provider.secrets[0]))


@pytest.mark.parametrize("name", [name for name, forms in FORMS.items() if forms])
@quick
@given(st.data())
def test_damaged_forms_are_read_or_refused(name: str, data: st.DataObject) -> None:
    from urllib.parse import urlencode

    provider = PROVIDERS[name]
    form = dict(data.draw(st.sampled_from(FORMS[name])))
    for field in data.draw(st.lists(st.sampled_from(sorted(form)), max_size=4)):
        form[field] = data.draw(st.one_of(st.text(max_size=12), st.just("9" * 400), st.just("{"), st.just("-1")))
    raw = urlencode({key: value.encode("utf-8", "replace") for key, value in form.items()}).encode()
    take(provider, provider.sign(Signing(raw, "application/x-www-form-urlencoded"), provider.secrets[0]))


TYPES = ["application/json", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "text/xml",
         "message/rfc822", "text/plain", "", "multipart/form-data", 'multipart/form-data; boundary="',
         "\xff"]  # fmt: skip
PIECES = [b"--x\r\n", b"--x--", b'Content-Disposition: form-data; name="', b"headers", b"email", b'"\r\n\r\n', b"a=b&",
          b"%",
          b"<xml>", b"</xml>", b"<MsgType>text</MsgType>", b"<![CDATA[", b"]]>", b"|", b"1772531880|1|q|NONE|ABANDON|",
          b"Event: QueueCallerJoin\n", b"Uniqueid: 1\n", b"\n\n", b'{"events":[', b"{}", b"]}", b"\x00", b"\xff",
          b"body-mime=",
          b"From: a@b\n", b"message-headers=", b"%5B%5B"]  # fmt: skip


@pytest.mark.parametrize("name", PROVIDERS)
@quick
@given(
    st.sampled_from(TYPES),
    st.lists(st.one_of(st.sampled_from(PIECES), st.binary(max_size=12)), max_size=25).map(b"".join),
)
def test_any_bytes_of_any_type_are_read_or_refused(name: str, content_type: str, raw: bytes) -> None:
    provider = PROVIDERS[name]
    try:
        request = provider.sign(Signing(raw, content_type), provider.secrets[0])
    except (UnicodeError, IndexError):
        return
    take(provider, request)


header_text = st.text(st.characters(min_codepoint=0, max_codepoint=255), max_size=40)
NAMES = ["authorization", "x-twilio-signature", "x-hub-signature-256", "x-slack-signature", "x-slack-request-timestamp",
         "webhook-id", "webhook-signature", "webhook-timestamp", "x-line-signature", "x-viber-content-signature",
         "x-twitter-webhooks-signature", "x-telegram-bot-api-secret-token", "origin", "content-type", "host",
         "x-twilio-email-event-webhook-signature", "x-twilio-email-event-webhook-timestamp"]  # fmt: skip
VALUES = [
    "sha256=",
    "v0=",
    "Basic ",
    "Bearer a.b.c",
    "Bearer v1.a.b",
    "HMAC ",
    "Basic Og==",
    "v1,",
    "sha256=zz",
    "1772532000",
]


@pytest.mark.parametrize("name", PROVIDERS)
@quick
@given(
    st.lists(st.tuples(st.sampled_from(NAMES), st.one_of(st.sampled_from(VALUES), header_text)), max_size=8),
    st.one_of(st.text(st.characters(min_codepoint=32, max_codepoint=255), max_size=60),
              st.sampled_from(["hub.mode=subscribe&hub.verify_token=%ff", "crc_token=%00", "token=v1.a.b",
                               "nonce=" + "a" * 30,
                               "signature=zz&timestamp=1&nonce=1", "msg_signature=00&echostr=%", "bodySHA256=x"])),
    st.sampled_from(["GET", "POST", "OPTIONS"]),
    st.sampled_from([b"", b"{}", b"timestamp=1&token=a&signature=zz"]),
)  # fmt: skip
def test_any_header_and_query_is_refused_in_words(
    name: str, headers: list[tuple[str, str]], query: str, method: str, body: bytes
) -> None:
    provider = PROVIDERS[name]
    request = RawRequest(method, "/v1/webhooks/p/t", query, Headers(headers), body, NOW)
    adapter = ADAPTERS[name]
    try:
        answer = adapter.handshake(request, provider.account())
        assert answer is None or answer.status < 500
        adapter.verify(request, provider.account())
    except (Forged, Malformed, Unreadable) as error:
        assert getattr(error, "status", 400) < 500
