"""The port of all channel adapters: raw request → events. Values in, values out: no I/O, no clock, no state.

The route reads one request, looks up the account that its path names, and calls `receive`. It then appends every
draft and every quarantined part durably, and only then sends the answer. What needs memory (a token that may be used
once) comes back as a value, `Delivery.replay_token`, for the route to check and remember.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any, Protocol, runtime_checkable

import orjson

from shared.errors import ThreadlineError

LATEST = timedelta(hours=24)
"""A provider's time further ahead of receipt than this is not believed; the time of receipt is taken instead."""

JSON = "application/json"
TEXT = "text/plain; charset=utf-8"
XML = "text/xml; charset=utf-8"


class Forged(ThreadlineError):
    """Not from the provider: `status` is 401 (no or wrong credentials) or 403 (wrong signature)."""

    def __init__(self, status: int, detail: str, headers: tuple[tuple[str, str], ...] = ()) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = headers


class Malformed(ThreadlineError):
    """A header, timestamp or media type that the provider never sends: `status` is the 4xx to answer."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail


class Unreadable(ThreadlineError):
    """Genuine, but not understood: to be quarantined with `reason`."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Headers:
    """Request headers: names without regard to case, several values of one name in order."""

    __slots__ = ("_first", "_items")

    def __init__(self, items: Iterable[tuple[str, str]] = ()) -> None:
        self._keep([(name.lower(), value) for name, value in items])

    @classmethod
    def of_asgi(cls, pairs: Iterable[tuple[bytes, bytes]]) -> Headers:
        """Return headers as ASGI has them: bytes, names in lower case."""
        headers = cls.__new__(cls)
        headers._keep([(name.decode("latin-1"), value.decode("latin-1")) for name, value in pairs])
        return headers

    def _keep(self, items: list[tuple[str, str]]) -> None:
        self._items = tuple(items)
        # Of several with one name the first stays.
        self._first = dict(reversed(items))

    def get(self, name: str) -> str | None:
        """Return the first value of `name`, or None."""
        return self._first.get(name.lower())

    def get_all(self, name: str) -> list[str]:
        """Return all values of `name`."""
        wanted = name.lower()
        if wanted not in self._first:
            return []
        if len(self._first) == len(self._items):
            return [self._first[wanted]]
        return [value for key, value in self._items if key == wanted]

    def items(self) -> tuple[tuple[str, str], ...]:
        """Return all pairs, names in lower case."""
        return self._items

    def __repr__(self) -> str:
        # Values may be credentials.
        return f"Headers({[name for name, _ in self._items]})"


@dataclass(frozen=True, slots=True)
class RawRequest:
    """One HTTP request as it came. `query` is the raw query string without `?`, `body` the bytes as received."""

    method: str
    path: str
    query: str
    headers: Headers
    body: bytes
    received_at: datetime


@dataclass(frozen=True, slots=True)
class Account:
    """One channel account of one tenant, with its active secrets in the clear (newest first; several in rotation)."""

    tenant: str
    provider: str
    account: str
    secrets: tuple[str, ...] = field(repr=False)
    public_url: str | None = None
    own_addresses: tuple[str, ...] = ()
    default_region: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    ticket_key: bytes = field(default=b"", repr=False)
    """What signs chat visitors' tickets (shared/visitor_tickets.py); the installation's, not a website's."""
    keys: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """The JSON Web Key Set that the provider publishes, where its deliveries are verified by such keys."""

    @property
    def source(self) -> str:
        """`source` of all events of this account."""
        return f"/{self.provider}/{self.account}"


@dataclass(frozen=True, slots=True)
class Draft:
    """One event of a delivery. `type` is the full type; `time` None means the time of receipt, then estimated."""

    id: str
    type: str
    time: datetime | None
    data: dict[str, Any]
    subject: str | None = None
    contents: tuple[bytes | None, ...] = field(default=(), repr=False)
    """The bytes of `data.attachments`, in their order, where the delivery brought them."""


@dataclass(frozen=True, slots=True)
class Quarantined:
    """One part of a genuine delivery that could not be understood. `dedupe_key` is the id that it is kept under."""

    reason: str
    dedupe_key: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What the provider expects to hear."""

    status: int = 200
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class ReplayToken:
    """A token that counts once: where it was seen in the last `ttl_s` seconds, the delivery is a duplicate.

    Remember it together with the durable append, never before: a delivery that failed comes again with its token.
    """

    value: str
    ttl_s: int


@dataclass(frozen=True, slots=True)
class Sender:
    """Who of an account's many senders a delivery is from, and how many events a minute the account lets each send."""

    name: str
    events_per_minute: int


@dataclass(frozen=True, slots=True)
class Delivery:
    """What one request brought. Append `events` and `quarantined` durably, then send `answer`."""

    answer: Answer
    events: tuple[Draft, ...] = ()
    quarantined: tuple[Quarantined, ...] = ()
    replay_token: ReplayToken | None = None
    sender: Sender | None = None
    readable_by: tuple[tuple[str, str], ...] = ()
    """Headers that let the sender's browser read an answer which is not this delivery's own."""


