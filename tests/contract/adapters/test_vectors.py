"""Signatures and handshakes that others published: facts from documentation and SDK tests, each cited."""

from __future__ import annotations

import base64
import hmac
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from urllib.parse import urlencode

import orjson
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from services.ingest.adapters import ADAPTERS
from services.ingest.adapters.base import (
    Account,
    Forged,
    receive,
)
from tests.contract.adapters.direct import a_request, an_account, deliver, is_genuine
from tests.contract.adapters.providers import FORM, JSON, NOW, PROVIDERS, WHSEC, Signing

# --- Twilio: twilio-python, tests/unit/test_request_validator.py ------------------------------------------------------

TWILIO_FORM = {
    "CallSid": "CA1234567890ABCDE", "Digits": "1234", "From": "+14158675309", "To": "+18005551212",
    "Caller": "+14158675309",
}  # fmt: skip
TWILIO_URL = "https://mycompany.com/myapp.php?foo=1&bar=2"
TWILIO_BODY = b'{"property": "value", "boolean": true}'
TWILIO_HASH = "0a1ff7634d9ab3b95db5c9a2dfe9416e41502b283a80c7cf19632632f96e6620"


@pytest.mark.parametrize(
    ("url", "signature"),
    [
        (TWILIO_URL, "RSOYDt4T1cUTdK1PDd93/VVr8B8="),
        ("https://mycompany.com:1234/myapp.php", "RSOYDt4T1cUTdK1PDd93/VVr8B8="),
        (TWILIO_URL, "kvajT1Ptam85bY51eRf/AJRuM3w="),
        ("http://mycompany.com:1234/myapp.php", "Zmvh+3yNM1Phv2jhDCwEM3q5ebU="),
        ("http://mycompany.com/myapp.php", "0ZXoZLH/DfblKGATFgpif+LLRf4="),
    ],
)
def test_twilio_signs_the_public_url_with_or_without_its_port(url: str, signature: str) -> None:
    account = an_account("twilio", "12345", public_url=url)
    headers = {"content-type": FORM, "X-Twilio-Signature": signature}
    assert is_genuine(account, a_request(urlencode(TWILIO_FORM).encode(), headers, "foo=1&bar=2"))
    assert not is_genuine(account, a_request(urlencode(TWILIO_FORM).encode(), headers, "foo=1&bar=3"))


def test_twilio_signs_repeated_parameters_once_each_and_sorted() -> None:
    account = an_account("twilio", "12345", public_url=TWILIO_URL)
    headers = {"content-type": FORM, "X-Twilio-Signature": "IK+Dwps556ElfBT0I3Rgjkr1wJU="}
    for body in (b"Sid=CA123&SidAccount=AC123&Digits=5678&Digits=1234",
                 b"Digits=1234&Digits=5678&Digits=5678&SidAccount=AC123&Sid=CA123"):  # fmt: skip
        assert is_genuine(account, a_request(body, headers, "foo=1&bar=2"))


def test_twilio_signs_the_hash_of_a_json_body_in_the_url() -> None:
    account = an_account("twilio", "12345", public_url=TWILIO_URL)
    headers = {"content-type": JSON, "X-Twilio-Signature": "a9nBmqA0ju/hNViExpshrM61xv4="}
    query = f"foo=1&bar=2&bodySHA256={TWILIO_HASH}"
    assert is_genuine(account, a_request(TWILIO_BODY, headers, query))
    assert not is_genuine(account, a_request(TWILIO_BODY + b" ", headers, query))


def test_twilio_cannot_have_signed_what_is_no_url() -> None:
    headers = {"content-type": FORM, "X-Twilio-Signature": "IK+Dwps556ElfBT0I3Rgjkr1wJU="}
    account = an_account("twilio", "12345")
    assert not is_genuine(account, a_request(b"Sid=CA123", headers, "&".join(["a"] * 1_001)))
    for host in ("[::1", "acme.example:port"):
        assert not is_genuine(account, a_request(b"Sid=CA123", {**headers, "host": host}))


# --- Slack: python-slack-sdk, tests/signature/test_signature_verifier.py ----------------------------------------------

