"""The providers' own SDKs: what they sign we accept, what we accept they accept."""

from __future__ import annotations

import base64
from dataclasses import replace
from datetime import UTC, datetime
from urllib.parse import parse_qsl, urlencode
from xml.etree import ElementTree

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from linebot.v3.webhook import SignatureValidator
from linebot.v3.webhook import WebhookParser as LineParser
from sendgrid.helpers.eventwebhook import EventWebhook
from slack_sdk.signature import SignatureVerifier
from standardwebhooks import Webhook
from twilio.request_validator import RequestValidator
from viberbot import Api, BotConfiguration
from viberbot.api.viber_requests import (
    ViberConversationStartedRequest,
    ViberFailedRequest,
    ViberMessageRequest,
    ViberSeenRequest,
    ViberSubscribedRequest,
    ViberUnsubscribedRequest,
    create_request,
)
from wechatpy import parse_message
from wechatpy.crypto import WeChatCrypto
from wechatpy.exceptions import InvalidSignatureException
from wechatpy.utils import WeChatSigner, check_signature

from services.ingest.adapters import ADAPTERS
from services.ingest.adapters.base import Account, Headers, RawRequest, receive
from tests.contract.adapters.direct import is_genuine
from tests.contract.adapters.providers import FORM, NOW, PROVIDERS, WHSEC, Signing
from tests.contract.adapters.recorded import recorded

TOKENS = ("new-token", "old-token")


def signed_as(provider: str) -> list[Signing]:
    return [record.signing for record in recorded() if record.provider.name == provider]


@given(st.lists(st.tuples(st.text(max_size=8), st.text(max_size=8)), max_size=8))
@settings(max_examples=200, deadline=None)
def test_what_twilios_sdk_signs_is_taken(pairs: list[tuple[str, str]]) -> None:
    validator = RequestValidator(TOKENS[1])
    body = urlencode([(name.encode("utf-8", "replace"), value.encode("utf-8", "replace")) for name, value in pairs])
    form: dict[str, list[str]] = {}
    for name, value in parse_qsl(body, keep_blank_values=True):
        form.setdefault(name, []).append(value)

    class Many(dict):  # type: ignore[type-arg]
        """As the SDK is given by web frameworks: getlist returns all values of a name."""

        def getlist(self, name: str) -> list[str]:
            return list(self[name])

    url = "https://hooks.acme.example/in?a=1&b=%20"
    signature = validator.compute_signature(url, Many(form))
    account = Account("t1", "twilio", "acme", TOKENS, public_url="https://hooks.acme.example/in")
    headers = Headers([("content-type", FORM), ("x-twilio-signature", signature)])
    request = RawRequest("POST", "/x", "a=1&b=%20", headers, body.encode(), NOW)
    assert is_genuine(account, request)
    wrong = Account("t1", "twilio", "acme", ("other",), public_url=account.public_url)
    assert not is_genuine(wrong, request)


@pytest.mark.parametrize("signing", signed_as("twilio")[:20], ids=range(20))
def test_twilios_sdk_takes_what_we_take(signing: Signing) -> None:
    provider = PROVIDERS["twilio"]
    request = provider.sign(signing, provider.secrets[0])
    validator = RequestValidator(provider.secrets[0])
    signature = request.headers.get("x-twilio-signature")
    url = f"https://hooks.acme.example/in?{request.query or 'a=1'}"
    params = dict(parse_qsl(request.body.decode(), keep_blank_values=True)) if signing.content_type == FORM else None
    assert validator.validate(url, params if params is not None else request.body.decode(), signature)
    assert is_genuine(provider.account(), request)


