"""Twilio: SMS, WhatsApp, voice status, queue, conference, recording, transcription.

Sources: Twilio documentation ("request to your incoming message Webhook URL", Call resource, Enqueue, Queue,
Recording and Transcription callbacks); signature as in twilio-python's request validator tests.

Twilio sends no time with messages and none that is signed, so a replay is stopped by the ids alone.
"""

from __future__ import annotations

import hmac
import re
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any
from urllib.parse import parse_qs, urlsplit, urlunsplit

import orjson

from services.ingest.adapters import events
from services.ingest.adapters.base import XML, Account, Answer, Delivery, Draft, Forged, Plain, RawRequest, Unreadable
from services.ingest.adapters.payloads import media_type, read_form, read_form_bytes, text, whole, without_nothing
from services.ingest.adapters.signatures import base64_digest, hmac_sha1, matches, require_header
from services.ingest.adapters.times import from_iso, from_rfc2822

Form = dict[str, str]

_PORTS = {"http": 80, "https": 443}
_NUMBER = re.compile(r"\+?[0-9]{3,20}", re.ASCII)
_MOST_MEDIA = 100
_CHANNELS = {"whatsapp": "whatsapp", "messenger": "messenger", "rcs": "rcs"}
_UNKNOWN = "unknown"
_ENDED = frozenset({"completed", "busy", "failed", "no-answer", "canceled"})


class Twilio(Plain):
    """One Twilio account or number; `secrets` are auth tokens (both while one is being replaced)."""

    def verify(self, request: RawRequest, account: Account) -> None:
        """HMAC-SHA1 over the public URL and the sorted parameters, or over the URL that carries the body's hash."""
        given = base64_digest(require_header(request, "x-twilio-signature"))
        signed = _signed_parameters(request)
        found = False
        for url in _urls(request, account):
            message = url.encode("utf-8", "surrogateescape") + signed
            found |= matches(given, [hmac_sha1(secret, message) for secret in account.secrets])
        if not found:
            raise Forged(403, "the signature is not one of this account's (is public_url the URL that Twilio calls?)")

    def parse(self, request: RawRequest, account: Account) -> Delivery:
        """Return the events of one webhook."""
        if media_type(request.headers.get("content-type")) == "application/json":
            raise Unreadable("a JSON webhook of Twilio that is not understood")
        drafts = _read(read_form(request.body), request.received_at)
        return Delivery(self.taken(account, ""), tuple(drafts))

    def taken(self, account: Account, key: str) -> Answer:
        """Empty TwiML: any plain text would be sent to the customer."""
        return Answer(200, b'<?xml version="1.0" encoding="UTF-8"?><Response/>', (("content-type", XML),))


def _signed_parameters(request: RawRequest) -> bytes:
    """Return what is signed after the URL."""
    body_hash = parse_qs(request.query, keep_blank_values=True, errors="surrogateescape", max_num_fields=1_000).get(
        "bodySHA256"
    )
    if body_hash:
        if not hmac.compare_digest(
            sha256(request.body).hexdigest().encode(), body_hash[0].lower().encode("utf-8", "replace")
        ):
            raise Forged(403, "the body is not the one whose hash is signed")
        return b""
    pairs = sorted(set(read_form_bytes(request.body)))
    return b"".join(name + value for name, value in pairs)


def _urls(request: RawRequest, account: Account) -> list[str]:
    """Return the URLs that Twilio may have signed: as configured, with and without its standard port."""
    base = account.public_url or f"https://{request.headers.get('host') or ''}{request.path}"
    parts = urlsplit(base)
    query = request.query or parts.query
    try:
        port, host = parts.port, parts.netloc.rpartition("@")[2]
    except ValueError as error:
        raise Forged(403, "public_url is not a URL") from error
    standard = _PORTS.get(parts.scheme, 443)
    user = parts.netloc[: len(parts.netloc) - len(host)]
    bare = host[: -len(f":{port}")] if port is not None else host
    hosts = [parts.netloc]
    if port is None:
        hosts.append(f"{user}{bare}:{standard}")
    else:
        hosts.append(user + bare)
    return [urlunsplit((parts.scheme, netloc, parts.path, query, "")) for netloc in hosts]


