"""Our own website chat. The widget holds a short-lived token that we signed; the client's clock is not believed.

Protocol (docs/adapters.md, "chat"):
- `GET ?nonce=<at least 22 characters of randomness>` opens a session: `{token, session, visitor, expires_at,
  stream_url}`; the last is where what is said in it can be read as it comes (shared/visitor_tickets.py). With
  `user=<id>&user_hash=<hex HMAC-SHA256(secret, "user:" + id)>`, made by the website's server, the visitor is a known
  customer. With `token=<token>` it renews: same session, same visitor.
- `POST {"token", "events": [{"type": "message", "client_message_id", "sequence", "text", "sent_at"}, …]}`.
A token is `v1.<base64url payload>.<base64url HMAC-SHA256(secret, "v1." + payload)>`.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any
from uuid import UUID

import orjson

from services.ingest.adapters import events
from services.ingest.adapters.base import (
    JSON,
    Account,
    Answer,
    Delivery,
    Draft,
    Forged,
    Malformed,
    Quarantined,
    RawRequest,
    Sender,
    part_key,
)
from services.ingest.adapters.meta import query_of
from services.ingest.adapters.payloads import Json, items, mapping, read_object, text, whole, without_nothing
from services.ingest.adapters.signatures import hmac_sha256, matches
from services.ingest.adapters.times import from_iso
from shared.events import rfc3339
from shared.visitor_tickets import STREAM_PATH, Ticket, make_ticket

LIFETIME = timedelta(hours=1)
RENEWAL = timedelta(hours=24)
"""How long after its end a token may still be renewed: the same tab next morning is the same visitor."""

_MOST_EVENTS = 100
_SHORTEST_NONCE = 22


@dataclass(frozen=True, slots=True)
class Session:
    """Who speaks: `visitor` is the browser, `session` the contact, `user` the website's own customer id if proven."""

    visitor: str
    session: str
    expires_at: datetime
    user: str | None = None


class Chat:
    """One website; `secrets` sign tokens (the newest) and check them (all). `options.origins` lists allowed origins."""

    def handshake(self, request: RawRequest, account: Account) -> Answer | None:
        """Answer the browser's preflight, and open or renew a session."""
        method = request.method.upper()
        if method == "OPTIONS":
            return Answer(204, b"", _cors(request, account))
        if method != "GET":
            return None
        _require_origin(request, account)
        try:
            query = query_of(request)
        except ValueError as error:
            raise Malformed(400, "the query has too many parameters") from error
        with _readable(request, account):
            session = _renewed(query, request, account) if "token" in query else _opened(query, request, account)
        body = orjson.dumps(
            {
                "token": make_token(session, account.secrets[0]),
                "session": session.session,
                "visitor": session.visitor,
                "expires_at": rfc3339(session.expires_at),
                "stream_url": _stream_url(session, request, account),
            }
        )
        return Answer(200, body, (("content-type", JSON), ("cache-control", "no-store"), *_cors(request, account)))

    def verify(self, request: RawRequest, account: Account) -> None:
        """A token of ours that has not ended, from an allowed origin."""
        _require_origin(request, account)
        with _readable(request, account):
            session_of(request, account)

    def parse(self, request: RawRequest, account: Account) -> Delivery:
        """Return the events that the widget sent."""
        session = session_of(request, account)
        body = read_object(request.body)
        parts = items(body.get("events"))
        if len(parts) > _MOST_EVENTS:
            raise Malformed(413, f"at most {_MOST_EVENTS} events at a time")
        found = [_event(mapping(part), session, account, request) for part in parts]
        drafts = tuple(part for part in found if isinstance(part, Draft))
        accepted = orjson.dumps({"accepted": [{"source": account.source, "id": draft.id} for draft in drafts]})
        return Delivery(
            Answer(202, accepted, (("content-type", JSON), *_cors(request, account))),
            drafts,
            tuple(part for part in found if isinstance(part, Quarantined)),
            sender=_bounded(session, account),
            readable_by=_cors(request, account),
        )

    def taken(self, account: Account, key: str) -> Answer:
        """202 without a list."""
        return Answer(202, b'{"accepted":[]}', (("content-type", JSON),))


