"""Microsoft Teams: activities of a bot (signed token), or an outgoing webhook (HMAC).

Sources: botframework-activity.md; Microsoft's "Authentication with the Bot Connector API". A bot's keys lie behind an
OpenID metadata document, which is fetched outside of this module (services/ingest/published_keys.py), or are given as
`options.jwks`; the audience is `options.app_id`. An outgoing webhook has a shared secret instead, given in `secrets`.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import orjson
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from services.ingest.adapters import events
from services.ingest.adapters.base import (
    JSON,
    Account,
    Answer,
    Delivery,
    Draft,
    Forged,
    KeySource,
    Plain,
    Quarantined,
    RawRequest,
)
from services.ingest.adapters.payloads import Json, items, mapping, read_object, required, text, whole
from services.ingest.adapters.signatures import base64_digest, hmac_sha256, require_header, require_match
from services.ingest.adapters.times import told_iso
from shared.plaintext import html_to_text

CLOUDS = {
    "public": (
        "https://login.botframework.com/v1/.well-known/openidconfiguration", "https://api.botframework.com",
    ),
    "us_government": (
        "https://login.botframework.azure.us/v1/.well-known/openid-configuration", "https://api.botframework.us",
    ),
}  # fmt: skip
"""`options.cloud` → (OpenID metadata, issuer of its tokens)."""
SKEW = timedelta(minutes=5)
_LONGEST_TOKEN = 16_384


class Teams(Plain):
    """One bot or outgoing webhook."""

    def verify(self, request: RawRequest, account: Account) -> None:
        """`Authorization: Bearer` with a token for our app, or `HMAC` over the raw body."""
        scheme, _, proof = require_header(request, "authorization").partition(" ")
        if scheme.lower() == "hmac" and not account.options.get("app_id"):
            given = base64_digest(proof.strip())
            require_match(given, account, lambda secret: hmac_sha256(shared_key(secret), request.body))
        elif scheme.lower() == "bearer":
            claims = _verified_claims(proof.strip(), account)
            _check_claims(claims, request, account)
        else:
            # A bot's account has a secret that nothing is signed with: it need not be one.
            raise Forged(401, "the header authorization is not Bearer, or HMAC for an outgoing webhook")

    def key_source(self, request: RawRequest, account: Account) -> KeySource | None:
        """Microsoft's keys for a bearer token, unless the account has its own."""
        scheme, _, token = (request.headers.get("authorization") or "").strip().partition(" ")
        if scheme.lower() != "bearer" or account.options.get("jwks"):
            return None
        try:
            header, _ = _unproven(token.strip())
        except Forged:
            # It will be refused without any key.
            return None
        return KeySource(_cloud(account)[0], text(header.get("kid")))

    def parse(self, request: RawRequest, account: Account) -> Delivery:
        """Return the events of one activity."""
        body = read_object(request.body)
        identity = required(body.get("id"), "id")
        kind = text(body.get("type")) or ""
        conversation = text(mapping(body.get("conversation")).get("id")) or ""
        answer = self.taken(account, identity)
        if kind == "typing":
            # Over as soon as it is said; nothing to keep.
            return Delivery(answer)
        drafts = _events(kind, events.key(conversation, identity), body, account)
        if not drafts:
            part = Quarantined(
                f"an activity of type {kind[:80]!r} is not understood", events.key(conversation, identity, kind)
            )
            return Delivery(answer, quarantined=(part,))
        return Delivery(answer, tuple(drafts))

    def taken(self, account: Account, key: str) -> Answer:
        """An empty JSON object."""
        return Answer(200, b"{}", (("content-type", JSON),))


def shared_key(secret: str) -> bytes:
    """Return the key of an outgoing webhook from its secret, which Teams shows in base64."""
    try:
        return base64.b64decode(secret, validate=True)
    except (binascii.Error, ValueError):
        return secret.encode("utf-8", "surrogateescape")