def _read(form: Form, received_at: datetime) -> list[Draft]:
    """Tell by its parameters which of Twilio's many webhooks this is."""
    if form.get("TranscriptionEvent"):
        return [_live_transcription(form)]
    if form.get("TranscriptionSid"):
        return [_transcription(form)]
    if form.get("RecordingSid"):
        return [_recording(form)]
    if form.get("ConferenceSid"):
        return [_conference(form)]
    if form.get("QueueSid") or form.get("QueueResult"):
        return _queue(form, received_at)
    sid = form.get("MessageSid") or form.get("SmsSid")
    if sid and form.get("MessageStatus", "received") not in ("received", "receiving"):
        return [_status(form, sid)]
    if sid:
        return [_message(form, sid)]
    if form.get("CallSid") and form.get("CallStatus"):
        return [_call(form)]
    raise Unreadable("a webhook of Twilio that is not understood: " + ", ".join(sorted(form)[:20]))


# --- messages ------------------------------------------------------------------------------------------------------


def _address(value: str) -> tuple[str, str]:
    """Split `whatsapp:+316…` into channel and address; without a prefix it is an SMS."""
    prefix, colon, rest = value.partition(":")
    return (_CHANNELS.get(prefix, prefix), rest) if colon else ("sms", value)


def _person(value: str, ours: str, name: str | None = None) -> dict[str, Any]:
    channel, address = _address(value)
    if channel == "messenger":
        return events.customer("messenger", f"{_address(ours)[1]}/{address}" if address else None, name)
    # Short codes and alphanumeric senders are nobody's number.
    return events.customer("phone", address if _NUMBER.fullmatch(address) and len(address) > 6 else None, name)


def _thread(ours: str, theirs: str) -> dict[str, str]:
    channel, address = _address(theirs)
    return {"dm_thread": f"{channel}:{_address(ours)[1]}/{address}"}


def _message(form: Form, sid: str) -> Draft:
    sender, ours = form.get("From", ""), form.get("To", "")
    channel, _ = _address(sender)
    media = min(whole(form.get("NumMedia")) or 0, _MOST_MEDIA)
    files = [
        events.attachment(form.get(f"MediaUrl{number}"), form.get(f"MediaContentType{number}"))
        for number in range(media)
        if form.get(f"MediaUrl{number}")
    ]
    location = {name.lower(): form.get(name) for name in ("Latitude", "Longitude", "Address", "Label")}
    return events.draft(
        events.RECEIVED,
        sid,
        None,
        channel=channel,
        customer=_person(sender, ours, form.get("ProfileName")),
        actor=events.CUSTOMER,
        message_id=sid,
        thread=_thread(ours, sender),
        text=form.get("Body"),
        attachments=files,
        in_reply_to=form.get("OriginalRepliedMessageSid"),
        button=without_nothing({"payload": form.get("ButtonPayload"), "text": form.get("ButtonText")}),
        location=without_nothing(location),
        opt_out=form.get("OptOutType"),
        to=ours,
    )


def _status(form: Form, sid: str) -> Draft:
    recipient, ours = form.get("To", ""), form.get("From", "")
    status = form["MessageStatus"]
    return events.draft(
        events.STATUS,
        events.key(sid, status),
        None,
        channel=_address(recipient)[0],
        customer=_person(recipient, ours),
        actor=events.AUTOMATED,
        thread=_thread(ours, recipient),
        refers_to=sid,
        status=status,
        error=without_nothing({"code": form.get("ErrorCode"), "message": form.get("ErrorMessage")}),
    )


# --- calls ---------------------------------------------------------------------------------------------------------


