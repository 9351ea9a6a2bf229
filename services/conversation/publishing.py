"""What changed on timelines, on its way to the timeline topic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import asyncpg
import orjson

from shared.events import TimelineRecord
from shared.log.protocol import TIMELINE, Log, Outgoing

MAX_VALUE_BYTES = 262_144
"""Larger timeline records leave their texts out; Kafka refuses a record above 1 MB by default."""
MAX_FIELD_BYTES = 2_048
LEADING = (
    "id", "event_id", "source", "type", "occurred_at", "recorded_at", "received_at", "channel", "family", "contact_id",
    "conversation_id", "stitched", "version", "direction", "leaf_id", "automatic", "topic", "language",
)  # fmt: skip


async def publish(log: Log, connection: asyncpg.Connection, records: Sequence[TimelineRecord]) -> None:
    """Emit timeline records with the transaction, keyed so that what is said of one leaf keeps its order."""
    outgoing = [Outgoing(_key(record), _encoded(record)) for record in records]
    if outgoing:
        await log.emit(connection, TIMELINE, outgoing)


def _encoded(record: TimelineRecord) -> bytes:
    """Return the record's value; an entry too large for a log goes without its texts, which the API has."""
    value = record.encode()
    if len(value) <= MAX_VALUE_BYTES or record.kind != "entry":
        return value
    told = {name: record.body[name] for name in LEADING if name in record.body}
    told["actor"] = record.body.get("actor") if len(orjson.dumps(record.body.get("actor"))) <= MAX_FIELD_BYTES else None
    return replace(record, body={**told, "data": _small(record.body.get("data") or {}), "large": True}).encode()


def _small(data: dict[str, Any]) -> dict[str, Any]:
    """Return what is small of an entry's data: everything that a number or a decision is made of."""
    return {name: value for name, value in data.items() if len(orjson.dumps(value)) <= MAX_FIELD_BYTES}


def _key(record: TimelineRecord) -> bytes:
    place = record.body["leaf_id"] if record.kind == "entry" else record.key
    return f"{record.tenant}|{place}".encode()
