"""Mailgun: mail by routes, and the fate of mail that was sent (webhooks).

Sources: Mailgun's user manual ("Receiving Messages via HTTP", "Securing Webhooks"); shapes as seen in anymail's tests.
The signature covers a timestamp and a token, not the body: a token counts once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from functools import lru_cache
from hashlib import sha256

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
    ReplayToken,
    Unreadable,
    is_blank,
)
from services.ingest.adapters.mail_event import mail_event, mail_id
from services.ingest.adapters.payloads import (
    Json,
    Part,
    items,
    mapping,
    media_type,
    part_text,
    read_form,
    read_json,
    read_multipart,
    read_object,
    text,
    whole,
    without_nothing,
)
from services.ingest.adapters.signatures import hex_digest, hmac_sha256, require_fresh, require_match
from services.ingest.adapters.times import Told, from_unix_ms
from services.ingest.mail.message import Attachment, Headers, Mail, read
from services.ingest.mail.words import clean

WINDOW = timedelta(hours=9)
"""Mailgun tries for eight hours, and nothing says that a retry is signed anew."""

_SHORT_FORM = 65_536
_FORMS = ("application/x-www-form-urlencoded", "multipart/form-data")


class Mailgun(Plain):
    """One Mailgun signing key."""

    def verify(self, request: RawRequest, account: Account) -> None:
        """HMAC-SHA256 of timestamp and token with the signing key."""
        kind = media_type(request.headers.get("content-type"))
        if kind not in (*_FORMS, "application/json"):
            raise Malformed(415, "the body is to be a form, or JSON for webhooks")
        if is_blank(request.body):
            raise Malformed(422, "the body is empty")
        stamp, token, signature = _proof(request)
        if not (stamp and token and signature):
            raise Forged(401, "timestamp, token or signature is missing")
        given = hex_digest(signature.strip())
        message = (stamp + token).encode("utf-8", "surrogateescape")
        require_match(given, account, lambda secret: hmac_sha256(secret, message))
        require_fresh(stamp, request.received_at, WINDOW)

    def parse(self, request: RawRequest, account: Account) -> Delivery:
        """Return the mail, or the status of one that was sent."""
        if media_type(request.headers.get("content-type")) == "application/json":
            body = read_object(request.body)
            return _webhook(body, _counts_once(mapping(body.get("signature"))), self, account)
        fields, files = _form(request)
        mail = _mail(fields, files)
        event_id = mail_id(mail, request.body)
        envelope = without_nothing(
            {"from": fields.get("sender"), "to": [fields["recipient"]] if "recipient" in fields else []}
        )
        verdicts = {name: mail.headers.text(f"x-mailgun-{name}") for name in ("spf", "dkim-check-result", "sscore")}
        facts = without_nothing({"envelope": envelope, "verdicts": without_nothing(verdicts)})
        draft = mail_event(mail, account, event_id, facts)
        return Delivery(self.taken(account, event_id), (draft,), replay_token=_counts_once(fields))


def _counts_once(proof: Mapping[str, Json]) -> ReplayToken:
    return ReplayToken(text(proof.get("token")) or "", int(2 * WINDOW.total_seconds()))


def _proof(request: RawRequest) -> tuple[str, str, str]:
    """Return timestamp, token and signature."""
    if media_type(request.headers.get("content-type")) == "application/json":
        signature = mapping(read_object(request.body).get("signature"))
        values = [text(signature.get(name)) or "" for name in ("timestamp", "token", "signature")]
    else:
        fields, _ = _form(request)
        values = [fields.get(name, "") for name in ("timestamp", "token", "signature")]
    stamp, token, proof = values
    return stamp, token, proof


def _form(request: RawRequest) -> tuple[Mapping[str, str], Sequence[Part]]:
    """Return the fields (of repeated ones the first) and the files."""
    content_type = request.headers.get("content-type") or ""
    if len(request.body) > _SHORT_FORM:
        return _read_form(content_type, request.body)
    return _last_form(content_type, request.body)


def _read_form(content_type: str, body: bytes) -> tuple[Mapping[str, str], Sequence[Part]]:
    if media_type(content_type) != "multipart/form-data":
        return read_form(body), ()
    fields: dict[str, str] = {}
    files = []
    for part in read_multipart(content_type, body):
        head, content = part
        if head.filename is not None and head.name != "body-mime":
            files.append(part)
        elif head.name == "body-mime":
            # Bytes, for the mail has charsets of its own.
            fields.setdefault(head.name, content.decode("utf-8", "surrogateescape"))
        else:
            fields.setdefault(head.name, part_text(part))
    return fields, files


# The proof is among the fields: who proves reads them, and so does who parses straight after.
_last_form = lru_cache(maxsize=1)(_read_form)


def _mail(fields: Mapping[str, str], files: Sequence[Part]) -> Mail:
    if "body-mime" in fields:
        return read(fields["body-mime"].encode("utf-8", "surrogateescape"))
    pairs = _headers(fields.get("message-headers"))
    if not pairs:
        # The commonest headers are fields of their own too.
        names = ("From", "To", "Cc", "Subject", "Date", "Message-Id", "In-Reply-To", "References")
        pairs = [(name.lower(), fields[name]) for name in names if name in fields]
    if not pairs:
        raise Unreadable("neither body-mime nor headers: " + ", ".join(sorted(fields)[:20]))
    headers = Headers(pairs)
    return Mail(
        headers=headers,
        media_type=media_type(headers.get("content-type") or "text/plain"),
        text=fields.get("body-plain"),
        html=_html(fields.get("body-html")),
        attachments=tuple(_attachments(fields, files)),
    )


def _headers(field: str | None) -> list[tuple[str, str]]:
    return [
        (pair[0].strip().lower(), pair[1].strip())
        for pair in (items(read_json(field.encode("utf-8", "surrogatepass"))) if field else ())
        if isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], str) and isinstance(pair[1], str)
    ]


def _html(field: str | None) -> str | None:
    """Some routes send a list of bodies."""
    if field is not None and field.lstrip().startswith('["'):
        try:
            return "\n".join(one for one in items(read_json(field.encode())) if isinstance(one, str)) or field
        except Unreadable:
            return field
    return field


def _attachments(fields: Mapping[str, str], files: Sequence[Part]) -> list[Attachment]:
    try:
        by_id = mapping(read_json(fields["content-id-map"].encode())) if "content-id-map" in fields else {}
    except Unreadable:
        by_id = {}
    content_ids = {text(name): identity.strip("<>") for identity, name in by_id.items()}
    return [
        Attachment(number, clean(head.filename or ""), head.media_type, len(content),
                   sha256(content).hexdigest(), content_ids.get(head.name), content)
        for number, (head, content) in enumerate(files)
    ]  # fmt: skip


_STATUSES = frozenset(
    {
        "accepted", "delivered", "failed", "rejected", "opened", "clicked", "unsubscribed", "complained", "stored",
        "list_member_uploaded", "email_validation",
    }
)  # fmt: skip


def _webhook(body: dict[str, Json], token: ReplayToken, adapter: Plain, account: Account) -> Delivery:
    data = mapping(body.get("event-data"))
    identity, kind, email = text(data.get("id")), text(data.get("event")), text(data.get("recipient"))
    seconds = data.get("timestamp")
    at = from_unix_ms(int(seconds * 1000)) if isinstance(seconds, int | float) and 0 < seconds < 1e11 else None
    if identity is None or at is None:
        raise Unreadable("a webhook without event-data.id or timestamp")
    # Mailgun promises that an id is unique within a day.
    event_id = events.key(identity, at.date().isoformat())
    answer = adapter.taken(account, event_id)
    if kind not in _STATUSES or email is None:
        part = Quarantined(f"an event of kind {(kind or '')[:80]!r} is not understood", event_id)
        return Delivery(answer, quarantined=(part,), replay_token=token)
    sent = text(mapping(mapping(data.get("message")).get("headers")).get("message-id"))
    original = f"<{sent.strip('<>')}>" if sent else None
    status = mapping(data.get("delivery-status"))
    draft: Draft = events.draft(
        events.STATUS, event_id, Told(at, "provider_time_s", seconds), channel="email",
        customer=events.customer("email", email, verified=False),
        actor=events.AUTOMATED, thread={"original_message_id": original} if original else {},
        refers_to=original, status=kind,
        details=without_nothing(
            {
                "severity": text(data.get("severity")), "reason": text(data.get("reason")),
                "url": text(data.get("url")), "code": whole(status.get("code")), "message": text(status.get("message")),
                "description": text(status.get("description")),
            }
        ),
    )  # fmt: skip
    return Delivery(answer, (draft,), replay_token=token)
