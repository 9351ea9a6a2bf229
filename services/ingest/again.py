"""A delivery that was kept in quarantine, read again by the adapter of today. Pure: stored request in, events out."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from services.ingest.adapters.base import Account, Adapter, Headers, Quarantined, RawRequest, reread
from services.ingest.reading import clean_text, storable_id
from services.ingest.webhooks import events_of
from shared.events import InboundEvent
from shared.log.headers import decode_headers


@dataclass(frozen=True, slots=True)
class ReadAgain:
    """What a kept delivery says today. `still` is why the part in question is not understood, None where it now is.

    `others` are further parts of the same delivery that are not understood, under the keys that they are kept under.
    """

    events: list[tuple[InboundEvent, bytes]]
    still: str | None
    others: list[Quarantined]


def request_of(body: bytes, headers: bytes | None, received_at: datetime) -> RawRequest:
    """Return the request as the quarantine keeps it: without its credentials, received when it really was."""
    pairs = [(name, value.decode("latin-1")) for name, value in decode_headers(headers)]
    own = {name: value for name, value in pairs if name.startswith(":")}
    return RawRequest(
        method=own.get(":method", "POST"),
        path="",
        query=own.get(":query", ""),
        headers=Headers(pair for pair in pairs if pair[0] not in own),
        body=body,
        received_at=received_at,
    )


def account_of(tenant: str, source: str) -> Account:
    """Return the account that a source of an adapter names, as it is without any settings."""
    provider, _, account = source.removeprefix("/").partition("/")
    return Account(tenant, provider, account, ())


def read_again(adapter: Adapter | None, request: RawRequest, account: Account, key: str) -> ReadAgain:
    """Read a kept delivery, of which the part with the dedupe key `key` was not understood."""
    if adapter is None:
        return ReadAgain([], f"there is no provider {account.provider!r}", [])
    delivery = reread(adapter, request, account)
    events, broken = events_of(delivery.events, account, request.received_at)
    parts = {storable_id(clean_text(part.dedupe_key)): part for part in (*delivery.quarantined, *broken)}
    part = parts.pop(key, None)
    still = part.reason if part is not None else None
    if still is None and not events and not parts:
        still = "the adapter finds nothing in it: drop it if that is right"
    return ReadAgain(events, still, [Quarantined(part.reason, key) for key, part in parts.items()])
