"""Knocking at an account's webhook: with nothing, with a handshake, with a proof of ours. None of it leaves anything.

A proven delivery without a body is refused for its empty body and nothing else (422), so it shows that proofs get
through. What proves by keys that only the provider has (SendGrid's, a Teams bot's) cannot be signed here.
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from email.utils import parsedate_to_datetime
from hashlib import sha1
from urllib.parse import urlencode, urlsplit, urlunsplit

import httpx
import orjson

from services.cli.printing import safe, shortened
from services.ingest.adapters.base import Account
from services.ingest.adapters.signatures import hmac_sha1, hmac_sha256
from services.ingest.adapters.teams import shared_key
from shared.errors import SetupError

TIMEOUT_S = 10
SKEW_S = 60.0
META = frozenset({"whatsapp_cloud", "messenger", "instagram"})

Headers = dict[str, str]


@dataclass(frozen=True)
class Knock:
    """One request to try, and whether an answer is the right one."""

    what: str
    fits: Callable[[httpx.Response], bool]
    method: str = "POST"
    query: str = ""
    headers: Headers = field(default_factory=dict)


def knocked(url: str, account: Account, now: datetime) -> list[str]:
    """Knock; return lines on what works. Raises SetupError with what does not, and what to do."""
    lines = [verdict(url, answer := _send("POST", url, {"content-type": "application/json"}, b"{}"))]
    lines += _clocks(answer, now)
    for knock in knocks(account, url, now):
        parts = urlsplit(url)
        target = urlunsplit(parts._replace(query="&".join(filter(None, (parts.query, knock.query)))))
        answer = _send(knock.method, target, knock.headers, b"")
        if not knock.fits(answer):
            raise SetupError(
                f"{knock.what} is answered {answer.status_code}: {_told(answer)}; {_advice(account, answer)}"
            )
        lines.append(f"ok: {knock.what} is answered as it should be ({answer.status_code})")
    return lines


def _send(method: str, url: str, headers: Headers, body: bytes) -> httpx.Response:
    try:
        return httpx.request(method, url, content=body, headers=headers, timeout=TIMEOUT_S)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise SetupError(f"nothing answers at {url}: {error or type(error).__name__}") from error


def _told(answer: httpx.Response) -> str:
    return shortened(safe(answer.text), 200)


def verdict(url: str, answer: httpx.Response) -> str:
    """Say what the answer to a delivery without proof means. Raises SetupError where the URL does not work."""
    ours = answer.headers.get("content-type", "").startswith("application/problem+json")
    if ours and answer.status_code in (400, 401, 403, 415, 422):
        return f"ok: {url} is reached and refuses what proves nothing ({answer.status_code})"
    if ours and answer.status_code == 404:
        raise SetupError(f"{url} reaches Threadline but no account: its path is not the one of `channels list`")
    if answer.status_code in (502, 503, 504):
        raise SetupError(f"{url} cannot be served now ({answer.status_code}): {_told(answer)}")
    raise SetupError(
        f"{url} is answered by something else, or changed on the way ({answer.status_code}): {_told(answer)}"
    )


def _clocks(answer: httpx.Response, now: datetime) -> list[str]:
    """Compare the clock behind the URL with this machine's: signed times are checked by the former."""
    try:
        off_s = (parsedate_to_datetime(answer.headers["date"]) - now).total_seconds()
    except (KeyError, ValueError, TypeError):
        return []
    if abs(off_s) < SKEW_S:
        return []
    way = "ahead of" if off_s > 0 else "behind"
    return [f"warning: the clock behind the URL is {abs(off_s):.0f} s {way} this machine's: set both by a time server"]


def _advice(account: Account, answer: httpx.Response) -> str:
    if account.provider == "twilio":
        return "give the account the --public-url that Twilio calls: a proxy on the way changes what this machine sees"
    if answer.status_code in (401, 403):
        return "the URL belongs to another account, or something on the way changes headers or query"
    return "something on the way answers in our place"


def knocks(account: Account, url: str, now: datetime) -> list[Knock]:
    """Return what to try with an account: its provider's handshake, and a proof by its newest secret.

    Raises SetupError where the provider's handshake cannot work.
    """
    return [*_handshake(account, now), *_proof(account, url, now)]


