"""Proofs that a request is genuine: constant time, every active secret tried, no early way out."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta

from services.ingest.adapters.base import Account, Forged, Malformed, RawRequest

_WHOLE = re.compile(r"[0-9]{1,17}", re.ASCII)


def hmac_sha256(secret: str | bytes, message: bytes) -> bytes:
    """Return HMAC-SHA256 of `message`."""
    return hmac.digest(_bytes(secret), message, hashlib.sha256)


def hmac_sha1(secret: str | bytes, message: bytes) -> bytes:
    """Return HMAC-SHA1 of `message`."""
    return hmac.digest(_bytes(secret), message, hashlib.sha1)


def _bytes(secret: str | bytes) -> bytes:
    return secret.encode("utf-8", "surrogateescape") if isinstance(secret, str) else secret


def matches(given: bytes, candidates: Iterable[bytes]) -> bool:
    """Tell whether `given` equals one of `candidates`; all are compared, each in constant time."""
    found = False
    for candidate in candidates:
        found |= hmac.compare_digest(given, candidate)
    return found


def require_header(request: RawRequest, name: str) -> str:
    """Return the header that carries the proof. Raises Forged (401) where it is missing or given twice differently."""
    values = request.headers.get_all(name)
    if len(values) != 1 and len(set(values)) != 1:
        raise Forged(401, f"the header {name} is missing" if not values else f"the header {name} is given twice")
    value = values[0].strip()
    if not value:
        raise Forged(401, f"the header {name} is empty")
    return value


def require_sha256(request: RawRequest, name: str) -> str:
    """Return the digest in the header `name`, written `sha256=<digest>`. Raises Forged (401, 403)."""
    scheme, _, digest = require_header(request, name).partition("=")
    if scheme != "sha256":
        raise Forged(403, "the signature is not sha256=…")
    return digest


def require_match(given: bytes, account: Account, sign: Callable[[str], bytes]) -> None:
    """Return only where `given` is what one of the account's secrets signs. Raises Forged (403)."""
    if not matches(given, [sign(secret) for secret in account.secrets]):
        raise Forged(403, "the signature is not one of this account's")


def hex_digest(text: str) -> bytes:
    """Read a hex signature. Raises Forged (403) where it is none."""
    try:
        return bytes.fromhex(text) if text.isascii() else b""
    except ValueError as error:
        raise Forged(403, "the signature is not hexadecimal") from error


def base64_digest(text: str) -> bytes:
    """Read a base64 signature. Raises Forged (403) where it is none."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise Forged(403, "the signature is not base64") from error


def require_fresh(text: str, received_at: datetime, window: timedelta) -> str:
    """Return the Unix-seconds timestamp that a signature covers, where it lies within `window` of receipt.

    Raises Malformed (400) where it is no whole number of seconds, Forged (403) where it is stale or ahead.
    """
    text = text.strip()
    if not _WHOLE.fullmatch(text):
        raise Malformed(400, "the timestamp is not a whole number of seconds")
    if abs(int(text) - received_at.timestamp()) > window.total_seconds():
        raise Forged(403, "the timestamp is too old or too far ahead")
    return text


def basic_credentials(request: RawRequest) -> tuple[str, str]:
    """Return (user, password) of HTTP Basic. Raises Forged (401) with the challenge where there are none."""
    scheme, _, encoded = (request.headers.get("authorization") or "").strip().partition(" ")
    if scheme.lower() != "basic":
        raise _challenge("HTTP Basic credentials are missing")
    try:
        user, colon, password = base64.b64decode(encoded.strip(), validate=True).decode().partition(":")
    except (binascii.Error, ValueError) as error:
        raise _challenge("the HTTP Basic credentials cannot be read") from error
    if not colon:
        raise _challenge("the HTTP Basic credentials have no password")
    return user, password


def require_basic(request: RawRequest, account: Account) -> None:
    """Return only where HTTP Basic names an active secret, given as `user:pass` or as a bare password.

    Raises Forged (401).
    """
    user, password = basic_credentials(request)
    whole, bare = f"{user}:{password}".encode(), password.encode()
    pairs = [secret.encode("utf-8", "surrogateescape") for secret in account.secrets if ":" in secret]
    words = [secret.encode("utf-8", "surrogateescape") for secret in account.secrets if ":" not in secret]
    if not (matches(whole, pairs) | matches(bare, words)):
        raise _challenge("the HTTP Basic credentials are not this account's")


def require_password(request: RawRequest, account: Account) -> None:
    """Return only where the HTTP Basic password is an active secret, whatever the user. Raises Forged (401)."""
    _, password = basic_credentials(request)
    if not matches(password.encode(), [secret.encode("utf-8", "surrogateescape") for secret in account.secrets]):
        raise _challenge("the HTTP Basic password is not this account's")


def _challenge(detail: str) -> Forged:
    return Forged(401, detail, (("www-authenticate", 'Basic realm="threadline", charset="UTF-8"'),))
