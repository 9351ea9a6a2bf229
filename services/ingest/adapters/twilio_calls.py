"""Twilio's calls: legs, queues, conferences, recordings, transcripts.

Of a call each delivery tells a part, in any order: no two of them share an id unless they say the same. What one tells
after it happened is marked `told_late`, a hold is a status with `hold`, a leg that went one with `left`: whoever
counts puts them together (services/metrics/settling.py).
Sources: Twilio documentation (Call resource, Enqueue, Queue, Record, Transcription).
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import parse_qs

import orjson

from services.ingest.adapters import events
from services.ingest.adapters.base import Account, Draft, RawRequest, Unreadable
from services.ingest.adapters.payloads import text, whole
from services.ingest.adapters.times import told_iso, told_rfc2822
from services.ingest.adapters.twilio_messages import Form, person

_CALL_SID = re.compile(r"CA[0-9a-f]{32}", re.ASCII)
_UNKNOWN = "unknown"
_ENDED = frozenset({"completed", "busy", "failed", "no-answer", "canceled"})
_LIVE_S = 5
"""Enqueue asks for music again and again; only what it says within so many seconds is the queueing itself."""
_HOLDS = {"participant-hold": True, "participant-unhold": False}


def _caller(form: Form, account: Account) -> dict[str, Any]:
    """Return the customer of a call: who rang, or on our outbound calls who was rung. A leg to an agent is nobody's."""
    theirs = form.get("To", "") if _is_outbound(form) else form.get("From", "")
    if form.get("ParentCallSid") or ":" in theirs or theirs in account.own_addresses:
        return {}
    return person(theirs, "", form.get("CallerName"))


def _is_outbound(form: Form) -> bool:
    return form.get("Direction", "").startswith("outbound")


def _contact(form: Form) -> str | None:
    """All legs of one call are one contact, named by the first leg."""
    return form.get("ParentCallSid") or form.get("CallSid")


def _call_draft(kind: str, event_id: str, at: events.When, form: Form, account: Account, **facts: Any) -> Draft:
    data = {"customer": _caller(form, account), "contact_id": _contact(form), "actor": events.AUTOMATED, **facts}
    return events.draft(f"threadline.{kind}", event_id, at, channel="phone", **data)


def _waiting(form: Form) -> dict[str, Any]:
    """Return whose doing a queueing or a hanging up is."""
    return events.AUTOMATED if _is_outbound(form) and not form.get("ParentCallSid") else events.CUSTOMER


def call(form: Form, account: Account) -> Draft:
    """A status of one leg. Only the leg to an agent tells that somebody answered, only the first leg that it ended."""
    status, sid = form["CallStatus"], form["CallSid"]
    event_id = events.key(sid, form.get("SequenceNumber") or status)
    at = told_rfc2822(form.get("Timestamp"))
    to_agent = bool(form.get("ParentCallSid"))
    seconds = whole(form.get("CallDuration"))
    if to_agent and status == "initiated":
        asked = form.get("To") or _UNKNOWN
        return _call_draft("call.queued", event_id, at, form, account, actor=_waiting(form), queue=asked)
    if to_agent and status == "in-progress":
        facts = {"actor": events.agent(form.get("To")), "agent_id": form.get("To"), "leg": sid}
        return _call_draft("call.answered", event_id, at, form, account, **facts)
    if not to_agent and status in _ENDED:
        return _call_draft("call.ended", event_id, at, form, account, status=status, duration_s=seconds)
    went = _went(sid, form.get("To")) if to_agent and status in _ENDED else {}
    return _call_draft(
        "message.status", event_id, at, form, account, refers_to=sid, status=status, duration_s=seconds, **went
    )


def _went(leg: str, agent: str | None) -> dict[str, Any]:
    """Return what says that a leg is gone, with the fields of a transfer, should it turn out to be one."""
    return {"left": True, "leg": leg, "from": agent or leg, "to": _UNKNOWN}