def _handshake(account: Account, now: datetime) -> list[Knock]:
    provider, secret = account.provider, account.secrets[0]
    challenge = secrets.token_hex(8)
    if provider in META:
        token = account.options.get("verify_token")
        if not isinstance(token, str) or not token:
            raise SetupError("Meta's handshake will be refused: put the account again with --option verify_token=…")
        query = {"hub.mode": "subscribe", "hub.verify_token": token, "hub.challenge": challenge}
        return [_get("Meta's handshake", query, lambda answer: answer.text == challenge)]
    if provider == "x":
        expected = "sha256=" + base64.b64encode(hmac_sha256(secret, challenge.encode())).decode()
        return [
            _get("X's challenge", {"crc_token": challenge}, lambda answer: _json(answer, "response_token") == expected)
        ]
    if provider == "wechat":
        stamp = str(int(now.timestamp()))
        digest = sha1("".join(sorted([secret, stamp, challenge])).encode(), usedforsecurity=False).hexdigest()
        query = {"signature": digest, "timestamp": stamp, "nonce": challenge, "echostr": challenge}
        return [_get("WeChat's handshake", query, lambda answer: answer.text == challenge)]
    if provider == "chat":
        origins = account.options.get("origins") or [""]
        headers = {"origin": str(origins[0])} if origins[0] else {}
        knock = _get("opening a chat", {"nonce": secrets.token_hex(16)}, lambda answer: bool(_json(answer, "token")))
        return [Knock(knock.what, knock.fits, knock.method, knock.query, headers)]
    return []


def _get(what: str, query: Headers, fits: Callable[[httpx.Response], bool]) -> Knock:
    return Knock(what, lambda answer: answer.status_code == 200 and fits(answer), "GET", urlencode(query))


def _json(answer: httpx.Response, name: str) -> object:
    try:
        return orjson.loads(answer.content).get(name)
    except (orjson.JSONDecodeError, AttributeError):
        return None


def _proof(account: Account, url: str, now: datetime) -> list[Knock]:
    headers = _signed(account, url, str(int(now.timestamp())))
    if headers is None:
        return []
    return [
        Knock("a delivery signed with the newest secret", lambda answer: answer.status_code == 422, headers=headers)
    ]


def _signed(account: Account, url: str, stamp: str) -> Headers | None:
    """Return the headers that prove an empty body, or None where this cannot be done here."""
    provider, secret = account.provider, account.secrets[0]
    if provider in META:
        return {"x-hub-signature-256": "sha256=" + hmac_sha256(secret, b"").hex()}
    if provider == "slack":
        signature = hmac_sha256(secret, f"v0:{stamp}:".encode()).hex()
        return {"x-slack-request-timestamp": stamp, "x-slack-signature": f"v0={signature}"}
    if provider in ("line", "x"):
        digest = base64.b64encode(hmac_sha256(secret, b"")).decode()
        return (
            {"x-line-signature": digest} if provider == "line" else {"x-twitter-webhooks-signature": f"sha256={digest}"}
        )
    if provider == "teams" and not account.options.get("app_id"):
        digest = base64.b64encode(hmac_sha256(shared_key(secret), b"")).decode()
        return {"authorization": f"HMAC {digest}"}
    if provider == "standard_webhooks" and secret.startswith("whsec_"):
        key = base64.b64decode(secret.removeprefix("whsec_") + "==")
        digest = base64.b64encode(hmac_sha256(key, f"test.{stamp}.".encode())).decode()
        return {"webhook-id": "test", "webhook-timestamp": stamp, "webhook-signature": f"v1,{digest}"}
    if provider == "viber":
        return {"x-viber-content-signature": hmac_sha256(secret, b"").hex()}
    if provider == "telegram":
        return {"x-telegram-bot-api-secret-token": secret}
    if provider == "twilio":
        seen = account.public_url or urlunsplit(urlsplit(url)._replace(scheme="https"))
        digest = base64.b64encode(hmac_sha1(secret, seen.encode())).decode()
        return {"x-twilio-signature": digest, "content-type": "application/x-www-form-urlencoded"}
    if provider in ("postmark", "asterisk", "email_raw", "sendgrid_inbound"):
        pair = secret if ":" in secret and provider != "email_raw" else f"threadline:{secret}"
        kind = "message/rfc822" if provider == "email_raw" else "application/json"
        basic = base64.b64encode(pair.encode()).decode()
        is_key = provider == "sendgrid_inbound" and ":" not in secret
        return None if is_key else {"authorization": f"Basic {basic}", "content-type": kind}
    return None
