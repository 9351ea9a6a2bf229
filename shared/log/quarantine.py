"""Where records go that will never work: with their reason, bytes and position, so that nothing real is thrown away."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from shared.errors import RecordTooLarge
from shared.log.database import Connection
from shared.log.headers import encode_headers
from shared.log.protocol import QUARANTINE, Log, Outgoing, Record

# Twice the same position (a replay) is one row.
INSERT = """
INSERT INTO log.quarantine
    (tenant_id, source, event_id, group_name, topic, partition, "offset", reason, key, value, headers)
SELECT r.tenant_id, r.source, r.event_id, $4, r.topic, r.partition, r.place, r.reason, r.key, r.value, r.headers
FROM unnest($1::text[], $2::text[], $3::text[], $5::text[], $6::integer[], $7::bigint[], $8::text[], $9::bytea[],
            $10::bytea[], $11::bytea[])
    AS r(tenant_id, source, event_id, topic, partition, place, reason, key, value, headers)
ON CONFLICT (group_name, topic, partition, "offset") DO NOTHING
"""


@dataclass(frozen=True, slots=True)
class Rejection:
    """One record that will never work, with the reason for the person who reads the quarantine.

    `tenant`, `source` and `event_id` as far as the record tells them.
    """

    record: Record
    reason: str
    tenant: str | None = None
    source: str | None = None
    event_id: str | None = None


def _clean(text: str | None) -> str | None:
    """Return `text` as PostgreSQL can hold it: what is poison elsewhere must not be poison here."""
    if text is None:
        return None
    return text.replace("\x00", "\ufffd").encode("utf-8", "replace").decode("utf-8")


def announcement(group: str, rejection: Rejection, *, with_value: bool) -> Outgoing:
    """Return the record of the quarantine topic: the record as it was, and in its headers why and where."""
    record = rejection.record
    told = {
        "threadline-reason": _clean(rejection.reason),
        "threadline-group": group,
        "threadline-topic": record.topic,
        "threadline-position": f"{record.partition}/{record.offset}",
        "threadline-tenant": _clean(rejection.tenant),
        "threadline-value-left-out": None if with_value else "the record is too large with these headers",
    }
    headers = tuple((name, text.encode()) for name, text in told.items() if text is not None)
    return Outgoing(record.key, record.value if with_value else b"", (*record.headers, *headers))


async def quarantine(connection: Connection, log: Log, group: str, topic: str, rejections: Sequence[Rejection]) -> None:
    """Store `rejections` of one topic inside the caller's transaction, in one statement, and tell the quarantine topic.

    Call it last in the transaction; after the commit `log.wake(QUARANTINE)`.
    """
    if not rejections:
        return
    await _store(connection, group, log.name(topic), rejections)
    try:
        await log.emit(connection, QUARANTINE, [announcement(group, each, with_value=True) for each in rejections])
    except RecordTooLarge:
        await log.emit(connection, QUARANTINE, [announcement(group, each, with_value=False) for each in rejections])


async def _store(connection: Connection, group: str, name: str, rejections: Sequence[Rejection]) -> None:
    records = [rejection.record for rejection in rejections]
    await connection.execute(
        INSERT,
        [_clean(rejection.tenant) for rejection in rejections],
        [_clean(rejection.source) for rejection in rejections],
        [_clean(rejection.event_id) for rejection in rejections],
        group,
        [name] * len(records),
        [record.partition for record in records],
        [record.offset for record in records],
        [_clean(rejection.reason) for rejection in rejections],
        [record.key for record in records],
        [record.value for record in records],
        [encode_headers(record.headers) for record in records],
    )
