"""LINE Messaging API. Sources: LINE's Messaging API reference; event types as in line-bot-sdk-python."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from services.ingest.adapters import events
from services.ingest.adapters.base import Account, Delivery, Draft, Plain, Quarantined, RawRequest, part_key
from services.ingest.adapters.payloads import Json, items, mapping, read_object, text, whole
from services.ingest.adapters.signatures import base64_digest, hmac_sha256, require_header, require_match
from services.ingest.adapters.times import told_ms

_COMINGS_AND_GOINGS = {"follow": events.SUBSCRIBED, "unfollow": events.UNSUBSCRIBED}
_MEMBERS = {"memberJoined": ("joined", events.ENTERED), "memberLeft": ("left", events.LEFT)}
_FILES = frozenset({"image", "video", "audio", "file"})


class Line(Plain):
    """One LINE channel."""

    def verify(self, request: RawRequest, account: Account) -> None:
        """HMAC-SHA256 of the raw body with the channel secret, in base64."""
        given = base64_digest(require_header(request, "x-line-signature"))
        require_match(given, account, lambda secret: hmac_sha256(secret, request.body))

    def parse(self, request: RawRequest, account: Account) -> Delivery:
        """Return the events of the batch. The console's Verify button sends an empty one."""
        body = read_object(request.body)
        destination = text(body.get("destination")) or account.account
        drafts: list[Draft] = []
        quarantined: list[Quarantined] = []
        for part in map(mapping, items(body.get("events"))):
            members = _members(part, destination)
            drafts += members
            if not members:
                found = _event(part, destination)
                (drafts if isinstance(found, Draft) else quarantined).append(found)  # type: ignore[arg-type]
        return Delivery(self.taken(account, ""), tuple(drafts), tuple(quarantined))


def _members(part: Mapping[str, Json], destination: str) -> list[Draft]:
    """Return one event for each person who came into a group or room, or left it."""
    field, kind = _MEMBERS.get(text(part.get("type")) or "", ("", ""))
    event_id, source = text(part.get("webhookEventId")), mapping(part.get("source"))
    room = text(source.get("groupId")) or text(source.get("roomId"))
    members = map(mapping, items(mapping(part.get(field)).get("members")))
    users = [user for one in members if (user := text(one.get("userId")))]
    if event_id is None or room is None:
        return []
    return [
        events.draft(
            kind, events.key(event_id, user), told_ms(part.get("timestamp")), channel="line",
            customer=events.customer("line", f"{destination}/{user}"), actor=events.CUSTOMER,
            thread={"dm_thread": f"line:{destination}/{room}"}, how=field,
        )
        for user in users
    ]  # fmt: skip


def _event(part: Mapping[str, Json], destination: str) -> Draft | Quarantined:
    kind = text(part.get("type")) or ""
    event_id = text(part.get("webhookEventId"))
    if event_id is None:
        return Quarantined(f"an event of type {kind[:80]!r} without webhookEventId", part_key(dict(part)))
    source = mapping(part.get("source"))
    user = text(source.get("userId"))
    room = text(source.get("groupId")) or text(source.get("roomId")) or user
    message = mapping(part.get("message"))
    message_id = text(message.get("id"))
    data: dict[str, Any] = {
        "channel": "line",
        # In groups and rooms the sender may be unknown.
        "customer": events.customer("line", f"{destination}/{user}" if user else None),
        "actor": events.CUSTOMER,
        "thread": {"dm_thread": f"line:{destination}/{room}"} if room else {},
        "standby": True if part.get("mode") == "standby" else None,
    }
    at = told_ms(part.get("timestamp"))
    if kind == "message" and message_id:
        facts = {"message_id": message_id, "in_reply_to": text(message.get("quotedMessageId"))}
        return events.draft(events.RECEIVED, event_id, at, **data, **facts, **_said(message))
    if kind == "messageEdited" and message_id:
        return events.draft(events.EDITED, event_id, at, **data, refers_to=message_id, **_said(message))
    unsent = text(mapping(part.get("unsend")).get("messageId"))
    if kind == "unsend" and unsent:
        return events.draft(events.DELETED, event_id, at, **data, refers_to=unsent)
    postback = mapping(part.get("postback"))
    if kind == "postback" and postback:
        # A pressed button is the person's own word.
        said = {"text": text(postback.get("data")), "button": {"payload": text(postback.get("data"))}}
        return events.draft(
            events.RECEIVED, event_id, at, **data, message_id=event_id, params=postback.get("params"), **said
        )
    if kind in _COMINGS_AND_GOINGS and user:
        again = True if mapping(part.get("follow")).get("isUnblocked") is True else None
        return events.draft(_COMINGS_AND_GOINGS[kind], event_id, at, **data, how=kind, unblocked=again)
    delivered = text(mapping(part.get("delivery")).get("data"))
    if kind == "delivery" and delivered:
        data["actor"] = events.AUTOMATED
        return events.draft(events.STATUS, event_id, at, **data, refers_to=delivered, status="delivered")
    return Quarantined(f"an event of type {kind[:80]!r} is not understood", event_id)


def _said(message: Mapping[str, Json]) -> dict[str, Any]:
    kind = text(message.get("type")) or ""
    if kind in _FILES:
        provider = mapping(message.get("contentProvider"))
        file = events.attachment(
            text(provider.get("originalContentUrl")), None, text(message.get("fileName")),
            whole(message.get("fileSize")),
            content_id=text(message.get("id")), kind=kind, duration_ms=whole(message.get("duration")),
        )  # fmt: skip
        return {"attachments": [file]}
    if kind == "sticker":
        sticker = {name: text(message.get(name)) for name in ("packageId", "stickerId", "text")}
        return {"sticker": {name: value for name, value in sticker.items() if value}, "text": text(message.get("text"))}
    if kind == "location":
        return {"location": {name: message.get(name) for name in ("title", "address", "latitude", "longitude")}}
    return {"text": text(message.get("text"))}
