"""What is left of an erased person: keyed hashes by which what comes again is recognised, and nothing else.

An erasure is an event of the inbound topic that carries only tombstones, so that whoever reads the log, into whatever
database, drops the same events. A tombstone is the id of an entry (itself a keyed hash, shared/entry_ids.py) or the
keyed hash of a name: a handle in matching form, a session, a browser.

Source: docs/decisions/0012-erasure.md
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from hmac import digest
from typing import NamedTuple
from uuid import UUID

import orjson

from shared.errors import Rejected
from shared.events import DERIVED_SOURCE, TYPE_PREFIX, InboundEvent

ERASED = "customer.erased"
"""Type (without prefix) of the event that carries tombstones; made here, and nobody may post it."""

STUB_TYPE = f"{TYPE_PREFIX}erased"
"""Type of what stands in the log in the place of an erased record."""

MOST_TOMBSTONES = 4_000
"""Of one record: about 160 kB."""

STUB_KEY = b"erased"


def tombstone(secret: bytes, tenant: str, name: str) -> UUID:
    """Return the keyed hash of a tenant's name for something: `email:ann@example.com`, `contact:s-1` …

    `secret` is that of entry ids (shared/entry_ids.py); no id of an entry begins as these do.
    """
    message = f"\0tombstone\0{tenant}\0{name}".encode("utf-8", "surrogatepass")
    return UUID(bytes=digest(secret, message, "sha256")[:16])


class Erasure(NamedTuple):
    """What one erasure (or a part of a large one) removes: entries by their ids, names by their keyed hashes."""

    erasure_id: UUID
    erased_at: datetime
    """Up to when what happened is erased: the erasure itself, or what is too old."""
    decided_at: datetime
    """When it was decided. What is received later is news, also where it tells of an earlier time."""
    entries: tuple[UUID, ...]
    names: tuple[UUID, ...]


def events_of(tenant: str, erasure: Erasure) -> Iterator[InboundEvent]:
    """Yield the events that carry an erasure: one, or several where it is large."""
    marked = [*(("e", id_) for id_ in erasure.entries), *(("n", id_) for id_ in erasure.names)]
    for part, first in enumerate(range(0, max(len(marked), 1), MOST_TOMBSTONES)):
        some = marked[first : first + MOST_TOMBSTONES]
        data = {
            "erasure_id": str(erasure.erasure_id),
            "entries": [str(id_) for kind, id_ in some if kind == "e"],
            "names": [str(id_) for kind, id_ in some if kind == "n"],
        }
        id_ = f"{ERASED}:{erasure.erasure_id}:{part}"
        times = (erasure.erased_at, erasure.decided_at)
        yield InboundEvent(tenant, DERIVED_SOURCE, id_, TYPE_PREFIX + ERASED, *times, data)


def is_erasure(event: InboundEvent) -> bool:
    return event.type == TYPE_PREFIX + ERASED


def erasure_of(event: InboundEvent) -> Erasure:
    """Read an event that `events_of` made. Raises Rejected."""
    try:
        entries, names = ([UUID(id_) for id_ in event.data[kind]] for kind in ("entries", "names"))
        times = (event.occurred_at, event.received_at)
        return Erasure(UUID(event.data["erasure_id"]), *times, tuple(entries), tuple(names))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Rejected(f"the erasure cannot be read ({type(error).__name__})") from error


class Stub(NamedTuple):
    """What stands in the place of an erased record; the entry is not known where only a key was destroyed."""

    tenant: str | None
    entry_id: UUID | None


def stub(tenant: str | None, entry_id: UUID | None) -> bytes:
    """Return the value that takes the place of an erased record."""
    named = {"tenant": tenant, "entry": str(entry_id) if entry_id else None}
    return orjson.dumps({"specversion": "1.0", "type": STUB_TYPE, **named})


_MARK = f'"type":"{STUB_TYPE}"'.encode()


def stub_of(value: bytes) -> Stub | None:
    """Return the stub that a record's value is, None where it is an ordinary record."""
    if len(value) > 500 or _MARK not in value:
        return None
    try:
        read = orjson.loads(value)
        if read["type"] != STUB_TYPE:
            return None
        return Stub(read["tenant"], UUID(read["entry"]) if read["entry"] else None)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def named(secret: bytes, tenant: str, names: Iterable[str]) -> Sequence[UUID]:
    """Return the tombstones of names, each once."""
    return [tombstone(secret, tenant, name) for name in dict.fromkeys(names)]
