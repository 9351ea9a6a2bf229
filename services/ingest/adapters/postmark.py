"""Postmark: inbound mail and the fate of mail that was sent. Source: Postmark's inbound and webhook documentation;
shapes as seen in anymail's tests. Nothing is signed: HTTP Basic in the URL is the proof. A 403 would stop the retries,
so a forged delivery is answered 401.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from typing import Any

from services.ingest.adapters import events
from services.ingest.adapters.base import Account, Delivery, Draft, Plain, Quarantined, RawRequest
from services.ingest.adapters.mail_event import mail_event
from services.ingest.adapters.payloads import Json, items, mapping, read_object, required, text, whole, without_nothing
from services.ingest.adapters.signatures import require_basic
from services.ingest.adapters.times import told_iso
from services.ingest.mail.message import Attachment, Headers, Mail, read
from services.ingest.mail.words import base64_bytes

_TIMES = {
    "Delivery": "DeliveredAt",
    "Bounce": "BouncedAt",
    "SpamComplaint": "BouncedAt",
    "Open": "ReceivedAt",
    "Click": "ReceivedAt",
    "SubscriptionChange": "ChangedAt",
}
_REPEATED = frozenset({"Open", "Click", "SubscriptionChange"})


class Postmark(Plain):
    """One Postmark server."""

    def verify(self, request: RawRequest, account: Account) -> None:
        """HTTP Basic; `secrets` are `user:pass`."""
        require_basic(request, account)

    def parse(self, request: RawRequest, account: Account) -> Delivery:
        """Return the mail, or the status of one that was sent."""
        body = read_object(request.body)
        message_id = required(body.get("MessageID"), "MessageID")
        record = text(body.get("RecordType")) or "Inbound"
        answer = self.taken(account, message_id)
        if record != "Inbound":
            found = _status(record, message_id, body)
            if isinstance(found, Quarantined):
                return Delivery(answer, quarantined=(found,))
            return Delivery(answer, (found,))
        mail = _mail(body)
        facts = {
            "envelope": without_nothing({"to": [to] if (to := text(body.get("OriginalRecipient"))) else []}),
            "mailbox_hash": text(body.get("MailboxHash")),
        }
        return Delivery(answer, (mail_event(mail, account, message_id, without_nothing(facts)),))


def _mail(body: Mapping[str, Json]) -> Mail:
    raw = text(body.get("RawEmail"))
    if raw is not None:
        return read(raw.encode("utf-8", "replace"))
    pairs = [
        (name.strip().lower(), value)
        for header in map(mapping, items(body.get("Headers")))
        if (name := text(header.get("Name"))) and (value := text(header.get("Value"))) is not None
    ]
    known = {name for name, _ in pairs}
    for name, value in (
        ("from", _mailbox(mapping(body.get("FromFull"))) or text(body.get("From"))),
        ("to", ", ".join(_mailboxes(body, "ToFull")) or text(body.get("To"))),
        ("cc", ", ".join(_mailboxes(body, "CcFull")) or text(body.get("Cc"))),
        ("reply-to", text(body.get("ReplyTo"))),
        ("subject", text(body.get("Subject"))),
        ("date", text(body.get("Date"))),
    ):
        if value and name not in known:
            pairs.append((name, value))
    headers = Headers(tuple(pairs))
    return Mail(
        headers=headers,
        media_type=(headers.get("content-type") or "text/plain").split(";", 1)[0].strip().lower(),
        text=text(body.get("TextBody")),
        html=text(body.get("HtmlBody")),
        attachments=tuple(
            _attachment(number, mapping(file)) for number, file in enumerate(items(body.get("Attachments")))
        ),
    )


def _mailboxes(body: Mapping[str, Json], name: str) -> list[str]:
    return [mailbox for one in items(body.get(name)) if (mailbox := _mailbox(mapping(one)))]


def _mailbox(full: Mapping[str, Json]) -> str:
    address, name = text(full.get("Email")), text(full.get("Name"))
    if not address:
        return ""
    quoted = (name or "").replace("\\", "\\\\").replace('"', '\\"')
    return f'"{quoted}" <{address}>' if name else address


def _attachment(number: int, file: Mapping[str, Json]) -> Attachment:
    # The test button sends Data where real mail has Content.
    written = next((said for name in ("Content", "Data") if (said := text(file.get(name)))), None)
    content = base64_bytes((written or "").encode("utf-8", "replace"))
    return Attachment(
        part=number,
        name=text(file.get("Name")),
        media_type=text(file.get("ContentType")) or "application/octet-stream",
        size_bytes=len(content) or whole(file.get("ContentLength")) or 0,
        sha256=sha256(content).hexdigest(),
        content_id=(text(file.get("ContentID")) or "").strip("<>") or None,
        content=content if written is not None else None,
    )


def _status(record: str, message_id: str, body: Mapping[str, Json]) -> Draft | Quarantined:
    time_field = _TIMES.get(record)
    email = text(body.get("Recipient")) or text(body.get("Email"))
    if time_field is None or email is None:
        return Quarantined(f"a record of type {record[:80]!r} is not understood", events.key(message_id, record[:80]))
    stamp = text(body.get(time_field))
    parts: list[Any] = [message_id, record]
    if record in _REPEATED:
        parts.append(stamp or "")
    elif text(body.get("ID")):
        parts.append(text(body.get("ID")))
    return events.draft(
        events.STATUS, events.key(*parts), told_iso(stamp), channel="email",
        customer=events.customer("email", email, verified=False), actor=events.AUTOMATED,
        refers_to=message_id, status=record.lower(),
        details=without_nothing(
            {
                "type": text(body.get("Type")), "description": text(body.get("Description")),
                "details": text(body.get("Details")), "url": text(body.get("OriginalLink")),
                "tag": text(body.get("Tag")),
            }
        ),
    )  # fmt: skip
