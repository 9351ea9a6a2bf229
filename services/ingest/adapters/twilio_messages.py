"""Twilio's messages: SMS, WhatsApp, Messenger, RCS, and what became of those that we sent."""

from __future__ import annotations

import re
from typing import Any

from services.ingest.adapters import events
from services.ingest.adapters.base import Draft
from services.ingest.adapters.payloads import whole

Form = dict[str, str]

_NUMBER = re.compile(r"\+?[0-9]{3,20}", re.ASCII)
_NOBODY = frozenset({"266696687", "7378742833", "86282452253", "2562533", "8656696"})
"""ANONYMOUS, RESTRICTED, UNAVAILABLE, BLOCKED and UNKNOWN as a telephone's keys spell them: a caller who hides."""
_MOST_MEDIA = 100
_CHANNELS = {"whatsapp": "whatsapp", "messenger": "messenger", "rcs": "rcs"}


def _address(value: str) -> tuple[str, str]:
    """Split `whatsapp:+316…` into channel and address; without a prefix it is an SMS."""
    prefix, colon, rest = value.partition(":")
    return (_CHANNELS.get(prefix, prefix), rest) if colon else ("sms", value)


def person(value: str, ours: str, name: str | None = None) -> dict[str, Any]:
    channel, address = _address(value)
    if channel == "messenger":
        return events.customer("messenger", f"{_address(ours)[1]}/{address}" if address else None, name)
    # Short codes and alphanumeric senders are nobody's number.
    is_number = _NUMBER.fullmatch(address) and len(address) > 6 and address.lstrip("+") not in _NOBODY
    return events.customer("phone", address if is_number else None, name)


def _thread(ours: str, theirs: str) -> dict[str, str]:
    channel, address = _address(theirs)
    return {"dm_thread": f"{channel}:{_address(ours)[1]}/{address}"}


def message(form: Form, sid: str) -> Draft:
    sender, ours = form.get("From", ""), form.get("To", "")
    channel, _ = _address(sender)
    media = min(whole(form.get("NumMedia")) or 0, _MOST_MEDIA)
    files = [
        events.attachment(form.get(f"MediaUrl{number}"), form.get(f"MediaContentType{number}"))
        for number in range(media)
        if form.get(f"MediaUrl{number}")
    ]
    return events.draft(
        events.RECEIVED,
        sid,
        None,
        channel=channel,
        customer=person(sender, ours, form.get("ProfileName")),
        actor=events.CUSTOMER,
        message_id=sid,
        thread=_thread(ours, sender),
        text=form.get("Body"),
        attachments=files,
        in_reply_to=form.get("OriginalRepliedMessageSid"),
        button=_some(form, payload="ButtonPayload", text="ButtonText"),
        location=_some(form, latitude="Latitude", longitude="Longitude", address="Address", label="Label"),
        opt_out=form.get("OptOutType"),
        to=ours,
    )


def status(form: Form, sid: str, told: str) -> Draft:
    recipient, ours = form.get("To", ""), form.get("From", "")
    return events.draft(
        events.STATUS,
        events.key(sid, told),
        None,
        channel=_address(recipient)[0],
        customer=person(recipient, ours),
        actor=events.AUTOMATED,
        thread=_thread(ours, recipient),
        refers_to=sid,
        status=told,
        error=_some(form, code="ErrorCode", message="ErrorMessage"),
    )


def _some(form: Form, **names: str) -> dict[str, str]:
    """Return those of the parameters that say something, each under its name here."""
    return {ours: value for ours, theirs in names.items() if (value := form.get(theirs))}