SLACK_SECRET = "8f742231b10e8888abcd99yyyzzz85a5"
SLACK_BODY = (
    b"token=xyzz0WbapA4vBCDEFasx0q6G&team_id=T1DC2JH3J&team_domain=testteamnow&channel_id=G8PSS9T3V&channel_name=foobar"
    b"&user_id=U2CERLKJA&user_name=roadrunner&command=%2Fwebhook-collect&text=&response_url=https%3A%2F%2Fhooks.slack.com"
    b"%2Fcommands%2FT1DC2JH3J%2F397700885554%2F96rGlfmibIGlgcZRskXaIFfN&trigger_id=398738663015.47445629121."
    b"803a0bc887a14d10d2c447fce8b6703c"
)
SLACK_HEADERS = {
    "X-Slack-Request-Timestamp": "1531420618",
    "X-Slack-Signature": "v0=a2114d57b48eac39b9ad189dd8316235a7b4a8d21a10bd27519666489c69b503",
}
SLACK_TIME = datetime.fromtimestamp(1531420618, UTC)


def test_slacks_documented_signature_is_taken_within_five_minutes() -> None:
    account = an_account("slack", SLACK_SECRET)
    assert is_genuine(account, a_request(SLACK_BODY, SLACK_HEADERS, at=SLACK_TIME))
    assert is_genuine(account, a_request(SLACK_BODY, SLACK_HEADERS, at=SLACK_TIME + timedelta(minutes=5)))
    assert not is_genuine(account, a_request(SLACK_BODY, SLACK_HEADERS, at=SLACK_TIME + timedelta(seconds=301)))
    assert not is_genuine(account, a_request(SLACK_BODY + b"-", SLACK_HEADERS, at=SLACK_TIME))


# --- SendGrid: sendgrid-python, test/unit/test_eventwebhook.py --------------------------------------------------------

SENDGRID_KEY = (
    "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE83T4O/n84iotIvIW4mdBgQ/7dAfSmpqIM8kF9mN1flpVKS3GRqe62gw+2fNNRaINXvVpiglSI8eNEc6w"
    "EA3F+g=="
)
SENDGRID_OTHER_KEY = (
    "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEqTxd43gyp8IOEto2LdIfjRQrIbsd4SXZkLW6jDutdhXSJCWHw8REntlo7aNDthvj+y7GjUuFDb/R1NGe"
    "1OPzpA=="
)
SENDGRID_SIGNATURE = "MEUCIGHQVtGj+Y3LkG9fLcxf3qfI10QysgDWmMOVmxG0u6ZUAiEAyBiXDWzM+uOe5W0JuG+luQAbPIqHh89M15TluLtEZtM="
SENDGRID_BODY = (
    b'[{"email":"hello@world.com","event":"dropped","reason":"Bounced Address",'
    b'"sg_event_id":"ZHJvcC0xMDk5NDkxOS1MUnpYbF9OSFN0T0doUTRrb2ZTbV9BLTA",'
    b'"sg_message_id":"LRzXl_NHStOGhQ4kofSm_A.filterdrecv-p3mdw1-756b745b58-kmzbl-18-5F5FC76C-9.0",'
    b'"smtp-id":"<LRzXl_NHStOGhQ4kofSm_A@ismtpd0039p1iad1.sendgrid.net>","timestamp":1600112492}]\r\n'
)
SENDGRID_HEADERS = {
    "X-Twilio-Email-Event-Webhook-Signature": SENDGRID_SIGNATURE,
    "X-Twilio-Email-Event-Webhook-Timestamp": "1600112502",
}
SENDGRID_TIME = datetime.fromtimestamp(1600112502, UTC)


def test_sendgrids_published_signature_covers_the_last_line_break() -> None:
    request = a_request(SENDGRID_BODY, SENDGRID_HEADERS, at=SENDGRID_TIME)
    account = an_account("sendgrid_events", SENDGRID_KEY)
    (event,) = deliver(account, request).events
    assert event.id == "ZHJvcC0xMDk5NDkxOS1MUnpYbF9OSFN0T0doUTRrb2ZTbV9BLTA"
    assert event.time == datetime.fromtimestamp(1600112492, UTC)
    assert not is_genuine(account, replace(request, body=SENDGRID_BODY.rstrip()))
    assert not is_genuine(an_account("sendgrid_events", SENDGRID_OTHER_KEY), request)
    assert is_genuine(an_account("sendgrid_events", SENDGRID_OTHER_KEY, SENDGRID_KEY), request)


