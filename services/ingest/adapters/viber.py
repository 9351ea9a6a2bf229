"""Viber bots. Source: Viber's REST Bot API; signature as in viber-bot-python."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from services.ingest.adapters import events
from services.ingest.adapters.base import Account, Delivery, Draft, Plain, Quarantined, RawRequest
from services.ingest.adapters.payloads import Json, mapping, read_object, required, text, whole
from services.ingest.adapters.signatures import hex_digest, hmac_sha256, require_header, require_match
from services.ingest.adapters.times import told_ms

_COMINGS_AND_GOINGS = {
    "subscribed": events.SUBSCRIBED, "unsubscribed": events.UNSUBSCRIBED, "conversation_started": events.ENTERED,
}  # fmt: skip
_STATUSES = {"delivered": "delivered", "seen": "read", "failed": "failed"}


class Viber(Plain):
    """One Viber bot; `secrets` are its auth token."""

    def verify(self, request: RawRequest, account: Account) -> None:
        """HMAC-SHA256 of the raw body with the auth token, in hex."""
        given = hex_digest(require_header(request, "x-viber-content-signature"))
        require_match(given, account, lambda secret: hmac_sha256(secret, request.body))

    def parse(self, request: RawRequest, account: Account) -> Delivery:
        """Return the event of the one callback; `webhook` only says that the URL was set."""
        body = read_object(request.body)
        kind = text(body.get("event")) or ""
        if kind == "webhook":
            return Delivery(self.taken(account, ""))
        event_id = events.key(required(body.get("message_token"), "message_token"), kind)
        found = _event(kind, event_id, body, account)
        if found is None:
            part = Quarantined(f"an event of kind {kind[:80]!r} is not understood", event_id)
            return Delivery(self.taken(account, event_id), quarantined=(part,))
        return Delivery(self.taken(account, event_id), (found,))


def _event(kind: str, event_id: str, body: Mapping[str, Json], account: Account) -> Draft | None:
    at, token = told_ms(body.get("timestamp")), text(body.get("message_token"))
    sender = mapping(body.get("sender")) or mapping(body.get("user"))
    user = text(sender.get("id")) or text(body.get("user_id"))
    data: dict[str, Any] = {
        "channel": "viber",
        "customer": events.customer("viber", f"{account.account}/{user}" if user else None, text(sender.get("name"))),
        "thread": {"dm_thread": f"viber:{account.account}/{user}"} if user else {},
    }
    if kind == "message":
        message = mapping(body.get("message"))
        return events.draft(
            events.RECEIVED, event_id, at, **data, actor=events.CUSTOMER, message_id=token,
            language=text(sender.get("language")), tracking_data=text(message.get("tracking_data")), **_said(message),
        )  # fmt: skip
    if kind in _STATUSES:
        return events.draft(
            events.STATUS, event_id, at, **data, actor=events.AUTOMATED, refers_to=token, status=_STATUSES[kind],
            error=text(body.get("desc")),
        )  # fmt: skip
    if kind in _COMINGS_AND_GOINGS and user:
        return events.draft(
            _COMINGS_AND_GOINGS[kind], event_id, at, **data, actor=events.CUSTOMER, how=kind,
            language=text(sender.get("language")), context=text(body.get("context")),
        )  # fmt: skip
    return None


def _said(message: Mapping[str, Json]) -> dict[str, Any]:
    kind = text(message.get("type")) or ""
    words: dict[str, Any] = {"text": text(message.get("text"))}
    if kind in ("picture", "video", "file", "url", "sticker"):
        media = text(message.get("media"))
        file = events.attachment(
            media, {"picture": "image/jpeg"}.get(kind), text(message.get("file_name")), whole(message.get("size")),
            kind=kind, sticker_id=text(message.get("sticker_id")),
        )  # fmt: skip
        words["attachments"] = [file]
    elif kind in ("location", "contact"):
        words[kind] = dict(mapping(message.get(kind)))
    return words
