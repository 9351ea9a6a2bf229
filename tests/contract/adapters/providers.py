"""What the contract suite knows of each provider: an account, and how the provider signs.

A new adapter joins the suite with one entry in PROVIDERS and its recorded payloads in tests/contract/payloads/<name>/.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qsl, quote

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from services.ingest.adapters import ADAPTERS
from services.ingest.adapters.base import Account, Headers, RawRequest
from services.ingest.adapters.chat import Session, make_token
from services.ingest.adapters.template import Example

NOW = datetime(2026, 3, 3, 10, 0, tzinfo=UTC)
JSON = "application/json"
FORM = "application/x-www-form-urlencoded"

KEYS = [ec.derive_private_key(number, ec.SECP256R1()) for number in (1_000_003, 1_000_033, 1_000_037)]


def public_secret(key: ec.EllipticCurvePrivateKey) -> str:
    der = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return base64.b64encode(der).decode()


PRIVATE = {public_secret(key): key for key in KEYS}


@dataclass(frozen=True)
class Signing:
    """What a signature is made of, beside the secret."""

    body: bytes
    content_type: str = JSON
    query: str = ""
    at: datetime = NOW
    stamp: str | None = None
    """The timestamp as sent, where it is not `at`."""
    token: str = "a8ce0edb2dd8301dee6c2405235584e45aa91d1e9f979f3de0"
    """What counts once, where a provider signs such a thing (Mailgun)."""

    @property
    def seconds(self) -> str:
        return self.stamp if self.stamp is not None else str(int(self.at.timestamp()))


Signer = Callable[[Signing, str], RawRequest]


@dataclass(frozen=True)
class Provider:
    """One provider. `secrets` are (new, old, somebody else's)."""

    name: str
    sign: Signer
    secrets: tuple[str, str, str]
    options: Mapping[str, Any] = field(default_factory=dict)
    covers_body: bool = True
    window: timedelta | None = None
    content_type: str = JSON
    garbage: bytes = b'{"a": 1}'
    """A genuine body that is not understood, in a form that can be signed."""
    own_addresses: tuple[str, ...] = ("support@acme.example",)
    batch: str | None = None
    """A recorded delivery of several kinds; None where the provider sends one thing at a time."""

    def account(self, *secrets: str) -> Account:
        return Account(
            "t1", self.name, "acme", secrets or self.secrets[:2], public_url="https://hooks.acme.example/in?a=1",
            own_addresses=self.own_addresses, default_region="NL", options=self.options,
        )  # fmt: skip


def request(signing: Signing, headers: Mapping[str, str], query: str | None = None) -> RawRequest:
    items = [("Content-Type", signing.content_type), *headers.items()]
    return RawRequest(
        "POST", "/v1/webhooks/p/t", signing.query if query is None else query, Headers(items), signing.body, NOW
    )


def hex256(secret: str, message: bytes) -> str:
    return hmac.new(secret.encode(), message, hashlib.sha256).hexdigest()


def base256(secret: str, message: bytes) -> str:
    return base64.b64encode(hmac.new(secret.encode(), message, hashlib.sha256).digest()).decode()


def standard_webhooks(signing: Signing, secret: str) -> RawRequest:
    key = base64.b64decode(secret.removeprefix("whsec_"))
    message = f"msg_1.{signing.seconds}.".encode() + signing.body
    signature = "v1," + base64.b64encode(hmac.new(key, message, hashlib.sha256).digest()).decode()
    names = {"webhook-id": "msg_1", "webhook-timestamp": signing.seconds, "webhook-signature": f"v9,x {signature}"}
    return request(signing, names)


def twilio(signing: Signing, secret: str) -> RawRequest:
    query = signing.query
    if signing.content_type == JSON:
        query = f"bodySHA256={hashlib.sha256(signing.body).hexdigest()}"
    url = f"https://hooks.acme.example/in?{query or 'a=1'}"
    text = url
    if signing.content_type != JSON:
        pairs = sorted(
            set(
                parse_qsl(
                    signing.body.decode("utf-8", "surrogateescape"), keep_blank_values=True, errors="surrogateescape"
                )
            )
        )
        text += "".join(name + value for name, value in pairs)
    digest = hmac.new(secret.encode(), text.encode("utf-8", "surrogateescape"), hashlib.sha1).digest()
    return request(signing, {"X-Twilio-Signature": base64.b64encode(digest).decode()}, query)


def basic(signing: Signing, secret: str) -> RawRequest:
    credentials = secret if ":" in secret else f"anybody:{secret}"
    return request(signing, {"Authorization": "Basic " + base64.b64encode(credentials.encode()).decode()})


def meta(signing: Signing, secret: str) -> RawRequest:
    return request(signing, {"X-Hub-Signature-256": "sha256=" + hex256(secret, signing.body)})


def telegram(signing: Signing, secret: str) -> RawRequest:
    return request(signing, {"X-Telegram-Bot-Api-Secret-Token": secret})


def slack(signing: Signing, secret: str) -> RawRequest:
    signature = "v0=" + hex256(secret, f"v0:{signing.seconds}:".encode() + signing.body)
    return request(signing, {"X-Slack-Request-Timestamp": signing.seconds, "X-Slack-Signature": signature})


def sendgrid(signing: Signing, secret: str) -> RawRequest:
    signed = signing.seconds.encode() + signing.body
    signature = base64.b64encode(PRIVATE[secret].sign(signed, ec.ECDSA(hashes.SHA256()))).decode()
    prefix = "X-Twilio-Email-Event-Webhook-"
    return request(signing, {prefix + "Signature": signature, prefix + "Timestamp": signing.seconds})


def mailgun(signing: Signing, secret: str) -> RawRequest:
    token = signing.token
    signature = hex256(secret, (signing.seconds + token).encode())
    if signing.content_type == JSON:
        proof = f'{{"signature": {{"timestamp": "{signing.seconds}", "token": "{token}", "signature": "{signature}"}}, '
        body = proof.encode() + signing.body.lstrip()[1:] if signing.body else b""
    elif signing.body:
        body = signing.body + f"&timestamp={quote(signing.seconds)}&token={token}&signature={signature}".encode()
    else:
        body = b""
    return request(replace(signing, body=body), {})


def template(signing: Signing, secret: str) -> RawRequest:
    signature = hex256(secret, signing.seconds.encode() + b"." + signing.body)
    return request(signing, {"X-Example-Timestamp": signing.seconds, "X-Example-Signature": signature})


def line(signing: Signing, secret: str) -> RawRequest:
    return request(signing, {"x-line-signature": base256(secret, signing.body)})


def viber(signing: Signing, secret: str) -> RawRequest:
    return request(signing, {"X-Viber-Content-Signature": hex256(secret, signing.body)})


def wechat(signing: Signing, secret: str) -> RawRequest:
    digest = hashlib.sha1("".join(sorted([secret, signing.seconds, "n1"])).encode()).hexdigest()
    return request(signing, {}, f"signature={digest}&timestamp={quote(signing.seconds)}&nonce=n1&openid=o1")


def x(signing: Signing, secret: str) -> RawRequest:
    return request(signing, {"x-twitter-webhooks-signature": "sha256=" + base256(secret, signing.body)})


def teams(signing: Signing, secret: str) -> RawRequest:
    digest = hmac.new(base64.b64decode(secret), signing.body, hashlib.sha256).digest()
    return request(signing, {"Authorization": "HMAC " + base64.b64encode(digest).decode()})


def chat(signing: Signing, secret: str) -> RawRequest:
    session = Session("v-1", "s-1", signing.at + timedelta(hours=1), "C-1")
    headers = {"Authorization": f"Bearer {make_token(session, secret)}", "Origin": "https://www.acme.example"}
    return request(signing, headers)


PLAIN_SECRETS = ("new-secret-of-the-account", "old-secret-of-the-account", "secret-of-somebody-else")
PAIRS = ("new:password", "old:password", "else:password")
WHSEC = tuple("whsec_" + base64.b64encode(name.encode()).decode() for name in PLAIN_SECRETS)
SHARED = tuple(base64.b64encode(name.encode()).decode() for name in PLAIN_SECRETS)
PUBLIC = tuple(PRIVATE)

PROVIDERS = {
    provider.name: provider
    for provider in (
        Provider("standard_webhooks", standard_webhooks, WHSEC, window=timedelta(minutes=5), batch="several_answers"),  # type: ignore[arg-type]
        Provider("twilio", twilio, PLAIN_SECRETS, content_type=FORM, garbage=b"Foo=1"),
        Provider(
            "email_raw", basic, PLAIN_SECRETS, covers_body=False, content_type="message/rfc822", garbage=b"no headers"
        ),
        Provider("whatsapp_cloud", meta, PLAIN_SECRETS, {"verify_token": "vt"}, batch="mixed_batch"),
        Provider("messenger", meta, PLAIN_SECRETS, {"verify_token": "vt"}, batch="reaction_postback_read_delivery"),
        Provider("instagram", meta, PLAIN_SECRETS, {"verify_token": "vt"}, batch="echo_read_reaction"),
        Provider("telegram", telegram, PLAIN_SECRETS, {"bot_id": "42"}, covers_body=False),
        Provider("slack", slack, PLAIN_SECRETS, {"bot_id": "B1", "staff": ["U0STAFF"]}, window=timedelta(minutes=5)),
        Provider(
            "sendgrid_inbound", sendgrid, PUBLIC, window=timedelta(hours=80),  # type: ignore[arg-type]
            content_type="multipart/form-data; boundary=xYzZY", garbage=b"no parts here",
        ),
        Provider(
            "sendgrid_events", sendgrid, PUBLIC, window=timedelta(hours=80),  # type: ignore[arg-type]
            batch="mixed_batch", garbage=b'[{"a": 1}]',
        ),
        Provider("mailgun", mailgun, PLAIN_SECRETS, covers_body=False, window=timedelta(hours=9), content_type=FORM,
                 garbage=b"Foo=1"),
        Provider("postmark", basic, PAIRS, covers_body=False),
        Provider("line", line, PLAIN_SECRETS, batch="mixed_batch", garbage=b'{"events": [{"type": "new"}]}'),
        Provider("viber", viber, PLAIN_SECRETS),
        Provider("x", x, PLAIN_SECRETS, batch="mention_and_deletion"),
        Provider("wechat", wechat, PLAIN_SECRETS, covers_body=False, window=timedelta(minutes=5),
                 content_type="text/xml", garbage=b"<xml><a>1</a></xml>"),
        Provider("asterisk", basic, PAIRS, covers_body=False, batch="ami_batch"),
        Provider("teams", teams, SHARED, {"staff": ["29:agent"]}, batch="reactions"),  # type: ignore[arg-type]
        Provider("chat", chat, PLAIN_SECRETS, {"origins": ["https://www.acme.example"]}, covers_body=False,
                 window=timedelta(hours=1), batch="mixed_batch", garbage=b'{"events": [{"type": "new"}]}'),
    )
}  # fmt: skip
"""Name → provider: every adapter there is."""

TEMPLATE = Provider("template", template, PLAIN_SECRETS, {"verify_token": "vt"}, window=timedelta(minutes=5),
                    batch="mixed_batch", garbage=b'{"events": [{"kind": "new", "id": "1"}]}')  # fmt: skip
"""What new adapters are copied from; held to the same contract, and no provider of ours."""

HELD = {**PROVIDERS, TEMPLATE.name: TEMPLATE}
UNDER_TEST = {**ADAPTERS, TEMPLATE.name: Example()}
