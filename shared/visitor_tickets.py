"""What lets a chat visitor read what is said in their own session, and nothing else, for a short time.

Ingest, which knows the website's secrets, gives a ticket with each session; conversation, which has the timelines,
takes it. Neither needs the other: both derive the same key from the installation's secret key.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from datetime import UTC, datetime
from hmac import compare_digest, digest

import orjson

from shared.errors import ThreadlineError

STREAM_PATH = "/v1/chat/stream"
"""Where conversation takes a ticket."""


class InvalidTicket(ThreadlineError):
    """Not one of ours, or ended: a new one is got by renewing the session."""


@dataclass(frozen=True, slots=True)
class Ticket:
    """Whose session may be read, until when, and from which website; `origin` None is Threadline's own page."""

    tenant: str
    session: str
    expires_at: datetime
    origin: str | None = None


def ticket_key(secret_key: bytes) -> bytes:
    """Derive the key that signs tickets from the installation's secret key."""
    return digest(secret_key, b"threadline visitor tickets", "sha256")


def make_ticket(ticket: Ticket, key: bytes) -> str:
    """Sign a ticket: letters, digits, `-`, `_` and `.`, so that it can stand in a URL."""
    claims = [ticket.tenant, ticket.session, int(ticket.expires_at.timestamp()), ticket.origin]
    payload = _encode(orjson.dumps(claims))
    return f"{payload}.{_encode(digest(key, payload.encode(), 'sha256'))}"


def read_ticket(text: str, key: bytes, now: datetime) -> Ticket:
    """Return the ticket that `text` is. Raises InvalidTicket."""
    payload, _, signature = text.partition(".")
    if not compare_digest(_decode(signature), digest(key, payload.encode("utf-8", "replace"), "sha256")):
        raise InvalidTicket("this ticket is not ours")
    tenant, session, expires_s, origin = orjson.loads(_decode(payload))
    ticket = Ticket(tenant, session, datetime.fromtimestamp(expires_s, UTC), origin)
    if ticket.expires_at <= now:
        raise InvalidTicket("this ticket has ended: renew the session")
    return ticket


def _encode(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _decode(text: str) -> bytes:
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidTicket("this ticket is not ours") from error
