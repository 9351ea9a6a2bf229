"""Files that come with events: taken out of the data at the door, given a URL before the event becomes a record."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from hashlib import sha256
from typing import Any

from services.ingest.validation import Fault, InvalidEvent
from shared import attachments
from shared.attachments import File
from shared.events import KEPT_FILES, InboundEvent


def placed(contents: Sequence[bytes | None]) -> tuple[tuple[int, bytes], ...]:
    """Return the bytes of attachments, each with its place among them; None is an attachment without any."""
    return tuple([(place, content) for place, content in enumerate(contents) if content is not None])


def taken_out(event: InboundEvent) -> InboundEvent:
    """Take `content` (base64) out of the attachments of an event that was checked; size and hash stand in its place.

    Raises InvalidEvent where it is not base64, or stands beside a URL.
    """
    given = event.data.get("attachments")
    if not given or not any("content" in one for one in given):
        return event
    contents: list[bytes | None] = []
    faults = []
    for place, one in enumerate(given):
        try:
            contents.append(_decoded(one))
        except ValueError as error:
            faults.append(Fault(f"/data/attachments/{place}/content", str(error)))
    if faults:
        raise InvalidEvent(faults)
    return event.with_files(event.data, placed(contents))


def _decoded(one: dict[str, Any]) -> bytes | None:
    written = one.pop("content", None)
    if written is None:
        return None
    if one.get("url") is not None:
        raise ValueError("stands beside url: give one of the two")
    try:
        content = base64.b64decode(written, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("is not base64") from None
    one.update(size_bytes=len(content), sha256=sha256(content).hexdigest())
    return content


def named(event: InboundEvent, secret: bytes) -> tuple[InboundEvent, list[File]]:
    """Return the event with a URL for each of its files, and the files to `put` first."""
    listed = list(event.data["attachments"])
    files = []
    for place, content in event.files:
        one = listed[place]
        id_ = attachments.attachment_id(secret, event.tenant, event.source, event.id, place, one["sha256"])
        listed[place] = {**one, "url": f"{KEPT_FILES}{id_}"}
        kept = (event.tenant, id_, event.source, event.id, one.get("name"), one.get("media_type"))
        files.append(File(*kept, content))
    return event.with_files({**event.data, "attachments": listed}, ()), files
