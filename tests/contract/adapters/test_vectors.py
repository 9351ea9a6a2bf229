"""Signatures and handshakes that others published: facts from documentation and SDK tests, each cited."""

from __future__ import annotations

import base64
import hmac
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any
from urllib.parse import urlencode

import orjson
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from services.ingest.adapters import ADAPTERS
from services.ingest.adapters.base import (
    Account,
    Delivery,
    Forged,
    Headers,
    KeySource,
    RawRequest,
    WithPublishedKeys,
    receive,
)
from services.ingest.adapters.chat import Session, make_token, read_token
from tests.contract.adapters.providers import FORM, JSON, NOW, PROVIDERS, WHSEC, Signing


def an_account(provider: str, *secrets: str, public_url: str | None = None, **options: Any) -> Account:
    return Account("t1", provider, "acme", secrets, public_url=public_url, options=options)


def a_request(
    body: bytes = b"", headers: dict[str, str] | None = None, query: str = "", method: str = "POST", at: datetime = NOW
) -> RawRequest:
    return RawRequest(method, "/v1/webhooks/p/t", query, Headers((headers or {}).items()), body, at)


def deliver(account: Account, request: RawRequest) -> Delivery:
    return receive(ADAPTERS[account.provider], request, account)


def is_genuine(account: Account, request: RawRequest) -> bool:
    try:
        ADAPTERS[account.provider].verify(request, account)
    except Forged:
        return False
    return True


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
    """Return the ids of events of one person and second."""
    found = []
    for event in events:
        told = "<FromUserName>oOpen1</FromUserName><CreateTime>1772531880</CreateTime><MsgType>event</MsgType>"
        signing = Signing(f"<xml>{told}{event}</xml>".encode())
        request = PROVIDERS["wechat"].sign(signing, account.secrets[0])
        found += [draft.id for draft in receive(ADAPTERS["wechat"], request, account).events]
    return found


def test_what_wechat_sends_in_one_second_beside_another_event_is_told_apart_and_known_again() -> None:
    account = an_account("wechat", "test")
    told = [
        "<Event>VIEW</Event><EventKey>https://shop.example/orders</EventKey>",
        "<Event>LOCATION</Event><Latitude>52.1</Latitude><Longitude>4.3</Longitude><Precision>9</Precision>",
        "<Event>TEMPLATESENDJOBFINISH</Event><MsgID>1</MsgID><Status>success</Status>",
        "<Event>TEMPLATESENDJOBFINISH</Event><MsgID>2</MsgID><Status>success</Status>",
    ]
    ids = wechat_ids(account, *told)
    assert len(set(ids)) == 4
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


# --- Teams: botframework-activity.md and the Bot Connector's authentication -------------------------------------------

KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
OTHER_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)


def url64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def jwks(key: rsa.RSAPrivateKey) -> dict[str, Any]:
    numbers = key.public_key().public_numbers()
    return {"keys": [{"kty": "RSA", "kid": "k1", "n": url64(numbers.n.to_bytes(256, "big")), "e": "AQAB",
                      "endorsements": ["msteams"]}]}  # fmt: skip


def a_token(key: rsa.RSAPrivateKey = KEY, header: dict[str, Any] | None = None, **claims: Any) -> str:
    now = int(NOW.timestamp())
    payload = {"iss": "https://api.botframework.com", "aud": "app1", "nbf": now - 60, "exp": now + 600,
               "serviceurl": "https://smba.example/emea", **claims}  # fmt: skip
    signed = ".".join(url64(orjson.dumps(part)) for part in (header or {"alg": "RS256", "kid": "k1"}, payload))
    return f"{signed}.{url64(key.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256()))}"


ACTIVITY = orjson.dumps(
    {"type": "message", "id": "1", "text": "hi", "textFormat": "plain", "serviceUrl": "https://smba.example/emea/",
     "from": {"id": "29:a"}, "conversation": {"id": "c", "tenantId": "ten"}}
)  # fmt: skip