@pytest.mark.parametrize("signing", signed_as("slack"))
def test_slacks_sdk_and_we_agree(signing: Signing) -> None:
    verifier = SignatureVerifier(PROVIDERS["slack"].secrets[0])
    stamp = str(int(NOW.timestamp()))
    signature = verifier.generate_signature(timestamp=stamp, body=signing.body)
    headers = [("x-slack-request-timestamp", stamp), ("x-slack-signature", signature)]
    request = RawRequest("POST", "/x", "", Headers(headers), signing.body, NOW)
    assert is_genuine(PROVIDERS["slack"].account(), request)
    ours = PROVIDERS["slack"].sign(signing, PROVIDERS["slack"].secrets[0])
    assert ours.headers.get("x-slack-signature") == signature


def test_standard_webhooks_sdk_and_we_agree() -> None:
    now = datetime.now(UTC)
    webhook = Webhook(WHSEC[1])
    body = '{"type":"survey.answered","data":{"metric":"csat","score":4}}'
    signature = webhook.sign(msg_id="msg_1", timestamp=now, data=body)
    names = {"webhook-id": "msg_1", "webhook-timestamp": str(int(now.timestamp())), "webhook-signature": signature}
    request = RawRequest("POST", "/x", "", Headers(names.items()), body.encode(), now)
    assert is_genuine(PROVIDERS["standard_webhooks"].account(), request)
    ours = PROVIDERS["standard_webhooks"].sign(Signing(body.encode(), at=now), WHSEC[1])
    given = {name: value for name, value in ours.headers.items() if name.startswith("webhook-")}
    assert webhook.verify(body, given)["type"] == "survey.answered"


@pytest.mark.parametrize("signing", signed_as("line"))
def test_lines_sdk_takes_what_we_take(signing: Signing) -> None:
    provider = PROVIDERS["line"]
    request = provider.sign(signing, provider.secrets[0])
    signature = request.headers.get("x-line-signature")
    assert is_genuine(provider.account(), request)
    assert SignatureValidator(provider.secrets[0]).validate(signing.body.decode(), signature)
    assert not SignatureValidator(provider.secrets[2]).validate(signing.body.decode(), signature)


@pytest.mark.parametrize("signing", signed_as("viber"))
def test_vibers_sdk_and_we_agree(signing: Signing) -> None:
    provider = PROVIDERS["viber"]
    sdk = Api(BotConfiguration(name="bot", avatar="", auth_token=provider.secrets[0]))
    headers = Headers([("X-Viber-Content-Signature", sdk._calculate_message_signature(signing.body))])
    request = RawRequest("POST", "/x", "", headers, signing.body, NOW)
    assert is_genuine(provider.account(), request)
    ours = provider.sign(signing, provider.secrets[0])
    assert sdk.verify_signature(signing.body, ours.headers.get("x-viber-content-signature"))


@pytest.mark.parametrize("name", ["sendgrid_events", "sendgrid_inbound"])
def test_sendgrids_sdk_takes_what_we_take(name: str) -> None:
    provider = PROVIDERS[name]
    for signing in signed_as(name):
        request = provider.sign(signing, provider.secrets[0])
        given = [request.headers.get(f"x-twilio-email-event-webhook-{what}") for what in ("signature", "timestamp")]
        assert is_genuine(provider.account(), request)
        # The SDK's verifier takes the body as text.
        body = signing.body.decode("latin-1")
        if body.isascii():
            assert EventWebhook(provider.secrets[0]).verify_signature(body, *given)
            assert not EventWebhook(provider.secrets[2]).verify_signature(body, *given)


def test_wechats_sdk_and_we_agree() -> None:
    provider = PROVIDERS["wechat"]
    stamp = str(int(NOW.timestamp()))
    signer = WeChatSigner()
    signer.add_data(provider.secrets[1], stamp, "n1")
    query = f"signature={signer.signature}&timestamp={stamp}&nonce=n1"
    request = RawRequest("POST", "/x", query, Headers([("content-type", "text/xml")]), b"<xml/>", NOW)
    assert is_genuine(provider.account(), request)
    ours = dict(parse_qsl(provider.sign(Signing(b"<xml/>", "text/xml"), provider.secrets[0]).query))
    check_signature(provider.secrets[0], ours["signature"], ours["timestamp"], ours["nonce"])
    with pytest.raises(InvalidSignatureException):
        check_signature(provider.secrets[2], ours["signature"], ours["timestamp"], ours["nonce"])