# --- sessions ------------------------------------------------------------------------------------------------------


def make_token(session: Session, secret: str) -> str:
    """Sign a session."""
    payload = orjson.dumps(
        without_nothing(
            {
                "v": session.visitor,
                "s": session.session,
                "u": session.user,
                "exp": int(session.expires_at.timestamp()),
            }
        )
    )
    signed = "v1." + _encode(payload)
    return f"{signed}.{_encode(hmac_sha256(secret, signed.encode()))}"


def read_token(token: str, account: Account) -> Session:
    """Return the session of a token that one of the account's secrets signed, ended or not. Raises Forged (401)."""
    return _last_session(token, account.secrets)


# A delivery's proof reads the token and so does its parser straight after.
@lru_cache(maxsize=1)
def _last_session(token: str, secrets: tuple[str, ...]) -> Session:
    signed, _, signature = token.rpartition(".")
    version, _, payload = signed.partition(".")
    given = _decode(signature)
    if version != "v1" or not matches(
        given, [hmac_sha256(secret, signed.encode("utf-8", "replace")) for secret in secrets]
    ):
        raise Forged(401, "the session token is not ours")
    try:
        claims = mapping(orjson.loads(_decode(payload)))
        expires_at = datetime.fromtimestamp(claims["exp"], UTC)
        return Session(claims["v"], claims["s"], expires_at, claims.get("u"))
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError, OverflowError, OSError) as error:
        raise Forged(401, "the session token cannot be read") from error


def session_of(request: RawRequest, account: Account) -> Session:
    """Return the session that a request proves, from its bearer token, `token` in the body or in the query.

    Raises Forged (401). The event stream uses it too.
    """
    scheme, _, bearer = (request.headers.get("authorization") or "").partition(" ")
    token = bearer.strip() if scheme.lower() == "bearer" else None
    if token is None and request.body.strip():
        token = text(read_object(request.body).get("token"))
    if token is None and request.query:
        token = query_of(request).get("token")
    if not token:
        raise Forged(401, "the session token is missing")
    session = read_token(token, account)
    if session.expires_at <= request.received_at:
        raise Forged(401, "the session token has ended: renew it")
    return session