@pytest.mark.parametrize(
    ("token", "genuine"),
    [
        (a_token(), True),
        (a_token(exp=int(NOW.timestamp()) - 200), True),
        (a_token(exp=int(NOW.timestamp()) - 400), False),
        (a_token(nbf=int(NOW.timestamp()) + 400), False),
        (a_token(exp=None), False),
        (a_token(aud="app2"), False),
        (a_token(iss="https://evil.example"), False),
        (a_token(serviceurl="https://evil.example"), False),
        (a_token(serviceurl=None), False),
        (a_token(iss="https://api.botframework.us"), False),
        (a_token(OTHER_KEY), False),
        (a_token(header={"alg": "none", "kid": "k1"}), False),
        (a_token(header={"alg": "HS256", "kid": "k1"}), False),
        (a_token(header={"alg": "RS256", "kid": "k2"}), False),
        (a_token().rpartition(".")[0] + ".", False),
        ("a.b.c", False),
        ("", False),
    ],
)
def test_teams_token_is_checked_in_every_respect(token: str, genuine: bool) -> None:
    account = an_account("teams", jwks=jwks(KEY), app_id="app1")
    request = a_request(ACTIVITY, {"content-type": JSON, "authorization": f"Bearer {token}"})
    assert is_genuine(account, request) is genuine
    if genuine:
        assert deliver(account, request).events[0].data["customer"]["handles"][0]["value"] == "ten/29:a"
    # The same where the keys are Microsoft's own.
    fetched = replace(an_account("teams", app_id="app1"), keys=jwks(KEY))
    assert is_genuine(fetched, request) is genuine
    assert not is_genuine(an_account("teams", app_id="app1"), request)


def test_teams_says_whose_keys_a_token_needs() -> None:
    teams = ADAPTERS["teams"]
    assert isinstance(teams, WithPublishedKeys)

    def source(token: str, **options: Any) -> KeySource | None:
        request = a_request(ACTIVITY, {"authorization": token})
        return teams.key_source(request, an_account("teams", **options))

    public = "https://login.botframework.com/v1/.well-known/openidconfiguration"
    assert source("Bearer " + a_token()) == KeySource(public, "k1")
    found = source("bearer " + a_token(), cloud="us_government")
    assert found is not None and found.metadata_url.startswith("https://login.botframework.azure.us/")
    for nothing in ("Bearer a.b.c", "Bearer", "HMAC abc", "", "Bearer " + "a" * 20_000):
        assert source(nothing) is None
    assert source("Bearer " + a_token(), jwks=jwks(KEY)) is None


def test_a_bots_account_takes_no_shared_secret() -> None:
    body = ACTIVITY
    proof = base64.b64encode(hmac.new(b"app-1", body, sha256).digest()).decode()
    request = a_request(body, {"content-type": JSON, "authorization": f"HMAC {proof}"})
    assert is_genuine(an_account("teams", "app-1"), request)
    assert not is_genuine(an_account("teams", "app-1", app_id="app-1"), request)


def test_postmark_is_told_401_for_403_ends_its_retries() -> None:
    account, wrong = an_account("postmark", "user:pass"), base64.b64encode(b"user:pess").decode()
    with pytest.raises(Forged) as refused:
        deliver(account, a_request(b"{}", {"authorization": f"Basic {wrong}"}))
    assert refused.value.status == 401


# --- our own chat -----------------------------------------------------------------------------------------------------

CHAT = an_account("chat", "new-secret", "old-secret", origins=["https://www.acme.example"])
ORIGIN = {"origin": "https://www.acme.example"}


def opened(query: str, headers: dict[str, str] | None = None, at: datetime = NOW) -> dict[str, Any]:
    answer = deliver(
        CHAT, a_request(query=query, headers=ORIGIN if headers is None else headers, method="GET", at=at)
    ).answer
    assert answer.status == 200
    return dict(orjson.loads(answer.body))