def test_sendgrid_inbound_without_signature_is_proven_by_basic_auth() -> None:
    account = an_account("sendgrid_inbound", "user:pass")
    body = b'--b\r\nContent-Disposition: form-data; name="from"\r\n\r\na@b.example\r\n--b--\r\n'
    basic = "Basic " + base64.b64encode(b"user:pass").decode()
    headers = {"content-type": "multipart/form-data; boundary=b", "authorization": basic}
    assert len(deliver(account, a_request(body, headers)).events) == 1
    assert not is_genuine(account, a_request(body, {**headers, "authorization": basic[:-4]}))
    # Where only keys are known, credentials prove nothing.
    assert not is_genuine(an_account("sendgrid_inbound", SENDGRID_KEY), a_request(body, headers))


# --- WeChat: wechatpy, tests/test_utils.py and tests/test_crypto.py ---------------------------------------------------

WECHAT_AES_KEY = "kWxPEV2UEDyxWpmPdKC3F4dgPDmOvfKX1HGnEUDS1aR"
WECHAT_ENCRYPTED = (
    "RgqEoJj5A4EMYlLvWO1F86ioRjZfaex/gePD0gOXTxpsq5Yj4GNglrBb8I2BAJVODGajiFnXBu7mCPatfjsu6IHCrsTyeDXzF6Bv283dGymzxh6ydJRv"
    "ZsryDyZbLTE7rhnus50qGPMfp2wASFlzEgMW9z1ef/RD8XzaFYgm7iTdaXpXaG4+BiYyolBug/gYNx410cvkKR2/nPwBiT+P4hIiOAQqGp/TywZBtDh1"
    "yCF2KOd0gpiMZ5jSw3e29mTvmUHzkVQiMS6td7vXUaWOMZnYZlF3So2SjHnwh4jYFxdgpkHHqIrH/54SNdshoQgWYEvccTKe7FS709/5t6NMxuGhcUGA"
    "POQipvWTT4dShyqio7mlsl5noTrb++x6En749zCpQVhDpbV6GDnTbcX2e8K9QaNWHp91eBdCRxthuL0="
)


def wechat_ids(account: Account, *events: str) -> list[str]:
    """Return the ids of events of one person and second, those not understood included."""
    found = []
    for event in events:
        told = "<FromUserName>oOpen1</FromUserName><CreateTime>1772531880</CreateTime><MsgType>event</MsgType>"
        signing = Signing(f"<xml>{told}{event}</xml>".encode())
        request = PROVIDERS["wechat"].sign(signing, account.secrets[0])
        delivery = receive(ADAPTERS["wechat"], request, account)
        found += [draft.id for draft in delivery.events] + [part.dedupe_key for part in delivery.quarantined]
    return found


def test_what_wechat_sends_in_one_second_beside_another_event_is_told_apart_and_known_again() -> None:
    account = an_account("wechat", "test")
    told = [
        "<Event>VIEW</Event><EventKey>https://shop.example/orders</EventKey>",
        "<Event>LOCATION</Event><Latitude>52.1</Latitude><Longitude>4.3</Longitude><Precision>9</Precision>",
        "<Event>TEMPLATESENDJOBFINISH</Event><MsgID>1</MsgID><Status>success</Status>",
        "<Event>TEMPLATESENDJOBFINISH</Event><MsgID>2</MsgID><Status>success</Status>",
        "<Event>hologram</Event><EventKey>1</EventKey>",
        "<Event>hologram</Event><EventKey>2</EventKey>",
    ]
    ids = wechat_ids(account, *told)
    assert len(set(ids)) == 6
    assert wechat_ids(account, *told) == ids
    assert ids[0] == "oOpen1:1772531880"