def _encode(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _decode(encoded: str) -> bytes:
    try:
        return base64.b64decode(encoded + "=" * (-len(encoded) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as error:
        raise Forged(401, "the session token cannot be read") from error


def _opened(query: Mapping[str, str], request: RawRequest, account: Account) -> Session:
    nonce, user = query.get("nonce", ""), query.get("user")
    if len(nonce) < _SHORTEST_NONCE or len(nonce) > 200:
        raise Malformed(422, f"nonce is to be {_SHORTEST_NONCE} to 200 random characters")
    if user is not None and not _is_user(user, query.get("user_hash", ""), account):
        raise Forged(403, "user_hash is not the HMAC of user")
    # The ids come from the nonce and the secret: nobody can choose another's, and no randomness is needed here.
    made = hmac_sha256(account.secrets[0], b"session:" + nonce.encode("utf-8", "replace")).hex()
    return Session(f"v-{made[:32]}", f"s-{made[32:]}", request.received_at + LIFETIME, user)


def _renewed(query: Mapping[str, str], request: RawRequest, account: Account) -> Session:
    old = read_token(query["token"], account)
    if old.expires_at + RENEWAL <= request.received_at:
        raise Forged(401, "the session token ended too long ago: open a new session")
    return Session(old.visitor, old.session, request.received_at + LIFETIME, old.user)


def _is_user(user: str, given: str, account: Account) -> bool:
    message = b"user:" + user.encode("utf-8", "replace")
    candidates = [hmac_sha256(secret, message).hex().encode() for secret in account.secrets]
    return matches(given.lower().encode("utf-8", "replace"), candidates)


def _bounded(session: Session, account: Account) -> Sender | None:
    limit = whole(account.options.get("events_per_minute"))
    return Sender(session.session, limit) if limit is not None and limit > 0 else None


def _stream_url(session: Session, request: RawRequest, account: Account) -> str:
    origin = None if _is_own(request) else request.headers.get("origin")
    ticket = Ticket(account.tenant, session.session, session.expires_at, origin)
    return f"{STREAM_PATH}?ticket={make_ticket(ticket, account.ticket_key)}"


def _is_own(request: RawRequest) -> bool:
    """Tell whether the request is from a page of ours (the widget): no browser lets another website say so."""
    host = request.headers.get("host")
    return bool(host) and (request.headers.get("origin") or "").rpartition("://")[2] == host


def _require_origin(request: RawRequest, account: Account) -> None:
    allowed, origin = items(account.options.get("origins")), request.headers.get("origin")
    if allowed and origin is not None and origin not in allowed and not _is_own(request):
        raise Forged(403, "this website is not one of options.origins")


@contextmanager
def _readable(request: RawRequest, account: Account) -> Iterator[None]:
    """Let an allowed website's page read why its session is refused: it then renews it or opens another."""
    try:
        yield
    except Forged as error:
        raise Forged(error.status, error.detail, (*error.headers, *_cors(request, account))) from error


def _cors(request: RawRequest, account: Account) -> tuple[tuple[str, str], ...]:
    """Only a website that `options.origins` names may read answers in a browser."""
    origin = request.headers.get("origin")
    if origin is None or origin not in items(account.options.get("origins")):
        return ()
    return (
        ("access-control-allow-origin", origin),
        ("access-control-allow-methods", "GET, POST, OPTIONS"),
        ("access-control-allow-headers", "authorization, content-type, last-event-id"),
        ("access-control-max-age", "600"),
        ("vary", "origin"),
    )


# --- events --------------------------------------------------------------------------------------------------------


def _event(
    part: Mapping[str, Json], session: Session, account: Account, request: RawRequest
) -> Draft | Quarantined | None:
    kind = text(part.get("type")) or ""
    if kind == "typing":
        # Over as soon as it is said; nothing to keep.
        return None
    identity = _uuid(part.get("client_message_id"))
    if identity is None:
        key = part_key([session.session, dict(part)])
        return Quarantined(f"an event of type {kind[:80]!r} without a UUID as client_message_id", key)
    handles = [{"kind": "visitor", "value": session.visitor, "verified": True}]
    if session.user:
        handles.append({"kind": "crm", "value": session.user, "verified": True})
    sent_at = from_iso(part.get("sent_at"))
    common: dict[str, Any] = {
        "channel": "chat",
        "customer": {"handles": handles},
        "actor": events.CUSTOMER,
        "contact_id": session.session,
        "sequence": whole(part.get("sequence")),
        "client_time": rfc3339(sent_at) if sent_at is not None else None,
    }
    at, words = request.received_at, text(part.get("text"))
    if kind == "message" and (words or part.get("attachments")):
        files = [_upload(mapping(file)) for file in items(part.get("attachments"))[:20]]
        language = text(part.get("language"))
        said = {"text": words, "attachments": files, "language": language}
        return events.draft(events.RECEIVED, identity, at, **common, message_id=identity, **said)
    if kind == "read" and text(part.get("message_id")):
        return events.draft(
            events.STATUS,
            identity,
            at,
            **{**common, "actor": events.AUTOMATED},
            refers_to=text(part.get("message_id")),
            status="read",
        )
    if kind == "identify" and (text(part.get("email")) or text(part.get("phone"))):
        for name in ("email", "phone"):
            if value := text(part.get(name)):
                # What a visitor types is a claim.
                handles.append({"kind": name, "value": value, "verified": False})
        common["customer"] = without_nothing({"handles": handles, "name": text(part.get("name"))})
        return events.draft("threadline.customer.identified", identity, at, **common)
    return Quarantined(f"a chat event of type {kind[:80]!r} is not understood", identity)


def _upload(file: Mapping[str, Json]) -> dict[str, Any]:
    size = whole(file.get("size_bytes"))
    return events.attachment(text(file.get("url")), text(file.get("media_type")), text(file.get("name")), size)


def _uuid(value: Json) -> str | None:
    if not isinstance(value, str) or len(value) != 36:
        return None
    try:
        return str(UUID(value))
    except ValueError:
        return None
