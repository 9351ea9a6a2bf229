"""WhatsApp Cloud API. Sources: Meta's "Webhooks overview" and payload reference; payloads in pywa's tests."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from services.ingest.adapters import events
from services.ingest.adapters.base import Account, Delivery, Draft, Quarantined, RawRequest
from services.ingest.adapters.meta import Meta, not_understood
from services.ingest.adapters.payloads import Json, items, mapping, read_object, text, without_nothing
from services.ingest.adapters.times import told_s

_MEDIA = ("image", "video", "audio", "document", "sticker")
_SPOKEN = frozenset(
    {"text", "location", "contacts", "interactive", "button", "order", "unsupported", "request_welcome", *_MEDIA}
)
_STATUSES = frozenset({"sent", "delivered", "read", "played", "failed", "deleted", "warning", "pending"})


class WhatsAppCloud(Meta):
    """One WhatsApp Business account; up to a thousand updates in one delivery."""

    def parse(self, request: RawRequest, account: Account) -> Delivery:
        """Return the events of all entries and changes."""
        drafts: list[Draft] = []
        quarantined: list[Quarantined] = []
        body = read_object(request.body)
        for entry in items(body.get("entry")):
            for change in items(mapping(entry).get("changes")):
                for part in _change(mapping(change), account):
                    (drafts if isinstance(part, Draft) else quarantined).append(part)  # type: ignore[arg-type]
        if not drafts and not quarantined:
            quarantined.append(not_understood("a delivery without changes", body))
        return Delivery(self.taken(account, ""), tuple(drafts), tuple(quarantined))


def _change(change: Mapping[str, Json], account: Account) -> Iterator[Draft | Quarantined]:
    field, value = text(change.get("field")) or "", mapping(change.get("value"))
    found = False
    for name, read in _READ_BY.items():
        for part in items(value.get(name)):
            found = True
            try:
                yield read(mapping(part), value, account)
            except _NotUnderstood as error:
                yield not_understood(str(error), part)
    if not found:
        yield not_understood(f"a change of field {field[:80]!r}", change)


class _NotUnderstood(Exception):
    pass


def _id(part: Mapping[str, Json]) -> str:
    found = text(part.get("id"))
    if found is None:
        raise _NotUnderstood("a part without id")
    return found


def _person(number: str | None, user_id: str | None, name: str | None, account: Account) -> dict[str, Any]:
    """A user who hides the number is known by the user id; one who shows both is the same person."""
    handles = []
    if number:
        handles.append({"kind": "phone", "value": "+" + number.lstrip("+"), "verified": True})
    if user_id:
        handles.append({"kind": "whatsapp", "value": f"{account.account}/{user_id}", "verified": True})
    return without_nothing({"handles": handles, "name": name})


def _ours(value: Mapping[str, Json], account: Account) -> str:
    return text(mapping(value.get("metadata")).get("phone_number_id")) or account.account


def _thread(ours: str, theirs: str | None) -> dict[str, str]:
    return {"dm_thread": f"whatsapp:{ours}/{theirs}"} if theirs else {}


def _group(part: Mapping[str, Json]) -> str | None:
    group = text(part.get("group_id"))
    return f"group/{group}" if group else None


def _sender(part: Mapping[str, Json], value: Mapping[str, Json], account: Account) -> tuple[dict[str, Any], str | None]:
    """Return (customer, what names the thread)."""
    number, user_id = text(part.get("from")), text(part.get("from_user_id")) or text(part.get("user_id"))
    contacts = [mapping(contact) for contact in items(value.get("contacts"))]
    same = (one for one in contacts if number and text(one.get("wa_id")) == number)
    # A contact of another number is somebody else's.
    sole = contacts[0] if len(contacts) == 1 and not (number and text(contacts[0].get("wa_id"))) else {}
    contact: Mapping[str, Json] = next(same, sole)
    number = number or text(contact.get("wa_id"))
    user_id = user_id or text(contact.get("user_id"))
    name = text(mapping(contact.get("profile")).get("name"))
    return _person(number, user_id, name, account), number or user_id


def _message(part: Mapping[str, Json], value: Mapping[str, Json], account: Account) -> Draft | Quarantined:
    identity, kind = _id(part), text(part.get("type")) or ""
    person, who = _sender(part, value, account)
    at = told_s(part.get("timestamp"))
    common: dict[str, Any] = {
        "channel": "whatsapp",
        "customer": person,
        "actor": events.CUSTOMER,
        "thread": _thread(_ours(value, account), _group(part) or who),
    }
    body = mapping(part.get(kind))
    if kind == "reaction":
        return events.draft(
            events.REACTED, identity, at, **common, refers_to=text(body.get("message_id")), emoji=body.get("emoji"),
            removed=not body.get("emoji"),
        )  # fmt: skip
    if kind in ("edit", "revoke"):
        edited = mapping(body.get("message"))
        return events.draft(
            events.EDITED if kind == "edit" else events.DELETED, identity, at, **common,
            refers_to=text(body.get("original_message_id")), **(_said(edited) if kind == "edit" else {}),
        )  # fmt: skip
    if kind == "system":
        return _system(identity, at, common, body, account)
    if kind not in _SPOKEN:
        raise _NotUnderstood(f"a message of type {kind[:80]!r}")
    context = mapping(part.get("context"))
    facts = {
        "in_reply_to": text(context.get("id")),
        "forwarded": context.get("forwarded") or context.get("frequently_forwarded"),
        "referral": part.get("referral"),
        "errors": part.get("errors"),
        "unsupported": True if kind == "unsupported" else None,
    }
    return events.draft(events.RECEIVED, identity, at, **common, message_id=identity, **_said(part), **facts)


def _said(part: Mapping[str, Json]) -> dict[str, Any]:
    """Return text, attachments and whatever else a message says."""
    kind = text(part.get("type")) or ""
    body = mapping(part.get(kind))
    if kind == "text":
        return {"text": text(body.get("body"))}
    if kind in _MEDIA:
        file = events.attachment(
            text(body.get("url")), text(body.get("mime_type")), text(body.get("filename")),
            media_id=text(body.get("id")), sha256=text(body.get("sha256")), kind=kind,
        )  # fmt: skip
        return {"text": text(body.get("caption")), "attachments": [file]}
    if kind == "button":
        return {"text": text(body.get("text")), "button": {"payload": text(body.get("payload"))}}
    if kind == "interactive":
        reply = next((mapping(body[name]) for name in ("button_reply", "list_reply", "nfm_reply") if name in body), {})
        return {"text": text(reply.get("title")) or text(reply.get("body")), "interactive": dict(body)}
    if kind == "order":
        return {"text": text(body.get("text")), "order": dict(body)}
    if kind == "contacts":
        return {"contacts": items(part.get("contacts"))}
    return {kind: dict(body)} if kind == "location" else {}


def _system(identity: str, at: Any, common: dict[str, Any], body: Mapping[str, Json], account: Account) -> Draft:
    """A number change says that two numbers are one person; any other notice is kept as a status."""
    new = text(body.get("wa_id")) or text(body.get("new_wa_id"))
    if new:
        handles = [
            *common["customer"].get("handles", []),
            {"kind": "phone", "value": "+" + new.lstrip("+"), "verified": True},
        ]
        data = {
            **common,
            "customer": {**common["customer"], "handles": handles},
            "thread": {},
            "actor": events.AUTOMATED,
        }
        return events.draft(
            "threadline.customer.identified", identity, at, **data, text=text(body.get("body")), reason="number changed"
        )
    data = {**common, "actor": events.AUTOMATED}
    return events.draft(
        events.STATUS, identity, at, **data, refers_to=identity, status=text(body.get("type")) or "system"
    )


def _status(part: Mapping[str, Json], value: Mapping[str, Json], account: Account) -> Draft | Quarantined:
    identity, status = _id(part), text(part.get("status")) or ""
    if status not in _STATUSES:
        raise _NotUnderstood(f"a status {status[:80]!r}")
    to_group = part.get("recipient_type") == "group"
    recipient = text(part.get("recipient_id"))
    number, user_id = None if to_group else recipient, text(part.get("recipient_user_id"))
    return events.draft(
        events.STATUS,
        events.key(identity, status),
        told_s(part.get("timestamp")),
        channel="whatsapp",
        customer=_person(number, user_id, None, account),
        actor=events.AUTOMATED,
        thread=_thread(_ours(value, account), f"group/{recipient}" if to_group else number or user_id),
        refers_to=identity,
        status=status,
        errors=items(part.get("errors")),
        pricing=part.get("pricing"),
        billing_conversation=part.get("conversation"),
    )


def _preference(part: Mapping[str, Json], value: Mapping[str, Json], account: Account) -> Draft | Quarantined:
    """A person stops or resumes what one sends them of one's own accord. It has no id of its own."""
    number, user_id = text(part.get("wa_id")), text(part.get("user_id"))
    wish, who = text(part.get("value")) or "", number or user_id
    kind = {"stop": events.UNSUBSCRIBED, "resume": events.SUBSCRIBED}.get(wish)
    if kind is None or who is None:
        raise _NotUnderstood(f"a preference {wish[:80]!r}")
    category, stamp = text(part.get("category")), part.get("timestamp")
    return events.draft(
        kind, events.key(who, category, wish, text(stamp)), told_s(stamp), channel="whatsapp",
        customer=_person(number, user_id, None, account), actor=events.CUSTOMER,
        thread=_thread(_ours(value, account), who), how=wish, about=category,
    )  # fmt: skip


