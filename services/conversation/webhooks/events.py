"""What is told about a change of a timeline, and who wants to hear it: pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from fnmatch import fnmatchcase
from typing import Any
from uuid import UUID

import orjson

from services.conversation.entries import extra_of, shown
from shared import handles
from shared.events import DECISIONS, DERIVED_SOURCE, TYPE_PREFIX, TimelineRecord, parse_rfc3339, rfc3339

UPDATED = ".updated"
DELETED = ".deleted"
UNKNOWN_TYPE = f"{TYPE_PREFIX}entry"
TEST_TYPE = f"{TYPE_PREFIX}webhook.test"
MESSAGES = f"{TYPE_PREFIX}message."

MAX_BODY_BYTES = 1024 * 1024
"""No receiver should have to take more; what is longer is told without its longest parts."""

# What is left out of a body that is too long, the least needed first. What is small is never the trouble.
_DROPPED = (
    "html", "quoted_text", "extra", "attachments", "references", "text", "subject", "survey", "call", "delivery",
    "thread",
)  # fmt: skip
_SMALL_BYTES = 1_024

# What the topic carries for its readers inside and an outsider has no use for.
_INSIDE = frozenset({"leaf_id", "automatic", "received_at", "topic", "language", "data", "large"})

_DECIDED = frozenset(TYPE_PREFIX + kind for kind in DECISIONS)

# What is taken from the row even where the topic has something.
_OF_THE_ROW = frozenset({"actor", "extra"})


@dataclass(frozen=True, slots=True)
class Told:
    """One change of one entry. `type` is the entry's own for its first version, then with `.updated` or `.deleted`."""

    tenant: str
    webhook_id: str
    """The same for the same version of the same entry, whatever is repeated: receivers drop what they know by it."""
    type: str
    entry_id: UUID
    leaf_id: UUID
    conversation_id: UUID | None
    channel: str | None
    source: str | None
    changed_at: datetime
    occurred_at: datetime | None
    entry: dict[str, Any]
    message: dict[str, Any] | None
    """What whoever delivers a message needs beyond the entry: to whom, and its ids in the provider's terms."""
    from_row: bool = False
    """Whether what it says is to be read from its row (`whole`).

    The topic leaves out what is long, and an agent's word loses the handles of who is erased.
    """
    change: dict[str, Any] | None = None
    """Whose a handle was and became, where it is told of one and of no entry: `entry_id` is then its leaf's."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What an endpoint wants to hear; None is everything. Patterns have `*`, `?` and `[…]` and match the whole text."""

    event_types: Sequence[str] | None = None
    channels: Sequence[str] | None = None
    sources: Sequence[str] | None = None
    max_age_s: int | None = None
    """What happened longer before it was told is not sent: imported history."""


def told_by(record: TimelineRecord, changed_at: datetime) -> Told | None:
    """Return what a record of the timeline topic tells outside; None for what is no entry, merge or unmerge."""
    if record.kind == "leaf":
        return _change(record, changed_at)
    if record.kind != "entry":
        return None
    body = record.body
    own_type = body.get("type") or UNKNOWN_TYPE
    # A derived entry may go and come back, so its record is numbered by the changes of its tenant; the entry from 1.
    version = body.get("version", record.version)
    suffix = DELETED if record.deleted else UPDATED if version > 1 else ""
    conversation = body.get("conversation_id")
    occurred = body.get("occurred_at")
    return Told(
        tenant=record.tenant,
        webhook_id=f"{record.key}.{record.version}",
        type=own_type + suffix,
        entry_id=UUID(record.key),
        leaf_id=UUID(body["leaf_id"]),
        conversation_id=UUID(conversation) if conversation else None,
        channel=body.get("channel"),
        source=body.get("source"),
        changed_at=changed_at,
        occurred_at=parse_rfc3339(occurred) if occurred else None,
        entry=_deleted(record) if record.deleted else _shown(body),
        message=None if record.deleted or not own_type.startswith(MESSAGES) else _message(body.get("data") or {}),
        from_row=not record.deleted and (bool(body.get("large")) or own_type in _DECIDED),
    )


def whole(told: Told, line: Sequence[Any]) -> Told:
    """Return what is told of an entry with all that is in it now, from `line`, its row as `SHOWN`.

    Where it stands and which version it is stay as they were told.
    """
    data: dict[str, Any] = line[-1]
    extra = extra_of(data)
    stood = {name: value for name, value in told.entry.items() if name not in _OF_THE_ROW}
    entry = {**shown((*line, told.entry["conversation_id"], False), extra), "extra": extra, **stood}
    return replace(told, entry=entry, message=None if told.message is None else _message(data), from_row=False)


