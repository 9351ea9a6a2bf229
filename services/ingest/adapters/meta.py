"""What WhatsApp Cloud, Messenger and Instagram share: handshake, signature, one key per part of a batch.

Source: Meta's Graph API Webhooks, "Getting started". The body is signed as sent (escaped unicode): bytes count.
"""

from __future__ import annotations

import hmac
from typing import Any
from urllib.parse import parse_qs

from services.ingest.adapters.base import TEXT, Account, Answer, Forged, Quarantined, RawRequest, part_key
from services.ingest.adapters.signatures import hex_digest, hmac_sha256, require_match, require_sha256


def query_of(request: RawRequest) -> dict[str, str]:
    """Return the query's parameters, of repeated ones the first."""
    pairs = parse_qs(request.query[:8_192], keep_blank_values=True, errors="replace", max_num_fields=100)
    return {name: values[0] for name, values in pairs.items()}


class Meta:
    """Handshake and proof of all of Meta's products."""

    def handshake(self, request: RawRequest, account: Account) -> Answer | None:
        """Return the challenge as plain text where the verify token is ours. Raises Forged (403)."""
        if request.method.upper() != "GET":
            return None
        try:
            query = query_of(request)
        except ValueError as error:
            raise Forged(403, "the query has too many parameters") from error
        expected = account.options.get("verify_token")
        given = query.get("hub.verify_token", "")
        if query.get("hub.mode") != "subscribe" or not isinstance(expected, str) or not expected:
            raise Forged(403, "this is no subscription, or the channel has no options.verify_token")
        if not hmac.compare_digest(given.encode("utf-8", "replace"), expected.encode()):
            raise Forged(403, "the verify token is not this channel's")
        challenge = query.get("hub.challenge", "").encode("utf-8", "replace")
        return Answer(200, challenge, (("content-type", TEXT), ("x-content-type-options", "nosniff")))

    def verify(self, request: RawRequest, account: Account) -> None:
        """HMAC-SHA256 of the raw body with the app secret; the old SHA-1 header is not looked at."""
        digest = require_sha256(request, "x-hub-signature-256")
        require_match(hex_digest(digest), account, lambda secret: hmac_sha256(secret, request.body))

    def taken(self, account: Account, key: str) -> Answer:
        """Exactly 200, or all of it comes again."""
        return Answer(200, b"EVENT_RECEIVED", (("content-type", TEXT),))


def not_understood(what: str, part: Any) -> Quarantined:
    """Return the quarantine of one part of a batch."""
    return Quarantined(f"{what} is not understood", part_key(part))
