"""A template for adapters: copy this file, put your provider in place of "Example", and follow the remarks.

Example is invented and takes no deliveries; it signs as many do (HMAC over time and body), sends batches of JSON and
challenges its URL once. Its payloads and its way of signing are in the contract suite, as yours are to be.

Write here where your facts are from: the provider's documentation by its title, its SDK's tests by their path.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from services.ingest.adapters import events
from services.ingest.adapters.base import (
    TEXT,
    Account,
    Answer,
    Delivery,
    Draft,
    Forged,
    Plain,
    Quarantined,
    RawRequest,
    part_key,
)
from services.ingest.adapters.meta import query_of
from services.ingest.adapters.payloads import Json, items, mapping, read_object, text, whole
from services.ingest.adapters.signatures import (
    hex_digest,
    hmac_sha256,
    matches,
    require_fresh,
    require_header,
    require_match,
)
from services.ingest.adapters.times import told_ms

# Longer than the provider's retries, where a retry carries the first attempt's time.
WINDOW = timedelta(minutes=5)


class Example(Plain):
    """One Example account; `secrets` are its signing secrets."""

    # Leave this out where the provider challenges nobody: Plain has none.
    def handshake(self, request: RawRequest, account: Account) -> Answer | None:
        """Return the challenge where the token is ours. Raises Forged (403)."""
        if request.method.upper() != "GET":
            return None
        try:
            query = query_of(request)
        except ValueError as error:
            raise Forged(403, "the query has too many parameters") from error
        given = query.get("token", "").encode("utf-8", "replace")
        # Say in docs/adapters.md which options there are. One that is missing lets nobody in.
        expected = text(account.options.get("verify_token"))
        if expected is None or not matches(given, [expected.encode()]):
            raise Forged(403, "the token is not options.verify_token")
        return Answer(200, query.get("challenge", "").encode("utf-8", "replace"), (("content-type", TEXT),))

    def verify(self, request: RawRequest, account: Account) -> None:
        """HMAC-SHA256 of `time.body` in hex, at most five minutes old.

        The bytes are those that came; every active secret is tried; a header that cannot be read is 4xx.
        """
        digest = hex_digest(require_header(request, "x-example-signature"))
        stamp = require_fresh(require_header(request, "x-example-timestamp"), request.received_at, WINDOW)
        signed = stamp.encode() + b"." + request.body
        require_match(digest, account, lambda secret: hmac_sha256(secret, signed))

    def parse(self, request: RawRequest, account: Account) -> Delivery:
        """Return the events of the batch; a part that is not understood holds up no other."""
        drafts: list[Draft] = []
        quarantined: list[Quarantined] = []
        # read_object raises Unreadable, and then the delivery is kept whole: nothing here has to catch it.
        for part in map(mapping, items(read_object(request.body).get("events"))):
            found = _event(part, account)
            if isinstance(found, Draft):
                drafts.append(found)
            else:
                quarantined.append(found)
        return Delivery(self.taken(account, ""), tuple(drafts), tuple(quarantined))

    # Plain answers an empty 200. What does your provider take for "taken", and what makes it stop or retry?
    def taken(self, account: Account, key: str) -> Answer:
        """`ok`, as Example wants it."""
        return Answer(200, b"ok", (("content-type", TEXT),))


def _event(part: Mapping[str, Json], account: Account) -> Draft | Quarantined:
    kind, event_id = text(part.get("kind")) or "", text(part.get("id"))
    if event_id is None:
        return Quarantined(f"an event of kind {kind[:80]!r} without id", part_key(dict(part)))
    message, user = text(part.get("message")), text(part.get("user"))
    data: dict[str, Any] = {
        # A channel that FAMILY (shared/events.py) lists, else it is a family of its own.
        "channel": "example",
        # A kind that NETWORKS (shared/handles.py) lists, else the handle links nothing and everybody is nobody.
        # Ids are unique within the account only, so the account is part of the handle.
        "customer": events.customer("example", f"{account.account}/{user}" if user else None, text(part.get("name"))),
        "actor": events.CUSTOMER,
        "thread": {"dm_thread": f"example:{account.account}/{user}"} if user else {},
    }
    # None where the provider gives no time: never one of our own.
    at = told_ms(part.get("at"))
    if kind == "message" and message:
        files = [_file(mapping(file)) for file in items(part.get("files"))]
        facts = {"message_id": message, "text": text(part.get("text")), "attachments": files}
        return events.draft(events.RECEIVED, event_id, at, **data, **facts, in_reply_to=text(part.get("reply_to")))
    # What happened to a message is never a new one: each kind has its type and says which message it is about.
    if kind == "edited" and message:
        return events.draft(events.EDITED, event_id, at, **data, refers_to=message, text=text(part.get("text")))
    if kind == "deleted" and message:
        return events.draft(events.DELETED, event_id, at, **data, refers_to=message)
    if kind == "reaction" and message:
        emoji = text(part.get("emoji"))
        return events.draft(events.REACTED, event_id, at, **data, refers_to=message, emoji=emoji, removed=emoji is None)
    if kind in ("delivered", "read", "failed") and message:
        data["actor"] = events.AUTOMATED
        return events.draft(events.STATUS, event_id, at, **data, refers_to=message, status=kind)
    if kind == "echo" and message:
        data["actor"] = events.agent(text(part.get("agent")))
        return events.draft(events.SENT, event_id, at, **data, message_id=message, text=text(part.get("text")))
    return Quarantined(f"an event of kind {kind[:80]!r} is not understood", event_id)


def _file(file: Mapping[str, Json]) -> dict[str, Any]:
    """By reference: nothing is fetched."""
    return events.attachment(
        text(file.get("url")), text(file.get("type")), text(file.get("name")), whole(file.get("size"))
    )