def test_wechats_handshake_returns_echostr() -> None:
    account = an_account("wechat", "test")
    query = "signature=f21891de399b4e33a1a93c9a7b8a8fffb5a443ff&timestamp=1410685589&nonce=test&echostr=5678"
    answer = deliver(account, a_request(query=query, method="GET")).answer
    assert (answer.status, answer.body) == (200, b"5678")
    with pytest.raises(Forged):
        deliver(account, a_request(query=query.replace("443ff", "443fe"), method="GET"))


def test_wechats_safe_mode_is_decrypted_and_its_body_is_covered() -> None:
    account = an_account("wechat", "123456", encoding_aes_key=WECHAT_AES_KEY)
    body = f"<xml><ToUserName>wx49f0ab532d5d035a</ToUserName>\n<Encrypt><![CDATA[{WECHAT_ENCRYPTED}]]></Encrypt></xml>"
    query = "msg_signature=74d92dfeb87ba7c714f89d98870ae5eb62dff26d&timestamp=1411525903&nonce=461056294"
    request = a_request(body.encode(), {"content-type": "text/xml"}, query, at=datetime.fromtimestamp(1411525903, UTC))
    (event,) = deliver(account, request).events
    assert event.data["text"] == "test"
    assert event.data["customer"]["handles"][0]["value"] == "acme/messense"
    with pytest.raises(Forged):
        deliver(account, replace(request, body=body.replace("RgqE", "RgqF").encode()))
    with pytest.raises(Forged):
        deliver(account, replace(request, body=b"<xml><FromUserName>x</FromUserName></xml>"))


def test_wechats_encrypted_handshake_is_decrypted() -> None:
    account = an_account("wechat", "123456", encoding_aes_key=WECHAT_AES_KEY)
    echo = "4ByGGj%2BsVCYcvGeQYhaKIk1o0pQRNbRjxybjTGblXrBaXlTXeOo1%2BbXFXDQQb1o6co6Yh9Bv41n7hOchLF6p%2BQ%3D%3D"
    query = (
        f"msg_signature=dd6b9c95b495b3f7e2901bfbc76c664930ffdb96&timestamp=1411443780&nonce=437374425&echostr={echo}"
    )
    answer = deliver(account, a_request(query=query, method="GET")).answer
    assert answer.status == 200 and answer.body.isdigit()
    with pytest.raises(Forged):
        deliver(account, a_request(query=query.replace("437374425", "437374424"), method="GET"))


# --- Meta: "Getting started" (handshake; escaped unicode is signed as sent) -------------------------------------------


@pytest.mark.parametrize("provider", ["whatsapp_cloud", "messenger", "instagram"])
def test_metas_handshake_returns_the_challenge_as_plain_text(provider: str) -> None:
    account = an_account(provider, "s", verify_token="meatyhamhock")
    query = "hub.mode=subscribe&hub.challenge=1158201444&hub.verify_token=meatyhamhock"
    answer = deliver(account, a_request(query=query, method="GET")).answer
    assert (answer.status, answer.body) == (200, b"1158201444")
    assert dict(answer.headers)["content-type"].startswith("text/plain")
    for wrong in (query.replace("hamhock", "ham"), query.replace("subscribe", "x"), ""):
        with pytest.raises(Forged) as refused:
            deliver(account, a_request(query=wrong, method="GET"))
        assert refused.value.status == 403
    with pytest.raises(Forged):
        deliver(an_account(provider, "s"), a_request(query=query.replace("meatyhamhock", ""), method="GET"))


def test_metas_body_is_hashed_as_received_not_as_parsed() -> None:
    provider = PROVIDERS["whatsapp_cloud"]
    escaped = b'{"object":"whatsapp_business_account","entry":[{"x":"\\u00e4\\/"}]}'
    request = provider.sign(Signing(escaped), provider.secrets[0])
    assert is_genuine(provider.account(), request)
    assert not is_genuine(provider.account(), replace(request, body=orjson.dumps(orjson.loads(escaped))))


# --- X: xdevplatform/docs (challenge-response check) ------------------------------------------------------------------


