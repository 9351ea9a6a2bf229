"""Slack Events API. Sources: Slack's Events API documentation; signature as in python-slack-sdk."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import orjson

from services.ingest.adapters import events
from services.ingest.adapters.base import JSON, Account, Answer, Delivery, Draft, Forged, Plain, Quarantined, RawRequest
from services.ingest.adapters.payloads import Json, items, mapping, read_object, required, text, whole
from services.ingest.adapters.signatures import hex_digest, hmac_sha256, require_fresh, require_header, require_match
from services.ingest.adapters.times import told_slack

WINDOW = timedelta(seconds=300)
_SPOKEN = frozenset({None, "file_share", "thread_broadcast", "me_message", "bot_message", "assistant_app_thread"})


class Slack(Plain):
    """One Slack app. `options.bot_id` (or the app id) tells our own posts, `options.staff` (user ids) our people's."""

    def verify(self, request: RawRequest, account: Account) -> None:
        """HMAC-SHA256 of `v0:timestamp:body`, at most five minutes old."""
        version, _, digest = require_header(request, "x-slack-signature").partition("=")
        if version != "v0":
            raise Forged(403, "the signature is not v0=…")
        stamp = require_fresh(require_header(request, "x-slack-request-timestamp"), request.received_at, WINDOW)
        signed = b"v0:" + stamp.encode() + b":" + request.body
        require_match(hex_digest(digest), account, lambda secret: hmac_sha256(secret, signed))

    def parse(self, request: RawRequest, account: Account) -> Delivery:
        """Return the event of one callback, or echo the challenge. A retry header changes nothing: ids tell repeats."""
        body = read_object(request.body)
        if body.get("type") == "url_verification":
            challenge = orjson.dumps({"challenge": text(body.get("challenge")) or ""})
            return Delivery(Answer(200, challenge, (("content-type", JSON),)))
        event_id = required(body.get("event_id"), "event_id")
        event = mapping(body.get("event"))
        found = _Callback(body, event, event_id, account).event()
        if found is None:
            what = f"an event of type {text(event.get('type')) or text(body.get('type'))!s}"
            subtype = text(event.get("subtype"))
            reason = f"{what}{f', subtype {subtype}' if subtype else ''} is not understood"[:300]
            return Delivery(self.taken(account, event_id), quarantined=(Quarantined(reason, event_id),))
        return Delivery(self.taken(account, event_id), (found,))


class _Callback:
    def __init__(self, body: Mapping[str, Json], event: Mapping[str, Json], event_id: str, account: Account) -> None:
        self.body, self.now, self.event_id, self.account = body, event, event_id, account

    def event(self) -> Draft | None:
        kind, subtype = text(self.now.get("type")), text(self.now.get("subtype"))
        if kind in ("message", "app_mention"):
            if subtype in _SPOKEN:
                return self._message()
            return {"message_changed": self._changed, "message_deleted": self._deleted}.get(
                subtype or "", lambda: None
            )()
        if kind in ("reaction_added", "reaction_removed"):
            return self._reaction(removed=kind == "reaction_removed")
        return None

    def _draft(
        self, kind: str, event_id: str, ts: Json, author: Mapping[str, Json], channel: str | None, **facts: Any
    ) -> Draft:
        user = text(author.get("user"))
        team = text(author.get("user_team")) or text(author.get("team")) or text(self.body.get("team_id"))
        by_bot = self._is_own_bot(author)
        staff = user is not None and user in items(self.account.options.get("staff"))
        # A direct conversation is one thread; elsewhere each message without one begins its own.
        direct = self.now.get("channel_type") == "im" or (channel or "").startswith("D")
        root = text(author.get("thread_ts")) or (None if direct else text(author.get("ts")))
        thread = f"slack:{text(self.body.get('team_id'))}/{channel}" + (f"/{root}" if root else "")
        profile = mapping(author.get("user_profile"))
        name = text(profile.get("real_name")) or text(author.get("username"))
        person: dict[str, Any] = {}
        if by_bot:
            actor = events.BOT
        elif staff:
            actor = events.agent(user, name)
        elif author.get("bot_id"):
            actor = events.AUTOMATED
        else:
            actor = events.CUSTOMER
            person = events.customer("slack", f"{team}/{user}" if user and team else None, name)
        data = {
            "channel": "slack",
            "customer": person,
            "actor": actor,
            "thread": {"dm_thread": thread} if channel else {},
            **facts,
        }
        return events.draft(kind, event_id, told_slack(ts), **data)

    def _is_own_bot(self, author: Mapping[str, Json]) -> bool:
        if not author.get("bot_id"):
            return False
        ours = text(self.account.options.get("bot_id"))
        app = text(author.get("app_id")) or text(mapping(author.get("bot_profile")).get("app_id"))
        return text(author.get("bot_id")) == ours or (app is not None and app == text(self.body.get("api_app_id")))

    def _message(self) -> Draft | None:
        now, channel, ts = self.now, text(self.now.get("channel")), text(self.now.get("ts"))
        if channel is None or ts is None:
            return None
        staff = text(now.get("user")) in items(self.account.options.get("staff")) and text(now.get("user")) is not None
        identity = events.key(channel, ts)
        root = text(now.get("thread_ts"))
        return self._draft(
            events.SENT if staff or self._is_own_bot(now) else events.RECEIVED,
            identity, ts, now, channel,
            message_id=identity,
            text=text(now.get("text")),
            attachments=[_file(mapping(file)) for file in items(now.get("files"))],
            in_reply_to=events.key(channel, root) if root and root != ts else None,
            client_message_id=text(now.get("client_msg_id")),
        )  # fmt: skip

    def _changed(self) -> Draft | None:
        message, channel = mapping(self.now.get("message")), text(self.now.get("channel"))
        ts = text(message.get("ts"))
        if channel is None or ts is None:
            return None
        edited = text(mapping(message.get("edited")).get("ts")) or self.now.get("ts") or self.now.get("event_ts")
        return self._draft(
            events.EDITED, self.event_id, edited, message, channel,
            refers_to=events.key(channel, ts), text=text(message.get("text")),
            attachments=[_file(mapping(file)) for file in items(message.get("files"))],
        )  # fmt: skip

    def _deleted(self) -> Draft | None:
        channel, ts = text(self.now.get("channel")), text(self.now.get("deleted_ts"))
        if channel is None or ts is None:
            return None
        at = self.now.get("event_ts") or self.now.get("ts")
        author = mapping(self.now.get("previous_message"))
        return self._draft(events.DELETED, self.event_id, at, author, channel, refers_to=events.key(channel, ts))

    def _reaction(self, *, removed: bool) -> Draft | None:
        item = mapping(self.now.get("item"))
        channel, ts = text(item.get("channel")), text(item.get("ts"))
        if channel is None or ts is None:
            return None
        return self._draft(
            # Where the item is no root the thread is not known.
            events.REACTED, self.event_id, self.now.get("event_ts"), {**self.now, "ts": ts}, channel,
            refers_to=events.key(channel, ts), emoji=text(self.now.get("reaction")), removed=removed,
        )  # fmt: skip


def _file(file: Mapping[str, Json]) -> dict[str, Any]:
    return events.attachment(
        text(file.get("url_private_download")) or text(file.get("url_private")), text(file.get("mimetype")),
        text(file.get("name")), whole(file.get("size")), file_id=text(file.get("id")),
    )  # fmt: skip
