"""The CloudEvents 1.0 HTTP binding: which mode a request is in, and the structured events that it carries. Pure.

Own code and not the `cloudevents` SDK, which reads headers that are not UTF-8 without a word and takes its time
(docs/decisions/0008-ingest-reads-cloudevents-itself.md); a contract test posts what the SDK writes, in all modes.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from services.ingest.reading import NotJson, clean_text, read_json
from shared.errors import ThreadlineError

MAX_BATCH_EVENTS = 1_000
MAX_BODY_BYTES = 5 * 1024 * 1024

STRUCTURED = "application/cloudevents+json"
BATCH = "application/cloudevents-batch+json"

RawHeaders = Iterable[tuple[bytes, bytes]]
"""Names in lower case, as ASGI has them."""


class Refused(ThreadlineError):
    """The request as a whole cannot be taken: `status` is 4xx, `detail` says what to do, `pointer` where, if it has a
    place."""

    def __init__(self, status: int, detail: str, pointer: str | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.pointer = pointer


@dataclass(frozen=True, slots=True)
class Posted:
    """What a request carries: structured events, not yet validated. `batch` tells how to point at them."""

    events: Sequence[Any]
    batch: bool


def read_request(headers: RawHeaders, body: bytes) -> Posted:
    """Return the events of a request to `POST /v1/events`, texts cleaned. Raises Refused.

    Source: CloudEvents HTTP protocol binding 1.0.2, section 3
    """
    attributes, media_type, encoding = _head(headers)
    if encoding not in ("", "identity"):
        raise Refused(415, f"Content-Encoding {encoding} is not read: send the body as it is")
    essence, charset = _media_type(media_type)
    if essence.startswith("application/cloudevents-batch"):
        return _batch(essence, _transcoded(body, charset))
    if essence.startswith("application/cloudevents"):
        return _structured(essence, _transcoded(body, charset))
    if "specversion" in attributes:
        return _binary(attributes, media_type, essence, _transcoded(body, charset))
    if essence == "application/json":
        return _structured(STRUCTURED, _transcoded(body, charset))
    raise Refused(415, f"Content-Type must be {STRUCTURED}, {BATCH} or application/json, or send ce-* headers")


def _head(headers: RawHeaders) -> tuple[dict[str, bytes], str, str]:
    attributes: dict[str, bytes] = {}
    media_type = encoding = ""
    for name, value in headers:
        if name == b"content-type":
            media_type = value.decode("latin-1")
        elif name == b"content-encoding":
            encoding = value.decode("latin-1").strip().lower()
        elif name.startswith(b"ce-"):
            attribute = name[3:].decode("latin-1")
            if attribute in attributes:
                raise Refused(400, f"the header ce-{attribute} stands there twice")
            attributes[attribute] = value
    return attributes, media_type, encoding


def _media_type(header: str) -> tuple[str, str]:
    """Return type and charset, in lower case."""
    essence, _, parameters = header.partition(";")
    found = re.search(r"(?:^|;)\s*charset\s*=\s*\"?([^\s;\"]+)", parameters, re.IGNORECASE) if parameters else None
    return essence.strip().lower(), found[1].lower() if found else "utf-8"


_CHARSETS = {"utf-8", "ascii", "iso8859-1", "cp1252", "utf-16", "utf-16-le", "utf-16-be"}


def _transcoded(body: bytes, charset: str) -> bytes:
    """Return the body in UTF-8. The codec is chosen from a few: not every one of Python's is for strangers."""
    if charset == "utf-8":
        return body
    try:
        name = codecs.lookup(charset).name
    except (LookupError, ValueError):
        name = ""
    if name not in _CHARSETS:
        raise Refused(415, f"charset {charset} is not read: send UTF-8")
    try:
        return body if name == "utf-8" else body.decode(name).encode()
    except UnicodeError as error:
        raise Refused(400, f"the body is not {charset}, as its Content-Type says") from error


def _json(body: bytes) -> Any:
    try:
        return read_json(body)
    except NotJson as error:
        # Nothing sent is a fault of the content, as at the webhooks; what is there and no JSON is one of the syntax.
        raise Refused(400 if body.strip() else 422, str(error), "") from error


def _structured(essence: str, body: bytes) -> Posted:
    _need_json_format(essence, STRUCTURED)
    event = _json(body)
    if isinstance(event, list):
        raise Refused(422, f"is an array: a batch is sent with Content-Type {BATCH}", "")
    return Posted((event,), batch=False)


def _batch(essence: str, body: bytes) -> Posted:
    _need_json_format(essence, BATCH)
    events = _json(body)
    if not isinstance(events, list):
        raise Refused(422, "must be an array of events, as the Content-Type says", "")
    if len(events) > MAX_BATCH_EVENTS:
        raise Refused(413, f"a batch has at most {MAX_BATCH_EVENTS} events, and this one {len(events)}")
    return Posted(events, batch=True)


def _need_json_format(essence: str, wanted: str) -> None:
    if essence != wanted:
        raise Refused(415, f"of the formats of CloudEvents only JSON is read: {wanted}")


def _binary(attributes: dict[str, bytes], media_type: str, essence: str, body: bytes) -> Posted:
    if essence and not essence.endswith(("/json", "+json")):
        raise Refused(415, "the data of a binary event must be JSON: Content-Type application/json")
    event: dict[str, Any] = {
        name: _header_value(name, value) for name, value in attributes.items() if name not in _NO_HEADERS
    }
    if media_type:
        event["datacontenttype"] = media_type
    if body:
        event["data"] = _json(body)
    return Posted((event,), batch=False)


# In binary mode the body is the data and Content-Type its type, whatever such a header may say.
_NO_HEADERS = frozenset({"data", "data_base64", "datacontenttype"})

_ESCAPED = re.compile(rb"%([0-9A-Fa-f]{2})")
_BACKSLASHED = re.compile(rb"\\(.)", re.DOTALL)


def _header_value(name: str, raw: bytes) -> str:
    """Decode one header value: quoted string first, then one round of percent-decoding (section 3.1.3.2)."""
    value = raw.strip(b" \t")
    if len(value) >= 2 and value[:1] == b'"' == value[-1:]:
        value = _BACKSLASHED.sub(rb"\1", value[1:-1])
    value = _ESCAPED.sub(lambda match: bytes.fromhex(match[1].decode()), value)
    try:
        return clean_text(value.decode())
    except UnicodeDecodeError as error:
        raise Refused(400, f"the header ce-{name} is not UTF-8 once percent-decoded", f"/{name}") from error
