"""WeChat official accounts. Sources: WeChat's "Passive user reply message"; vectors in wechatpy's tests.

In plain mode the signature does not cover the body; in safe mode (`options.encoding_aes_key`) the body is encrypted
and signed. The XML is read by a scanner of our own: flat, linear, and without document types or entities.
"""

from __future__ import annotations

import base64
import binascii
import html
from collections.abc import Mapping
from datetime import timedelta
from hashlib import sha1
from typing import Any

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from services.ingest.adapters import events
from services.ingest.adapters.base import (
    TEXT,
    Account,
    Answer,
    Delivery,
    Draft,
    Forged,
    Malformed,
    Quarantined,
    RawRequest,
    Unreadable,
    part_key,
)
from services.ingest.adapters.meta import query_of
from services.ingest.adapters.signatures import hex_digest, matches, require_fresh
from services.ingest.adapters.times import told_s
from services.ingest.mail.words import clean

WINDOW = timedelta(minutes=5)
_COMINGS_AND_GOINGS = {
    "subscribe": events.SUBSCRIBED, "unsubscribe": events.UNSUBSCRIBED, "SCAN": events.ENTERED,
    "LOCATION": events.ENTERED, "VIEW": events.ENTERED,
}  # fmt: skip
_ENDINGS = frozenset({"TEMPLATESENDJOBFINISH", "MASSSENDJOBFINISH"})
"""Told of what we sent: how it went."""
_CDATA = "<![CDATA["
_MOST_ELEMENTS = 200


class WeChat:
    """One official account; `secrets` are its token."""

    def handshake(self, request: RawRequest, account: Account) -> Answer | None:
        """Return echostr, decrypted in safe mode."""
        if request.method.upper() != "GET":
            return None
        query = _query(request)
        echo = query.get("echostr", "")
        if "msg_signature" in query:
            _require_signature(query, account, "msg_signature", echo)
            return Answer(200, _decrypt(echo, account), (("content-type", TEXT),))
        _require_signature(query, account, "signature")
        body = echo.encode("utf-8", "replace")
        return Answer(200, body, (("content-type", TEXT), ("x-content-type-options", "nosniff")))

    def verify(self, request: RawRequest, account: Account) -> None:
        """SHA-1 of the sorted token, timestamp and nonce, and in safe mode the encrypted body."""
        query = _query(request)
        if account.options.get("encoding_aes_key"):
            encrypted = _fields(request.body).get("Encrypt")
            if not encrypted:
                raise Forged(403, "the account is in safe mode and the body is not encrypted")
            _require_signature(query, account, "msg_signature", encrypted)
        else:
            _require_signature(query, account, "signature")
        require_fresh(query.get("timestamp", ""), request.received_at, WINDOW)

    def parse(self, request: RawRequest, account: Account) -> Delivery:
        """Return the event of the one message."""
        fields = _fields(request.body)
        if "Encrypt" in fields and account.options.get("encoding_aes_key"):
            fields = _fields(_decrypt(fields["Encrypt"], account))
        sender, created = fields.get("FromUserName"), fields.get("CreateTime")
        kind = fields.get("MsgType", "")
        if not sender or not created or not kind:
            raise Unreadable("FromUserName, CreateTime or MsgType is missing")
        own_id = fields.get("MsgId") if kind != "event" else None
        key = own_id or events.key(sender, created, *_beside(fields))
        found = _event(kind, key, sender, fields, account)
        if found is None:
            # Whether another of the same second is the same one, nobody can tell but by what it says.
            key = own_id or events.key(key, part_key(fields))
            what = (
                f"an event {fields.get('Event', '')[:80]!r}" if kind == "event" else f"a message of type {kind[:80]!r}"
            )
            return Delivery(self.taken(account, key), quarantined=(Quarantined(f"{what} is not understood", key),))
        return Delivery(self.taken(account, key), (found,))

    def taken(self, account: Account, key: str) -> Answer:
        """`success`, or the user is shown an error."""
        return Answer(200, b"success", (("content-type", TEXT),))


def _beside(fields: Mapping[str, str]) -> tuple[str, ...]:
    """Return what tells an event apart that WeChat itself sends beside another of the same person and second.

    WeChat has its events known by person and second. But a place is reported while the person does something, and a
    second ends for several messages that were sent to them.
    """
    what = fields.get("Event", "")
    if what == "LOCATION":
        return (what,)
    if what in _ENDINGS:
        return (what, fields.get("MsgID") or fields.get("MsgId") or "")
    return ()


def _query(request: RawRequest) -> dict[str, str]:
    try:
        return query_of(request)
    except ValueError as error:
        raise Malformed(400, "the query has too many parameters") from error


def _require_signature(query: Mapping[str, str], account: Account, name: str, *more: str) -> None:
    given = query.get(name)
    if not given:
        raise Forged(401, f"{name} is missing")
    rest = [query.get("timestamp", ""), query.get("nonce", ""), *more]
    candidates = [
        sha1("".join(sorted([secret, *rest])).encode("utf-8", "surrogatepass"), usedforsecurity=False).digest()
        for secret in account.secrets
    ]
    if not matches(hex_digest(given), candidates):
        raise Forged(403, "the signature is not one of this account's")