def called_back(form: Form, request: RawRequest) -> list[Draft]:
    """The call that a caller had asked for, where our status URL names theirs (`?callback_of=CA…`); it is signed."""
    asked = parse_qs(request.query, max_num_fields=1_000).get("callback_of", [""])[0]
    if form["CallStatus"] != "completed" or not asked:
        return []
    return [
        events.draft(
            "threadline.callback.completed", events.key(form["CallSid"], "callback"),
            told_rfc2822(form.get("Timestamp")), channel="phone", contact_id=asked, actor=events.AUTOMATED,
        )
    ]  # fmt: skip


def queue(form: Form, received_at: datetime, account: Account) -> list[Draft]:
    """Enqueue's waitUrl and action, and the url of Queue. Only durations are told; instants are counted from them."""
    sid, queue = form.get("CallSid"), form.get("QueueSid", "")
    if not sid:
        raise Unreadable("a queue webhook without CallSid")
    waited, result = whole(form.get("QueueTime")), form.get("QueueResult")
    leg = form.get("DequeingCallSid") or form.get("DequeueingCallSid")
    entered = received_at - timedelta(seconds=min(max(waited or 0, 0), 10_000_000))
    facts = {"queue": form.get("FriendlyName") or queue or _UNKNOWN, "wait_s": waited, "time_estimated": True}
    if leg is None and result is None:
        return [_in_thequeue(form, entered, account, facts)]
    what = "dequeued" if leg else str(result)
    queued = _call_draft(
        "call.queued", events.key(sid, queue, "queued", what), entered, form, account, **facts,
        actor=_waiting(form), told_late=True,
    )  # fmt: skip
    if leg:
        return [queued, _answered(form, received_at, account, facts, leg)]
    return [queued, *_outcome(form, received_at, account, facts, str(result))]


def _in_thequeue(form: Form, entered: datetime, account: Account, facts: dict[str, Any]) -> Draft:
    sid, queue, waited = form["CallSid"], form.get("QueueSid", ""), facts["wait_s"] or 0
    position = whole(form.get("QueuePosition"))
    if waited <= _LIVE_S:
        event_id = events.key(sid, queue, "queued")
        actor = _waiting(form)
        return _call_draft("call.queued", event_id, entered, form, account, **facts, actor=actor, position=position)
    return _call_draft(
        "message.status", events.key(sid, queue, "waiting", waited), None, form, account, **facts,
        refers_to=sid, status="waiting", position=position,
    )  # fmt: skip


_OUTCOMES = {
    "hangup": "call.abandoned",
    "queue-full": "call.overflowed",
    "leave": "call.overflowed",
    "redirected": "call.overflowed",
}


def _outcome(form: Form, at: datetime, account: Account, facts: dict[str, Any], result: str) -> list[Draft]:
    """How a wait in the queue ended. What follows on a bridged call is told only after the talk."""
    event_id = events.key(form["CallSid"], form.get("QueueSid", ""), result)
    if result == "bridged":
        return [_answered(form, at, account, facts, None)]
    if result == "redirected-from-bridged":
        way = {"from": facts["queue"], "to": _UNKNOWN}
        moved = _call_draft(
            "conversation.transferred", event_id, at, form, account, **facts, **way, actor=events.AGENT, reason=result
        )
        return [_answered(form, at, account, facts, None), moved]
    outcome = _OUTCOMES.get(result)
    if result in (account.options.get("callback_on") or ()):
        outcome = "callback.requested"
    if outcome is None:
        sid = form["CallSid"]
        return [_call_draft("message.status", event_id, at, form, account, **facts, refers_to=sid, status=result)]
    return [_call_draft(outcome, event_id, at, form, account, **facts, actor=_waiting(form), reason=result)]


def _answered(form: Form, at: datetime, account: Account, facts: dict[str, Any], leg: str | None) -> Draft:
    """An answer from the queue; told while it happens only where the url of Queue names the leg that took it."""
    event_id = events.key(form["CallSid"], form.get("QueueSid", ""), "answered" if leg else "bridged")
    who = {"actor": events.agent(leg), "agent_id": leg, "told_late": None if leg else True}
    return _call_draft("call.answered", event_id, at, form, account, **{**facts, **who})


