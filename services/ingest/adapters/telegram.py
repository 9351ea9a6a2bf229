"""Telegram bots. Source: Bot API ("Update", "setWebhook"); shapes as in python-telegram-bot's _update.py."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from services.ingest.adapters import events
from services.ingest.adapters.base import Account, Delivery, Draft, Forged, Plain, Quarantined, RawRequest
from services.ingest.adapters.payloads import Json, items, mapping, read_object, required, text, whole
from services.ingest.adapters.signatures import matches, require_header
from services.ingest.adapters.times import told_s

_FILES = ("document", "audio", "video", "voice", "animation", "video_note", "sticker")
_THINGS = ("location", "venue", "contact", "poll", "dice", "story", "checklist")


class Telegram(Plain):
    """One bot; `secrets` are the secret tokens given to setWebhook."""

    def verify(self, request: RawRequest, account: Account) -> None:
        """The secret token comes back in a header; the body is not signed."""
        given = require_header(request, "x-telegram-bot-api-secret-token").encode("utf-8", "surrogateescape")
        if not matches(given, [secret.encode("utf-8", "surrogateescape") for secret in account.secrets]):
            raise Forged(403, "the secret token is not one of this account's")

    def parse(self, request: RawRequest, account: Account) -> Delivery:
        """Return the event of the one update."""
        update = read_object(request.body)
        update_id = required(update.get("update_id"), "update_id")
        answer = self.taken(account, update_id)
        found = _Update(update, update_id, account).event()
        if found is None:
            kinds = ", ".join(sorted(set(update) - {"update_id"}))[:200]
            return Delivery(
                answer, quarantined=(Quarantined(f"an update of {kinds or 'nothing'} is not understood", update_id),)
            )
        return Delivery(answer, (found,))


class _Update:
    def __init__(self, update: Mapping[str, Json], update_id: str, account: Account) -> None:
        self.update, self.update_id, self.account = update, update_id, account

    def event(self) -> Draft | None:
        for name in ("message", "channel_post", "business_message"):
            if name in self.update:
                return self._message(mapping(self.update[name]))
        for name in ("edited_message", "edited_channel_post", "edited_business_message"):
            if name in self.update:
                return self._edited(mapping(self.update[name]))
        if "callback_query" in self.update:
            return self._button(mapping(self.update["callback_query"]))
        if "message_reaction" in self.update:
            return self._reaction(mapping(self.update["message_reaction"]))
        if "my_chat_member" in self.update:
            return self._own_membership(mapping(self.update["my_chat_member"]))
        return None

    def _draft(
        self, kind: str, event_id: str, at: events.When, message: Mapping[str, Json], author: Mapping[str, Json],
        **facts: Any,
    ) -> Draft:  # fmt: skip
        chat = mapping(message.get("chat"))
        by_us = self._is_ours(message, author)
        person = chat if by_us else author
        number = text(person.get("id")) if not by_us or chat.get("type") == "private" else None
        topic = text(message.get("message_thread_id"))
        thread = f"telegram:{self.account.account}/{text(chat.get('id'))}" + (f"/{topic}" if topic else "")
        data = {
            "channel": "telegram",
            "customer": events.customer(
                "telegram", f"{self.account.account}/{number}" if number else None, _name(person)
            ),
            "actor": _actor(author, by_us),
            "thread": {"dm_thread": thread} if chat.get("id") is not None else {},
            "language": text(author.get("language_code")) if not by_us else None,
            **facts,
        }
        return events.draft(kind, event_id, at, **data)

    def _is_ours(self, message: Mapping[str, Json], author: Mapping[str, Json]) -> bool:
        """Our bot's own posts, and what our staff writes in a connected business account."""
        if "business_connection_id" in message:
            return text(author.get("id")) != text(mapping(message.get("chat")).get("id"))
        return author.get("is_bot") is True and text(author.get("id")) == text(self.account.options.get("bot_id"))

    def _message(self, message: Mapping[str, Json]) -> Draft | None:
        said = _said(message)
        if said is None or message.get("message_id") is None:
            return None
        author = mapping(message.get("from")) or mapping(message.get("sender_chat"))
        identity = _key(message)
        reply = mapping(message.get("reply_to_message"))
        found = self._draft(
            events.SENT if self._is_ours(message, author) else events.RECEIVED,
            identity,
            told_s(message.get("date")),
            message,
            author,
            message_id=identity,
            **said,
            in_reply_to=_key(reply) if reply.get("message_id") is not None else None,
            media_group_id=text(message.get("media_group_id")),
            forwarded=message.get("forward_origin"),
        )
        _add_own_number(found, mapping(message.get("contact")), author)
        return found

    def _edited(self, message: Mapping[str, Json]) -> Draft | None:
        said = _said(message)
        if said is None or message.get("message_id") is None:
            return None
        author = mapping(message.get("from")) or mapping(message.get("sender_chat"))
        at = told_s(message.get("edit_date") or message.get("date"))
        return self._draft(events.EDITED, self.update_id, at, message, author, refers_to=_key(message), **said)

    def _button(self, query: Mapping[str, Json]) -> Draft | None:
        """A pressed button is the person's own word. Telegram tells no time for it."""
        message, author = mapping(query.get("message")), mapping(query.get("from"))
        return self._draft(
            events.RECEIVED, self.update_id, None, message, author, message_id=text(query.get("id")),
            text=text(query.get("data")) or text(query.get("game_short_name")),
            button={"payload": text(query.get("data"))},
            in_reply_to=_key(message) if message.get("message_id") is not None else None,
        )  # fmt: skip

    def _reaction(self, reaction: Mapping[str, Json]) -> Draft | None:
        author = mapping(reaction.get("user")) or mapping(reaction.get("actor_chat"))
        new = [_emoji(mapping(one)) for one in items(reaction.get("new_reaction"))]
        return self._draft(
            events.REACTED, self.update_id, told_s(reaction.get("date")), reaction, author,
            refers_to=_key(reaction), emoji=next((emoji for emoji in new if emoji), None), removed=not new,
        )  # fmt: skip

    def _own_membership(self, change: Mapping[str, Json]) -> Draft | None:
        """In a private chat this says that the person has blocked the bot, or begun with it (again)."""
        status = text(mapping(change.get("new_chat_member")).get("status"))
        kind = {"member": events.SUBSCRIBED, "kicked": events.UNSUBSCRIBED}.get(status or "")
        if kind is None or mapping(change.get("chat")).get("type") != "private":
            return None
        at, author = told_s(change.get("date")), mapping(change.get("from"))
        return self._draft(kind, self.update_id, at, change, author, how=status)


