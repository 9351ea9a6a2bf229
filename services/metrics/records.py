"""From records of the timeline topic to proper lines; what cannot be read is said why."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from services.metrics.entries import Entry, compact
from shared.errors import Rejected
from shared.events import DERIVED_SOURCE, TimelineRecord
from shared.log.protocol import Record
from shared.log.quarantine import Rejection

Line = TimelineRecord | tuple[TimelineRecord, Entry]
"""A record as read, with its entry where that was read already."""


def decode(records: Sequence[Record]) -> tuple[list[Rejection], list[Line]]:
    """Read a batch; what cannot be read becomes a rejection."""
    rejections: list[Rejection] = []
    read: list[Line] = []
    for record in records:
        tenant = None
        try:
            line = TimelineRecord.decode(record.value)
            tenant = line.tenant
            read.append(_checked(line))
        except Rejected as error:
            rejections.append(Rejection(record, error.reason, tenant))
    return rejections, read


def _checked(line: TimelineRecord) -> Line:
    """Return a line with all ids proper. Raises Rejected."""
    _uuid(line.key)
    if not isinstance(line.version, int) or not isinstance(line.tenant, str) or not line.tenant:
        raise Rejected("the record has no tenant or version")
    if line.kind == "leaf" and not line.deleted:
        _uuid(line.body.get("customer_id"))
    elif line.kind == "conversation" and not line.deleted:
        _uuid(line.body.get("canonical_id"))
    elif line.kind == "entry" and (body := _body(line)) is not None:
        entry = compact(body)
        for key in (entry.id, entry.conversation, entry.leaf):
            if key is not None:
                _uuid(key)
        return line, entry
    elif line.kind not in ("leaf", "conversation", "entry"):
        raise Rejected(f"the record is of a kind that is not known: {line.kind!s:.40}")
    return line


def _body(line: TimelineRecord) -> Mapping[str, Any] | None:
    """Return what there is to count of an entry; of an erased one what is left of it, its numbers."""
    body: Mapping[str, Any] | None = (line.body.get("erased") or {}).get("entry") if line.deleted else line.body
    return body if body is not None and body.get("source") != DERIVED_SOURCE else None


_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


def _uuid(value: Any) -> None:
    if not isinstance(value, str) or _UUID.fullmatch(value) is None:
        raise Rejected("the record holds an id that is no uuid")
