"""SendGrid: mail by Inbound Parse, and the fate of mail that was sent (Event Webhook).

Sources: sendgrid/docs "setting-up-the-inbound-parse-webhook"; Twilio "Securing your Inbound Parse Webhooks";
sendgrid-python's test_eventwebhook. Inbound mail that is answered 4xx is lost at once and nobody is told, so whatever
is genuine is taken.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from datetime import timedelta
from functools import lru_cache
from hashlib import sha256
from typing import Any

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.serialization import load_der_public_key

from services.ingest.adapters import events
from services.ingest.adapters.base import (
    Account,
    Delivery,
    Draft,
    Forged,
    Malformed,
    Plain,
    Quarantined,
    RawRequest,
    Unreadable,
    part_key,
)
from services.ingest.adapters.mail_event import mail_event, mail_id
from services.ingest.adapters.payloads import (
    Head,
    Json,
    Part,
    items,
    mapping,
    media_type,
    part_text,
    read_form_bytes,
    read_json,
    read_multipart,
    text,
    whole,
    without_nothing,
)
from services.ingest.adapters.signatures import base64_digest, require_basic, require_header
from services.ingest.adapters.times import told_s
from services.ingest.mail.message import Attachment, Mail, read, read_headers

SIGNATURE = "x-twilio-email-event-webhook-signature"
TIMESTAMP = "x-twilio-email-event-webhook-timestamp"
WINDOW = timedelta(hours=80)
"""Inbound mail is retried for 72 hours, events for 24, and nothing says that a retry is signed anew."""


_WINDOW_S = WINDOW.total_seconds()
_ECDSA = ec.ECDSA(Prehashed(hashes.SHA256()))


@lru_cache(maxsize=256)
def _public_key(secret: str) -> ec.EllipticCurvePublicKey | None:
    try:
        key = load_der_public_key(base64.b64decode(secret, validate=True))
    except (binascii.Error, ValueError, UnsupportedAlgorithm):
        return None
    return key if isinstance(key, ec.EllipticCurvePublicKey) else None


_VERDICTS = {"SPF": "spf", "dkim": "dkim", "spam_score": "spam_score"}
"""Field → the verdict that it gives. One of the names is in capitals, as SendGrid writes it."""


def verify_signature(request: RawRequest, account: Account) -> None:
    """ECDSA P-256 with SHA-256 over the timestamp and the raw body, its last line break included."""
    given = base64_digest(require_header(request, SIGNATURE))
    stamp = require_header(request, TIMESTAMP)
    if not (stamp.isascii() and stamp.isdigit() and len(stamp) < 14):
        raise Malformed(400, "the timestamp is not a whole number of seconds")
    if abs(int(stamp) - request.received_at.timestamp()) > _WINDOW_S:
        raise Forged(403, "the timestamp is too old or too far ahead")
    # Not put together first: that would copy all of a mail with its files.
    digest = sha256(stamp.encode())
    digest.update(request.body)
    if not _is_signed(digest.digest(), given, account.secrets):
        raise Forged(403, "the signature is not by one of this account's keys")


def _is_signed(digest: bytes, signature: bytes, secrets: Sequence[str]) -> bool:
    for secret in secrets:
        key = _public_key(secret)
        if key is None:
            continue
        try:
            key.verify(signature, digest, _ECDSA)
        except InvalidSignature:
            continue
        return True
    return False


class SendGridInbound(Plain):
    """Inbound Parse; signed where the account has a public key, else HTTP Basic as in the URL."""

    def verify(self, request: RawRequest, account: Account) -> None:
        """A signature is checked where there is one or where only keys are known; otherwise the credentials."""
        if request.headers.get(SIGNATURE) is not None or all(map(_public_key, account.secrets)):
            verify_signature(request, account)
        else:
            require_basic(request, account)
        if media_type(request.headers.get("content-type")) not in (
            "multipart/form-data",
            "application/x-www-form-urlencoded",
        ):
            raise Malformed(415, "the body is to be multipart/form-data")

    def parse(self, request: RawRequest, account: Account) -> Delivery:
        """Return the one event of the mail."""
        fields = _fields(request)
        mail = _mail(fields)
        event_id = mail_id(mail, request.body)
        envelope = _json(fields.get("envelope"))
        facts = {
            "envelope": without_nothing(
                {
                    "from": text(envelope.get("from")),
                    "to": [one for one in map(text, items(envelope.get("to"))) if one],
                }
            ),
            "verdicts": {name: said for field, name in _VERDICTS.items() if (said := _text(fields, field))},
        }
        return Delivery(self.taken(account, event_id), (mail_event(mail, account, event_id, without_nothing(facts)),))


def _fields(request: RawRequest) -> dict[str, Part]:
    content_type = request.headers.get("content-type") or ""
    if media_type(content_type) == "multipart/form-data":
        parts = read_multipart(content_type, request.body)
    else:
        parts = [
            (Head(name.decode("utf-8", "replace"), None, "text/plain", None), value)
            for name, value in read_form_bytes(request.body)
        ]
    # Of several with one name the first counts, and stands where it stood.
    fields = {part[0].name: part for part in parts}
    return fields if len(fields) == len(parts) else fields | {part[0].name: part for part in reversed(parts)}


def _json(part: Part | None) -> Mapping[str, Json]:
    try:
        return mapping(read_json(part[1])) if part is not None else {}
    except Unreadable:
        # A helper field that cannot be read costs its help, not the mail.
        return {}


def _text(fields: dict[str, Part], name: str, charset: str | None = None) -> str | None:
    part = fields.get(name)
    return part_text(part, charset) or None if part is not None else None


_ALSO_FIELDS = ("from", "to", "cc", "subject")
"""Headers that are fields of their own, too."""


def _mail(fields: dict[str, Part]) -> Mail:
    """Put the mail together again; each field may be in a charset of its own."""
    if "email" in fields:
        return read(fields["email"][1])
    charsets = _json(fields.get("charsets"))
    headers = read_headers(fields["headers"][1] if "headers" in fields else b"")
    extra = [
        (name, value)
        for name in headers.lacks(_ALSO_FIELDS)
        if (value := _text(fields, name, text(charsets.get(name))))
    ]
    return Mail(
        headers=headers.and_also(extra) if extra else headers,
        media_type=media_type(headers.get("content-type") or "text/plain"),
        text=_text(fields, "text", text(charsets.get("text"))),
        html=_text(fields, "html", text(charsets.get("html"))),
        attachments=tuple(_attachments(fields)),
    )


def _attachments(fields: dict[str, Part]) -> list[Attachment]:
    files = [
        (number, head, content)
        for number, (head, content) in enumerate(fields.values())
        if head.filename is not None or (head.name.startswith("attachment") and head.name[10:].isdigit())
    ]
    if not files:
        return []
    info = _json(fields.get("attachment-info"))
    listed = _json(fields.get("content-ids"))
    content_ids = {text(value): name for name, value in listed.items()} if listed else {}
    found = []
    for number, head, content in files:
        described = mapping(info.get(head.name))
        found.append(
            Attachment(
                part=number,
                name=text(described.get("filename")) or head.filename,
                media_type=text(described.get("type")) or head.media_type,
                size_bytes=len(content),
                sha256=sha256(content).hexdigest(),
                content_id=text(described.get("content-id")) or content_ids.get(head.name),
                content=content,
            )
        )
    return found


class SendGridEvents(Plain):
    """What became of mail that was sent."""

    def verify(self, request: RawRequest, account: Account) -> None:
        """Always signed."""
        verify_signature(request, account)

    def parse(self, request: RawRequest, account: Account) -> Delivery:
        """Return one status per element of the array."""
        body = read_json(request.body)
        drafts: list[Draft] = []
        quarantined: list[Quarantined] = []
        for item in items(body) or [body]:
            found = _status(mapping(item))
            if found is None:
                quarantined.append(_not_understood(item))
            else:
                drafts.append(found)
        return Delivery(self.taken(account, ""), tuple(drafts), tuple(quarantined))


_KINDS = frozenset(
    {
        "processed", "deferred", "delivered", "bounce", "dropped", "open", "click", "spamreport", "unsubscribe",
        "group_unsubscribe", "group_resubscribe", "blocked",
    }
)  # fmt: skip
_KEPT = ("reason", "status", "response", "type", "url", "useragent", "ip", "attempt", "bounce_classification")


def _not_understood(item: Json) -> Quarantined:
    kind, own = text(mapping(item).get("event")), text(mapping(item).get("sg_event_id"))
    what = (
        f"an event of kind {kind[:80]!r} is not understood" if own and kind else "an event without sg_event_id or kind"
    )
    return Quarantined(what, own or part_key(item))


def _status(item: Any) -> Draft | None:
    event_id, kind, email = (text(item.get(name)) for name in ("sg_event_id", "event", "email"))
    if event_id is None or email is None or kind not in _KINDS:
        return None
    smtp_id = text(item.get("smtp-id")) or text(item.get("smtp_id"))
    return events.draft(
        events.STATUS,
        event_id,
        told_s(item.get("timestamp")),
        channel="email",
        customer=events.customer("email", email, verified=False),
        actor=events.AUTOMATED,
        thread={"original_message_id": smtp_id} if smtp_id else {},
        refers_to=smtp_id or text(item.get("sg_message_id")),
        status=kind,
        provider_message_id=text(item.get("sg_message_id")),
        details=without_nothing({name: item.get(name) for name in _KEPT}),
        attempt=whole(item.get("attempt")),
    )