def test_xs_challenge_is_answered_with_the_newest_secret() -> None:
    account = an_account("x", "consumer", "old")
    answer = deliver(account, a_request(query="crc_token=abc", method="GET")).answer
    expected = base64.b64encode(hmac.new(b"consumer", b"abc", sha256).digest()).decode()
    assert orjson.loads(answer.body) == {"response_token": f"sha256={expected}"}
    assert deliver(account, a_request(method="GET")).answer.status == 400


# --- Standard Webhooks: the specification's versions ------------------------------------------------------------------


def test_standard_webhooks_takes_ed25519_and_skips_unknown_versions() -> None:
    private = Ed25519PrivateKey.from_private_bytes(sha256(b"key").digest())
    public = "whpk_" + base64.b64encode(private.public_key().public_bytes_raw()).decode()
    body = b'{"type":"x","timestamp":"2026-03-03T10:00:00Z","data":{"metric":"nps","score":9}}'
    stamp = str(int(NOW.timestamp()))
    signature = base64.b64encode(private.sign(b"m1." + stamp.encode() + b"." + body)).decode()
    headers = {"webhook-id": "m1", "webhook-timestamp": stamp, "webhook-signature": f"v7,zzz v1,AAAA v1a,{signature}"}
    assert len(deliver(an_account("standard_webhooks", WHSEC[0], public), a_request(body, headers)).events) == 1
    assert not is_genuine(an_account("standard_webhooks", WHSEC[0]), a_request(body, headers))
    # The public key is no secret: nobody may sign with it as if it were one.
    forged = base64.b64encode(hmac_of(public, b"m1." + stamp.encode() + b"." + body)).decode()
    forged_headers = {**headers, "webhook-signature": f"v1,{forged}"}
    assert not is_genuine(an_account("standard_webhooks", public), a_request(body, forged_headers))


def hmac_of(secret: str, message: bytes) -> bytes:
    return hmac.new(base64.b64decode(secret.removeprefix("whpk_")), message, sha256).digest()


# --- LINE: line-bot-sdk-python, tests/v3/test_webhook.py. Viber: viber-bot-python, tests/api/test_api.py ------


def test_lines_published_signature_is_taken() -> None:
    account = an_account("line", "channel_secret")
    headers = {"x-line-signature": "/gg9a+LvFevTH1sd7XCQycD7tsWclCsInj7MhBHxN7k="}
    assert is_genuine(account, a_request(b"bodybodybodybody", headers))
    assert not is_genuine(account, a_request(b"bodybodybodybodY", headers))
    assert not is_genuine(account, a_request(b"bodybodybodybody", {"x-line-signature": "invalid_signature"}))


def test_vibers_published_signature_is_taken() -> None:
    account = an_account("viber", "44dafb7e0f40021e-61a47a1e6778d187-f2c5a676a07050b3")
    headers = {"X-Viber-Content-Signature": "d21b343448c8aee33b8e93768ef6ceb64a6ba6163099973a2b8bd028fea510ef"}
    body = b'{"event":"webhook","timestamp":4977069964384421269,"message_token":1478683725125}'
    assert deliver(account, a_request(body, headers)).answer.status == 200
    assert not is_genuine(account, a_request(body, {"X-Viber-Content-Signature": "aaaaaaaaaaaaaaaaaaaaaa"}))


# --- Mailgun: a token counts once -------------------------------------------------------------------------------------


def test_mailguns_token_is_handed_to_the_route() -> None:
    provider = PROVIDERS["mailgun"]
    signing = Signing(urlencode({"body-mime": "From: a@b.example\n\nHi"}).encode(), FORM)
    delivery = deliver(provider.account(), provider.sign(signing, provider.secrets[0]))
    assert delivery.replay_token is not None and provider.window is not None
    assert delivery.replay_token.ttl_s >= provider.window.total_seconds()
    assert delivery.replay_token.value == "a8ce0edb2dd8301dee6c2405235584e45aa91d1e9f979f3de0"


# --- Postmark


def test_postmark_is_told_401_for_403_ends_its_retries() -> None:
    account, wrong = an_account("postmark", "user:pass"), base64.b64encode(b"user:pess").decode()
    with pytest.raises(Forged) as refused:
        deliver(account, a_request(b"{}", {"authorization": f"Basic {wrong}"}))
    assert refused.value.status == 401
