"""Twilio: SMS, WhatsApp, voice status, queue, conference, recording, transcription.

Sources: Twilio documentation ("request to your incoming message Webhook URL", Call resource, Enqueue, Queue,
Recording and Transcription callbacks); signature as in twilio-python's request validator tests.

Twilio sends no time with messages and none that is signed, so a replay is stopped by the ids alone.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from functools import lru_cache
from hashlib import sha256
from itertools import chain
from urllib.parse import parse_qs, urlsplit, urlunsplit

from services.ingest.adapters import twilio_calls as calls
from services.ingest.adapters import twilio_messages as messages
from services.ingest.adapters.base import XML, Account, Answer, Delivery, Draft, Forged, Plain, RawRequest, Unreadable
from services.ingest.adapters.payloads import media_type, read_form, read_form_bytes
from services.ingest.adapters.signatures import base64_digest, hmac_sha1, matches, require_header

_PORTS = {"http": 80, "https": 443}
_SHORT = 500
_MOST_PARAMETERS = 1_000


class Twilio(Plain):
    """One Twilio account or number; `secrets` are auth tokens (both while one is being replaced)."""

    def verify(self, request: RawRequest, account: Account) -> None:
        """HMAC-SHA1 over the public URL and the sorted parameters, or over the URL that carries the body's hash."""
        given = base64_digest(require_header(request, "x-twilio-signature"))
        signed = _signed_parameters(request)
        # Which of the URLs it was is no secret: only what is refused has been compared with all.
        if not any(_signs(url, signed, given, account) for url in _urls(request, account)):
            raise Forged(403, "the signature is not one of this account's (is public_url the URL that Twilio calls?)")

    def parse(self, request: RawRequest, account: Account) -> Delivery:
        """Return the events of one webhook."""
        if media_type(request.headers.get("content-type")) == "application/json":
            raise Unreadable("a JSON webhook of Twilio that is not understood")
        drafts = _read(read_form(request.body), request, account)
        return Delivery(self.taken(account, ""), tuple(drafts))

    def taken(self, account: Account, key: str) -> Answer:
        """Empty TwiML: any plain text would be sent to the customer."""
        return Answer(200, b'<?xml version="1.0" encoding="UTF-8"?><Response/>', (("content-type", XML),))


def _signs(url: str, parameters: bytes, given: bytes, account: Account) -> bool:
    message = url.encode("utf-8", "surrogateescape") + parameters
    return matches(given, [hmac_sha1(secret, message) for secret in account.secrets])


def _signed_parameters(request: RawRequest) -> bytes:
    """Return what is signed after the URL."""
    body_hash = _body_hash(request.query) if request.query else None
    if body_hash:
        if not hmac.compare_digest(
            sha256(request.body).hexdigest().encode(), body_hash[0].lower().encode("utf-8", "replace")
        ):
            raise Forged(403, "the body is not the one whose hash is signed")
        return b""
    return b"".join(chain.from_iterable(sorted(set(read_form_bytes(request.body)))))


def _body_hash(query: str) -> list[str] | None:
    try:
        parameters = parse_qs(query, keep_blank_values=True, errors="surrogateescape", max_num_fields=_MOST_PARAMETERS)
    except ValueError as error:
        raise Forged(403, f"the query has more than {_MOST_PARAMETERS} parameters") from error
    return parameters.get("bodySHA256")


def _urls(request: RawRequest, account: Account) -> Sequence[str]:
    """Return the URLs that Twilio may have signed: as configured, with and without its standard port."""
    base = account.public_url or f"https://{request.headers.get('host') or ''}{request.path}"
    # An account's deliveries come to very few URLs.
    known = len(base) + len(request.query) <= _SHORT
    return _known_urls_of(base, request.query) if known else _urls_of(base, request.query)


def _urls_of(base: str, query: str) -> Sequence[str]:
    try:
        parts = urlsplit(base)
        port, host = parts.port, parts.netloc.rpartition("@")[2]
    except ValueError as error:
        raise Forged(403, "public_url is not a URL") from error
    query = query or parts.query
    standard = _PORTS.get(parts.scheme, 443)
    user = parts.netloc[: len(parts.netloc) - len(host)]
    bare = host[: -len(f":{port}")] if port is not None else host
    hosts = [parts.netloc]
    if port is None:
        hosts.append(f"{user}{bare}:{standard}")
    else:
        hosts.append(user + bare)
    return tuple(urlunsplit((parts.scheme, netloc, parts.path, query, "")) for netloc in hosts)


_known_urls_of = lru_cache(maxsize=512)(_urls_of)


def _read(form: messages.Form, request: RawRequest, account: Account) -> list[Draft]:
    """Tell by its parameters which of Twilio's many webhooks this is."""
    if form.get("TranscriptionEvent"):
        return [calls.live_transcription(form, account)]
    if form.get("TranscriptionSid"):
        return [calls.transcription(form, account)]
    if form.get("RecordingSid"):
        return [calls.recording(form, account)]
    if form.get("ConferenceSid"):
        return [calls.conference(form, account)]
    if form.get("QueueSid") or form.get("QueueResult"):
        return calls.queue(form, request.received_at, account)
    sid = form.get("MessageSid") or form.get("SmsSid")
    status = form.get("MessageStatus") or form.get("SmsStatus") or "received"
    if sid and status not in ("received", "receiving"):
        return [messages.status(form, sid, status)]
    if sid:
        return [messages.message(form, sid)]
    if form.get("CallSid") and form.get("CallStatus"):
        return [calls.call(form, account), *calls.called_back(form, request)]
    raise Unreadable("a webhook of Twilio that is not understood: " + ", ".join(sorted(form)[:20]))