def _echo(part: Mapping[str, Json], value: Mapping[str, Json], account: Account) -> Draft | Quarantined:
    """What our staff wrote in the WhatsApp Business app."""
    identity, number = _id(part), text(part.get("to"))
    kind = text(part.get("type")) or ""
    body = mapping(part.get(kind))
    at = told_s(part.get("timestamp"))
    common: dict[str, Any] = {
        "channel": "whatsapp",
        "customer": _person(number, text(part.get("to_user_id")), None, account),
        "actor": events.AGENT,
        "thread": _thread(_ours(value, account), number),
    }
    if kind in ("edit", "revoke"):
        return events.draft(
            events.EDITED if kind == "edit" else events.DELETED, identity, at, **common,
            refers_to=text(body.get("original_message_id")),
            **(_said(mapping(body.get("message"))) if kind == "edit" else {}),
        )  # fmt: skip
    if kind == "reaction":
        emoji = body.get("emoji")
        facts = {"refers_to": text(body.get("message_id")), "emoji": emoji, "removed": not emoji}
        return events.draft(events.REACTED, identity, at, **common, **facts)
    context = mapping(part.get("context"))
    return events.draft(
        events.SENT, identity, at, **common, message_id=identity, **_said(part), in_reply_to=text(context.get("id"))
    )


_READ_BY = {"messages": _message, "statuses": _status, "message_echoes": _echo, "user_preferences": _preference}
"""What a change may hold, by the field of its value."""