def _add_own_number(found: Draft, contact: Mapping[str, Json], author: Mapping[str, Json]) -> None:
    """Who shares their own contact has proven the number: Telegram puts the sender's id beside it."""
    number = text(contact.get("phone_number"))
    if number and contact.get("user_id") is not None and contact.get("user_id") == author.get("id"):
        handles = found.data.get("customer", {}).get("handles")
        if handles:
            handles.append({"kind": "phone", "value": "+" + number.lstrip("+"), "verified": True})


def _key(message: Mapping[str, Json]) -> str:
    return events.key(text(mapping(message.get("chat")).get("id")), text(message.get("message_id")))


def _emoji(reaction: Mapping[str, Json]) -> str | None:
    return text(reaction.get("emoji")) or text(reaction.get("custom_emoji_id")) or text(reaction.get("type"))


def _name(person: Mapping[str, Json]) -> str | None:
    full = " ".join(part for part in (text(person.get("first_name")), text(person.get("last_name"))) if part)
    return full or text(person.get("title")) or text(person.get("username"))


def _actor(author: Mapping[str, Json], by_us: bool) -> dict[str, Any]:
    if by_us:
        return events.BOT if author.get("is_bot") is True else events.agent(text(author.get("id")), _name(author))
    return events.AUTOMATED if author.get("is_bot") is True else events.CUSTOMER


def _said(message: Mapping[str, Json]) -> dict[str, Any] | None:
    """Return text and attachments, or None for a service message (somebody joined, a title changed)."""
    files = []
    photos = [mapping(photo) for photo in items(message.get("photo"))]
    if photos:
        # One picture in several sizes; the last is the largest.
        files.append(_file("photo", photos[-1]))
    files += [_file(name, mapping(message[name])) for name in _FILES if isinstance(message.get(name), dict)]
    things = {name: dict(message[name]) for name in _THINGS if isinstance(message.get(name), dict)}
    words = text(message.get("text")) or text(message.get("caption"))
    if words is None and not files and not things:
        return None
    return {"text": words, "attachments": files, **things}


def _file(kind: str, file: Mapping[str, Json]) -> dict[str, Any]:
    usual = {"photo": "image/jpeg", "voice": "audio/ogg", "video_note": "video/mp4"}.get(kind)
    return events.attachment(
        None, text(file.get("mime_type")) or usual, text(file.get("file_name")), whole(file.get("file_size")),
        file_id=text(file.get("file_id")), file_unique_id=text(file.get("file_unique_id")), kind=kind,
    )  # fmt: skip
