"""Mail → event, for every way in which mail reaches us (raw, SendGrid, Mailgun, Postmark, imported)."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from services.ingest.adapters.base import Account, Draft, body_key
from services.ingest.adapters.payloads import without_nothing
from services.ingest.adapters.times import from_rfc2822
from services.ingest.mail import addresses, threading
from services.ingest.mail.automatic import is_automatic, telling_headers
from services.ingest.mail.message import Attachment, Mail
from services.ingest.mail.tickets import ticket_of
from shared.plaintext import html_to_text

_OLDEST = datetime(1970, 1, 2, tzinfo=UTC)
"""An older Date is a clock that was never set."""

_LONGEST_DATE = 128
_MOST_ADDRESSES = 50
_DELIVERED = ("delivered-to", "x-original-to", "envelope-to")
"""Headers in which the receiving server writes down the address that it took the mail for."""
_ANY_DELIVERED = frozenset(_DELIVERED)


def mail_id(mail: Mail, body: bytes) -> str:
    """Return the event id of a mail: its one msg-id without brackets, else the hash of the bytes that it came in."""
    return threading.own_id(mail.headers) or body_key(body)


def mail_event(mail: Mail, account: Account, event_id: str, facts: dict[str, Any] | None = None) -> Draft:
    """Return the event of one mail.

    A mail from one of the account's own addresses to somebody else is an echo (`message.sent`) on the timeline of its
    first outside recipient; it is automatic, unless `options.own_mail` is "agent": then a person of ours wrote it.
    `facts` are further fields of the data (envelope, verdicts).
    """
    headers, own = mail.headers, _plain_ones(account.own_addresses)
    sender = _first(headers.get("from"))
    to = addresses.read(", ".join(headers.get_all("to"))) if "to" in headers else []
    cc = addresses.read(", ".join(headers.get_all("cc"))) if "cc" in headers else []
    is_own = bool(own) and sender is not None and _plain(sender.address) in own
    outside = next((one for one in (*to, *cc) if _plain(one.address) not in own), None) if is_own else None
    # One handle only: two in one event would say that two recipients are one person.
    counterpart = outside if is_own else sender
    sent = outside is not None
    automatic = is_automatic(mail, account.options.get("own_lists") or ())
    date = headers.get("date")
    reply_to = _first(headers.get("reply-to"))
    data = {
        "channel": "email",
        "customer": _customer(counterpart),
        "actor": _actor(account, sender, automatic, is_own),
        "message_id": _bracketed(threading.own_id(headers)),
        "thread": _thread(mail, account, [one.address for one in (*to, *cc)], facts),
        "headers": _headers(mail, automatic),
        "subject": headers.text("subject"),
        "text": mail.text.replace("\r\n", "\n") if mail.text is not None else html_to_text(mail.html or ""),
        "html": mail.html,
        "attachments": [_attachment(attachment) for attachment in mail.attachments],
        "to": [one.address for one in to[:_MOST_ADDRESSES]],
        "cc": [one.address for one in cc[:_MOST_ADDRESSES]],
        "reply_to": reply_to.address if reply_to is not None else None,
        "report": _report(mail),
        "provider_time": date if date is not None and len(date) <= _LONGEST_DATE else None,
        **(facts or {}),
    }
    kind = "threadline.message.sent" if sent else "threadline.message.received"
    contents = tuple([attachment.content for attachment in mail.attachments])
    return Draft(event_id, kind, sent_at(mail), without_nothing(data), contents=contents)


def sent_at(mail: Mail) -> datetime | None:
    """Return the Date of a mail, or None where there is no usable one."""
    at = from_rfc2822(mail.headers.get("date"))
    return at if at is not None and at >= _OLDEST else None


def _first(value: str | None) -> addresses.Address | None:
    return next(iter(addresses.read(value)), None) if value else None


def _plain(address: str) -> str:
    local, _, domain = address.strip().lower().rpartition("@")
    return f"{local.partition('+')[0]}@{domain}"


@lru_cache(maxsize=1024)
def _plain_ones(addresses: tuple[str, ...]) -> frozenset[str]:
    return frozenset(_plain(address) for address in addresses)


def _customer(counterpart: addresses.Address | None) -> dict[str, Any]:
    if counterpart is None:
        return {}
    handle = {"kind": "email", "value": counterpart.address, "verified": False}
    return without_nothing({"handles": [handle], "name": counterpart.name})


def _actor(account: Account, sender: addresses.Address | None, automatic: bool, is_own: bool) -> dict[str, Any]:
    if automatic:
        return {"type": "automated"}
    if not is_own:
        return {"type": "customer"}
    if account.options.get("own_mail") != "agent" or sender is None:
        return {"type": "automated"}
    return without_nothing({"type": "agent", "id": sender.address, "name": sender.name})


def _headers(mail: Mail, automatic: bool) -> dict[str, str]:
    if automatic:
        return telling_headers(mail)
    # The marks of the account's own list would make people's mail look automatic further on.
    sender = mail.headers.get("return-path")
    return {"Return-Path": sender[:1_000]} if sender is not None else {}


def _thread(mail: Mail, account: Account, written_to: list[str], facts: dict[str, Any] | None) -> dict[str, Any]:
    headers = mail.headers
    envelope = ((facts or {}).get("envelope") or {}).get("to") or ()
    delivered: list[str] = []
    if headers.has_any(_ANY_DELIVERED):
        delivered = [value for name in _DELIVERED for value in headers.get_all(name)]
    secret = account.options.get("ticket_secret")
    secrets = [secret] if isinstance(secret, str) and secret else account.secrets
    return without_nothing(
        {
            "in_reply_to": threading.in_reply_to(headers),
            "references": threading.references(headers),
            "original_message_id": threading.original_message_id(mail),
            "ticket": ticket_of([*envelope, *delivered, *written_to][:_MOST_ADDRESSES], secrets),
        }
    )


def _bracketed(own: str | None) -> str | None:
    return f"<{own}>" if own else None


def _attachment(attachment: Attachment) -> dict[str, Any]:
    return without_nothing(
        {
            "name": attachment.name,
            "media_type": attachment.media_type,
            "size_bytes": attachment.size_bytes,
            "sha256": attachment.sha256,
            "content_id": attachment.content_id,
            "part": attachment.part,
        }
    )


def _report(mail: Mail) -> list[dict[str, Any]]:
    """Return what a delivery report says of each recipient (RFC 3464)."""
    return [
        without_nothing(
            {
                "recipient": (block.get("final-recipient") or "").rpartition(";")[2].strip(),
                "action": (block.get("action") or "").strip().lower(),
                "status": (block.get("status") or "").strip(),
                "diagnostic": (block.get("diagnostic-code") or "")[:1_000],
            }
        )
        for block in mail.report
        if block.get("final-recipient") or block.get("action")
    ]