def _caller(form: Form) -> dict[str, Any]:
    """Return the customer of a call: who rang, or on our outbound calls who was rung. A leg to an agent is nobody's."""
    if form.get("ParentCallSid"):
        return {}
    theirs = form.get("To", "") if form.get("Direction", "").startswith("outbound") else form.get("From", "")
    return _person(theirs, "", form.get("CallerName")) if ":" not in theirs else {}


def _contact(form: Form) -> str | None:
    """All legs of one call are one contact, named by the first leg."""
    return form.get("ParentCallSid") or form.get("CallSid")


def _call_draft(kind: str, event_id: str, at: datetime | None, form: Form, **facts: Any) -> Draft:
    data = {"customer": _caller(form), "contact_id": _contact(form), "actor": events.AUTOMATED, **facts}
    return events.draft(f"threadline.{kind}", event_id, at, channel="phone", **data)


def _call(form: Form) -> Draft:
    """A status of one leg. Only the leg to an agent tells that somebody answered, only the first leg that it ended."""
    status, sid = form["CallStatus"], form["CallSid"]
    event_id = events.key(sid, form.get("SequenceNumber") or status)
    at = from_rfc2822(form.get("Timestamp"))
    to_agent = bool(form.get("ParentCallSid"))
    seconds = whole(form.get("CallDuration"))
    if to_agent and status == "initiated":
        return _call_draft("call.queued", event_id, at, form, queue=form.get("To") or _UNKNOWN)
    if to_agent and status == "in-progress":
        answering = events.agent(form.get("To"))
        return _call_draft("call.answered", event_id, at, form, actor=answering, agent_id=form.get("To"))
    if not to_agent and status in _ENDED:
        return _call_draft("call.ended", event_id, at, form, status=status, duration_s=seconds)
    return _call_draft("message.status", event_id, at, form, refers_to=sid, status=status, duration_s=seconds)


def _queue(form: Form, received_at: datetime) -> list[Draft]:
    """Enqueue's waitUrl and action, and the url of Queue. Only durations are told; instants are counted from them."""
    sid, queue = form.get("CallSid"), form.get("QueueSid", "")
    if not sid:
        raise Unreadable("a queue webhook without CallSid")
    waited = whole(form.get("QueueTime"))
    result = form.get("QueueResult")
    entered = received_at - timedelta(seconds=min(max(waited or 0, 0), 10_000_000))
    facts = {"queue": form.get("FriendlyName") or queue or _UNKNOWN, "wait_s": waited, "time_estimated": True}
    queued = _call_draft(
        "call.queued", events.key(sid, queue, "queued"), entered, form, **facts,
        position=whole(form.get("QueuePosition")),
    )  # fmt: skip
    if form.get("DequeingCallSid") or form.get("DequeueingCallSid"):
        leg = form.get("DequeingCallSid") or form.get("DequeueingCallSid")
        return [queued, _answered(form, received_at, facts, leg)]
    if result is None:
        return [queued]
    outcome = {
        "hangup": "call.abandoned",
        "queue-full": "call.overflowed",
        "leave": "call.overflowed",
        "redirected": "call.overflowed",
        "redirected-from-bridged": "conversation.transferred",
    }.get(result)
    if result == "bridged":
        # Told only after the talk: the pair keeps the true wait, at a later hour.
        return [queued, _answered(form, received_at, facts, None)]
    if outcome is None:
        return [
            _call_draft(
                "message.status", events.key(sid, queue, result), None, form, **facts, refers_to=sid, status=result
            )
        ]
    event_id = events.key(sid, queue, result)
    if outcome == "conversation.transferred":
        way = {"from": facts["queue"], "to": _UNKNOWN}
        return [_call_draft(outcome, event_id, received_at, form, **facts, **way, reason=result)]
    return [queued, _call_draft(outcome, event_id, received_at, form, **facts, reason=result)]