def _segment(text_: str) -> bytes:
    try:
        return base64.b64decode(text_ + "=" * (-len(text_) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as error:
        raise Forged(403, "the token is not base64url") from error


def _cloud(account: Account) -> tuple[str, str]:
    return CLOUDS.get(str(account.options.get("cloud")), CLOUDS["public"])


def _unproven(token: str) -> tuple[Mapping[str, Json], Mapping[str, Json]]:
    """Return header and claims of a token (RS256) as it says them. Raises Forged."""
    parts = token.split(".")
    if len(parts) != 3 or len(token) > _LONGEST_TOKEN:
        raise Forged(403, "the bearer token is no signed token")
    try:
        header, claims = (mapping(orjson.loads(_segment(part))) for part in parts[:2])
    except orjson.JSONDecodeError as error:
        raise Forged(403, "the token is not JSON") from error
    if header.get("alg") != "RS256":
        raise Forged(403, "the token is not signed with RS256")
    return header, claims


def _verified_claims(token: str, account: Account) -> Mapping[str, Json]:
    """Return the claims of a token signed with one of the account's keys, or of its cloud's. Raises Forged."""
    header, claims = _unproven(token)
    body, _, signature = token.rpartition(".")
    signed, proof = body.encode("utf-8", "surrogateescape"), _segment(signature)
    if not any(_signed_by(key, proof, signed) for key in _keys(account, text(header.get("kid")))):
        raise Forged(403, "the token is signed by none of the keys (Microsoft's, or those in options.jwks)")
    return claims


def _keys(account: Account, kid: str | None) -> list[rsa.RSAPublicKey]:
    found = []
    published = account.options.get("jwks") or account.keys
    for key in map(mapping, items(mapping(published).get("keys"))):
        if key.get("kty") != "RSA" or (kid and text(key.get("kid")) not in (None, kid)):
            continue
        endorsed = items(key.get("endorsements"))
        if endorsed and "msteams" not in endorsed:
            continue
        try:
            modulus, exponent = (int.from_bytes(_segment(text(key.get(name)) or ""), "big") for name in ("n", "e"))
            found.append(rsa.RSAPublicNumbers(exponent, modulus).public_key())
        except (ValueError, Forged):
            continue
    return found


def _signed_by(key: rsa.RSAPublicKey, signature: bytes, signed: bytes) -> bool:
    try:
        key.verify(signature, signed, padding.PKCS1v15(), hashes.SHA256())
    except InvalidSignature:
        return False
    return True


def _check_claims(claims: Mapping[str, Json], request: RawRequest, account: Account) -> None:
    """Issuer, audience, times with five minutes of skew, and the service that the activity says it came by."""
    app_id = text(account.options.get("app_id")) or account.account
    if claims.get("iss") != _cloud(account)[1]:
        raise Forged(403, "the token is by another issuer")
    if claims.get("aud") != app_id:
        raise Forged(403, "the token is for another app than options.app_id (or the account's name, without it)")
    now, skew = request.received_at.timestamp(), SKEW.total_seconds()
    expires, begins = whole(claims.get("exp")), whole(claims.get("nbf"))
    if expires is None or now > expires + skew or (begins is not None and now < begins - skew):
        raise Forged(403, "the token has expired, or is not valid yet")
    service = text(claims.get("serviceurl")) or text(claims.get("serviceUrl"))
    told = text(read_object(request.body).get("serviceUrl")) if request.body.strip() else None
    if service is None or told is None or service.rstrip("/") != told.rstrip("/"):
        raise Forged(403, "the activity does not come by the service that the token says")


def _events(kind: str, key: str, body: Mapping[str, Json], account: Account) -> list[Draft]:
    sender, conversation = mapping(body.get("from")), mapping(body.get("conversation"))
    tenant = text(mapping(mapping(body.get("channelData")).get("tenant")).get("id")) or text(
        conversation.get("tenantId")
    )
    user, room = text(sender.get("id")), text(conversation.get("id"))
    stamp = text(body.get("timestamp"))
    staff = user is not None and user in items(account.options.get("staff"))
    handle = f"{tenant or account.account}/{user}" if user and not staff else None
    actor = events.agent(user, text(sender.get("name"))) if staff else events.CUSTOMER
    if text(sender.get("role")) == "bot":
        handle, actor = None, events.BOT
    data: dict[str, Any] = {
        "channel": "teams",
        "customer": events.customer("teams", handle, text(sender.get("name")) if handle else None),
        "actor": actor,
        "thread": {"dm_thread": f"teams:{room}"} if room else {},
    }
    at = told_iso(stamp)
    if kind == "message":
        sent = staff or actor == events.BOT
        return [
            events.draft(
                events.SENT if sent else events.RECEIVED, key, at, **data, message_id=key,
                in_reply_to=text(body.get("replyToId")), language=text(body.get("locale")), **_said(body),
            )
        ]  # fmt: skip
    if kind == "messageUpdate":
        return [
            events.draft(
                events.EDITED, events.key(key, "messageUpdate", stamp or ""), at, **data, refers_to=key, **_said(body)
            )
        ]
    if kind == "messageDelete":
        return [events.draft(events.DELETED, events.key(key, "messageDelete"), at, **data, refers_to=key)]
    if kind == "messageReaction":
        refers_to = events.key(room or "", text(body.get("replyToId")) or text(body.get("id")))
        changes = [(one, False) for one in items(body.get("reactionsAdded"))]
        changes += [(one, True) for one in items(body.get("reactionsRemoved"))]
        return [
            events.draft(
                events.REACTED, events.key(key, "messageReaction", number, stamp or ""), at, **data,
                refers_to=refers_to, emoji=text(mapping(one).get("type")), removed=removed,
            )
            for number, (one, removed) in enumerate(changes)
        ]  # fmt: skip
    return []


def _said(body: Mapping[str, Json]) -> dict[str, Any]:
    words = text(body.get("text"))
    if words and text(body.get("textFormat")) not in ("plain", "markdown"):
        words = html_to_text(words)
    files = []
    for attachment in map(mapping, items(body.get("attachments"))):
        kind = text(attachment.get("contentType")) or ""
        if kind.startswith("text/html"):
            # The message itself once more.
            continue
        content = mapping(attachment.get("content"))
        url = text(attachment.get("contentUrl")) or text(content.get("downloadUrl"))
        files.append(events.attachment(url, kind, text(attachment.get("name"))))
    return {"text": words, "attachments": files}