def test_chat_session_is_opened_spoken_in_and_renewed() -> None:
    session = opened("nonce=0123456789abcdef012345")
    assert session["visitor"].startswith("v-") and session["session"].startswith("s-")
    message = {"type": "message", "client_message_id": "3b241101-e2bb-4255-8caf-4136c566a961", "text": "Hi"}
    body = orjson.dumps({"token": session["token"], "events": [message]})
    (event,) = deliver(CHAT, a_request(body, ORIGIN)).events
    assert (event.id, event.time) == (message["client_message_id"], NOW)
    assert event.data["contact_id"] == session["session"]
    with pytest.raises(Forged) as ended:
        deliver(CHAT, a_request(body, ORIGIN, at=NOW + timedelta(hours=1)))
    assert ended.value.status == 401
    renewed = opened(f"token={session['token']}", at=NOW + timedelta(hours=20))
    assert (renewed["session"], renewed["visitor"]) == (session["session"], session["visitor"])
    with pytest.raises(Forged):
        opened(f"token={session['token']}", at=NOW + timedelta(hours=26))


def test_chat_visitors_cannot_choose_their_ids() -> None:
    one, other = opened("nonce=0123456789abcdef012345"), opened("nonce=0123456789abcdef012346")
    assert one["visitor"] != other["visitor"] and one["session"] != other["session"]
    assert deliver(CHAT, a_request(query="nonce=short", headers=ORIGIN, method="GET")).answer.status == 422


def test_chat_user_is_known_only_with_the_websites_hash() -> None:
    given = hmac.new(b"old-secret", b"user:C-9", sha256).hexdigest()
    session = opened(f"nonce=0123456789abcdef012345&user=C-9&user_hash={given}")
    assert read_token(session["token"], CHAT).user == "C-9"
    with pytest.raises(Forged):
        opened("nonce=0123456789abcdef012345&user=C-9&user_hash=" + "0" * 64)


def test_chat_takes_only_its_own_websites() -> None:
    with pytest.raises(Forged) as refused:
        opened("nonce=0123456789abcdef012345", {"origin": "https://evil.example"})
    assert refused.value.status == 403
    preflight = deliver(CHAT, a_request(headers=ORIGIN, method="OPTIONS")).answer
    assert preflight.status == 204
    assert dict(preflight.headers)["access-control-allow-origin"] == "https://www.acme.example"
    foreign = deliver(CHAT, a_request(headers={"origin": "https://evil.example"}, method="OPTIONS")).answer
    assert "access-control-allow-origin" not in dict(foreign.headers)


def test_chat_takes_threadlines_own_page_and_lets_only_named_websites_read() -> None:
    opening = "nonce=0123456789abcdef012345"
    own = {"origin": "https://chat.acme.example", "host": "chat.acme.example"}
    assert opened(opening, own)["stream_url"].startswith("/v1/chat/stream?ticket=")
    anywhere = an_account("chat", "new-secret")
    request = a_request(query=opening, headers={"origin": "https://evil.example"}, method="GET")
    assert "access-control-allow-origin" not in dict(deliver(anywhere, request).answer.headers)


def test_chat_refuses_more_events_than_it_takes_instead_of_dropping_some() -> None:
    session = opened("nonce=0123456789abcdef012345")
    one = {"type": "message", "client_message_id": "3b241101-e2bb-4255-8caf-4136c566a961", "text": "Hi"}
    body = orjson.dumps({"token": session["token"], "events": [one] * 101})
    delivery = deliver(CHAT, a_request(body, ORIGIN))
    assert (delivery.answer.status, delivery.events) == (413, ())


def test_chat_tells_an_allowed_website_that_its_session_has_ended() -> None:
    session = opened("nonce=0123456789abcdef012345")
    body = orjson.dumps({"token": session["token"], "events": []})
    with pytest.raises(Forged) as ended:
        deliver(CHAT, a_request(body, ORIGIN, at=NOW + timedelta(hours=2)))
    assert dict(ended.value.headers)["access-control-allow-origin"] == ORIGIN["origin"]


CHANGES = {
    "signature": lambda token: token[:-2] + ("AA" if token[-2:] != "AA" else "BB"),
    "version": lambda token: "v2" + token[2:],
    "joined": lambda token: token.replace(".", "", 1),
    "longer": lambda token: token + ".x",
    "in front": lambda token: "v1.e30." + token,
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_chat_token_that_was_changed_is_refused(change: Any) -> None:
    token = make_token(Session("v", "s", NOW + timedelta(hours=1)), "new-secret")
    assert read_token(token, CHAT) == Session("v", "s", NOW + timedelta(hours=1))
    with pytest.raises(Forged):
        read_token(change(token), CHAT)