def conference(form: Form, account: Account) -> Draft:
    """Join, leave, hold and unhold. Whoever joins a conference named after the caller's leg answers that caller."""
    status = form.get("StatusCallbackEvent")
    if not status:
        raise Unreadable("a conference webhook without StatusCallbackEvent")
    sid, leg, room = form["ConferenceSid"], form.get("CallSid"), form.get("FriendlyName", "")
    contact = room if _CALL_SID.fullmatch(room) else _contact(form)
    event_id = events.key(sid, form.get("SequenceNumber") or f"{leg or ''}:{status}")
    at = told_rfc2822(form.get("Timestamp"))
    is_ours = leg is not None and leg != contact
    label = form.get("ParticipantLabel") or leg
    facts: dict[str, Any] = {"customer": {}, "contact_id": contact, "conference_id": sid}
    if is_ours and status == "participant-join" and form.get("ParentCallSid") is None:
        actor = events.agent(label)
        return _call_draft("call.answered", event_id, at, form, account, **facts, actor=actor, agent_id=label, leg=leg)
    if is_ours and leg and status == "participant-leave":
        facts |= _went(leg, label)
    return _call_draft(
        "message.status", event_id, at, form, account, **facts, refers_to=leg or sid, status=status,
        hold=None if is_ours else _HOLDS.get(status),
        reason=form.get("ReasonParticipantLeft") or form.get("ReasonConferenceEnded"),
    )  # fmt: skip


def recording(form: Form, account: Account) -> Draft:
    """A voicemail is the customer's message; any other recording belongs to the call that it was made of."""
    sid, status = form["RecordingSid"], form.get("RecordingStatus") or "completed"
    file = events.attachment(form.get("RecordingUrl"), "audio/x-wav", recording_id=sid)
    at = told_rfc2822(form.get("RecordingStartTime"))
    seconds = whole(form.get("RecordingDuration"))
    facts: dict[str, Any] = {"attachments": [file] if form.get("RecordingUrl") else [], "duration_s": seconds}
    if form.get("RecordingSource") == "RecordVerb" and status == "completed":
        return _call_draft(
            "message.received", sid, at, form, account, **facts, actor=events.CUSTOMER, message_id=sid, voicemail=True
        )
    return _call_draft(
        "message.status", events.key(sid, status), at, form, account, **facts,
        refers_to=form.get("CallSid") or sid, status=f"recording-{status}",
    )  # fmt: skip


def transcription(form: Form, account: Account) -> Draft:
    """The text of a voicemail: a message of its own only where no recording is told."""
    sid, status, recording = form["TranscriptionSid"], form.get("TranscriptionStatus"), form.get("RecordingSid")
    if status not in (None, "completed"):
        event_id = events.key(sid, status)
        return _call_draft("message.status", event_id, None, form, account, refers_to=recording or sid, status=status)
    return _call_draft(
        "message.received", sid, None, form, account, actor=events.CUSTOMER, message_id=sid,
        text=form.get("TranscriptionText"), in_reply_to=recording, voicemail=True, told_late=True,
    )  # fmt: skip


def live_transcription(form: Form, account: Account) -> Draft:
    """What was said, piece by piece: part of the call, and no message that waits for an answer.

    On an inbound call the inbound track is the customer's voice.
    """
    kind, sid = form["TranscriptionEvent"], form.get("TranscriptionSid", "")
    sequence = form.get("SequenceId") or kind
    said = _transcript(form.get("TranscriptionData"))
    final = kind == "transcription-content" and form.get("Final", "true") == "true"
    by_customer = (form.get("Track", "inbound_track") == "inbound_track") != _is_outbound(form)
    facts: dict[str, Any] = {"status": kind, "partial": said, "track": form.get("Track")}
    if final:
        speaker = events.CUSTOMER if by_customer else events.AGENT
        facts |= {"status": "transcript", "partial": None, "text": said, "actor": speaker}
    at = told_iso(form.get("Timestamp"))
    refers_to = form.get("CallSid") or sid
    return _call_draft("message.status", events.key(sid, sequence), at, form, account, **facts, refers_to=refers_to)


def _transcript(data: str | None) -> str | None:
    try:
        value = orjson.loads(data) if data else None
    except orjson.JSONDecodeError:
        return data
    return text(value.get("transcript")) if isinstance(value, dict) else None