def _decrypt(encrypted: str, account: Account) -> bytes:
    """AES-256-CBC: 16 random bytes, a length, the message, the app id. Raises Unreadable."""
    try:
        key = base64.b64decode(str(account.options.get("encoding_aes_key")) + "=", validate=True)
        cipher = Cipher(algorithms.AES(key), modes.CBC(key[:16])).decryptor()
        plain = cipher.update(base64.b64decode(encrypted, validate=True)) + cipher.finalize()
    except (binascii.Error, ValueError) as error:
        raise Unreadable("the encrypted body cannot be decrypted with options.encoding_aes_key") from error
    length = int.from_bytes(plain[16:20], "big")
    message = plain[20 : 20 + length]
    if len(message) != length:
        raise Unreadable("the encrypted body is cut off, or options.encoding_aes_key is another's")
    return message


def _fields(body: bytes) -> dict[str, str]:
    """Return the elements directly under <xml>. Raises Unreadable."""
    source = clean(body.decode("utf-8", "replace")).strip()
    if "<!DOCTYPE" in source or "<!ENTITY" in source:
        raise Unreadable("XML with a document type is not read")
    start = source.find("<xml>")
    if start < 0 or not source.endswith("</xml>"):
        raise Unreadable("the body is not <xml>…</xml>")
    fields: dict[str, str] = {}
    at, end = start + 5, len(source) - 6
    for _ in range(_MOST_ELEMENTS):
        at = source.find("<", at, end)
        if at < 0:
            break
        name_end = source.find(">", at, at + 64)
        name = source[at + 1 : name_end] if name_end > 0 else ""
        inside = name_end + 1
        if source.startswith(_CDATA, inside):
            # What a person typed may look like a tag.
            inside = source.find("]]>", inside)
        close = source.find(f"</{name}>", inside) if name.isidentifier() and inside > 0 else -1
        if close < 0:
            raise Unreadable("the XML is not well-formed")
        fields.setdefault(name, _content(source[name_end + 1 : close]))
        at = close + len(name) + 3
    return fields


def _content(inner: str) -> str:
    inner = inner.strip()
    if inner.startswith(_CDATA) and inner.endswith("]]>"):
        return inner[9:-3]
    return html.unescape(inner)


def _event(kind: str, key: str, sender: str, fields: Mapping[str, str], account: Account) -> Draft | None:
    at = told_s(fields.get("CreateTime"))
    data: dict[str, Any] = {
        "channel": "wechat",
        "customer": events.customer("wechat", f"{account.account}/{sender}"),
        "actor": events.CUSTOMER,
        "thread": {"dm_thread": f"wechat:{account.account}/{sender}"},
    }
    if kind == "event":
        if fields.get("Event") in _ENDINGS:
            data["actor"] = events.AUTOMATED
            refers_to = fields.get("MsgID") or fields.get("MsgId")
            return events.draft(events.STATUS, key, at, **data, refers_to=refers_to, status=fields.get("Status"))
        return _gesture(key, at, fields, data)
    said = _said(kind, fields)
    return None if said is None else events.draft(events.RECEIVED, key, at, **data, message_id=key, **said)


def _gesture(key: str, at: events.When, fields: Mapping[str, str], data: dict[str, Any]) -> Draft | None:
    """Return the event of what somebody did without writing. A pressed button of the menu is their own word."""
    what, given = fields.get("Event", ""), fields.get("EventKey")
    if what == "CLICK":
        return events.draft(events.RECEIVED, key, at, **data, message_id=key, text=given, button={"payload": given})
    if what not in _COMINGS_AND_GOINGS:
        return None
    names = {"latitude": "Latitude", "longitude": "Longitude", "precision": "Precision"}
    place = {name: fields[field] for name, field in names.items() if field in fields}
    url = given if what == "VIEW" else None
    came_by = given if what != "VIEW" else None
    return events.draft(_COMINGS_AND_GOINGS[what], key, at, **data, how=what, came_by=came_by, url=url, location=place)


def _said(kind: str, fields: Mapping[str, str]) -> dict[str, Any] | None:
    if kind == "text":
        return {"text": fields.get("Content")}
    if kind in ("image", "voice", "video", "shortvideo"):
        file = events.attachment(
            fields.get("PicUrl"), {"image": "image/jpeg"}.get(kind), media_id=fields.get("MediaId"), kind=kind,
            format=fields.get("Format"),
        )  # fmt: skip
        return {"attachments": [file], "text": fields.get("Recognition")}
    if kind == "location":
        names = {"latitude": "Location_X", "longitude": "Location_Y", "label": "Label"}
        return {"location": {name: fields[field] for name, field in names.items() if field in fields}}
    if kind == "link":
        link = {"title": fields.get("Title"), "description": fields.get("Description"), "url": fields.get("Url")}
        return {"text": fields.get("Title"), "link": {name: value for name, value in link.items() if value}}
    return None
