"""One piece of history → the CloudEvent to post, as bytes."""

from __future__ import annotations

import base64
from datetime import UTC, datetime
from typing import Any, NamedTuple

import orjson

from services.ingest.adapters.base import Account, Draft, Headers, RawRequest, reread
from services.ingest.adapters.email_raw import EmailRaw
from services.ingest.importers.kinds import several_mails
from services.ingest.importers.pieces import Piece
from services.ingest.reading import NotJson, clean_text, cleaned, read_json, storable_id
from shared.events import rfc3339

PROVIDER = "email_raw"
MOST_BYTES = 5 * 1024 * 1024 - 2
"""An event that is larger fits into no request."""

_URL_BYTES = 64
"""What the URL of a file that is kept adds to its event."""
_EARLIEST = datetime(1971, 1, 1, tzinfo=UTC)
"""Mailboxes write the beginning of 1970 where they do not know."""
_ADAPTER = EmailRaw()


class CannotImport(ValueError):
    """This piece is no event; the text is the reason."""


class LargeFile(NamedTuple):
    """An attachment whose bytes fit into no request of events: they go by themselves, before their event."""

    place: int
    content: bytes


class Made(NamedTuple):
    """An event as it is posted, and the files that have to be kept first."""

    event: bytes
    files: list[LargeFile]


def mail_account(account: str, own_addresses: tuple[str, ...]) -> Account:
    """Return the account that imported mail belongs to: what was sent from its own addresses was sent by agents."""
    return Account("", PROVIDER, account, (), own_addresses=own_addresses, options={"own_mail": "agent"})


def mail_event(piece: Piece, account: Account, now: datetime) -> Made:
    """Return the event of a mail: id and data as the adapter of raw mail gives them, and its own time.

    Without a usable Date the time is when the mailbox got it, else `now`; then `time_estimated` is true. Raises
    CannotImport.
    """
    if not piece.raw.strip():
        raise CannotImport("it is empty")
    if several_mails(piece.raw):
        raise CannotImport("it is an mbox with several mails: `threadline import mbox` takes it")
    delivery = reread(_ADAPTER, RawRequest("POST", "", "", Headers(), piece.raw, now), account)
    if delivery.quarantined:
        raise CannotImport(delivery.quarantined[0].reason)
    (draft,) = delivery.events
    at = draft.time or now
    if draft.data.get("time_estimated") and piece.delivered_at and _EARLIEST <= piece.delivered_at <= now:
        at = piece.delivered_at
    event: dict[str, Any] = {
        "specversion": "1.0",
        "id": storable_id(clean_text(draft.id)),
        "source": account.source,
        "type": draft.type,
        "time": rfc3339(at),
        "data": draft.data,
    }
    files: list[LargeFile] = []
    if draft.contents:
        event["data"], files = _with_contents(draft, MOST_BYTES - len(_dumped(event)))
    return Made(_of_a_size(_dumped(event)), files)


def _with_contents(draft: Draft, room_bytes: int) -> tuple[dict[str, Any], list[LargeFile]]:
    """Return the data with the bytes of as many attachments as there is room for, the smallest first, and the rest."""
    listed = list(draft.data["attachments"])
    found = [(len(content), place, content) for place, content in enumerate(draft.contents) if content is not None]
    room_bytes -= len(found) * _URL_BYTES
    apart = []
    for size_bytes, place, content in sorted(found):
        room_bytes -= (size_bytes + 2) // 3 * 4 + len(',"content":""')
        if room_bytes < 0:
            apart.append(LargeFile(place, content))
        else:
            listed[place] = {**listed[place], "content": base64.b64encode(content).decode()}
    return {**draft.data, "attachments": listed}, apart


def line_event(piece: Piece) -> Made:
    """Return the event of a JSON line: the line itself. Raises CannotImport."""
    try:
        read_json(piece.raw)
    except NotJson as error:
        raise CannotImport(str(error).replace("the body", "it")) from error
    return Made(_of_a_size(piece.raw), [])


def _dumped(event: dict[str, Any]) -> bytes:
    """Return `event` as JSON, what cannot be kept replaced. Nearly no mail needs that, and looking costs a tenth."""
    try:
        dumped = orjson.dumps(event)
    except TypeError:
        return orjson.dumps(cleaned(event))
    return orjson.dumps(cleaned(event)) if b"\\u0000" in dumped else dumped


def _of_a_size(event: bytes) -> bytes:
    if len(event) > MOST_BYTES:
        raise CannotImport(f"its event has {len(event)} bytes, and at most {MOST_BYTES} can be posted")
    return event
