"""Messenger and Instagram messaging. Sources: Meta's "Webhook events" and "Webhooks for Instagram Messaging"."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from services.ingest.adapters import events
from services.ingest.adapters.base import Account, Delivery, Draft, Quarantined, RawRequest
from services.ingest.adapters.meta import Meta, not_understood
from services.ingest.adapters.payloads import Json, items, mapping, read_object, text, whole
from services.ingest.adapters.times import Told, told_ms, told_s

_EARLIEST_MS = 100_000_000_000
"""Fewer milliseconds than this lie before the network began (1973): they are seconds."""


class Messenger(Meta):
    """Messenger (`network` messenger) or Instagram; both speak the same way."""

    def __init__(self, network: str) -> None:
        self.network = network

    def parse(self, request: RawRequest, account: Account) -> Delivery:
        """Return the events of all entries, of `messaging` and of `standby` (another app has the thread)."""
        drafts: list[Draft] = []
        quarantined: list[Quarantined] = []
        body = read_object(request.body)
        for entry in map(mapping, items(body.get("entry"))):
            page = text(entry.get("id")) or account.account
            for lane in ("messaging", "standby"):
                for part in map(mapping, items(entry.get(lane))):
                    found = list(_Part(self.network, page, part).events())
                    drafts += found
                    if not found:
                        known = sorted(set(part) - {"sender", "recipient", "timestamp"})
                        quarantined.append(not_understood(f"an update of {', '.join(known)[:200] or 'nothing'}", part))
            for change in map(mapping, items(entry.get("changes"))):
                value = mapping(change.get("value"))
                # Instagram's console and its newer subscriptions send the same updates as changes of a field.
                said = list(_Part(self.network, page, value).events()) if mapping(value.get("sender")) else []
                drafts += said
                if not said:
                    field = text(change.get("field")) or "nothing"
                    quarantined.append(not_understood(f"a change of {field}"[:200], [page, dict(change)]))
        if not drafts and not quarantined:
            quarantined.append(not_understood("a delivery without entries", body))
        return Delivery(self.taken(account, ""), tuple(drafts), tuple(quarantined))


class _Part:
    """One update between a page and a person."""

    def __init__(self, network: str, page: str, part: Mapping[str, Json]) -> None:
        self.network, self.part = network, part
        message = mapping(part.get("message"))
        self.is_echo = message.get("is_echo") is True
        sender, recipient = (text(mapping(part.get(side)).get("id")) for side in ("sender", "recipient"))
        # Echoes swap the two; a read or reaction of ours does too.
        ours, theirs = (sender, recipient) if self.is_echo or sender == page else (recipient, sender)
        self.page = ours or page
        self.person = theirs
        self.by_us = self.is_echo or (sender is not None and sender == page)
        self.at = _time(part.get("timestamp"))

    def events(self) -> Iterator[Draft]:
        """Return the events of the update: by the key that is present."""
        for name, read in (
            ("message", self._message), ("message_edit", self._edit), ("reaction", self._reaction),
            ("postback", self._postback), ("read", self._read), ("delivery", self._delivery),
            ("optin", self._optin), ("referral", self._referral),
        ):  # fmt: skip
            if isinstance(self.part.get(name), dict):
                yield from read(mapping(self.part[name]))

    def _draft(self, kind: str, event_id: str, **facts: Any) -> Draft:
        actor = events.AGENT if self.by_us else events.CUSTOMER
        data = {
            "channel": self.network,
            "customer": events.customer(self.network, f"{self.page}/{self.person}" if self.person else None),
            "actor": actor,
            "thread": {"dm_thread": f"{self.network}:{self.page}/{self.person}"} if self.person else {},
            **facts,
        }
        return events.draft(kind, event_id, self.at, **data)

    def _message(self, message: Mapping[str, Json]) -> Iterator[Draft]:
        mid = text(message.get("mid"))
        if mid is None:
            return
        if message.get("is_deleted") is True:
            yield self._draft(events.DELETED, events.key(mid, "deleted"), refers_to=mid)
            return
        reply = mapping(message.get("reply_to"))
        yield self._draft(
            events.SENT if self.is_echo else events.RECEIVED,
            events.key(mid, "message"),
            message_id=mid,
            text=text(message.get("text")),
            attachments=[_attachment(mapping(file)) for file in items(message.get("attachments"))],
            in_reply_to=text(reply.get("mid")),
            story=reply.get("story"),
            quick_reply=message.get("quick_reply"),
            referral=message.get("referral"),
            app_id=text(message.get("app_id")),
            unsupported=True if message.get("is_unsupported") is True else None,
        )

    def _edit(self, edit: Mapping[str, Json]) -> Iterator[Draft]:
        mid = text(edit.get("mid"))
        if mid is not None:
            event_id = events.key(mid, "message_edit", whole(edit.get("num_edit")) or self.part.get("timestamp") or 1)
            yield self._draft(events.EDITED, event_id, refers_to=mid, text=text(edit.get("text")))

    def _reaction(self, reaction: Mapping[str, Json]) -> Iterator[Draft]:
        mid = text(reaction.get("mid"))
        if mid is not None:
            yield self._draft(
                events.REACTED,
                events.key(mid, "reaction", text(self.part.get("timestamp")) or text(reaction.get("action"))),
                refers_to=mid,
                emoji=text(reaction.get("emoji")),
                reaction=text(reaction.get("reaction")),
                removed=reaction.get("action") == "unreact",
            )

    def _postback(self, postback: Mapping[str, Json]) -> Iterator[Draft]:
        """A pressed button is the person's own word."""
        identity = text(postback.get("mid")) or f"{self.person}:{text(self.part.get('timestamp'))}"
        yield self._draft(
            events.RECEIVED,
            events.key(identity, "postback"),
            message_id=identity,
            text=text(postback.get("title")) or text(postback.get("payload")),
            button={"payload": text(postback.get("payload"))},
            referral=postback.get("referral"),
        )

    def _optin(self, optin: Mapping[str, Json]) -> Iterator[Draft]:
        """A person lets the page write to them, or takes that back."""
        if self.person is None:
            return
        stopped = text(optin.get("notification_messages_status")) == "STOP_NOTIFICATIONS"
        topic = text(optin.get("title")) or text(optin.get("type"))
        names = ("type", "payload", "ref", "title", "notification_messages_status")
        yield self._draft(
            events.UNSUBSCRIBED if stopped else events.SUBSCRIBED,
            events.key(self.person, "optin", text(self.part.get("timestamp")), topic),
            how="optin",
            optin={name: value for name in names if (value := text(optin.get(name)))},
        )

    def _referral(self, referral: Mapping[str, Json]) -> Iterator[Draft]:
        """A person came into the conversation by a link, a code or an advertisement."""
        if self.person is not None:
            identity = events.key(self.person, "referral", text(self.part.get("timestamp")))
            yield self._draft(events.ENTERED, identity, how="referral", referral=dict(referral))

    def _read(self, read: Mapping[str, Json]) -> Iterator[Draft]:
        """Messenger says up to when, Instagram which message."""
        mid, watermark = text(read.get("mid")), whole(read.get("watermark"))
        identity = mid or (f"{self.person}:{watermark}" if watermark is not None else None)
        if identity is not None:
            yield self._draft(
                events.STATUS,
                events.key(identity, "read"),
                refers_to=mid or identity,
                status="read",
                watermark=watermark,
                actor=events.AUTOMATED,
            )

    def _delivery(self, delivery: Mapping[str, Json]) -> Iterator[Draft]:
        watermark = whole(delivery.get("watermark"))
        mids = [mid for mid in map(text, items(delivery.get("mids"))) if mid]
        for mid in mids or ([f"{self.person}:{watermark}"] if watermark is not None else []):
            yield self._draft(
                events.STATUS,
                events.key(mid, "delivery"),
                refers_to=mid,
                status="delivered",
                watermark=watermark,
                actor=events.AUTOMATED,
            )


def _time(value: Json) -> Told:
    """Milliseconds; the console's samples of changes are in seconds."""
    stamp = whole(value)
    return told_s(value) if stamp is not None and stamp < _EARLIEST_MS else told_ms(value)


def _attachment(file: Mapping[str, Json]) -> dict[str, Any]:
    payload = mapping(file.get("payload"))
    return events.attachment(
        text(payload.get("url")),
        None,
        text(payload.get("title")) or text(file.get("title")),
        kind=text(file.get("type")),
        sticker_id=text(payload.get("sticker_id")),
        expires=True if payload.get("url") else None,
    )
