"""Secrets of endpoints, and what proves a delivery: Standard Webhooks."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from secrets import token_bytes

import orjson
from standardwebhooks.webhooks import Webhook

from shared.events import parse_rfc3339, rfc3339
from shared.sealing import Sealer

SEALED_FOR = "webhook secrets"
SECRET_BYTES = 32
PREFIX = "whsec_"
MOST_SECRETS = 5


@dataclass(frozen=True, slots=True)
class Secret:
    """One secret of an endpoint; `until` is when it stops signing, None for the one in use."""

    text: str
    until: datetime | None = None


def new_secret() -> str:
    """Return a secret that nobody can guess."""
    return PREFIX + base64.b64encode(token_bytes(SECRET_BYTES)).decode()


def checked_secret(text: str) -> str:
    """Return `text` where it is a secret. Raises ValueError with a sentence that does not repeat it."""
    try:
        decoded = base64.b64decode(text.removeprefix(PREFIX), validate=True)
    except (binascii.Error, ValueError):
        decoded = b""
    if not text.startswith(PREFIX) or not 24 <= len(decoded) <= 64:
        raise ValueError("must be whsec_ and the base64 of 24 to 64 random bytes; leave it out and one is made")
    return text


def rotated(secrets: Sequence[Secret], new: str, now: datetime, until: datetime) -> list[Secret]:
    """Return the secrets after `new` came: what signed until now goes on signing beside it until `until`."""
    kept = [Secret(old.text, min(old.until or until, until)) for old in active(secrets, now) if old.text != new]
    return [Secret(new), *(old for old in kept if old.until is None or old.until > now)][:MOST_SECRETS]


def active(secrets: Sequence[Secret], now: datetime) -> list[Secret]:
    """Return the secrets that sign now, the one in use first."""
    return [secret for secret in secrets if secret.until is None or secret.until > now]


def headers_of(webhook_id: str, body: bytes, secrets: Sequence[Secret], now: datetime) -> dict[str, str]:
    """Return the headers that prove `body`: one signature per active secret, so that either side may change first."""
    text = body.decode()
    signatures = [Webhook(secret.text).sign(webhook_id, now, text) for secret in active(secrets, now)]
    return {
        "webhook-id": webhook_id,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": " ".join(signatures),
    }


def seal(sealer: Sealer, owner: str, secrets: Sequence[Secret]) -> bytes:
    """Return the secrets as they are stored."""
    told = [[secret.text, rfc3339(secret.until) if secret.until else None] for secret in secrets]
    return sealer.seal(orjson.dumps(told), owner)


def unseal(sealer: Sealer, owner: str, sealed: bytes) -> list[Secret]:
    """Return what `seal` stored. Raises SetupError where another key sealed it."""
    return [
        Secret(text, parse_rfc3339(until) if until else None)
        for text, until in orjson.loads(sealer.open(sealed, owner))
    ]
