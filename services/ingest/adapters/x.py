"""X (Twitter): Account Activity and the Activity API that replaces it. Source: xdevplatform/docs."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import orjson

from services.ingest.adapters import events
from services.ingest.adapters.base import (
    JSON,
    Account,
    Answer,
    Delivery,
    Draft,
    Malformed,
    Plain,
    Quarantined,
    RawRequest,
    part_key,
)
from services.ingest.adapters.meta import query_of
from services.ingest.adapters.payloads import Json, items, mapping, read_object, text, without_nothing
from services.ingest.adapters.signatures import base64_digest, hmac_sha256, require_match, require_sha256
from services.ingest.adapters.times import Told, told_iso, told_ms

_POSTS = ("post.create", "post.mention.create", "post.reply.create", "post.quote.create")
_QUIET = frozenset({"for_user_id", "users", "apps", "user_has_blocked", "direct_message_indicate_typing_events"})


class X(Plain):
    """One X app; `secrets` are its consumer secret."""

    def handshake(self, request: RawRequest, account: Account) -> Answer | None:
        """Answer the challenge-response check with the newest secret."""
        if request.method.upper() != "GET":
            return None
        try:
            token = query_of(request).get("crc_token")
        except ValueError as error:
            raise Malformed(400, "the query has too many parameters") from error
        if not token or not account.secrets:
            raise Malformed(400, "crc_token is missing")
        digest = base64.b64encode(hmac_sha256(account.secrets[0], token.encode("utf-8", "replace"))).decode()
        body = orjson.dumps({"response_token": f"sha256={digest}"})
        return Answer(200, body, (("content-type", JSON),))

    def verify(self, request: RawRequest, account: Account) -> None:
        """HMAC-SHA256 of the raw body with the consumer secret, in base64."""
        digest = require_sha256(request, "x-twitter-webhooks-signature")
        require_match(base64_digest(digest), account, lambda secret: hmac_sha256(secret, request.body))

    def parse(self, request: RawRequest, account: Account) -> Delivery:
        """Return the events of one delivery of either API."""
        body = read_object(request.body)
        data = mapping(body.get("data"))
        if "event_type" in data:
            found = list(_activity(data, account))
        else:
            found = list(_account_activity(body, text(body.get("for_user_id")), account))
            known = {"direct_message_events", "direct_message_mark_read_events", "tweet_create_events",
                     "tweet_delete_events", "favorite_events", "follow_events", "unfollow_events"}  # fmt: skip
            found += [_not_understood(name, body[name]) for name in sorted(set(body) - _QUIET - known)]
        if not found and not set(body) & _QUIET - {"for_user_id"}:
            found = [_not_understood("a delivery without events", body)]
        return Delivery(
            self.taken(account, ""),
            tuple(part for part in found if isinstance(part, Draft)),
            tuple(part for part in found if isinstance(part, Quarantined)),
        )


def _not_understood(what: str, part: Json, key: str | None = None) -> Quarantined:
    return Quarantined(f"{what[:100]} is not understood", key or part_key(part))


def _activity(data: Mapping[str, Json], account: Account) -> Iterator[Draft | Quarantined]:
    kind, payload = text(data.get("event_type")) or "", mapping(data.get("payload"))
    ours = text(mapping(data.get("filter")).get("user_id"))
    if kind.startswith("dm.") and payload:
        found = list(_account_activity({**payload, "for_user_id": ours}, ours, account))
        if found or kind == "dm.indicate_typing":
            yield from found
            return
    elif kind in _POSTS and text(payload.get("id")):
        yield _post(payload, ours, account, told_iso(payload.get("created_at")), text(payload.get("author_id")))
        return
    elif kind == "post.delete" and text(payload.get("id")):
        yield _deleted(text(payload.get("id")) or "", text(payload.get("author_id")), ours, account, None)
        return
    uuid = text(data.get("event_uuid"))
    yield _not_understood(f"an event of type {kind or 'nothing'}", dict(data), uuid)


def _account_activity(body: Mapping[str, Json], ours: str | None, account: Account) -> Iterator[Draft | Quarantined]:
    users = mapping(body.get("users"))
    for part in map(mapping, items(body.get("direct_message_events"))):
        if part.get("type") == "message_create" and text(part.get("id")):
            yield _direct_message(part, ours, users, account)
        else:
            yield _not_understood(f"a direct message event of type {text(part.get('type'))}", dict(part))
    for part in map(mapping, items(body.get("direct_message_mark_read_events"))):
        if text(part.get("last_read_event_id")):
            yield _read(part, ours, users, account)
        else:
            yield _not_understood("a read receipt without id", dict(part))
    for part in map(mapping, items(body.get("tweet_create_events"))):
        if text(part.get("id_str")) or text(part.get("id")):
            author = mapping(part.get("user"))
            by = text(author.get("id_str")) or text(author.get("id"))
            yield _post(part, ours, account, _post_time(part), by, text(author.get("name")))
        else:
            yield _not_understood("a post without id", dict(part))
    for part in map(mapping, items(body.get("tweet_delete_events"))):
        status = mapping(part.get("status"))
        if text(status.get("id")):
            at = told_ms(part.get("timestamp_ms"))
            yield _deleted(text(status.get("id")) or "", text(status.get("user_id")), ours, account, at)
        else:
            yield _not_understood("a deletion without id", dict(part))
    for part in map(mapping, [*items(body.get("follow_events")), *items(body.get("unfollow_events"))]):
        yield _followed(part, ours, account) or _not_understood("a follow without its two sides", dict(part))
    for part in map(mapping, items(body.get("favorite_events"))):
        if text(part.get("id")):
            yield _liked(part, ours, account)
        else:
            yield _not_understood("a like without id", dict(part))


def _person(user: str | None, ours: str | None, account: Account, name: str | None = None) -> dict[str, Any]:
    return events.customer("x", f"{account.account}/{user}" if user and user != ours else None, name)


def _name(users: Mapping[str, Json], user: str | None) -> str | None:
    known = mapping(users.get(user or ""))
    return text((mapping(known.get("data")) or known).get("name"))


def _between(part: Mapping[str, Json], ours: str | None) -> tuple[str | None, bool]:
    """Return (the other one, whether we sent it)."""
    sender = text(part.get("sender_id"))
    recipient = text(mapping(part.get("target")).get("recipient_id"))
    return (recipient, True) if sender is not None and sender == ours else (sender, False)


def _direct_message(part: Mapping[str, Json], ours: str | None, users: Mapping[str, Json], account: Account) -> Draft:
    message = mapping(part.get("message_create"))
    other, by_us = _between(message, ours)
    data = mapping(message.get("message_data"))
    media = mapping(mapping(data.get("attachment")).get("media"))
    identity = text(part.get("id")) or ""
    file = events.attachment(
        text(media.get("media_url_https")) or text(media.get("url")), None,
        media_id=text(media.get("id_str")) or text(media.get("id")), kind=text(media.get("type")),
    )  # fmt: skip
    return events.draft(
        events.SENT if by_us else events.RECEIVED, identity, told_ms(part.get("created_timestamp")), channel="x",
        customer=_person(other, ours, account, _name(users, other)),
        actor=events.AGENT if by_us else events.CUSTOMER,
        message_id=identity, thread={"dm_thread": f"x:{account.account}/{other}"} if other else {},
        text=text(data.get("text")), attachments=[file] if file else [],
        quick_reply=data.get("quick_reply_response"), source_app_id=text(message.get("source_app_id")),
    )  # fmt: skip


def _read(part: Mapping[str, Json], ours: str | None, users: Mapping[str, Json], account: Account) -> Draft:
    other, by_us = _between(part, ours)
    last = text(part.get("last_read_event_id")) or ""
    return events.draft(
        events.STATUS, events.key(last, "read", text(part.get("sender_id"))),
        told_ms(part.get("created_timestamp")),
        channel="x", customer=_person(other, ours, account, _name(users, other)),
        actor=events.AUTOMATED, by_us=True if by_us else None,
        thread={"dm_thread": f"x:{account.account}/{other}"} if other else {}, refers_to=last, status="read",
    )  # fmt: skip


def _post_time(part: Mapping[str, Json]) -> Told:
    told = told_ms(part.get("timestamp_ms"))
    if told.at is not None:
        return told
    written = text(part.get("created_at")) or ""
    try:
        at = datetime.strptime(written, "%a %b %d %H:%M:%S %z %Y").astimezone(UTC)
    except (ValueError, OverflowError):
        return Told(None, "provider_time", written[:128])
    return Told(at, "provider_time", written)


def _post(
    part: Mapping[str, Json], ours: str | None, account: Account, at: events.When, author: str | None,
    name: str | None = None,
) -> Draft:  # fmt: skip
    """A public post by a person or by us; whoever answers stands in the same public thread."""
    identity = text(part.get("id_str")) or text(part.get("id")) or ""
    by_us = author is not None and author == ours
    parent = text(part.get("in_reply_to_status_id_str")) or text(part.get("in_reply_to_tweet_id"))
    root = text(part.get("conversation_id")) or parent or identity
    words = (
        text(mapping(part.get("extended_tweet")).get("full_text"))
        or text(part.get("full_text"))
        or text(part.get("text"))
    )
    return events.draft(
        events.SENT if by_us else events.RECEIVED, identity, at, channel="x",
        customer=_person(author, ours, account, name), actor=events.AGENT if by_us else events.CUSTOMER,
        message_id=identity, thread={"dm_thread": f"x:{account.account}/post/{root}"}, text=words,
        in_reply_to=parent, language=None if part.get("lang") == "und" else text(part.get("lang")), public=True,
    )  # fmt: skip


def _deleted(identity: str, author: str | None, ours: str | None, account: Account, at: events.When) -> Draft:
    by_us = author is not None and author == ours
    return events.draft(
        events.DELETED, events.key(identity, "deleted"), at, channel="x", customer=_person(author, ours, account),
        actor=events.AGENT if by_us else events.CUSTOMER, refers_to=identity, public=True,
    )  # fmt: skip


def _followed(part: Mapping[str, Json], ours: str | None, account: Account) -> Draft | None:
    """Somebody follows us or no longer does; whom we follow is nobody's timeline."""
    source, target = mapping(part.get("source")), mapping(part.get("target"))
    by, whom = (text(side.get("id_str")) or text(side.get("id")) for side in (source, target))
    kind = {"follow": events.SUBSCRIBED, "unfollow": events.UNSUBSCRIBED}.get(text(part.get("type")) or "")
    if kind is None or by is None or by == ours:
        return None
    stamp = part.get("created_timestamp")
    return events.draft(
        kind, events.key(by, text(part.get("type")), whom, text(stamp)), told_ms(stamp), channel="x",
        customer=_person(by, ours, account, text(source.get("name"))), actor=events.CUSTOMER,
        thread={"dm_thread": f"x:{account.account}/{by}"}, how=text(part.get("type")), public=True,
    )  # fmt: skip


def _liked(part: Mapping[str, Json], ours: str | None, account: Account) -> Draft:
    user, post = mapping(part.get("user")), mapping(part.get("favorited_status"))
    by = text(user.get("id_str")) or text(user.get("id"))
    facts = without_nothing(
        {"refers_to": text(post.get("id_str")) or text(post.get("id")), "emoji": "❤", "public": True}
    )
    return events.draft(
        events.REACTED, text(part.get("id")) or "", told_ms(part.get("timestamp_ms")), channel="x",
        customer=_person(by, ours, account, text(user.get("name"))),
        actor=events.AGENT if by == ours else events.CUSTOMER, **facts,
    )  # fmt: skip