def _answered(form: Form, at: datetime, facts: dict[str, Any], leg: str | None) -> Draft:
    event_id = events.key(form["CallSid"], form.get("QueueSid", ""), "answered")
    return _call_draft("call.answered", event_id, at, form, **{**facts, "actor": events.agent(leg), "agent_id": leg})


def _conference(form: Form) -> Draft:
    """Hold, unhold, join and leave: points in time of one leg, kept as its statuses."""
    status = form.get("StatusCallbackEvent")
    if not status:
        raise Unreadable("a conference webhook without StatusCallbackEvent")
    sid = form["ConferenceSid"]
    return _call_draft(
        "message.status",
        events.key(sid, form.get("SequenceNumber") or f"{form.get('CallSid', '')}:{status}"),
        from_rfc2822(form.get("Timestamp")),
        form,
        customer={},
        refers_to=form.get("CallSid") or sid,
        status=status,
        conference_id=sid,
        reason=form.get("ReasonParticipantLeft") or form.get("ReasonConferenceEnded"),
    )


def _recording(form: Form) -> Draft:
    """A voicemail is the customer's message; any other recording belongs to the call that it was made of."""
    sid, status = form["RecordingSid"], form.get("RecordingStatus") or "completed"
    file = events.attachment(form.get("RecordingUrl"), "audio/x-wav", recording_id=sid)
    at = from_rfc2822(form.get("RecordingStartTime"))
    seconds = whole(form.get("RecordingDuration"))
    facts: dict[str, Any] = {"attachments": [file] if form.get("RecordingUrl") else [], "duration_s": seconds}
    if form.get("RecordingSource") == "RecordVerb" and status == "completed":
        return _call_draft(
            "message.received", sid, at, form, **facts, actor=events.CUSTOMER, message_id=sid, voicemail=True
        )
    return _call_draft(
        "message.status", events.key(sid, status), at, form, **facts,
        refers_to=form.get("CallSid"), status=f"recording-{status}",
    )  # fmt: skip


def _transcription(form: Form) -> Draft:
    """The text of a voicemail."""
    sid, status = form["TranscriptionSid"], form.get("TranscriptionStatus") or "completed"
    if status != "completed":
        return _call_draft(
            "message.status", events.key(sid, status), None, form, refers_to=form.get("RecordingSid"), status=status
        )
    return _call_draft(
        "message.received", sid, None, form, actor=events.CUSTOMER, message_id=sid,
        text=form.get("TranscriptionText"), in_reply_to=form.get("RecordingSid"), voicemail=True,
    )  # fmt: skip


def _live_transcription(form: Form) -> Draft:
    """What was said, piece by piece. On an inbound call the inbound track is the customer's voice."""
    kind, sid = form["TranscriptionEvent"], form.get("TranscriptionSid", "")
    sequence = form.get("SequenceId") or kind
    at = from_iso(form.get("Timestamp"))
    said = _transcript(form.get("TranscriptionData"))
    if kind != "transcription-content" or form.get("Final", "true") != "true":
        return _call_draft(
            "message.status",
            events.key(sid, sequence),
            at,
            form,
            refers_to=form.get("CallSid"),
            status=kind,
            partial=said,
        )
    outbound_call = form.get("Direction", "").startswith("outbound")
    by_customer = (form.get("Track", "inbound_track") == "inbound_track") != outbound_call
    facts = {"message_id": events.key(sid, sequence), "text": said, "track": form.get("Track")}
    if by_customer:
        return _call_draft("message.received", events.key(sid, sequence), at, form, **facts, actor=events.CUSTOMER)
    return _call_draft("message.sent", events.key(sid, sequence), at, form, **facts, actor=events.AGENT)


def _transcript(data: str | None) -> str | None:
    try:
        value = orjson.loads(data) if data else None
    except orjson.JSONDecodeError:
        return data
    return text(value.get("transcript")) if isinstance(value, dict) else None