class Adapter(Protocol):
    """One provider. Pure; the same instance serves all accounts."""

    def handshake(self, request: RawRequest, account: Account) -> Answer | None:
        """Answer a provider's set-up call (GET challenge, token), or None where this request is none.

        Raises Forged where the challenge does not fit the account, Malformed where it is incomplete.
        """
        ...

    def verify(self, request: RawRequest, account: Account) -> None:
        """Return only where one of the account's active secrets proves the request genuine.

        Raises Forged (401/403), or Malformed (4xx) for a timestamp or header that cannot be read.
        """
        ...

    def parse(self, request: RawRequest, account: Account) -> Delivery:
        """Read a verified request. Raises Malformed (4xx), or Unreadable to quarantine the delivery as a whole."""
        ...

    def taken(self, account: Account, key: str) -> Answer:
        """Return the answer to a delivery that was taken as a whole under `key`, also into quarantine."""
        ...


@dataclass(frozen=True, slots=True)
class KeySource:
    """Where a provider says which keys sign its deliveries, and which of them one request names."""

    metadata_url: str
    key_id: str | None


@runtime_checkable
class WithPublishedKeys(Protocol):
    """An adapter whose proof lies in keys that its provider publishes; the caller puts them into `Account.keys`."""

    def key_source(self, request: RawRequest, account: Account) -> KeySource | None:
        """Return whose keys `request` needs, or None where it needs none. Never raises."""
        ...


_EMPTY = Answer(200)


class Plain:
    """What most adapters share: no handshake, and an empty 200."""

    def handshake(self, request: RawRequest, account: Account) -> Answer | None:
        """There is none."""
        return None

    def taken(self, account: Account, key: str) -> Answer:
        """An empty 200."""
        return _EMPTY


def receive(adapter: Adapter, request: RawRequest, account: Account) -> Delivery:
    """Take one request all the way: handshake, proof, parse, and quarantine of what is genuine but not understood.

    Raises Forged, and nothing else: the route answers its status and counts it. Malformed requests come back as a
    Delivery without events whose answer is the 4xx.
    """
    try:
        answer = adapter.handshake(request, account)
        if answer is not None:
            return Delivery(answer)
        if request.method.upper() != "POST":
            return Delivery(problem(405, "only POST is taken here", (("allow", "POST"),)))
        _prove(adapter, request, account)
        if is_blank(request.body):
            return Delivery(problem(422, "the body is empty"))
        return _settled(_parsed(adapter, request, account), request)
    except Malformed as error:
        return Delivery(problem(error.status, error.detail))


def reread(adapter: Adapter, request: RawRequest, account: Account) -> Delivery:
    """Read what needs no proof: a delivery that was proven when it came, or history of one's own. Never raises.

    What is not understood comes back as a quarantined part.
    """
    try:
        return _settled(_parsed(adapter, request, account), request)
    except (Malformed, Forged) as error:
        return Delivery(
            problem(error.status, error.detail), quarantined=(Quarantined(error.detail, body_key(request.body)),)
        )


def _prove(adapter: Adapter, request: RawRequest, account: Account) -> None:
    try:
        adapter.verify(request, account)
    except Unreadable as error:
        # The proof lies in a body that cannot be read: nothing shows that it is genuine.
        raise Forged(403, error.reason) from error


def _parsed(adapter: Adapter, request: RawRequest, account: Account) -> Delivery:
    try:
        return adapter.parse(request, account)
    except (Malformed, Forged):
        raise
    except Unreadable as error:
        reason = error.reason
    except Exception as error:
        # A genuine delivery outlives a bug of ours: it is kept with the reason and retried after the repair, whereas
        # a 5xx would be repeated to no avail until the provider gives up.
        reason = f"the adapter failed: {type(error).__name__}: {error}"[:500]
    key = body_key(request.body)
    return Delivery(adapter.taken(account, key), quarantined=(Quarantined(reason, key),))


def _settled(delivery: Delivery, request: RawRequest) -> Delivery:
    """Replace times that cannot be true by the time of receipt, and drop repeats within the delivery."""
    if len(delivery.events) == 1 and not delivery.quarantined:
        (only,) = delivery.events
        believed = _believable(only, request.received_at)
        return delivery if believed is only else replace(delivery, events=(believed,))
    events: dict[str, Draft] = {}
    for draft in delivery.events:
        events.setdefault(draft.id, _believable(draft, request.received_at))
    quarantined = {part.dedupe_key: part for part in delivery.quarantined if part.dedupe_key not in events}
    return replace(delivery, events=tuple(events.values()), quarantined=tuple(quarantined.values()))


def _believable(draft: Draft, received_at: datetime) -> Draft:
    if draft.time is not None and draft.time - received_at <= LATEST:
        return draft
    return replace(draft, time=received_at, data={**draft.data, "time_estimated": True})


def is_blank(body: bytes) -> bool:
    """Tell whether nothing but white space is in a body. (Stripping it would copy all of a mail with its files.)"""
    return not body or body.isspace()


def body_key(body: bytes) -> str:
    """Return the dedupe key of a body without one of its own: `sha256:` and lower-case hex."""
    return "sha256:" + sha256(body).hexdigest()


def part_key(part: Any) -> str:
    """Return the dedupe key of a part without an id of its own: the hash of the part alone, whatever order its fields
    come in, since batches may be regrouped when they are repeated."""
    return body_key(orjson.dumps(part, option=orjson.OPT_SORT_KEYS))


def problem(status: int, detail: str, headers: tuple[tuple[str, str], ...] = ()) -> Answer:
    """Return an RFC 9457 answer."""
    body = orjson.dumps({"type": "about:blank", "title": _TITLES.get(status, "Refused"), "status": status,
                         "detail": detail})  # fmt: skip
    return Answer(status, body, (("content-type", "application/problem+json"), *headers))


_TITLES = {
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    405: "Method Not Allowed",
    413: "Content Too Large",
    415: "Unsupported Media Type",
    422: "Unprocessable Content",
}