def _change(record: TimelineRecord, changed_at: datetime) -> Told | None:
    """Return what a leaf tells that changed hands: one with a handle, or the one whose id a customer had or has now."""
    body, leaf_id = record.body, record.key
    if record.deleted or not body.get("change"):
        return None
    handle = body["kind"] in handles.STRENGTH and body["kind"] != "contact"
    if not handle and leaf_id not in (body["was"], body["customer_id"]):
        return None  # a session goes where its customer goes
    return Told(
        tenant=record.tenant,
        webhook_id=f"{leaf_id}.{record.version}",
        type=TYPE_PREFIX + body["change"],
        entry_id=UUID(leaf_id),
        leaf_id=UUID(leaf_id),
        conversation_id=None,
        channel=None,
        source=DERIVED_SOURCE,
        changed_at=changed_at,
        occurred_at=changed_at,
        entry={},
        message=None,
        change={
            "was": body["was"],
            "became": body["customer_id"],
            "handle": f"{body['kind']}:{body['value']}" if handle else None,
        },
    )


def _shown(body: dict[str, Any]) -> dict[str, Any]:
    """Return the entry as the API gives it, from what the topic carries."""
    shown = {name: value for name, value in body.items() if name not in _INSIDE}
    shown["extra"] = extra_of(body.get("data") or {})
    return shown


def _message(data: dict[str, Any]) -> dict[str, Any]:
    handles = (data.get("customer") or {}).get("handles") or ()
    return {
        "message_id": data.get("message_id"),
        "handles": [f"{handle['kind']}:{handle['value']}" for handle in handles],
        "thread": data.get("thread") or {},
    }


def _deleted(record: TimelineRecord) -> dict[str, Any]:
    return {"id": record.key, "type": record.body.get("type"), "version": record.version, "deleted": True}


def body_of(told: Told, customer_id: UUID | None, conversation_id: UUID | None) -> bytes:
    """Return the body of the delivery, as Standard Webhooks proposes. Both ids are those that answer now.

    Of what is too long `left_out` names the fields that are not told.
    """
    if told.change is not None:
        now = {"customer_id": str(customer_id) if customer_id else None, "change": told.change}
        return payload(told.type, told.changed_at, now)
    entry = told.entry
    if not entry.get("deleted"):
        entry = {**entry, "conversation_id": str(conversation_id) if conversation_id else None}
    data: dict[str, Any] = {"customer_id": str(customer_id) if customer_id else None, "entry": entry}
    if told.message is not None:
        data["message"] = told.message
    body = payload(told.type, told.changed_at, data)
    return body if len(body) <= MAX_BODY_BYTES else _shortened(told, entry, data)


def _shortened(told: Told, entry: dict[str, Any], data: dict[str, Any]) -> bytes:
    """Return the body without its longest parts, the least needed first, and with their names."""
    message = told.message or {}
    entry, thread = dict(entry), dict(message.get("thread") or {})
    left_out: list[str] = []
    data = {**data, "entry": entry, "left_out": left_out}
    if told.message is not None:
        data["message"] = message = {**message, "thread": thread}
    body = payload(told.type, told.changed_at, data)
    for name in _DROPPED:
        if len(body) <= MAX_BODY_BYTES:
            break
        for place in (entry, message, thread):
            if len(orjson.dumps(place.get(name))) > _SMALL_BYTES:
                del place[name]
                left_out.append(name)
        body = payload(told.type, told.changed_at, data)
    return body


def payload(type_: str, at: datetime, data: dict[str, Any]) -> bytes:
    """Return the JSON of any delivery: type, timestamp, data."""
    return orjson.dumps({"type": type_, "timestamp": rfc3339(at), "data": data})


def wants(wanted: Wanted, told: Told) -> bool:
    """Tell whether an endpoint is to be told."""
    return (
        _matches(wanted.event_types, told.type)
        and _matches(wanted.channels, told.channel)
        and _matches(wanted.sources, told.source)
        and not _too_old(wanted.max_age_s, told)
    )


def _matches(patterns: Sequence[str] | None, text: str | None) -> bool:
    if patterns is None:
        return True
    return text is not None and any(fnmatchcase(text, pattern) for pattern in patterns)


def _too_old(max_age_s: int | None, told: Told) -> bool:
    if max_age_s is None or told.occurred_at is None:
        return False
    return told.changed_at - told.occurred_at > timedelta(seconds=max_age_s)
