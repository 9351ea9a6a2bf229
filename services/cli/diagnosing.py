"""Why a delivery is refused: found by trying what may be different. Pure: a delivery and accounts in, words out.

Each finding says what is wrong and what to do. Nothing here decides what is let in; the adapters do.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qs, urlsplit, urlunsplit

from services.ingest.adapters import ADAPTERS
from services.ingest.adapters.base import Account, Forged, Malformed, RawRequest, Unreadable

_STAMPS = ("x-slack-request-timestamp", "webhook-timestamp", "x-twilio-email-event-webhook-timestamp")
_IN_BODY = re.compile(rb"""timestamp(?:=|"\s*:\s*"?)(\d{9,11})\b""")
_SECONDS = re.compile(r"\d{9,11}", re.ASCII)

WHERE = {
    "twilio": "the account's Auth Token (of the subaccount that owns the number)",
    "slack": "the app's Signing Secret, not a token",
    "whatsapp_cloud": "the app's App Secret, not an access token",
    "messenger": "the app's App Secret, not an access token",
    "instagram": "the App Secret of the app, or that of Instagram Login, which is another",
    "telegram": "the secret_token that was given to setWebhook, not the bot's token",
    "line": "the Channel secret, not the channel access token",
    "viber": "the account's auth token",
    "wechat": "the Token of the server settings, not the AppSecret",
    "x": "the app's consumer secret (API key secret)",
    "mailgun": "the HTTP webhook signing key, not an API key",
    "sendgrid_events": "the Verification Key of the Event Webhook",
    "sendgrid_inbound": "the public key of the parse security policy, or user:pass of the URL",
    "standard_webhooks": "the endpoint's whsec_… of the sender",
    "postmark": "user:pass of the URL that Postmark was given",
    "asterisk": "user:pass that the forwarder sends",
    "email_raw": "the password that the sender gives",
    "teams": "the token that Teams showed when the outgoing webhook was made; for a bot options.app_id",
    "chat": "the account's own secret, which signs sessions",
}
"""What `secrets` has to hold, in the words of each provider."""


def refused(request: RawRequest, account: Account) -> str | None:
    """Return why the account's adapter does not believe `request`, or None where it does."""
    try:
        ADAPTERS[account.provider].verify(request, account)
    except (Forged, Malformed) as error:
        return error.detail
    except Unreadable as error:
        return error.reason
    return None


def findings(request: RawRequest, account: Account, others: Sequence[Account]) -> list[str]:
    """Return what explains a refusal, the most certain first; `others` are further accounts of the same provider."""
    for explain in (_its_time, _its_url, _its_line_ends, _its_secret):
        found = explain(request, account, others)
        if found:
            return [found]
    if "missing" in (refused(request, account) or ""):
        return ["what proves it did not come along: was it sent by the provider, and does a proxy drop headers?"]
    secrets = "the active secret" if len(account.secrets) == 1 else f"none of the {len(account.secrets)} active secrets"
    verb = "does not sign" if len(account.secrets) == 1 else "signs"
    found = (
        f"{secrets} {verb} this. It has to be {WHERE[account.provider]}; several may be active while one is replaced"
    )
    if account.provider == "twilio":
        signed = account.public_url or f"https://{request.headers.get('host') or '(no Host header)'}{request.path}"
        return [
            found,
            f"where the secret is right, Twilio has another URL than {signed}: compare them to the last letter",
        ]
    return [found, "where the secret is right, something changed the body on the way: it is signed byte by byte"]


def _its_time(request: RawRequest, account: Account, others: Sequence[Account]) -> str | None:
    for then in _stamps(request):
        if refused(replace(request, received_at=then), account) is None:
            off = request.received_at - then
            way = "behind" if off > timedelta(0) else "ahead of"
            return (
                f"the proof is right, but its time is {_length(abs(off))} {way} this machine's clock"
                f" ({request.received_at:%Y-%m-%d %H:%M:%S}Z): if it was sent just now, set this machine's clock by a"
                " time server; an older delivery can be read with --at"
            )
    return None


def _stamps(request: RawRequest) -> Iterator[datetime]:
    query = parse_qs(request.query[:8_192], max_num_fields=1_000) if request.query.count("&") < 1_000 else {}
    told = [*(request.headers.get(name) or "" for name in _STAMPS), *query.get("timestamp", ())]
    told += [match.decode() for match in _IN_BODY.findall(request.body[:100_000])[:10]]
    for text in told:
        if _SECONDS.fullmatch(text.strip()):
            yield datetime.fromtimestamp(int(text), UTC)


def _length(off: timedelta) -> str:
    seconds = int(off.total_seconds())
    return (
        f"{seconds // 3600} h {seconds % 3600 // 60} min"
        if seconds >= 3600
        else f"{seconds // 60} min {seconds % 60} s"
    )


def _its_url(request: RawRequest, account: Account, others: Sequence[Account]) -> str | None:
    if account.provider != "twilio":
        return None
    for url in _urls(request, account):
        if refused(request, replace(account, public_url=url)) is None:
            return (
                f"Twilio signed the URL {url} and not {account.public_url or 'the one that this machine sees'}:"
                f" give the account --public-url {url}, or correct the URL in Twilio"
            )
    return None


def _urls(request: RawRequest, account: Account) -> Iterator[str]:
    """Yield the URLs that Twilio may have been given: other schemes, hosts, ends."""
    given = urlsplit(account.public_url or f"https://{request.headers.get('host') or ''}{request.path}")
    forwarded = (request.headers.get("x-forwarded-host") or "").split(",")[0].strip()
    hosts = dict.fromkeys(
        host for host in (given.netloc, given.hostname, forwarded, request.headers.get("host")) if host
    )
    paths = dict.fromkeys((given.path, given.path.rstrip("/"), given.path.rstrip("/") + "/", request.path))
    for host in hosts:
        for scheme in ("https", "http"):
            for path in paths:
                yield urlunsplit((scheme, host, path, given.query, ""))


def _its_line_ends(request: RawRequest, account: Account, others: Sequence[Account]) -> str | None:
    body = request.body
    bare, unix = body.rstrip(b"\r\n"), body.replace(b"\r\n", b"\n")
    for other in (bare, bare + b"\n", bare + b"\r\n", unix, unix.replace(b"\n", b"\r\n")):
        if other != body and refused(replace(request, body=other), account) is None:
            return (
                "the body has other line ends than what was signed: an editor, or something on the way, changed them;"
                " take the bytes as they came"
            )
    return None


def _its_secret(request: RawRequest, account: Account, others: Sequence[Account]) -> str | None:
    stripped = tuple(secret.strip() for secret in account.secrets)
    if stripped != account.secrets and refused(request, replace(account, secrets=stripped)) is None:
        return "a secret is stored with white space around it: put the account again without"
    for other in others:
        if other.account != account.account and refused(request, replace(account, secrets=other.secrets)) is None:
            return (
                f"it is signed with the secret of {other.provider}/{other.account}: the provider has the URL of the"
                " wrong account, or the two secrets are exchanged"
            )
    return None
