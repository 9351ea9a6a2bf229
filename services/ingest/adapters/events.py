"""Building the data of events in the contract's words, so that adapters only say what is special about a provider."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from services.ingest.adapters.base import Draft
from services.ingest.adapters.payloads import without_nothing
from services.ingest.adapters.times import Told
from shared.events import PROVIDER_TIMES

When = Told | datetime | None
"""When something happened: by the provider, by us, or not known."""

RECEIVED = "threadline.message.received"
SENT = "threadline.message.sent"
STATUS = "threadline.message.status"
EDITED = "threadline.message.edited"
DELETED = "threadline.message.deleted"
REACTED = "threadline.message.reacted"
SUBSCRIBED = "threadline.customer.subscribed"
UNSUBSCRIBED = "threadline.customer.unsubscribed"
ENTERED = "threadline.customer.entered"
LEFT = "threadline.customer.left"

CONTRACT_FIELDS = PROVIDER_TIMES | {
    "channel", "customer", "actor", "message_id", "contact_id", "conversation_id", "thread", "headers", "subject",
    "text", "html", "language", "topic", "attachments", "time_estimated", "refers_to", "status",
}  # fmt: skip
"""Fields of the data that mean something here: a provider's field of that name must not slip in unread."""

CUSTOMER = {"type": "customer"}
AUTOMATED = {"type": "automated"}
AGENT = {"type": "agent"}
BOT = {"type": "bot"}


def customer(kind: str, value: str | None, name: str | None = None, *, verified: bool = True) -> dict[str, Any]:
    """Return `customer` with one handle. `verified` is true for what the provider itself vouches for."""
    handles = [{"kind": kind, "value": value, "verified": verified}] if value else []
    return without_nothing({"handles": handles, "name": name})


def agent(identity: str | None, name: str | None = None) -> dict[str, Any]:
    """Return the actor of what a person of ours wrote."""
    return without_nothing({"type": "agent", "id": identity, "name": name})


def key(*parts: object) -> str:
    """Join a composite dedupe key."""
    return ":".join(str(part) for part in parts)


def draft(kind: str, event_id: str, at: When, /, **data: Any) -> Draft:
    """Return a draft whose data holds only what says something. An object that came out empty is left out.

    What a provider told as the time is kept verbatim.
    """
    if isinstance(at, Told):
        return Draft(event_id, kind, at.at, without_nothing({**data, at.field: at.value}))
    return Draft(event_id, kind, at, without_nothing(data))


def attachment(
    url: str | None = None,
    media_type: str | None = None,
    name: str | None = None,
    size_bytes: int | None = None,
    **facts: Any,
) -> dict[str, Any]:
    """Return one attachment by reference. `facts` hold the provider's own reference (file id, hash)."""
    return without_nothing({"name": name, "media_type": media_type, "size_bytes": size_bytes, "url": url, **facts})