# --- Shapes: what we take a delivery for, the SDK takes it for as well -----------------------------------------------

LINES_KINDS = {
    "message": "MessageEvent", "unsend": "UnsendEvent", "postback": "PostbackEvent", "follow": "FollowEvent",
    "unfollow": "UnfollowEvent", "memberJoined": "MemberJoinedEvent", "memberLeft": "MemberLeftEvent",
    "join": "JoinEvent", "messageEdited": "MessageEditedEvent", "delivery": "PnpDeliveryCompletionEvent",
}  # fmt: skip


@pytest.mark.parametrize("signing", signed_as("line"))
def test_lines_sdk_reads_what_we_read(signing: Signing) -> None:
    provider = PROVIDERS["line"]
    signature = provider.sign(signing, provider.secrets[0]).headers.get("x-line-signature")
    read = LineParser(provider.secrets[0]).parse(signing.body.decode(), signature)
    kinds = [event["type"] for event in orjson.loads(signing.body)["events"]]
    for event, kind in zip(read, kinds, strict=True):
        assert type(event).__name__ == LINES_KINDS.get(kind, "UnknownEvent"), kind


VIBERS_KINDS = {
    "message": ViberMessageRequest, "subscribed": ViberSubscribedRequest, "unsubscribed": ViberUnsubscribedRequest,
    "conversation_started": ViberConversationStartedRequest, "seen": ViberSeenRequest, "failed": ViberFailedRequest,
}  # fmt: skip


@pytest.mark.parametrize("signing", signed_as("viber"))
def test_vibers_sdk_reads_what_we_read(signing: Signing) -> None:
    kind = orjson.loads(signing.body)["event"]
    if kind in VIBERS_KINDS:
        assert type(create_request(orjson.loads(signing.body))) is VIBERS_KINDS[kind]


WECHATS_KINDS = {
    "subscribe": "subscribe", "unsubscribe": "unsubscribe", "SCAN": "scan", "LOCATION": "location", "VIEW": "view",
    "CLICK": "click", "TEMPLATESENDJOBFINISH": "templatesendjobfinish",
}  # fmt: skip


@pytest.mark.parametrize("signing", [one for one in signed_as("wechat") if b"<Event>" in one.body])
def test_wechats_sdk_reads_what_we_read(signing: Signing) -> None:
    read = parse_message(signing.body.decode())
    for ours, theirs in WECHATS_KINDS.items():
        if f"<Event>{ours}<".encode() in signing.body or f"<Event><![CDATA[{ours}]]>".encode() in signing.body:
            assert read.event in (theirs, f"{theirs}_scan")
            assert read.source == "oOpen1"
            return
    assert type(read).__name__ == "UnknownMessage"


def test_what_wechats_sdk_encrypts_is_taken_and_read() -> None:
    provider = PROVIDERS["wechat"]
    aes_key = base64.b64encode(bytes(range(32))).decode().rstrip("=")
    crypto = WeChatCrypto(provider.secrets[0], aes_key, "wx1")
    (signing,) = [one for one in signed_as("wechat") if b"<Event>subscribe</Event>" in one.body]
    stamp = str(int(NOW.timestamp()))
    sealed = crypto.encrypt_message(signing.body.decode(), "n1", stamp)
    signature = ElementTree.fromstring(sealed).findtext("MsgSignature")
    account = replace(provider.account(), options={"encoding_aes_key": aes_key})
    query = f"msg_signature={signature}&timestamp={stamp}&nonce=n1"
    request = RawRequest("POST", "/x", query, Headers([("content-type", "text/xml")]), sealed.encode(), NOW)
    (draft,) = receive(ADAPTERS["wechat"], request, account).events
    assert draft.type == "threadline.customer.subscribed"
    assert not is_genuine(replace(account, secrets=("other",)), request)
