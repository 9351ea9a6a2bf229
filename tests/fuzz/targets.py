"""What strangers send, as functions of bytes: each raises only where Threadline does what it must never do.

Never: an exception other than those that become an answer, a text that a database refuses, more than LIMIT_S for
LARGEST bytes. Driven by atheris (`python -m tests.fuzz`), and without it by tests/fuzz/test_targets.py.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from services.conversation.markup import sanitised
from services.ingest.adapters import ADAPTERS
from services.ingest.adapters.base import Account, Forged, Headers, Malformed, RawRequest, Unreadable
from services.ingest.adapters.mail_event import mail_event, mail_id
from services.ingest.cloudevents import BATCH, STRUCTURED, Refused, read_request
from services.ingest.mail.message import read
from services.ingest.validation import InvalidEvent, encoded, validate
from services.ingest.webhooks import events_of
from shared.quoting import split_reply

LARGEST = 60_000
LIMIT_S = 1.0
NOW = datetime(2026, 3, 3, 10, 0, tzinfo=UTC)
ACCOUNT = Account("t", "email_raw", "support", ("secret",), own_addresses=("support@acme.example",))
PROVIDERS = sorted(ADAPTERS)
MEDIA = (
    "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "application/json", "message/rfc822",
    "text/xml", "text/plain",
)  # fmt: skip
EVENTS = (STRUCTURED, BATCH, "application/json", "application/json; charset=utf-16")


class TooSlow(AssertionError):
    """More than LIMIT_S of CPU time."""


class Unclean(AssertionError):
    """A text with a NUL character or a lone surrogate."""


def mail(data: bytes) -> None:
    """Read a mail all the way to its new text and its HTML."""
    found = read(data)
    draft = mail_event(found, ACCOUNT, mail_id(found, data))
    require_clean(draft.data)
    split_reply(draft.data.get("text", ""), draft.data.get("subject"))
    sanitised(draft.data.get("html", ""))
    events_of([draft], ACCOUNT, NOW)


def delivery(data: bytes) -> None:
    """Parse a webhook body; the first two bytes say whose it is and what it is called."""
    provider, media = PROVIDERS[data[0] % len(PROVIDERS)], MEDIA[data[1] % len(MEDIA)]
    account = Account("t", provider, "acme", ("secret",), own_addresses=("support@acme.example",), default_region="NL")
    request = RawRequest("POST", "/x", "", Headers([("content-type", media)]), data[2:], NOW)
    adapter = ADAPTERS[provider]
    for step in (adapter.handshake, adapter.verify, adapter.parse):
        try:
            found = step(request, account)
        except (Forged, Malformed, Unreadable):
            continue
        for draft in getattr(found, "events", ()):
            require_clean(draft.data)
            events_of([draft], account, NOW)


def reply(data: bytes) -> None:
    """Separate a reply: every line is in exactly one half."""
    text = data.decode("utf-8", "replace")
    new, quoted = split_reply(text)
    lines = [line.strip() for line in text.replace("\r\n", "\n").replace("\r", "\n").split("\n") if line.strip()]
    kept = [line.strip() for half in (new, quoted) for line in half.split("\n") if line.strip()]
    assert sorted(lines) == sorted(kept), "a line is lost or doubled"


def events(data: bytes) -> None:
    """Read what is posted to `/v1/events`; the first byte says how it is called."""
    try:
        posted = read_request([(b"content-type", EVENTS[data[0] % len(EVENTS)].encode())], data[1:])
    except Refused as error:
        assert 400 <= error.status < 500
        return
    for event in posted.events:
        try:
            encoded(validate(event, "t", NOW))
        except InvalidEvent as error:
            require_clean([[fault.pointer, fault.detail] for fault in error.faults])


def html(data: bytes) -> None:
    """Sanitise HTML."""
    sanitised(data.decode("utf-8", "replace"))


TARGETS: dict[str, Callable[[bytes], None]] = {
    "mail": mail, "delivery": delivery, "reply": reply, "events": events, "html": html,
}  # fmt: skip


def run(name: str, data: bytes) -> None:
    """Call the target `name` with `data` as `blown_up` makes it. Raises TooSlow."""
    if len(data) < 6:
        return
    given = blown_up(data)
    began = time.thread_time()
    TARGETS[name](given)
    took_s = time.thread_time() - began
    if took_s > LIMIT_S:
        raise TooSlow(f"{name} took {took_s:.1f} s for {len(given)} bytes, from {data[:200]!r}")


def blown_up(data: bytes) -> bytes:
    """Return `data` without its first three bytes, a piece of it repeated up to LARGEST where the first byte says so.

    What takes long does so by repetition, which a fuzzer hardly ever writes by itself.
    """
    how, start, length, rest = data[0], data[1], data[2], data[3:]
    if how % 8 != 1:
        return rest[:LARGEST]
    at = start % len(rest)
    piece = rest[at : at + 1 + length % 24]
    return rest[:at] + piece * (1 + (LARGEST - len(rest)) // len(piece)) + rest[at + len(piece) :]


def require_clean(value: Any) -> None:
    """Raise Unclean where a text in `value` is none that PostgreSQL takes."""
    todo = [value]
    while todo:
        one = todo.pop()
        if isinstance(one, str):
            if "\0" in one or any("\ud800" <= character <= "\udfff" for character in one):
                raise Unclean(repr(one[:100]))
        elif isinstance(one, dict):
            todo += [*one, *one.values()]
        elif isinstance(one, list | tuple):
            todo += one
